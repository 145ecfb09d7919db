package lora

import (
	"context"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestGGUF: an adapter goes into a GGUF and back without losing a bit, whatever becomes
// of its matrix there: rows in pairs, cut apart or dealt, experts stacked, fused maps.
func TestGGUF(t *testing.T) {
	for _, name := range []string{"llama", "qwen2", "mixtral", "qwen3-moe", "gpt2", "gpt-neox", "phi3", "falcon-new", "falcon-h1", "bloom", "qwen3-next", "gemma3",
		"deepseek3", "gemma4-moe", "granite-hybrid", "jamba", "mpt", "gpt-oss", "dbrx", "llama4", "starcoder2", "lfm2"} {
		t.Run(name, func(t *testing.T) {
			dir := testdir.Shared(t, "golden/arch/"+name)
			folder, _, _ := peftFolder(t, dir)
			src, err := arch.Open(dir)
			must(t, err)
			defer src.Close()
			f, err := ReadFolder(folder)
			must(t, err)
			file := filepath.Join(t.TempDir(), "a.gguf")
			err = f.WriteGGUF(file, src, "a", dtype.Of(dtype.F32))
			if name == "deepseek3" || name == "gemma4-moe" {
				if err == nil || !strings.Contains(err.Error(), "llama.cpp does not apply an adapter's matrices of it in architecture") {
					t.Error(err)
				}
				return
			}
			must(t, err)
			back, err := ReadGGUF(file, src)
			must(t, err)
			eps := 0.0
			if name == "falcon-h1" { // whose GGUF holds keys multiplied
				eps = 1e-6
			}
			sameTensors(t, src, back, f, eps)
		})
	}
}

// sameTensors compares A and the scaled B of two adapters of a model, with eps 0 bit for
// bit but for the sign of 0.
func sameTensors(t *testing.T, src *arch.Source, got, want *Folder, eps float64) {
	t.Helper()
	mods, _ := sourceModules(src)
	chosen, err := want.choose(want.Config, mods)
	must(t, err)
	again, err := got.choose(got.Config, mods)
	must(t, err)
	if !slices.Equal(chosen, again) {
		t.Fatalf("%d modules, want %d", len(again), len(chosen))
	}
	for i, stem := range storedPaths(chosen) {
		ends := endings[0]
		if chosen[i].Kind == EmbeddingModule {
			ends = endings[1]
		}
		for _, end := range ends {
			g, w := got.tensors[stem+end], want.tensors[stem+end]
			if g == nil || !slices.Equal(g.shape, w.shape) {
				t.Fatalf("%s%s is missing or of another shape", stem, end)
			}
			x, y := 1.0, 1.0
			if end == ends[1] {
				x, y = factorOf(t, got, chosen[i]), factorOf(t, want, chosen[i])
			}
			for k := range w.data {
				if v := float64(w.data[k]) * y; math.Abs(float64(g.data[k])*x-v) > eps*math.Abs(v) {
					t.Fatalf("%s%s[%d] is %v·%v, want %v·%v", stem, end, k, x, g.data[k], y, w.data[k])
				}
			}
		}
	}
}

func factorOf(t *testing.T, f *Folder, m Module) float64 {
	t.Helper()
	r, alpha, err := f.Config.rankAlpha(m.name())
	must(t, err)
	return float64(f.Config.scale(r, alpha))
}

// TestGGUFLlama: names, metadata and the order of rows are those of llama.cpp's
// converter, and a GGUF with the file computes what PEFT's adapter does on the folder.
func TestGGUFLlama(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	src, _ := loadModel(t, filepath.Join(dir, "base-llama"))
	rows, width := evalBatch(t, dir)
	for _, name := range []string{"lora", "rslora", "patterns", "lora_embedding"} {
		t.Run(name, func(t *testing.T) {
			folder := filepath.Join(dir, name, "adapter")
			f, err := ReadFolder(folder)
			must(t, err)
			file := filepath.Join(t.TempDir(), "a.gguf")
			must(t, f.WriteGGUF(file, src, "a", dtype.Of(dtype.F32)))
			if name == "lora" {
				asConverted(t, file, f, src)
			}
			again, err := ReadGGUF(file, src)
			must(t, err)
			eps := 0.0
			if name == "patterns" { // whose alphas go into B
				eps = 1e-6
			}
			sameTensors(t, src, again, f, eps)
			base := filepath.Join(t.TempDir(), "base.gguf")
			f32 := dtype.Of(dtype.F32)
			d := arch.Dense{Path: base, Type: &f32}
			must(t, d.Write(context.Background(), cpu.New(cpu.Options{}), src, nil))
			gsrc, gm := loadModel(t, base)
			back, err := ReadGGUF(file, gsrc)
			must(t, err)
			ad, err := Weighted{back, 1}.Attach(gm)
			must(t, err)
			defer ad.Close()
			if off := logitsOff(t, gm, rows, width, arrays(t, filepath.Join(dir, name, "logits.safetensors"))["final"]); !(off <= 1e-4) {
				t.Errorf("logits within %g", off)
			}
		})
	}
}

// asConverted checks a file against the rules of convert_lora_to_gguf.
func asConverted(t *testing.T, file string, f *Folder, src *arch.Source) {
	t.Helper()
	r, err := formats.Open(file)
	must(t, err)
	defer r.Close()
	kv := map[string]any{}
	for _, k := range r.KV() {
		kv[k.Key] = k.Value
	}
	for key, want := range map[string]any{"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": float32(f.Config.Alpha)} {
		if kv[key] != want {
			t.Errorf("%s is %v, want %v", key, kv[key], want)
		}
	}
	list := r.Tensors()
	if len(list) != len(f.tensors) {
		t.Errorf("%d tensors, want %d", len(list), len(f.tensors))
	}
	a := src.Spec.Attention()
	for i := range list {
		x := &list[i]
		heads := map[string]int{"blk.1.attn_q.weight.lora_b": a.H, "blk.1.attn_k.weight.lora_b": a.K}[x.Name]
		if heads == 0 {
			continue
		}
		path := map[string]string{"blk.1.attn_q.weight.lora_b": "q_proj", "blk.1.attn_k.weight.lora_b": "k_proj"}[x.Name]
		want := f.tensors["model.layers.1.self_attn."+path+".lora_B.weight"]
		raw, err := r.Read(x)
		must(t, err)
		got := make([]float32, len(want.data))
		block.GetF32(got, raw)
		rank := int(x.Shape[1])
		n := int(x.Shape[0]) / heads // reshape(heads, 2, n/2, r).swapaxes(1, 2)
		for row := range int(x.Shape[0]) {
			h, j := row/n, row%n
			from := h*n + j%2*(n/2) + j/2
			if !slices.Equal(got[row*rank:(row+1)*rank], want.data[from*rank:(from+1)*rank]) {
				t.Fatalf("%s: row %d is not row %d of B", x.Name, row, from)
			}
		}
	}
}

// TestCheckGGUF: what WriteGGUF would refuse of an adapter is refused before it is
// trained, and what the hint excludes is enough.
func TestCheckGGUF(t *testing.T) {
	_, m := loadModel(t, testdir.Shared(t, "golden/arch/minicpm3"))
	for _, c := range []struct {
		config Config
		want   string // of error and hint; "": none
	}{
		{Config{R: 2, TargetModules: Targets{All: true}}, "exclude_modules: [kv_a_proj_with_mqa, kv_b_proj, q_a_proj, q_b_proj]"},
		{Config{R: 2, TargetModules: Targets{All: true}, ExcludeModules: Targets{Names: []string{"kv_a_proj_with_mqa", "kv_b_proj", "q_a_proj", "q_b_proj"}}}, ""},
		{Config{R: 2, TargetModules: Targets{Names: []string{"o_proj"}}, UseDoRA: true}, "use_dora"},
		{Config{R: 2, TargetModules: Targets{Names: []string{"o_proj"}}, ModulesToSave: Strings{"embed_tokens"}}, "trained whole"},
	} {
		ad, err := Apply(m, c.config, 1)
		must(t, err)
		err = ad.CheckGGUF()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error()+fail.Hint(err), c.want) {
			t.Errorf("%+v: %v, hint %q, want %q", c.config, err, fail.Hint(err), c.want)
		}
		ad.Close()
	}
}

