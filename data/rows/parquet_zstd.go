package rows

import (
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// maxZstdWindow is the memory a frame may ask of its decoder.
const maxZstdWindow = 128 << 20

// checkZstd checks that a page of Zstandard holds raw bytes. One frame that says
// its size needs no decompressing: the decoder stops at what the header says
// (RFC 8878, section 3.1.1), so the walk over its blocks shows only that it fills
// the page. Anything else is decompressed.
func checkZstd(r io.Reader, raw int64) error {
	head := make([]byte, zstd.HeaderMaxSize)
	n, err := io.ReadFull(r, head)
	if err != nil && err != io.ErrUnexpectedEOF {
		return cutOff(err)
	}
	var h zstd.Header
	if err := h.Decode(head[:n]); err != nil {
		return fmt.Errorf("zstd page: %w", err)
	}
	if h.Skippable || !h.HasFCS || h.DictionaryID != 0 || h.WindowSize > maxZstdWindow || h.FrameContentSize > maxZstdWindow {
		return drainZstd(io.MultiReader(bytes.NewReader(head[:n]), r), raw)
	}
	r = io.MultiReader(bytes.NewReader(head[h.HeaderSize:n]), r)
	if err := skipBlocks(r, h.HasCheckSum); err != nil {
		return fmt.Errorf("zstd page: %w", err)
	}
	var next [1]byte
	if _, err := io.ReadFull(r, next[:]); err != io.EOF {
		return drainZstd(io.MultiReader(bytes.NewReader(next[:]), r), raw-int64(h.FrameContentSize))
	}
	return sized("zstd", int64(h.FrameContentSize), raw)
}

// skipBlocks reads the blocks of a frame and its checksum. A block's header is
// three bytes: last (1 bit), type (2 bits), size (21 bits).
func skipBlocks(r io.Reader, checksum bool) error {
	for last := false; !last; {
		var b [3]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return cutOff(err)
		}
		last = b[0]&1 != 0
		size := int64(b[0])>>3 | int64(b[1])<<5 | int64(b[2])<<13
		if b[0]>>1&3 == 1 { // one byte, repeated
			size = 1
		}
		if last && checksum {
			size += 4
		}
		if _, err := io.CopyN(io.Discard, r, size); err != nil {
			return cutOff(err)
		}
	}
	return nil
}

func drainZstd(r io.Reader, raw int64) error {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return fmt.Errorf("zstd page: %w", err)
	}
	defer z.Close()
	return drain(z, "zstd", raw)
}
