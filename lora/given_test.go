package lora

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// dropConfig removes keys of the configuration.
func dropConfig(keys ...string) func(*formats.Adapter) {
	return func(a *formats.Adapter) {
		var m map[string]any
		json.Unmarshal(a.Config, &m)
		for _, k := range keys {
			delete(m, k)
		}
		a.Config, _ = json.Marshal(m)
	}
}

// TestStoredDefaults: a key that a folder leaves out has PEFT's default, never a
// recipe's, and 0 is 0.
func TestStoredDefaults(t *testing.T) {
	good := filepath.Join(testdir.Shared(t, "golden/train/lora"), "lora", "adapter")
	for _, c := range []struct {
		change func(*formats.Adapter)
		r      int
		alpha  float64
	}{
		{dropConfig("r"), 8, 16}, {dropConfig("lora_alpha"), 8, 8}, {dropConfig("r", "lora_alpha", "bias", "use_rslora", "lora_dropout", "init_lora_weights"), 8, 8},
		{setConfig("lora_alpha", 0), 8, 0}, {setConfig("lora_alpha", 0.5), 8, 0.5},
		{setConfig("ensure_weight_tying", true), 8, 16}, // no table is trained
		{func(a *formats.Adapter) {
			setConfig("ensure_weight_tying", true)(a)
			setConfig("modules_to_save", []string{"score"})(a)
		}, 8, 16}, // nor one that PEFT takes for one
	} {
		f, err := ReadFolder(edited(t, good, c.change))
		if err != nil {
			t.Fatal(err)
		}
		if f.Config.R != c.r || f.Config.Alpha != c.alpha || f.Config.Bias != "none" || f.Config.UseRSLoRA || f.Config.Dropout != 0 {
			t.Errorf("r %d, alpha %g, %+v; want %d and %g", f.Config.R, f.Config.Alpha, f.Config, c.r, c.alpha)
		}
	}
	for _, change := range []func(*formats.Adapter){setConfig("r", 0), setConfig("r", nil), setConfig("lora_alpha", nil), setConfig("lora_alpha", -1)} {
		if f, err := ReadFolder(edited(t, good, change)); fail.Code(err) != int(fail.Input) {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

// logitsOf runs a model on rows.
func logitsOf(t *testing.T, m *model.Model, rows [][]int32) []float32 {
	t.Helper()
	return inputLogits(t, m, model.Pack(rows...))
}

// withAdapter are the logits with a folder attached.
func withAdapter(t *testing.T, m *model.Model, folder string, rows [][]int32) []float32 {
	t.Helper()
	ad, err := Load(m, folder)
	if err != nil {
		t.Fatal(err)
	}
	defer ad.Close()
	return logitsOf(t, m, rows)
}

// mergedModel merges a folder into base as float32.
func mergedModel(t *testing.T, base, folder, name string) (*arch.Source, *model.Model) {
	t.Helper()
	src, m := loadModel(t, base)
	f, err := ReadFolder(folder)
	if err != nil {
		t.Fatal(err)
	}
	f32 := dtype.Of(dtype.F32)
	out := filepath.Join(t.TempDir(), name)
	if _, err := Merge(context.Background(), m.Dev, src, []Weighted{{f, 1}}, MergeOptions{Dense: arch.Dense{Path: out, Type: &f32}}); err != nil {
		t.Fatal(err)
	}
	return loadModel(t, out)
}

func farthest(a, b []float32) float64 {
	d := float64(len(a) - len(b))
	for i := range min(len(a), len(b)) {
		d = max(d, float64(a[i]-b[i]), float64(b[i]-a[i]))
	}
	return d
}

// TestDeadNames: names of a folder's config that are none of this base's change
// nothing, attached and merged, as in PEFT; in a recipe they stay errors.
func TestDeadNames(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	base, good := filepath.Join(dir, "base-llama"), filepath.Join(dir, "lora", "adapter")
	_, m := loadModel(t, base)
	rows, _ := evalBatch(t, dir)
	want := withAdapter(t, m, good, rows)
	f, err := ReadFolder(good)
	if err != nil {
		t.Fatal(err)
	}
	for key, v := range map[string]any{
		"target_modules": append([]string{"gate_up_proj", "qkv_proj"}, f.Config.TargetModules.Names...), "exclude_modules": []string{"vision_tower"},
		"layers_to_transform": []int{0, 1, 2, 3, 4, 5, 6, 7, 99}, "modules_to_save": []string{"score"},
		"rank_pattern": map[string]int{"fc1": 3}, "alpha_pattern": map[string]int{"fc1": 3}, "target_parameters": []string{"mlp.experts.down_proj"}, "bias": "all",
	} {
		folder := edited(t, good, setConfig(key, v))
		if d := farthest(withAdapter(t, m, folder, rows), want); d != 0 {
			t.Errorf("%s: %v: logits off by %g", key, v, d)
		}
		_, merged := mergedModel(t, base, folder, "m")
		if d := farthest(logitsOf(t, merged, rows), want); !(d <= 5e-4) {
			t.Errorf("%s: %v: merged logits off by %g", key, v, d)
		}
	}
	if ad, err := Apply(m, Config{TargetModules: Targets{Names: []string{"q_proj", "qkv_proj"}}}, 1); fail.Code(err) != int(fail.Usage) {
		t.Errorf("a recipe's dead name: %v, %v", ad, err)
	}
}

// TestPlainNames: every name that a tensor of PEFT has in training is the one
// it is saved under.
func TestPlainNames(t *testing.T) {
	const q = "model.layers.0.self_attn.q_proj"
	for stored, want := range map[string][2]string{
		prefix + q + ".lora_A.weight":                                                  {q + ".lora_A.weight", ""},
		prefix + q + ".lora_A.default.weight":                                          {q + ".lora_A.weight", "default"},
		prefix + q + ".lora_B.support.weight":                                          {q + ".lora_B.weight", "support"},
		prefix + q + ".lora_magnitude_vector":                                          {q + ".lora_magnitude_vector", ""},
		prefix + q + ".lora_magnitude_vector.weight":                                   {q + ".lora_magnitude_vector", ""},
		prefix + q + ".lora_magnitude_vector.default":                                  {q + ".lora_magnitude_vector", "default"},
		prefix + q + ".lora_magnitude_vector.default.weight":                           {q + ".lora_magnitude_vector", "default"},
		"_orig_mod." + prefix + q + ".lora_A.weight":                                   {q + ".lora_A.weight", ""},
		"module." + prefix + q + ".lora_A.weight":                                      {q + ".lora_A.weight", ""},
		prefix + "_fsdp_wrapped_module." + q + ".lora_A.weight":                        {q + ".lora_A.weight", ""},
		prefix + "model.layers.0._checkpoint_wrapped_module.mlp.up_proj.lora_A.weight": {"model.layers.0.mlp.up_proj.lora_A.weight", ""},
		prefix + "lm_head.weight":                                                      {"lm_head.weight", ""},
		prefix + "lm_head.modules_to_save.default.weight":                              {"lm_head.weight", "default"},
		prefix + "lm_head.modules_to_save.weight":                                      {"lm_head.weight", ""},
		prefix + q + ".base_layer.bias":                                                {q + ".base_layer.bias", ""},
	} {
		name, adapter, err := plainName("f", stored)
		if err != nil || name != want[0] || adapter != want[1] {
			t.Errorf("%s: %q of %q, %v; want %q of %q", stored, name, adapter, err, want[0], want[1])
		}
	}
	good := filepath.Join(testdir.Shared(t, "golden/train/lora"), "lora", "adapter")
	rename := func(name func(i int, old string) string) func(*formats.Adapter) {
		return func(a *formats.Adapter) {
			for i := range a.Tensors {
				a.Tensors[i].Name = name(i, a.Tensors[i].Name)
			}
		}
	}
	for text, change := range map[string]func(*formats.Adapter){
		"adapter": rename(func(i int, s string) string { return strings.Replace(s, ".weight", fmt.Sprintf(".n%d.weight", i%2), 1) }),
		"wrappers of training": func(a *formats.Adapter) {
			x := a.Tensors[0]
			x.Name = "_orig_mod." + x.Name
			a.Tensors = append(a.Tensors, x)
		},
	} {
		if _, err := ReadFolder(edited(t, good, change)); fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want an error about %s", err, text)
		}
	}
}

// table reads a matrix of the base times k, as a tensor of an adapter.
func table(t *testing.T, src *arch.Source, stored string, k float32) formats.NamedTensor {
	t.Helper()
	e := src.Named(stored)
	if e == nil { // a tied head
		e = src.At(-1, arch.Embed)
	}
	raw, _, err := src.Read(e)
	if err != nil {
		t.Fatal(err)
	}
	v := make([]float32, e.Len())
	block.DecodeAll(v, raw)
	for i := range v {
		v[i] *= k
	}
	return formats.NamedTensor{Name: prefix + stored, DType: "F32", Shape: e.Shape(), Data: kernels.Bytes(v)}
}

// TestTables: tables stored whole, on a tied base. Attached and merged are the
// same model, in a folder and in a GGUF; the merged one is tied only where the
// two tables still are one.
func TestTables(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	base, good := filepath.Join(dir, "base-qwen2"), filepath.Join(dir, "tied_lora", "adapter")
	src, m := loadModel(t, base)
	if !m.Spec.Tied {
		t.Fatal("the base is not tied")
	}
	rows, _ := evalBatch(t, dir)
	plain := withAdapter(t, m, good, rows)
	const embed, head = "model.embed_tokens.weight", "lm_head.weight"
	low := func(a *formats.Adapter) {
		e := src.At(-1, arch.Embed)
		v := make([]float32, 8*max(e.Rows, e.Cols))
		for i := range v {
			v[i] = 0.05
		}
		for _, x := range []struct {
			name  string
			shape []int64
		}{{"lm_head.lora_A.weight", []int64{8, int64(e.Cols)}}, {"lm_head.lora_B.weight", []int64{int64(e.Rows), 8}}} {
			a.Tensors = append(a.Tensors, formats.NamedTensor{Name: prefix + x.name, DType: "F32", Shape: x.shape, Data: kernels.Bytes(v[:x.shape[0]*x.shape[1]])})
		}
	}
	for _, c := range []struct {
		name   string
		saved  []string
		tables map[string]float32
		onHead bool
		tied   bool    // the merged model
		scale  float32 // of the logits against those without the tables, where it is known
	}{
		{"saved embedding", []string{"embed_tokens"}, map[string]float32{embed: 1.5}, false, false, 0},
		{"saved head", []string{"lm_head"}, map[string]float32{head: 0.5}, false, false, 0.5},
		{"saved both", []string{"embed_tokens", "lm_head"}, map[string]float32{embed: 1, head: 2}, false, false, 2},
		{"saved embedding by an ending", []string{"tokens"}, map[string]float32{embed: 1.5}, false, false, 0},
		{"saved head by an ending", []string{"head"}, map[string]float32{head: 0.5}, false, false, 0.5},
		{"saved head by two names", []string{"head", "lm_head"}, map[string]float32{head: 0.5}, false, false, 0.5},
		{"embedding beside", nil, map[string]float32{embed: 1}, false, true, 1},
		{"head beside", nil, map[string]float32{head: 1}, false, true, 1},
		{"other embedding beside", nil, map[string]float32{embed: 1.5}, false, true, 0},
		{"both beside", nil, map[string]float32{embed: 1.5, head: 1.5}, false, true, 0},
		{"saved embedding, head beside", []string{"embed_tokens"}, map[string]float32{embed: 1, head: 2}, false, false, 2},
		{"adapter on the head", nil, nil, true, false, 0},
		{"adapter on the head, tables beside", nil, map[string]float32{embed: 1.5, "lm_head.base_layer.weight": 1.5}, true, false, 0},
		{"adapter on the head, embedding beside", nil, map[string]float32{embed: 1.5}, true, false, 0},
	} {
		folder := edited(t, good, func(a *formats.Adapter) {
			setConfig("modules_to_save", c.saved)(a)
			for name, k := range c.tables {
				a.Tensors = append(a.Tensors, table(t, src, name, k))
			}
			if f, err := ReadFolder(good); c.onHead && err == nil {
				setConfig("target_modules", append(slices.Clone(f.Config.TargetModules.Names), "lm_head"))(a)
				low(a)
			}
		})
		want := withAdapter(t, m, folder, rows)
		if c.scale != 0 {
			scaled := slices.Clone(plain)
			for i := range scaled {
				scaled[i] *= c.scale
			}
			if d := farthest(want, scaled); !(d <= 1e-4) {
				t.Errorf("%s: logits off by %g", c.name, d)
			}
		} else if d := farthest(want, plain); d < 1e-2 {
			t.Errorf("%s: changes the logits by %g only", c.name, d)
		}
		for _, out := range []string{"m", "m.gguf"} {
			_, merged := mergedModel(t, base, folder, out)
			if d := farthest(logitsOf(t, merged, rows), want); !(d <= 5e-4) || merged.Spec.Tied != c.tied {
				t.Errorf("%s: merged into %s: logits off by %g, tied %v", c.name, out, d, merged.Spec.Tied)
			}
		}
	}
	if d := farthest(withAdapter(t, m, good, rows), plain); d != 0 {
		t.Errorf("after Close the logits are off by %g", d)
	}
	badTables(t, m, src, good)
}

// badTables: tables that cannot be what was trained are errors of Load and of
// Merge, which writes nothing.
func badTables(t *testing.T, m *model.Model, src *arch.Source, good string) {
	const embed, head = "model.embed_tokens.weight", "lm_head.weight"
	for text, change := range map[string]func(*formats.Adapter){
		"differ": func(a *formats.Adapter) {
			a.Tensors = append(a.Tensors, table(t, src, embed, 1), table(t, src, head, 2))
		},
		"322 rows, this base 320": func(a *formats.Adapter) {
			x := table(t, src, embed, 1)
			x.Data, x.Shape = append(x.Data, x.Data[:2*4*x.Shape[1]]...), []int64{x.Shape[0] + 2, x.Shape[1]}
			a.Tensors = append(a.Tensors, x)
		},
	} {
		folder := edited(t, good, change)
		if ad, err := Load(m, folder); fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), text) {
			t.Errorf("Load: %v, %v, want an error about %s", ad, err, text)
		}
		f, err := ReadFolder(folder)
		if err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "m")
		_, err = Merge(context.Background(), m.Dev, src, []Weighted{{f, 1}}, MergeOptions{Dense: arch.Dense{Path: out}})
		if fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), text) {
			t.Errorf("Merge: %v, want an error about %s", err, text)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: something was written", text)
		}
	}
}

