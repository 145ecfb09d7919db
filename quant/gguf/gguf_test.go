package gguf

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
)

type goldenRun struct {
	Source  string
	Tied    bool
	FType   string
	Imatrix string
	Bytes   int64  `json:"file_bytes"`
	SHA     string `json:"file_sha256"`
	Error   []string
	Log     []string
	Tensors []struct {
		Name  string
		Type  string
		Shape []int64
		Bytes int
		SHA   string `json:"sha256"`
	}
	Order   json.RawMessage `json:"metadata_order"`
	Changed [][]any         `json:"metadata_changed"`
	Removed []string        `json:"metadata_removed"`
}

type goldenFile struct {
	Base [][]any `json:"base_metadata"`
	Runs []goldenRun
}

func golden(t *testing.T) (dir string, g goldenFile) {
	t.Helper()
	dir = testdir.Shared(t, "golden/blocks/wholefile")
	b, err := os.ReadFile(filepath.Join(dir, "runs.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	return dir, g
}

// source opens the golden model, for a tied run without its output matrix.
func source(t *testing.T, dir string, tied bool) *input {
	t.Helper()
	in, err := openInput(filepath.Join(dir, "source.gguf"), &Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.close() })
	if tied {
		in.tensors = slices.DeleteFunc(in.tensors, func(x MixTensor) bool { return x.Name == "output.weight" })
	}
	return in
}

func runOptions(t *testing.T, dir string, r goldenRun) Options {
	t.Helper()
	o := Options{Type: r.FType}
	if r.Imatrix != "" {
		var err error
		if o.Imatrix, err = ReadImatrix(filepath.Join(dir, r.Imatrix)); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// TestGGUFRuns compares every tensor that llama-quantize wrote: name, place,
// type, bytes; the metadata; and what it logged about missing importance.
func TestGGUFRuns(t *testing.T) {
	dir, g := golden(t)
	runs, tensors := 0, 0
	for _, r := range g.Runs {
		runs++
		t.Run(fmt.Sprintf("%s/tied=%v/%s", r.FType, r.Tied, r.Imatrix), func(t *testing.T) {
			in, o := source(t, dir, r.Tied), runOptions(t, dir, r)
			choices, rep, err := planTypes(in, &o)
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Error) > 0 {
				if err := refuse("source.gguf", choices, rep, &o); !strings.Contains(fmt.Sprint(err), "needs an importance matrix") || !strings.Contains(fmt.Sprint(r.Error), "requires an imatrix") {
					t.Errorf("%v, want %v", err, r.Error)
				}
				return
			}
			if len(choices) != len(r.Tensors) {
				t.Fatalf("%d tensors, want %d", len(choices), len(r.Tensors))
			}
			run := encoder{ctx: context.Background(), in: in, o: &o, rep: rep}
			for i, w := range r.Tensors {
				c := &choices[i]
				if c.Name != w.Name || c.To.String() != w.Type {
					t.Errorf("tensor %d is %s %v, want %s %s", i, c.Name, c.To, w.Name, w.Type)
					continue
				}
				data, _, err := in.read(c.Name)
				if err != nil {
					t.Fatal(err)
				}
				if c.To != c.Type {
					if data, err = run.encode(c, c.Type, data); err != nil {
						t.Fatal(err)
					}
				}
				if len(data) != w.Bytes || hash(data) != w.SHA || rep.Tensors[i].Bytes != int64(w.Bytes) {
					t.Errorf("%s as %v: %d bytes differ from the reference's %d", c.Name, c.To, len(data), w.Bytes)
				}
				tensors++
			}
			checkMetadata(t, in, &o, g, r)
			var logged []string
			for _, l := range r.Log {
				logged = append(logged, l[strings.LastIndex(l, " ")+1:])
			}
			if !slices.Equal(rep.NoImportance, logged) {
				t.Errorf("without importance: %v, want %v", rep.NoImportance, logged)
			}
		})
	}
	t.Logf("%d runs, %d tensors equal", runs, tensors)
	if runs < 44 {
		t.Errorf("only %d runs", runs)
	}
}

func hash(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func checkMetadata(t *testing.T, in *input, o *Options, g goldenFile, r goldenRun) {
	t.Helper()
	kv, err := metadata(in, o)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]any{}
	var order []string
	for _, e := range g.Base {
		order = append(order, e[0].(string))
		want[e[0].(string)] = e
	}
	for _, e := range r.Changed {
		want[e[0].(string)] = e
	}
	if r.Order[0] == '[' {
		order = nil
		if err := json.Unmarshal(r.Order, &order); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, e := range kv {
		got = append(got, e.Key)
	}
	if !slices.Equal(got, order) {
		t.Fatalf("keys %v\nwant %v", got, order)
	}
	names := map[string]string{"uint32": "UINT32", "string": "STRING", "float32": "FLOAT32", "bool": "BOOL"}
	for _, e := range kv {
		w := want[e.Key]
		kind := w[1].([]any)[0].(string)
		if kind == "ARRAY" {
			if n := int(w[2].(map[string]any)["count"].(float64)); reflect.ValueOf(e.Value).Len() != n {
				t.Errorf("%s has %d values, want %d", e.Key, reflect.ValueOf(e.Value).Len(), n)
			}
			continue
		}
		v := w[2]
		if f, ok := v.(float64); ok && kind == "FLOAT32" {
			v = float32(f)
		} else if ok {
			v = uint32(f)
		}
		if names[reflect.TypeOf(e.Value).String()] != kind || e.Value != v {
			t.Errorf("%s is %T %v, want %s %v", e.Key, e.Value, e.Value, kind, v)
		}
	}
}

func TestGGUFRefusals(t *testing.T) {
	dir, _ := golden(t)
	src := filepath.Join(dir, "source.gguf")
	out := filepath.Join(t.TempDir(), "out.gguf")
	run := func(src string, o Options) error {
		_, err := Write(context.Background(), dry.New(dry.Options{}), src, out, o, nil)
		return err
	}
	small, err := ReadImatrix(filepath.Join(dir, "imatrix.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	wrong := *small
	wrong.Entries = slices.Clone(small.Entries)
	wrong.Entries[3].Sums = wrong.Entries[3].Sums[:128]
	other := Imatrix{File: "other.gguf", Entries: []ImatrixEntry{{"blk.9.x.weight", []float32{1}, []float32{1}}}}
	for name, c := range map[string]struct {
		code int
		err  error
		want string
	}{
		"needs an importance matrix":                {3, run(src, Options{Type: "Q2_K_S"}), "blk.0"},
		"IQ1_S as IQ1_S needs an importance matrix": {3, run(src, Options{Type: "IQ1_S"}), "blk.0.attn_k"},
		"token_embd.weight: Q8_0 as IQ2_XS needs":   {3, run(src, Options{Type: "Q8_0", EmbeddingType: "IQ2_XS", Imatrix: small}), "imatrix.gguf has none"},
		"unknown GGUF type":                         {2, run(src, Options{Type: "Q9"}), "Q9"},
		"unknown tensor type":                       {2, run(src, Options{Type: "Q8_0", OutputType: "Q9"}), "output-tensor-type"},
		"cannot be encoded":                         {2, run(src, Options{Type: "Q8_0", EmbeddingType: "NF4"}), "NF4"},
		"not a regular expression":                  {2, run(src, Options{Type: "Q8_0", Tensors: []TensorType{{"(", dtype.Q8_0}}}), "("},
		"matches no tensor":                         {2, run(src, Options{Type: "Q8_0", Tensors: []TensorType{{"attn_vv", dtype.Q8_0}}}), "attn_vv"},
		"values, the tensor needs":                  {3, run(src, Options{Type: "Q4_K_M", Imatrix: &wrong}), "128"},
		"no entry for any tensor":                   {3, run(src, Options{Type: "Q4_K_M", Imatrix: &other}), "blk.9"},
		"no such file":                              {3, run(src+"x", Options{Type: "Q8_0"}), "sourc"},
	} {
		if fail.Code(c.err) != c.code || !strings.Contains(fmt.Sprint(c.err), name) || !strings.Contains(fmt.Sprint(c.err), c.want) {
			t.Errorf("%s: exit %d, %v", name, fail.Code(c.err), c.err)
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a refused run left a file")
	}
}

// TestGGUFNotFinite: no type hides a damaged weight.
func TestGGUFNotFinite(t *testing.T) {
	for _, to := range []dtype.Kind{dtype.BF16, dtype.F16, dtype.Q8_0} {
		x := make([]float32, 64)
		x[40] = float32(math.Inf(-1))
		raw := make([]byte, 256)
		block.PutF32(raw, x)
		c := Choice{MixTensor: MixTensor{Name: "w", Shape: []int64{2, 32}}, To: dtype.Of(to)}
		run := encoder{ctx: context.Background(), o: &Options{}}
		if _, err := run.encode(&c, dtype.Of(dtype.F32), raw); fail.Code(err) != 3 || !strings.Contains(err.Error(), "row 1, column 8 is -Inf") {
			t.Errorf("%v: %v", to, err)
		}
	}
}

// TestGGUFExperts: every expert of a matrix of experts has its own importance.
func TestGGUFExperts(t *testing.T) {
	const experts, rows, cols = 3, 4, 256
	x, im := make([]float32, experts*rows*cols), make([]float32, experts*cols)
	for i := range x {
		x[i] = float32(math.Sin(float64(i) * 1.7))
	}
	for i := range im {
		im[i] = float32(i*i%97) + 1
	}
	raw := make([]byte, 4*len(x))
	block.PutF32(raw, x)
	m := &Imatrix{File: "im", Entries: []ImatrixEntry{{"blk.0.ffn_up_exps.weight", im, []float32{1, 1, 1}}}}
	c := Choice{MixTensor: MixTensor{Name: "blk.0.ffn_up_exps.weight", Shape: []int64{experts, rows, cols}}, To: dtype.Of(dtype.Q4_K)}
	run := encoder{ctx: context.Background(), o: &Options{Imatrix: m}}
	got, err := run.encode(&c, dtype.Of(dtype.F32), raw)
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	for e := range experts {
		b := block.New(c.To, rows, cols)
		if err := block.Encode(b, x[e*rows*cols:][:rows*cols], im[e*cols:][:cols]); err != nil {
			t.Fatal(err)
		}
		want = append(want, b.Data...)
	}
	if string(got) != string(want) {
		t.Error("experts together differ from experts alone")
	}
}

func TestGGUFDryRun(t *testing.T) {
	dir, g := golden(t)
	out := filepath.Join(t.TempDir(), "out.gguf")
	rep, err := Write(context.Background(), dry.New(dry.Options{}), filepath.Join(dir, "source.gguf"), out, Options{Type: "Q4_K_M", DryRun: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var want int64
	for _, x := range g.Runs[0].Tensors {
		want += int64(x.Bytes)
	}
	if rep.Bytes != want || rep.Elements == 0 || rep.BitsPerWeight() < 4.5 || rep.BitsPerWeight() > 6 {
		t.Errorf("%d bytes, want %d; %.2f bits a weight", rep.Bytes, want, rep.BitsPerWeight())
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a dry run wrote a file")
	}
}

// TestImatrix: both formats hold the same values, and what is written reads back.
func TestImatrix(t *testing.T) {
	dir, _ := golden(t)
	a, err := ReadImatrix(filepath.Join(dir, "imatrix.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := ReadImatrix(filepath.Join(dir, "imatrix.dat"))
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Entries) != 14 || len(b.Entries) != 14 || a.Chunks != 12 || b.Chunks != 12 || a.Datasets[0] != "calib.txt" || b.Datasets[0] != "calib.txt" {
		t.Errorf("%d and %d entries, %d and %d chunks of %v and %v", len(a.Entries), len(b.Entries), a.Chunks, b.Chunks, a.Datasets, b.Datasets)
	}
	for i, e := range a.Entries {
		if !reflect.DeepEqual(e.Values(), b.Entries[i].Values()) || e.Name != b.Entries[i].Name {
			t.Errorf("%s: the two formats hold different values", e.Name)
		}
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestImatrixErrors(t *testing.T) {
	dir, _ := golden(t)
	good := readFile(t, filepath.Join(dir, "imatrix.dat"))
	for name, b := range map[string][]byte{
		"number of entries is":                    {0xff, 0xff, 0xff, 0x7f},
		"ends too early":                          {1},
		"no entries":                              {0, 0, 0, 0},
		"length of a name is":                     {1, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"number of values of blk.0.attn_k.weight": append([]byte{1}, good[1:60]...),
	} {
		path := filepath.Join(t.TempDir(), "x.dat")
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := ReadImatrix(path)
		if fail.Code(err) != 3 || !strings.Contains(fmt.Sprint(err), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzImatrixDat(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 1, 0, 0, 0, 'x', 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 128, 63, 3, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseImatrixDat(b)
		if err == nil && m.Check() == nil {
			for _, e := range m.Entries {
				if len(e.Values()) != len(e.Sums) {
					t.Fatal("values are lost")
				}
			}
		}
	})
}

// TestNotes: matrices without importance are named, but for the embedding.
func TestNotes(t *testing.T) {
	r := Report{Tensors: make([]Tensor, 9), NoImportance: []string{"token_embd.weight", "blk.0.attn_q.weight"}, UnusedEntries: []string{"a", "b", "c", "d", "e"}}
	want := []string{"no importance for 1 of 9 tensors: blk.0.attn_q.weight", "5 entries of the importance matrix belong to no tensor: a, b, c, d …"}
	if got := r.Notes(); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	r = Report{NoImportance: []string{"token_embd.weight"}}
	if got := r.Notes(); len(got) > 0 {
		t.Errorf("of the embedding alone: %q", got)
	}
}

// FuzzImatrixGGUF: an importance matrix that passes its check has a value for
// every sum.
func FuzzImatrixGGUF(f *testing.F) {
	path := filepath.Join(f.TempDir(), "m.gguf")
	if err := WriteImatrix(path, &Imatrix{Datasets: []string{"a"}, Chunks: 2, ChunkSize: 8, Entries: []ImatrixEntry{{Name: "blk.0.attn_q.weight", Sums: []float32{1, 2}, Counts: []float32{2}}}}); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		os.Remove(path)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		m, err := ReadImatrix(path)
		if err == nil && m.Check() == nil {
			for _, e := range m.Entries {
				if len(e.Values()) != len(e.Sums) {
					t.Fatal("values are lost")
				}
			}
		}
	})
}
