package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/cuda/ptxsim"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// faulty is a device whose code was changed before it was loaded.
type faulty struct {
	*ptxsim.Sim
	kernel  string // whose text is changed
	change  func(code string) string
	changed bool
}

func (f *faulty) Load(ptx []byte) (driver.Module, error) {
	text := string(ptx)
	if i := strings.Index(text, ".entry "+f.kernel+"("); i >= 0 {
		end := i + strings.Index(text[i:], "\n}")
		code := f.change(text[i:end])
		f.changed = code != text[i:end]
		text = text[:i] + code + text[end:]
	}
	return f.Sim.Load([]byte(text))
}

// without drops occurrence n (from 0) of what matches; -1: all.
func without(pattern string, n int) func(string) string { return instead(pattern, "", n) }

// instead replaces occurrence n of what matches; -1: all.
func instead(pattern, with string, n int) func(string) string {
	re := regexp.MustCompile(pattern)
	return func(s string) string {
		i := -1
		return re.ReplaceAllStringFunc(s, func(m string) string {
			if i++; n < 0 || i == n {
				return re.ReplaceAllString(m, with)
			}
			return m
		})
	}
}

// product runs a product with a second pair, of bf16 and of what is made so, with
// tails in every direction, and returns its error, or says where it is wrong.
func product(c *CUDA) error { return productOf(c, 66, 70, 104, 24) }

// groupProduct is a product of warpgroups: a tile with tails, more steps along the sum than there is room for.
func groupProduct(c *CUDA) error {
	defer func(n int) { busy = n }(busy)
	busy = 1
	return productOf(c, 70, 140, 408, 24)
}

// tf32Product is product of f32 in tf32.
func tf32Product(c *CUDA) error {
	c.tf32 = true
	return product(c)
}

func productOf(c *CUDA, m, n, k, k2 int) error {
	rng := rand.New(rand.NewPCG(7, 8))
	some := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.IntN(9) - 4)
		}
		return x
	}
	x, y, u, v := some(m*k), some(n*k), some(m*k2), some(n*k2)
	got := make([]float32, m*n)
	err := c.Run(func() error {
		var w [2]kernels.Mat
		var b [3]kernels.Buffer
		for i, data := range [][]float32{y, v} {
			var err error
			if w[i], err = c.Load(kernels.Weights, dtype.Of(dtype.F32), n, len(data)/n, kernels.Bytes(data), kernels.Copy); err != nil {
				return err
			}
		}
		for i, size := range []int{m * k, m * k2, m * n} {
			kind := []dtype.Kind{dtype.BF16, dtype.F32, dtype.F32}[i]
			var err error
			if b[i], err = c.Alloc(kernels.Activations, dtype.Of(kind), size); err != nil {
				return err
			}
		}
		raw := make([]byte, 2*len(x))
		block.PutBF16(raw, x)
		c.Upload(b[0], raw)
		c.Upload(b[1], kernels.Bytes(u))
		yb := b[2]
		c.Linear(kernels.To(yb), &kernels.LinearArgs{N: m, X: b[0], W: w[0], U: b[1], B: w[1], BF16: !c.tf32})
		return c.Download(kernels.Bytes(got), yb)
	})
	if err != nil {
		return err
	}
	for i := range m {
		for j := range n {
			var want float64
			for p := range k {
				want += float64(x[i*k+p] * y[j*k+p])
			}
			for p := range k2 {
				want += float64(u[i*k2+p] * v[j*k2+p])
			}
			if d := math.Abs(float64(got[i*n+j]) - want); !(d < 1e-3) {
				return fmt.Errorf("wrong: element %d,%d is %v, want %v", i, j, got[i*n+j], want)
			}
		}
	}
	return nil
}

// int8Product runs products of x rounded to 8 bits with int4 and Q4_K, with tails in every direction.
func int8Product(c *CUDA) error {
	rng := rand.New(rand.NewPCG(7, 9))
	c.useInt8(true)
	for _, s := range []struct {
		t       dtype.Type
		m, n, k int
	}{{dtype.Type{Kind: dtype.Int4, Group: 32, Flags: dtype.Zero}, 66, 70, 160}, {dtype.Of(dtype.Q4_K), 17, 9, 256}, {dtype.Type{Kind: dtype.Int4, Group: 32, Flags: dtype.Zero}, 13, 41, 864}} {
		raw, w, err := thinWeight(rng, s.t, s.n, s.k)
		if err != nil {
			return err
		}
		x, got := normals(rng, s.m*s.k), make([]float32, s.m*s.n)
		for i := range x {
			x[i] *= float32(1 + i/s.k%7) // a scale of its own for each row
		}
		err = c.Run(func() error {
			m, err := c.Load(kernels.Weights, s.t, s.n, s.k, raw.Data, kernels.Copy)
			if err != nil {
				return err
			}
			var b [2]kernels.Buffer
			for i, v := range [][]float32{x, got} {
				if b[i], err = c.Alloc(kernels.Activations, dtype.Of(dtype.F32), len(v)); err != nil {
					return err
				}
				c.Upload(b[i], kernels.Bytes(v))
			}
			c.Linear(kernels.To(b[1]), &kernels.LinearArgs{N: s.m, X: b[0], W: m, Fast: true})
			return c.Download(kernels.Bytes(got), b[1])
		})
		if err != nil {
			return err
		}
		xr := round8(x)
		for i, v := range got {
			var want float64
			for p := range s.k {
				want += xr[i/s.n*s.k+p] * float64(w[i%s.n*s.k+p])
			}
			if d := math.Abs(float64(v) - want); !(d < 1e-3) {
				return fmt.Errorf("wrong: %v: element %d,%d is %v, want %v", s.t, i/s.n, i%s.n, v, want)
			}
		}
	}
	return nil
}

