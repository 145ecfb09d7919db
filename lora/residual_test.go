package lora

import (
	"context"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestResidual: an adapter of PiSSA or OLoRA that PEFT saved as it is, and as one of
// rank 2r, give PEFT's logits on the original base, attached and merged; of the first
// we save the second.
func TestResidual(t *testing.T) {
	root := testdir.Shared(t, "golden/train/lora")
	rows, width := evalBatch(t, root)
	for _, variant := range []string{"pissa", "olora"} {
		src, m := loadModel(t, filepath.Join(root, "base-llama"))
		dir := filepath.Join(root, variant)
		want := arrays(t, filepath.Join(dir, "logits.safetensors"))
		converted := filepath.Join(dir, "adapter-converted")
		saved := filepath.Join(t.TempDir(), "saved")
		for _, folder := range []string{filepath.Join(dir, "adapter"), converted, saved} {
			ad, err := Load(m, folder)
			if err != nil {
				t.Fatal(err)
			}
			off := logitsOff(t, m, rows, width, want["final"])
			t.Logf("%s: logits within %.2g", folder, off)
			if !(off <= 5e-4) {
				t.Errorf("%s: logits within %g, allowed 5e-4", folder, off)
			}
			if folder != converted && folder != saved {
				if err := ad.Save(saved, SaveOptions{Base: "base-llama"}); err != nil {
					t.Fatal(err)
				}
				compareConfig(t, filepath.Join(saved, "adapter_config.json"), filepath.Join(converted, "adapter_config.json"))
				got, theirs := arrays(t, filepath.Join(saved, "adapter_model.safetensors")), arrays(t, filepath.Join(converted, "adapter_model.safetensors"))
				for name, v := range theirs {
					if len(got[name]) != len(v) {
						t.Errorf("%s has %d values, PEFT %d", name, len(got[name]), len(v))
					}
				}
			}
			ad.Close()
		}
		f, err := ReadFolder(filepath.Join(dir, "adapter"))
		if err != nil {
			t.Fatal(err)
		}
		out, f32 := filepath.Join(t.TempDir(), "merged"), dtype.Of(dtype.F32)
		if _, err := Merge(context.Background(), m.Dev, src, []Weighted{{f, 1}}, MergeOptions{Dense: arch.Dense{Path: out, Type: &f32}}); err != nil {
			t.Fatal(err)
		}
		_, merged := loadModel(t, out)
		if off := logitsOff(t, merged, rows, width, want["merged"]); !(off <= 5e-4) {
			t.Errorf("%s merged: logits within %g, allowed 5e-4", variant, off)
		}
	}
}

// TestLoftQ: PEFT's adapter of LoftQ gives its logits over NF4, merged into the weights
// as held in training, too; over the original weights it is refused.
func TestLoftQ(t *testing.T) {
	root := testdir.Shared(t, "golden/train/lora")
	rows, width := evalBatch(t, root)
	dir := filepath.Join(root, "loftq")
	want := arrays(t, filepath.Join(dir, "logits.safetensors"))
	src, plain := loadModel(t, filepath.Join(root, "base-llama"))
	if _, err := Load(plain, filepath.Join(dir, "adapter")); fail.Code(err) != int(fail.Input) {
		t.Errorf("over the original weights: %v", err)
	}
	nf4 := dtype.Type{Kind: dtype.NF4, Group: 64}
	m, err := model.Load(cpu.New(cpu.Options{}), src, model.Options{Hold: &nf4})
	must(t, err)
	defer m.Close()
	for folder, logits := range map[string]string{"adapter-init": "init", "adapter": "final"} {
		ad, err := Load(m, filepath.Join(dir, folder))
		must(t, err)
		if off := logitsOff(t, m, rows, width, want[logits]); !(off <= 5e-4) {
			t.Errorf("%s: logits within %g, allowed 5e-4", folder, off)
		}
		if logits == "final" {
			roundTrip(t, ad, filepath.Join(dir, folder))
		}
		ad.Close()
	}
	f, err := ReadFolder(filepath.Join(dir, "adapter"))
	must(t, err)
	f32 := dtype.Of(dtype.F32)
	o := MergeOptions{Dense: arch.Dense{Path: filepath.Join(t.TempDir(), "merged"), Type: &f32}}
	if _, err := Merge(context.Background(), m.Dev, src, []Weighted{{f, 1}}, o); fail.Code(err) != int(fail.Input) {
		t.Errorf("merged into the original weights: %v", err)
	}
	o.TrainedAs, o.Trained = &nf4, true
	_, err = Merge(context.Background(), m.Dev, src, []Weighted{{f, 1}}, o)
	must(t, err)
	_, merged := loadModel(t, o.Path)
	if off := logitsOff(t, merged, rows, width, want["merged"]); !(off <= 5e-4) {
		t.Errorf("merged: logits within %g, allowed 5e-4", off)
	}
}

// TestLoftQTurns: after so many turns what is held and the adapter make of a weight is
// that of PEFT's loop in numpy (float64, NF4 in blocks of 64, rank 8: W - Q by singular
// vectors, Q again of W - L·R), whatever alpha is. Saved and read back, and merged into
// the weights as held in training, it is the same model.
func TestLoftQTurns(t *testing.T) {
	root := testdir.Shared(t, "golden/train/lora")
	rows, width := evalBatch(t, root)
	src, _ := loadModel(t, filepath.Join(root, "base-llama"))
	weights := arrays(t, filepath.Join(root, "base-llama", "model.safetensors"))
	nf4 := dtype.Type{Kind: dtype.NF4, Group: 64}
	for turns, want := range map[int]map[string][]float64{ // what is lost, then every 997th value
		1: {"model.layers.0.self_attn.q_proj": {0.268065, -0.062689, 0.098630, -0.025944, -0.008784}, "model.layers.1.mlp.down_proj": {0.267864, -0.023646, 0.025240, -0.021293, 0.051909}},
		2: {"model.layers.0.self_attn.q_proj": {0.251550, -0.064225, 0.096904, -0.022855, -0.008864}, "model.layers.1.mlp.down_proj": {0.249473, -0.023273, 0.025413, -0.022110, 0.050938}},
		5: {"model.layers.0.self_attn.q_proj": {0.244368, -0.066909, 0.092634, -0.032379, -0.008335}, "model.layers.1.mlp.down_proj": {0.234587, -0.022859, 0.025933, -0.022229, 0.049926}},
	} {
		m, err := model.Load(cpu.New(cpu.Options{}), src, model.Options{Hold: &nf4})
		must(t, err)
		empty := kernels.Total(m.Dev.Info().Mem.Now)
		ad, err := Apply(m, Config{R: 8, Alpha: 16, InitWeights: InitLoftQ, LoftQ: &LoftQ{Iter: turns}}, 1)
		must(t, err)
		for _, l := range ad.Layers {
			sum, ok := want[l.Path]
			if !ok {
				continue
			}
			v := make([]float32, l.Linear.W.Len())
			must(t, m.Dev.Run(func() error {
				w, err := scratch(m.Dev, len(v))
				if err != nil {
					return err
				}
				defer m.Dev.Free(w)
				m.Dev.Dequantize(w, l.Linear.W.Mat)
				return m.Dev.Download(kernels.Bytes(v), w)
			}))
			a, err := values(m.Dev, l.LoRA.A.Buffer)
			must(t, err)
			b, err := values(m.Dev, l.LoRA.B.Buffer)
			must(t, err)
			in, lost := l.Linear.In(), 0.0
			for i := range v {
				x := float64(v[i])
				for k := range l.R {
					x += float64(l.LoRA.Scale) * float64(b[i/in*l.R+k]) * float64(a[k*in+i%in])
				}
				d := x - float64(weights[l.Path+".weight"][i])
				lost += d * d
				if k := i / 997; i%997 == 0 && k < 4 && math.Abs(x-sum[1+k]) > 2e-5 {
					t.Errorf("%d turns, %s[%d] is %.6f, want %.6f", turns, l.Path, i, x, sum[1+k])
				}
			}
			if math.Abs(math.Sqrt(lost)-sum[0]) > 2e-5 {
				t.Errorf("%d turns, %s: %.6f is lost, want %.6f", turns, l.Path, math.Sqrt(lost), sum[0])
			}
		}
		folder := filepath.Join(t.TempDir(), "saved")
		must(t, ad.Save(folder, SaveOptions{Base: "base-llama"}))
		first := paddedLogits(t, m, rows, width)
		ad.Close()
		if now := kernels.Total(m.Dev.Info().Mem.Now); now != empty {
			t.Errorf("%d turns: %d bytes are left of an adapter", turns, now-empty)
		}
		again, err := Load(m, folder)
		must(t, err)
		if again.Config.turns() != turns {
			t.Errorf("%d turns became %d", turns, again.Config.turns())
		}
		if off := logitsOff(t, m, rows, width, first); off > 1e-6 {
			t.Errorf("%d turns: logits of the saved adapter within %g", turns, off)
		}
		f, err := ReadFolder(folder)
		must(t, err)
		again.Close()
		one, err := Weighted{f, 0.25}.Attach(m) // parts of it are together what it is
		must(t, err)
		two, err := Weighted{f, 0.75}.Attach(m)
		must(t, err)
		if off := logitsOff(t, m, rows, width, first); off > 1e-5 {
			t.Errorf("%d turns: logits of two adapters within %g", turns, off)
		}
		if _, err := Apply(m, Config{R: 8, Alpha: 16}, 1); turns > 1 && (err == nil || !strings.Contains(err.Error(), "belongs on other weights")) {
			t.Errorf("plain LoRA beside %d turns: %v", turns, err)
		}
		two.Close()
		one.Close()
		f32 := dtype.Of(dtype.F32)
		o := MergeOptions{Dense: arch.Dense{Path: filepath.Join(t.TempDir(), "merged"), Type: &f32}, TrainedAs: &nf4, Trained: true}
		_, err = Merge(t.Context(), m.Dev, src, []Weighted{{f, 1}}, o)
		must(t, err)
		_, merged := loadModel(t, o.Path)
		if off := logitsOff(t, merged, rows, width, first); off > 5e-5 {
			t.Errorf("%d turns, merged: logits within %g", turns, off)
		}
		m.Close()
	}
}

// paddedLogits are the logits of m, as the reference pads them.
func paddedLogits(t *testing.T, m *model.Model, rows [][]int32, width int) []float32 {
	t.Helper()
	in := model.Pack(rows...)
	packed, out := logitsOf(t, m, rows), make([]float32, len(rows)*width*m.Spec.V)
	for b := range rows {
		copy(out[b*width*m.Spec.V:], packed[int(in.Seq[b])*m.Spec.V:int(in.Seq[b+1])*m.Spec.V])
	}
	return out
}

// TestTrailing: the last singular values and vectors of a matrix put together from known
// ones, small and larger, tall and wide.
func TestTrailing(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct{ rows, cols, r int }{{40, 60, 5}, {60, 40, 5}, {130, 180, 6}, {180, 130, 6}, {120, 120, 4}} {
		n := min(c.rows, c.cols)
		columns := func(size int) [][]float64 {
			out := make([][]float64, n)
			for j := range out {
				for range size {
					out[j] = append(out[j], rng.NormFloat64())
				}
			}
			orthonormal(out)
			return out
		}
		u, v := columns(c.rows), columns(c.cols)
		value := func(k int) float64 { return 0.1 + 0.05*float64(n-k) }
		w := make([]float32, c.rows*c.cols)
		for i := range w {
			sum := 0.0
			for k := range n {
				sum += u[k][i/c.cols] * v[k][i%c.cols] * value(k)
			}
			w[i] = float32(sum)
		}
		left, s, err := trailing(w, c.rows, c.cols, c.r)
		must(t, err)
		for k := range c.r {
			if want := value(n - c.r + k); math.Abs(s[k]-want) > 1e-6 {
				t.Errorf("%v: value %d is %g, want %g", c, k, s[k], want)
			}
			same := 0.0
			for i := range c.rows {
				same += float64(left[i*c.r+k]) * u[n-c.r+k][i]
			}
			if math.Abs(math.Abs(same)-1) > 1e-5 {
				t.Errorf("%v: vector %d is another: %g", c, k, same)
			}
		}
	}
}

// TestTrailingNothing: a matrix of zeros, as a backend that counts gives, costs no work
// that grows with its products, and its memory is counted with what is made of it.
func TestTrailingNothing(t *testing.T) {
	const rows, cols, r = 1 << 13, 1 << 13, 4 // products of these take minutes
	u, s, err := trailing(make([]float32, rows*cols), rows, cols, r)
	if err != nil || len(u) != rows*r || len(s) != r || s[0] != 0 {
		t.Errorf("%d vector elements, values %v, %v", len(u), s, err)
	}
	if got := trailingMemory(100, 300); got != 12*100*300+16*100*100 {
		t.Errorf("%d bytes", got)
	}
}

// TestLeading: the singular values and vectors of a matrix that was put together from
// known ones, tall, wide, and of lower rank than asked for.
func TestLeading(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct{ rows, cols, rank, r int }{{90, 60, 60, 6}, {40, 100, 40, 5}, {50, 50, 3, 5}, {8, 6, 6, 6}} {
		columns := func(n int) [][]float64 {
			out := make([][]float64, c.rank)
			for j := range out {
				for range n {
					out[j] = append(out[j], rng.NormFloat64())
				}
			}
			orthonormal(out)
			return out
		}
		u, v := columns(c.rows), columns(c.cols)
		w := make([]float32, c.rows*c.cols)
		for i := range w {
			sum := 0.0
			for k := range c.rank {
				sum += u[k][i/c.cols] * v[k][i%c.cols] / float64(1+k)
			}
			w[i] = float32(sum)
		}
		err := dev.Run(func() error {
			b, err := scratch(dev, len(w))
			if err != nil {
				return err
			}
			defer dev.Free(b)
			dev.Upload(b, kernels.Bytes(w))
			gu, s, gv, err := leading(dev, b, c.rows, c.cols, c.r, svdSteps)
			if err != nil {
				return err
			}
			for k := range c.r {
				want := 0.0
				if k < c.rank {
					want = 1 / float64(1+k)
				}
				if math.Abs(s[k]-want) > 1e-6 {
					t.Errorf("%v: value %d is %g, want %g", c, k, s[k], want)
				}
			}
			for i := range w { // U·S·Vᵀ is the part that the largest values make
				got, want := 0.0, 0.0
				for k := range min(c.r, c.rank) {
					got += float64(gu[i/c.cols*c.r+k]) * s[k] * float64(gv[i%c.cols*c.r+k])
					want += u[k][i/c.cols] * v[k][i%c.cols] / float64(1+k)
				}
				if math.Abs(got-want) > 2e-6 {
					t.Fatalf("%v: element %d is %g, want %g", c, i, got, want)
				}
			}
			return nil
		})
		must(t, err)
	}
}

// TestReflections: the signs are those of Householder's method.
func TestReflections(t *testing.T) {
	// numpy.linalg.qr([[3, 1], [4, 2]]): R's diagonal is -5, 0.4
	if got := reflections([][]float64{{3, 4}, {1, 2}}); !slices.Equal(got, []float64{-1, 1}) {
		t.Errorf("signs %v", got)
	}
}

// TestLoftQOfFP8: LoftQ makes up for NF4 made of 8-bit floats with scales; over the
// floats themselves it is refused.
func TestLoftQOfFP8(t *testing.T) {
	src, plain := loadModel(t, testdir.Shared(t, "golden/quant/ct-fp8-static"))
	c := Config{R: 8, Alpha: 16, InitWeights: InitLoftQ, LoftQ: &LoftQ{Iter: 1}}
	if _, err := Apply(plain, c, 1); fail.Code(err) != int(fail.Usage) {
		t.Errorf("over the floats: %v", err)
	}
	m, err := model.Load(cpu.New(cpu.Options{}), src, model.Options{Hold: &dtype.NF4Double})
	must(t, err)
	defer m.Close()
	ad, err := Apply(m, c, 1)
	must(t, err)
	defer ad.Close()
	for _, l := range ad.Layers {
		b, err := values(m.Dev, l.LoRA.B.Buffer)
		must(t, err)
		if l.Linear.W.Type() != dtype.NF4Double || slices.Max(b) == 0 {
			t.Errorf("%s is held as %v, B at most %g", l.Path, l.Linear.W.Type(), slices.Max(b))
		}
	}
}

// TestPiSSARounds: pissa_niter_N leaves no more of a weight than PEFT's random projection does, no
// less than the singular vectors do, and less with more rounds. Theirs is the least ‖W - B·A‖ of
// torch.svd_lowrank(W, 4, niter=N) under torch.manual_seed(0) to 19 (torch 2.15, which PEFT calls), r is 4.
func TestPiSSARounds(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	weights := arrays(t, filepath.Join(testdir.Shared(t, "golden/train/lora"), "base-llama", "model.safetensors"))
	left := func(init Init, w []float32, rows, cols int) (sum float64) {
		must(t, dev.Run(func() error {
			b, err := scratch(dev, len(w))
			if err != nil {
				return err
			}
			defer dev.Free(b)
			dev.Upload(b, kernels.Bytes(w))
			first, second, err := init.decomposed(dev, b, rows, cols, 4, 2)
			if err != nil {
				return err
			}
			for i, v := range w {
				d := float64(v)
				for k := range 4 {
					d -= 2 * float64(second[i/cols*4+k]) * float64(first[k*cols+i%cols])
				}
				sum += d * d
			}
			return nil
		}))
		return math.Sqrt(sum)
	}
	for _, c := range []struct {
		name          string
		rows, cols    int
		init          Init
		exact, theirs float64
	}{
		{"self_attn.q_proj", 64, 64, "pissa_niter_1", 2.4620899, 2.5535746},
		{"self_attn.q_proj", 64, 64, "pissa_niter_4", 2.4620899, 2.4645396},
		{"mlp.down_proj", 64, 128, "pissa_niter_4", 4.0799042, 4.0966751},
	} {
		w := weights["model.layers.0."+c.name+".weight"]
		if got := left(c.init, w, c.rows, c.cols); !(got >= c.exact-1e-5 && got <= c.theirs) {
			t.Errorf("%s of %s leaves %v, the singular vectors %v, theirs %v", c.init, c.name, got, c.exact, c.theirs)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	w := make([]float32, 160*200) // of values that lie close together
	for i := range w {
		w[i] = float32(r.NormFloat64())
	}
	one, many, all := left("pissa_niter_1", w, 160, 200), left("pissa_niter_30", w, 160, 200), left(InitPiSSA, w, 160, 200)
	if !(one > many+1e-4 && many >= all-1e-6) || left("pissa_niter_1", w, 160, 200) != one {
		t.Errorf("%v after one round, %v after 30, %v after all", one, many, all)
	}
}
