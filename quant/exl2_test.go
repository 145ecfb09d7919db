package quant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

func exl2Job(dir string, bits float64) FolderJob {
	return FolderJob{Path: filepath.Join(dir, fmt.Sprint("exl2-", bits)), Method: "exl2", Group: 32, Options: &EXL2Options{Bits: bits}}
}

// weightErrors is Σ‖ŵ-w‖² over Σ‖w‖² of what a folder quantizes.
func weightErrors(t *testing.T, src *arch.Source, dir string) float64 {
	t.Helper()
	got, err, all := openSource(t, dir), 0.0, 0.0
	for _, x := range src.Tensors() {
		if !x.IsLinear() {
			continue
		}
		a, _, err1 := src.Read(x)
		b, _, err2 := got.Read(got.Named(x.Name))
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		v, w := make([]float32, x.Len()), make([]float32, x.Len())
		block.DecodeAll(v, a)
		block.DecodeAll(w, b)
		for i := range v {
			err += float64(v[i]-w[i]) * float64(v[i]-w[i])
			all += float64(v[i]) * float64(v[i])
		}
	}
	return err / all
}

// TestEXL2Bits: a folder takes as many bits a weight as were asked for, or up to a
// twentieth less, by its own config.json, which counts what is stored; with more bits
// weights have less error, between those of all matrices at 2 and at 8.
func TestEXL2Bits(t *testing.T) {
	src := tiny(t, shape{c: 128, v: 96, layers: 4, h: 4, k: 2, d: 32, f: 256})
	cal := text(3, 4, 40, 96)
	dir := t.TempDir()
	narrow, wide := exl2Job(dir, 0), exl2Job(dir, 0)
	narrow.Path, narrow.Scheme, narrow.Options = filepath.Join(dir, "2"), "W2A16", nil
	wide.Path, wide.Scheme, wide.Options = filepath.Join(dir, "8"), "W8A16", nil
	jobs, asked := []FolderJob{narrow}, []float64{2.75, 3.5, 4.5, 5.5, 7, 8}
	for _, bits := range asked {
		jobs = append(jobs, exl2Job(dir, bits))
	}
	reps := folder(t, src, cal, append(jobs, wide)...)
	last := math.Inf(1)
	for i, j := range append(jobs, wide) {
		e := weightErrors(t, src, j.Path)
		if e >= last {
			t.Errorf("%s: error %g, with fewer bits %g", filepath.Base(j.Path), e, last)
		}
		last = e
		if i == 0 || i == len(jobs) {
			continue
		}
		var config struct {
			Q struct {
				Bits float64 `json:"bits"`
			} `json:"quantization_config"`
		}
		if err := json.Unmarshal(openSource(t, j.Path).Reader.Config(), &config); err != nil {
			t.Fatal(err)
		}
		if got, want := config.Q.Bits, asked[i-1]; got > want+0.005 || got < 0.95*want {
			t.Errorf("%g bits were asked for, %g are taken", want, got)
		}
		// The report's size is that of the tensors, but for what is not quantized.
		kept, total := 0.0, 0.0
		for _, x := range src.Tensors() {
			if x.IsLinear() {
				total += float64(x.Len())
			} else {
				kept += float64(dtype.Size(x.Type, x.Rows, x.Cols))
			}
		}
		if bits := 8 * (float64(reps[i].Bytes) - kept) / total; math.Abs(bits-config.Q.Bits) > 0.02 {
			t.Errorf("the report has %.3f bits, config.json %g", bits, config.Q.Bits)
		}
	}
}

