package formats

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// headerOf makes the header file of b as a download does, beginning with first bytes.
func headerOf(name string, b []byte, first int64) (file []byte, err error) {
	size := int64(len(b))
	for need := min(first, size); ; {
		var next int64
		if file, next, err = HeaderFile(name, b[:need], size, "hf://a/b@c"); err != nil || file != nil {
			return file, err
		}
		if next <= need || next > size {
			return nil, fmt.Errorf("%d of %d bytes are not enough, then %d", need, size, next)
		}
		need = next
	}
}

// TestHeaderFile opens headers as if the whole files were there, and reads no values.
func TestHeaderFile(t *testing.T) {
	gguf := newGGUF(2, 2).kv("a").u32(9).u32(8).u64(2).str("x").str("y").kv("b").u32(12).u64(1).tensor("q", 12, 0, 256, 2).tensor("i", 16, 288, 256).pad(32).zeros(360).b
	safe := st(`{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[20,100],"data_offsets":[0,8000]},"b":{"dtype":"U8","shape":[],"data_offsets":[8000,8001]}}  `, 8001)
	for name, b := range map[string][]byte{"m.gguf": gguf, "m.safetensors": safe} {
		for _, first := range []int64{0, 3, 8, 50, 1 << 20} {
			if name == "m.safetensors" && first < 8 {
				continue // nothing is asked for so little
			}
			file, err := headerOf(name, b, first)
			if err != nil {
				t.Fatal(name, first, err)
			}
			dir := t.TempDir()
			whole, head := filepath.Join(dir, "whole-"+name), filepath.Join(dir, name)
			if err := os.WriteFile(whole, b, 0o666); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(head, file, 0o666); err != nil {
				t.Fatal(err)
			}
			want, got := must(Inspect(whole, false)), must(Inspect(head, false))
			if want.Path = got.Path; fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %v, expected %v", name, got, want)
			}
			r := mustOpen(t, head)
			for i := range r.Tensors() {
				_, err := r.Read(&r.Tensors()[i])
				if err == nil || !strings.Contains(err.Error(), "only the header") {
					t.Errorf("%s: a value was read: %v", name, err)
				}
				if _, ok := r.Map(&r.Tensors()[i]); ok {
					t.Errorf("%s: a value was mapped", name)
				}
			}
			if _, err := Inspect(head, true); err == nil || !strings.Contains(err.Error(), "only the header") {
				t.Errorf("%s: hashed: %v", name, err)
			}
			if _, err := HashFile(t.Context(), head); err == nil || !strings.Contains(err.Error(), "only the header") {
				t.Errorf("%s: hashed whole: %v", name, err)
			}
		}
	}
}

// TestHostileHeaderFile are trailers that lie: sizes of 2^58 take no memory.
func TestHostileHeaderFile(t *testing.T) {
	trailer := func(b []byte, ref uint32, size uint64) []byte {
		b = append(append([]byte{}, b...), "ref"...)
		b = binary.LittleEndian.AppendUint32(b, ref)
		return append(binary.LittleEndian.AppendUint64(b, size), headerMagic...)
	}
	head := st(`{"a":{"dtype":"U8","shape":[288230376151711744],"data_offsets":[0,288230376151711744]}}`, 0)
	long := binary.LittleEndian.AppendUint64(nil, 90_000_000)
	many := newGGUF(1<<20, 0).b
	for name, c := range map[string]struct {
		file string
		b    []byte
		want string
	}{
		"smaller than what is there": {"x.safetensors", trailer(head, 3, 5), "header file"},
		"larger than any file":       {"x.safetensors", trailer(head, 3, 1<<63), "header file"},
		"reference without end":      {"x.safetensors", trailer(head, 1<<31, 1<<40), "header file"},
		"reference before the file":  {"x.safetensors", trailer(nil, 1000, 1<<40), "header file"},
		"a header that is not there": {"x.safetensors", trailer(long, 3, 1<<40), "only the header"},
		"tensors that are not there": {"x.gguf", trailer(many, 3, 1<<40), "tensor count"},
		"size of another file":       {"x.safetensors", trailer(head, 3, 1<<40), "lie outside"},
	} {
		err := openBytes(t, c.file, c.b)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := openBytes(t, "x.safetensors", trailer(head, 3, uint64(len(head))+1<<58)); err != nil {
		t.Errorf("a header of a large file: %v", err)
	}
}

// FuzzHeaderFile compares what a header file says with what the file itself says.
func FuzzHeaderFile(f *testing.F) {
	f.Add([]byte("x"), 8)
	f.Add(st(`{"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}`, 8), 9)
	f.Add(newGGUF(1, 1).kv32("general.alignment", 64).tensor("t", 0, 0, 4).pad(64).zeros(16).b, 30)
	f.Fuzz(func(t *testing.T, b []byte, first int) {
		file, err := headerOf("x.gguf", b, int64(max(8, first)))
		if err != nil {
			return
		}
		s := inMemory(file)
		if err := s.beheaded(); err != nil || s.size != int64(len(b)) {
			t.Fatalf("%d bytes taken for %d: %v", len(b), s.size, err)
		}
		_, _, _, want := ggufHead(inMemory(b))
		_, _, _, got := ggufHead(s)
		if (want == nil) != (got == nil) {
			t.Fatalf("whole: %v, header: %v", want, got)
		}
		_, _, want = safetensors(inMemory(b))
		if _, _, got = safetensors(s); (want == nil) != (got == nil) {
			t.Fatalf("whole: %v, header: %v", want, got)
		}
	})
}
