package lora

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
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
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/train/eval"
)

// loadModel opens a base of the reference runs.
func loadModel(t *testing.T, dir string) (*arch.Source, *model.Model) {
	t.Helper()
	src, err := arch.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	m, err := model.Load(cpu.New(cpu.Options{}), src, model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return src, m
}

// arrays reads the float32 arrays of a safetensors file.
func arrays(t *testing.T, path string) map[string][]float32 {
	t.Helper()
	list, _, err := formats.ReadSafetensors(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]float32{}
	for _, a := range list {
		if a.DType == "F32" {
			v := make([]float32, len(a.Data)/4)
			block.GetF32(v, a.Data)
			out[a.Name] = v
		}
	}
	return out
}

// evalBatch is the padded batch that the reference's logits belong to.
func evalBatch(t *testing.T, dir string) (rows [][]int32, width int) {
	t.Helper()
	var f struct {
		Eval struct {
			IDs  [][]int32 `json:"input_ids"`
			Mask [][]int32 `json:"attention_mask"`
		} `json:"eval_batch"`
	}
	b, err := os.ReadFile(filepath.Join(dir, "batches.json"))
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range f.Eval.IDs {
		n := 0
		for _, m := range f.Eval.Mask[i] {
			n += int(m)
		}
		rows = append(rows, r[:n])
		width = len(r)
	}
	return rows, width
}

// logits runs m on rows and returns the largest difference to want [B, width, V].
func logitsOff(t *testing.T, m *model.Model, rows [][]int32, width int, want []float32) float64 {
	t.Helper()
	return inputsOff(t, m, model.Pack(rows...), width, want)
}

// inputsOff is logitsOff of packed rows.
func inputsOff(t *testing.T, m *model.Model, in model.Inputs, width int, want []float32) float64 {
	t.Helper()
	v, rows := m.Spec.V, len(in.Seq)-1
	if len(want) != rows*width*v {
		t.Fatalf("reference of %d values for %d×%d×%d", len(want), rows, width, v)
	}
	got := inputLogits(t, m, in)
	worst := 0.0
	for b := range rows {
		at := int(in.Seq[b]) * v
		for i := range int(in.Seq[b+1])*v - at {
			worst = math.Max(worst, math.Abs(float64(got[at+i]-want[b*width*v+i])))
		}
	}
	return worst
}

// inputLogits are a model's logits [tokens, V] of packed rows.
func inputLogits(t *testing.T, m *model.Model, in model.Inputs) (got []float32) {
	t.Helper()
	must(t, m.Dev.Run(func() (err error) {
		tape := &autograd.Tape{Dev: m.Dev}
		defer tape.Free()
		got, err = tape.Values(m.Logits(tape, m.Hidden(tape, in)))
		return err
	}))
	return got
}

// goldenFolders are the reference's variants, by folder, with the bases that their
// adapters belong on.
var goldenFolders = map[string]map[string]string{
	"lora": {
		"lora": "base-llama", "dora": "base-llama", "rslora": "base-llama", "patterns": "base-llama", "layers_to_transform": "base-llama",
		"modules_to_save": "base-llama", "loraplus": "base-llama", "tied_lora": "base-qwen2", "lora_bias": "base-qwen2",
		"qlora_f32": "qlora_f32/base-nf4", "moe_experts": "base-mixtral", "lora_embedding": "base-llama",
	},
	"lora2": {
		"ia3": "base-llama", "vera": "base-llama", "vera_noproj": "base-llama", "loha": "base-llama", "lokr": "base-llama", "lokr_full": "base-llama",
		"lokr_lycoris": "base-llama", "oft": "base-llama", "oft_exact": "base-llama", "oft_r": "base-llama", "oft_share": "base-llama", "oft_coft": "base-llama",
		"boft": "base-llama", "boft_num": "base-llama", "boft_butterfly": "base-llama", "miss": "base-llama", "miss_mini": "base-llama", "miss_bat": "base-llama",
		"qdora": "qlora_f32/base-nf4",
	},
}

// TestGoldenFolders: adapters that PEFT wrote give PEFT's logits, before and
// after training and merged; a folder that we write of them holds the same.
func TestGoldenFolders(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	rows, width := evalBatch(t, dir)
	for set, variants := range goldenFolders {
		for variant, base := range variants {
			t.Run(variant, func(t *testing.T) {
				src, m := loadModel(t, filepath.Join(dir, base))
				dir := filepath.Join(filepath.Dir(dir), set, variant)
				want := arrays(t, filepath.Join(dir, "logits.safetensors"))
				for _, step := range []struct{ folder, logits string }{{"adapter-init", "init"}, {"adapter", "final"}} {
					ad, err := Load(m, filepath.Join(dir, step.folder))
					if err != nil {
						t.Fatal(err)
					}
					logits := want[step.logits]
					if logits == nil { // a new adapter of these changes nothing
						logits = arrays(t, filepath.Join(dir, "../../lora/base_logits.safetensors"))[strings.TrimPrefix(base, "base-")]
					}
					off := logitsOff(t, m, rows, width, logits)
					t.Logf("%s %s: logits within %.2g", variant, step.logits, off)
					if !(off <= 5e-4) {
						t.Errorf("%s: logits within %g, allowed 5e-4", step.logits, off)
					}
					if step.logits == "final" {
						roundTrip(t, ad, filepath.Join(dir, "adapter"))
					}
					ad.Close()
				}
				merged := "merged"
				if base == "qlora_f32/base-nf4" {
					merged = "merged_f32_dequant"
				}
				if want[merged] == nil {
					merged = "final" // what a merge that loses nothing gives
				}
				out := filepath.Join(t.TempDir(), "merged")
				f, err := ReadFolder(filepath.Join(dir, "adapter"))
				if err != nil {
					t.Fatal(err)
				}
				f32 := dtype.Of(dtype.F32)
				report, err := Merge(context.Background(), m.Dev, src, []Weighted{{f, 1}}, MergeOptions{Dense: arch.Dense{Path: out, Type: &f32}})
				if err != nil {
					t.Fatal(err)
				}
				_, mm := loadModel(t, out)
				off := logitsOff(t, mm, rows, width, want[merged])
				t.Logf("%s merged: logits within %.2g", variant, off)
				if !(off <= 5e-4) {
					t.Errorf("merged: logits within %g, allowed 5e-4", off)
				}
				if len(report.Layers) == 0 || report.Layers[0].Delta == 0 || report.Layers[0].Rounding != 0 {
					t.Errorf("report %+v", report.Layers)
				}
				checkKL(t, m, mm, filepath.Join(dir, "adapter"), rows)
			})
		}
	}
}

// checkKL: base with adapter and merged are the same model; base alone is not.
func checkKL(t *testing.T, m, merged *model.Model, adapter string, rows [][]int32) {
	t.Helper()
	var ex []data.Example
	for _, r := range rows {
		ex = append(ex, data.Example{IDs: r})
	}
	base, err := eval.Diverge(context.Background(), merged, m, eval.Whole(ex))
	if err != nil {
		t.Fatal(err)
	}
	ad, err := Load(m, adapter)
	if err != nil {
		t.Fatal(err)
	}
	defer ad.Close()
	d, err := eval.Diverge(context.Background(), merged, m, eval.Whole(ex))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("KL %.2g (base alone %.2g), top-1 %.4f on %d tokens", d.KL, base.KL, d.Top1, d.Tokens)
	if !(d.KL >= 0 && d.KL < 1e-7) || base.KL < 1e-4 || d.Top1 < 0.999 {
		t.Errorf("KL to merged: with adapter %g, without %g; top-1 %g", d.KL, base.KL, d.Top1)
	}
	if err := d.CheckMerge("merge", 1e-3); err != nil {
		t.Error(err)
	}
	if err := base.CheckMerge("merge", 1e-6); fail.Code(err) != int(fail.Gate) {
		t.Errorf("gate: %v", err)
	}
}

// roundTrip saves ad and compares the folder with the one PEFT wrote.
func roundTrip(t *testing.T, ad *Adapter, ref string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "saved")
	if err := ad.Save(out, SaveOptions{Base: "base-llama", Notes: Notes{BaseHash: "abc", Steps: 30}}); err != nil {
		t.Fatal(err)
	}
	got, want := arrays(t, filepath.Join(out, "adapter_model.safetensors")), arrays(t, filepath.Join(ref, "adapter_model.safetensors"))
	if len(got) != len(want) {
		t.Errorf("%d tensors, PEFT has %d", len(got), len(want))
	}
	for name, w := range want {
		if fmt.Sprint(got[name]) != fmt.Sprint(w) {
			t.Errorf("%s differs", name)
		}
	}
	compareConfig(t, filepath.Join(out, "adapter_config.json"), filepath.Join(ref, "adapter_config.json"))
	f, err := ReadFolder(out)
	if err != nil {
		t.Fatal(err)
	}
	if f.Notes.BaseHash != "abc" || f.Notes.Steps != 30 {
		t.Errorf("notes %+v", f.Notes)
	}
	if b, err := os.ReadFile(filepath.Join(out, "README.md")); err != nil || !strings.Contains(string(b), "base_model: base-llama") {
		t.Errorf("card: %s %v", b, err)
	}
}

