package quant

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/quant/gguf"
)

// Every architecture is walked block by block: GPTQ and AWQ quantize all its
// linear maps, with less error of outputs than the weights lose by rounding;
// their folders open again and compute what the model does within what the bits
// leave. An interrupted walk is taken up again to the same files: of the common
// architectures, which come first, and of every third of the others, or of all with
// TUNEKIT_ALL=1 in the environment.
func TestGoldenArchs(t *testing.T) {
	for at, name := range archtest.Cases {
		repeat := at < 20 || at%3 == 0 || os.Getenv("TUNEKIT_ALL") != ""
		t.Run(name, func(t *testing.T) {
			src := openSource(t, testdir.Shared(t, "golden/arch/"+name))
			dir := t.TempDir()
			jobs := []FolderJob{
				{Method: "gptq", Scheme: "W8A16"}, {Method: "rtn", Scheme: "W8A16"},
				{Method: "awq", Scheme: "W4A16_ASYM"}, {Method: "rtn", Scheme: "W4A16_ASYM"},
			}
			for i := range jobs {
				j := &jobs[i]
				j.Path, j.Format, j.Group, j.For = filepath.Join(dir, j.Method+j.Scheme), "compressed-tensors", 8, []string{}
				j.Ignore = []string{"lm_head"} // a stage's default, whatever the head is called
			}
			cal := text(3, 24, 40, src.Spec.V)
			reports := folder(t, src, cal, jobs...)
			ids := text(4, 1, 60, src.Spec.V)[0]
			want := logits(t, src, ids)
			for i := 0; i < len(jobs); i += 2 {
				t.Run(jobs[i].Method, func(t *testing.T) {
					for k, j := range jobs[i : i+2] {
						checkMade(t, src, j, reports[i+k], ids, want)
					}
					if own, nearest := relative(reports[i]), relative(reports[i+1]); !(own < nearest) {
						t.Errorf("errors of %g, rounding %g", own, nearest)
					}
					if repeat {
						again(t, src.Reader.Path(), cal, jobs[i])
					} else {
						t.Log("not interrupted: TUNEKIT_ALL=1 does that")
					}
				})
			}
			t.Run("imatrix", func(t *testing.T) { checkImatrix(t, src, cal) })
		})
	}
}

// checkMade: a job has quantized all linear maps of src and nothing else, and its
// folder computes from ids what the model does, want, within what the bits leave.
func checkMade(t *testing.T, src *arch.Source, j FolderJob, r *Report, ids []int32, want []float32) {
	t.Helper()
	made := openSource(t, j.Path)
	for _, x := range made.Tensors() {
		if x.Type.Quantized() != x.IsLinear() {
			t.Errorf("%s: %s is %v", j.Method, x.Name, x.Type)
		}
	}
	share := map[string]float64{"W8A16": 1e-2, "W4A16_ASYM": 0.5}[j.Scheme]
	if sensitive(t, src.Reader.Path()) {
		share = map[string]float64{"W8A16": 4e-2, "W4A16_ASYM": 0.8}[j.Scheme]
	}
	if off := apart(src, logits(t, made, ids), want); !(off < share*dot(want, want)) {
		t.Errorf("%s %s: logits are off by %g of %g", j.Method, j.Scheme, off, dot(want, want))
	}
	for _, l := range r.Layers {
		if l.Fallback != "" && l.Experts == 0 { // an expert that the text leaves out has nothing to go by
			t.Errorf("%s: %s: %s", j.Method, l.Layer, l.Fallback)
		}
	}
}

// sensitive reports whether the logits of a case move by more than 1e-3 when every
// weight moves by a millionth, as the case says: twice as far as those of the others.
func sensitive(t *testing.T, dir string) bool {
	t.Helper()
	var g map[string]any
	if err := json.Unmarshal(testdir.ReadFile(t, filepath.Join(dir, "golden.json")), &g); err != nil {
		t.Fatal(err)
	}
	move, _ := g["logits change when every weight moves by 1e-6 (relative)"].(float64)
	return move > 1e-3
}

