package data

import "math/bits"

// splitmix is SplitMix64 (Steele, Lea, Flood 2014): a counter through a mixing
// function, so that the same seed gives the same numbers in any version of Go.
type splitmix uint64

func (s *splitmix) next() uint64 {
	*s += 0x9e3779b97f4a7c15
	return mix64(uint64(*s))
}

func mix64(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below returns a number in [0, n), by Lemire's multiplication without the
// rejection step: the bias is below n/2⁶⁴.
func (s *splitmix) below(n int) int {
	hi, _ := bits.Mul64(s.next(), uint64(n))
	return int(hi)
}

// count makes p the numbers from 0.
func count(p []int32) {
	for i := range p {
		p[i] = int32(i)
	}
}

// permute makes p the numbers from 0 in an order that seed and stream decide.
func permute(p []int32, seed, stream uint64) {
	count(p)
	s := splitmix(mix64(seed) ^ mix64(stream+0x632be59bd9b4e019))
	for i := len(p) - 1; i > 0; i-- {
		j := s.below(i + 1)
		p[i], p[j] = p[j], p[i]
	}
}
