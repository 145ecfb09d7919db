package formats

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// part makes the bytes of part no of count, which says that there are total tensors, with one F32 tensor of each name.
func part(t *testing.T, no, count, total int, names ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "p.gguf")
	a, b, c := SplitKeysOf(no, count, total)
	var plan []TensorPlan
	for _, n := range names {
		plan = append(plan, TensorPlan{Name: n, Shape: []int64{2}, Type: dtype.Of(dtype.F32)})
	}
	w, err := CreateGGUF(path, []KV{{"k", "v"}, a, b, c}, plan)
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range names {
		if err := w.Write(n, []byte{0, 0, 0, 0, 0, 0, 0, byte(no + i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	return must(os.ReadFile(path))
}

// TestSplitGGUF: the first part stands for all, and a set that is none is refused by what is wrong with it.
func TestSplitGGUF(t *testing.T) {
	open := func(at string, files map[string][]byte) (Reader, error) {
		dir := t.TempDir()
		for name, b := range files {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		return Open(filepath.Join(dir, at))
	}
	one, two, three := "m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"
	first, second, third := part(t, 0, 3, 3, "a"), part(t, 1, 3, 3), part(t, 2, 3, 3, "b", "c")
	r, err := open(one, map[string][]byte{one: first, two: second, three: third})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n := len(r.Tensors()); n != 3 || len(r.KV()) != 1 {
		t.Fatalf("%d tensors, keys %v", n, r.KV())
	}
	for i, want := range []byte{0, 2, 3} {
		b, err := r.Read(&r.Tensors()[i])
		if m, ok := r.Map(&r.Tensors()[i]); err != nil || b[7] != want || ok && !bytes.Equal(m, b) {
			t.Errorf("tensor %d: %v, %v", i, b, err)
		}
	}
	if p := Parts(r.Path()); len(p) != 3 || p[2] != strings.TrimSuffix(r.Path(), one)+three {
		t.Errorf("parts %v", p)
	}
	for want, c := range map[string]struct {
		at    string
		files map[string][]byte
	}{
		"part 3 of 3 of a split GGUF is missing":       {one, map[string][]byte{one: first, two: second}},
		"this is part 2 of 3":                          {two, map[string][]byte{one: first, two: second, three: third}},
		"its name does not say so":                     {"m.gguf", map[string][]byte{"m.gguf": first}},
		"this is one of 3 parts":                       {"m-00001-of-00002.gguf", map[string][]byte{"m-00001-of-00002.gguf": first}},
		"its name says that it is part 1 of 3":         {one, map[string][]byte{one: second, two: second, three: third}},
		"it is a part of another file":                 {one, map[string][]byte{one: first, two: third, three: third}},
		"tensor \"a\" lies in m-00001-of-00003.gguf":   {one, map[string][]byte{one: first, two: part(t, 1, 3, 3, "a"), three: part(t, 2, 3, 3)}},
		"split.tensors.count is 3, the 3 parts hold 2": {one, map[string][]byte{one: first, two: second, three: part(t, 2, 3, 3, "b")}},
		"no GGUF file":                                 {one, map[string][]byte{one: first, two: []byte("nothing"), three: third}},
	} {
		if _, err := open(c.at, c.files); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	for _, name := range []string{"m.gguf", "m-00001-of-00001.ggu", "m-0001-of-0002.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf"} {
		if _, _, _, ok := SplitOf(name); ok {
			t.Errorf("%s is a part", name)
		}
	}
}

// TestSplitWriter: until the last file is there, none of a new set can be opened, and an old one is gone as a whole.
func TestSplitWriter(t *testing.T) {
	dir := t.TempDir()
	prefix := filepath.Join(dir, "m")
	start := func(last string) Writer {
		var parts []GGUFPart
		for i, n := range []string{"a", "b", last} {
			x, y, z := SplitKeysOf(i, 3, 3)
			parts = append(parts, GGUFPart{KV: []KV{x, y, z}, Plan: []TensorPlan{{Name: n, Shape: []int64{1}, Type: dtype.Of(dtype.F32)}}})
		}
		return must(CreateSplitGGUF(prefix, parts))
	}
	w := start("c")
	for _, n := range []string{"c", "a"} {
		if err := w.Write(n, []byte{1, 2, 3, 4}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(); err == nil || !strings.Contains(err.Error(), "1 of 1 tensors") {
		t.Errorf("a set without b: %v", err)
	}
	if err := w.Suspend(); err != nil {
		t.Fatal(err)
	}
	if m, _ := filepath.Glob(prefix + "*.gguf"); len(m) > 0 {
		t.Errorf("unfinished: %v", m)
	}
	w = start("c")
	if !w.Has("a") || w.Has("b") || !w.Has("c") || w.Has("d") {
		t.Error("what was written is forgotten")
	}
	if b, err := w.Read("c"); err != nil || !bytes.Equal(b, []byte{1, 2, 3, 4}) {
		t.Error(b, err)
	}
	if err := w.Write("d", nil); err == nil {
		t.Error("a tensor of no part was taken")
	}
	if err := w.Write("b", []byte{5, 6, 7, 8}); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	r, err := Open(SplitPath(prefix, 0, 3))
	if err != nil || len(r.Tensors()) != 3 {
		t.Fatal(err)
	}
	r.Close()
	w = start("d") // over the old set
	for _, n := range []string{"a", "b", "d"} {
		if err := w.Write(n, []byte{9, 9, 9, 9}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	if r, err = Open(SplitPath(prefix, 0, 3)); err != nil || r.Tensors()[2].Name != "d" {
		t.Fatal(err)
	}
	r.Close()
	if _, err := CreateSplitGGUF(prefix, nil); err == nil {
		t.Error("no parts were taken")
	}
}
