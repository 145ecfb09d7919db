package data

import (
	"cmp"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tunekit/tunekit/kernels/par"
)

// A record batch of the cache ends at this many samples or tokens; the tokens of
// one must be counted in 32 bits.
const (
	samplesABatch = 4096
	tokensABatch  = 1 << 28
)

// tableWriter writes one Arrow file of a cache, laying a batch out while the one
// before it is written.
type tableWriter struct {
	info   *cacheInfo
	schema *arrow.Schema
	files  map[string]int32 // of info.Files

	batch  []Example
	tokens int // of batch, and bytes of its rows

	records chan arrow.Record
	done    chan error // what came of it, once: after an error or the last record
}

// newTableWriter begins a file, which it closes. Files that samples come from are
// added to info.
func newTableWriter(out io.WriteCloser, info *cacheInfo) *tableWriter {
	w := &tableWriter{info: info, schema: info.schema(), files: map[string]int32{}, records: make(chan arrow.Record, 1), done: make(chan error, 1)}
	for i, file := range info.Files {
		w.files[file] = int32(i)
	}
	go func() {
		to := ipc.NewWriter(out, ipc.WithSchema(w.schema))
		var err error
		for rec := range w.records {
			if err = to.Write(rec); err != nil {
				break
			}
			rec.Release()
		}
		w.done <- errors.Join(err, to.Close(), out.Close())
	}()
	return w
}

// add appends a sample, which must not change any more.
func (w *tableWriter) add(e Example) error {
	size := len(e.IDs) + len(e.Row)
	if len(w.batch) == samplesABatch || w.tokens+size > tokensABatch && len(w.batch) > 0 {
		if err := w.flush(); err != nil {
			return err
		}
	}
	if _, ok := w.files[e.From.File]; !ok {
		w.files[e.From.File] = int32(len(w.info.Files))
		w.info.Files = append(w.info.Files, e.From.File)
	}
	w.batch = append(w.batch, e)
	w.tokens += size
	return nil
}

// flush hands a batch over to be written.
func (w *tableWriter) flush() error {
	if len(w.batch) == 0 {
		return nil
	}
	rec, err := w.recordOf(w.batch)
	if err != nil {
		return err
	}
	w.batch, w.tokens = w.batch[:0], 0
	select {
	case w.records <- rec:
		return nil
	case err := <-w.done:
		w.done <- err // for close
		return err
	}
}

// close writes what is left and ends the file.
func (w *tableWriter) close() error {
	err := w.flush()
	close(w.records)
	return cmp.Or(err, <-w.done)
}

// recordOf lays samples out as a record batch.
func (w *tableWriter) recordOf(ex []Example) (arrow.Record, error) {
	n := len(ex)
	id, file, row, group, mark := make([]uint64, n), make([]int32, n), make([]int64, n), make([]uint32, n), make([]float32, n)
	idsAt, lossAt := make([]int32, n+1), make([]int32, n+1)
	for i := range ex {
		e := &ex[i]
		id[i], file[i], row[i], group[i], mark[i] = e.ID, w.files[e.From.File], e.From.Row, e.Group, e.Mark
		idsAt[i+1], lossAt[i+1] = idsAt[i]+int32(len(e.IDs)), lossAt[i]+int32(2*len(e.Loss))
	}
	loss := make([]int32, 0, lossAt[n])
	for i := range ex {
		for _, r := range ex[i].Loss {
			loss = append(loss, r[0], r[1])
		}
	}
	token := w.schema.Field(1).Type.(*arrow.ListType).Elem()
	tokens := tokensOf(token, ex, idsAt)
	if tokens == nil {
		return nil, fmt.Errorf("data: a token outside the dataset's vocabulary")
	}
	columns := []arrow.Array{
		column(arrow.PrimitiveTypes.Uint64, n, arrow.Uint64Traits.CastToBytes(id)),
		column(w.schema.Field(1).Type, n, arrow.Int32Traits.CastToBytes(idsAt), column(token, int(idsAt[n]), tokens)),
		column(w.schema.Field(2).Type, n, arrow.Int32Traits.CastToBytes(lossAt), column(arrow.PrimitiveTypes.Int32, len(loss), arrow.Int32Traits.CastToBytes(loss))),
		column(arrow.PrimitiveTypes.Int32, n, arrow.Int32Traits.CastToBytes(file)),
		column(arrow.PrimitiveTypes.Int64, n, arrow.Int64Traits.CastToBytes(row)),
	}
	if w.info.Groups {
		columns = append(columns, column(arrow.PrimitiveTypes.Uint32, n, arrow.Uint32Traits.CastToBytes(group)))
	}
	if w.info.Marks {
		columns = append(columns, column(arrow.PrimitiveTypes.Float32, n, arrow.Float32Traits.CastToBytes(mark)))
	}
	if w.info.Rows {
		columns = append(columns, textColumn(ex))
	}
	return array.NewRecord(w.schema, columns, int64(n)), nil
}

// textColumn is the rows of samples.
func textColumn(ex []Example) arrow.Array {
	at, text := make([]int32, len(ex)+1), []byte{}
	for i := range ex {
		text = append(text, ex[i].Row...)
		at[i+1] = int32(len(text))
	}
	buffers := []*memory.Buffer{nil, memory.NewBufferBytes(arrow.Int32Traits.CastToBytes(at)), memory.NewBufferBytes(text)}
	return array.MakeFromData(array.NewData(arrow.BinaryTypes.String, len(ex), buffers, nil, 0, 0))
}

// column is an array of n values without nulls: numbers, or lists by where each
// begins in child.
func column(t arrow.DataType, n int, values []byte, child ...arrow.Array) arrow.Array {
	var children []arrow.ArrayData
	for _, c := range child {
		children = append(children, c.Data())
	}
	return array.MakeFromData(array.NewData(t, n, []*memory.Buffer{nil, memory.NewBufferBytes(values)}, children, 0, 0))
}

// tokensOf are the tokens of samples one after the other, the first of sample i
// at at[i], as bytes of the type; nil when one does not fit it.
func tokensOf(t arrow.DataType, ex []Example, at []int32) []byte {
	const grain = 64
	total := at[len(ex)]
	if t.ID() == arrow.INT32 {
		out := make([]int32, total)
		par.For(len(ex), grain, func(lo, hi int) {
			for i := lo; i < hi; i++ {
				copy(out[at[i]:], ex[i].IDs)
			}
		})
		return arrow.Int32Traits.CastToBytes(out)
	}
	out := make([]uint16, total)
	over := make([]int32, (len(ex)+grain-1)/grain)
	par.For(len(ex), grain, func(lo, hi int) {
		all := int32(0)
		for i := lo; i < hi; i++ {
			dst := out[at[i]:at[i+1]]
			for k, v := range ex[i].IDs {
				all |= v
				dst[k] = uint16(v)
			}
		}
		over[lo/grain] = all >> 16
	})
	for _, o := range over {
		if o != 0 {
			return nil
		}
	}
	return arrow.Uint16Traits.CastToBytes(out)
}