// apart is the distance of logits, of a model with routers without the quarter of
// the tokens that are farthest off: one whose two best experts score alike goes to
// another after the least change, and then computes something else. So does one that
// sees other keys, of a model that picks keys, too: without the half.
func apart(src *arch.Source, got, want []float32) (sum float64) {
	var tokens []float64
	for i := 0; i < len(want); i += src.Spec.V {
		tokens = append(tokens, distance(got[i:i+src.Spec.V], want[i:i+src.Spec.V]))
	}
	slices.Sort(tokens)
	if slices.ContainsFunc(src.Tensors(), func(x *arch.Tensor) bool { return x.Role == arch.Router }) {
		tokens = tokens[:len(tokens)-len(tokens)/4]
	}
	if slices.ContainsFunc(src.Tensors(), func(x *arch.Tensor) bool { return x.Role == arch.IndexQ }) {
		tokens = tokens[:len(tokens)*2/3]
	}
	for _, d := range tokens {
		sum += d
	}
	return sum
}

// checkImatrix: every linear map has sums for what it read, of experts for each
// what was sent there.
func checkImatrix(t *testing.T, src *arch.Source, cal [][]int32) {
	t.Helper()
	im, err := CollectImatrix(context.Background(), cpu.New(cpu.Options{}), src, cal, ImatrixOptions{})
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]gguf.ImatrixEntry{}
	for _, e := range im.Entries {
		entries[e.Name] = e
	}
	for _, x := range src.Tensors() {
		if !x.IsLinear() {
			continue
		}
		for _, f := range x.AsGGUF() {
			e := entries[f.Name]
			seen, tokens := float32(0), float32(len(cal)*len(cal[0]))
			both := (x.Role == arch.K || x.Role == arch.V) && x.Layer >= src.Spec.Encoder && src.Architecture() == "t5gemma2"
			if src.Spec.Encoder > 0 && !both { // half of each text is the encoder's
				tokens /= 2
			}
			for _, n := range e.Counts {
				seen += n
			}
			if n := f.Matrices(); n == 0 || x.Experts == 0 { // transposed, or the heads of latent attention, which read the same
				tokens *= float32(n)
			}
			if len(e.Counts) != f.Matrices() || len(e.Sums) != len(e.Counts)*x.Cols || seen < tokens || x.Experts == 0 && seen != tokens || tokens > 0 && int(seen)%int(tokens) != 0 {
				t.Errorf("%s: %d sums of %v rows, %g tokens", f.Name, len(e.Sums), e.Counts, tokens)
			}
		}
	}
}

// relative is the sum of the layers' relative errors.
func relative(r *Report) (sum float64) {
	for _, l := range r.Layers {
		sum += l.Relative
	}
	return sum
}

// again makes the folder of a job once more, stopped in the middle, and wants the
// same files.
func again(t *testing.T, model string, cal [][]int32, j FolderJob) {
	t.Helper()
	first := hashes(t, j.Path)
	j.Path += "-again"
	ctx, stop := context.WithCancel(context.Background())
	src := openSource(t, model)
	_, err := Folder(ctx, cpu.New(cpu.Options{}), src, []FolderJob{j}, cal, func(done, total int64) {
		if done > total/2 {
			stop()
		}
	})
	if fail.Code(err) != int(fail.Interrupted) {
		t.Fatalf("stopped: %v", err)
	}
	dev := cpu.New(cpu.Options{})
	if _, err := Folder(context.Background(), dev, src, []FolderJob{j}, cal, nil); err != nil {
		t.Fatal(err)
	}
	same(t, j.Method+" taken up again", hashes(t, j.Path), first)
	if now := dev.Info().Mem.Now; kernels.Total(now) != 0 {
		t.Errorf("memory is left: %v", now)
	}
}
