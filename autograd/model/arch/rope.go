package arch

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// RopeSpec is a rotary position embedding with its scaling rule. Zero fields
// have the defaults of Transformers' modeling_rope_utils.
type RopeSpec struct {
	Dim    int // elements of a head that rotate
	Base   float64
	Type   string  // "" (plain), linear, dynamic, yarn, llama3, longrope
	Factor float64 // context extension
	// llama3
	LowFreq, HighFreq float64
	// yarn, llama3, longrope: context length before extension
	OrigMax int
	// AttnFactor is the factor on cosines and sines; 0: that of the type, which
	// is 1 but for yarn and longrope.
	AttnFactor float64
	// yarn
	BetaFast, BetaSlow float64
	MScale, MScaleAll  float64
	NoTruncate         bool // keep the correction range fractional
	// longrope: divisors of the plain frequencies in sequences of up to OrigMax
	// tokens, and in longer ones
	Short, Long []float64
	// Factors divide the plain frequencies element by element (rope_freqs of
	// GGUF files), before the rule.
	Factors []float64

	// Sections are the numbers of angles of each of three positions (mrope), which
	// are the same one in text; nil: there is one position.
	Sections []int

	MaxPos int // the model's context length, for dynamic
}

func (r *RopeSpec) check() error {
	if err := checkSizes(size{"rotary size", r.Dim, 1 << 14}); err != nil || r.Dim%2 != 0 {
		return cmp.Or(err, fmt.Errorf("rotary size %d is odd", r.Dim))
	}
	if !(r.Base > 0) || math.IsInf(r.Base, 0) {
		return fmt.Errorf("rotary base is %g", r.Base)
	}
	switch r.Type {
	case "":
		return nil
	case "linear", "dynamic", "yarn":
	case "llama3":
		if !(r.LowFreq > 0 && r.HighFreq > r.LowFreq) || r.OrigMax <= 0 {
			return fmt.Errorf("llama3 rope scaling needs 0 < low_freq_factor < high_freq_factor and original_max_position_embeddings, has %g, %g, %d", r.LowFreq, r.HighFreq, r.OrigMax)
		}
	case "longrope":
		return r.checkLong()
	default:
		return lack{fmt.Errorf("rope scaling %q is not supported; known: default, linear, dynamic, yarn, llama3, longrope", r.Type)}
	}
	if !(r.Factor >= 1) || math.IsInf(r.Factor, 0) {
		return fmt.Errorf("rope scaling factor of %s is %g, want 1 or more", r.Type, r.Factor)
	}
	return nil
}

func (r *RopeSpec) checkLong() error {
	for name, list := range map[string][]float64{"long_factor": r.Long, "short_factor": r.Short} {
		if len(list) != r.Dim/2 {
			return fmt.Errorf("longrope scaling has %d numbers in %s, want %d", len(list), name, r.Dim/2)
		}
		for _, f := range list {
			if !(f > 0) || math.IsInf(f, 0) {
				return fmt.Errorf("longrope scaling has %g in %s", f, name)
			}
		}
	}
	if r.OrigMax < 2 || !(r.Factor > 0) || math.IsInf(r.Factor, 0) {
		return fmt.Errorf("longrope scaling extends %d tokens by %g", r.OrigMax, r.Factor)
	}
	return nil
}

// BySpan reports whether the angles of a token depend on how long its sequence is.
func (r *RopeSpec) BySpan() bool { return r.Type == "dynamic" || r.Type == "longrope" }

// Angles returns the Dim/2 angular frequencies for a batch whose longest
// sequence has seqLen tokens, and the factor on cosines and sines. Only
// dynamic scaling and longrope depend on seqLen.
func (r RopeSpec) Angles(seqLen int) (freq []float64, scale float64) {
	base, dim := r.Base, r.Dim
	if r.Type == "dynamic" {
		if n, m := float64(seqLen), float64(r.MaxPos); n > m {
			base *= math.Pow(r.Factor*n/m-(r.Factor-1), float64(dim)/float64(dim-2))
		}
	}
	freq = make([]float64, dim/2)
	for i := range freq {
		freq[i] = 1 / math.Pow(base, float64(2*i)/float64(dim))
	}
	for i, f := range r.Factors {
		freq[i] /= f
	}
	scale = 1
	switch r.Type {
	case "linear":
		for i := range freq {
			freq[i] /= r.Factor
		}
	case "llama3":
		r.llama3(freq)
	case "yarn":
		scale = r.yarn(freq)
	case "longrope":
		scale = r.longrope(freq, seqLen)
	}
	return freq, def(r.AttnFactor, scale)
}

// same tells whether o makes the same angles as r of texts of every length.
func (r RopeSpec) same(o RopeSpec) bool {
	if r.Dim != o.Dim || r.Type == "dynamic" != (o.Type == "dynamic") {
		return false
	}
	lengths := []int{1, max(r.MaxPos, o.MaxPos), 1 << 28}
	for _, s := range []RopeSpec{r, o} {
		if s.BySpan() {
			lengths = append(lengths, s.OrigMax, s.OrigMax+1, s.MaxPos+1)
		}
	}
	near := func(a, b float64) bool { return math.Abs(a-b) <= 1e-5*math.Abs(a) }
	for _, n := range lengths {
		a, scale := r.Angles(n)
		b, other := o.Angles(n)
		if !near(scale, other) || !slices.EqualFunc(a, b, near) {
			return false
		}
	}
	return true
}

