package formats

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestGGUFScales: an NVFP4 weight of GGUF has the values of its blocks times the number
// beside it, of each expert its own.
func TestGGUFScales(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		name  string
		dims  []uint64 // innermost first
		scale []float32
	}{
		{"matrix", []uint64{128, 3}, []float32{0.0123}},
		{"negative", []uint64{64, 2}, []float32{-3}},
		{"experts", []uint64{64, 3, 4}, []float32{0.5, 2, 0.001, 7}},
		{"one number for all experts", []uint64{64, 3, 2}, []float32{0.1}},
	} {
		n := 1
		for _, d := range c.dims {
			n *= int(d)
		}
		blocks := make([]byte, n/64*36)
		for i := range blocks {
			blocks[i] = byte(rng.Uint32())
		}
		g := newGGUF(3, 0).tensor("a.weight", 40, 0, c.dims...)
		at := uint64(len(blocks)+31) &^ 31
		g.tensor("a.scale", 0, at, uint64(len(c.scale))).tensor("a.input_scale", 0, (at+uint64(4*len(c.scale))+31)&^31, 1).pad(32).raw(string(blocks)).pad(32)
		for _, s := range c.scale {
			g.u32(math.Float32bits(s))
		}
		path := filepath.Join(t.TempDir(), "x.gguf")
		if err := os.WriteFile(path, g.pad(32).u32(0).b, 0o666); err != nil {
			t.Fatal(err)
		}
		r := mustOpen(t, path)
		if len(r.Tensors()) != 1 || r.Tensors()[0].Unrounded == "" {
			t.Fatalf("%s: %v", c.name, r.Tensors())
		}
		w := &r.Tensors()[0]
		got, plain := make([]float32, n), make([]float32, n)
		m := block.Raw{Type: w.Type, Rows: w.Rows(), Cols: w.Cols(), Data: must(r.Read(w))}
		if err := m.Check(); err != nil {
			t.Fatal(err)
		}
		block.DecodeAll(got, m)
		block.DecodeAll(plain, block.Raw{Type: dtype.Of(dtype.NVFP4), Rows: w.Rows(), Cols: w.Cols(), Data: blocks})
		per := n / len(c.scale)
		for i, v := range plain {
			if want := float64(v) * float64(c.scale[i/per]); math.Abs(float64(got[i])-want) > 2e-7*math.Abs(want) {
				t.Fatalf("%s: value %d is %g, expected %g", c.name, i, got[i], want)
			}
		}
		if rep := must(Inspect(path, true)); len(rep.Tensors) != 1 {
			t.Errorf("%s: %d tensors are shown", c.name, len(rep.Tensors))
		}
	}
	for name, c := range map[string]*gb{
		"two numbers for a matrix": newGGUF(2, 0).tensor("a.weight", 40, 0, 64, 2).tensor("a.scale", 0, 96, 2).pad(32).zeros(104),
		"three for two experts":    newGGUF(2, 0).tensor("a.weight", 40, 0, 64, 1, 2).tensor("a.scale", 0, 96, 3).pad(32).zeros(108),
		"none for no expert":       newGGUF(2, 0).tensor("a.weight", 40, 0, 64, 1, 0).tensor("a.scale", 0, 0, 0).pad(32).zeros(32),
		"a half":                   newGGUF(2, 0).tensor("a.weight", 40, 0, 64, 2).tensor("a.scale", 1, 96, 1).pad(32).zeros(98),
	} {
		if err := openBytes(t, "x.gguf", c.b); err == nil || !strings.Contains(err.Error(), "expected one F32") {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := newGGUF(2, 0).tensor("a.weight", 8, 0, 32, 2).tensor("a.scale", 0, 96, 1).pad(32).zeros(96)
	other.b = binary.LittleEndian.AppendUint32(other.b, 1)
	path := filepath.Join(t.TempDir(), "x.gguf")
	if err := os.WriteFile(path, other.b, 0o666); err != nil {
		t.Fatal(err)
	}
	if r := mustOpen(t, path); len(r.Tensors()) != 2 {
		t.Error("the scale of another type was taken for one of NVFP4")
	}
}
