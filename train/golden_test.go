package train

import (
	"cmp"
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/lora"
)

// goldenBatch is a padded batch as the reference stored it.
type goldenBatch struct {
	IDs    [][]int32 `json:"input_ids"`
	Labels [][]int32 `json:"labels"`
	Mask   [][]int32 `json:"attention_mask"`
}

type goldenHyper struct {
	Steps       int
	MicroBatch  int     `json:"micro_batch"`
	GradAccum   int     `json:"grad_accum"`
	LR          float64 `json:"lr"`
	Betas       [2]float64
	Eps         float64
	WeightDecay float64 `json:"weight_decay"`
	MaxGradNorm float64 `json:"max_grad_norm"`
	WarmupSteps int     `json:"warmup_steps"`
	PlusLR      float64 `json:"loraplus_lr"`
	PlusRatio   float64 `json:"loraplus_ratio"`
}

type goldenCurve struct {
	Base  string
	Hyper goldenHyper
	Curve []struct {
		Loss     float64
		GradNorm float64         `json:"grad_norm"`
		LR       json.RawMessage `json:"lr"`
		NumItems int64           `json:"num_items"`
	}
	Final  map[string]fingerprint `json:"final_weights"`
	Looked [2]int                 `json:"calibration_micro_batches"` // first, after the last
}

// fingerprint is a few numbers of a tensor.
type fingerprint struct {
	Shape   []int
	L2      float64
	Stride  int
	Samples []float64
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		t.Fatal(path, err)
	}
}

// examples turns padded rows into samples, in order.
func (b goldenBatch) examples(id *uint64) []data.Example {
	var out []data.Example
	for i, row := range b.IDs {
		e := data.Example{ID: *id}
		*id++
		for j, token := range row {
			if b.Mask[i][j] == 0 {
				break
			}
			e.IDs = append(e.IDs, token)
			if b.Labels[i][j] == -100 {
				continue
			}
			if n := len(e.Loss); n > 0 && e.Loss[n-1][1] == int32(j) {
				e.Loss[n-1][1]++
			} else {
				e.Loss = append(e.Loss, [2]int32{int32(j), int32(j + 1)})
			}
		}
		out = append(out, e)
	}
	return out
}

// variant is one reference run and how it is made here.
type variant struct {
	name      string
	set       string      // folder of the reference; empty: lora
	kind      AdapterName // empty: lora
	base      string      // folder; empty: the one curve.json names
	hold      *dtype.Type
	config    lora.Config
	lossTol   float64
	normTol   float64
	full      bool
	bf16      bool
	plus      bool
	aux       *float64 // router_aux_loss_coef
	fresh     bool     // a new adapter, not the reference's first one
	recompute bool     // gradient checkpointing
	label     string
	// of the final adapter, RMS; 0: 2e-5
	adapterTol float64
}

// dir is the folder of v in the reference.
func (v variant) dir(t *testing.T) string {
	return filepath.Join(testdir.Shared(t, "golden/train"), cmp.Or(v.set, "lora"), v.name)
}

