package cuda

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"os"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Int8Variable is the environment variable that decides whether products of more than four rows with weights of whole numbers,
// where kernels.LinearArgs.Fast allows it, are those of x rounded to 8 bits (int8.cu): 0 never, 1 always, auto or "" where they
// are clearly faster, which is seen to for few rows and for many.
const Int8Variable = "TUNE_INT8"

// int8Products says which products are those. Set by Open before anybody else has the device.
type int8Products struct{ few, many int8Choice }

// int8Choice says whether they are, and why.
type int8Choice struct {
	on  bool
	why string
}

// of is what was chosen for m rows of x.
func (p *int8Products) of(m int) *int8Choice {
	if m <= thin {
		return &p.few
	}
	return &p.many
}

// level are the parts of a level that say it.
func (p *int8Products) level() (parts string) {
	if p.few.on {
		parts += "+" + int8Few
	}
	if p.many.on {
		parts += "+" + int8Many
	}
	return parts
}

const int8Few, int8Many = "int8few", "int8"

// chooseInt8 decides about them: by the environment, by what an earlier run had (its level), or by speed.
func (c *CUDA) chooseInt8(earlier string) error {
	asked := os.Getenv(Int8Variable)
	if !slices.Contains([]string{"", "auto", "0", "1"}, asked) {
		return fail.Usagef("device", "unset it to let the program choose", "%s=%s: known are 0, 1 and auto", Int8Variable, asked)
	}
	if asked == "0" {
		c.int8.few.why, c.int8.many.why = Int8Variable+"=0", Int8Variable+"=0"
		return nil
	}
	defer c.ResetCounters() // what it takes to choose is nobody's peak
	var now int8Products    // none is on while another is chosen
	for _, x := range []struct {
		to   *int8Choice
		m    int
		part string
	}{{&now.few, thin, int8Few}, {&now.many, probeInt8.m, int8Many}} {
		var err error
		if *x.to, err = c.chooseRows(x.m, x.part, asked, strings.Split(earlier, "+")); err != nil {
			return err
		}
	}
	c.int8 = now
	return nil
}

// chooseRows decides about m rows of x.
func (c *CUDA) chooseRows(m int, part, asked string, before []string) (int8Choice, error) {
	begun := before[0] == c.architecture() && asked != "1"
	with := begun && slices.Contains(before, part)
	if begun && !with {
		return int8Choice{why: "this run was begun without"}, nil
	}
	const without = "set " + Int8Variable + "=0, which computes without them: what the run has made with them is then made again"
	times := 0.0
	err := c.hasClock()
	if err == nil || with || asked == "1" {
		err = c.proveInt8(m)
	}
	if err == nil && !with && asked != "1" {
		times, err = c.compareInt8(m)
	}
	switch lost := c.lost(); {
	case lost != nil:
		return int8Choice{}, fail.Limitf(c.name, without, "products of int8 were tried: %w", lost)
	case err != nil && (asked == "1" || with):
		return int8Choice{}, fail.Limitf(c.name, without, "products of int8: %w", err)
	case err != nil:
		return int8Choice{why: err.Error()}, nil
	case asked == "1":
		return int8Choice{true, Int8Variable + "=1"}, nil
	case with:
		return int8Choice{true, "this run was begun with it"}, nil
	case times > clearlyFaster:
		return int8Choice{true, fmt.Sprintf("%.2f times as fast as without; %s=0 turns it off", times, Int8Variable)}, nil
	}
	return int8Choice{why: fmt.Sprintf("%.2f times as fast as without, more than %.1f is needed; %s=1 takes it", times, clearlyFaster, Int8Variable)}, nil
}

// describeInt8 says whether answers are computed so.
func (c *CUDA) describeInt8() string {
	say := func(rows string, x int8Choice) string {
		if x.on {
			return ", products of " + rows + " rows of answers with quantized weights by int8 (" + x.why + ")"
		}
		return ", none of " + rows + " rows by int8 (" + x.why + ")"
	}
	return say("few", c.int8.few) + say("many", c.int8.many)
}

