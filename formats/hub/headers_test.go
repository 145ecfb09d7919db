package hub

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

// headOf is a format whose header's length stands in its first 8 bytes.
func headOf(_ string, head []byte, size int64, ref string) ([]byte, int64, error) {
	if len(head) < 8 {
		return nil, 0, errors.New("too short")
	}
	n := binary.LittleEndian.Uint64(head)
	if n > uint64(len(head)) {
		return nil, int64(n), nil
	}
	return fmt.Appendf(head[:n:n], "%d %s", size, ref), 0, nil
}

// TestPullHeaders fetches the beginnings of weights, and nothing of what says nothing of
// shapes.
func TestPullHeaders(t *testing.T) {
	file := func(header, size int) []byte {
		b := weights(size)
		binary.LittleEndian.PutUint64(b, uint64(header))
		return b
	}
	small, large := file(100, 5000), file(firstHead+1000, 3*firstHead)
	files := map[string][]byte{"config.json": []byte("{}"), "a.safetensors": small, "b.gguf": large, "tokenizer.json": make([]byte, maxBeside+1), "pytorch_model.bin": []byte("x")}
	for _, ranges := range []bool{true, false} {
		s := newServer(t, files)
		if !ranges { // a server that sends files whole
			s.answer = func(w http.ResponseWriter, r *http.Request, data []byte) bool {
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
				w.Write(data)
				return true
			}
		}
		var last, total int64
		o := Options{Header: headOf, Progress: func(d, n int64) { last, total = d, n }}
		dir, _, err := s.puller(t, "hf://org/name", o).pull(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if last != total {
			t.Errorf("progress ended at %d of %d", last, total)
		}
		for name, want := range map[string][]byte{"config.json": []byte("{}"), "a.safetensors": fmt.Appendf(small[:100:100], "5000 hf://org/name@%s", commit),
			"b.gguf": fmt.Appendf(large[:firstHead+1000:firstHead+1000], "%d hf://org/name@%s", len(large), commit)} {
			if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, expected %d; %v", name, len(got), len(want), err)
			}
		}
		for _, name := range []string{"tokenizer.json", "pytorch_model.bin"} {
			if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s was fetched: %v", name, err)
			}
		}
		for _, want := range []string{"bytes=0-4999", fmt.Sprintf("bytes=0-%d", firstHead-1), fmt.Sprintf("bytes=%d-%d", firstHead, firstHead+999)} {
			if !strings.Contains(fmt.Sprint(s.ranges), want) {
				t.Errorf("asked for %v, expected %s, too", s.ranges, want)
			}
		}
		if d, c, err := ResolveHeaders("hf://org/name"); d != dir || c != commit || err != nil {
			t.Errorf("headers: %s %s %v", d, c, err)
		}
		_, _, err = Resolve("hf://org/name")
		if fail.Code(err) != int(fail.Input) {
			t.Errorf("headers were taken for the model: %v", err)
		}
		p := s.puller(t, "hf://org/name", Options{})
		p.chunk = chunkSize
		whole, _, err := p.pull(t.Context())
		if err != nil || whole == dir {
			t.Fatal(whole, err)
		}
		if d, _, err := ResolveHeaders("hf://org/name"); d != whole || err != nil {
			t.Errorf("where the whole is there: %s %v", d, err)
		}
	}
}

// TestBadHeaders are answers and files that must not become a header.
func TestBadHeaders(t *testing.T) {
	data := weights(3000)
	binary.LittleEndian.PutUint64(data, 1000)
	send := func(w http.ResponseWriter, contentRange string, b []byte) bool {
		w.Header().Set("Content-Range", contentRange)
		w.Header().Set("Content-Length", fmt.Sprint(3000))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(b)
		return true
	}
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, data []byte) bool
		header uint64
		want   string
	}{
		"another range":           {func(w http.ResponseWriter, b []byte) bool { return send(w, "bytes 10-2999/3000", b) }, 1000, "the server sends"},
		"another size":            {func(w http.ResponseWriter, b []byte) bool { return send(w, "bytes 0-2999/4000", b) }, 1000, "the server sends"},
		"cut":                     {func(w http.ResponseWriter, b []byte) bool { return send(w, "bytes 0-2999/3000", b[:500]) }, 1000, "ended before"},
		"longer than the file":    {nil, 3001, "no header within"},
		"longer than any":         {nil, 1 << 63, "no header within"},
		"shorter than it must be": {nil, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := append([]byte{}, data...)
			binary.LittleEndian.PutUint64(b, c.header)
			s := newServer(t, map[string][]byte{"m.safetensors": b})
			if c.answer != nil {
				s.answer = func(w http.ResponseWriter, r *http.Request, data []byte) bool { return c.answer(w, data) }
			}
			_, _, err := s.puller(t, "hf://org/name", Options{Header: headOf}).pull(context.Background())
			if c.want == "" && err == nil {
				return
			}
			if fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			if _, _, err := ResolveHeaders("hf://org/name"); err == nil {
				t.Error("it was published")
			}
		})
	}
}
