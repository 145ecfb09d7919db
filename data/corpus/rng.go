package corpus

import (
	"hash/fnv"
	"math/bits"
)

// rng is SplitMix64: documents depend on a seed and an index alone, in any
// version of Go.
type rng uint64

func newRNG(seed uint64, stream string, i int) *rng {
	h := fnv.New64a()
	h.Write([]byte(stream))
	r := rng(mix(mix(seed)^h.Sum64()) + uint64(i)*0xd1342543de82ef95)
	return &r
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (r *rng) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	return mix(uint64(*r))
}

// n returns a number in [0, k).
func (r *rng) n(k int) int {
	hi, _ := bits.Mul64(r.next(), uint64(k))
	return int(hi)
}

// in returns a number in [lo, hi].
func (r *rng) in(lo, hi int) int { return lo + r.n(hi-lo+1) }

// one returns one of the words of a list.
func (r *rng) one(list []string) string { return list[r.n(len(list))] }

// some returns k different words of a list, in random order.
func (r *rng) some(list []string, k int) []string {
	p := r.perm(len(list))[:k]
	out := make([]string, k)
	for i, j := range p {
		out[i] = list[j]
	}
	return out
}

func (r *rng) perm(n int) []int {
	p := make([]int, n)
	for i := range p {
		j := r.n(i + 1)
		p[i] = p[j]
		p[j] = i
	}
	return p
}
