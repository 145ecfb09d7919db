package quant

import (
	"bytes"
	"encoding/json"
)

// Report says what quantizing a folder did to each layer.
type Report struct {
	Method   string        `json:"method"`
	Scheme   string        `json:"scheme"`
	Format   string        `json:"format"`
	Type     string        `json:"type"` // storage type of the quantized weights
	Group    int           `json:"group_size"`
	Samples  int           `json:"samples,omitempty"` // calibration sequences used
	Tokens   int           `json:"tokens,omitempty"`
	Bytes    int64         `json:"bytes"` // of tensors, quantized and not
	Elements int64         `json:"elements"`
	Kept     []string      `json:"kept"`              // matrices that stay unquantized
	Address  string        `json:"address,omitempty"` // of a folder that no stage made: hash of model, text and options
	Layers   []LayerReport `json:"-"`                 // see Lines
	Warnings []string      `json:"warnings,omitempty"`
}

// LayerReport is one layer. With calibration, Error is the squared output error
// ‖(Wq-W)·Xᵀ‖² over the calibration tokens and Relative its share of ‖W·Xᵀ‖²;
// without, the same of the weights alone.
type LayerReport struct {
	Layer    string  `json:"layer"`
	Method   string  `json:"method"`         // what was done in the end: rtn after a fallback
	Type     string  `json:"type,omitempty"` // where it differs from that of the folder
	Error    float64 `json:"error"`
	Relative float64 `json:"relative_error"`
	Weight   float64 `json:"weight_error"`           // ‖Wq-W‖/‖W‖
	Damp     float64 `json:"damp_percent,omitempty"` // GPTQ: as used
	Dead     int     `json:"dead_columns,omitempty"` // GPTQ: inputs that were always zero
	Ratio    float64 `json:"ratio,omitempty"`        // AWQ: the exponent that was chosen
	Clipped  int     `json:"clipped,omitempty"`      // AWQ: groups whose range was cut
	Fallback string  `json:"fallback,omitempty"`     // why the layer was rounded to nearest
	Experts  int     `json:"experts,omitempty"`      // of a stack: how many were rounded to nearest, for which Fallback says why
}

// BitsPerWeight is the mean over all tensors.
func (r *Report) BitsPerWeight() float64 {
	return float64(r.Bytes) * 8 / float64(max(r.Elements, 1))
}

// Fallbacks counts the layers that were rounded to nearest against the method.
func (r *Report) Fallbacks() int {
	n := 0
	for _, l := range r.Layers {
		if l.Fallback != "" {
			n++
		}
	}
	return n
}

// Lines is the report as JSON lines: the folder first, then one line a layer.
func (r *Report) Lines() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		panic("quant: report: " + err.Error())
	}
	for i := range r.Layers {
		if err := e.Encode(&r.Layers[i]); err != nil {
			panic("quant: report: " + err.Error())
		}
	}
	return b.Bytes()
}
