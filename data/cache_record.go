package data

import (
	"fmt"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/kernels/par"
)

// saveSamples writes one file, laying a batch out while the one before it is
// written.
func saveSamples(f *atomic.Folder, name string, vocab int, ex []Example, files map[string]int32) error {
	out, err := f.Create(name)
	if err != nil {
		return err
	}
	schema := cacheSchema(vocab)
	w := ipc.NewWriter(out, ipc.WithSchema(schema))
	type batch struct {
		rec arrow.Record
		err error
	}
	ahead := func(lo int) <-chan batch {
		if lo >= len(ex) {
			return nil
		}
		next := make(chan batch, 1)
		go func() {
			rec, err := recordOf(schema, ex[lo:min(lo+samplesABatch, len(ex))], files)
			next <- batch{rec, err}
		}()
		return next
	}
	next := ahead(0)
	for lo := 0; lo < len(ex); lo += samplesABatch {
		b := <-next
		if b.err != nil {
			return b.err
		}
		next = ahead(lo + samplesABatch)
		err := w.Write(b.rec)
		b.rec.Release()
		if err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return out.Close()
}

// recordOf lays samples out as a record batch.
func recordOf(schema *arrow.Schema, ex []Example, files map[string]int32) (arrow.Record, error) {
	n := len(ex)
	id, file, row := make([]uint64, n), make([]int32, n), make([]int64, n)
	idsAt, lossAt := make([]int32, n+1), make([]int32, n+1)
	for i := range ex {
		e := &ex[i]
		id[i], file[i], row[i] = e.ID, files[e.From.File], e.From.Row
		idsAt[i+1], lossAt[i+1] = idsAt[i]+int32(len(e.IDs)), lossAt[i]+int32(2*len(e.Loss))
	}
	loss := make([]int32, 0, lossAt[n])
	for i := range ex {
		for _, r := range ex[i].Loss {
			loss = append(loss, r[0], r[1])
		}
	}
	token := schema.Field(1).Type.(*arrow.ListType).Elem()
	tokens := tokensOf(token, ex, idsAt)
	if tokens == nil {
		return nil, fmt.Errorf("data: a token outside the dataset's vocabulary")
	}
	columns := []arrow.Array{
		column(arrow.PrimitiveTypes.Uint64, n, arrow.Uint64Traits.CastToBytes(id)),
		column(schema.Field(1).Type, n, arrow.Int32Traits.CastToBytes(idsAt), column(token, int(idsAt[n]), tokens)),
		column(schema.Field(2).Type, n, arrow.Int32Traits.CastToBytes(lossAt), column(arrow.PrimitiveTypes.Int32, len(loss), arrow.Int32Traits.CastToBytes(loss))),
		column(arrow.PrimitiveTypes.Int32, n, arrow.Int32Traits.CastToBytes(file)),
		column(arrow.PrimitiveTypes.Int64, n, arrow.Int64Traits.CastToBytes(row)),
	}
	return array.NewRecord(schema, columns, int64(n)), nil
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

// int32s copies list i of a column of numbers of 2 or 4 bytes.
func int32s(col arrow.Array, i int) []int32 {
	list := col.(*array.List)
	from, to := list.ValueOffsets(i)
	if short, ok := list.ListValues().(*array.Uint16); ok {
		out := make([]int32, to-from)
		for k, v := range short.Uint16Values()[from:to] {
			out[k] = int32(v)
		}
		return out
	}
	return append([]int32(nil), list.ListValues().(*array.Int32).Int32Values()[from:to]...)
}