// hasClock returns an error where the device cannot measure time.
func (c *CUDA) hasClock() error {
	b, err := c.Alloc(kernels.Scratch, dtype.Of(dtype.F32), 1<<10)
	if err != nil {
		return err
	}
	defer c.Free(b)
	ms, err := c.elapsed(1, func() { c.Fill(b, 0) })
	if err == nil && ms <= 0 {
		err = errors.New("the device has no clock")
	}
	return err
}

// int8Kernel is the part of the name of the kernels of int8.cu for m rows of x and weights of type t in k columns; "" where
// there are none. The scale of a weight is that of 32 columns and more, its number one of 8 bits. Up to four rows are a tile of
// the kernels of thin.cu, which read the weights once, too.
func int8Kernel(t dtype.Type, m, k int) string {
	switch {
	case m <= 4 || k == 0 || k%32 != 0 || t.Flags&dtype.Perm != 0:
		return ""
	case t.Grouped() && (t.Group > 0 && (t.Group < 32 || t.Group&(t.Group-1) != 0) || !slices.Contains([]dtype.Kind{dtype.F32, dtype.BF16, dtype.F16}, t.Scale)):
		return ""
	case t.Kind == dtype.Int8 && t.Flags&dtype.Zero != 0, t.Kind == dtype.Q4_K && k%256 != 0:
		return ""
	}
	return map[dtype.Kind]string{dtype.Int4: "int4", dtype.Int8: "int8", dtype.Q8_0: "q8_0", dtype.Q4_0: "q4_0", dtype.Q4_1: "q4_1", dtype.Q4_K: "q4_k"}[t.Kind]
}

// round8Args is Round8Args of int8.cu.
type round8Args struct {
	m                   mat
	codes, scales, sums driver.Ptr
	stride              int64
	cols, _             int32
}

// int8Args is Int8Args of int8.cu.
type int8Args struct {
	p            mmaArgs
	w            mat
	scales, sums driver.Ptr
	stride       int64
	shift, _     int32
}

// round8Bytes is the bytes of m rows of k columns that were rounded to 8 bits, with a scale and a sum for every 32.
func round8Bytes(m, k int) int { return m*k + 2*4*m*(k/32) }

// multiply8 computes a product of parts by the kernels that name is of (int8Kernel).
func (c *CUDA) multiply8(g *gemmArgs, name string, parts int) {
	m, k := int(g.m), int(g.k)
	b := c.scratch(dtype.U8, round8Bytes(m, k))
	defer c.Free(b)
	codes := ptr(b)
	scales := codes + driver.Ptr(m*k)
	sums := scales + driver.Ptr(4*m*(k/32))
	const each = 4 // columns a thread
	threads := min(roundUp(k/each, 32), 256)
	launch(c, "to_int8", driver.Dim{X: uint32(m), Y: blocksOf(k/each, threads), Z: 1}, driver.Dim{X: uint32(threads), Y: 1, Z: 1}, 0,
		&round8Args{m: g.a, codes: codes, scales: scales, sums: sums, stride: int64(m), cols: g.k})
	a := &int8Args{w: g.b, scales: scales, sums: sums, stride: int64(m), shift: 31, p: mmaArgs{a: codes, lda: g.k, c: g.c, bias: g.bias, group: g.group,
		bStep: g.bStep, cStep: g.cStep, biasStep: g.biasStep, m: g.m, n: g.n, k: g.k, split: g.split, alpha: g.alpha}}
	if g.b.group > 0 {
		a.shift = int32(bits.TrailingZeros32(uint32(g.b.group)))
	}
	if m <= thin {
		launch(c, "int8_"+name+"_few", driver.Dim{X: blocksOf(int(g.n), 32), Y: 1, Z: uint32(parts)}, driver.Dim{X: 256, Y: 1, Z: 1}, 0, a)
		return
	}
	tile := mmaTile(m, int(g.n), parts)
	launch(c, fmt.Sprintf("int8_%s_%d", name, tile), driver.Dim{X: blocksOf(int(g.n), tile), Y: blocksOf(m, tile), Z: uint32(parts)}, driver.Dim{X: uint32(2 * tile), Y: 1, Z: 1}, 0, a)
}

