package gguf

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/dry"
)

// TestEdits writes whole files with what llama-quantize changes beside types. The hashes are those of
// llama_model_quantize (llama.cpp with ggml 0.25.3, called by ctypes with kv_overrides, prune_layers, keep_split
// and an imatrix without the entries that --exclude-weights and --include-weights drop) on the same file.
func TestEdits(t *testing.T) {
	dir, _ := golden(t)
	im, err := ReadImatrix(filepath.Join(dir, "imatrix.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	only := func(include, exclude []string) *Imatrix {
		m, err := im.Only(include, exclude)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	words := []string{"ffn_down", "attn_q"}
	var over []formats.KV
	for _, s := range []string{"general.name=str:Mine", "llama.context_length=int:77", "my.float=float:0.1", "my.bool=bool:true"} {
		e, err := ParseOverride(s)
		if err != nil {
			t.Fatal(err)
		}
		over = append(over, e)
	}
	tmp := t.TempDir()
	for _, c := range []struct {
		name  string
		src   string
		o     Options
		parts []string
	}{
		{"override", "", Options{Override: over}, []string{"caa621e6a0b8cf9b"}},
		{"prune", "", Options{Prune: []int{0}, Imatrix: im}, []string{"8e5f587affa5d570"}},
		{"exclude", "", Options{Imatrix: only(nil, words)}, []string{"aa2ea0ec5b9cf398"}},
		{"include", "", Options{Imatrix: only(words, nil)}, []string{"078cb0355f9c877f"}},
		{"parts", "", Options{Type: "COPY", SplitSize: 1_000_000}, []string{"ca2204c3527f1e3f", "dcf707a080954eb5", "0e331b08b0741e4f", "77a9062f677dd01e", "030e79904c49dc2b"}},
		{"kept", "parts-00001-of-00005.gguf", Options{KeepSplit: true}, []string{"2f80f83276d3324e", "f225dca59d65000e", "d3a34b53105023a8", "e4e2caf93db63c34", "5834a0005b481550"}},
	} {
		src := filepath.Join(dir, "source.gguf")
		if c.src != "" {
			src = filepath.Join(tmp, c.src)
		}
		if c.o.Type == "" {
			c.o.Type = "Q4_K_M"
		}
		out := filepath.Join(tmp, c.name+".gguf")
		rep, err := Write(context.Background(), dry.New(dry.Options{}), src, out, c.o, nil)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		files := []string{out}
		if len(c.parts) > 1 {
			files = rep.Files
		}
		if len(files) != len(c.parts) {
			t.Fatalf("%s: files %v", c.name, files)
		}
		for i, f := range files {
			if got := hash(readFile(t, f)); got[:16] != c.parts[i] {
				t.Errorf("%s: %s differs: %s", c.name, filepath.Base(f), got[:16])
			}
		}
	}
	if only(nil, []string{"."}) != nil {
		t.Error("entries are left where all are excluded")
	}
	// A model in parts is the model: the parts joined are the source again.
	join := func(name string, o Options) []byte {
		out := filepath.Join(tmp, "joined.gguf")
		o.Type, o.Force = "COPY", true
		if _, err := Write(context.Background(), dry.New(dry.Options{}), filepath.Join(tmp, name), out, o, nil); err != nil {
			t.Fatal(err)
		}
		return readFile(t, out)
	}
	whole := filepath.Join(tmp, "whole.gguf")
	if _, err := Write(context.Background(), dry.New(dry.Options{}), filepath.Join(dir, "source.gguf"), whole, Options{Type: "COPY"}, nil); err != nil {
		t.Fatal(err)
	}
	if string(join("parts-00001-of-00005.gguf", Options{})) != string(readFile(t, whole)) {
		t.Error("the parts joined are another file")
	}
	if _, err := Write(context.Background(), dry.New(dry.Options{}), filepath.Join(tmp, "parts-00001-of-00005.gguf"), filepath.Join(tmp, "parts.gguf"), Options{Type: "Q8_0", KeepSplit: true, Force: true}, nil); err == nil {
		t.Error("a set was written over itself")
	}
}

// TestEditRefusals: what cannot be meant is refused before anything is written.
func TestEditRefusals(t *testing.T) {
	dir, _ := golden(t)
	kv := func(s string) []formats.KV {
		e, err := ParseOverride(s)
		if err != nil {
			t.Fatal(err)
		}
		return []formats.KV{e}
	}
	for want, o := range map[string]Options{
		"llama.block_count is int":        {Override: kv("llama.block_count=str:2")},
		"tokenizer.ggml.tokens is an":     {Override: kv("tokenizer.ggml.tokens=str:2")},
		"general.name is given twice":     {Override: append(kv("general.name=str:a"), kv("general.name=str:b")...)},
		"split.count follows from":        {Override: kv("split.count=int:2")},
		"no block 2":                      {Prune: []int{0, 2}},
		"all 2 blocks":                    {Prune: []int{0, 1}},
		"--keep-split and --split-max-si": {KeepSplit: true, SplitSize: 5},
	} {
		o.Type = "Q8_0"
		out := filepath.Join(t.TempDir(), "o.gguf")
		_, err := Write(context.Background(), dry.New(dry.Options{}), filepath.Join(dir, "source.gguf"), out, o, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
		if list, _ := os.ReadDir(filepath.Dir(out)); len(list) > 0 {
			t.Errorf("%s: left %v", want, list)
		}
	}
	for _, s := range []string{"", "a", "a=b", "=int:1", "a=int:", "a=int:-1", "a=int:4294967296", "a=float:nan", "a=bool:1", "a=list:1", "a=int:1.5"} {
		if e, err := ParseOverride(s); err == nil {
			t.Errorf("%q is %v", s, e)
		}
	}
	if l, err := ParseLayers("3,0,3"); err != nil || !reflect.DeepEqual(l, []int{0, 3}) {
		t.Error(l, err)
	}
	for _, s := range []string{"", "a", "-1", "1,,2", "1-2"} {
		if l, err := ParseLayers(s); err == nil {
			t.Errorf("%q is %v", s, l)
		}
	}
	im := &Imatrix{File: "im", Entries: []ImatrixEntry{{Name: "blk.0.attn_q.weight"}}}
	if _, err := im.Only([]string{"attn_k"}, nil); err == nil {
		t.Error("a word of no entry was taken")
	}
	if _, err := im.Only([]string{"attn_q"}, []string{"attn_q"}); err == nil {
		t.Error("both lists were taken")
	}
}

// TestPruneNote: where the kind of a layer follows from its number, what a pruned model is instead is said.
func TestPruneNote(t *testing.T) {
	for name, want := range map[string]string{"llama": "", "qwen3": "", "gpt-oss": "layer 0: sliding_window", "qwen3-next": "layer 2", "deepseek2": "", "gemma3": "layer 1: table of rotation", "cohere2": "layer 2: table of rotation", "olmo3": "", "gemma4": "", "granite-hybrid": ""} {
		s, err := arch.Open(testdir.Shared(t, "golden/arch/"+name))
		if err != nil {
			t.Fatal(err)
		}
		kv, err := arch.GGUFKeys(&s.Spec, name, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		in := input{kv: kv, tensors: mixTensors(s, FileType{Name: "COPY"}), model: factsOf(kv)}
		if err := in.prune([]int{0}); err != nil {
			t.Fatal(name, err)
		}
		if in.leftOut != "" || want != "" {
			t.Log(name, in.leftOut)
		}
		if (want == "") != (in.leftOut == "") || !strings.Contains(in.leftOut, want) {
			t.Errorf("%s without block 0: %q, expected %q", name, in.leftOut, want)
		}
		s.Close()
	}
}
