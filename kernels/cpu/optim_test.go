package cpu_test

import (
	"encoding/binary"
	"math"
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
	o := kernels.OptimArgs{Spans: []kernels.OptimSpan{{LR: 0.01, Decay: decay}}, Beta1: 0.9, Beta2: 0.999, Eps: eps}
	for _, b := range []*kernels.Buffer{&o.Spans[0].P, &o.G, &o.M, &o.V} {
		x, err := c.Alloc(kernels.Optimizer, dtype.Of(dtype.F32), len(p)/4)
		if err != nil {
			t.Fatal(err)
		}
		c.Fill(x, 0)
		*b = x
	}
	c.Upload(o.Spans[0].P, p)
	for s := range 10 {
		c.Upload(o.G, in["g"+strconv.Itoa(s)+"."+k])
		o.Step = s + 1
		c.Optim(&o)
	}
	got := make([]byte, len(p))
	if err := c.Download(got, o.Spans[0].P); err != nil {
		t.Fatal(err)
	}
	return got
}
