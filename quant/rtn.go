package quant

import (
	"fmt"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// rtnMethod rounds every weight to the nearest value of its group's grid.
var rtnMethod = Method{
	Name: "rtn", Title: "round to nearest",
	Schemes: append(integerSchemes(), "W8A8", "FP8_DYNAMIC", "FP8_BLOCK", "NVFP4A16", "MXFP4A16", "W5A16", "W6A16"), Formats: []string{formats.GPTQ, formats.CompressedTensors, formats.AWQ, formats.EXL2, formats.FP8, formats.GPTQV2},
	storage: func(o any, format string, t dtype.Type) (dtype.Type, error) {
		if format != formats.EXL2 {
			return t, nil
		}
		return exl2Storage(o, format, t)
	},
	check: func(src *arch.Source, p *FolderPlan) error {
		if p.Format != formats.EXL2 {
			return nil
		}
		return exl2Parts(src, p)
	},
	round: func(l *layer) (*matrixResult, error) {
		if l.typ.Flags&dtype.Perm != 0 { // of EXL2's folders alone
			return nearestEXL2(l)
		}
		return roundNearest(l)
	},
}

// roundNearest rounds to the nearest values of the layer's type.
func roundNearest(l *layer) (*matrixResult, error) {
	if block.InTiles(l.typ) || l.typ.Kind == dtype.F4E2M1 {
		return roundFloats(l)
	}
	return l.encode(l.w)
}

// roundFloats rounds to the nearest values of floats that no backend encodes: whose rows share scales, or of 4 bits.
func roundFloats(l *layer) (*matrixResult, error) {
	raw, w := block.New(l.typ, l.rows, l.cols), make([]byte, 4*l.rows*l.cols)
	if err := l.dev.Download(w, l.w); err != nil {
		return nil, err
	}
	x := make([]float32, l.rows*l.cols)
	block.GetF32(x, w)
	var err error
	if block.InTiles(l.typ) {
		err = block.EncodeTiles(raw, x)
	} else {
		err = block.EncodeFP4(raw, x, l.tops, l.like)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.path, err)
	}
	rep, err := measure(l, raw)
	return &matrixResult{raw, rep}, err
}

// encode stores v [rows, cols], what the layer's weights were made for the type.
func (l *layer) encode(v kernels.Buffer) (*matrixResult, error) {
	s := scratch{dev: l.dev}
	defer s.free()
	m := s.empty(l.typ, l.rows, l.cols)
	if s.err != nil {
		return nil, s.err
	}
	if err := l.dev.Quantize(m, v, nil); err != nil {
		return nil, fmt.Errorf("%s: %w", l.path, err)
	}
	raw := block.New(l.typ, l.rows, l.cols)
	if err := l.dev.Download(raw.Data, m.Buffer); err != nil {
		return nil, err
	}
	rep, err := measure(l, raw)
	return &matrixResult{raw, rep}, err
}

// fallback rounds to nearest where a method cannot do its own, and says why.
func fallback(l *layer, why string) (*matrixResult, error) {
	r, err := roundNearest(l)
	if err == nil {
		r.report.Method, r.report.Fallback = rtnMethod.Name, why
	}
	return r, err
}
