package data

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/endian"
)

// without takes single-token ranges out of ranges.
func without(loss, holes [][2]int32) [][2]int32 {
	var out [][2]int32
	for _, r := range loss {
		for _, h := range holes {
			if h[0] >= r[0] && h[0] < r[1] {
				out = append(out, [2]int32{r[0], h[0]})
				r[0] = h[1]
			}
		}
		out = append(out, r)
	}
	return out
}

// tidy sorts ranges, joins those that touch and leaves empty ones out.
func tidy(loss [][2]int32) [][2]int32 {
	slices.SortFunc(loss, func(a, b [2]int32) int { return int(a[0] - b[0]) })
	out := loss[:0]
	for _, r := range loss {
		switch n := len(out); {
		case r[0] >= r[1]:
		case n > 0 && r[0] <= out[n-1][1]:
			out[n-1][1] = max(out[n-1][1], r[1])
		default:
			out = append(out, r)
		}
	}
	return out
}

// contentID is the hash of ids and ranges, the same in any file and order:
// SHA-256 of the number of ids, the ids and the ranges, as little-endian int32.
func contentID(ids []int32, loss [][2]int32) uint64 {
	h := sha256.New()
	var buf [64]byte
	b := binary.LittleEndian.AppendUint32(buf[:0], uint32(len(ids)))
	h.Write(b)
	if endian.IsBigEndian {
		for _, id := range ids {
			h.Write(binary.LittleEndian.AppendUint32(b[:0], uint32(id)))
		}
	} else {
		h.Write(arrow.Int32Traits.CastToBytes(ids))
	}
	for _, r := range loss {
		b = binary.LittleEndian.AppendUint32(b[:0], uint32(r[0]))
		h.Write(binary.LittleEndian.AppendUint32(b, uint32(r[1])))
	}
	return binary.LittleEndian.Uint64(h.Sum(buf[:0]))
}
