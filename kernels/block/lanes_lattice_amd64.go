package block

import (
	"github.com/tunekit/tunekit/kernels/block/internal/lanes"
	"github.com/tunekit/tunekit/kernels/internal/level"
)

// The searches over lattices with 16 elements, or 16 neighbours, side by side.

// repeated fills a register with the levels of a lattice as often as it takes.
func (g *lattice) repeated(levels *[8]float32) (out [16]float32) {
	mask := 1<<g.bits - 1
	for i := range out {
		out[i] = levels[i&mask]
	}
	return out
}

// closestLanes is closest, where the level has vectors for it.
func (g *lattice) closestLanes(at, n int, x, weight []float32, scale float32, levels *[8]float32) (place int, ok bool) {
	if level.Current() < level.AVX512 {
		return 0, false
	}
	_, _, _ = x[g.dims-1], weight[g.dims-1], g.packed[at+n+15]
	r := g.repeated(levels)
	var pos int32
	if g.dims == 4 {
		lanes.LatticeClosest4(n, &g.packed[at], &x[0], &weight[0], &r[0], scale, &pos)
	} else {
		lanes.LatticeClosest8(n, &g.packed[at], &x[0], &weight[0], &r[0], scale, &pos)
	}
	return int(pos), true
}

// roundLanes is round, where the level has vectors for it.
func (s *iqGroup) roundLanes(codes *[8]uint16, inverse float32) bool {
	if level.Current() < level.AVX512 {
		return false
	}
	var out [32]uint32
	if s.g.dims == 4 {
		lanes.LatticeCodes4(s.n, &s.x[0], inverse, float32(s.g.top), &out[0])
	} else {
		lanes.LatticeCodes8(s.n, &s.x[0], inverse, float32(s.g.top), &out[0])
	}
	for k := range s.n / s.g.dims {
		codes[k] = uint16(out[k*s.g.dims])
	}
	return true
}

// expandLanes is expand, where the level has vectors for it.
func (r *eights) expandLanes(dst []float32) bool {
	if level.Current() < level.AVX512 || len(dst)%16 != 0 {
		return false
	}
	lanes.ExpandEights(len(dst), &r.values[0], &r.signs[0], &r.scales[0], &dst[0])
	return true
}