// compareConfig: every key we write means the same in PEFT's file; every key of
// PEFT's that we leave out is at its default there.
func compareConfig(t *testing.T, ours, theirs string) {
	t.Helper()
	var a, b map[string]any
	for path, m := range map[string]*map[string]any{ours: &a, theirs: &b} {
		text, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(text, m)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	text := func(v any) string {
		if list, ok := v.([]any); ok {
			var s []string
			for _, x := range list {
				s = append(s, fmt.Sprint(x))
			}
			return fmt.Sprint(sorted(s))
		}
		return fmt.Sprint(v)
	}
	for k, v := range a {
		if neutral(v) && neutral(b[k]) || k == "base_model_name_or_path" {
			continue
		}
		if w, ok := b[k]; k == "layers_pattern" {
			if text(v) != text(w) && text(v) != fmt.Sprint([]string{fmt.Sprint(w)}) {
				t.Errorf("%s is %v, PEFT wrote %v", k, v, w)
			}
		} else if !ok || text(v) != text(w) {
			t.Errorf("%s is %v, PEFT wrote %v", k, v, b[k])
		}
	}
	for k, v := range b {
		if _, ok := a[k]; !ok && !neutral(v) && k != "megatron_core" && k != "qalora_group_size" && k != "peft_version" {
			t.Errorf("PEFT wrote %s: %v, we nothing", k, v)
		}
	}
}

// TestMergedWeights compares merged tensors with merge_and_unload's.
func TestMergedWeights(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	src, m := loadModel(t, filepath.Join(dir, "base-llama"))
	f, err := ReadFolder(filepath.Join(dir, "lora", "adapter"))
	if err != nil {
		t.Fatal(err)
	}
	want := arrays(t, filepath.Join(dir, "lora", "merged.safetensors"))
	out := filepath.Join(t.TempDir(), "m")
	if _, err := Merge(context.Background(), m.Dev, src, []Weighted{{f, 1}}, MergeOptions{Dense: arch.Dense{Path: out, MaxShard: 100_000}}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(out, "model.safetensors.index.json")); err != nil {
		t.Error("not sharded:", err)
	}
	got, err := arch.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	n := 0
	for name, w := range want {
		b, _, err := got.Read(got.Named(name))
		if err != nil {
			t.Fatal(err)
		}
		v := make([]float32, len(b.Data)/4)
		block.GetF32(v, b.Data)
		for i := range w {
			if math.Abs(float64(v[i]-w[i])) > 1e-6 {
				t.Fatalf("%s[%d] = %g, PEFT %g", name, i, v[i], w[i])
			}
		}
		n++
	}
	if n < 30 {
		t.Errorf("only %d tensors compared", n)
	}
}

// TestMergeTypes: bf16 and f16 round once, GGUF is read back the same, what was
// not touched keeps its bytes, and a second merge makes the same file.
func TestMergeTypes(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	src, m := loadModel(t, filepath.Join(dir, "base-llama"))
	f, err := ReadFolder(filepath.Join(dir, "lora", "adapter"))
	if err != nil {
		t.Fatal(err)
	}
	want := arrays(t, filepath.Join(dir, "lora", "merged.safetensors"))
	for _, k := range []dtype.Kind{dtype.BF16, dtype.F16} {
		for _, name := range []string{"folder", "file.gguf"} {
			out := filepath.Join(t.TempDir(), name)
			tp := dtype.Of(k)
			o := MergeOptions{Dense: arch.Dense{Path: out, Type: &tp, Name: "test"}, TrainedAs: &dtype.NF4Double}
			r, err := Merge(context.Background(), m.Dev, src, []Weighted{{f, 1}}, o)
			if err != nil {
				t.Fatal(k, name, err)
			}
			got, err := arch.Open(out)
			if err != nil {
				t.Fatal(k, name, err)
			}
			for tensor, w := range want {
				b, _, err := got.Read(got.Named(tensor))
				if err != nil {
					t.Fatal(err)
				}
				v := make([]float32, len(w))
				block.DecodeAll(v, b)
				for i := range w {
					if d := math.Abs(float64(v[i] - w[i])); d > 0.0040*math.Abs(float64(w[i]))+1e-6 {
						t.Fatalf("%v %s %s[%d] = %g, want %g", k, name, tensor, i, v[i], w[i])
					}
				}
			}
			got.Close()
			l := r.Layers[0]
			if !(l.Rounding > 0 && l.Rounding < 0.01*l.Weight) || !(l.QuantOverDelta() > 0.01 && l.QuantOverDelta() < 100) {
				t.Errorf("%v %s: norms %+v", k, name, l)
			}
		}
	}
}

// TestMergeTrained merges into the weights as NF4 held them.
func TestMergeTrained(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	src, m := loadModel(t, filepath.Join(dir, "base-llama"))
	rows, width := evalBatch(t, dir)
	f, err := ReadFolder(filepath.Join(dir, "qlora_f32", "adapter"))
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "m")
	if _, err := Merge(context.Background(), m.Dev, src, []Weighted{{f, 1}}, MergeOptions{Dense: arch.Dense{Path: out}, TrainedAs: &dtype.NF4Double, Trained: true}); err != nil {
		t.Fatal(err)
	}
	_, mm := loadModel(t, out)
	want := arrays(t, filepath.Join(dir, "qlora_f32", "logits.safetensors"))
	// Our own nested scales differ from bitsandbytes' in a few codes.
	if off := logitsOff(t, mm, rows, width, want["merged_f32_dequant"]); !(off <= 0.05) {
		t.Errorf("logits within %g", off)
	}
}

