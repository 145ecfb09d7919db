package quant

import (
	"fmt"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels/block"
)

// rtnMethod rounds every weight to the nearest value of its group's grid.
var rtnMethod = Method{
	Name: "rtn", Title: "round to nearest",
	Schemes: append(integerSchemes(), "W8A8"), Formats: []string{formats.GPTQ, formats.CompressedTensors, formats.AWQ},
	round: roundNearest,
}

// roundNearest rounds to the nearest values of the layer's type.
func roundNearest(l *layer) (*matrixResult, error) {
	m := block.New(l.typ, l.rows, l.cols)
	if err := block.Encode(m, l.w, nil); err != nil {
		return nil, fmt.Errorf("%s: %w", l.path, err)
	}
	rep, err := measure(l.in.hessian(), l.w, m)
	return &matrixResult{m, rep}, err
}

// fallback rounds to nearest where a method cannot do its own, and says why.
func fallback(l *layer, why string) (*matrixResult, error) {
	r, err := roundNearest(l)
	if err == nil {
		r.report.Method, r.report.Fallback = rtnMethod.Name, why
	}
	return r, err
}
