package cuda

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// thinFormats are the kernels of thin.cu and thingguf.cu by storage type (mat.h), with
// the rows of W that a warp has when x has one, the columns that a lane reads at once,
// which rows are made of, and the columns of a warp.
var thinFormats = map[int32]struct {
	name              string
	rows, unit, chunk int
}{
	storage[dtype.F32]: {"f32", 4, 8, 256}, storage[dtype.BF16]: {"bf16", 4, 8, 256}, storage[dtype.F16]: {"f16", 4, 8, 256},
	storage[dtype.NF4]: {"book", 8, 32, 1024}, storage[dtype.F8E4M3]: {"float8", 8, 16, 512}, storage[dtype.F8E5M2]: {"float8", 8, 16, 512},
	storage[dtype.F4E2M1]: {"e2m1", 8, 32, 1024},
	storage[dtype.Q4_0]:   {"q4_0", 4, 32, 1024}, storage[dtype.Q4_1]: {"q4_1", 4, 32, 1024},
	storage[dtype.Q5_0]: {"q5_0", 4, 32, 1024}, storage[dtype.Q5_1]: {"q5_1", 4, 32, 1024}, storage[dtype.Q8_0]: {"q8_0", 4, 32, 1024},
	storage[dtype.Q2_K]: {"q2_k", 4, 256, 1024}, storage[dtype.Q3_K]: {"q3_k", 4, 256, 1024}, storage[dtype.Q4_K]: {"q4_k", 8, 256, 1024},
	storage[dtype.Q5_K]: {"q5_k", 4, 256, 1024}, storage[dtype.Q6_K]: {"q6_k", 4, 256, 1024},
	storage[dtype.IQ4_NL]: {"iq4_nl", 8, 32, 1024}, storage[dtype.IQ4_XS]: {"iq4_xs", 8, 256, 1024},
	storage[dtype.MXFP4]: {"mxfp4", 8, 32, 1024}, storage[dtype.NVFP4]: {"nvfp4", 8, 64, 1024},
}

// Of integers it depends on their bits.
var thinInts = map[int32]struct {
	name              string
	rows, unit, chunk int
}{4: {"int4", 8, 32, 1024}, 8: {"int8", 4, 16, 512}}

// thinArgs is ThinArgs of thin.h.
type thinArgs struct {
	w                                          mat
	x, u, b, bias                              elems
	y                                          dest
	group                                      driver.Ptr
	bStep, biasStep                            int64
	m, n, k, k2, slices, shift, quads, rounded int32
	alpha                                      float32
	_                                          int32
}

// thinOf describes a product of up to thin rows to the kernels that decode as they
// multiply; ok false: it is none for them.
func (g *gemmArgs) thinOf(parts int) (a *thinArgs, name string, blocks driver.Dim, ok bool) {
	f := thinFormats[g.b.kind]
	if g.b.kind == storage[dtype.Int4] {
		f = thinInts[g.b.bits]
	}
	element := func(m mat) (elems, bool) {
		size := driver.Ptr(4)
		if m.kind != storage[dtype.F32] {
			size = 2
		}
		return elems{p: m.codes + size*driver.Ptr(m.row0*int64(m.cols)), typ: m.kind}, slices.Contains([]int32{storage[dtype.F32], storage[dtype.BF16], storage[dtype.F16]}, m.kind)
	}
	x, okX := element(g.a)
	u, okU := element(g.a2)
	b, okB := element(g.b2)
	switch {
	case g.ta != 0 || g.tb == 0 || g.m > thin || g.split == splitK || g.drop.key != 0 || f.name == "" || !okX || !okU || !okB:
		return nil, "", blocks, false
	case int(g.k)%f.unit != 0 || g.b.cols != g.k || g.a.cols != g.k || g.b.codes%16 != 0 || g.k2 > 0 && (g.b2.cols != g.k2 || g.a2.cols != g.k2):
		return nil, "", blocks, false
	case g.round == elementTypes[dtype.F16] || g.round != 0 && g.b.kind != storage[dtype.BF16]: // the weights are to be rounded, too
		return nil, "", blocks, false
	}
	a = &thinArgs{w: g.b, x: x, u: u, b: b, bias: g.bias, y: g.c, group: g.group, bStep: g.b2Step, biasStep: g.biasStep,
		m: g.m, n: g.n, k: g.k, k2: g.k2, rounded: g.round, alpha: g.alpha}
	if a.k2 == 0 {
		a.u, a.b = elems{}, elems{}
	}
	width := map[int32]driver.Ptr{storage[dtype.F32]: 16}[x.typ]
	a.quads = flag(x.p%max(width, 8) == 0)
	least := f.unit // a lane's columns share a scale
	if g.b.kind == storage[dtype.F4E2M1] {
		least /= 2 // or have two
	}
	if n := int(g.b.group); n > 0 {
		if n%least != 0 || n&(n-1) != 0 || g.b.perm != 0 {
			return nil, "", blocks, false
		}
		a.shift = int32(bits.TrailingZeros(uint(n)))
	} else if n < 0 {
		a.shift = 31 // of the whole row
	}
	if g.b.perm != 0 {
		return nil, "", blocks, false
	}
	tile, rows := 1, f.rows
	if g.m > 1 {
		tile, rows = 4, 4
	}
	const warps, staged = 8, 4096 // of a block; XS of thin.h
	tiles, groups := blocksOf(int(g.m), tile), blocksOf(int(g.n), rows)
	slices := 1
	for slices < warps && int(groups)*int(tiles)*parts*slices < warps*busy && min(staged/tile, int(g.k)) >= 2*slices*f.chunk {
		slices *= 2
	}
	a.slices = int32(slices)
	return a, fmt.Sprintf("thin_%s_%d", f.name, tile), driver.Dim{X: blocksOf(int(groups), warps/slices), Y: tiles, Z: uint32(parts)}, true
}
