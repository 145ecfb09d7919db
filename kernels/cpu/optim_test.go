package cpu_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/internal/level"
)

// TestAdamWGolden makes the ten updates of golden/train/optim (torch 2.15,
// AdamW with fused and foreach off) and holds the parameters to torch's within
// two roundings, at every level with the same bits.
func TestAdamWGolden(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/optim")
	in, want := tensors(t, filepath.Join(dir, "inputs.safetensors")), tensors(t, filepath.Join(dir, "params.safetensors"))
	for name, o := range map[string]struct{ eps, decay float64 }{"adamw": {1e-8, 0.05}, "adamw_nodecay_eps1e-6": {1e-6, 0}} {
		for _, k := range []string{"big", "mat", "tall", "vec"} {
			var bits []byte
			for _, l := range level.Supported() {
				restore := level.Force(l)
				got := tenUpdates(t, o.eps, o.decay, in, k)
				restore()
				if bits == nil {
					bits = got
				}
				if string(got) != string(bits) {
					t.Errorf("%s %s: level %v gives other bits than generic", name, k, l)
				}
			}
			ref := want[name+".step10."+k]
			for i := 0; i < len(ref); i += 4 {
				g, w := float64(float(bits[i:])), float64(float(ref[i:]))
				if d := math.Abs(g - w); !(d <= 2.4e-7*math.Abs(w)+2e-8) {
					t.Fatalf("%s %s[%d] is %v, torch has %v", name, k, i/4, g, w)
				}
			}
		}
	}
}

func float(p []byte) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(p)) }