// thinProduct runs products of one row with NF4 and Q8_0, more columns than lie in shared
// memory at once, the sum in slices.
func thinProduct(c *CUDA) error {
	const n, k = 9, 6144
	rng := rand.New(rand.NewPCG(9, 10))
	x := make([]float32, k)
	for i := range x {
		x[i] = float32(rng.IntN(9) - 4)
	}
	for _, t := range []dtype.Type{nf4, dtype.Of(dtype.Q8_0)} {
		raw, w, err := thinWeight(rng, t, n, k)
		if err != nil {
			return err
		}
		got := make([]float32, n)
		err = c.Run(func() error {
			m, err := c.Load(kernels.Weights, t, n, k, raw.Data, kernels.Copy)
			if err != nil {
				return err
			}
			xb, err := c.Alloc(kernels.Activations, dtype.Of(dtype.F32), k)
			if err != nil {
				return err
			}
			y, err := c.Alloc(kernels.Activations, dtype.Of(dtype.F32), n)
			if err != nil {
				return err
			}
			c.Upload(xb, kernels.Bytes(x))
			c.Linear(kernels.To(y), &kernels.LinearArgs{N: 1, X: xb, W: m})
			return c.Download(kernels.Bytes(got), y)
		})
		if err != nil {
			return err
		}
		for i, v := range got {
			var want float64
			for p := range k {
				want += float64(x[p]) * float64(w[i*k+p])
			}
			if !(math.Abs(float64(v)-want) < 1e-2) {
				return fmt.Errorf("wrong: %v: element %d is %v, want %v", t, i, v, want)
			}
		}
	}
	return nil
}

// softmax runs the loss of a few rows.
func softmax(c *CUDA) error {
	const n, v = 3, 70
	logits := make([]float32, n*v)
	for i := range logits {
		logits[i] = float32(i%13) / 4
	}
	got := make([]float32, n)
	err := c.Run(func() error {
		one := make([]float32, v*v)
		for i := range v {
			one[i*v+i] = 1
		}
		w, err := c.Load(kernels.Weights, dtype.Of(dtype.F32), v, v, kernels.Bytes(one), kernels.Copy)
		if err != nil {
			return err
		}
		var bufs []kernels.Buffer
		for _, data := range [][]byte{kernels.Bytes(logits), kernels.Bytes([]int32{1, 40, 69}), make([]byte, 4*n)} {
			k := dtype.F32
			if len(bufs) == 1 {
				k = dtype.I32
			}
			b, err := c.Alloc(kernels.Activations, dtype.Of(k), len(data)/4)
			if err != nil {
				return err
			}
			c.Upload(b, data)
			bufs = append(bufs, b)
		}
		c.LogProb(&kernels.LogProbOut{LogP: bufs[2]}, kernels.Dst{}, kernels.Dst{}, kernels.Dst{}, &kernels.LogProbArgs{N: n, X: bufs[0], W: w, Target: bufs[1]})
		return c.Download(kernels.Bytes(got), bufs[2])
	})
	if err != nil {
		return err
	}
	for i, t := range []int{1, 40, 69} {
		var sum float64
		for j := range v {
			sum += math.Exp(float64(logits[i*v+j]))
		}
		if want := float64(logits[i*v+t]) - math.Log(sum); !(math.Abs(float64(got[i])-want) < 1e-4) {
			return fmt.Errorf("wrong: log-probability %d is %v, want %v", i, got[i], want)
		}
	}
	return nil
}

// operands makes the buffers of a backend, the same numbers for every one.
type operands struct {
	kernels.Backend
	rng  *rand.Rand
	outs []kernels.Buffer
}

