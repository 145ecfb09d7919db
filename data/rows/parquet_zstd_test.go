package rows

import (
	"bytes"
	"io"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// TestCheckZstd: what a page holds is found whatever its frames say, and a page
// that holds anything else is an error.
func TestCheckZstd(t *testing.T) {
	plain := bytes.Repeat([]byte("some text that compresses "), 40_000)
	frame := func(text []byte, o ...zstd.EOption) []byte {
		e, err := zstd.NewWriter(nil, o...)
		if err != nil {
			t.Fatal(err)
		}
		return e.EncodeAll(text, nil)
	}
	stream := func(text []byte) []byte { // a frame that does not say its size
		var out bytes.Buffer
		e, err := zstd.NewWriter(&out)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	half := len(plain) / 2
	skippable := []byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3}
	for name, page := range map[string][]byte{
		"one frame":        frame(plain),
		"no checksum":      frame(plain, zstd.WithEncoderCRC(false)),
		"single segment":   frame(plain, zstd.WithSingleSegment(true)),
		"no size":          stream(plain),
		"two frames":       append(frame(plain[:half]), frame(plain[half:])...),
		"size, then none":  append(frame(plain[:half]), stream(plain[half:])...),
		"skippable first":  append(slices.Clone(skippable), frame(plain)...),
		"skippable second": append(frame(plain), skippable...),
	} {
		check := func(page []byte, raw int) error { return checkZstd(bytes.NewReader(page), int64(raw)) }
		if err := check(page, len(plain)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, raw := range []int{0, half, len(plain) - 1, len(plain) + 1} {
			if check(page, raw) == nil {
				t.Errorf("%s: claims %d bytes of %d, no error", name, raw, len(plain))
			}
		}
		for n := range page {
			whole := name == "skippable second" && n == len(page)-len(skippable)
			if err := check(page[:n], len(plain)); !whole && (err == nil || err == io.EOF) {
				t.Errorf("%s cut at %d of %d: %v", name, n, len(page), err)
			}
		}
		if check(append(slices.Clone(page), 0), len(plain)) == nil {
			t.Errorf("%s: a byte after the frame is no error", name)
		}
	}
}

// TestZstdDecoderStops: the decoder that reads pages holds a frame to the size
// in its header, which is why the check trusts it.
func TestZstdDecoderStops(t *testing.T) {
	e, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false))
	if err != nil {
		t.Fatal(err)
	}
	page := e.EncodeAll(make([]byte, 8<<20), nil)
	copy(page[5:9], []byte{100, 0, 1, 0}) // Frame_Content_Size: 65,636
	if err := checkZstd(bytes.NewReader(page), 65_636); err != nil {
		t.Fatalf("the header's claim was not believed: %v", err)
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	out, err := d.DecodeAll(page, make([]byte, 0, 65_636))
	if err == nil || cap(out) > 1<<20 {
		t.Errorf("a frame of 8 MiB that claims 65,636 bytes: %d bytes in room for %d, error %v", len(out), cap(out), err)
	}
}
