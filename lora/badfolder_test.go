package lora

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// edited copies a folder of the reference with changes.
func edited(t *testing.T, from string, change func(a *formats.Adapter)) string {
	t.Helper()
	a, err := formats.ReadAdapter(from)
	if err != nil {
		t.Fatal(err)
	}
	change(a)
	out := filepath.Join(t.TempDir(), "adapter")
	if err := formats.WriteAdapter(out, a, nil); err != nil {
		t.Fatal(err)
	}
	return out
}

// setConfig changes one key of the configuration.
func setConfig(key string, v any) func(*formats.Adapter) {
	return func(a *formats.Adapter) {
		var m map[string]any
		json.Unmarshal(a.Config, &m)
		m[key] = v
		a.Config, _ = json.Marshal(m)
	}
}

// TestBadFolders: an adapter that does not fit, or asks for what we cannot do,
// is one clear error, in Load and in Merge.
func TestBadFolders(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	src, m := loadModel(t, filepath.Join(dir, "base-llama"))
	good := filepath.Join(dir, "lora", "adapter")
	for _, c := range []struct {
		name   string
		change func(a *formats.Adapter)
		text   string
	}{
		{"missing tensor", func(a *formats.Adapter) { a.Tensors = a.Tensors[1:] }, "is missing"},
		{"extra tensor", func(a *formats.Adapter) {
			x := a.Tensors[0]
			x.Name = "base_model.model.model.layers.9.mlp.up_proj.lora_A.weight"
			a.Tensors = append(a.Tensors, x)
		}, "layers.9"},
		{"rank", setConfig("r", 4), "[8 "},
		{"dora without magnitudes", setConfig("use_dora", true), "lora_magnitude_vector"},
		{"pissa_niter_4", setConfig("init_lora_weights", "pissa_niter_4"), "init_lora_weights"},
		{"unknown switch", setConfig("use_qalora", true), "use_qalora"},
		{"a copy for both ends", func(a *formats.Adapter) {
			setConfig("ensure_weight_tying", true)(a)
			setConfig("modules_to_save", []string{"embed_tokens"})(a)
		}, "ensure_weight_tying"},
		{"a copy for both ends by its path", func(a *formats.Adapter) {
			setConfig("ensure_weight_tying", true)(a)
			setConfig("modules_to_save", []string{"score", "model.embed_tokens"})(a)
		}, "ensure_weight_tying"},
		{"other method", setConfig("peft_type", "ADALORA"), "ADALORA"},
		{"of prompts", func(a *formats.Adapter) {
			setConfig("peft_type", "PROMPT_TUNING")(a)
			setConfig("target_modules", nil)(a)
		}, "PROMPT_TUNING"},
		{"no targets", setConfig("target_modules", nil), "target_modules"},
		{"not finite", func(a *formats.Adapter) { copy(a.Tensors[0].Data, []byte{0, 0, 0xc0, 0x7f}) }, "NaN"},
		{"integers", func(a *formats.Adapter) { a.Tensors[0].DType = "I32" }, "I32"},
		{"name", func(a *formats.Adapter) { a.Tensors[0].Name = "x" + a.Tensors[0].Name }, "begin with"},
		{"no json", func(a *formats.Adapter) { a.Config = []byte(`{"r": "eight"}`) }, "r"},
	} {
		folder := edited(t, good, c.change)
		ad, err := Load(m, folder)
		if err == nil {
			ad.Close()
		}
		if fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: Load: %v, want an error about %s", c.name, err, c.text)
		}
		f, err := ReadFolder(folder)
		if err == nil {
			out := filepath.Join(t.TempDir(), "m")
			_, err = Merge(context.Background(), m.Dev, src, []Weighted{{f, 1}}, MergeOptions{Dense: arch.Dense{Path: out}})
			if _, serr := os.Stat(out); serr == nil {
				t.Errorf("%s: something was written", c.name)
			}
		}
		if fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: Merge: %v, want an error about %s", c.name, err, c.text)
		}
	}
	for l := range m.Linears() {
		if len(l.Adapters) > 0 {
			t.Fatalf("%s kept an adapter of a failed Load", l.Path)
		}
	}
}

// TestOtherBase names the sizes.
func TestOtherBase(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	shared := testdir.Shared(t, "golden/arch/llama-bias")
	src, m := loadModel(t, shared)
	_, err := Load(m, filepath.Join(dir, "lora", "adapter"))
	if fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), "made for another base") || !strings.Contains(err.Error(), "×") || !strings.Contains(fail.Hint(err), "base-llama") {
		t.Errorf("Load: %v (%s)", err, fail.Hint(err))
	}
	f, err := ReadFolder(filepath.Join(dir, "lora", "adapter"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = Merge(context.Background(), m.Dev, src, []Weighted{{f, 1}}, MergeOptions{Dense: arch.Dense{Path: filepath.Join(t.TempDir(), "m")}})
	if fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), "made for another base") {
		t.Errorf("Merge: %v", err)
	}
}