func (o *operands) buffer(k dtype.Kind, raw []byte) kernels.Buffer {
	b, err := o.Alloc(kernels.Activations, dtype.Of(k), len(raw)/4)
	if err != nil {
		panic(kernels.Failed{Err: err})
	}
	o.Upload(b, raw)
	return b
}

// some are n numbers between -1 and 1.
func (o *operands) some(n int) kernels.Buffer {
	x := make([]float32, n)
	for i := range x {
		x[i] = 2*o.rng.Float32() - 1
	}
	return o.buffer(dtype.F32, kernels.Bytes(x))
}

func (o *operands) ints(x ...int32) kernels.Buffer { return o.buffer(dtype.I32, kernels.Bytes(x)) }

// out is a result of n numbers.
func (o *operands) out(n int) kernels.Dst {
	o.outs = append(o.outs, o.some(n))
	return kernels.To(o.outs[len(o.outs)-1])
}

// heads are n tokens of h heads of d numbers; with an out they are a result.
func (o *operands) heads(n, h, d int, out bool) kernels.Heads {
	b := o.some(n * h * d)
	if out {
		o.outs = append(o.outs, b)
	}
	return kernels.Heads{Buffer: b, Tok: h * d, Head: d}
}

// beside runs what call asks for on the device and on the processor, and says where
// a result is another.
func beside(call func(o *operands)) func(*CUDA) error {
	results := func(b kernels.Backend) (out [][]float32, err error) {
		o := &operands{Backend: b, rng: rand.New(rand.NewPCG(9, 10))}
		err = b.Run(func() error {
			call(o)
			for _, x := range o.outs {
				v := make([]float32, x.Len())
				if err := b.Download(kernels.Bytes(v), x); err != nil {
					return err
				}
				out = append(out, v)
			}
			return nil
		})
		return out, err
	}
	return func(c *CUDA) error {
		got, err := results(c)
		if err != nil {
			return err
		}
		host := cpu.New(cpu.Options{})
		defer host.Close()
		want, err := results(host)
		if err != nil {
			return err
		}
		for i := range want {
			for j, w := range want[i] {
				if d := math.Abs(float64(got[i][j] - w)); !(d < 1e-4*(1+math.Abs(float64(w)))) {
					return fmt.Errorf("wrong: element %d of result %d is %v, want %v", j, i, got[i][j], w)
				}
			}
		}
		return nil
	}
}

var (
	convolved = beside(func(o *operands) {
		const n, c = 300, 3
		a := &kernels.ConvArgs{N: n, C: c, Taps: 4, X: o.some(n * c), W: o.some(4 * c), Seq: o.ints(0, 7, n), SiLU: true}
		o.Conv1D(o.out(n*c), a)
		o.Conv1DBackward(o.out(n*c), o.out(4*c), kernels.Dst{}, o.some(n*c), a)
	})
	deltas = beside(func(o *operands) {
		const n, h, d = 40, 2, 33
		q, k, v := o.heads(n, 1, d, false), o.heads(n, 1, d, false), o.heads(n, h, d, false)
		a := &kernels.DeltaArgs{N: n, H: h, K: 1, Dk: d, Dv: d, Seq: o.ints(0, 36, n), Gate: o.some(n * h), Beta: o.some(n * h), ALog: o.some(h), KeyScale: 0.2}
		o.DeltaScan(o.heads(n, h, d, true), q, k, v, a)
		g := &kernels.DeltaGrads{Q: o.heads(n, 1, d, true), K: o.heads(n, 1, d, true), V: o.heads(n, h, d, true), Gate: o.out(n * h), Beta: o.out(n * h), ALog: o.out(h)}
		o.DeltaScanBackward(g, o.heads(n, h, d, false), q, k, v, a)
	})
	selective = beside(func(o *operands) {
		const n, h, p, s = 40, 3, 3, 6
		x, b, c := o.heads(n, h, p, false), o.heads(n, 1, s, false), o.heads(n, 1, s, false)
		a := &kernels.SSMArgs{N: n, H: h, P: p, G: 1, S: s, Seq: o.ints(0, 36, n), Dt: o.some(n * h), ALog: o.some(h)}
		o.SSMScan(o.heads(n, h, p, true), x, b, c, a)
		g := &kernels.SSMGrads{X: o.heads(n, h, p, true), B: o.heads(n, 1, s, true), C: o.heads(n, 1, s, true), Dt: o.out(n * h), ALog: o.out(h)}
		o.SSMScanBackward(g, o.heads(n, h, p, false), x, b, c, a)
	})
	balanced = beside(func(o *operands) {
		const n, s = 3, 3
		a := &kernels.SinkhornArgs{N: n, S: s, Iters: 2, X: o.some(n * s * s), Eps: 0.1}
		o.Sinkhorn(o.out(n*s*s), a)
		o.SinkhornBackward(o.out(n*s*s), o.some(n*s*s), a)
	})
	factored = beside(func(o *operands) {
		const n = 250 // two blocks, the second with a tail
		if err := o.Factor(o.out(n*n).Buffer, o.buffer(dtype.F32, kernels.Bytes(hessian(o.rng, n))), n, 0.01); err != nil {
			panic(kernels.Failed{Err: err})
		}
	})
	blocked = beside(func(o *operands) {
		const rows, cols = 37, 70
		u, scale, zero := make([]float32, cols*cols), make([]float32, rows*cols), make([]float32, rows*cols)
		for i := range u {
			u[i] = o.rng.Float32() - 0.5
			if i%(cols+1) == 0 {
				u[i] += 3
			}
		}
		for i := range scale {
			scale[i], zero[i] = 0.1+o.rng.Float32(), float32(o.rng.IntN(16))
		}
		codes, err := o.Alloc(kernels.Activations, dtype.Of(dtype.U8), rows*cols)
		if err != nil {
			panic(kernels.Failed{Err: err})
		}
		f32 := func(x []float32) kernels.Buffer { return o.buffer(dtype.F32, kernels.Bytes(x)) }
		o.GPTQBlock(&kernels.GPTQArgs{Rows: rows, Cols: cols, W: o.out(rows * cols).Buffer, Err: o.out(rows * cols).Buffer, U: f32(u), Codes: codes, Scale: f32(scale), Zero: f32(zero), MaxCode: 15})
	})
	diverged = beside(func(o *operands) {
		const n, v = 2, 300
		a := &kernels.DivergenceArgs{N: n, V: v, Logits: o.some(n * v), Top: 2, TopIDs: o.ints(5, 299, 0, 31), TopLogP: o.buffer(dtype.F32, kernels.Bytes([]float32{-1, -2, -1, -3})), Coef: o.some(n), Beta: 0.5}
		o.Divergence(&kernels.DivergenceOut{Loss: o.out(n).Buffer, Entropy: o.out(n).Buffer}, o.out(n*v), a)
	})
)

