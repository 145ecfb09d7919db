package gguf

import (
	"slices"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// rule is llama-quantize's choice for one tensor under the mix of the file
// type; kind is the type it has without one.
func (x *mixer) rule(c *Choice, cat category, kind dtype.Kind) (dtype.Kind, error) {
	switch {
	case cat == catOutput || x.tied && cat == catEmbedding:
		return x.outputRule(c, kind), nil
	case x.is("MXFP4_MOE"):
		if n := len(c.Shape); n > 2 && c.Shape[n-3] > 1 { // a matrix for every expert
			return dtype.MXFP4, nil
		}
		return dtype.Q8_0, nil
	case cat == catEmbedding:
		return x.embeddingRule(kind), nil
	case x.is("IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"):
		return x.lowRule(cat, kind), nil
	case cat.likeV():
		k := x.valueRule(kind)
		x.nthV++
		return k, nil
	case cat == catK && x.Experts == 8:
		return dtype.Q8_0, nil
	case cat == catK || cat == catQ:
		return x.queryKeyRule(kind), nil
	case cat == catDown:
		layer, err := x.layer(c.Name, x.nthDown)
		if err != nil {
			return kind, err
		}
		x.nthDown++
		return x.downRule(kind, layer), nil
	case cat == catAttnOut:
		return x.attnOutRule(kind), nil
	case cat == catGate:
		x.nthGate++
		return x.gateUpRule(c.Name, x.nthGate-1, kind)
	case cat == catUp:
		x.nthUp++
		return x.gateUpRule(c.Name, x.nthUp-1, kind)
	}
	return kind, nil
}

// is reports whether the file type is one of names.
func (x *mixer) is(names ...string) bool { return slices.Contains(names, x.o.FileType.Name) }

// moreBits picks the first and last eighth of the layers and every third between.
func moreBits(i, n int) bool { return i < n/8 || i >= 7*n/8 || (i-n/8)%3 == 2 }

// groups is how many query heads share a key/value head.
func (x *mixer) groups() int {
	if x.KVHeads == 0 {
		return 0
	}
	return x.Heads / x.KVHeads
}

// layer is the block of a feed-forward tensor: by name with experts, whose
// tensors need not come in order, else nth, its place among its like.
func (x *mixer) layer(name string, nth int) (int, error) {
	if x.Experts <= 1 {
		return nth, nil
	}
	i := blockOf(name)
	if i < 0 || i >= x.Layers {
		return 0, fail.Inputf(name, "", "layer %d of a model of %d layers", i, x.Layers)
	}
	return i, nil
}

func (x *mixer) outputRule(c *Choice, kind dtype.Kind) dtype.Kind {
	if x.o.Output != nil {
		return *x.o.Output
	}
	switch {
	case x.is("MXFP4_MOE") || x.Arch == "falcon" || c.Shape[len(c.Shape)-1]%int64(kind.Info().Block) != 0:
		return dtype.Q8_0
	case x.is("IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"):
		return dtype.Q5_K
	case kind != dtype.Q8_0:
		return dtype.Q6_K
	}
	return kind
}

// embeddingRule is for the embedding of a model that has an output matrix, too.
func (x *mixer) embeddingRule(kind dtype.Kind) dtype.Kind {
	switch {
	case x.is("IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"):
		return dtype.Q2_K
	case x.is("IQ3_XXS", "IQ2_M", "IQ2_S"):
		return dtype.IQ3_S
	case x.is("TQ2_0", "TQ1_0", "Q2_0"):
		return dtype.Q4_K
	}
	return kind
}

// lowRule is for the file types of two bits and less.
func (x *mixer) lowRule(cat category, kind dtype.Kind) dtype.Kind {
	better := dtype.Q2_K
	if x.is("IQ2_M", "IQ2_S") {
		better = dtype.IQ3_S
	}
	switch {
	case cat.likeV() && (x.groups() >= 4 || x.Experts >= 4):
		return dtype.Q4_K
	case cat.likeV():
		return better
	case cat == catK && x.Experts == 8:
		return dtype.Q4_K
	case cat == catDown:
		x.nthDown++
		if x.nthDown <= x.Layers/8 {
			return better
		}
	case cat == catAttnOut && x.Experts == 8:
		return dtype.Q5_K
	case cat == catAttnOut && x.is("IQ2_M", "IQ2_S"):
		return dtype.IQ3_S
	case cat == catAttnOut && x.is("IQ1_M", "IQ1_S"):
		return dtype.IQ2_XXS
	}
	return kind
}

func (x *mixer) queryKeyRule(kind dtype.Kind) dtype.Kind {
	switch x.o.FileType.Name {
	case "IQ3_XS":
		return dtype.IQ3_XXS
	case "IQ3_XXS":
		return dtype.IQ2_S
	}
	return kind
}

// gateUpRule is for the nth gate or up matrix.
func (x *mixer) gateUpRule(name string, nth int, kind dtype.Kind) (dtype.Kind, error) {
	layer, err := x.layer(name, nth)
	if err == nil && x.is("IQ3_XS") && layer >= x.Layers/8 && layer < 7*x.Layers/8 {
		kind = dtype.IQ3_XXS
	}
	return kind, err
}

func (x *mixer) valueRule(kind dtype.Kind) dtype.Kind {
	shared := x.groups() >= 4
	switch x.o.FileType.Name {
	case "Q2_K":
		kind = dtype.Q3_K
		if shared {
			kind = dtype.Q4_K
		}
	case "Q2_K_S":
		if shared {
			kind = dtype.Q4_K
		}
	case "IQ3_XXS":
		switch {
		case shared:
			kind = dtype.Q4_K
		case !x.o.Importance:
			kind = dtype.IQ3_S
		}
	case "IQ3_XS", "IQ3_S":
		if shared {
			kind = dtype.Q4_K
		}
	case "IQ3_M":
		kind = dtype.Q4_K
	case "Q3_K_M":
		kind = dtype.Q4_K
		if x.nthV < 2 {
			kind = dtype.Q5_K
		}
	case "Q3_K_L":
		kind = dtype.Q5_K
	case "IQ4_NL", "IQ4_XS":
		if shared {
			kind = dtype.Q5_K
		}
	case "Q4_K_M", "Q5_K_M":
		if moreBits(x.nthV, x.attnV) {
			kind = dtype.Q6_K
		}
	case "Q4_K_S":
		if x.nthV < 4 {
			kind = dtype.Q5_K
		}
	}
	if x.seventy() && (kind == dtype.Q3_K || kind == dtype.Q4_K) {
		kind = dtype.Q5_K // eight heads share it: small, and it matters
	}
	if x.Experts == 8 {
		kind = dtype.Q8_0
	}
	return kind
}

// seventy recognises the 70B size of Llama and its relatives.
func (x *mixer) seventy() bool {
	if x.Layers != 80 {
		return false
	}
	switch x.Arch {
	case "llama":
		return x.Heads != x.KVHeads
	case "qwen2", "deci":
		return true
	}
	return false
}

func (x *mixer) downRule(kind dtype.Kind, layer int) dtype.Kind {
	falcon, n := x.Arch == "falcon", x.Layers
	switch x.o.FileType.Name {
	case "Q2_K":
		return dtype.Q3_K
	case "Q2_K_S":
		if layer < n/8 {
			return dtype.Q4_K
		}
	case "IQ3_XXS":
		switch {
		case x.o.Importance:
		case layer < n/8:
			return dtype.Q4_K
		default:
			return dtype.Q3_K
		}
	case "IQ3_M":
		if layer < n/8 || x.Experts == 8 && moreBits(layer, n) {
			return dtype.Q4_K
		}
	case "Q3_K_M":
		if layer < n/16 {
			return dtype.Q5_K
		}
		if !falcon || moreBits(layer, n) {
			return dtype.Q4_K
		}
		return dtype.Q3_K
	case "Q3_K_L":
		if falcon {
			return dtype.Q4_K
		}
		return dtype.Q5_K
	case "Q4_K_M":
		return x.downQ4KM(kind, layer)
	case "IQ4_NL", "IQ4_XS":
		if layer < n/8 && !x.o.Importance {
			return dtype.Q5_K
		}
	case "Q5_K_M":
		if moreBits(layer, n) {
			return dtype.Q6_K
		}
	case "Q4_K_S":
		if !falcon && layer < n/8 {
			return dtype.Q5_K
		}
	case "Q4_0":
		if x.o.Importance && layer < n/8 {
			return dtype.Q4_1
		}
	case "Q5_0":
		if x.o.Importance && layer < n/8 {
			return dtype.Q5_1
		}
	}
	return kind
}

func (x *mixer) downQ4KM(kind dtype.Kind, layer int) dtype.Kind {
	more := moreBits(layer, x.Layers)
	switch {
	case x.Arch != "falcon" && more:
		return dtype.Q6_K
	case x.Arch == "falcon" && layer < x.Layers/16:
		return dtype.Q6_K
	case x.Arch == "falcon" && more:
		return dtype.Q5_K
	}
	return kind
}

func (x *mixer) attnOutRule(kind dtype.Kind) dtype.Kind {
	name := x.o.FileType.Name
	switch {
	case x.Arch == "falcon":
		if name == "Q3_K_L" {
			return dtype.Q4_K
		}
	case x.Experts == 8:
		switch name {
		case "Q2_K", "IQ3_XS", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ3_S", "IQ3_M", "IQ4_XS":
			return dtype.Q5_K
		}
	case name == "Q2_K":
		return dtype.Q3_K
	case name == "IQ3_XXS":
		return dtype.IQ3_S
	case name == "Q3_K_M" || name == "IQ3_M":
		return dtype.Q4_K
	case name == "Q3_K_L":
		return dtype.Q5_K
	}
	return kind
}