func tensors(t *testing.T, path string) map[string][]byte {
	all, _, err := formats.ReadSafetensors(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, x := range all {
		out[x.Name] = x.Data
	}
	return out
}

// tenUpdates returns the parameters k after ten steps.
func tenUpdates(t *testing.T, eps, decay float64, in map[string][]byte, k string) []byte {
	c := cpu.New(cpu.Options{})
	p := in["p."+k]
	n := len(p) / 4
	var bufs [4]kernels.Buffer
	for i := range bufs {
		x, err := c.Alloc(kernels.Optimizer, dtype.Of(dtype.F32), n)
		if err != nil {
			t.Fatal(err)
		}
		c.Fill(x, 0)
		bufs[i] = x
	}
	o := kernels.OptimArgs{OptimRule: kernels.OptimRule{Beta1: 0.9, Beta2: 0.999, Eps: eps},
		Spans: []kernels.OptimSpan{{P: bufs[0], G: bufs[1], State: bufs[2:], Rows: 1, Cols: n, LR: 0.01, Decay: decay}}}
	c.Upload(bufs[0], p)
	for s := range 10 {
		c.Upload(bufs[1], in["g"+strconv.Itoa(s)+"."+k])
		o.Step = s + 1
		c.Optim(&o)
	}
	got := make([]byte, len(p))
	if err := c.Download(got, bufs[0]); err != nil {
		t.Fatal(err)
	}
	return got
}

// Test8BitGolden makes the steps of golden/blocks/bnb (bitsandbytes 0.50.2, also with
// the nearest rule in the place of its table) and holds parameters, codes and scales to its own.
func Test8BitGolden(t *testing.T) {
	all := tensors(t, filepath.Join(testdir.Shared(t, "golden/blocks/bnb"), "optim.safetensors"))
	for _, run := range []struct {
		name      string
		rule      kernels.OptimRule
		lr, decay float64
		allowed   int // codes of the native table, of which up to four in a hundred are not the nearest
		steps     int
	}{
		{"adamw8bit_f32_nearest", kernels.OptimRule{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}, 1e-3, 0.01, 0, 2},
		{"adamw8bit_f32", kernels.OptimRule{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}, 1e-3, 0.01, 180, 2},
		{"lion8bit_f32", kernels.OptimRule{Kind: kernels.Lion, Beta1: 0.9, Beta2: 0.99}, 1e-3, 0.1, 180, 2},
		{"sgd8bit_f32", kernels.OptimRule{Kind: kernels.SGD, Beta1: 0.9}, 1e-2, 0, 180, 2},
		{"adamw32_f32", kernels.OptimRule{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, MinBits8: 1 << 30}, 1e-3, 0.01, 0, 3},
		{"adamw8bit_small_is_32bit", kernels.OptimRule{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, MinBits8: 4096}, 1e-3, 0.01, 0, 1},
	} {
		run.rule.Bits8 = true
		c := cpu.New(cpu.Options{})
		alloc := func(k dtype.Kind, n int) kernels.Buffer {
			x, err := c.Alloc(kernels.Optimizer, dtype.Of(k), n)
			if err != nil {
				t.Fatal(err)
			}
			c.Upload(x, make([]byte, n*k.Info().Bytes))
			return x
		}
		n := len(all[run.name+"/p0"]) / 4
		s := kernels.OptimSpan{P: alloc(dtype.F32, n), G: alloc(dtype.F32, n), Rows: 1, Cols: n, LR: run.lr, Decay: run.decay}
		for _, st := range run.rule.State(1, n, 1) {
			s.State = append(s.State, alloc(st.Type.Kind, st.Len))
		}
		keys, share := []string{"state1", "absmax1", "state2", "absmax2"}, 1.3e-7
		if run.rule.MinBits8 > n {
			keys, share = []string{"state1", "state2"}, 1e-6
		}
		c.Upload(s.P, all[run.name+"/p0"])
		for step := 1; step <= run.steps; step++ {
			at := run.name + "/step" + strconv.Itoa(step) + "/"
			c.Upload(s.G, all[at+"g"])
			c.Optim(&kernels.OptimArgs{OptimRule: run.rule, Spans: []kernels.OptimSpan{s}, Step: step})
			for i, key := range keys {
				want, ok := all[at+key]
				if !ok {
					continue
				}
				got := make([]byte, len(want))
				if err := c.Download(got, s.State[i]); err != nil {
					t.Fatal(err)
				}
				off, allowed := 0, run.allowed
				if len(keys) == 4 && i%2 == 0 {
					for j := range got {
						if got[j] != want[j] {
							off++
						}
					}
				} else { // of 32 bits: torch fuses a product and a sum
					allowed /= 60
					off = unlike(got, want, share)
				}
				if off > allowed {
					t.Errorf("%s: %d of %d differ", at+key, off, len(got))
				}
			}
			got := make([]byte, 4*n)
			if err := c.Download(got, s.P); err != nil {
				t.Fatal(err)
			}
			if off := unlike(got, all[at+"p"], 1e-6); off > run.allowed {
				t.Errorf("%sp: %d of %d differ", at, off, n)
			}
		}
	}
}

// unlike counts floats of a that are further from b's than a share of each, or of a
// tenth of the largest.
func unlike(a, b []byte, share float64) (n int) {
	top := 0.0
	for j := 0; j < len(b); j += 4 {
		top = max(top, math.Abs(float64(float(b[j:]))))
	}
	for j := 0; j < len(a); j += 4 {
		if x, y := float64(float(a[j:])), float64(float(b[j:])); !(math.Abs(x-y) <= share*max(math.Abs(y), top/10)) {
			n++
		}
	}
	return n
}

// TestAdamW8Levels: steps with moments in codes give the same bits at every level, in
// whole blocks and the last one, of zeros, of very small and large gradients, infinity
// and NaN.
func TestAdamW8Levels(t *testing.T) {
	const n = 6*kernels.OptimBlock + 77
	rule := kernels.OptimRule{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, Bits8: true}
	run := func() (out [][]float32, codes []byte) {
		rng := rand.New(rand.NewPCG(1, 2))
		c := cpu.New(cpu.Options{})
		alloc := func(k dtype.Kind, n int) kernels.Buffer {
			x, err := c.Alloc(kernels.Optimizer, dtype.Of(k), n)
			if err != nil {
				t.Fatal(err)
			}
			c.Upload(x, make([]byte, n*k.Info().Bytes))
			return x
		}
		p := make([]float32, n)
		for i := range p {
			p[i] = float32(rng.NormFloat64())
		}
		s := kernels.OptimSpan{P: alloc(dtype.F32, n), G: alloc(dtype.F32, n), Rows: 1, Cols: n, LR: 1e-2, Decay: 0.1}
		for _, st := range rule.State(1, n, 1) {
			s.State = append(s.State, alloc(st.Type.Kind, st.Len))
		}
		c.Upload(s.P, kernels.Bytes(p))
		for step := 1; step <= 4; step++ {
			g := make([]float32, n)
			for i := range g {
				scale := []float64{0, 1e-30, 1e-3, 1, 1e15, 1e-12, 1}[i/kernels.OptimBlock]
				g[i] = float32(rng.NormFloat64() * scale * math.Pow(10, -3*rng.Float64()))
			}
			if step == 3 {
				g[3*kernels.OptimBlock+5], g[5*kernels.OptimBlock+70], g[n-1] = float32(math.Inf(1)), float32(math.NaN()), float32(math.NaN())
			}
			c.Upload(s.G, kernels.Bytes(g))
			c.Optim(&kernels.OptimArgs{OptimRule: rule, Spans: []kernels.OptimSpan{s}, Step: step})
		}
		for _, b := range append([]kernels.Buffer{s.P}, s.State...) {
			if b.Type().Kind == dtype.U8 {
				raw := make([]byte, b.Len())
				if err := c.Download(raw, b); err != nil {
					t.Fatal(err)
				}
				codes = append(codes, raw...)
				continue
			}
			v := make([]float32, b.Len())
			if err := c.Download(kernels.Bytes(v), b); err != nil {
				t.Fatal(err)
			}
			out = append(out, v)
		}
		return out, codes
	}
	var want [][]float32
	var codes []byte
	for _, l := range level.Supported() {
		restore := level.Force(l)
		got, c := run()
		restore()
		if want == nil {
			want, codes = got, c
		}
		if !bytes.Equal(c, codes) {
			t.Errorf("%v: other codes", l)
		}
		for k := range want {
			for i, w := range want[k] {
				if g := got[k][i]; math.Float32bits(g) != math.Float32bits(w) && (g == g || w == w) {
					t.Fatalf("%v: buffer %d[%d] is %g, want %g", l, k, i, g, w)
				}
			}
		}
	}
}
