package arch_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

func open(t *testing.T, path string) *arch.Source {
	t.Helper()
	s, err := arch.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// widened is a matrix as float32.
func widened(t *testing.T, m block.Raw) []byte {
	t.Helper()
	x := make([]float32, m.Rows*m.Cols)
	block.DecodeAll(x, m)
	out := block.New(dtype.Of(dtype.F32), m.Rows, m.Cols)
	if err := block.Encode(out, x, nil); err != nil {
		t.Fatal(err)
	}
	return out.Data
}

// TestGGUF: the tensors and keys of a GGUF are those of llama.cpp's converter,
// and what is written comes back.
func TestGGUF(t *testing.T) {
	for _, name := range archtest.Cases {
		t.Run(name, func(t *testing.T) {
			dir := testdir.Shared(t, "golden/arch/"+name)
			src := open(t, dir)
			kv, err := arch.GGUFKeys(&src.Spec, "model", 0, nil)
			want := readConverted(t, dir)
			if err != nil {
				if !strings.Contains(err.Error(), "dynamic") && !strings.Contains(err.Error(), "max_distance 24") && want.Error == "" {
					t.Fatal(err)
				}
				t.Logf("refused: %s", refusal(err))
				return
			}
			path := filepath.Join(t.TempDir(), "model.gguf")
			plan := src.Plan(func(*arch.Tensor) (dtype.Type, string) { return dtype.Of(dtype.F32), "" })
			sink, err := arch.CreateGGUF(path, &src.Spec, kv, plan)
			if err != nil {
				t.Fatal(err)
			}
			defer sink.Abort()
			for _, o := range plan {
				m, _, err := src.Read(o.Tensor)
				if err != nil {
					t.Fatal(err)
				}
				m = block.Raw{Type: o.Type, Rows: m.Rows, Cols: m.Cols, Data: widened(t, m)}
				if err := sink.Write(o.Tensor, m); err != nil {
					t.Fatal(err)
				}
			}
			if err := sink.Commit(); err != nil {
				t.Fatal(err)
			}
			t.Run("export", func(t *testing.T) {
				if want.Error != "" { // llama.cpp may know it by another name
					t.Logf("not measured: the converter has no such model")
					return
				}
				checkConverted(t, want, src, kv)
				checkTables(t, want, path)
			})
			back := open(t, path)
			t.Run("import", func(t *testing.T) { checkSame(t, src, back, name == "falcon-h1") })
			t.Run("folder", func(t *testing.T) { checkFolder(t, back, name == "falcon-h1") })
		})
	}
}

// alwaysF32 are the tensors that llama.cpp's converter stores in F32 beside vectors,
// norms, and whatever is no weight: conversion/base.py, prepare_tensors, of b11549,
// with the names of gguf-py's constants.
var alwaysF32 = regexp.MustCompile(`^(position_embd|blk\.\d+\.(ffn_gate_inp(_shexp)?|ssm_conv1d(_[qkv])?|shortconv\.conv|altup_(correct|predict)_coef|indexer\.proj))\.weight$`)

// TestExact: what a GGUF of any type holds in F32 is what the converter does not round.
func TestExact(t *testing.T) {
	for _, name := range archtest.Cases {
		t.Run(name, func(t *testing.T) {
			for _, x := range open(t, testdir.Shared(t, "golden/arch/"+name)).Tensors() {
				for _, f := range x.AsGGUF() {
					want := len(f.Shape) < 2 || !strings.HasSuffix(f.Name, ".weight") || strings.HasSuffix(f.Name, "_norm.weight") || alwaysF32.MatchString(f.Name)
					if x.Exact() != want {
						t.Errorf("%s %v is kept in F32: %v, by the converter %v", f.Name, f.Shape, x.Exact(), want)
					}
				}
			}
		})
	}
}

// TestLlamaCppNote: who exports a model that llama.cpp computes otherwise is told, and
// nobody else. The cases are those that llama.cpp was seen to differ on.
func TestLlamaCppNote(t *testing.T) {
	differs := []string{"mistral", "starcoder2", "phi3", "exaone4", "gpt-oss", "llama4", "phimoe", "cohere-qknorm", "deepseek2-lite", "t5", "phi3-longrope", "minicpm3"}
	for _, name := range archtest.Cases {
		if note := open(t, testdir.Shared(t, "golden/arch/"+name)).LlamaCppNote(); (note != "") != slices.Contains(differs, name) {
			t.Errorf("%s: %q", name, note)
		}
	}
}

// TestFolder: a folder is written as what it was read from.
func TestFolder(t *testing.T) {
	for _, name := range archtest.Cases {
		t.Run(name, func(t *testing.T) {
			src := open(t, testdir.Shared(t, "golden/arch/"+name))
			d := arch.Dense{Path: filepath.Join(t.TempDir(), "folder")}
			if err := d.Write(context.Background(), cpu.New(cpu.Options{}), src, nil); err != nil {
				t.Fatal(err)
			}
			checkSame(t, src, open(t, d.Path), false)
		})
	}
}

// converted is what the converter makes of a case, or why it makes nothing.
type converted struct {
	Error    string
	Metadata map[string]struct{ Value any }
	Tensors  []struct {
		Name, SHA256 string
		Shape        []int64
	}
}

func readConverted(t *testing.T, dir string) (want converted) {
	t.Helper()
	if err := json.Unmarshal(formats.FiniteJSON(testdir.ReadFile(t, filepath.Join(dir, "gguf.json"))), &want); err != nil {
		t.Fatal(err)
	}
	return want
}

// checkTables: what the writer adds of rotary angles is what the converter adds.
func checkTables(t *testing.T, want converted, path string) {
	t.Helper()
	r, err := formats.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := map[string]string{}
	for _, x := range r.Tensors() {
		raw, err := r.Read(&x)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(raw)
		got[x.Name] = hex.EncodeToString(sum[:])
	}
	for _, x := range want.Tensors {
		if strings.HasPrefix(x.Name, "rope_factors_") && got[x.Name] != x.SHA256 {
			t.Errorf("%s is not the converter's", x.Name)
		}
	}
}

// asGGUF are hash and shape of every tensor of a GGUF of src.
func asGGUF(t *testing.T, src *arch.Source) map[string]string {
	t.Helper()
	got := map[string]string{}
	for _, x := range src.Tensors() {
		for _, f := range x.AsGGUF() {
			m, err := src.ReadAs(f)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(widened(t, m))
			shape := slices.Clone(f.Shape)
			slices.Reverse(shape)
			got[f.Name] = hex.EncodeToString(sum[:]) + string(mustJSON(t, shape))
		}
	}
	return got
}

// alike reports whether float32 values are equal within their last bits.
func alike(a, b []byte) bool {
	x, y := make([]float32, len(a)/4), make([]float32, len(b)/4)
	block.GetF32(x, a)
	block.GetF32(y, b)
	for i := range x {
		if d := math.Abs(float64(x[i]) - float64(y[i])); !(d <= 1e-6) {
			return false
		}
	}
	return len(x) == len(y)
}

// checkConverted compares with the converter's tensors and keys.
func checkConverted(t *testing.T, want converted, src *arch.Source, kv []formats.KV) {
	t.Helper()
	got := asGGUF(t, src)
	for _, x := range want.Tensors {
		if strings.HasPrefix(x.Name, "rope_f") { // made by the writer
			continue
		}
		hash := x.SHA256
		if strings.HasSuffix(x.Name, ".ssm_a") && len(got[x.Name]) > 64 && x.Shape[0] > 1 {
			// Exponentials of a whole matrix: the last bit of some is the math library's affair.
			hash = got[x.Name][:64]
		}
		if got[x.Name] != hash+string(mustJSON(t, x.Shape)) {
			t.Errorf("%s is not the converter's: %s %v", x.Name, got[x.Name], x.Shape)
		}
		delete(got, x.Name)
	}
	for name := range got {
		t.Errorf("the converter writes no %s", name)
	}
	have := map[string]any{}
	for _, e := range kv {
		have[e.Key] = e.Value
	}
	prefix := have["general.architecture"].(string) + "."
	for key, v := range want.Metadata {
		if key != "general.architecture" && key != "general.size_label" && !strings.HasPrefix(key, prefix) {
			continue
		}
		if list, ok := have[key].([]float32); ok {
			if !sameFloats(list, v.Value) {
				t.Errorf("%s is %v, the converter writes %v", key, list, v.Value)
			}
			continue
		}
		if a, b := mustJSON(t, have[key]), mustJSON(t, v.Value); !bytes.Equal(a, b) && !sameFloat(have[key], v.Value) {
			t.Errorf("%s is %s, the converter writes %s", key, a, b)
		}
	}
}

// checkFolder: a folder written from a GGUF says of the model what the GGUF says, or
// is refused; see checkSame about what is folded.
func checkFolder(t *testing.T, src *arch.Source, folded bool) {
	t.Helper()
	d := arch.Dense{Path: filepath.Join(t.TempDir(), "folder")}
	if err := d.Write(context.Background(), cpu.New(cpu.Options{}), src, nil); err != nil {
		if !strings.Contains(err.Error(), "config.json") || strings.Contains(err.Error(), "cannot state this model") { // what was exported from a folder can be stated in one
			t.Error(err)
		}
		t.Logf("refused: %s", refusal(err))
		return
	}
	made := open(t, d.Path)
	if checkSame(t, src, made, folded); folded {
		return
	}
	a, b := src.Spec, made.Spec
	for i := range a.Ropes {
		x, p := a.Ropes[i].Angles(1)
		y, q := b.Ropes[i].Angles(1)
		for j := range x {
			if math.Abs(x[j]-y[j]) > 1e-6*x[j] {
				t.Errorf("table %d: frequency %d is %g, was %g", i, j, y[j], x[j])
			}
		}
		if math.Abs(p-q) > 1e-6 {
			t.Errorf("table %d: factor %g, was %g", i, q, p)
		}
	}
	near := func(x, y float32) bool { return math.Abs(float64(x-y)) <= 1e-6*math.Abs(float64(x)) }
	if a.Norm != b.Norm || a.Tied != b.Tied || a.MaxPos != b.MaxPos || a.V != b.V || a.Temperature != b.Temperature ||
		!near(a.EmbedScale, b.EmbedScale) || !near(a.LogitScale, b.LogitScale) || !near(a.LogitCap, b.LogitCap) {
		a.Layers, b.Layers, a.Ropes, b.Ropes = nil, nil, nil, nil
		t.Errorf("the folder says %+v, the GGUF %+v", b, a)
	}
}

// sameFloat compares a float32 with what JSON says of it.
func sameFloat(have, want any) bool {
	f, ok := have.(float32)
	w, is := want.(float64)
	return ok && is && f == float32(w)
}

// sameFloats is sameFloat of lists, which may have infinite values.
func sameFloats(have []float32, want any) bool {
	list, _ := want.([]any)
	for i, w := range list {
		if infinite, ok := w.(map[string]any); ok {
			f, err := strconv.ParseFloat(fmt.Sprint(infinite["__float__"]), 64)
			if w = f; err != nil {
				return false
			}
		}
		if i >= len(have) || !sameFloat(have[i], w) {
			return false
		}
	}
	return len(list) == len(have)
}

// refusal is what an error says, without the file.
func refusal(err error) string {
	var e *fail.Error
	if errors.As(err, &e) {
		return e.Msg
	}
	return err.Error()
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// within are architectures that come back from a GGUF, or from a folder made of
// one, as another: that of the half that reads text, or one that differs in what
// this model does not have.
var within = map[string][]string{"qwen2": {"qwen2_vl"}, "llama": {"mistral"}, "ministral3": {"mistral3"}, "deepseek_v3": {"glm4_moe_lite"}, "glm4_moe": {"solar_open"}, "qwen3_5_text": {"qwen3_5"}, "t5": {"mt5"}}

// checkSame compares a model with the one that was read back from a GGUF of it.
// folded: a GGUF holds factors in the weights, so that what comes back is another
// model of the same function, and the same GGUF.
func checkSame(t *testing.T, a, b *arch.Source, folded bool) {
	t.Helper()
	if folded {
		if x, y := asGGUF(t, a), asGGUF(t, b); !reflect.DeepEqual(x, y) {
			t.Error("the GGUF of what comes back is another")
		}
		return
	}
	if !reflect.DeepEqual(a.Spec.Layers, b.Spec.Layers) {
		t.Errorf("layers come back as %s, were %s", mustJSON(t, b.Spec.Layers), mustJSON(t, a.Spec.Layers))
	}
	back := b.Architecture()
	if slices.Contains(within[back], a.Architecture()) {
		back = a.Architecture()
	}
	if a.Architecture() != back || len(a.Tensors()) != len(b.Tensors()) {
		t.Errorf("%s of %d tensors comes back as %s of %d", a.Architecture(), len(a.Tensors()), b.Architecture(), len(b.Tensors()))
	}
	for i, x := range a.Tensors() {
		y := b.Tensors()[i]
		m, _, err := a.Read(x)
		if err != nil {
			t.Fatal(err)
		}
		n, _, err := b.Read(y)
		if err != nil {
			t.Fatal(err)
		}
		same := bytes.Equal(widened(t, m), widened(t, n))
		if x.Role == arch.ALog { // by way of its exponential
			same = alike(widened(t, m), widened(t, n))
		}
		if strings.Replace(x.Name, "language_model.", "", 1) != strings.Replace(y.Name, "language_model.", "", 1) || !same {
			t.Errorf("%s comes back as another %s", x.Name, y.Name)
		}
	}
}
