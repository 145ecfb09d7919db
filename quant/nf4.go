package quant

import (
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// nf4Method stores the nearest of sixteen values, as bitsandbytes does: those of
// NF4 (Dettmers et al. 2023, arXiv:2305.14314) or of its own 4-bit float, FP4.
var nf4Method = Method{
	Name: "nf4", Title: "NF4 or FP4 with double quantization, for bitsandbytes",
	Schemes: []string{"NF4", "FP4"}, Formats: []string{formats.Bitsandbytes},
	Options: func() any { return new(NF4Options) },
	storage: nf4Storage, round: roundNearest,
}

// NF4Options are what a job can say of NF4 and FP4.
type NF4Options struct {
	DoubleQuant *bool `yaml:"double_quant" doc:"NF4 and FP4: quantize the scales too" default:"true"`
}

func nf4Storage(options any, _ string, t dtype.Type) (dtype.Type, error) {
	if *options.(*NF4Options).DoubleQuant {
		t.Flags |= dtype.Nested
	}
	return t, nil
}
