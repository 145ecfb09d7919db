package torch

import (
	"archive/zip"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func file(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func read(b []byte) ([]Tensor, []string, error) { return Read(bytes.NewReader(b), int64(len(b))) }

// TestRefused: what torch.save wrote and is no dictionary of dense tensors is
// refused by its name, and nothing of it is run.
func TestRefused(t *testing.T) {
	for name, want := range map[string]string{
		"negated": `"neg" set`, "conjugated": `"conj" set`, "sparse": "_rebuild_sparse_tensor", "csr": "_rebuild_sparse_tensor", "quantized": "a quantized tensor of torch (torch._utils._rebuild_qtensor)",
		"meta": "a tensor without values", "tensor": "no dictionary of tensors", "list": "no dictionary of tensors", "nested": `"a" holds more tensors`,
		"two": `under "model" and "module"`, "numbers": "a key of its dictionary is 0", "namespace": `"argparse.Namespace"`, "whole": `"torch.nn.modules.container.Sequential"`,
		"evil": `system", which no tensor needs: it was not run`, "evil4": `system", which no tensor needs`, "evillegacy": `system", which no tensor needs`, "program": "TorchScript",
	} {
		_, _, err := read(file(t, name+".bin"))
		var no *Unsupported
		if !errors.As(err, &no) || no.Hint == "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q and a hint", name, err, want)
		}
	}
}

// TestBeside: weights beside the dictionary that is the model's are not left out
// without a word; what trainers put there is.
func TestBeside(t *testing.T) {
	b := bytes.ReplaceAll(file(t, "two.bin"), []byte("module"), []byte("others"))
	if _, _, err := read(b); err == nil || !strings.Contains(err.Error(), `tensors under "model" and "others"`) {
		t.Error(err)
	}
	w := &Tensor{DType: "float32", Shape: []int64{2, 3}}
	inner := &dict{[]any{"a.weight"}, []any{w}}
	of := func(k, v any) *dict { return &dict{[]any{k}, []any{v}} }
	for _, c := range []struct {
		key, value any
		want       string // "": it may be there
	}{
		{"lm_head.weight", w, `under "model" and "lm_head.weight"`}, {"ema", of("a.weight", w), `under "model" and "ema"`},
		{tuple{}, w, `and a tuple: which`}, {"model", of("a.weight", w), `"model" and "model"`}, {"bias", &Tensor{DType: "uint8", Shape: []int64{2, 2}}, `and "bias"`},
		{"rng_state", &Tensor{DType: "uint8", Shape: []int64{9}}, ""}, {"loss", &Tensor{DType: "float32"}, ""}, {"metrics", of("loss", &Tensor{DType: "float32"}), ""},
		{"optimizer", of("state", of(int64(0), of("exp_avg", w))), ""}, {"optimizer_states", &list{[]any{of("state", of(int64(0), of("exp_avg", w)))}}, ""},
	} {
		for _, d := range []*dict{{[]any{"model", c.key}, []any{inner, c.value}}, {[]any{"x", "module"}, []any{nil, &dict{[]any{c.key, "model"}, []any{c.value, inner}}}}} {
			got, err := stateDict(d)
			if c.want == "" && (err != nil || got != inner) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v: %v, %v, want %q", c.key, got, err, c.want)
			}
		}
	}
}

// TestDoubled: tuples that hold themselves twice, thirty deep, are not written out.
func TestDoubled(t *testing.T) {
	endless := ")" + strings.Repeat("2\x86", 30)
	archive := func(pickle string) []byte {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		f, err := z.CreateHeader(&zip.FileHeader{Name: "a/data.pkl"})
		if err == nil {
			_, err = f.Write([]byte(pickle))
		}
		if err = errors.Join(err, z.Close()); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	const magic = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
	for _, c := range []struct {
		b    []byte
		want string
	}{
		{archive("\x80\x02}" + endless + "K\x01s."), "a key of its dictionary is a tuple"},
		{archive("\x80\x02}N2s."), "a key of its dictionary is None"},
		{[]byte(magic + "\x80\x02" + endless + "."), "version a tuple of"},
	} {
		if _, _, err := read(c.b); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.200v, want %q", err, c.want)
		}
	}
	s := &storage{dtype: "float32", bytes: 4}
	var v any = tuple{}
	for range 30 {
		v = tuple{v, v}
	}
	if _, err := rebuild(tuple{s, int64(0), tuple{}, tuple{}, false, nil, &dict{[]any{v}, []any{true}}}, 6, -1, 6); err == nil || !strings.Contains(err.Error(), "with a tuple set") {
		t.Errorf("%.200v", err)
	}
}

// TestSkipped: entries that are no tensors are named.
func TestSkipped(t *testing.T) {
	tensors, skipped, err := read(file(t, "beside.bin"))
	if err != nil || len(tensors) != 1 || strings.Join(skipped, " ") != "step why raw note" {
		t.Errorf("%v, %q, %v", tensors, skipped, err)
	}
}

// TestByteOrder: an archive of the other byte order is refused.
func TestByteOrder(t *testing.T) {
	b := file(t, "protocol3.bin")
	at := bytes.Index(b, []byte("little"))
	copy(b[at:], "biggle")
	if _, _, err := read(b); err == nil || !strings.Contains(err.Error(), `byte order is "biggle"`) {
		t.Error(err)
	}
	b = bytes.Replace(file(t, "legacy.bin"), []byte("little_endianq\x02\x88"), []byte("little_endianq\x02\x89"), 1)
	if _, _, err := read(b); err == nil || !strings.Contains(err.Error(), "not little-endian") {
		t.Error(err)
	}
}

