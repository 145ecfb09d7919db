package data

import (
	"encoding/binary"
	"slices"
	"unsafe"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/endian"
	"github.com/zeebo/xxh3"
)

// without takes holes, which are in order, out of ranges.
func without(loss, holes [][2]int32) [][2]int32 {
	var out [][2]int32
	for _, r := range loss {
		for _, h := range holes {
			if h[0] < r[1] && h[1] > r[0] {
				out = append(out, [2]int32{r[0], max(r[0], h[0])})
				r[0] = min(r[1], h[1])
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

// contentID is the hash of ids and ranges, the same in any file and order: XXH3
// of the ids, seeded with that of the ranges, as little-endian int32.
func contentID(ids []int32, loss [][2]int32) uint64 {
	flat := unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(loss))), 2*len(loss))
	return xxh3.HashSeed(littleEndian(ids), xxh3.Hash(littleEndian(flat)))
}

// littleEndian is x as bytes, where the machine allows without a copy.
func littleEndian(x []int32) []byte {
	if endian.IsBigEndian {
		var b []byte
		for _, v := range x {
			b = binary.LittleEndian.AppendUint32(b, uint32(v))
		}
		return b
	}
	return arrow.Int32Traits.CastToBytes(x)
}
