package cuda

import (
	"unsafe"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// sampleRow is SampleRow of sample.cu.
type sampleRow struct {
	temperature, topP, minP, penalty float64
	seed, stream, step               uint64
	topK, seen, seenN, _             int32
}

type sampleArgs struct {
	logits, x, rows, seen, ids driver.Ptr
	v, _                       int32
}

// Sample chooses a token for every row of logits.
func (c *CUDA) Sample(ids kernels.Buffer, a *kernels.SampleArgs) {
	n := len(a.Rows)
	to, logits := i32("sample: ids", ids, n), f32("sample: logits", a.Logits, n*a.V)
	if n == 0 {
		return
	}
	list, seen := sampleRows(a)
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&list[0])), n*int(unsafe.Sizeof(list[0])))
	rowsOf, x, before := c.scratch(dtype.U8, len(bytes)), c.scratch(dtype.F64, n*a.V), c.scratch(dtype.I32, max(len(seen), 1))
	defer c.Free(rowsOf)
	defer c.Free(x)
	defer c.Free(before)
	c.upload(rowsOf, bytes)
	c.upload(before, kernels.Bytes(seen))
	rows(c, "sample", n, a.V, 0, &sampleArgs{logits: logits, x: ptr(x), rows: ptr(rowsOf), seen: ptr(before), ids: to, v: int32(a.V)})
}

// sampleRows are how the rows choose, and the tokens that they have seen, each once.
func sampleRows(a *kernels.SampleArgs) (list []sampleRow, seen []int32) {
	list = make([]sampleRow, len(a.Rows))
	for i, r := range a.Rows {
		row := sampleRow{temperature: r.Temperature, topP: r.TopP, minP: r.MinP, penalty: r.RepetitionPenalty, seed: r.Seed, stream: r.Stream, step: r.Step, topK: int32(r.TopK), seen: int32(len(seen))}
		if r.RepetitionPenalty != 0 && r.RepetitionPenalty != 1 {
			done := map[int32]bool{}
			for _, id := range r.Seen {
				if !done[id] && int(id) < a.V {
					done[id] = true
					seen = append(seen, id)
				}
			}
			row.seenN = int32(len(seen)) - row.seen
		}
		list[i] = row
	}
	return list, seen
}