// TestDamaged cuts files off at every byte, and changes what they claim.
func TestDamaged(t *testing.T) {
	for name, step := range map[string]int{"views.bin": 13, "legacy.bin": 1} {
		b := file(t, name)
		for n := 0; n < len(b); n += step {
			if _, _, err := read(b[:n]); err == nil {
				t.Errorf("%s: its first %d of %d bytes were read", name, n, len(b))
			}
		}
	}
	for _, c := range []struct{ name, from, to, want string }{
		{"protocol3.bin", "K\x03K\x05\x86", "K\x03K\x06\x86", "lie outside"},       // the shape
		{"protocol3.bin", "K\x05K\x01\x86", "K\x09K\x01\x86", "lie outside"},       // a stride
		{"protocol3.bin", "cpuq\x06K\x0f", "cpuq\x06K\x10", "16 values need 64"},   // values of the storage
		{"protocol3.bin", "FloatStorage", "Floatstorage", `"torch.Floatstorage"`},  // its class
		{"protocol3.bin", "X\x03\x00\x00\x00cpu", "X\xff\xff\xff\x7fcpu", "bytes"}, // a length
		{"protocol3.bin", "h\x03", "h\x77", "place 119 of its memo"},
		{"protocol3.bin", "\x80\x03", "\x80\x09", "protocol 9"},
		{"protocol3.bin", "tq\x07Q", "tq\x07R", "takes a value where there is a mark"},
		{"protocol3.bin", "}q\x00(", "]q\x00(", "cannot take them"},
		{"protocol3.bin", "}q\x00(", "}q\x00.", "bytes follow the pickle"},
		{"legacy.bin", "\x80\x02M\xe9\x03.", "\x80\x02M\xea\x03.", "version 1002"},
		{"legacy.bin", "\x80\x02\x8a\x0al", "\x80\x02\x8a\x0am", "magic number"},
	} {
		b := file(t, c.name)
		if !bytes.Contains(b, []byte(c.from)) {
			t.Errorf("%s has no %q", c.name, c.from)
		}
		b = bytes.Replace(b, []byte(c.from), []byte(c.to), 1)
		if _, _, err := read(b); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s with %q: %v, want %q", c.name, c.to, err, c.want)
		}
	}
	b := file(t, "legacy.bin")
	if _, _, err := read(append(b, 0)); err == nil || !strings.Contains(err.Error(), "1 bytes follow") {
		t.Error(err)
	}
	for text, want := range map[string]string{
		"": "no checkpoint", "PK\x03\x04": "zip archive is damaged", "\x80\x02}q\x00.": "magic number", "\x80\x02.": "empty stack",
		"version https://git-lfs.github.com/spec/v1\n": "Git LFS", strings.Repeat("\x00", 257) + "ustar\x00": "tar format",
		"\x80\x02(((": "asks for 1 bytes, 0 are left", "\x80\x05\x95\xff\xff\xff\xff\xff\xff\xff\xff(0": "a mark",
	} {
		if _, _, err := read([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestIntegers are Python's two's complement numbers.
func TestIntegers(t *testing.T) {
	for s, want := range map[string]any{
		"": int64(0), "\x7f": int64(127), "\x80": int64(-128), "\xff\x00": int64(255), "\x00\xff": int64(-256), "\x00\x00\x00\x00\x00\x00\x00\x80": int64(-1 << 63),
		"\x00\x00\x00\x00\x00\x00\x00\x80\x00": long("\x00\x00\x00\x00\x00\x00\x00\x80\x00"),
	} {
		if got := integer(s); got != want {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
	}
}

// TestShared: dictionaries that hold one another many times take no time.
func TestShared(t *testing.T) {
	b := []byte("\x80\x02]q\x00")
	for i := range byte(5) { // each a list of 200 of the one before
		b = append(b, '0', ']', '(')
		for range 200 {
			b = append(b, 'h', i)
		}
		b = append(b, 'e', 'q', i+1)
	}
	root := append(append([]byte(nil), b...), '.')
	m := newMachine(bytes.NewReader(root), int64(len(root)), nil)
	v, err := m.run()
	if err != nil {
		t.Fatal(err)
	}
	if !holdsTensors(v) { // too many to look through: refused like those that do
		t.Error("looked through 200⁵ lists")
	}
}

// FuzzRead: no panic, and what is accepted lies in the file.
func FuzzRead(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.bin")
	for _, name := range files {
		f.Add(file(f, filepath.Base(name)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tensors, _, err := read(b)
		if err != nil {
			return
		}
		for _, x := range tensors {
			last, err := lastOf(x.Shape, x.Stride)
			if err != nil || x.Off < 0 || x.Off > int64(len(b)) || last >= 0 && x.Off+(last+1)*x.Width > int64(len(b)) {
				t.Fatalf("%+v lies outside %d bytes", x, len(b))
			}
		}
	})
}

// FuzzPickle: no panic in a pickle of any kind, which a zip archive hides from
// a fuzzer.
func FuzzPickle(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.bin")
	for _, name := range files {
		b := file(f, filepath.Base(name))
		if at := bytes.Index(b, []byte("\x80\x02")); at > 0 {
			f.Add(b[at:])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		stored := map[string]*storage{}
		m := newMachine(bytes.NewReader(b), int64(len(b)), func(pid tuple) (any, error) {
			s, _, err := storageOf(pid, 5, stored)
			if err == nil && s.bytes > 1<<20 {
				err = errors.New("too large")
			}
			return s, err
		})
		root, err := m.run()
		if err != nil {
			return
		}
		for _, s := range stored {
			s.off = 0
		}
		if d, err := stateDict(root); err == nil {
			_, _, _ = flatten(d, 1<<20)
		}
	})
}
