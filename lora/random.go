package lora

import (
	"hash/fnv"
	"math"
)

// stream is a sequence of random numbers that depends on a seed and a name
// only: element i of a tensor is the same whatever else is initialised. It is
// SplitMix64 (Steele, Lea, Flood 2014) used as a counter.
type stream uint64

func newStream(seed uint64, name string) stream {
	h := fnv.New64a()
	h.Write([]byte(name))
	return stream(mix(seed) ^ mix(h.Sum64()+0x9e3779b97f4a7c15))
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// at returns number i of the stream, in (0, 1).
func (s stream) at(i uint64) float64 {
	z := mix(uint64(s) + (i+1)*0x9e3779b97f4a7c15)
	return (float64(z>>12) + 0.5) / (1 << 52)
}

// uniform returns n numbers in (-bound, bound).
func (s stream) uniform(n int, bound float64) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(bound * float64(2*s.at(uint64(i))-1))
	}
	return v
}

// normal returns n numbers of mean 0 and deviation sigma (Box and Muller 1958).
func (s stream) normal(n int, sigma float64) []float32 {
	v := make([]float32, n)
	for i := range v {
		r := math.Sqrt(-2 * math.Log(s.at(uint64(2*i))))
		v[i] = float32(sigma * float64(r*math.Cos(2*math.Pi*s.at(uint64(2*i+1)))))
	}
	return v
}

// initial returns A [r, in] and B [out, r] of a new adapter, of experts [E·r, in]
// and [E·out, r] (peft/tuners/lora/layer.py, reset_lora_parameters). A's Kaiming
// bound with a = √5 is 1/√in.
func initial(how Init, seed uint64, path string, r, experts, in, out int) (a, b []float32) {
	s := newStream(seed, path+".lora_A.weight")
	na, nb := max(experts, 1)*r*in, max(experts, 1)*out*r
	switch how {
	case InitGaussian:
		return s.normal(na, 1/float64(r)), make([]float32, nb)
	case InitOrthogonal:
		return halves(s, newStream(seed, path+".lora_B.weight"), r, in, out)
	case InitNonZero:
		t := newStream(seed, path+".lora_B.weight")
		return s.uniform(na, 1/math.Sqrt(float64(in))), t.uniform(nb, 1/math.Sqrt(float64(r)))
	}
	return s.uniform(na, 1/math.Sqrt(float64(in))), make([]float32, nb)
}

// halves returns A [r, in] and B [out, r] with B·A zero: both normal with deviation 1/10
// over half of the rows of an orthonormal basis (peft/tuners/lora/layer.py, orthogonal_init).
func halves(s, t stream, r, in, out int) (a, b []float32) {
	basis := make([][]float64, r)
	v := s.normal(r*r+in*r/2, 1)
	for i := range basis {
		for _, x := range v[i*r : (i+1)*r] {
			basis[i] = append(basis[i], float64(x))
		}
	}
	orthonormal(basis)
	over := func(x []float32, i, k, first int) float32 { // row i of x [n, r/2] times the rows first, first+2 … of the basis
		sum := 0.0
		for j := range r / 2 {
			sum += float64(float64(x[i*r/2+j]) * basis[2*j+first][k])
		}
		return float32(sum / 10)
	}
	x, y := v[r*r:], t.normal(out*r/2, 1)
	for k := range r {
		for i := range in {
			a = append(a, over(x, i, k, 0))
		}
	}
	for i := range out {
		for k := range r {
			b = append(b, over(y, i, k, 1))
		}
	}
	return a, b
}

// RewardHead draws the first values of a reward model's head of n columns, as
// Transformers does of layers that a checkpoint lacks.
func RewardHead(seed uint64) func(n int) []float32 {
	return func(n int) []float32 { return newStream(seed, "score.weight").normal(n, 0.02) }
}