// TestTrainedTable: an embedding trained beside a tied head is what is merged,
// and a folder goes on with what PEFT stored beside the adapter.
func TestTrainedTable(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	base := filepath.Join(dir, "base-qwen2")
	src, m := loadModel(t, base)
	rows, _ := evalBatch(t, dir)
	ad, err := Apply(m, Config{R: 2, Alpha: 1, InitWeights: InitNonZero, ModulesToSave: Strings{"embed_tokens"}}, 3)
	if err != nil {
		t.Fatal(err)
	}
	p := ad.whole[0].param
	v := make([]float32, p.Len())
	for i := range v {
		v[i] = float32(i%17-8) / 20
	}
	if err := m.Dev.Run(func() error { m.Dev.Upload(p.Buffer, kernels.Bytes(v)); return nil }); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "adapter")
	if err := ad.Save(out, SaveOptions{Base: "base-qwen2"}); err != nil {
		t.Fatal(err)
	}
	_, merged := mergedModel(t, base, out, "m")
	trained := logitsOf(t, m, rows)
	off, size := farthest(logitsOf(t, merged, rows), trained), farthest(trained, make([]float32, len(trained)))
	if !(off <= 1e-5*size) {
		t.Errorf("merged logits of up to %g off by %g", size, off)
	}
	ad.Close()
	beside := edited(t, filepath.Join(dir, "tied_lora", "adapter"), func(a *formats.Adapter) {
		a.Tensors = append(a.Tensors, table(t, src, "model.embed_tokens.weight", 1.5), formats.NamedTensor{Name: prefix + "model.norm.weight", DType: "F32", Shape: []int64{64}, Data: kernels.Bytes(v[:64])})
	})
	want := withAdapter(t, m, beside, rows)
	if ad, err = Start(m, Config{InitFrom: beside}, 1); err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(t.TempDir(), "again")
	if err := ad.Save(again, SaveOptions{Base: "base-qwen2"}); err != nil {
		t.Fatal(err)
	}
	ad.Close()
	if d := farthest(withAdapter(t, m, again, rows), want); d != 0 {
		t.Errorf("saved again, logits off by %g", d)
	}
}