// TestGGUFTables: of an adapter of the table of tokens nothing is left out: a tied table
// is refused, and so is a table that is not the base's.
func TestGGUFTables(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	adapter := filepath.Join(dir, "lora_embedding", "adapter")
	src, err := arch.Open(filepath.Join(dir, "base-llama"))
	must(t, err)
	defer src.Close()
	f, err := ReadFolder(adapter)
	must(t, err)
	file := filepath.Join(t.TempDir(), "a.gguf")
	must(t, f.WriteGGUF(file, src, "a", dtype.Of(dtype.Q8_0))) // rows of 8: F16

	f.tensors["model.embed_tokens.base_layer.weight"].data[3] += 0.01
	if err := f.WriteGGUF(filepath.Join(t.TempDir(), "b.gguf"), src, "a", dtype.Of(dtype.F32)); err == nil || !strings.Contains(err.Error(), "embed_tokens.base_layer.weight[3] is") {
		t.Error(err)
	}
	tied, err := arch.Open(testdir.Shared(t, "golden/arch/gemma"))
	must(t, err)
	defer tied.Close()
	if !tied.Spec.Tied {
		t.Fatal("gemma is tied no more")
	}
	f, err = ReadFolder(randomTables(t, tied))
	must(t, err)
	if err := f.WriteGGUF(filepath.Join(t.TempDir(), "c.gguf"), tied, "a", dtype.Of(dtype.F32)); err == nil || !strings.Contains(err.Error(), "model.embed_tokens: a GGUF holds") {
		t.Error(err)
	}
}
