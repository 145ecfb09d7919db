package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/lora"
)

// goldenDistill is what TRL computed.
type goldenDistill struct {
	Micro int `json:"micro_batch_of_model_cases"`
	Cases []struct {
		Name, Kind, Reduction string
		Beta, Temperature     float64
		Items                 *float64 `json:"num_items_in_batch"`
		Args                  struct {
			Beta        float64
			Temperature *float64
			Items       *float64 `json:"num_items_in_batch"`
			Bias        bool
			Scale       *float64 `json:"student_logit_scale"`
			Cap         float32  `json:"student_final_logit_softcapping"`
			TeacherCap  float32  `json:"teacher_final_logit_softcapping"`
		}
		Loss    float64
		Entropy float64 `json:"entropy_sum"`
	}
}

// labels reads an I32 tensor of the reference.
func labels(t *testing.T, path, name string) []int32 {
	t.Helper()
	r, err := formats.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	list := r.Tensors()
	for i := range list {
		if list[i].Name != name {
			continue
		}
		raw, err := r.Read(&list[i])
		if err != nil {
			t.Fatal(err)
		}
		out := make([]int32, len(raw)/4)
		copy(kernels.Bytes(out), raw)
		return out
	}
	t.Fatalf("%s has no %s", path, name)
	return nil
}

func within(t *testing.T, what string, got []float32, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	worst := 0.0
	for i, w := range want {
		worst = max(worst, math.Abs(float64(got[i])-float64(w)))
	}
	if !(worst <= 1e-5) {
		t.Errorf("%s differs by %.2g", what, worst)
	}
}