// TestWholeWeight: a weight other than 1 has no meaning for what is stored whole.
func TestWholeWeight(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	_, m := loadModel(t, filepath.Join(dir, "base-llama"))
	for _, variant := range []string{"modules_to_save", "dora"} {
		f, err := ReadFolder(filepath.Join(dir, variant, "adapter"))
		if err != nil {
			t.Fatal(err)
		}
		if ad, err := (Weighted{f, 0.5}).Attach(m); fail.Code(err) != int(fail.Input) {
			t.Errorf("%s: %v, %v", variant, ad, err)
		}
	}
}

// TestOff: an adapter of alpha 0 is none, attached, merged and in a GGUF (where 0 would be factor 1), and so is one of weight 0.
func TestOff(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	base, good := filepath.Join(dir, "base-llama"), filepath.Join(dir, "lora", "adapter")
	src, m := loadModel(t, base)
	rows, _ := evalBatch(t, dir)
	want := logitsOf(t, m, rows)
	off := edited(t, good, setConfig("lora_alpha", 0))
	if d := farthest(withAdapter(t, m, off, rows), want); d != 0 {
		t.Errorf("alpha 0: logits off by %g", d)
	}
	_, merged := mergedModel(t, base, off, "m")
	if d := farthest(logitsOf(t, merged, rows), want); !(d <= 5e-4) {
		t.Errorf("merged: logits off by %g", d)
	}
	f, err := ReadFolder(good)
	must(t, err)
	ad, err := Weighted{f, 0}.Attach(m)
	must(t, err)
	if d := farthest(logitsOf(t, m, rows), want); d != 0 {
		t.Errorf("weight 0: logits off by %g", d)
	}
	ad.Close()
	for name, change := range map[string]func(*formats.Adapter){
		"0": setConfig("lora_alpha", 0),
		"0 but one": func(a *formats.Adapter) {
			setConfig("lora_alpha", 0)(a)
			setConfig("alpha_pattern", map[string]int{"layers.0.self_attn.q_proj": 4})(a)
		},
	} {
		f, err := ReadFolder(edited(t, good, change))
		must(t, err)
		file := filepath.Join(t.TempDir(), "a.gguf")
		must(t, f.WriteGGUF(file, src, "a", dtype.Of(dtype.F32)))
		back, err := ReadGGUF(file, src)
		must(t, err)
		t.Log("alpha", name)
		sameTensors(t, src, back, f, 1e-6)
	}
}

