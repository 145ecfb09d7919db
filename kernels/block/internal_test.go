package block

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/internal/level"
)

// plainIQ4 is the rule itself: the nearer of two neighbours, ties to the larger.
func plainIQ4(v float32) uint8 {
	for i := 1; i < 16; i++ {
		if v < iq4Values[i] {
			if i == 1 && v <= iq4Values[0] || v-iq4Values[i-1] < iq4Values[i]-v {
				return uint8(i - 1)
			}
			return uint8(i)
		}
	}
	return 15
}

// TestNearestIQ4 goes through the neighbourhood of every integer, half and midpoint.
func TestNearestIQ4(t *testing.T) {
	for i := -280; i <= 280; i++ {
		v := float32(i) / 2
		for range 100 {
			v = math.Nextafter32(v, -1000)
		}
		for range 200 {
			if got, want := nearestIQ4(v), plainIQ4(v); got != want {
				t.Fatalf("%v is code %d, want %d", v, got, want)
			}
			v = math.Nextafter32(v, 1000)
		}
	}
}

// TestSearchRank compares the table look-up with counting midpoints.
func TestSearchRank(t *testing.T) {
	for _, s := range []*search{nf4Search, fp4Search} {
		check := func(v float32) {
			want := 0
			for want < len(s.values)-1 && v > s.mid[want] {
				want++
			}
			if v < -1 {
				want = 0
			}
			if got := s.rank(v); s.values[got] != s.values[want] && (got != want) {
				t.Fatalf("rank of %v is %d, want %d", v, got, want)
			}
		}
		for i := -300; i <= 300; i++ {
			check(float32(i) / 256)
			check(math.Nextafter32(float32(i)/256, -2))
		}
		for _, m := range s.mid[:len(s.mid)-1] {
			for _, v := range []float32{m, math.Nextafter32(m, -2), math.Nextafter32(m, 2)} {
				check(v)
			}
		}
	}
}

// TestDynamicCode compares the table look-up with counting midpoints, at and beside
// every midpoint.
func TestDynamicCode(t *testing.T) {
	for name, d := range map[string]*Dynamic{"signed": Signed, "unsigned": Unsigned} {
		check := func(v float32) {
			want := 0
			for v > d.mid[want] {
				want++
			}
			if got := d.Code(v); int(got) != want {
				t.Fatalf("%s: the code of %v is %d, want %d", name, v, got, want)
			}
		}
		for _, m := range d.mid[:255] {
			for _, v := range []float32{m, math.Nextafter32(m, -2), math.Nextafter32(m, 2), 1.1 * m} {
				check(v)
			}
		}
		for _, v := range []float32{0, -1, 1, 2, -2, 1e-40, -1e-40, float32(math.Inf(1)), float32(math.Inf(-1))} {
			check(v)
		}
	}
}

// TestDynamicLevels compares codes, scales and values of every level with plain
// Go: at and beside every midpoint, at every power of ten, at all lengths of a tail,
// and of blocks that hold zeros, infinities and NaN.
func TestDynamicLevels(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for name, d := range map[string]*Dynamic{"signed": Signed, "unsigned": Unsigned} {
		near := []float32{1} // the largest magnitude is 1: values are coded as they are
		for _, m := range d.mid[:255] {
			v := m
			for range 4 {
				v = math.Nextafter32(v, -2)
			}
			for range 9 {
				near = append(near, v, -v)
				v = math.Nextafter32(v, 2)
			}
		}
		for e := range 90 {
			v := float32(math.Pow(10, -float64(e)/2))
			near = append(near, v, -v, math.Nextafter32(v, 0), math.Nextafter32(v, 2))
		}
		r := rand.New(rand.NewPCG(1, 2))
		for range 1 << 16 {
			v := float32(math.Exp(-20 * r.Float64()))
			near = append(near, v, -v)
		}
		blocks := [][]float32{near, {0, 0}, {float32(math.Copysign(0, -1)), 1}, {1e-40, -1e-41, 0}, {inf, 1, -inf}, {nan, 1, -1}, {3e38, -3e38, 1}, {1e-38, -2e-38}}
		for n := range 70 {
			x := make([]float32, n)
			for i := range x {
				x[i] = float32(r.NormFloat64() * 1e-4)
			}
			blocks = append(blocks, x)
		}
		for _, x := range blocks[1:8] { // short ones, in whole vectors
			blocks = append(blocks, slices.Repeat(x, 16), slices.Repeat(x, 64), append(make([]float32, 32), x...), append(slices.Repeat(x, 40), x[:1]...))
		}
		for i, x := range blocks {
			var codes, bits []byte
			for _, l := range level.Supported() {
				restore := level.Force(l)
				c := make([]byte, len(x)+8)
				v := make([]float32, len(x)+8)
				c[len(x)], v[len(x)] = 99, 99
				top := d.Encode(c[:len(x)], x)
				d.Decode(v[:len(x)], c[:len(x)], top)
				restore()
				if c[len(x)] != 99 || v[len(x)] != 99 {
					t.Fatalf("%s: level %v writes past the end of %d", name, l, len(x))
				}
				b := binary.LittleEndian.AppendUint32(nil, math.Float32bits(top))
				for _, y := range v {
					if y != y {
						y = nan
					}
					b = binary.LittleEndian.AppendUint32(b, math.Float32bits(y))
				}
				if l == level.Generic {
					codes, bits = c, b
				}
				for j := range x {
					if c[j] != codes[j] {
						t.Fatalf("%s, block %d of %d: level %v gives %v (%x) the code %d, plain Go %d", name, i, len(x), l, x[j], math.Float32bits(x[j]), c[j], codes[j])
					}
				}
				if !slices.Equal(b, bits) {
					t.Fatalf("%s, block %d of %d: level %v decodes otherwise than plain Go", name, i, len(x), l)
				}
			}
		}
	}
}

