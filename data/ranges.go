package data

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
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

// contentID is the hash of ids and ranges, the same in any file and order.
func contentID(ids []int32, loss [][2]int32) uint64 {
	buf := make([]byte, 0, 4*len(ids)+8*len(loss)+4)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(ids)))
	for _, id := range ids {
		buf = binary.LittleEndian.AppendUint32(buf, uint32(id))
	}
	for _, r := range loss {
		buf = binary.LittleEndian.AppendUint32(buf, uint32(r[0]))
		buf = binary.LittleEndian.AppendUint32(buf, uint32(r[1]))
	}
	sum := sha256.Sum256(buf)
	return binary.LittleEndian.Uint64(sum[:])
}
