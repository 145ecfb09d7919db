package block

import (
	"math"
	"slices"
	"sort"

	"github.com/tunekit/tunekit/kernels/par"
)

// Dynamic is one of bitsandbytes' 8-bit dynamic data types: one bit is the sign,
// or belongs to the fraction, a run of zeros names a power of ten, and what is
// left is a linear fraction between a tenth and one (arXiv 1511.04561,
// 2110.02861).
type Dynamic struct {
	Values [256]float32 // ascending
	mid    [256]float32 // midpoints between neighbours, then +Inf
	// start is how many midpoints lie below a bucket of values: those whose sign,
	// exponent and first seven bits of the fraction are the index. A bucket between
	// the smallest and the largest magnitude holds one midpoint at most.
	start [1 << dynamicBits]uint8
	// What vectors count midpoints with: the lowest of the lines, one a decade, is the
	// rank of a magnitude within half a code, and with its sign and shift the code.
	lines [2 * dynamicDecades][8]float32 // slopes, then offsets, 8 times each
	shift float32
	wide  *wideBook
}

const (
	dynamicBits    = 16
	dynamicDecades = 7
)

// wideBook is what vectors of 64 codes read (kernels/cpu/gen/dynamic.go). The values fall
// into groups, of zero, of each decade and of one. Of each power of two from 2⁻³¹ to 1
// there is the border between two groups that lies in it, or +Inf, and of the group that it
// begins with the line of its ranks and the last of them, as fixed point in the fraction
// of 128 (signed) or 256 (not), a half and a little higher.
type wideBook struct {
	border, slope, offset, last [32]float32
	// Values by bytes: the first of all, the second of all … Where they have signs,
	// magnitudes by ranks: 128 of each, that of rank 128 in the place of rank 0.
	values [4 * 256]byte
}

// Signed holds values of [-1, 1], Unsigned of [0, 1].
var Signed, Unsigned = newDynamic(true, &wideBooks[0]), newDynamic(false, &wideBooks[1])

var wideBooks [2]wideBook // of Signed, of Unsigned

func newDynamic(signed bool, wide *wideBook) *Dynamic {
	data := make([]float32, 0, 256)
	d, below := &Dynamic{wide: wide}, 0.5 // a rank between those of the magnitudes beside it
	for i := range dynamicDecades {
		n := 1 << i
		if !signed {
			n *= 2
		}
		scale := float32(math.Pow(10, float64(i-dynamicDecades+1)))
		slope := float64(n) / 0.9 // a tenth to one
		d.lines[i] = eight(slope / float64(scale))
		d.lines[dynamicDecades+i] = eight(below - 0.1*slope)
		below += float64(n)
		edges := linspace(0.1, 1, n+1)
		for j := range n {
			v := scale * ((edges[j] + edges[j+1]) / 2)
			data = append(data, v)
			if signed {
				data = append(data, -v)
			}
		}
	}
	data = append(data, 0, 1)
	slices.Sort(data)
	zero, _ := slices.BinarySearch(data, 0)
	d.shift = float32(zero) - 0.5
	copy(d.Values[:], data)
	for i := range d.mid {
		d.mid[i] = float32(math.Inf(1))
		if i < 255 {
			d.mid[i] = (data[i] + data[i+1]) / 2
		}
	}
	d.wide.fill(d, zero, signed)
	for i := range d.start {
		bits := uint32(i) << (32 - dynamicBits)
		if bits>>31 == 1 { // the value farthest from zero is the lowest
			bits |= 1<<(32-dynamicBits) - 1
		}
		edge := math.Float32frombits(bits)
		if edge == edge {
			d.start[i] = uint8(sort.Search(255, func(k int) bool { return d.mid[k] >= edge }))
		}
	}
	return d
}

// fill computes w of d's values, of which that at zero is 0.
func (w *wideBook) fill(d *Dynamic, zero int, signed bool) {
	first, base, steps := []int{zero, zero + 1}, 256.0, 1<<15 // the first of each group
	for i := range dynamicDecades {
		n := 2 << i
		if signed {
			n /= 2
		}
		first = append(first, first[len(first)-1]+n)
	}
	if signed {
		base, steps = 128, 1<<16
	}
	first = append(first, 256)
	group := 0 // of the least of a power of two
	for i := range 32 {
		m := math.Ldexp(1, i-31)
		lo, hi := first[group], first[group+1]-1
		slope := 0.0
		if hi > lo {
			slope = float64(hi-lo) / float64(d.Values[hi]-d.Values[lo])
		}
		at := base + float64(lo-zero) + 0.5
		w.slope[i] = float32(slope)
		w.offset[i] = float32(at + 4/float64(steps) - slope*float64(d.Values[lo]))
		w.last[i] = float32(base + float64(hi-zero) + 0.5)
		w.border[i] = float32(math.Inf(1))
		if b := d.mid[hi]; float64(b) < 2*m {
			w.border[i] = b
			group++
		}
	}
	for i := range 256 {
		v := math.Float32bits(d.Values[i])
		for b := range 4 {
			if !signed {
				w.values[256*b+i] = byte(v >> (8 * b))
			} else if i > zero {
				w.values[128*b+(i-zero)%128] = byte(v >> (8 * b))
			}
		}
	}
}

func eight(v float64) (out [8]float32) {
	for i := range out {
		out[i] = float32(v)
	}
	return out
}

// Code is the code of the value nearest to v; a tie goes to the smaller code.
func (d *Dynamic) Code(v float32) byte {
	i := d.start[math.Float32bits(v)>>(32-dynamicBits)]
	if v > d.mid[i] {
		i++
	}
	return i
}

// Encode writes the codes of x over its largest magnitude, which it returns.
func (d *Dynamic) Encode(codes []byte, x []float32) (absmax float32) {
	absmax, n := topLanes(x)
	top := math.Float32bits(absmax)
	for _, v := range x[n:] {
		if b := math.Float32bits(v) &^ (1 << 31); b > top {
			top = b
		}
	}
	absmax = math.Float32frombits(top)
	r := 1 / max(absmax, 1e-38)
	codes = codes[:len(x)]
	n = 0
	if top < math.Float32bits(float32(math.Inf(1))) {
		n = d.encodeLanes(codes, x, r)
	}
	for i, v := range x[n:] {
		codes[n+i] = d.Code(float32(v * r))
	}
	return absmax
}

// Decode writes the values of codes times absmax.
func (d *Dynamic) Decode(x []float32, codes []byte, absmax float32) {
	x = x[:len(codes)]
	n := d.decodeLanes(x, codes, absmax)
	for i, c := range codes[n:] {
		x[n+i] = d.Values[c] * absmax
	}
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
// to q [len(x)] and the blocks' largest magnitudes to absmax.
func quantize8(q []byte, absmax, x []float32, size int) {
	par.For(len(absmax), max(1, 16384/size), func(lo, hi int) {
		for b := lo; b < hi; b++ {
			at, end := b*size, min((b+1)*size, len(x))
			absmax[b] = Signed.Encode(q[at:end], x[at:end])
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