// TestMutations: a fault that is planted in a kernel is an error, or a wrong result,
// in what runs it; and without the fault there is none.
func TestMutations(t *testing.T) {
	attention := func(c *CUDA) error {
		return (&flashCase{seq: []int32{0, 6, 80}, h: 1, k: 1, d: 48, window: 70, sinks: true}).compare(t, c)
	}
	for _, c := range []struct {
		name, kernel string
		run          func(*CUDA) error
		change       func(string) string
	}{
		{"groups: swizzle of 64 bytes", "wgmma_nt_bf16", groupProduct, instead(`4611686293305360384`, "9223372311732748288", 1)},
		{"groups: no swizzle", "wgmma_nt_bf16", groupProduct, instead(`4611686293305360384`, "274877972480", 0)},
		{"groups: eight rows too near", "wgmma_nt_bf16", groupProduct, instead(`4611686293305360384`, "4611686155866406912", 0)},
		{"groups: the next 16 too far", "wgmma_nt_bf16", groupProduct, instead(`(add\.s64\s+%rd\d+, %rd\d+), 2;`, "$1, 4;", 0)},
		{"groups: B turned", "wgmma_nt_bf16", groupProduct, instead(`1, 1, 0, 0;`, "1, 1, 0, 1;", 2)},
		{"groups: the first product sets the sums", "wgmma_nt_bf16", groupProduct, instead(`setp\.ne\.b32 %on, 1, 0;`, "setp.ne.b32 %on, 0, 0;", 0)},
		{"groups: copies not shown", "wgmma_nt_bf16", groupProduct, without(`fence\.proxy\.async;`, 0)},
		{"groups: registers not fenced", "wgmma_nt_bf16", groupProduct, without(`wgmma\.fence\.sync\.aligned;`, 0)},
		{"groups: a wait for one product fewer", "wgmma_nt_bf16", groupProduct, instead(`wgmma\.wait_group\.sync\.aligned 1;`, "wgmma.wait_group.sync.aligned 2;", 0)},
		{"groups: the last products not awaited", "wgmma_nt_bf16", groupProduct, without(`wgmma\.wait_group\.sync\.aligned 0;`, 0)},
		{"groups: products not closed", "wgmma_nt_bf16", groupProduct, without(`wgmma\.commit_group\.sync\.aligned;`, 0)},
		{"groups: copies into the next room", "wgmma_nt_bf16", groupProduct, instead(`(mov\.u32\s+%r\d+), 98304;`, "$1, 147456;", 0)},
		{"groups: copies into what is multiplied", "wgmma_nt_bf16", groupProduct, instead(`(mov\.u32\s+%r\d+), 98304;`, "$1, 0;", 0)},
		{"groups: one room fewer", "wgmma_nt_bf16", groupProduct, instead(`(setp\.eq\.s32\s+%p\d+, %r\d+), 147456;`, "$1, 98304;", -1)},
		{"groups: a wait for one copy fewer", "wgmma_nt_bf16", groupProduct, instead(`cp\.async\.wait_group 1;`, "cp.async.wait_group 2;", 0)},
		{"groups: barrier of the steps removed", "wgmma_nt_bf16", groupProduct, without(`bar\.sync\s+0;`, 1)},
		{"groups: rows past the end not masked", "wgmma_nt_bf16", groupProduct, instead(`(cp\.async\.cg[^;]*, 16,) %r\d+;`, "$1 16;", -1)},
		{"first barrier of a product removed", "mma_nt_bf16_64", product, without(`bar\.sync\s+0;`, 0)},
		{"barrier of the steps removed", "mma_nt_bf16_64", product, without(`bar\.sync\s+0;`, 1)},
		{"last barrier removed", "mma_nt_bf16_64", product, without(`bar\.sync\s+0;`, -1)},
		{"no wait for copies", "mma_nt_bf16_64", product, without(`cp\.async\.wait_group [01];`, -1)},
		{"a wait for one step fewer", "mma_nt_bf16_64", product, instead(`cp\.async\.wait_group 1;`, "cp.async.wait_group 2;", -1)},
		{"a commit missing", "mma_nt_bf16_64", product, without(`cp\.async\.commit_group;`, 0)},
		{"a copy missing", "mma_nt_bf16_64", product, without(`cp\.async\.cg[^;]*;`, 5)},
		{"tail of the sum not masked", "mma_nt_bf16_64", product, instead(`(cp\.async\.cg[^;]*, 16,) %r\d+;`, "$1 16;", -1)},
		{"fragments of A swapped", "mma_nt_bf16_64", product, instead(`(mma\.sync\S*\s*\{[^}]*\}, \{)(%r\d+),(%r\d+),`, "$1$3,$2,", 0)},
		{"fragments of B swapped", "mma_nt_bf16_64", product, instead(`(mma\.sync\S*\s*\{[^}]*\}, \{[^}]*\}, \{)(%r\d+),(%r\d+)`, "$1$3,$2", 3)},
		{"matrices transposed", "mma_nt_bf16_64", product, instead(`x4\.shared`, "x4.trans.shared", 2)},
		{"wrong stride of the result", "mma_nt_bf16_64", product, instead(`st\.global\.f32\s+\[(%rd\d+)\]`, "st.global.f32 [$1+4]", 0)},
		{"rows of the warp's tile not awaited", "mma_nt_bf16_64", product, without(`bar\.warp\.sync\s+\S+;`, -1)},
		{"tf32: fragments of A swapped", "mma_nt_tf32_64", tf32Product, instead(`(mma\.sync\S*\s*\{[^}]*\}, \{)(%r\d+),(%r\d+),`, "$1$3,$2,", 0)},
		{"tf32: fragments of B swapped", "mma_nt_tf32_64", tf32Product, instead(`(mma\.sync\S*\s*\{[^}]*\}, \{[^}]*\}, \{)(%r\d+),(%r\d+)`, "$1$3,$2", 3)},
		{"tf32: tail of the sum not masked", "mma_nt_tf32_64", tf32Product, instead(`(cp\.async\.cg[^;]*, 16,) %r\d+;`, "$1 16;", -1)},
		{"tf32: a copy missing", "mma_nt_tf32_64", tf32Product, without(`cp\.async\.cg[^;]*;`, 5)},
		{"tf32: columns past the end of an operand", "to_f32", tf32Product, instead(`st\.global\.f32\s+\[(%rd\d+)\]`, "st.global.f32 [$1+4]", 0)},
		{"int8: fragments of A swapped", "int8_int4_64", int8Product, instead(`(mma\.sync\S*\s*\{[^}]*\}, \{)(%r\d+),(%r\d+),`, "$1$3,$2,", 0)},
		{"int8: fragments of B swapped", "int8_int4_64", int8Product, instead(`(mma\.sync\S*\s*\{[^}]*\}, \{[^}]*\}, \{)(%r\d+),(%r\d+)`, "$1$3,$2", 3)},
		{"int8: tail of the rows not masked", "int8_int4_64", int8Product, instead(`(cp\.async\.cg[^;]*, 16,) %r\d+;`, "$1 16;", -1)},
		{"int8: tail of the sum multiplied", "int8_int4_64", int8Product, instead(`(selp\.f32\s+%f\d+, %f\d+, )0f00000000(, %p\d+;)`, "${1}0f7FC00000$2", 2)},
		{"int8: the scale of another row of x", "int8_int4_64", int8Product, instead(`(ld\.shared\.f32\s+%f\d+, \[%rd\d+)\+32\]`, "$1+36]", 0)},
		{"int8: the scale of another weight", "int8_int4_64", int8Product, instead(`ld\.shared\.v2\.f32 \{(%f\d+),(%f\d+)\}`, "ld.shared.v2.f32 {$2,$1}", 1)},
		{"int8: the scale of the first block for both", "int8_int4_64", int8Product, instead(`(st\.shared\.f32\s+\[%rd\d+)\]`, "$1+4]", 1)},
		{"int8: another zero point", "int8_int4_64", int8Product, instead(`(add\.s32\s+%r\d+, %r\d+, )-2139062144;`, "${1}-2139062143;", 9)},
		{"int8: columns of a word swapped", "int8_int4_64", int8Product, instead(`prmt\.b32(\s+%r\d+), (%r\d+), (%r\d+)`, "prmt.b32$1, $3, $2", 8)},
		{"int8: sums begin elsewhere", "int8_int4_64", int8Product, instead(`1262485504`, "1262485505", 0)},
		{"int8: first step not awaited", "int8_int4_64", int8Product, instead(`cp\.async\.wait_group 1;`, "cp.async.wait_group 2;", 0)},
		{"int8: barrier of the steps removed", "int8_int4_64", int8Product, without(`bar\.sync\s+0;`, 0)},
		{"int8: last barrier removed", "int8_int4_64", int8Product, without(`bar\.sync\s+0;`, -1)},
		{"int8: weights in the room of the step before", "int8_int4_64", int8Product, instead(`st\.shared\.v4\.u32 \[(%r\d+)\]`, "st.shared.v4.u32 [$1+16]", 2)},
		{"int8: few rows, fragments of A swapped", "int8_int4_few", int8Product, instead(`(mma\.sync\S*\s*\{[^}]*\}, \{)(%r\d+),(%r\d+),`, "$1$3,$2,", 0)},
		{"int8: few rows, the scale of another weight", "int8_int4_few", int8Product, instead(`ld\.shared\.v2\.f32 \{(%f\d+),(%f\d+)\}`, "ld.shared.v2.f32 {$2,$1}", 1)},
		{"int8: few rows, barrier of the steps removed", "int8_int4_few", int8Product, without(`bar\.sync\s+0;`, 0)},
		{"int8: few rows, last step not awaited", "int8_int4_few", int8Product, without(`bar\.sync\s+0;`, 1)},
		{"int8: few rows, sums not awaited", "int8_int4_few", int8Product, without(`bar\.sync\s+0;`, 2)},
		{"int8: few rows, tail of the sum multiplied", "int8_int4_few", int8Product, instead(`(selp\.f32\s+%f\d+, %f\d+, )0f00000000(, %p\d+;)`, "${1}0f7FC00000$2", -1)},
		{"int8: few rows, steps of another slice", "int8_int4_few", int8Product, instead(`(add\.s32\s+%r\d+, %r\d+), 8;`, "$1, 6;", -1)},
		{"int8: lows left out", "int8_q4_k_64", int8Product, instead(`neg\.f32`, "mov.f32", -1)},
		{"int8: the low of another weight", "int8_q4_k_64", int8Product, instead(`ld\.shared\.v2\.f32 \{(%f\d+),(%f\d+)\}`, "ld.shared.v2.f32 {$2,$1}", 1)},
		{"int8: the largest of 16 columns", "to_int8", int8Product, instead(`(shfl\.sync\.bfly\.b32\s+%r\d+\|%p\d+, %r\d+, )%r\d+,`, "${1}8,", 0)},
		{"int8: the sum of other columns", "to_int8", int8Product, instead(`(shfl\.sync\.bfly\.b32\s+%r\d+\|%p\d+, %r\d+, )%r\d+,`, "${1}8,", 3)},
		{"int8: rounded to zero", "to_int8", int8Product, instead(`cvt\.rni\.s32`, "cvt.rzi.s32", 2)},
		{"pairs the wrong way round", "to_half", product, instead(`(cvt\.rn\.bf16x2\.f32 %r\d+, )(%f\d+), (%f\d+);`, "$1$3, $2;", 0)},
		{"product truncated", "to_half", product, instead(`st\.global\.v4\.u32\s+\[(%rd\d+)\]`, "st.global.v4.u32 [$1+16]", 0)},
		{"code book not awaited", "to_half", product, instead(`bar\.sync\s+0;`, "mov.u32 %r1, 0;", 0)},
		{"columns of few rows not awaited", "thin_book_1", thinProduct, without(`bar\.sync\s+0;`, 1)},
		{"columns of few rows overwritten", "thin_book_1", thinProduct, without(`bar\.sync\s+0;`, 0)},
		{"slices of a sum not awaited", "thin_q8_0_1", thinProduct, without(`bar\.sync\s+0;`, 3)},
		{"a code too narrow", "thin_q8_0_1", thinProduct, instead(`8355840, 1065353216`, "4161536, 1065353216", 3)},
		{"lanes share too little", "thin_q8_0_1", thinProduct, instead(`(shfl\.sync\.bfly\.b32\s+%r\d+\|%p\d+, %r\d+, )%r\d+,`, "${1}4,", 0)},
		{"keys overwritten while they are read", "flash_64", attention, without(`bar\.sync\s+0;`, 2)},
		{"values overwritten while they are read", "flash_64", attention, without(`bar\.sync\s+0;`, 0)},
		{"keys not awaited", "flash_64", attention, instead(`cp\.async\.wait_group 1;`, "cp.async.wait_group 2;", 0)},
		{"values not awaited", "flash_64", attention, instead(`cp\.async\.wait_group 1;`, "cp.async.wait_group 2;", 1)},
		{"scores not masked", "flash_64", attention, instead(`selp\.f32\s+(%f\d+), 0fFF800000, (%f\d+), %p\d+;|selp\.f32\s+(%f\d+), (%f\d+), 0fFF800000, %p\d+;`, "mov.f32 $1$3, $2$4;", 9)},
		{"fragments of weights swapped", "flash_64", attention, instead(`(cvt\.rn\.bf16x2\.f32 %r\d+, )(%f\d+), (%f\d+);`, "$1$3, $2;", 2)},
		{"sums over too few lanes", "flash_64", attention, instead(`(shfl\.sync\.bfly\.b32\s+%r\d+\|%p\d+, %r\d+, %r\d+, )%r\d+,`, "${1}0,", 1)},
		{"gradients of queries: stage not awaited", "flash_grad_q_64", attention, without(`cp\.async\.wait_group 0;`, 0)},
		{"gradients of queries: fragments swapped", "flash_grad_q_64", attention, instead(`(mma\.sync\S*\s*\{[^}]*\}, \{[^}]*\}, \{)(%r\d+),(%r\d+)`, "$1$3,$2", 66)},
		{"gradients of keys: barrier removed", "flash_grad_kv_64", attention, without(`bar\.sync\s+0;`, 0)},
		{"gradients of keys: matrices transposed", "flash_grad_kv_64", attention, instead(`x4\.trans\.shared`, "x4.shared", 2)},
		{"gradients of keys: a product missing", "flash_grad_kv_64", attention, without(`mma\.sync[^;]*;`, 40)},
		{"barriers of a reduction removed", "logprob", softmax, without(`bar\.sync\s+0;`, -1)},
		{"one barrier of a reduction removed", "logprob", softmax, without(`bar\.sync\s+0;`, 1)},
		{"a lane of a reduction left out", "logprob", softmax, instead(`(shfl\.sync\.bfly\.b32\s+%r\d+\|%p\d+, %r\d+, )%r\d+,`, "${1}8,", 10)},
		{"mask of a shuffle too small", "logprob", softmax, instead(`(shfl\.sync\.bfly\.b32[^;]*, )\S+;`, "${1}65535;", 1)},
		{"sequences not told apart", "conv", convolved, instead(`(setp\.gt\.s64\s+%p\d+, %rd\d+), -1;`, "$1, -9;", -1)},
		{"tokens past the first block left out", "conv_fold", convolved, instead(`(add\.s64\s+%rd\d+, %rd\d+), 256;`, "$1, 512;", 0)},
		{"columns: first barrier removed", "delta_scan_64", deltas, without(`bar\.sync\s+0;`, 0)},
		{"columns: last barrier removed", "delta_back_cols_64", deltas, without(`bar\.sync\s+0;`, -1)},
		{"half of a column not added", "delta_scan_64", deltas, instead(`(shfl\.sync\.bfly\.b32\s+%r\d+\|%p\d+, %r\d+, )%r\d+,`, "${1}8,", 0)},
		{"a state one number further", "delta_back_rows", deltas, instead(`st\.shared\.f32\s+\[(%rd\d+)\]`, "st.shared.f32 [$1+4]", 0)},
		{"rows of a warp added together", "ssm_scan", selective, instead(`(shfl\.sync\.bfly\.b32\s+%r\d+\|%p\d+, %r\d+, )%r\d+,`, "${1}16,", 0)},
		{"states of the tokens before", "ssm_back_rows", selective, instead(`st\.shared\.f32\s+\[(%rd\d+)\]`, "st.shared.f32 [$1+128]", 0)},
		{"columns twice and rows never", "sinkhorn", balanced, instead(`and\.b32(\s+%r\d+, %r\d+), 1;`, "or.b32$1, 1;", 1)},
		{"rows in the place of columns", "sinkhorn_grad", balanced, instead(`and\.b32(\s+%r\d+, %r\d+), 1;`, "and.b32$1, 2;", 1)},
		{"factor: nothing behind the last column", "factor_copy", factored, instead(`0f3F800000`, "0f00000000", 0)},
		{"factor: columns turned one too far", "factor_copy", factored, instead(`(add\.s32\s+%r\d+, %r\d+), -1;`, "$1, -2;", 0)},
		{"factor: a column not awaited", "factor_diagonal", factored, without(`bar\.sync\s+0;`, 3)},
		{"factor: a column in the room of the last", "factor_diagonal", factored, instead(`\+51[26]\]`, "]", -1)},
		{"factor: a row that goes on as Cholesky's", "factor_diagonal", factored, instead(`selp\.f32\s+(%f\d+), (%f\d+), 0f00000000, %p7;`, "mov.f32 $1, $2;", 3)},
		{"factor: columns that are done go on", "factor_diagonal", factored, instead(`setp\.lt\.u32\s+%p10, `, "setp.gt.u32 %p10, ", 0)},
		{"factor: block on the diagonal multiplied", "factor_panel", factored, instead(`setp\.ge\.u32(\s+%p1,)`, "setp.gt.u32$1", 0)},
		{"factor: rows not awaited", "factor_panel", factored, instead(`cp\.async\.wait_group 1;`, "cp.async.wait_group 2;", 0)},
		{"factor: rows not shown to all", "factor_update", factored, without(`bar\.sync\s+0;`, 0)},
		{"factor: rows overwritten while they are read", "factor_update", factored, without(`bar\.sync\s+0;`, 1)},
		{"factor: a copy missing", "factor_update", factored, without(`cp\.async\.cg[^;]*;`, 6)},
		{"factor: the column after the next", "factor_update", factored, instead(`(add\.s32\s+%r2, %r\d+), 1;`, "$1, 0;", 0)},
		{"factor: an operand's pair swapped", "factor_update", factored, instead(`(ld\.shared\.v4\.f32\s+\{)(%f\d+), (%f\d+),`, "$1$3, $2,", 9)},
		{"factor: tail of the result not masked", "factor_store", factored, instead(`setp\.ge\.s32\s+(%p7, %r\d+), %r\d+;`, "setp.eq.s32 $1, -1;", 0)},
		{"factor: result not turned", "factor_store", factored, instead(`mul\.wide\.u32(\s+%rd36, %r\d+), 132;`, "mul.wide.u32$1, 128;", 0)},
		{"GPTQ: the error of another row", "gptq_block", blocked, instead(`(shfl\.sync\.idx\.b32\s+%r\d+\|%p\d+, %r\d+, )%r\d+,`, "${1}0,", 2)},
		{"GPTQ: columns before, not behind", "gptq_block", blocked, instead(`setp\.gt\.u32(\s+%p\d+, %r\d+, %r\d+);`, "setp.lt.u32$1;", -1)},
		{"GPTQ: rows past the last", "gptq_block", blocked, instead(`setp\.lt\.s64(\s+%p\d+, %rd\d+), %rd\d+;`, "setp.ne.s64$1, -1;", 0)},
		{"GPTQ: rows past the last written", "gptq_block", blocked, instead(`setp\.ge\.s64(\s+%p\d+, %rd\d+), %rd\d+;`, "setp.eq.s64$1, -1;", 3)},
		{"GPTQ: columns in another lane", "gptq_block", blocked, instead(`(shr\.u32\s+%r\d+, %r\d+), 2;`, "$1, 1;", 0)},
		{"marks not awaited", "divergence", diverged, without(`bar\.sync\s+0;`, 30)},
		{"a mark of the wrong token", "divergence", diverged, instead(`st\.shared\.u32\s+\[(%rd\d+)\]`, "st.shared.u32 [$1+4]", -1)},
	} {
		for _, planted := range []bool{false, true} {
			f := &faulty{Sim: ptxsim.New(1 << 24), kernel: c.kernel, change: func(s string) string { return s }}
			if planted {
				f.change = c.change
			}
			dev, err := OpenOn("cuda:0", func() (driver.Driver, error) { return f, nil }, Options{})
			if err != nil {
				t.Fatal(err)
			}
			f.Hopper = strings.HasPrefix(c.kernel, "wgmma_") // now that nobody tries what is faulty
			dev.groups.on = f.Hopper
			err = c.run(dev)
			dev.Close()
			switch {
			case planted && !f.changed:
				t.Errorf("%s: there is nothing to change", c.name)
			case planted && err == nil:
				t.Errorf("%s: nobody noticed", c.name)
			case !planted && err != nil:
				t.Errorf("%s: %v without the fault", c.name, err)
			case planted && strings.Contains(err.Error(), "INVALID_PTX"):
				t.Errorf("%s: is no code any more: %v", c.name, err)
			case planted:
				t.Logf("%s: %v", c.name, err)
			}
		}
	}
}