// TestEXL2Nearest: rounded to nearest without a text, weights have less error the more
// bits they have, at 8 the least that F16 products leave, and the layouts that have no such widths
// refuse them.
func TestEXL2Nearest(t *testing.T) {
	src := tiny(t, shape{c: 128, v: 96, layers: 2, h: 4, k: 2, d: 32, f: 160})
	dir, last := t.TempDir(), math.Inf(1)
	var jobs []FolderJob
	for _, bits := range []int{2, 3, 4, 5, 6, 8} {
		jobs = append(jobs, FolderJob{Path: filepath.Join(dir, fmt.Sprint(bits)), Method: "rtn", Format: formats.EXL2, Scheme: fmt.Sprintf("W%dA16", bits), Group: 32})
	}
	folder(t, src, nil, jobs...)
	for _, j := range jobs {
		e := weightErrors(t, src, j.Path)
		if e >= last/2 {
			t.Errorf("%s: error %g, with fewer bits %g", j.Scheme, e, last)
		}
		last = e
	}
	if last > 1e-4 {
		t.Errorf("8 bits leave an error of %g", last)
	}
	for want, j := range map[string]FolderJob{
		"holds 2, 3, 4 or 8 bits":        {Method: "rtn", Format: formats.GPTQ, Scheme: "W5A16"},
		"has no zero points":             {Method: "rtn", Format: formats.EXL2, Scheme: "W4A16_ASYM"},
		"has no room for what W8A8 says": {Method: "rtn", Format: formats.EXL2, Scheme: "W8A8"},
		"group_size is -1":               {Method: "rtn", Format: formats.EXL2, Group: -1},
	} {
		j.Path = filepath.Join(dir, "refused")
		if _, err := PlanFolder(src, j); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", j, err, want)
		}
	}
}

// TestEXL2Resumes: widths are measured again, so that an interrupted run writes the
// same bytes, and one that is stopped while measuring says so.
func TestEXL2Resumes(t *testing.T) {
	src := tiny(t, small)
	cal := text(3, 6, 40, small.v)
	whole, dir := t.TempDir(), t.TempDir()
	folder(t, src, cal, exl2Job(whole, 4))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dev := cpu.New(cpu.Options{})
	for _, stop := range []int64{0, 1} {
		if stop > 0 {
			ctx, cancel = context.WithCancel(context.Background())
		}
		_, err := Folder(ctx, dev, src, []FolderJob{exl2Job(dir, 4)}, cal, func(done, total int64) {
			if done >= stop {
				cancel()
			}
		})
		if e := (*fail.Error)(nil); !errors.As(err, &e) || e.Kind != fail.Interrupted {
			t.Fatalf("stopped: %v", err)
		}
		if now := dev.Info().Mem.Now; kernels.Total(now) != 0 {
			t.Errorf("memory is left: %v", now)
		}
	}
	folder(t, src, cal, exl2Job(dir, 4))
	same(t, "resumed", hashes(t, exl2Job(whole, 4).Path), hashes(t, exl2Job(dir, 4).Path))
}

// TestEXL2Override: a layer that an override names has its width, and the others
// what is left.
func TestEXL2Override(t *testing.T) {
	src := tiny(t, small)
	job := exl2Job(t.TempDir(), 4)
	job.Overrides = []Override{{"re:.*[.]0[.]mlp[.]up_proj", "W8A16", 0}}
	folder(t, src, text(3, 6, 40, small.v), job)
	ts, _, err := formats.ReadSafetensors(filepath.Join(job.Path, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range ts {
		if x.Name == "model.layers.0.mlp.up_proj.q_groups" && x.Data[0] != 8 {
			t.Errorf("%d bits, want 8", x.Data[0])
		}
	}
}

// TestWiden: the matrix that gains most for each bit is widened first, whatever
// fits is spent, and nothing beyond.
func TestWiden(t *testing.T) {
	list := func() []*exl2Choice {
		return []*exl2Choice{
			{bits: []float64{20, 30, 40, 80}, errs: []float64{0.1, 0.03, 0.01, 0}},
			{bits: []float64{200, 300, 400, 800}, errs: []float64{0.5, 0.1, 0.04, 0}},
		}
	}
	for left, want := range map[float64][2]int{0: {0, 0}, 9: {0, 0}, 10: {1, 0}, 60: {3, 0}, 110: {1, 1}, 120: {2, 1}, 219: {3, 1}, 220: {2, 2}, 1e9: {3, 3}} {
		l := list()
		widen(l, left)
		if got := [2]int{l[0].at, l[1].at}; got != want {
			t.Errorf("%g bits: %v, want %v", left, got, want)
		}
	}
}
