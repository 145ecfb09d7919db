package block

import (
	"math"
	"sync"
)

// The types of three bits and less store eight weights together, or four, as the
// index of a point of a lattice: a table of the combinations of small coordinates
// that are worth a code. What a coordinate stands for is the type's own affair;
// where signs lie apart, coordinate c is the magnitude 2c+1 in units of a scale.

// lattice is such a table. What encoding needs is made at first use.
type lattice struct {
	points []uint16 // coordinates packed, the first in the lowest bits; a block stores indices into this
	dims   int      // coordinates of a point: 8 or 4
	bits   int      // of a packed coordinate: 2 or 3
	top    int      // the largest coordinate
	shells int      // how many different distances count as near

	once   sync.Once
	coords [][8]uint8 // of every point
	near   []int32    // by packed coordinates: the index of their point, or -1-i where lists[i:] begins with their neighbours
	lists  []uint16   // how many neighbours, and their indices, nearest first; one list after another
	packed []uint16   // the same in packed coordinates, with room for reading on
}

// The lattices, by the types that first had them. IQ1_M shares that of IQ1_S.
var (
	lattice2XXS = lattice{points: points2XXS[:], dims: 8, bits: 2, top: 2, shells: 2}
	lattice2XS  = lattice{points: points2XS[:], dims: 8, bits: 2, top: 2, shells: 2}
	lattice2S   = lattice{points: points2S[:], dims: 8, bits: 2, top: 2, shells: 1}
	lattice1S   = lattice{points: points1S[:], dims: 8, bits: 2, top: 2, shells: 3}
	lattice3XXS = lattice{points: points3XXS[:], dims: 4, bits: 3, top: 7, shells: 2}
	lattice3S   = lattice{points: points3S[:], dims: 4, bits: 3, top: 7, shells: 3}
)

// oddLevels are the magnitudes that coordinates stand for.
var oddLevels = [8]float32{1, 3, 5, 7, 9, 11, 13, 15}

// prepared returns g ready for encoding.
func (g *lattice) prepared() *lattice {
	g.once.Do(g.prepare)
	return g
}

// coordinate is coordinate i of packed ones.
func (g *lattice) coordinate(code, i int) int { return code >> (g.bits * i) & (1<<g.bits - 1) }

// prepare finds the point of every combination of coordinates, or its neighbours:
// all points at the few smallest distances, in order of distance and index.
func (g *lattice) prepare() {
	g.coords = make([][8]uint8, len(g.points))
	g.near = make([]int32, 1<<(g.dims*g.bits))
	for i := range g.near {
		g.near[i] = -1
	}
	for j, p := range g.points {
		g.near[p] = int32(j)
		for i := range g.dims {
			g.coords[j][i] = uint8(g.coordinate(int(p), i))
		}
	}
	half := g.dims / 2 * g.bits
	apart := g.halfDistances(half)
	distance := make([]uint8, len(g.points))
	for code := range g.near {
		if g.near[code] >= 0 || !g.inside(code) {
			continue
		}
		g.near[code] = int32(-1 - len(g.lists))
		row0, row1 := apart[code&(1<<half-1)<<half:], apart[code>>half<<half:]
		var at [256]int // how many points are at a distance
		for j, p := range g.points {
			d := row0[p&(1<<half-1)] + row1[p>>half]
			distance[j] = d
			at[d]++
		}
		count := len(g.lists)
		g.lists = append(g.lists, 0)
		for d, shells := 0, 0; d < len(at) && shells < g.shells; d++ {
			if at[d] == 0 {
				continue
			}
			shells++
			for j, e := range distance {
				if int(e) == d {
					g.lists = append(g.lists, uint16(j))
				}
			}
		}
		g.lists[count] = uint16(len(g.lists) - count - 1)
	}
	g.packed = make([]uint16, len(g.lists)+16)
	for at := 0; at < len(g.lists); at += 1 + int(g.lists[at]) {
		for i, j := range g.lists[at+1:][:g.lists[at]] {
			g.packed[at+1+i] = g.points[j]
		}
	}
}

// inside reports whether all coordinates of packed ones are in use.
func (g *lattice) inside(code int) bool {
	for i := range g.dims {
		if g.coordinate(code, i) > g.top {
			return false
		}
	}
	return true
}

// halfDistances are the squared distances, in coordinates, between all halves of
// combinations: that of a and b at a<<half + b.
func (g *lattice) halfDistances(half int) []uint8 {
	out := make([]uint8, 1<<(2*half))
	for a := range 1 << half {
		for b := range 1 << half {
			for i := range g.dims / 2 {
				d := g.coordinate(a, i) - g.coordinate(b, i)
				out[a<<half+b] += uint8(d * d)
			}
		}
	}
	return out
}

// closest is the index of the neighbour of code, which is no point itself, whose
// Σ weight·(scale·level - x)² is least, the first of equals. levels are what
// coordinates stand for. Sums are made in order; since they cannot fall, a
// neighbour is left where its sum has reached the least.
func (g *lattice) closest(code uint16, x, weight []float32, scale float32, levels *[8]float32) uint16 {
	at := int(-1 - g.near[code])
	list := g.lists[at+1:][:g.lists[at]]
	if i, ok := g.closestLanes(at+1, len(list), x, weight, scale, levels); ok {
		return list[i]
	}
	if g.dims == 4 {
		return g.closest4(list, (*[4]float32)(x), (*[4]float32)(weight), scale, levels)
	}
	return g.closest8(list, (*[8]float32)(x), (*[8]float32)(weight), scale, levels)
}

func (g *lattice) closest4(list []uint16, x, weight *[4]float32, scale float32, levels *[8]float32) uint16 {
	var cost [4][8]float32 // of each coordinate and value
	for c, l := range levels {
		v := float32(scale * l)
		for i, w := range weight {
			diff := v - x[i]
			cost[i][c] = float32(float32(w*diff) * diff)
		}
	}
	best, index := float32(math.MaxFloat32), list[0]
	for _, j := range list {
		p := &g.coords[j]
		if sum := cost[0][p[0]&7] + cost[1][p[1]&7] + cost[2][p[2]&7] + cost[3][p[3]&7]; sum < best {
			best, index = sum, j
		}
	}
	return index
}

func (g *lattice) closest8(list []uint16, x, weight *[8]float32, scale float32, levels *[8]float32) uint16 {
	var cost [8][4]float32
	for c, l := range levels[:3] {
		v := float32(scale * l)
		for i, w := range weight {
			diff := v - x[i]
			cost[i][c&3] = float32(float32(w*diff) * diff)
		}
	}
	best, index := float32(math.MaxFloat32), list[0]
	for _, j := range list {
		p := &g.coords[j]
		sum := cost[0][p[0]&3] + cost[1][p[1]&3] + cost[2][p[2]&3] + cost[3][p[3]&3]
		if sum >= best {
			continue
		}
		sum = sum + cost[4][p[4]&3] + cost[5][p[5]&3] + cost[6][p[6]&3] + cost[7][p[7]&3]
		if sum < best {
			best, index = sum, j
		}
	}
	return index
}
