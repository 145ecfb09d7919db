package block

import (
	"math"
	"slices"

	"github.com/tunekit/tunekit/kernels/par"
)

// DynamicMap is the 256 values of bitsandbytes' dynamic data type, ascending:
// of the given number of bits one is the sign, a run of zeros names a power of
// ten, and what is left is a linear fraction between a tenth and one (arXiv
// 1511.04561, 2110.02861). With fewer than 8 bits zeros fill the map up.
func DynamicMap(signed bool, bits int) []float32 {
	exponents := bits - 1
	data := make([]float32, 0, 256)
	for i := range exponents {
		n := 1 << i
		if !signed {
			n *= 2
		}
		scale := float32(math.Pow(10, float64(i-exponents+1)))
		edges := linspace(0.1, 1, n+1)
		for j := range n {
			v := scale * ((edges[j] + edges[j+1]) / 2)
			data = append(data, v)
			if signed {
				data = append(data, -v)
			}
		}
	}
	data = append(data, 1)
	for len(data) < 256 {
		data = append(data, 0)
	}
	slices.Sort(data)
	return data
}

// LinearMap is 256 evenly spaced values, in [-1, 1] with 0 twice when signed,
// else in [0, 1].
func LinearMap(signed bool) []float32 {
	if !signed {
		return linspace(0, 1, 256)
	}
	v := linspace(-1, 1, 255)
	return slices.Insert(v, 127, 0)
}

// linspace counts from both ends and rounds once, as torch.linspace does.
func linspace(lo, hi float32, n int) []float32 {
	step := (hi - lo) / float32(n-1)
	v := make([]float32, n)
	for i := range v {
		if i < n/2 {
			v[i] = float32(float64(lo) + float64(step)*float64(i))
		} else {
			v[i] = float32(float64(hi) - float64(step)*float64(n-1-i))
		}
	}
	return v
}

// Mean is the mean of x summed in the order PyTorch sums float32 on one thread
// (8 lanes, 4 rows at once, cascades of at least 16), so that nested offsets
// agree to the last bit. PyTorch itself splits sums past 32768 values by
// threads; this one never does.
func Mean(x []float32) float32 {
	if len(x) == 0 {
		return 0
	}
	return torchSum(x) / float32(len(x))
}

// Quantize8 writes the nearest code of each x/absmax in blocks of size elements
// to q [len(x)] and the blocks' largest magnitudes to absmax. A tie goes to the
// smaller code. code is ascending with 256 values. A ragged last block of zeros
// has an absmax of 1e-38, as bitsandbytes stores it.
func Quantize8(q []byte, absmax, x, code []float32, size int) {
	quantize8(q, absmax, x, newSearch(code), size)
	if n := len(absmax); len(x)%size != 0 {
		absmax[n-1] = max(absmax[n-1], 1e-38)
	}
}

func quantize8(q []byte, absmax, x []float32, s *search, size int) {
	par.For(len(absmax), max(1, 16384/size), func(lo, hi int) {
		for b := lo; b < hi; b++ {
			part := x[b*size : min((b+1)*size, len(x))]
			absmax[b] = absMax(part)
			r := 1 / max(absmax[b], 1e-38)
			for i, v := range part {
				q[b*size+i] = s.order[s.rank(float32(v*r))]
			}
		}
	})
}

// Dequantize8 is code[q]·absmax of each block.
func Dequantize8(dst []float32, q []byte, absmax, code []float32, size int) {
	for i, c := range q {
		dst[i] = code[c] * absmax[i/size]
	}
}

// torchSum sums in the order of ATen's vectorized inner reduction.
func torchSum(x []float32) float32 {
	const lanes, rows = 8, 4
	vecs := len(x) / lanes
	var acc [rows][lanes]float32
	cascade(&acc, x, vecs/rows)
	for v := vecs / rows * rows; v < vecs; v++ {
		addTo(&acc[0], x[v*lanes:])
	}
	for r := 1; r < rows; r++ {
		addTo(&acc[0], acc[r][:])
	}
	var sum float32
	for _, v := range x[vecs*lanes:] {
		sum += v
	}
	for _, v := range acc[0] {
		sum += v
	}
	return sum
}

func addTo(a *[8]float32, x []float32) {
	x = x[:8]
	for i, v := range x {
		a[i] += v
	}
}

// cascade sums n groups of four vectors, carrying partial sums up four levels.
func cascade(acc *[4][8]float32, x []float32, n int) {
	power := 4
	for log := 0; 1<<log < n; log++ {
		power = max(power, (log+1)/4)
	}
	step := 1 << power
	var level [4][4][8]float32
	i := 0
	add := func() {
		for r := range 4 {
			addTo(&level[0][r], x[(i*4+r)*8:])
		}
		i++
	}
	for i+step <= n {
		for range step {
			add()
		}
		for j := 1; j < 4; j++ {
			for r := range 4 {
				addTo(&level[j][r], level[j-1][r][:])
				level[j-1][r] = [8]float32{}
			}
			if i&((step-1)<<(j*power)) != 0 {
				break
			}
		}
	}
	for i < n {
		add()
	}
	for j := 1; j < 4; j++ {
		for r := range 4 {
			addTo(&level[0][r], level[j][r][:])
		}
	}
	*acc = level[0]
}