// llama3 slows long wavelengths by Factor and blends in between (Llama 3.1).
func (r RopeSpec) llama3(freq []float64) {
	orig := float64(r.OrigMax)
	for i, f := range freq {
		wave := 2 * math.Pi / f
		switch {
		case wave > orig/r.LowFreq:
			freq[i] = f / r.Factor
		case wave >= orig/r.HighFreq:
			s := (orig/wave - r.LowFreq) / (r.HighFreq - r.LowFreq)
			freq[i] = (1-s)*f/r.Factor + s*f
		}
	}
}

// yarn is YaRN (arXiv 2309.00071, section 3.2): interpolate slow dimensions,
// keep fast ones and ramp between. It returns what scales the attention.
func (r RopeSpec) yarn(freq []float64) float64 {
	dim := r.Dim
	fast, slow := def(r.BetaFast, 32), def(r.BetaSlow, 1)
	bound := func(rotations float64) float64 {
		return float64(dim) * math.Log(float64(r.OrigMax)/(rotations*2*math.Pi)) / (2 * math.Log(r.Base))
	}
	low, high := bound(fast), bound(slow)
	if !r.NoTruncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = math.Max(low, 0), math.Min(high, float64(dim-1))
	if low == high {
		high += 0.001
	}
	for i, f := range freq {
		ramp := math.Min(math.Max((float64(i)-low)/(high-low), 0), 1)
		freq[i] = f/r.Factor*ramp + f*(1-ramp)
	}
	if r.MScale != 0 && r.MScaleAll != 0 {
		return mscale(r.Factor, r.MScale) / mscale(r.Factor, r.MScaleAll)
	}
	return mscale(r.Factor, 1)
}

// longrope is LongRoPE (arXiv 2402.13753): searched divisors, and what makes up
// for the entropy of longer texts.
func (r RopeSpec) longrope(freq []float64, seqLen int) float64 {
	by := r.Short
	if seqLen > r.OrigMax {
		by = r.Long
	}
	for i := range freq {
		freq[i] /= by[i]
	}
	if r.Factor <= 1 {
		return 1
	}
	return math.Sqrt(1 + math.Log(r.Factor)/math.Log(float64(r.OrigMax)))
}

func mscale(factor, m float64) float64 {
	if factor <= 1 {
		return 1
	}
	return 0.1*m*math.Log(factor) + 1
}

func def(v, d float64) float64 {
	if v == 0 {
		return d
	}
	return v
}

// freqFactors are the divisors that GGUF stores as rope_freqs.weight for
// llama3 scaling; nil for other types.
func (r RopeSpec) freqFactors() []float32 {
	if r.Type != "llama3" {
		return nil
	}
	plain := RopeSpec{Dim: r.Dim, Base: r.Base}
	a, _ := plain.Angles(0)
	b, _ := r.Angles(0)
	out := make([]float32, r.Dim/2)
	for i := range out {
		out[i] = float32(a[i] / b[i])
	}
	return out
}

// ropeTensor is a tensor of a GGUF that belongs to a rule.
type ropeTensor struct {
	name   string
	values []float32
}

// tables are the tensors in which a GGUF keeps divisors of frequencies.
func (r RopeSpec) tables() (list []ropeTensor) {
	add := func(name string, v []float64) {
		if t := (ropeTensor{name: name}); len(v) > 0 {
			for _, f := range v {
				t.values = append(t.values, float32(f))
			}
			list = append(list, t)
		}
	}
	if f := r.freqFactors(); f != nil {
		list = append(list, ropeTensor{ropeFreqs, f})
	}
	add(ropeFreqs, r.Factors)
	if r.Type == "longrope" {
		add(ropeLong, r.Long)
		add(ropeShort, r.Short)
	}
	return list
}

// llama3FromFactors recovers the llama3 parameters from the divisors a GGUF
// stores. Files carry no more than the divisors, so the published constants
// (low 1, high 4, 8192 tokens) are tried and must reproduce them; else Type is
// "factors", which no config.json can express.
func llama3FromFactors(r RopeSpec) RopeSpec {
	largest := 0.0
	for _, f := range r.Factors {
		largest = math.Max(largest, f)
	}
	try := RopeSpec{Dim: r.Dim, Base: r.Base, Type: "llama3", Factor: largest, LowFreq: 1, HighFreq: 4, OrigMax: 8192, MaxPos: r.MaxPos}
	for i, f := range try.freqFactors() {
		if math.Abs(float64(f)-r.Factors[i]) > 1e-4*r.Factors[i] {
			try.Type = "factors"
		}
	}
	return try
}

// shortFloat is the float64 with the shortest decimal form that rounds to f,
// so that 1e-6 read from a GGUF is written as 1e-06 again.
func shortFloat(f float32) float64 {
	v, _ := strconv.ParseFloat(strconv.FormatFloat(float64(f), 'g', -1, 32), 64)
	return v
}
