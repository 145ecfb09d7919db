package lora

import (
	"context"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
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
			gu, s, gv, err := leading(dev, b, c.rows, c.cols, c.r)
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
