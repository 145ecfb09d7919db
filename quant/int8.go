package quant

import (
	"math"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// int8Method is LLM.int8() (Dettmers et al. 2022, arXiv:2208.07339) as bitsandbytes
// stores it: every row in steps of a 127th of its largest magnitude.
var int8Method = Method{
	Name: "int8", Title: "LLM.int8(), for bitsandbytes",
	Schemes: []string{"INT8"}, Formats: []string{formats.Bitsandbytes},
	storage: func(_ any, _ string, t dtype.Type) (dtype.Type, error) {
		t.Scale = dtype.F32
		return t, nil
	},
	round: roundInt8,
}

// roundInt8 takes the nearest codes. Weights are rounded to F16 first, as in
// bitsandbytes, whose maxima of rows therefore are numbers of F16.
func roundInt8(l *layer) (*matrixResult, error) {
	all, err := l.values()
	if err != nil {
		return nil, err
	}
	half := make([]byte, 2*len(all))
	block.PutF16(half, all)
	block.GetF16(all, half)
	m := block.New(l.typ, l.rows, l.cols)
	tops := make([]float32, l.rows)
	par.For(l.rows, 1+4096/max(l.cols, 1), func(first, last int) {
		codes := make([]uint8, l.cols)
		for r := first; r < last; r++ {
			row := all[r*l.cols:][:l.cols]
			for _, v := range row {
				tops[r] = max(tops[r], float32(math.Abs(float64(v))))
			}
			steps := float32(0) // a row of zeros has code 0
			if tops[r] > 0 {
				steps = float32(127 * float32(1/tops[r])) // in PyTorch's order, which decides on ties
			}
			for c, v := range row {
				codes[c] = uint8(128 + int(math.RoundToEven(float64(float32(v*steps)))))
			}
			block.SetInt(m, r, codes, []float32{tops[r] / 127}, []float32{0})
		}
	})
	for r, top := range tops {
		if math.IsInf(float64(top), 0) {
			return nil, fail.Inputf(l.path, "leave this matrix out with ignore, or choose nf4", "row %d has a weight above 65504: LLM.int8() rounds weights to 16 bits first", r)
		}
	}
	rep, err := measure(l, m)
	return &matrixResult{m, rep}, err
}
