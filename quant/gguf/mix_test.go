package gguf

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/dtype"
)

type table map[string]any

type tableModel struct {
	Arch    string
	Hidden  int64
	FFN     int64
	Layers  int
	Heads   int64
	KVHeads int64 `json:"kv_heads"`
	HeadDim int64 `json:"head_dim"`
	Vocab   int64
	Tied    bool
	Experts int64
	Plain   map[string]table
	Imatrix map[string]table
	Options map[string]map[string]table
}

// tensors are the matrices of the model, in no particular order.
func (m *tableModel) tensors() []MixTensor {
	f16, f32 := dtype.Of(dtype.F16), dtype.Of(dtype.F32)
	out := []MixTensor{{Name: "token_embd.weight", Shape: []int64{m.Vocab, m.Hidden}, Type: f16}, {Name: "output_norm.weight", Shape: []int64{m.Hidden}, Type: f32}}
	if !m.Tied {
		out = append(out, MixTensor{Name: "output.weight", Shape: []int64{m.Vocab, m.Hidden}, Type: f16})
	}
	q, kv := m.Heads*m.HeadDim, m.KVHeads*m.HeadDim
	for l := range m.Layers {
		add := func(name string, t dtype.Type, shape ...int64) {
			out = append(out, MixTensor{Name: fmt.Sprintf("blk.%d.%s", l, name), Shape: shape, Type: t})
		}
		add("attn_norm.weight", f32, m.Hidden)
		if m.Arch == "phi3" {
			add("attn_qkv.weight", f16, q+2*kv, m.Hidden)
			add("ffn_up.weight", f16, 2*m.FFN, m.Hidden)
			add("ffn_down.weight", f16, m.Hidden, m.FFN)
		} else {
			add("attn_q.weight", f16, q, m.Hidden)
			add("attn_k.weight", f16, kv, m.Hidden)
			add("attn_v.weight", f16, kv, m.Hidden)
		}
		add("attn_output.weight", f16, m.Hidden, q)
		switch {
		case m.Experts > 0:
			add("ffn_gate_inp.weight", f32, m.Experts, m.Hidden)
			add("ffn_gate_exps.weight", f16, m.Experts, m.FFN, m.Hidden)
			add("ffn_up_exps.weight", f16, m.Experts, m.FFN, m.Hidden)
			add("ffn_down_exps.weight", f16, m.Experts, m.Hidden, m.FFN)
		case m.Arch != "phi3":
			add("ffn_gate.weight", f16, m.FFN, m.Hidden)
			add("ffn_up.weight", f16, m.FFN, m.Hidden)
			add("ffn_down.weight", f16, m.Hidden, m.FFN)
		}
	}
	return out
}

// tabulate writes choices as the golden file does.
func tabulate(choices []Choice) table {
	runs := map[string][]string{}
	fall := 0
	for _, c := range choices {
		if c.Fallback {
			fall++
		}
		if strings.Contains(c.Name, "norm") {
			continue
		}
		name := c.Name
		if b := blockOf(name); b >= 0 {
			name = "blk.*." + strings.SplitN(name, ".", 3)[2]
		}
		runs[name] = append(runs[name], strings.ToLower(c.To.Kind.String()))
	}
	out := table{}
	for name, list := range runs {
		if !strings.HasPrefix(name, "blk") {
			out[name] = list[0]
			continue
		}
		var s []string
		for i := 0; i < len(list); {
			j := i
			for j < len(list) && list[j] == list[i] {
				j++
			}
			if j-i > 1 {
				s = append(s, fmt.Sprintf("%s*%d", list[i], j-i))
			} else {
				s = append(s, list[i])
			}
			i = j
		}
		out[name] = strings.Join(s, " ")
	}
	if fall > 0 {
		out["#fallbacks"] = float64(fall)
	}
	return out
}