// TestTwoAdapters: weights scale what each one adds.
func TestTwoAdapters(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	src, m := loadModel(t, filepath.Join(dir, "base-llama"))
	f, err := ReadFolder(filepath.Join(dir, "lora", "adapter"))
	if err != nil {
		t.Fatal(err)
	}
	g, err := ReadFolder(filepath.Join(dir, "lora", "adapter"))
	if err != nil {
		t.Fatal(err)
	}
	sum := func(as ...Weighted) *MergeReport {
		r, err := Merge(context.Background(), m.Dev, src, as, MergeOptions{Dense: arch.Dense{Path: filepath.Join(t.TempDir(), "m")}})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	one, half, none := sum(Weighted{f, 1}), sum(Weighted{f, 0.25}, Weighted{g, 0.25}), sum(Weighted{f, 0.5}, Weighted{g, -0.5})
	for i := range one.Layers {
		if math.Abs(half.Layers[i].Delta/one.Layers[i].Delta-0.5) > 1e-5 || none.Layers[i].Delta > 1e-6 {
			t.Fatalf("%s: %g, half %g, cancelled %g", one.Layers[i].Name, one.Layers[i].Delta, half.Layers[i].Delta, none.Layers[i].Delta)
		}
	}
}

// TestInitFrom: rank and targets come from the folder; another value is an error.
func TestInitFrom(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	_, m := loadModel(t, filepath.Join(dir, "base-llama"))
	from := filepath.Join(dir, "patterns", "adapter")
	ad, err := Start(m, Config{InitFrom: from, Dropout: 0.1, LoRAPlusLRRatio: 4}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if ad.Config.R != 8 || ad.Config.Alpha != 16 || ad.Config.LoRAPlusLRRatio != 4 || ad.Layers[0].LoRA.Dropout != 0.1 || len(ad.Config.RankPattern) != 2 {
		t.Errorf("config %+v", ad.Config)
	}
	ad.Close()
	for _, c := range []Config{
		{R: 4}, {Alpha: 3}, {TargetModules: Targets{Names: []string{"q_proj"}}}, {UseRSLoRA: true}, {Bias: "all"},
		{RankPattern: Pattern{{"q_proj", 3}}}, {ModulesToSave: Strings{"lm_head"}}, {Layers: Ints{1}},
	} {
		c.InitFrom = from
		if ad, err := Start(m, c, 1); fail.Code(err) != int(fail.Usage) || !strings.Contains(fail.Hint(err), "leave it out") {
			t.Errorf("%+v: %v %v", c, ad, err)
		}
	}
	same := Config{InitFrom: from, R: 8, TargetModules: Targets{Names: []string{"down_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"}}}
	if ad, err = Start(m, same, 1); err != nil {
		t.Fatal(err)
	}
	ad.Close()
}

// TestApply: new adapters start as the base; two together add; Close restores.
func TestApply(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	_, m := loadModel(t, filepath.Join(dir, "base-llama"))
	rows, width := evalBatch(t, dir)
	want := arrays(t, filepath.Join(dir, "base_logits.safetensors"))["llama"]
	before := m.Dev.Info().Mem.Now[kernels.Weights]
	for _, c := range []Config{{}, {R: 2, InitWeights: InitGaussian}, {R: 4, ModulesToSave: Strings{"lm_head", "embed_tokens"}}} {
		ad, err := Apply(m, c, 3)
		if err != nil {
			t.Fatal(err)
		}
		if off := logitsOff(t, m, rows, width, want); !(off <= 5e-4) {
			t.Errorf("%+v: a new adapter changes the logits by %g", c, off)
		}
		ad.Close()
	}
	ad, err := Apply(m, Config{InitWeights: InitNonZero}, 3)
	if err != nil {
		t.Fatal(err)
	}
	if off := logitsOff(t, m, rows, width, want); off < 1e-2 {
		t.Errorf("init_lora_weights: false changes the logits by %g only", off)
	}
	ad.Close()
	if off := logitsOff(t, m, rows, width, want); !(off <= 5e-4) {
		t.Errorf("after Close the logits are off by %g", off)
	}
	if after := m.Dev.Info().Mem.Now[kernels.Weights]; after != before {
		t.Errorf("%d bytes of weights before, %d after", before, after)
	}
	for _, c := range []Config{{ModulesToSave: Strings{"nothing"}}, {Bias: "lora_only"}, {TargetModules: Targets{Names: []string{"embed_tokens"}}, UseDoRA: true}, {TargetModules: Targets{Names: []string{"lm_head"}}, Dropout: 0.1}, {ModulesToSave: Strings{"q_proj"}}} {
		if _, err := Apply(m, c, 1); fail.Code(err) != int(fail.Usage) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