// TestF16Overflow: a value above 65504 is refused by name.
func TestF16Overflow(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	src, m := loadModel(t, filepath.Join(dir, "base-llama"))
	folder := edited(t, filepath.Join(dir, "lora", "adapter"), func(a *formats.Adapter) {
		for i := range a.Tensors {
			if strings.Contains(a.Tensors[i].Name, "layers.1.mlp.up_proj") {
				v := make([]float32, len(a.Tensors[i].Data)/4)
				for j := range v {
					v[j] = 300
				}
				a.Tensors[i].Data = kernels.Bytes(v)
			}
		}
	})
	f, err := ReadFolder(folder)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "m")
	f16 := dtype.Of(dtype.F16)
	_, err = Merge(context.Background(), m.Dev, src, []Weighted{{f, 1}}, MergeOptions{Dense: arch.Dense{Path: out, Type: &f16}})
	if fail.Code(err) != int(fail.Limit) || !strings.Contains(err.Error(), "model.layers.1.mlp.up_proj.weight") || !strings.Contains(err.Error(), "65504") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("something was written")
	}
}

// TestUnsupported: what PEFT 0.21 can do and we cannot is an error that names it, for the
// reference's folder, for every other type of adapter and for every option of LoRA that
// changes what its matrices mean.
func TestUnsupported(t *testing.T) {
	dir := testdir.Shared(t, "golden/train")
	refused := func(folder, key string) {
		t.Helper()
		_, err := ReadFolder(folder)
		if fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
	refused(filepath.Join(dir, "lora2/corda_ipm/adapter"), "init_lora_weights")
	good := filepath.Join(dir, "lora/lora/adapter")
	for _, kind := range []string{
		"ADALORA", "ADAMSS", "ADAPTION_PROMPT", "BEFT", "C3A", "CARTRIDGE", "CPT", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA", "GRALORA", "HIRA", "HRA",
		"LILY", "LN_TUNING", "MULTITASK_PROMPT_TUNING", "OSF", "PEANUT", "POLY", "PREFIX_TUNING", "PROMPT_TUNING", "PSOFT", "PVERA", "P_TUNING", "RANDLORA", "ROAD",
		"SHADOW", "SHIRA", "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "WAVEFT", "XLORA",
	} {
		refused(edited(t, good, setConfig("peft_type", kind)), `peft_type is "`+kind+`"`)
	}
	for key, v := range map[string]any{
		"alora_invocation_tokens": []int{1, 2}, "arrow_config": map[string]any{"arrow_top_k": 3}, "init_lora_weights": "lora_ga", "kasa_config": map[string]any{"beta": 1e-4},
		"layer_replication": [][2]int{{0, 2}, {1, 3}}, "monteclora_config": map[string]any{"sample_scaler": 1e-4}, "use_bdlora": map[string]any{"nblocks": 2},
		"use_qalora": true, "velora_config": map[string]any{"num_groups": 2}, "some_config": map[string]any{"of": "later"},
	} {
		refused(edited(t, good, setConfig(key, v)), key)
	}
}

// TestConverted: PiSSA and OLoRA adapters that PEFT converted for the original
// base give the logits of the model that was trained.
func TestConverted(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	_, m := loadModel(t, filepath.Join(dir, "base-llama"))
	rows, width := evalBatch(t, dir)
	for _, variant := range []string{"pissa", "olora"} {
		ad, err := Load(m, filepath.Join(dir, variant, "adapter-converted"))
		if err != nil {
			t.Fatal(err)
		}
		want := arrays(t, filepath.Join(dir, variant, "logits.safetensors"))
		if off := logitsOff(t, m, rows, width, want["final"]); !(off <= 5e-4) {
			t.Errorf("%s: logits within %g, allowed 5e-4", variant, off)
		}
		ad.Close()
	}
}

// TestForeignFolder reads an adapter that somebody published.
func TestForeignFolder(t *testing.T) {
	f, err := ReadFolder(testdir.Shared(t, "peft-adapter"))
	if err != nil {
		t.Fatal(err)
	}
	if f.Base == "" || f.Config.R < 1 || len(f.tensors) == 0 || f.Notes != (Notes{}) {
		t.Errorf("%+v", f.Config)
	}
}

// TestTying: ensure_weight_tying changes an adapter of the embedding on a tied base only.
func TestTying(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	folder := edited(t, filepath.Join(dir, "lora_embedding", "adapter"), setConfig("ensure_weight_tying", true))
	for base, ok := range map[string]bool{"base-llama": true, "base-qwen2": false} {
		src, m := loadModel(t, filepath.Join(dir, base))
		ad, err := Load(m, folder)
		if err == nil {
			ad.Close()
		}
		_, rerr := Read(folder, src)
		for _, err := range []error{err, rerr} {
			if ok != (err == nil) || !ok && (fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), "ensure_weight_tying")) {
				t.Errorf("%s: %v", base, err)
			}
		}
	}
}
