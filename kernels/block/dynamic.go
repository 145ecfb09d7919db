package block

import (
	"math"
	"slices"

	"github.com/tunekit/tunekit/kernels/par"
)

// dynamicMap is the 256 values of bitsandbytes' signed dynamic data type,
// ascending: one bit is the sign, a run of zeros names a power of ten, and what
// is left is a linear fraction between a tenth and one (arXiv 1511.04561,
// 2110.02861).
func dynamicMap() []float32 {
	const exponents = 7
	data := make([]float32, 0, 256)
	for i := range exponents {
		n := 1 << i
		scale := float32(math.Pow(10, float64(i-exponents+1)))
		edges := linspace(0.1, 1, n+1)
		for j := range n {
			v := scale * ((edges[j] + edges[j+1]) / 2)
			data = append(data, v, -v)
		}
	}
	data = append(data, 0, 1)
	slices.Sort(data)
	return data
}

// DynamicMap is a copy of the 256 values that scales of scales are codes of,
// ascending.
func DynamicMap() []float32 { return slices.Clone(dynamicSearch.values) }

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

// mean is the mean of x summed in the order PyTorch sums float32 on one thread
// (8 lanes, 4 rows at once, cascades of at least 16), so that nested offsets
// agree to the last bit. PyTorch itself splits sums past 32768 values by
// threads; this one never does.
func mean(x []float32) float32 {
	if len(x) == 0 {
		return 0
	}
	return torchSum(x) / float32(len(x))
}

// quantize8 writes the nearest code of each x/absmax in blocks of size elements
// to q [len(x)] and the blocks' largest magnitudes to absmax. A tie goes to the
// smaller code.
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