// goldenJob loads a variant's base and adapter and lays out its batches.
func goldenJob(t *testing.T, v variant) (Job, goldenCurve, *lora.Adapter) {
	t.Helper()
	dir := testdir.Shared(t, "golden/train/lora")
	own := v.dir(t)
	var c goldenCurve
	readJSON(t, filepath.Join(own, "curve.json"), &c)
	var batches struct {
		Micro []goldenBatch `json:"micro_batches"`
	}
	readJSON(t, filepath.Join(dir, "batches.json"), &batches)
	if v.base == "" {
		v.base = strings.TrimPrefix(c.Base, "lora/")
	}
	src, err := arch.Open(filepath.Join(dir, v.base))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	if !v.full && !v.fresh {
		f, err := lora.ReadFolder(filepath.Join(own, "adapter-init"))
		if err == nil {
			err = lora.Grow(src, f)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	m, err := model.Load(device(t), src, model.Options{Hold: v.hold, Trainable: v.full})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	h := c.Hyper
	conf := Config{
		Adapter: "lora", DType: "f32", MicroBatchSize: h.MicroBatch, GradientAccumulationSteps: h.GradAccum, MaxSteps: h.Steps,
		LearningRate: &h.LR, LRScheduler: "cosine", WarmupSteps: &h.WarmupSteps, AdamBeta1: &h.Betas[0], AdamBeta2: &h.Betas[1],
		AdamEpsilon: &h.Eps, WeightDecay: h.WeightDecay, MaxGradNorm: &h.MaxGradNorm, SaveSteps: Every{Steps: 1000},
	}
	conf.RouterAuxLossCoef = v.aux
	if v.full {
		conf.Adapter = "none"
	}
	if v.bf16 {
		conf.DType = "bf16"
	}
	if v.recompute {
		conf.GradientCheckpointing = "true"
	}
	if v.plus { // PEFT's LoRA+ leaves weight decay out
		conf.LearningRate = &h.PlusLR
	}
	var ad *lora.Adapter
	if !v.full {
		conf.LoRA, conf.Adapter = v.config, cmp.Or(v.kind, "lora")
		from, _ := conf.Init()
		if !v.fresh {
			*from = filepath.Join(own, "adapter-init")
		}
	}
	conf, err = conf.Resolve(1)
	if err != nil {
		t.Fatal(err)
	}
	if !v.full {
		look, id := []data.Example{}, uint64(1)
		if v.fresh && c.Looked[1] > 0 {
			for _, b := range batches.Micro[c.Looked[0]:c.Looked[1]] {
				look = append(look, b.examples(&id)...)
			}
		}
		if ad, err = conf.Start(m, data.InMemory(look...)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(ad.Close)
	}
	j := Job{Config: conf, Model: m, Adapter: ad, MaxLength: 256, Packing: "none", Dir: t.TempDir(), Log: func(s string) { t.Log(s) }}
	id := uint64(1)
	var ex []data.Example
	for _, b := range batches.Micro {
		ex = append(ex, b.examples(&id)...)
	}
	j.Train = data.InMemory(ex...)
	return j, c, ad
}

// TestGoldenCurves trains each variant for the reference's 30 steps and
// compares loss and gradient norm of every step.
func TestGoldenCurves(t *testing.T) {
	for _, v := range variants {
		t.Run(cmp.Or(v.label, v.name), func(t *testing.T) {
			j, c, ad := goldenJob(t, v)
			if _, err := Run(context.Background(), j); err != nil {
				t.Fatal(err)
			}
			steps, _, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
			if err != nil {
				t.Fatal(err)
			}
			if len(steps) != len(c.Curve) {
				t.Fatalf("%d steps, want %d", len(steps), len(c.Curve))
			}
			worstLoss, worstNorm := 0.0, 0.0
			for i, m := range steps {
				w := c.Curve[i]
				if m.Supervised != w.NumItems {
					t.Fatalf("step %d: %d supervised tokens, want %d", i, m.Supervised, w.NumItems)
				}
				worstLoss = max(worstLoss, math.Abs(m.Loss-w.Loss))
				worstNorm = max(worstNorm, math.Abs(m.GradNorm/w.GradNorm-1))
			}
			t.Logf("%s: loss within %.2g, gradient norm within %.2g", v.name, worstLoss, worstNorm)
			if !(worstLoss <= v.lossTol) || !(worstNorm <= v.normTol) {
				t.Errorf("loss within %.2g (allowed %.2g), gradient norm within %.2g (allowed %.2g)", worstLoss, v.lossTol, worstNorm, v.normTol)
			}
			if v.fresh { // signs of singular vectors are free, and what is saved is of twice the rank
				return
			}
			if ad != nil {
				compareAdapter(t, v, ad, cmp.Or(v.adapterTol, 2e-5))
			} else {
				compareWeights(t, c, j.Model)
				compareSaved(t, v.name, c.Base, j.Model)
			}
		})
	}
}

// TestGoldenTrainer: losses, gradient norms and rates are those of
// transformers.Trainer itself on the same batches (lora/trainer_check.json).
func TestGoldenTrainer(t *testing.T) {
	var trainer map[string]struct {
		Loss []float64 `json:"trainer_loss"`
		Norm []float64 `json:"trainer_grad_norm"`
		LR   []float64 `json:"trainer_lr"`
	}
	readJSON(t, filepath.Join(testdir.Shared(t, "golden/train/lora"), "trainer_check.json"), &trainer)
	for _, name := range []string{"lora", "full"} {
		j, _, _ := goldenJob(t, variant{name: name, full: name == "full"})
		if _, err := Run(t.Context(), j); err != nil {
			t.Fatal(err)
		}
		steps, _, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
		if err != nil {
			t.Fatal(err)
		}
		want := trainer[name]
		if len(steps) != len(want.Loss) || len(want.Loss) != 30 {
			t.Fatalf("%s: %d steps, Trainer made %d", name, len(steps), len(want.Loss))
		}
		for i, m := range steps {
			if math.Abs(m.Loss-want.Loss[i]) > 1e-5 || math.Abs(m.GradNorm/want.Norm[i]-1) > 5e-4 || math.Abs(m.LearningRate-want.LR[i]) > 1e-9 {
				t.Errorf("%s step %d: loss %v, norm %v, rate %v; Trainer has %v, %v, %v", name, i, m.Loss, m.GradNorm, m.LearningRate, want.Loss[i], want.Norm[i], want.LR[i])
			}
		}
	}
}

// variants lists what is replayed, with the tolerances the reference states.
var variants = []variant{
	{name: "lora", lossTol: 1e-5, normTol: 5e-4},
	{name: "lora", label: "lora recomputed", recompute: true, lossTol: 1e-5, normTol: 5e-4},
	{name: "rslora", lossTol: 1e-5, normTol: 5e-4},
	{name: "dora", lossTol: 1e-5, normTol: 5e-4},
	{name: "dora", label: "dora recomputed", recompute: true, lossTol: 1e-5, normTol: 5e-4},
	{name: "patterns", lossTol: 1e-5, normTol: 5e-4},
	{name: "layers_to_transform", lossTol: 1e-5, normTol: 5e-4},
	{name: "loraplus", lossTol: 1e-5, normTol: 5e-4, plus: true, config: lora.Config{LoRAPlusLRRatio: 16}},
	{name: "tied_lora", lossTol: 1e-5, normTol: 5e-4},
	{name: "lora_bias", lossTol: 1e-5, normTol: 5e-4},
	{name: "modules_to_save", lossTol: 1e-5, normTol: 5e-4},
	{name: "qlora_f32", base: "qlora_f32/base-nf4", lossTol: 1e-5, normTol: 5e-4},
	{name: "qlora_bf16", base: "qlora_bf16/base-nf4", bf16: true, lossTol: 5e-3, normTol: 5e-2, adapterTol: 1e-3},
	// Quantized by us: bitsandbytes' own table for nested scales is not nearest.
	{name: "qlora_f32", label: "qlora_f32 quantized here", base: "base-llama", hold: &dtype.NF4Double, lossTol: 2e-3, normTol: 2e-2, adapterTol: 2e-4},
	{name: "pissa", fresh: true, config: lora.Config{R: 8, Alpha: 16, InitWeights: lora.InitPiSSA}, lossTol: 1e-5, normTol: 5e-4},
	{name: "olora", fresh: true, config: lora.Config{R: 8, Alpha: 16, InitWeights: lora.InitOLoRA}, lossTol: 1e-5, normTol: 5e-4},
	{name: "loftq", hold: &dtype.Type{Kind: dtype.NF4, Group: 64}, lossTol: 1e-5, normTol: 5e-4},
	{name: "loftq", label: "loftq begun here", fresh: true, kind: "qlora", hold: &dtype.Type{Kind: dtype.NF4, Group: 64}, config: lora.Config{R: 8, Alpha: 8, InitWeights: lora.InitLoftQ}, lossTol: 1e-5, normTol: 5e-4},
	{name: "lora_embedding", lossTol: 1e-5, normTol: 5e-4},
	{name: "corda_ipm", set: "lora2", fresh: true, config: lora.Config{R: 8, Alpha: 16, TargetModules: lora.Targets{Names: []string{"q_proj", "v_proj", "down_proj"}}, InitWeights: lora.InitCorDA}, lossTol: 1e-5, normTol: 5e-4},
	{name: "corda_kpm", set: "lora2", fresh: true, config: lora.Config{R: 8, Alpha: 16, TargetModules: lora.Targets{Names: []string{"q_proj", "v_proj", "down_proj"}}, InitWeights: lora.InitCorDA, CorDA: &lora.CorDA{Method: "kpm"}}, lossTol: 1e-5, normTol: 5e-4},
	{name: "vocab_resize", lossTol: 1e-5, normTol: 5e-4},
	{name: "moe_aux", aux: new(0.02), lossTol: 1e-5, normTol: 5e-4},
	{name: "moe_aux", label: "moe_aux recomputed", recompute: true, aux: new(0.02), lossTol: 1e-5, normTol: 5e-4},
	{name: "moe_noaux", lossTol: 1e-5, normTol: 5e-4},
	{name: "moe_experts", lossTol: 1e-5, normTol: 5e-4},
	{name: "qdora", set: "lora2", base: "qlora_f32/base-nf4", lossTol: 1e-5, normTol: 5e-4},
	{name: "eva", set: "lora2", lossTol: 1e-5, normTol: 5e-4},
	{name: "eva_rho1", set: "lora2", lossTol: 1e-5, normTol: 5e-4},
	{name: "ia3", set: "lora2", kind: "ia3", lossTol: 1e-5, normTol: 5e-4},
	{name: "vera", set: "lora2", kind: "vera", lossTol: 1e-5, normTol: 5e-4},
	{name: "vera_noproj", set: "lora2", kind: "vera", lossTol: 1e-5, normTol: 5e-4},
	{name: "loha", set: "lora2", kind: "loha", lossTol: 1e-5, normTol: 5e-4},
	{name: "lokr", set: "lora2", kind: "lokr", lossTol: 1e-5, normTol: 5e-4},
	{name: "lokr_full", set: "lora2", kind: "lokr", lossTol: 1e-5, normTol: 5e-4},
	{name: "lokr_lycoris", set: "lora2", kind: "lokr", lossTol: 1e-5, normTol: 5e-4},
	{name: "oft", label: "oft recomputed", recompute: true, set: "lora2", kind: "oft", lossTol: 1e-5, normTol: 5e-4},
	{name: "oft_exact", set: "lora2", kind: "oft", lossTol: 1e-5, normTol: 5e-4},
	{name: "oft_r", set: "lora2", kind: "oft", lossTol: 1e-5, normTol: 5e-4},
	{name: "oft_share", set: "lora2", kind: "oft", lossTol: 1e-5, normTol: 5e-4},
	{name: "oft_coft", set: "lora2", kind: "oft", lossTol: 1e-5, normTol: 5e-4},
	{name: "boft", set: "lora2", kind: "boft", lossTol: 1e-5, normTol: 5e-4},
	{name: "boft_num", set: "lora2", kind: "boft", lossTol: 1e-5, normTol: 5e-4},
	{name: "boft_butterfly", set: "lora2", kind: "boft", lossTol: 1e-5, normTol: 5e-4},
	{name: "miss", set: "lora2", kind: "miss", lossTol: 1e-5, normTol: 5e-4},
	{name: "miss_mini", set: "lora2", kind: "miss", lossTol: 1e-5, normTol: 5e-4},
	{name: "miss_bat", set: "lora2", kind: "miss", lossTol: 1e-5, normTol: 5e-4},
	{name: "full", full: true, lossTol: 1e-5, normTol: 5e-4},
	{name: "full_tied", full: true, lossTol: 1e-5, normTol: 5e-4},
}

// compareAdapter compares final values with the reference's adapter folder.
func compareAdapter(t *testing.T, v variant, ad *lora.Adapter, tol float64) {
	t.Helper()
	saved := filepath.Join(t.TempDir(), "saved")
	if err := ad.Save(saved, lora.SaveOptions{Base: "base"}); err != nil {
		t.Fatal(err)
	}
	name, got := v.name, arrays(t, filepath.Join(saved, "adapter_model.safetensors"))
	want := arrays(t, filepath.Join(v.dir(t), "adapter", "adapter_model.safetensors"))
	sum, n := 0.0, 0
	for k, w := range want {
		if strings.Contains(k, ".original_module.") || strings.Contains(k, ".modules_to_save.") { // the base's, and what is there by its own name
			continue
		}
		if len(got[k]) != len(w) {
			t.Fatalf("%s has %d values, want %d", k, len(got[k]), len(w))
		}
		for i := range w {
			d := float64(got[k][i] - w[i])
			sum += d * d
			n++
		}
		delete(got, k)
	}
	for k := range got {
		t.Errorf("%s is not in the reference", k)
	}
	rms := math.Sqrt(sum / float64(n))
	t.Logf("%s: adapter differs by %.2g RMS", name, rms)
	if !(rms <= tol) {
		t.Errorf("adapter differs by %g RMS, allowed %g", rms, tol)
	}
}

// compareWeights compares a few values of every final weight.
func compareWeights(t *testing.T, c goldenCurve, m *model.Model) {
	t.Helper()
	worst := 0.0
	if len(c.Final) == 0 {
		t.Fatal("no final weights in the reference")
	}
	for _, p := range m.Params() {
		f, ok := c.Final[p.Name]
		if !ok {
			t.Fatalf("%s is not in the reference", p.Name)
		}
		v, err := m.Decode(p)
		if err != nil {
			t.Fatal(err)
		}
		for i, w := range f.Samples {
			worst = max(worst, math.Abs(float64(v[i*f.Stride])-w))
		}
	}
	t.Logf("final weights within %.2g", worst)
	if !(worst <= 1e-5) {
		t.Errorf("final weights within %g, allowed 1e-5", worst)
	}
}

// compareSaved writes the trained model as a folder and compares it with the
// one the reference saved, where there is one.
func compareSaved(t *testing.T, name, base string, m *model.Model) {
	t.Helper()
	dir := testdir.Shared(t, "golden/train/lora")
	if name != "full" {
		return
	}
	src, err := arch.Open(filepath.Join(dir, base))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	out := filepath.Join(t.TempDir(), "model")
	if err := lora.SaveModel(context.Background(), m, src, arch.Dense{Path: out}); err != nil {
		t.Fatal(err)
	}
	got, want := arrays(t, filepath.Join(out, "model.safetensors")), arrays(t, filepath.Join(dir, name, "model.safetensors"))
	if len(got) != len(want) || len(want) == 0 {
		t.Fatalf("%d tensors, want %d", len(got), len(want))
	}
	for k, w := range want {
		for i, v := range got[k] {
			if math.Abs(float64(v-w[i])) > 2e-5 {
				t.Fatalf("%s[%d] = %g, want %g", k, i, v, w[i])
			}
		}
	}
}
