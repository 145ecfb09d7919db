package data

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"sort"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"

	"github.com/tunekit/tunekit/data/rows"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic"
)

// taughtValues ends a record batch of what a teacher expects: values of one must be
// counted in 32 bits.
const taughtValues = 1 << 24

// taughtSchema is one sample a row: its ID, and of each supervised token what a
// teacher expects there. key says whose and how many.
func taughtSchema(key string) *arrow.Schema {
	about := arrow.NewMetadata([]string{"teacher"}, []string{key})
	return arrow.NewSchema([]arrow.Field{
		{Name: "id", Type: arrow.PrimitiveTypes.Uint64},
		{Name: "top_ids", Type: arrow.ListOfNonNullable(arrow.PrimitiveTypes.Int32)},
		{Name: "top_logp", Type: arrow.ListOfNonNullable(arrow.PrimitiveTypes.Float32)},
	}, &about)
}

// WriteTaught writes at path what a teacher expects of each sample of ex, as ask
// says it: as many ids for each supervised token, and their log-probabilities. The file
// appears whole; key names the teacher.
func WriteTaught(path, key string, ex Examples, ask func(e Example) (ids []int32, logp []float32, err error)) error {
	f, err := atomic.Create(path)
	if err != nil {
		return err
	}
	defer f.Abort()
	schema := taughtSchema(key)
	to := ipc.NewWriter(f, ipc.WithSchema(schema))
	var id []uint64
	var ids []int32
	var logp []float32
	at := []int32{0}
	flush := func() error {
		if len(id) == 0 {
			return nil
		}
		n, offsets := len(id), arrow.Int32Traits.CastToBytes(at)
		rec := array.NewRecord(schema, []arrow.Array{
			column(arrow.PrimitiveTypes.Uint64, n, arrow.Uint64Traits.CastToBytes(id)),
			column(schema.Field(1).Type, n, offsets, column(arrow.PrimitiveTypes.Int32, len(ids), arrow.Int32Traits.CastToBytes(ids))),
			column(schema.Field(2).Type, n, offsets, column(arrow.PrimitiveTypes.Float32, len(logp), arrow.Float32Traits.CastToBytes(logp))),
		}, int64(n))
		defer rec.Release()
		if err := to.Write(rec); err != nil {
			return err
		}
		id, ids, logp, at = id[:0], ids[:0], logp[:0], at[:1]
		return nil
	}
	for i := range ex.Len() {
		e, err := ex.At(i)
		if err != nil {
			return err
		}
		a, b, err := ask(e)
		if err != nil {
			return err
		}
		if len(ids) > 0 && len(ids)+len(a) > taughtValues {
			if err := flush(); err != nil {
				return err
			}
		}
		id, ids, logp = append(id, e.ID), append(ids, a...), append(logp, b...)
		at = append(at, int32(len(ids)))
	}
	if err := errors.Join(flush(), to.Close()); err != nil {
		return err
	}
	return f.Commit()
}

// taught is samples with what a teacher expects of them.
type taught struct {
	source
	file    *formats.Mapped
	path    string
	top, v  int
	batches []rows.ArrowBatch
	firsts  []int
}

// The columns of a file by their place in rows.ArrowBatch.
var (
	taughtIDs  = place{1, 3}
	taughtTops = place{2, 5}
	taughtAt   = place{3, 7}
	taughtLogP = place{4, 9}
)

// WithTaught adds to the samples of ex what WriteTaught wrote of them for the teacher
// that key names, top values for each supervised token, ids below v. A file that is not there is an
// error that wraps fs.ErrNotExist, one of another teacher ErrOtherTeacher; a
// damaged one wraps formats.ErrCorrupt.
func WithTaught(path, key string, ex Examples, top, v int) (Examples, error) {
	if _, err := os.Stat(path); err != nil {
		return ex, err
	}
	file, err := formats.OpenMapped(path)
	if err != nil {
		return ex, err
	}
	t := &taught{source: ex.src, file: file, path: path, top: top, v: v}
	err = file.Read(func(b []byte) (err error) {
		defer func() {
			if r := recover(); r != nil { // the Arrow library on a damaged schema
				err = corrupt(path, "%v", r)
			}
		}()
		return t.index(b, key, ex.Len())
	})
	if err != nil {
		return ex, err
	}
	return Examples{t}, nil
}

// ErrOtherTeacher says that a file is of another teacher, or of other samples.
var ErrOtherTeacher = errors.New("of another teacher")

func (t *taught) index(b []byte, key string, n int) error {
	schema, batches, err := rows.ArrowLayout(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return corrupt(t.path, "%v", err)
	}
	about := schema.Metadata()
	if i := about.FindKey("teacher"); i < 0 || about.Values()[i] != key {
		return ErrOtherTeacher
	}
	total := 0
	for _, batch := range batches {
		if len(batch.Lengths) != 5 || len(batch.Buffers) != 10 {
			return corrupt(t.path, "a batch has %d columns in %d buffers", len(batch.Lengths), len(batch.Buffers))
		}
		for _, c := range []struct {
			at    place
			width int64
			more  int64
		}{{colID, 8, 0}, {taughtIDs, 4, 1}, {taughtTops, 4, 0}, {taughtAt, 4, 1}, {taughtLogP, 4, 0}} {
			if c.more > 0 && batch.Lengths[c.at.node] != batch.Lengths[0] || batch.Lengths[c.at.node]+c.more > batch.Buffers[c.at.buffer][1]/c.width {
				return corrupt(t.path, "%d values in %d bytes", batch.Lengths[c.at.node], batch.Buffers[c.at.buffer][1])
			}
		}
		t.firsts = append(t.firsts, total)
		total += int(batch.Lengths[0])
	}
	if total != n {
		return ErrOtherTeacher
	}
	t.batches = batches
	return nil
}

// read is the sample with what its teacher expects.
func (t *taught) read(i int) (Example, error) {
	e, err := t.source.read(i)
	if err != nil {
		return e, err
	}
	err = t.file.Read(func(b []byte) error {
		k := sort.SearchInts(t.firsts, i+1) - 1
		batch, row := t.batches[k], i-t.firsts[k]
		lo, hi, err := span(b, batch, taughtIDs, taughtTops, row)
		if err != nil {
			return err
		}
		from, to, err := span(b, batch, taughtAt, taughtLogP, row)
		switch {
		case err != nil:
			return err
		case number64(b, batch, colID, row) != e.ID:
			return fmt.Errorf("is of another sample")
		case hi-lo != to-from || hi-lo != int64(t.top)*int64(e.Supervised()):
			return fmt.Errorf("%d and %d values for %d tokens", hi-lo, to-from, e.Supervised())
		}
		e.TopIDs, e.TopLogP = make([]int32, hi-lo), make([]float32, hi-lo)
		ids, logp := b[batch.Buffers[taughtTops.buffer][0]+4*lo:], b[batch.Buffers[taughtLogP.buffer][0]+4*from:]
		for k := range e.TopIDs {
			e.TopIDs[k] = int32(binary.LittleEndian.Uint32(ids[4*k:]))
			e.TopLogP[k] = math.Float32frombits(binary.LittleEndian.Uint32(logp[4*k:]))
			if id := e.TopIDs[k]; id < 0 || int(id) >= t.v || !(e.TopLogP[k] <= 1e-4) {
				return fmt.Errorf("token %d of %d with log-probability %v", id, t.v, e.TopLogP[k])
			}
		}
		return nil
	})
	if err != nil {
		return e, corrupt(t.path, "sample %d: %v", i, err)
	}
	return e, nil
}
