package gguf

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/tunekit/tunekit/kernels/dry"
)

// TestGGUFWhole writes whole files and compares their hash.
func TestGGUFWhole(t *testing.T) {
	dir, g := golden(t)
	for _, r := range g.Runs {
		if r.Tied {
			continue // a file of its own, which is not kept
		}
		out := filepath.Join(t.TempDir(), "out.gguf")
		var last, total int64
		rep, err := Write(context.Background(), dry.New(dry.Options{}), filepath.Join(dir, "source.gguf"), out, runOptions(t, dir, r), func(d, n int64) {
			if d <= last {
				t.Errorf("progress goes from %d to %d", last, d)
			}
			last, total = d, n
		})
		if len(r.Error) > 0 {
			if err == nil {
				t.Errorf("%s %s: no error, want %v", r.FType, r.Imatrix, r.Error)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s %s: %v", r.FType, r.Imatrix, err)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(b)) != r.Bytes || hash(b) != r.SHA {
			t.Errorf("%s %s: the file differs (%d bytes, want %d)", r.FType, r.Imatrix, len(b), r.Bytes)
		}
		if last != total || total != rep.Elements {
			t.Errorf("progress ends at %d of %d, %d elements", last, total, rep.Elements)
		}
	}
}

// TestWriteImatrix: what is written reads back, byte for byte llama-imatrix's file.
func TestWriteImatrix(t *testing.T) {
	dir, _ := golden(t)
	a, err := ReadImatrix(filepath.Join(dir, "imatrix.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "im.gguf")
	if err := WriteImatrix(path, a); err != nil {
		t.Fatal(err)
	}
	c, err := ReadImatrix(path)
	if err != nil {
		t.Fatal(err)
	}
	c.File = a.File
	if !reflect.DeepEqual(a, c) {
		t.Error("the written matrix reads back as another")
	}
	if x, y := readFile(t, path), readFile(t, filepath.Join(dir, "imatrix.gguf")); string(x) != string(y) {
		t.Errorf("the written file has %d bytes and differs from llama-imatrix's %d", len(x), len(y))
	}
}

// TestImatrixDat: the older format of the same run is llama-imatrix's file, byte for byte, and each reads as the other.
func TestImatrixDat(t *testing.T) {
	dir, _ := golden(t)
	a, err := ReadImatrix(filepath.Join(dir, "imatrix.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "im.dat")
	if err := WriteImatrix(path, a); err != nil {
		t.Fatal(err)
	}
	if x, y := readFile(t, path), readFile(t, filepath.Join(dir, "imatrix.dat")); string(x) != string(y) {
		t.Errorf("the written file has %d bytes and differs from llama-imatrix's %d", len(x), len(y))
	}
	old, err := ReadImatrix(path)
	if err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(t.TempDir(), "again.gguf")
	if err := WriteImatrix(again, old); err != nil {
		t.Fatal(err)
	}
	b, err := ReadImatrix(again)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range a.Entries {
		for j, v := range b.Entries[i].Values() {
			if w := e.Values()[j]; b.Entries[i].Name != e.Name || math.Abs(float64(v-w)) > 1e-6*math.Abs(float64(w)) {
				t.Fatalf("%s %d: %v, want %v", e.Name, j, v, w)
			}
		}
	}
}

// TestMergeImatrix: two runs are one of both texts.
func TestMergeImatrix(t *testing.T) {
	one := &Imatrix{File: "a", Datasets: []string{"x"}, Chunks: 2, ChunkSize: 4, Entries: []ImatrixEntry{{"e", []float32{8, 16, 0, 0}, []float32{8, 0}}, {"m", []float32{3}, []float32{8}}}}
	two := &Imatrix{File: "b", Datasets: []string{"y"}, Chunks: 1, ChunkSize: 4, Entries: []ImatrixEntry{{"e", []float32{4, 4, 6, 2}, []float32{2, 2}}, {"n", []float32{1}, []float32{4}}}}
	old := &Imatrix{File: "c", Chunks: 3, legacy: true, Entries: []ImatrixEntry{{"m", []float32{6}, []float32{3}}}} // passes, of 4 tokens each
	m, err := MergeImatrix([]*Imatrix{one, two, old})
	if err != nil {
		t.Fatal(err)
	}
	want := &Imatrix{File: "a", Datasets: []string{"x", "y"}, Chunks: 6, ChunkSize: 4, Entries: []ImatrixEntry{{"e", []float32{12, 20, 6, 2}, []float32{10, 2}}, {"m", []float32{27}, []float32{20}}, {"n", []float32{1}, []float32{4}}}}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("got %+v", m)
	}
	if one.Entries[0].Sums[0] != 8 {
		t.Error("an input was changed")
	}
	two.Entries[0].Sums = two.Entries[0].Sums[:2]
	if _, err := MergeImatrix([]*Imatrix{one, two}); err == nil {
		t.Error("matrices of two models were merged")
	}
}

// TestImatrixStatistics: numbers of numpy in float64 over golden/blocks/wholefile/imatrix.gguf, x = in_sum2/counts:
// x.sum(), x.mean(), x.std(), ((x-x.mean())**3).mean()/x.var()**1.5, ((x-x.mean())**4).mean()/x.var()**2-3,
// -(p*log2(p)).sum()/log2(x.size) with p = x/x.sum(); sqrt(x.mean()/y.mean()), corrcoef(x, y), cov(x, y, bias=True).
func TestImatrixStatistics(t *testing.T) {
	dir, _ := golden(t)
	m, err := ReadImatrix(filepath.Join(dir, "imatrix.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]float64{
		"blk.0.attn_q.weight":   {251.02888328333694, 0.9805815753255349, 1.6341955690842347, 5.4379602417943405, 36.15363773707977, 0.8807969121980749},
		"blk.1.ffn_down.weight": {1514.1124349435172, 1.9715005663327048, 1.240573328431223, 1.8529268594028105, 5.593774610041928, 0.9743804185578931, 1.0628636054325984, -0.05069244677684061, -0.09604834118475816},
	}
	for _, s := range m.Statistics() {
		got := []float64{s.Sum, s.Mean, s.StdDev, s.Skewness, s.Kurtosis, s.Entropy}
		if s.Gain != nil {
			got = append(got, *s.Gain, *s.Pearson, *s.Covariance)
		}
		for i, w := range want[s.Name] {
			if len(got) <= i || math.Abs(got[i]-w) > 1e-9*math.Abs(w) {
				t.Errorf("%s %d: %v, want %v", s.Name, i, got, w)
				break
			}
		}
		if want[s.Name] != nil && len(got) != len(want[s.Name]) {
			t.Errorf("%s: %d numbers", s.Name, len(got))
		}
		delete(want, s.Name)
	}
	if len(want) > 0 {
		t.Errorf("missing %v", want)
	}
	none := ImatrixEntry{Name: "blk.1.x", Sums: []float32{0, 0}, Counts: []float32{0}}
	if s := (&Imatrix{Entries: []ImatrixEntry{none}}).Statistics(); s[0].Columns != 0 || s[0].Gain != nil {
		t.Errorf("of nothing: %+v", s)
	}
}
