package cuda

import (
	"fmt"
	"os"
	"slices"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// thin is the most rows of a product that is no work for tensor cores.
const thin = 16

// TF32Variable is the environment variable that lets products of f32 on tensor cores, operands rounded to tf32 (10 bits
// behind the point), where it is 1: never else.
const TF32Variable = "TUNE_TF32"

// chooseTF32 reads it.
func (c *CUDA) chooseTF32() error {
	asked := os.Getenv(TF32Variable)
	if !slices.Contains([]string{"", "0", "1"}, asked) {
		return fail.Usagef("device", "unset it: products of f32 are then those of f32", "%s=%s: known are 0 and 1", TF32Variable, asked)
	}
	c.tf32 = asked == "1"
	return nil
}

// describeTF32 says that products of f32 are not exact; "" where they are.
func (c *CUDA) describeTF32() string {
	if c.tf32 {
		return ", products of f32 rounded to tf32 (" + TF32Variable + "=1)"
	}
	return ""
}

// halfKind is the type of 16 bits in which a product's operands are multiplied on
// tensor cores, F32 for none: the one that they are to be rounded to (or may be: bf16),
// and the type of both where the products of two such numbers are exact in f32.
func (g *gemmArgs) halfKind() dtype.Kind {
	if g.ta == 0 && g.m <= thin {
		return dtype.F32
	}
	if g.round == elementTypes[dtype.F16] {
		return dtype.F16
	}
	if g.round == elementTypes[dtype.BF16] || g.fast != 0 && g.k2 == 0 {
		return dtype.BF16
	}
	for _, k := range []dtype.Kind{dtype.BF16, dtype.F16} {
		if g.storesAll(storage[k]) && (g.drop.key == 0 || g.drop.where == dropOut) {
			return k
		}
	}
	return dtype.F32
}

// storesAll says whether every operand is stored as kind.
func (g *gemmArgs) storesAll(kind int32) bool {
	return g.a.kind == kind && g.b.kind == kind && (g.k2 == 0 || g.a2.kind == kind && g.b2.kind == kind)
}

// halfArgs is HalfArgs of mma.cu.
type halfArgs struct {
	m                mat
	y                driver.Ptr
	drop             dropArgs
	rows             int64
	cols, ld, f16, _ int32
}

// mmaArgs is MmaArgs of mma.h.
type mmaArgs struct {
	a, b, a2, b2                   driver.Ptr
	c                              dest
	bias                           elems
	group                          driver.Ptr
	bStep, b2Step, cStep, biasStep int64
	drop                           dropArgs
	lda, ldb, lda2, ldb2           int32
	m, n, k, k2, split             int32
	alpha                          float32
}

// mma queues a product of parts on tensor cores, by our own kernel or by the library. Operands that are not stored as
// kind, rows of whole 16 bytes, are made so in scratch memory first. Of kind F32 they are rounded to tf32 as they are multiplied.
func (c *CUDA) mma(g *gemmArgs, parts int, kind dtype.Kind) {
	p := &mmaArgs{c: g.c, bias: g.bias, group: g.group, bStep: g.bStep, b2Step: g.b2Step, cStep: g.cStep, biasStep: g.biasStep,
		m: g.m, n: g.n, k: g.k, k2: g.k2, split: g.split, alpha: g.alpha}
	where := int32(0)
	if g.drop.key != 0 {
		if where = g.drop.where; where == dropOut {
			p.drop = g.drop
		}
	}
	across := func(t int32, n, k int32) (rows, cols int) {
		if t != 0 {
			return int(n), int(k)
		}
		return int(k), int(n)
	}
	shared := parts // the weights of all parts lie one below another
	if g.split == splitK {
		shared = 1
	}
	operand := func(m mat, rows, cols int, dropped bool) (driver.Ptr, int32, *Buf) {
		if dropped {
			return c.halves(m, rows, cols, kind, g.drop)
		}
		return c.halves(m, rows, cols, kind, dropArgs{})
	}
	var bufs [4]*Buf
	rows, cols := across(1-g.ta, g.m, g.k)
	p.a, p.lda, bufs[0] = operand(g.a, rows, cols, where == dropA)
	rows, cols = across(g.tb, g.n, g.k)
	p.b, p.ldb, bufs[1] = operand(g.b, rows*shared, cols, where == dropB)
	if g.k2 > 0 {
		rows, cols = across(1-g.ta, g.m, g.k2)
		p.a2, p.lda2, bufs[2] = operand(g.a2, rows, cols, false)
		rows, cols = across(g.tb, g.n, g.k2)
		p.b2, p.ldb2, bufs[3] = operand(g.b2, rows*shared, cols, false)
	}
	var own task
	if kind != dtype.F32 && c.forGroups(int(g.m), int(g.n), parts) {
		own = c.groupTask(p, g.ta, g.tb, kind, parts)
	} else {
		tile := mmaTile(int(g.m), int(g.n), parts)
		name := fmt.Sprintf("mma_%s_%d", orientation(g.ta, g.tb, kind), tile)
		own = launchOf(c, name, driver.Dim{X: blocksOf(int(g.n), tile), Y: blocksOf(int(g.m), tile), Z: uint32(parts)}, driver.Dim{X: uint32(2 * tile), Y: 1, Z: 1}, 0, p)
	}
	if c.forLibrary(g, parts, kind) {
		c.multiply(g, p, kind, own)
	} else {
		c.queue <- own
	}
	for _, b := range bufs {
		if b != nil {
			c.Free(b)
		}
	}
}

// orientation is the part of a kernel's name that says how operands lie: t for a transposed one.
func orientation(ta, tb int32, kind dtype.Kind) string {
	return fmt.Sprintf("%c%c_%s", "nt"[ta], "nt"[tb], map[dtype.Kind]string{dtype.BF16: "bf16", dtype.F16: "f16", dtype.F32: "tf32"}[kind])
}

// busy is the number of blocks that leave no part of a large GPU idle.
var busy = 128

// mmaTile is the side of the tiles of a product: 64 where there would be few tiles
// of 128, or they would be half empty. By shape alone.
func mmaTile(m, n, parts int) int {
	if min(m, n) <= 64 || int(blocksOf(m, 128))*int(blocksOf(n, 128))*parts < busy {
		return 64
	}
	return 128
}

// halves is where rows of m lie as kind, 16 bits or F32, and how many elements apart; the
// buffer is to be freed.
func (c *CUDA) halves(m mat, rows, cols int, kind dtype.Kind, drop dropArgs) (driver.Ptr, int32, *Buf) {
	size := kind.Info().Bytes
	if m.kind == storage[kind] && drop.key == 0 && int(m.cols) == cols && cols*size%16 == 0 && m.codes%16 == 0 {
		return m.codes + driver.Ptr(int64(size)*m.row0*int64(cols)), int32(cols), nil
	}
	ld := roundUp(cols, 16/size)
	b := c.scratch(kind, rows*ld)
	name, each := "to_half", 8 // elements a thread
	if kind == dtype.F32 {
		name, each = "to_f32", 1
	}
	threads := min(roundUp(ld/each, 32), 128)
	launch(c, name, driver.Dim{X: uint32(rows), Y: blocksOf(ld/each, threads), Z: 1}, driver.Dim{X: uint32(threads), Y: 1, Z: 1}, 0, &halfArgs{m: m, y: ptr(b), drop: drop, rows: int64(rows), cols: int32(cols), ld: int32(ld), f16: flag(kind == dtype.F16)})
	return ptr(b), int32(ld), b
}
