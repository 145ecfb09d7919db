package block

import (
	"math"
	"testing"
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
	for _, s := range []*search{nf4Search, fp4Search, dynamicSearch} {
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

// TestRoundAway: halves go away from zero, what lies just below them does not.
func TestRoundAway(t *testing.T) {
	for _, v := range []float32{0, 0.5, -0.5, 1.5, -2.5, math.Nextafter32(0.5, 0), -math.Nextafter32(0.5, 0), 126.5, -127} {
		if got, want := roundAway(v), int32(math.Round(float64(v))); got != want {
			t.Errorf("%v rounds to %d, want %d", v, got, want)
		}
	}
}

// DynamicMap is for tests against bitsandbytes.
var DynamicMap = dynamicMap

// Quantize8 is for tests against bitsandbytes: codes of the dynamic map.
func Quantize8(q []byte, absmax, x []float32, size int) { quantize8(q, absmax, x, dynamicSearch, size) }
