package block

import (
	"math"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/kernels/dtype"
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

// DynamicMap is for tests against bitsandbytes.
var DynamicMap = func() []float32 { return Signed.Values[:] }

// Quantize8 is for tests against bitsandbytes: codes of the dynamic map.
func Quantize8(q []byte, absmax, x []float32, size int) { quantize8(q, absmax, x, size) }

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