// TestSavedLayer: PEFT has no adapter in a module that is saved whole, also not where
// target_modules names it.
func TestSavedLayer(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	src, m := loadModel(t, filepath.Join(dir, "base-llama"))
	rows, _ := evalBatch(t, dir)
	good := filepath.Join(dir, "lora", "adapter")
	// the adapter of layer 0 leaves it as it is
	none := edited(t, good, func(a *formats.Adapter) {
		for i := range a.Tensors {
			if strings.Contains(a.Tensors[i].Name, ".layers.0.") {
				a.Tensors[i].Data = make([]byte, len(a.Tensors[i].Data))
			}
		}
	})
	saved := edited(t, good, func(a *formats.Adapter) {
		setConfig("modules_to_save", []string{"layers.0"})(a)
		a.Tensors = slices.DeleteFunc(a.Tensors, func(x formats.NamedTensor) bool { return strings.Contains(x.Name, ".layers.0.") })
		for _, x := range src.Tensors() {
			if strings.Contains(x.Name, ".layers.0.") && !x.Vector {
				a.Tensors = append(a.Tensors, table(t, src, x.Name, 1))
			}
		}
	})
	if d := farthest(withAdapter(t, m, saved, rows), withAdapter(t, m, none, rows)); !(d <= 1e-4) {
		t.Errorf("logits off by %g", d)
	}
}