func sameTable(t *testing.T, where string, got, want table) {
	t.Helper()
	for k, w := range want {
		if s, ok := w.(string); ok {
			w = strings.ToLower(s)
		}
		if got[k] != w {
			t.Errorf("%s: %s is %v, want %v", where, k, got[k], w)
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			t.Errorf("%s: %s is not expected", where, k)
		}
	}
}

// TestMix compares with llama-quantize --dry-run on 16 models (golden/blocks/wholefile/type_tables.json).
func TestMix(t *testing.T) {
	var file struct{ Models map[string]tableModel }
	b, err := os.ReadFile(filepath.Join(testdir.Shared(t, "golden/blocks/wholefile"), "type_tables.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	rows := 0
	for name, m := range file.Models {
		mm := MixModel{Arch: m.Arch, Layers: m.Layers, Heads: int(m.Heads), KVHeads: int(m.KVHeads), Experts: int(m.Experts)}
		check := func(where, ft string, o MixOptions, want table) {
			f, err := ParseFileType(ft)
			if err != nil {
				t.Errorf("%s: %v", where, err)
				return
			}
			o.FileType = f
			rows++
			choices, err := Mix(mm, m.tensors(), o)
			if msg, ok := want["error"]; ok {
				if err == nil {
					t.Errorf("%s: no error, want %v", where, msg)
				}
				return
			}
			if err != nil {
				t.Errorf("%s: %v", where, err)
				return
			}
			sameTable(t, where, tabulate(choices), want)
		}
		for ft, want := range m.Plain {
			check(name+" "+ft, ft, MixOptions{}, want)
			if w, ok := m.Imatrix[ft]; ok {
				want = w
			}
			check(name+" imatrix "+ft, ft, MixOptions{Importance: true}, want)
		}
		for ft, variants := range m.Options {
			for opt, want := range variants {
				check(name+" "+ft+" "+opt, ft, options(t, opt), want)
			}
		}
	}
	t.Logf("%d rows equal", rows)
	if rows < 1200 {
		t.Errorf("only %d rows compared", rows)
	}
}

func options(t *testing.T, s string) (o MixOptions) {
	t.Helper()
	words := strings.Fields(s)
	kind := func(name string) dtype.Kind {
		k, ok := dtype.Parse(name)
		if !ok {
			t.Fatalf("type %q", name)
		}
		return k
	}
	for i := 0; i < len(words); i++ {
		switch words[i] {
		case "--pure":
			o.Pure = true
		case "--leave-output-tensor":
			o.LeaveOutput = true
		case "--output-tensor-type":
			i++
			k := kind(words[i])
			o.Output = &k
		case "--token-embedding-type":
			i++
			k := kind(words[i])
			o.Embedding = &k
		case "--tensor-type":
			i++
			p, k, _ := strings.Cut(words[i], "=")
			o.Tensors = append(o.Tensors, TensorType{p, kind(k)})
		default:
			t.Fatalf("option %q", words[i])
		}
	}
	return o
}

func TestParseFileType(t *testing.T) {
	for in, want := range map[string]string{"q4_k": "Q4_K_M", "Q5_K": "Q5_K_M", "q8_0": "Q8_0", "copy": "COPY", "iq2_xxs": "IQ2_XXS", "MXFP4": "MXFP4_MOE"} {
		if f, err := ParseFileType(in); err != nil || f.Name != want {
			t.Errorf("%s: %v, %v", in, f.Name, err)
		}
	}
	if _, err := ParseFileType("Q7_K"); err == nil || !strings.Contains(err.Error(), "Q7_K") {
		t.Errorf("Q7_K: %v", err)
	}
}

func TestParseTensorType(t *testing.T) {
	got, err := ParseTensorType(`blk\.[02]\.attn_v=q6_k`)
	if err != nil || got.Pattern != `blk\.[02]\.attn_v` || got.Type != dtype.Q6_K {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"attn_v", "=Q6_K", "attn_v=", "attn_v=Q9", "(=Q6_K", "attn_v=NF4"} {
		if _, err := ParseTensorType(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
