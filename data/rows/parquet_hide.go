package rows

import (
	"cmp"
	"io"
	"slices"
)

// hidden reads a file with those structures covered that parquet-go cannot read.
// Statistics: of is_max_value_exact and is_min_value_exact (fields 7 and 8, later
// than the library) it skips a byte too many, which goes well when both are
// there; writers leave one out where one of the values is too long. The logical
// type of a column of nulls only: without it the column is one of whole numbers
// that are all absent.
type hidden struct {
	io.ReaderAt
	patches []patch // in order of their places
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
	h.patches = append(h.patches, patch{s.from, cover})
}

// done sorts what was hidden; reading begins after it.
func (h *hidden) done() {
	slices.SortFunc(h.patches, func(a, b patch) int { return cmp.Compare(a.at, b.at) })
}

// ReadAt reads with the covers in place.
func (h *hidden) ReadAt(p []byte, off int64) (int, error) {
	n, err := h.ReaderAt.ReadAt(p, off)
	first, _ := slices.BinarySearchFunc(h.patches, off-4, func(x patch, at int64) int { return cmp.Compare(x.at, at) })
	for _, x := range h.patches[first:] {
		if x.at >= off+int64(n) {
			break
		}
		for i, b := range x.bytes {
			if at := x.at + int64(i) - off; at >= 0 && at < int64(n) {
				p[at] = b
			}
		}
	}
	return n, err
}
