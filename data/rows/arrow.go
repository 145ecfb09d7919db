package rows

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tunekit/tunekit/data/jinja"
)

// arrowRows reads an Arrow IPC file or stream, a record batch at a time. The
// file form is the stream between two magics, so both are read as streams.
type arrowRows struct {
	f      *os.File
	r      *ipc.Reader
	rec    arrow.Record // owned by r
	at     int
	number int64
	total  int64
	last   budget // of the row read last
}

func (a *arrowRows) row() budget { return a.last }

func openArrow(path string) (Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	var r *ipc.Reader
	total := int64(0)
	if err == nil {
		r, err = arrowFrom(f, info.Size(), func(b recordBatch) error {
			if !b.dictionary {
				total += b.rows
			}
			return nil
		})
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &arrowRows{f: f, r: r, total: total}, nil
}

// ArrowBatch says where the columns of a record batch lie in their file, for
// those who read them there. Columns stand in the order of the format: a list
// before its elements.
type ArrowBatch struct {
	Lengths []int64    // of columns and lists' elements, in values
	Buffers [][2]int64 // offset and bytes: of each column the validity bits (unused: there are no nulls), then list offsets or values
}

// ArrowLayout checks the metadata of an Arrow IPC file or stream of size bytes
// and says what columns it has and where its record batches lie. Compressed
// batches, dictionaries and nulls are errors. It may panic on a damaged schema.
func ArrowLayout(r io.ReaderAt, size int64) (*arrow.Schema, []ArrowBatch, error) {
	var out []ArrowBatch
	stream, err := arrowFrom(r, size, func(b recordBatch) error {
		if b.compressed || b.dictionary {
			return errors.New("is compressed or a dictionary")
		}
		var at ArrowBatch
		for i := range b.nodes.n {
			length, nulls := b.node(i)
			if nulls != 0 {
				return fmt.Errorf("column node %d has %d nulls", i, nulls)
			}
			at.Lengths = append(at.Lengths, length)
		}
		for i := range b.buffers.n {
			offset, length := b.buffer(i)
			at.Buffers = append(at.Buffers, [2]int64{b.body + offset, length})
		}
		out = append(out, at)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	defer stream.Release()
	return stream.Schema(), out, nil
}

// arrowFrom reads a file or stream of size bytes after every record batch,
// dictionaries included, was checked and given to each.
func arrowFrom(r io.ReaderAt, size int64, each func(recordBatch) error) (*ipc.Reader, error) {
	var magic [8]byte
	if _, err := r.ReadAt(magic[:], 0); err != nil {
		return nil, errors.New("not Arrow IPC: too short")
	}
	start := int64(0)
	if string(magic[:6]) == "ARROW1" {
		end, err := arrowFooter(r, size)
		if err != nil {
			return nil, err
		}
		start, size = 8, end
	} else if string(magic[:4]) == "FEA1" {
		return nil, errors.New("the first Feather format; write it again as Feather 2 (Arrow IPC)")
	}
	if err := checkArrow(r, start, size, each); err != nil {
		return nil, err
	}
	return ipc.NewReader(bufio.NewReaderSize(io.NewSectionReader(r, start, size-start), 1<<16), ipc.WithAllocator(&boundedMemory{}))
}

// boundedMemory is the memory of a stream's buffers: what the library reads
// otherwise than it was checked ends in a panic that a reader turns into an error,
// not in the end of the program.
type boundedMemory struct {
	memory.GoAllocator
	held int64
}

// maxArrowHeld is a batch, the next one and the dictionaries of both.
const maxArrowHeld = 2 * maxArrowBatch

func (b *boundedMemory) take(n int) {
	if b.held += int64(n); n > maxArrowBatch || b.held > maxArrowHeld {
		panic(fmt.Sprintf("its buffers take %d bytes, at most %d are allowed", b.held, int64(maxArrowHeld)))
	}
}

func (b *boundedMemory) Allocate(size int) []byte {
	b.take(size)
	return b.GoAllocator.Allocate(size)
}

func (b *boundedMemory) Reallocate(size int, old []byte) []byte {
	b.take(size - len(old))
	return b.GoAllocator.Reallocate(size, old)
}

func (b *boundedMemory) Free(p []byte) { b.held -= int64(len(p)) }

// arrowFooter returns where the stream inside an Arrow file ends: before the
// footer, its length and the magic.
func arrowFooter(r io.ReaderAt, size int64) (int64, error) {
	var tail [10]byte
	if size < 8+10 {
		return 0, errors.New("cut off")
	}
	if _, err := r.ReadAt(tail[:], size-10); err != nil {
		return 0, err
	}
	n := int64(int32(binary.LittleEndian.Uint32(tail[:])))
	if string(tail[4:]) != "ARROW1" || n < 0 || n > size-18 {
		return 0, errors.New("no footer: cut off")
	}
	return size - 10 - n, nil
}

func (a *arrowRows) Total() int64 { return a.total }

func (a *arrowRows) Close() error {
	a.r.Release()
	return a.f.Close()
}

func (a *arrowRows) Next() (*jinja.Dict, int64, error) {
	for a.rec == nil || a.at == int(a.rec.NumRows()) {
		if !a.r.Next() {
			if err := a.r.Err(); err != nil && err != io.EOF {
				return nil, a.number, err
			}
			return nil, a.number, io.EOF
		}
		a.rec, a.at = a.r.Record(), 0
	}
	i := a.at
	a.at++
	a.number++
	d := &jinja.Dict{}
	b := &a.last
	*b = budget{}
	for c, col := range a.rec.Columns() {
		v, err := b.arrowValue(col, i)
		name := a.rec.ColumnName(c)
		if err != nil {
			return nil, a.number, fmt.Errorf("column %s: %w", name, err)
		}
		if reason := notText(v); reason != "" {
			return nil, a.number, &RowError{Column: name, Reason: reason}
		}
		d.Set(name, v)
	}
	return d, a.number, nil
}

// arrowValue is value i of an array as a plain value of its own memory.
func (b *budget) arrowValue(a arrow.Array, i int) (any, error) {
	if err := b.value(); err != nil {
		return nil, err
	}
	if a.IsNull(i) {
		return nil, nil
	}
	switch a := a.(type) {
	case *array.Null:
		return nil, nil
	case *array.Boolean:
		return a.Value(i), nil
	case *array.String:
		return b.arrowText(a.Value(i))
	case *array.LargeString:
		return b.arrowText(a.Value(i))
	case *array.StringView:
		return b.arrowText(a.Value(i))
	case *array.Binary:
		return b.arrowBytes(a.Value(i))
	case *array.LargeBinary:
		return b.arrowBytes(a.Value(i))
	case *array.FixedSizeBinary:
		return append([]byte(nil), a.Value(i)...), b.text(len(a.Value(i)))
	case *array.Struct:
		return b.arrowStruct(a, i)
	case *array.Map: // before List: a Map is one
		return b.arrowMap(a, i)
	case array.ListLike:
		from, to := a.ValueOffsets(i)
		return b.arrowList(a.ListValues(), from, to)
	case *array.Dictionary:
		return b.arrowValue(a.Dictionary(), a.GetValueIndex(i))
	case array.ExtensionArray:
		return b.arrowValue(a.Storage(), i)
	}
	return arrowNumber(a, i)
}

func arrowNumber(a arrow.Array, i int) (any, error) {
	switch a := a.(type) {
	case *array.Int8:
		return int64(a.Value(i)), nil
	case *array.Int16:
		return int64(a.Value(i)), nil
	case *array.Int32:
		return int64(a.Value(i)), nil
	case *array.Int64:
		return a.Value(i), nil
	case *array.Uint8:
		return int64(a.Value(i)), nil
	case *array.Uint16:
		return int64(a.Value(i)), nil
	case *array.Uint32:
		return int64(a.Value(i)), nil
	case *array.Uint64:
		return whole(a.Value(i)), nil
	case *array.Float16:
		return float64(a.Value(i).Float32()), nil
	case *array.Float32:
		return float64(a.Value(i)), nil
	case *array.Float64:
		return a.Value(i), nil
	}
	if s, ok, err := arrowMoment(a, i); ok {
		return s, err
	}
	return nil, fmt.Errorf("values of type %s cannot be read", a.DataType())
}

func (b *budget) arrowBytes(raw []byte) (any, error) {
	return bytesOrText(raw, false), b.text(len(raw))
}

func (b *budget) arrowText(s string) (any, error) {
	if err := b.text(len(s)); err != nil {
		return nil, err
	}
	if !utf8.ValidString(s) {
		return badText{}, nil
	}
	return strings.Clone(s), nil
}

func (b *budget) arrowStruct(a *array.Struct, i int) (any, error) {
	d := &jinja.Dict{}
	for f := range a.NumField() {
		v, err := b.arrowValue(a.Field(f), i)
		if err != nil {
			return nil, err
		}
		d.Set(a.DataType().(*arrow.StructType).Field(f).Name, v)
	}
	return d, nil
}

func (b *budget) arrowList(values arrow.Array, from, to int64) (any, error) {
	if from < 0 || to < from || to > int64(values.Len()) {
		return nil, fmt.Errorf("list of values %d to %d of %d", from, to, values.Len())
	}
	if err := b.values(to - from); err != nil { // before the list is made
		return nil, err
	}
	out := make([]any, 0, to-from)
	for k := from; k < to; k++ {
		v, err := b.arrowValue(values, int(k))
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (b *budget) arrowMap(a *array.Map, i int) (any, error) {
	from, to := a.ValueOffsets(i)
	keys, err := b.arrowList(a.Keys(), from, to)
	if err != nil {
		return nil, err
	}
	values, err := b.arrowList(a.Items(), from, to)
	if err != nil {
		return nil, err
	}
	d := &jinja.Dict{}
	for k, key := range keys.([]any) {
		name, ok := key.(string)
		if !ok {
			return nil, errors.New("a map with keys that are no text")
		}
		d.Set(name, values.([]any)[k])
	}
	return d, nil
}