// TestDynamicEvery compares the codes of every float in [-1, 1] that is not nearest to
// zero with plain Go.
func TestDynamicEvery(t *testing.T) {
	if os.Getenv("TUNEKIT_ALL") == "" {
		t.Skip("with TUNEKIT_ALL=1 only")
	}
	x, codes := make([]float32, 1<<12), make([]byte, 1<<12)
	for name, d := range map[string]*Dynamic{"signed": Signed, "unsigned": Unsigned} {
		const last = 0x3f800001 // above one: the inverse of the largest magnitude is rounded
		for b := uint32(0x2f000000); b <= last; b += uint32(len(x) / 2) {
			for i := range x {
				x[i] = math.Float32frombits(min(b+uint32(i/2), last) | uint32(i%2)<<31)
			}
			n := d.encodeLanes(codes, x, 1)
			if n == 0 {
				t.Skip("no lanes on this machine")
			}
			for i, v := range x[:n] {
				if want := d.Code(v); codes[i] != want {
					t.Fatalf("%s: %v (%x) has the code %d, plain Go says %d", name, v, math.Float32bits(v), codes[i], want)
				}
			}
		}
	}
}

// TestDynamicBooks: a power of two has one border at most, and each border is in one.
func TestDynamicBooks(t *testing.T) {
	for i := range wideBooks {
		borders := 0
		for k, b := range wideBooks[i].border {
			if math.IsInf(float64(b), 1) {
				continue
			}
			borders++
			if m := math.Ldexp(1, k-31); float64(b) < m || float64(b) >= 2*m {
				t.Errorf("book %d: the border %v is not between %v and %v", i, b, m, 2*m)
			}
		}
		if borders != dynamicDecades+1 {
			t.Errorf("book %d has %d borders, want one behind zero and each decade", i, borders)
		}
	}
}

// TestAdamWDivides compares parameters with torch's formula in plain Go over second
// moments of all sizes and many steps: the root is divided by a constant without a division.
func TestAdamWDivides(t *testing.T) {
	const blocks = 200
	r := rand.New(rand.NewPCG(3, 4))
	for _, step := range []float64{1, 2, 3, 10, 77, 1000, 30000} {
		p, g := make([]float32, 256*blocks), make([]float32, 256*blocks)
		m, v := make([]byte, len(p)), make([]byte, len(p))
		mtop, vtop := make([]float32, blocks), make([]float32, blocks)
		for i := range p {
			m[i], v[i] = byte(r.Uint32()), byte(r.Uint32())
		}
		for b := range mtop {
			mtop[b] = 1
			vtop[b] = float32(math.Pow(10, -44+82*r.Float64()))
		}
		vtop[3] = float32(math.Inf(1))
		k := [8]float32{1, 1, 0.5, 1, 0, float32(math.Sqrt(1 - math.Pow(0.999, step))), 0, 1}
		want := make([]float32, len(p))
		for i := range p {
			root := float32(math.Sqrt(float64(float32(Unsigned.Values[v[i]]*vtop[i/256]) + 0)))
			want[i] = float32(Signed.Values[m[i]]*0.5) / (root / k[5])
		}
		n := AdamW(p, g, m, v, mtop, vtop, &k)
		if n == 0 {
			t.Skip("no AVX-512 VBMI")
		}
		for i, x := range p[:256*n] {
			if x != want[i] && x == x && want[i] == want[i] || (x != x) != (want[i] != want[i]) {
				t.Fatalf("step %v: element %d is %v, want %v", step, i, x, want[i])
			}
		}
	}
}