// wholeWeights are rows of weights of 8 bits, numbers with the scale 1 for every group of 32.
func (c *CUDA) wholeWeights(rows, cols int, number func(i int) int) (kernels.Mat, error) {
	t := dtype.Type{Kind: dtype.Int8, Group: 32}
	raw, planes := make([]byte, dtype.Size(t, rows, cols)), dtype.Planes(t, rows, cols)
	for i := range rows * cols {
		raw[planes[dtype.Codes].Off+i] = byte(number(i) + 128)
	}
	for at := planes[dtype.Scales].Off; at < planes[dtype.Scales].Off+planes[dtype.Scales].Len; at += 4 {
		binary.LittleEndian.PutUint32(raw[at:], math.Float32bits(1))
	}
	return c.Load(kernels.Weights, t, rows, cols, raw, kernels.Copy)
}

// useInt8 takes them, or not, until what it returns is called.
func (c *CUDA) useInt8(on bool) (back func()) {
	was := c.int8
	c.int8.few.on, c.int8.many.on = on, on
	return func() { c.int8 = was }
}

// proveInt8 multiplies m rows of whole numbers, of which x has 127 in every 32 columns and is not rounded, and returns an error unless
// each sum is what it must be.
func (c *CUDA) proveInt8(m int) error {
	const n, k = 40, 160
	m = min(m, 72)
	x := func(i int) float32 {
		if i%32 == 5 {
			return -127
		}
		return float32(i*i%251 - 125)
	}
	number := func(i int) int { return i*i%255 - 128 }
	w, err := c.wholeWeights(n, k, number)
	if err != nil {
		return err
	}
	defer c.Free(w.Buffer)
	values, got := make([]float32, m*k), make([]float32, m*n)
	for i := range values {
		values[i] = x(i)
	}
	var bufs [2]kernels.Buffer
	for i, v := range [][]float32{values, got} {
		b, err := c.Alloc(kernels.Scratch, dtype.Of(dtype.F32), len(v))
		if err != nil {
			return err
		}
		defer c.Free(b)
		c.Upload(b, kernels.Bytes(v))
		bufs[i] = b
	}
	defer c.useInt8(true)()
	err = c.Run(func() error {
		c.Linear(kernels.To(bufs[1]), &kernels.LinearArgs{N: m, X: bufs[0], W: w, Fast: true})
		return c.Download(kernels.Bytes(got), bufs[1])
	})
	if err != nil {
		return err
	}
	for i, v := range got {
		want := 0
		for j := range k {
			want += int(x(i/n*k+j)) * number(i%n*k+j)
		}
		if v != float32(want) {
			return fmt.Errorf("int8 computes wrong: element %d,%d is %v, not %d", i/n, i%n, v, want)
		}
	}
	return nil
}

// probeInt8 is the product by which those of many rows are compared: rows, and the sides of weights, which those of few have, too.
var probeInt8 = struct{ m, n, k int }{2048, 4096, 4096}

// compareInt8 is how many times as fast as products without it those of m rows are.
func (c *CUDA) compareInt8(m int) (float64, error) {
	defer c.useInt8(false)()
	return c.measure(fmt.Sprintf("%s\n%s of %d rows", c.level(), int8Many, m), func() (best [2]float64, err error) {
		n, k := probeInt8.n, probeInt8.k
		w, err := c.wholeWeights(n, k, func(i int) int { return i%255 - 127 })
		if err != nil {
			return best, err
		}
		defer c.Free(w.Buffer)
		var bufs [2]kernels.Buffer
		for i, size := range []int{m * k, m * n} {
			if bufs[i], err = c.Alloc(kernels.Scratch, dtype.Of(dtype.BF16), size); err != nil {
				return best, err
			}
			defer c.Free(bufs[i])
			c.Fill(bufs[i], 0.5)
		}
		return c.turns(func(i int) { c.useInt8(i == 1) }, func() {
			c.Linear(kernels.To(bufs[1]), &kernels.LinearArgs{N: m, X: bufs[0], W: w, Fast: true})
		})
	})
}
