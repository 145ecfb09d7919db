package stages

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// TestWithin follows links that stay in a model's folder, or in the cache of
// its repository, and no others.
func TestWithin(t *testing.T) {
	dir := t.TempDir()
	model, snapshot := filepath.Join(dir, "model"), filepath.Join(dir, "models--a--b", "snapshots", "0123")
	for _, d := range []string{model, snapshot, filepath.Join(dir, "models--a--b", "blobs")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"secret", "model/text", "models--a--b/blobs/x"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		dir, target string
		ok          bool
	}{
		{model, "text", true}, {model, filepath.Join(model, "text"), true}, {model, "../model/text", true},
		{model, "../secret", false}, {model, filepath.Join(dir, "secret"), false}, {model, "gone", false},
		{snapshot, "../../blobs/x", true}, {snapshot, "../../../secret", false},
	} {
		link := filepath.Join(c.dir, "LICENSE")
		if err := os.Symlink(c.target, link); err != nil {
			t.Fatal(err)
		}
		err := within(c.dir, "LICENSE")
		if (err == nil) != c.ok {
			t.Errorf("%s -> %s: %v", link, c.target, err)
		}
		if err != nil && !strings.Contains(err.Error(), link) {
			t.Errorf("%v does not name %s", err, link)
		}
		os.Remove(link)
	}
	if err := within(model, "absent"); err != nil {
		t.Error(err)
	}
}

// TestCacheScales: scales of a cache of keys and values, as ModelOpt and others store
// them, are no weights: a folder with them opens, and what is left out is said. Inputs
// that ModelOpt scales beforehand are refused by that name.
func TestCacheScales(t *testing.T) {
	orig := testdir.Shared(t, "golden/quant/orig")
	folder := func(extra ...string) string {
		dir := t.TempDir()
		ts, _, err := formats.ReadSafetensors(filepath.Join(orig, "model.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range extra {
			ts = append(ts, formats.NamedTensor{Name: "model.layers.0." + name, DType: "F32", Data: []byte{0, 0, 128, 63}})
		}
		config, err := os.ReadFile(filepath.Join(orig, "config.json"))
		if err = errors.Join(err, formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), ts, nil), os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	load := func(dir string) (notes []string, carried string, err error) {
		dev := cpu.New(cpu.Options{})
		defer dev.Close()
		m, err := LoadModel(dev, dir, ModelOptions{Note: func(s string) { notes = append(notes, s) }})
		if err != nil {
			return nil, "", err
		}
		defer m.Close()
		return notes, m.Src.CarriedNote(true), nil
	}
	for _, extra := range [][]string{
		{"self_attn.k_proj.k_scale", "self_attn.v_proj.v_scale"}, {"self_attn.k_proj.k_bias", "self_attn.v_proj.v_bias"}, {"self_attn.k_scale", "self_attn.q_scale"},
		{"self_attn.k_proj.output_scale", "self_attn.v_proj.output_scale"}, {"self_attn.kv_scale", "self_attn.v_zero_point"},
	} {
		notes, carried, err := load(folder(extra...))
		if err != nil || len(notes) != 1 || !strings.Contains(notes[0], "(2 scales, model.layers.0.self_attn.k") || !strings.Contains(carried, "2 scales of a cache") {
			t.Errorf("%s: notes %q, %q: %v", extra, notes, carried, err)
		}
	}
	for name, want := range map[string]string{
		"self_attn.k_proj.pre_quant_scale": `k_proj.pre_quant_scale": inputs that are scaled before their product`, "self_attn.k_proj.o_scale": "has no place in", "mlp.up_proj.k_scale": "has no place in",
	} {
		if _, _, err := load(folder(name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if notes, carried, err := load(folder()); err != nil || len(notes) > 0 || carried != "" {
		t.Errorf("notes %q, %q: %v", notes, carried, err)
	}
}

// TestQuantized: QLoRA makes NF4 of floats of 8 bits with scales, and trains over 4 bits as they are.
func TestQuantized(t *testing.T) {
	for name, want := range map[string]bool{"orig": false, "ct-fp8-static": false, "ct-mxfp4": true, "ct-nvfp4": true, "gptq-4b-g128-sym": true, "ct-w8a8-int8": true} {
		src, err := OpenSource(testdir.Shared(t, "golden/quant/"+name))
		if err != nil {
			t.Fatal(err)
		}
		if got := quantized(src); got != want {
			t.Errorf("%s holds %v: quantized %v, want %v", name, src.LinearType(), got, want)
		}
		src.Close()
	}
}

// TestUnrounded: an evaluation says that a folder's inputs are rounded where it is served
// and not here.
func TestUnrounded(t *testing.T) {
	for name, want := range map[string]string{"ct-fp8-static": "", "ct-nvfp4": "4-bit float, by tensor_group", "ct-w8a8-int8": "", "orig": ""} {
		dir := testdir.Shared(t, "golden/quant/"+name)
		dev := cpu.New(cpu.Options{})
		var notes []string
		m, err := LoadModel(dev, dir, ModelOptions{Note: func(s string) { notes = append(notes, s) }})
		if err != nil {
			t.Fatal(err)
		}
		m.Close()
		dev.Close()
		if got := strings.Join(notes, "\n"); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: notes %q, want %q in them", name, got, want)
		}
	}
}
