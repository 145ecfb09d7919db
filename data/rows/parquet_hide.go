package rows

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
)

// hidden reads a file with those structures covered that parquet-go cannot read,
// or could read as something else than was checked. Page headers: they are written
// anew, without what is not needed. Statistics of the footer: of
// is_max_value_exact and is_min_value_exact (fields 7 and 8, later than the
// library) it skips a byte too many, which goes well when both are there; writers
// leave one out where one of the values is too long. The logical type of a column
// of nulls only: without it the column is one of whole numbers that are all absent.
type hidden struct {
	io.ReaderAt
	patches []patch // in order of their places
	longest int     // bytes of one
}

// patch is what is read in place of the bytes at a place.
type patch struct {
	at    int64
	bytes []byte
}

// hide covers the contents of a structure: they become one field of an unknown
// number that holds bytes. The structure's end stays.
func (h *hidden) hide(s byteRange) {
	n := s.to - s.from - 3 // without the field's head, a length of one byte and the end
	cover := []byte{0xf8, byte(n)}
	switch {
	case n == 0: // for which a structure has to do: the library misreads no bytes
		cover[0] = 0xfc
	case n >= 1<<14:
		n -= 2
		cover = []byte{0xf8, byte(n) | 0x80, byte(n>>7) | 0x80, byte(n >> 14)}
	case n >= 1<<7:
		n--
		cover = []byte{0xf8, byte(n) | 0x80, byte(n >> 7)}
	}
	h.patch(patch{s.from, cover})
}

func (h *hidden) patch(p patch) {
	h.patches, h.longest = append(h.patches, p), max(h.longest, len(p.bytes))
}

// done sorts what was hidden; reading begins after it.
func (h *hidden) done() {
	slices.SortFunc(h.patches, func(a, b patch) int { return cmp.Compare(a.at, b.at) })
}

// ReadAt reads with the covers in place.
func (h *hidden) ReadAt(p []byte, off int64) (int, error) {
	n, err := h.ReaderAt.ReadAt(p, off)
	first, _ := slices.BinarySearchFunc(h.patches, off-int64(h.longest), func(x patch, at int64) int { return cmp.Compare(x.at, at) })
	for _, x := range h.patches[first:] {
		if x.at >= off+int64(n) {
			break
		}
		if from, skip := max(x.at-off, 0), max(off-x.at, 0); skip < int64(len(x.bytes)) {
			copy(p[from:n], x.bytes[skip:])
		}
	}
	return n, err
}

// shape says which fields of a structure are kept: nil for numbers, flag, or the
// shape of a structure.
type shape map[int16]shape

var flag = shape{}

// pageShape are the fields of a PageHeader that reading needs: 1 type, 2
// uncompressed, 3 compressed size, 4 crc, 5 data page (values, encodings), 7
// dictionary page (values, encoding, sorted), 8 data page v2 (values, nulls, rows,
// encoding, lengths of levels, compressed).
var pageShape = shape{1: nil, 2: nil, 3: nil, 4: nil,
	5: {1: nil, 2: nil, 3: nil, 4: nil}, 7: {1: nil, 2: nil, 3: flag}, 8: {1: nil, 2: nil, 3: nil, 4: nil, 5: nil, 6: nil, 7: flag}}

// plainHeader writes the page header h again so that any reader sees in it what
// was checked: each field once and of the kind that it must have. With the zero
// that ends a structure it takes n bytes, as it did.
func plainHeader(h thrift, n int64) ([]byte, error) {
	b, number, err := pageShape.encode(nil, h)
	room := int(n) - 1 - len(b)
	switch {
	case err != nil:
		return nil, err
	case room < 0 || room > 0 && number == 0:
		return nil, errThrift
	case room == 1 || room == 2: // a number takes more bytes than it needs
		b[number-1] |= 0x80
		b = slices.Insert(b, number, []byte{0x80, 0}[2-room:]...)
	case room > 2: // bytes in a field of an unknown number, whose contents stay
		width := 1
		for room-1-width >= 1<<(7*width) {
			width++
		}
		b = append(b, 0xf8)
		size := room - 1 - width
		for ; width > 1; width-- {
			b = append(b, byte(size)|0x80)
			size >>= 7
		}
		b = append(b, byte(size))
	}
	return b, nil
}

// encode appends the fields of h in the compact protocol; number is where its
// first number ends, 0 for none.
func (s shape) encode(b []byte, h thrift) (out []byte, number int, err error) {
	last := int16(0)
	for _, id := range slices.Sorted(maps.Keys(s)) {
		kind := byte(0)
		switch v := h[id].(type) {
		case int64:
			if s[id] == nil {
				kind = 5
			}
			if v < math.MinInt32 || v > math.MaxInt32 {
				return nil, 0, fmt.Errorf("%w: field %d is %d", errThrift, id, v)
			}
		case bool:
			if s[id] != nil && len(s[id]) == 0 {
				kind = 2
				if v {
					kind = 1
				}
			}
		case thrift:
			if len(s[id]) > 0 {
				kind = 12
			}
		}
		if kind == 0 {
			continue
		}
		b = append(b, byte(id-last)<<4|kind)
		last = id
		switch kind {
		case 5:
			b = binary.AppendVarint(b, h[id].(int64)) // zigzag, as the protocol's
			number = cmp.Or(number, len(b))
		case 12:
			if b, _, err = s[id].encode(b, h[id].(thrift)); err != nil {
				return nil, 0, err
			}
			b = append(b, 0)
		}
	}
	return b, number, nil
}