// TestRoundAway: halves go away from zero, what lies just below them does not.
func TestRoundAway(t *testing.T) {
	for _, v := range []float32{0, 0.5, -0.5, 1.5, -2.5, math.Nextafter32(0.5, 0), -math.Nextafter32(0.5, 0), 126.5, -127} {
		if got, want := roundAway(v), int32(math.Round(float64(v))); got != want {
			t.Errorf("%v rounds to %d, want %d", v, got, want)
		}
	}
}

// HasLanes reports whether a kind has an encoder of many blocks at a time at the
// current level.
func HasLanes(k dtype.Kind) bool { return laneEncoder(k) != nil }

// TestLattices: every combination of coordinates is a point, or has neighbours:
// those at the few smallest distances, by distance and index.
func TestLattices(t *testing.T) {
	for name, g := range map[string]*lattice{"2XXS": &lattice2XXS, "2XS": &lattice2XS, "2S": &lattice2S, "1S": &lattice1S, "3XXS": &lattice3XXS, "3S": &lattice3S} {
		g.prepared()
		if g.points[0] != 0 || !slices.IsSorted(g.points) || len(slices.Compact(slices.Clone(g.points))) != len(g.points) {
			t.Errorf("%s: the points are not in order", name)
		}
		checked := 0
		for code, at := range g.near {
			if !g.inside(code) {
				continue
			}
			checked++
			if at >= 0 {
				if int(g.points[at]) != code {
					t.Fatalf("%s: %x is taken for point %x", name, code, g.points[at])
				}
				continue
			}
			if code%97 != 0 {
				continue // the rest takes long
			}
			type far struct{ distance, index int }
			var all []far
			for j := range g.points {
				d := 0
				for i := range g.dims {
					e := g.coordinate(code, i) - int(g.coords[j][i])
					d += e * e
				}
				all = append(all, far{d, j})
			}
			slices.SortStableFunc(all, func(a, b far) int { return a.distance - b.distance })
			var want []uint16
			for i, shells := 0, 0; i < len(all); i++ {
				if i == 0 || all[i].distance > all[i-1].distance {
					if shells++; shells > g.shells {
						break
					}
				}
				want = append(want, uint16(all[i].index))
			}
			i := -1 - int(at)
			if got := g.lists[i+1:][:g.lists[i]]; !slices.Equal(got, want) {
				t.Fatalf("%s: the neighbours of %x are %v, want %v", name, code, got, want)
			}
		}
		if want := int(math.Pow(float64(g.top+1), float64(g.dims))); checked != want {
			t.Errorf("%s: %d combinations, want %d", name, checked, want)
		}
	}
}

// TestFP4Code compares counting midpoints with comparing distances, about every
// midpoint and value.
func TestFP4Code(t *testing.T) {
	for scale := range 256 {
		for _, d := range []float32{halfE8M0(uint8(scale)), halfUE4M3(uint8(scale))} {
			if 12*d > math.MaxFloat32 {
				continue
			}
			for i := range 64 {
				v := float32(i) / 4 * d
				for range 3 {
					v = math.Nextafter32(v, -1)
				}
				for range 6 {
					if x := max(v, 0); x <= 16*d && fp4Code(x, d) != fp4Far(x, d) {
						t.Fatalf("%v in units of %v is code %d, want %d", x, d, fp4Code(x, d), fp4Far(x, d))
					}
					v = math.Nextafter32(v, math.MaxFloat32)
				}
			}
		}
	}
}

// BenchmarkDynamic reports Gelem/s of codes of blocks of 256.
func BenchmarkDynamic(b *testing.B) {
	x, codes := make([]float32, 1<<14), make([]byte, 1<<14)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range x {
		x[i] = float32(math.Exp(-10 * r.Float64()))
	}
	for _, l := range level.Supported() {
		for name, f := range map[string]func(lo, hi int){
			"encode": func(lo, hi int) { Unsigned.Encode(codes[lo:hi], x[lo:hi]) },
			"decode": func(lo, hi int) { Unsigned.Decode(x[lo:hi], codes[lo:hi], 1) },
		} {
			b.Run(l.String()+"/"+name, func(b *testing.B) {
				defer level.Force(l)()
				for b.Loop() {
					for at := 0; at < len(x); at += 256 {
						f(at, at+256)
					}
				}
				b.ReportMetric(float64(len(x))*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gelem/s")
			})
		}
	}
}