// TestGoldenDivergence compares the loss on logits, and its gradient, with GKD's.
func TestGoldenDivergence(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/distill")
	var g goldenDistill
	readJSON(t, filepath.Join(dir, "distill.json"), &g)
	file := filepath.Join(dir, "distill.safetensors")
	tensors, label := arrays(t, file), labels(t, file, "labels")
	dev, n := device(t), len(label)
	compared := 0
	for _, c := range g.Cases {
		if c.Kind != "gkd" {
			continue
		}
		compared++
		v := len(tensors["student_logits"]) / n
		valid := 0.0
		for _, l := range label {
			valid += b2f(l != -100)
		}
		by := map[string]float64{"batchmean": valid, "sum": 1, "mean": valid * float64(v)}[c.Reduction]
		if c.Items != nil {
			by = *c.Items
		}
		coef := make([]float32, n)
		for i, l := range label {
			coef[i] = float32(b2f(l != -100) / by)
		}
		err := dev.Run(func() error {
			tape := &autograd.Tape{Dev: dev, Record: true}
			defer tape.Free()
			x := tape.Input(tensors["student_logits"], n, v)
			s := float32(1 / c.Temperature)
			loss, _ := tape.Divergence(x, autograd.DivergenceSpec{Scale: s, TeacherScale: s, Beta: float32(c.Beta), Teacher: tape.Upload(tensors["teacher_logits"], n, v)}, tape.Upload(coef, n))
			rows, err := tape.Values(loss)
			if err != nil {
				return err
			}
			sum := 0.0
			for i, l := range rows {
				sum += float64(coef[i]) * float64(l)
			}
			if !(math.Abs(sum-c.Loss) <= 1e-5*max(1, math.Abs(c.Loss))) {
				t.Errorf("%s: loss %v, want %v", c.Name, sum, c.Loss)
			}
			got, err := tape.GradOf(x)
			within(t, c.Name, got, tensors[c.Name+".grad"])
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if compared != 14 {
		t.Errorf("%d cases", compared)
	}
}

// TestGoldenHeads compares the loss on hidden states and heads of two models, with
// bias, scale and soft caps, and its gradients, with DistillationTrainer's.
func TestGoldenHeads(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/distill")
	var g goldenDistill
	readJSON(t, filepath.Join(dir, "distill.json"), &g)
	file := filepath.Join(dir, "distill.safetensors")
	tensors, mask := arrays(t, file), labels(t, file, "chunked.mask")
	dev, n, v := device(t), len(mask), 60
	compared := 0
	for _, c := range g.Cases {
		if c.Kind != "chunked" {
			continue
		}
		compared++
		a := c.Args
		scale, temperature, valid := float32(1), float32(1), 0.0
		if a.Scale != nil {
			scale = float32(*a.Scale)
		}
		if a.Temperature != nil {
			temperature = float32(*a.Temperature)
		}
		for _, m := range mask {
			valid += float64(m)
		}
		if a.Items != nil {
			valid = *a.Items
		}
		coef := make([]float32, n)
		for i, m := range mask {
			coef[i] = float32(float64(m) / valid)
		}
		param := func(name string, rows int, trains bool) *autograd.Param {
			cols := len(tensors[name]) / rows
			m, err := dev.Load(kernels.Weights, dtype.Of(dtype.F32), rows, cols, kernels.Bytes(tensors[name]), kernels.Copy)
			if err != nil {
				t.Fatal(err)
			}
			p := &autograd.Param{Name: name, Mat: m}
			if trains {
				if p.Grad, err = dev.Alloc(kernels.Gradients, dtype.Of(dtype.F32), rows*cols); err != nil {
					t.Fatal(err)
				}
				dev.Fill(p.Grad, 0)
			}
			return p
		}
		head, theirs := param("chunked.student_head", v, true), param("chunked.teacher_head", v, false)
		var bias *autograd.Param
		if a.Bias {
			bias = param("chunked.student_bias", 1, true)
		}
		err := dev.Run(func() error {
			tape := &autograd.Tape{Dev: dev, Record: true}
			defer tape.Free()
			x := tape.Input(tensors["chunked.student_hidden"], n, 16)
			y := tape.Upload(tensors["chunked.teacher_hidden"], n, 24)
			sum, entropy := 0.0, 0.0
			tape.Parts(x, 3, func(part *autograd.Tape, x *autograd.Tensor, from int) {
				m := x.Rows()
				logits := capped(part, part.Scale(part.LinearWide(x, head, bias), scale), a.Cap)
				teacher := capped(part, part.LinearWide(part.View(y, from, m), theirs, nil), a.TeacherCap)
				spec := autograd.DivergenceSpec{Scale: 1 / temperature, TeacherScale: 1 / temperature, Beta: float32(a.Beta), Teacher: teacher}
				loss, h := part.Divergence(logits, spec, part.Upload(coef[from:from+m], m))
				rows, err := part.Values(loss)
				part.Fail(err)
				each, err := part.Values(h)
				part.Fail(err)
				for i := range rows {
					sum += float64(coef[from+i]) * float64(rows[i])
					entropy += float64(mask[from+i]) * float64(each[i])
				}
			})
			if !(math.Abs(sum-c.Loss) <= 1e-5) || !(math.Abs(entropy-c.Entropy) <= 1e-5*c.Entropy) {
				t.Errorf("%s: loss %v, want %v; entropy %v, want %v", c.Name, sum, c.Loss, entropy, c.Entropy)
			}
			if err := tape.Backward(); err != nil {
				return err
			}
			got, err := tape.GradOf(x)
			within(t, c.Name+": hidden states", got, tensors[c.Name+".grad_hidden"])
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		within(t, c.Name+": head", values(t, dev, head.Grad), tensors[c.Name+".grad_head"])
		if bias != nil {
			within(t, c.Name+": bias", values(t, dev, bias.Grad), tensors[c.Name+".grad_bias"])
		}
	}
	if compared != 7 {
		t.Errorf("%d cases", compared)
	}
}

// capped is cap·tanh(x/cap), x where cap is 0.
func capped(t *autograd.Tape, x *autograd.Tensor, cap float32) *autograd.Tensor {
	if cap == 0 {
		return x
	}
	return t.Scale(t.Act(autograd.ActSpec{Kind: kernels.Tanh}, t.Scale(x, 1/cap), nil), cap)
}

// goldenTeacher is a job whose student is the reference's model with its adapter,
// and whose teacher is that model without.
func goldenTeacher(t *testing.T, c Config, micro int) Job {
	t.Helper()
	dir := testdir.Shared(t, "golden/train/lora")
	load := func() *model.Model {
		src, err := arch.Open(filepath.Join(dir, "base-llama"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { src.Close() })
		m, err := model.Load(device(t), src, model.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		return m
	}
	m := load()
	c.Objective, c.LoRA.InitFrom, c.DType, c.SaveSteps = "distill", filepath.Join(dir, "lora/adapter"), "f32", Every{Steps: 1000}
	c.MicroBatchSize, c.GradientAccumulationSteps = 1000, 1
	c, err := c.Resolve(1)
	if err != nil {
		t.Fatal(err)
	}
	ad, err := lora.Start(m, c.LoRA, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ad.Close)
	var batches struct {
		Micro []goldenBatch `json:"micro_batches"`
	}
	readJSON(t, filepath.Join(dir, "batches.json"), &batches)
	id := uint64(1)
	j := Job{Config: c, Model: m, Adapter: ad, Teacher: load(), MaxLength: 256, Packing: "none", Dir: t.TempDir()}
	j.Train = data.InMemory(batches.Micro[micro].examples(&id)...)
	return j
}

// TestGoldenDistill compares the loss of a model and its teacher, and the gradients
// of its adapter, with GKDTrainer's, with the teacher at hand and with all it expects
// kept as its most likely tokens.
func TestGoldenDistill(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/distill")
	var g goldenDistill
	readJSON(t, filepath.Join(dir, "distill.json"), &g)
	grads := arrays(t, filepath.Join(dir, "distill.safetensors"))
	compared := 0
	for _, c := range g.Cases {
		if c.Kind != "model" {
			continue
		}
		compared++
		t.Run(fmt.Sprint(c.Name), func(t *testing.T) {
			j := goldenTeacher(t, Config{Preferences: Preferences{Beta: &c.Beta}}, g.Micro)
			r, m := firstStep(t, j)
			if !(math.Abs(m.Loss-c.Loss) <= 1e-5) {
				t.Errorf("loss %v, want %v", m.Loss, c.Loss)
			}
			compareGradients(t, r, c.Name, grads, 2)
		})
	}
	if compared != 4 {
		t.Errorf("%d cases", compared)
	}
}

// TestTeach: a teacher kept as all of its tokens gives the loss and gradients that it
// gives in person, one kept as a few of them less of a divergence; it is asked once, and
// again where another is.
func TestTeach(t *testing.T) {
	whole := goldenTeacher(t, Config{Preferences: Preferences{Beta: ptr(0.5)}}, 3)
	v := whole.Model.Spec.V
	path := filepath.Join(t.TempDir(), "teacher.arrow")
	asked := 0
	step := func(k int, key string) Metrics {
		j := goldenTeacher(t, Config{Preferences: Preferences{Beta: ptr(0.5)}, LossTopK: k}, 3)
		if k > 0 {
			teacher := j.Teacher
			j.Teacher = nil
			var err error
			j.Train, err = Teach(t.Context(), j.Config, path, key, j.Train, v, func() (*model.Model, error) { asked++; return teacher, nil }, func(_, _ int64) {})
			if err != nil {
				t.Fatal(err)
			}
		}
		_, m := firstStep(t, j)
		return m
	}
	want, all := step(0, ""), step(v, "a")
	if !(math.Abs(all.Loss-want.Loss) <= 1e-6) || !(math.Abs(all.GradNorm/want.GradNorm-1) <= 1e-5) {
		t.Errorf("of all %d tokens: loss %v and norm %v, want %v and %v", v, all.Loss, all.GradNorm, want.Loss, want.GradNorm)
	}
	few := step(8, "a")
	if again := step(8, "a"); again.Loss != few.Loss || !(few.Loss < want.Loss) || !(few.Loss > want.Loss/2) || asked != 2 {
		t.Errorf("of 8 tokens: loss %v, again %v, of all %v; asked %d times", few.Loss, again.Loss, want.Loss, asked)
	}
	if step(8, "b"); asked != 3 {
		t.Errorf("another teacher: asked %d times", asked)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	larger := goldenTeacher(t, Config{LossTopK: 8}, 3)
	_, err = Teach(t.Context(), larger.Config, path, "c", larger.Train, v-1, func() (*model.Model, error) { return larger.Teacher, nil }, func(_, _ int64) {})
	if fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), fmt.Sprintf("the teacher has %d tokens, the model %d", v, v-1)) {
		t.Errorf("a teacher of more tokens: %v", err)
	}
	j := goldenTeacher(t, Config{LossTopK: 8}, 3)
	ex, err := data.WithTaught(path, "b 8 1", j.Train, 8, 1) // every token but 0 is one too many
	if err == nil {
		_, err = ex.Read(ex.Len())
	}
	if !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "sample 0: token ") {
		t.Errorf("tokens that the model has not: error %v", err)
	}
	for i := 0; i < len(raw); i += len(raw)/60 + 1 {
		bad := slices.Clone(raw)
		bad[i] ^= 0x55
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		ex, err := data.WithTaught(path, "b 8 1", j.Train, 8, v)
		if err == nil {
			_, err = ex.Read(ex.Len())
		}
		if err != nil && !errors.Is(err, formats.ErrCorrupt) && !errors.Is(err, data.ErrOtherTeacher) {
			t.Errorf("byte %d: error %v", i, err)
		}
	}
}

// TestTopK compares losses and gradient norms of a teacher that is kept as its likeliest tokens
// with the divergence of these and of all others as one outcome:
// python3 cmd/tune/interop/trl_losses.py ../shared/data/golden/train top_k (torch, float64).
func TestTopK(t *testing.T) {
	var cases []struct {
		K           int `json:"loss_top_k"`
		Beta        float64
		Temperature float64
		Loss        float64
		GradNorm    float64 `json:"grad_norm"`
	}
	readJSON(t, "testdata/top_k.json", &cases)
	if len(cases) != 6 {
		t.Errorf("%d cases", len(cases))
	}
	for _, c := range cases {
		j := goldenTeacher(t, Config{Preferences: Preferences{Beta: &c.Beta}, LossTopK: c.K, Temperature: &c.Temperature}, 3)
		teacher := j.Teacher
		j.Teacher = nil
		var err error
		if j.Train, err = Teach(t.Context(), j.Config, filepath.Join(t.TempDir(), "teacher.arrow"), "a", j.Train, j.Model.Spec.V, func() (*model.Model, error) { return teacher, nil }, func(_, _ int64) {}); err != nil {
			t.Fatal(err)
		}
		if _, m := firstStep(t, j); !(math.Abs(m.Loss-c.Loss) <= 1e-5) || !(math.Abs(m.GradNorm/c.GradNorm-1) <= 1e-4) {
			t.Errorf("%+v: loss %v, gradient norm %v", c, m.Loss, m.GradNorm)
		}
	}
}

// TestDistillRefused: teachers of other tokens, and keys that do not go together.
func TestDistillRefused(t *testing.T) {
	refused := func(what string, err error, words string) {
		t.Helper()
		if fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: error %v, want %q", what, err, words)
		}
	}
	_, err := Config{Objective: "distill", Preferences: Preferences{Beta: ptr(1.5)}}.Resolve(1)
	refused("beta", err, "mixes model and teacher by beta")
	_, err = Config{LossTopK: 4}.Resolve(1)
	refused("loss_top_k", err, "belongs to objective: distill")
	_, err = Config{Temperature: ptr(0.5)}.Resolve(1)
	refused("temperature", err, "temperature belongs to objective: distill, grpo")
	j := goldenTeacher(t, Config{}, 3)
	j.Teacher.Spec.V++
	_, err = Run(context.Background(), j)
	refused("tokens", err, "the teacher has")
}

// TestGoldenULD compares the loss of ranks, and its gradient, with GOLD's ULDLoss of a
// teacher whose vocabulary is larger by 11. It is a mean over samples of means over their
// tokens there. `observed` is TRL's default, which reads the logits at a token's own
// place, one too late.
func TestGoldenULD(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/distill")
	var g struct {
		Cases []struct {
			Name, Kind string
			Args       struct {
				Merge string   `json:"uld_token_merge_strategy"`
				CE    float64  `json:"uld_crossentropy_weight"`
				W     *float64 `json:"uld_distillation_weight"`
				Own   *float64 `json:"uld_student_temperature"`
				Its   *float64 `json:"uld_teacher_temperature"`
				Skip  bool     `json:"uld_skip_student_eos"`
			}
			Loss float64
		}
	}
	readJSON(t, filepath.Join(dir, "distill.json"), &g)
	file := filepath.Join(dir, "distill.safetensors")
	tensors, label := arrays(t, file), labels(t, file, "labels")
	const samples = 2
	n := len(label)
	v, tv := len(tensors["student_logits"])/n, len(tensors["uld.teacher_logits"])/n
	dev, compared := device(t), 0
	for _, c := range g.Cases {
		if c.Kind != "uld" {
			continue
		}
		compared++
		var groups [][2]int32
		var coef, weights []float32
		tokens, target := make([]int32, n), make([]int32, n)
		supervised := 0.0
		for i := range target {
			if target[i] = -1; i%(n/samples) < n/samples-1 && label[i+1] >= 0 {
				target[i] = label[i+1]
				supervised++
			}
		}
		for s := range samples {
			var at []int32
			for i := s * n / samples; i < (s+1)*n/samples; i++ {
				if label[i] >= 0 {
					at = append(at, int32(i))
				}
			}
			if c.Args.Skip {
				at = at[:len(at)-1]
			}
			for _, i := range at {
				if c.Args.Merge != "observed" {
					i--
				}
				groups = append(groups, [2]int32{i, i + 1})
				coef = append(coef, float32(value(c.Args.W, 1)/float64(len(at))/samples))
			}
		}
		for _, k := range target {
			weights = append(weights, float32(b2f(k >= 0)*c.Args.CE/supervised))
		}
		err := dev.Run(func() error {
			tape := &autograd.Tape{Dev: dev, Record: true}
			defer tape.Free()
			x := tape.Input(tensors["student_logits"], n, v)
			teacher := autograd.Ranks(tensors["uld.teacher_logits"], tv, groups, tokens, float32(1/value(c.Args.Its, 1)))
			sum := 0.0
			for i, l := range tape.Ranked(x, autograd.RankedSpec{Groups: groups, Tokens: tokens, Scale: float32(1 / value(c.Args.Own, 1)), Teacher: teacher}, coef) {
				sum += float64(coef[i]) * float64(l)
			}
			got, err := tape.GradOf(x)
			if err != nil {
				return err
			}
			for i, k := range target { // cross entropy, by hand
				if k < 0 || weights[i] == 0 {
					continue
				}
				row := tensors["student_logits"][i*v : (i+1)*v]
				total := 0.0
				for _, z := range row {
					total += math.Exp(float64(z))
				}
				for j, z := range row {
					got[i*v+j] += weights[i] * float32(math.Exp(float64(z))/total-b2f(j == int(k)))
				}
				sum += float64(weights[i]) * (math.Log(total) - float64(row[k]))
			}
			if !(math.Abs(sum-c.Loss) <= 1e-5) {
				t.Errorf("%s: loss %v, want %v", c.Name, sum, c.Loss)
			}
			within(t, c.Name, got, tensors[c.Name+".grad"])
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if compared != 4 {
		t.Errorf("%d cases", compared)
	}
}
