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
	// binades are the lines at both ends of each power of two from 2⁻³¹ to 1.
	binades [4][32]float32
	// Values and mid by bytes: the first of all, the second of all …
	valueBytes, midBytes [4][256]byte
}

const (
	dynamicBits    = 16
	dynamicDecades = 7
)

// Signed holds values of [-1, 1], Unsigned of [0, 1].
var Signed, Unsigned = newDynamic(true), newDynamic(false)

func newDynamic(signed bool) *Dynamic {
	data := make([]float32, 0, 256)
	d, below := new(Dynamic), 0.5 // a rank between those of the magnitudes beside it
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
	for i := range 32 {
		m := math.Ldexp(1, i-31)
		d.binades[0][i], d.binades[1][i] = d.line(m)
		d.binades[2][i], d.binades[3][i] = d.line(2 * m)
	}
	for i := range 256 {
		for b := range 4 {
			d.valueBytes[b][i] = byte(math.Float32bits(d.Values[i]) >> (8 * b))
			d.midBytes[b][i] = byte(math.Float32bits(d.mid[i]) >> (8 * b))
		}
	}
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

// line is the slope and offset of the line that is the lowest at m.
func (d *Dynamic) line(m float64) (slope, offset float32) {
	least := math.Inf(1)
	for i := range dynamicDecades {
		a, b := d.lines[i][0], d.lines[dynamicDecades+i][0]
		if y := float64(a)*m + float64(b); y < least {
			least, slope, offset = y, a, b
		}
	}
	return slope, offset
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
	n = d.encodeLanes(codes, x, r)
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
