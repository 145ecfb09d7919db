package rows

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/pierrec/lz4/v4"
)

// The retired codec LZ4 of Parquet is two things: one block, as in LZ4_RAW (fastparquet and
// Arrow before 0.15), or the frames of Hadoop (parquet-mr). parquet-go knows LZ4_RAW alone,
// so pages are read as if they were of that codec: a single frame's head becomes part of the
// page's header, and several frames become one block, which is never longer.
const (
	hadoopLZ4  = 5
	rawLZ4     = 7
	maxRewrite = 64 << 20 // bytes of a file's pages that were made one block
)

// lz4Page reads the bytes of a page of the codec hadoopLZ4 whose header h took n bytes, and
// gives what is read in place of the page's beginning.
func lz4Page(r io.Reader, h thrift, n int64) ([]byte, error) {
	page := make([]byte, 0, min(h.num(3), 1<<20))
	for int64(len(page)) < h.num(3) { // as far as the file goes, whatever it claims
		part, err := io.ReadAll(io.LimitReader(r, min(h.num(3)-int64(len(page)), 1<<20)))
		if err == nil && len(part) == 0 {
			err = io.EOF
		}
		if page = append(page, part...); err != nil {
			return nil, cutOff(err)
		}
	}
	levels, packed := int64(0), true // of a page v2, which lie before the data
	if v2 := h.sub(8); v2 != nil {
		levels = v2.num(5) + v2.num(6)
		packed = v2[7] != false
	}
	data, raw := page[levels:], h.num(2)-levels
	ownEncoding(h)
	if !packed || len(data) == 0 {
		return plainHeader(h, n)
	}
	blocks := hadoopBlocks(data, raw)
	if blocks == nil {
		if err := checkBlock(data, raw); err != nil {
			return nil, err
		}
		return plainHeader(h, n)
	}
	block, err := oneBlock(blocks)
	if err == nil {
		err = checkBlock(block, raw)
	}
	if err != nil {
		return nil, err
	}
	h[3] = levels + int64(len(block))
	delete(h, 4)                              // the checksum is of what was there
	longer := n + int64(len(data)-len(block)) // than the header was
	head, err := plainHeader(h, longer)
	if err != nil {
		return nil, err
	}
	head = append(head, make([]byte, longer-int64(len(head)))...)
	if len(blocks) == 1 && levels == 0 { // the block stands where it stood
		return head, nil
	}
	return append(append(head, page[:levels]...), block...), nil
}

// hadoopBlocks parts a page of raw bytes into the blocks of its frames: the bytes that a frame
// unfolds to, its own, both in four bytes of which the first counts most, then the block. It is
// nil for a page that is not made so.
func hadoopBlocks(data []byte, raw int64) [][]byte {
	var out [][]byte
	for len(data) > 0 {
		if len(data) < 8 {
			return nil
		}
		unfolds, size := int64(binary.BigEndian.Uint32(data)), int64(binary.BigEndian.Uint32(data[4:]))
		if unfolds > raw || size == 0 || size > int64(len(data)-8) {
			return nil
		}
		raw -= unfolds
		out, data = append(out, data[8:8+size]), data[8+size:]
	}
	if raw != 0 {
		return nil
	}
	return out
}

var errBlock = errors.New("lz4 page: damaged block")

// oneBlock makes one block of several that follow each other: the literals that end one are
// put in front of those that begin the next.
// https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md
func oneBlock(blocks [][]byte) ([]byte, error) {
	if len(blocks) == 1 {
		return blocks[0], nil
	}
	var out, literals []byte
	for _, b := range blocks {
		for len(b) > 0 {
			token := b[0]
			n, rest, ok := longer(token>>4, b[1:])
			if !ok || n > len(rest) {
				return nil, errBlock
			}
			literals, b = append(literals, rest[:n]...), rest[n:]
			if len(b) == 0 {
				break
			}
			if len(b) < 2 {
				return nil, errBlock
			}
			_, rest, ok = longer(token&15, b[2:])
			if !ok {
				return nil, errBlock
			}
			out = appendLiterals(out, literals, token&15)
			out = append(out, b[:len(b)-len(rest)]...)
			literals, b = literals[:0], rest
		}
	}
	return appendLiterals(out, literals, 0), nil
}

// longer is a length of four bits, which 15 continues in the bytes behind.
func longer(bits byte, b []byte) (n int, rest []byte, ok bool) {
	n = int(bits)
	for more := bits == 15; more; b = b[1:] {
		if len(b) == 0 || n > math.MaxInt32 {
			return 0, nil, false
		}
		n += int(b[0])
		more = b[0] == 255
	}
	return n, b, true
}

// appendLiterals appends a sequence up to its match, of whose length it has the four bits.
func appendLiterals(out, literals []byte, match byte) []byte {
	n := len(literals)
	out = append(out, byte(min(n, 15))<<4|match)
	if n >= 15 {
		for n -= 15; n >= 255; n -= 255 {
			out = append(out, 255)
		}
		out = append(out, byte(n))
	}
	return append(out, literals...)
}

// checkBlock finds whether a block unfolds to raw bytes.
func checkBlock(block []byte, raw int64) error {
	n, err := lz4.UncompressBlock(block, make([]byte, raw))
	if err != nil {
		return fmt.Errorf("lz4 page: %w", err)
	}
	return sized("lz4", int64(n), raw)
}
