package ptxsim

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/kernels/block"
)

// Registers hold the bits of a value, zeros above its width.

func f32(x uint64) float32 { return math.Float32frombits(uint32(x)) }
func u32(f float32) uint64 { return uint64(math.Float32bits(f)) }
func f64(x uint64) float64 { return math.Float64frombits(x) }
func u64(f float64) uint64 { return math.Float64bits(f) }

// signed extends the sign of a value of so many bits.
func signed(x uint64, width int) int64 { return int64(x<<(64-width)) >> (64 - width) }

// typeOf splits s32 into 's' and 32.
func typeOf(s string) (class byte, width int) {
	if s == "pred" {
		return 'p', 1
	}
	if len(s) < 2 {
		return 0, 0
	}
	width, err := strconv.Atoi(s[1:])
	if err != nil || !strings.ContainsRune("subf", rune(s[0])) {
		return 0, 0
	}
	return s[0], width
}

func unaryOp(part []string) func(a uint64) uint64 {
	switch strings.Join(part, ".") {
	case "neg.f32":
		return func(a uint64) uint64 { return a ^ 1<<31 }
	case "neg.f64":
		return func(a uint64) uint64 { return a ^ 1<<63 }
	case "rcp.rn.f64":
		return func(a uint64) uint64 { return u64(1 / f64(a)) }
	case "abs.f64":
		return func(a uint64) uint64 { return a &^ (1 << 63) }
	case "rcp.approx.ftz.f64": // the upper half of the bits
		return func(a uint64) uint64 { return u64(1/f64(a)) &^ 0xffffffff }
	case "abs.f32":
		return func(a uint64) uint64 { return a &^ (1 << 31) }
	case "neg.s32", "neg.s64":
		return func(a uint64) uint64 { return -a }
	case "not.b32", "not.b64", "not.b16":
		return func(a uint64) uint64 { return ^a }
	case "clz.b32":
		return func(a uint64) uint64 { return uint64(bits.LeadingZeros32(uint32(a))) }
	case "popc.b32":
		return func(a uint64) uint64 { return uint64(bits.OnesCount32(uint32(a))) }
	case "not.pred":
		return func(a uint64) uint64 { return a ^ 1 }
	case "sqrt.rn.f32":
		return func(a uint64) uint64 { return u32(float32(math.Sqrt(float64(f32(a))))) }
	case "sqrt.rn.f64":
		return func(a uint64) uint64 { return u64(math.Sqrt(f64(a))) }
	case "rcp.rn.f32":
		return func(a uint64) uint64 { return u32(1 / f32(a)) }
	case "rcp.approx.ftz.f32":
		return func(a uint64) uint64 { return u32(flush(1 / flush(f32(a)))) }
	case "ex2.approx.f32":
		return func(a uint64) uint64 { return u32(float32(math.Exp2(float64(f32(a))))) }
	case "ex2.approx.ftz.f32":
		return func(a uint64) uint64 { return u32(flush(float32(math.Exp2(float64(flush(f32(a))))))) }
	}
	return nil
}

// flush makes a subnormal zero.
func flush(f float32) float32 {
	if f != 0 && f > -0x1p-126 && f < 0x1p-126 {
		return float32(math.Copysign(0, float64(f)))
	}
	return f
}

// oftenOp are the instructions that run most, with their loop over lanes.
func oftenOp(name string) func(d, a, b []uint64, m uint32) {
	switch name {
	case "add.s32":
		return func(d, a, b []uint64, m uint32) {
			for ; m != 0; m &= m - 1 {
				l := bits.TrailingZeros32(m)
				d[l] = uint64(uint32(a[l] + b[l]))
			}
		}
	case "add.s64":
		return func(d, a, b []uint64, m uint32) {
			for ; m != 0; m &= m - 1 {
				l := bits.TrailingZeros32(m)
				d[l] = a[l] + b[l]
			}
		}
	case "mul.rn.f32":
		return func(d, a, b []uint64, m uint32) {
			for ; m != 0; m &= m - 1 {
				l := bits.TrailingZeros32(m)
				d[l] = u32(f32(a[l]) * f32(b[l]))
			}
		}
	case "setp.eq.s32":
		return func(d, a, b []uint64, m uint32) {
			for ; m != 0; m &= m - 1 {
				l := bits.TrailingZeros32(m)
				d[l] = b2u(uint32(a[l]) == uint32(b[l]))
			}
		}
	case "setp.lt.s32":
		return func(d, a, b []uint64, m uint32) {
			for ; m != 0; m &= m - 1 {
				l := bits.TrailingZeros32(m)
				d[l] = b2u(int32(uint32(a[l])) < int32(uint32(b[l])))
			}
		}
	case "shl.b64":
		return func(d, a, b []uint64, m uint32) {
			for ; m != 0; m &= m - 1 {
				l := bits.TrailingZeros32(m)
				d[l] = a[l] << min(b[l]&0xffffffff, 64)
			}
		}
	}
	return nil
}

func binaryOp(part []string) func(a, b uint64) uint64 {
	switch strings.Join(part, ".") { // of two numbers, the first in the upper half
	case "cvt.rn.bf16x2.f32":
		return func(a, b uint64) uint64 { return bf16(a)<<16 | bf16(b) }
	case "cvt.rn.f16x2.f32":
		return func(a, b uint64) uint64 { return uint64(block.F16(f32(a)))<<16 | uint64(block.F16(f32(b))) }
	}
	class, width := typeOf(part[len(part)-1])
	kind := strings.Join(part[:len(part)-1], ".")
	if part[0] == "setp" && len(part) == 3 {
		return compareOp(part[1], class, width)
	}
	switch class {
	case 'f':
		return floatOp(kind, width)
	case 'p':
		switch kind {
		case "and":
			return func(a, b uint64) uint64 { return a & b }
		case "or":
			return func(a, b uint64) uint64 { return a | b }
		case "xor":
			return func(a, b uint64) uint64 { return a ^ b }
		}
		return nil
	case 0:
		return nil
	}
	return intOp(kind, class, width)
}

// bf16 rounds as cvt does: every NaN becomes 0x7fff.
func bf16(a uint64) uint64 {
	if f := f32(a); f != f {
		return 0x7fff
	}
	return uint64(block.BF16(f32(a)))
}

func floatOp(kind string, width int) func(a, b uint64) uint64 {
	if width == 64 {
		switch kind {
		case "add.rn", "add":
			return func(a, b uint64) uint64 { return u64(f64(a) + f64(b)) }
		case "sub.rn", "sub":
			return func(a, b uint64) uint64 { return u64(f64(a) - f64(b)) }
		case "mul.rn", "mul":
			return func(a, b uint64) uint64 { return u64(f64(a) * f64(b)) }
		case "div.rn":
			return func(a, b uint64) uint64 { return u64(f64(a) / f64(b)) }
		case "max":
			return func(a, b uint64) uint64 { return u64(extreme(f64(a), f64(b), math.Max)) }
		}
		return nil
	}
	switch kind {
	case "add.rn", "add":
		return func(a, b uint64) uint64 { return u32(f32(a) + f32(b)) }
	case "sub.rn", "sub":
		return func(a, b uint64) uint64 { return u32(f32(a) - f32(b)) }
	case "mul.rn", "mul":
		return func(a, b uint64) uint64 { return u32(f32(a) * f32(b)) }
	case "div.rn":
		return func(a, b uint64) uint64 { return u32(f32(a) / f32(b)) }
	case "add.rz":
		return func(a, b uint64) uint64 { return u32(addToZero(f32(a), f32(b))) }
	case "min":
		return func(a, b uint64) uint64 { return u32(extreme(f32(a), f32(b), math.Min)) }
	case "max":
		return func(a, b uint64) uint64 { return u32(extreme(f32(a), f32(b), math.Max)) }
	}
	return nil
}

// extreme is min or max as PTX has them: a NaN loses.
func extreme[F float32 | float64](a, b F, f func(x, y float64) float64) F {
	switch {
	case a != a:
		return b
	case b != b:
		return a
	}
	return F(f(float64(a), float64(b)))
}

// twoSum is x+y rounded, and what the rounding lost.
func twoSum(x, y float64) (s, lost float64) {
	s = x + y
	t := s - x
	return s, (x - (s - t)) + (y - t)
}

// fused is x·y + z rounded once, to nearest even.
func fused(x, y, z float32) float32 {
	s, lost := twoSum(float64(x)*float64(y), float64(z)) // the product is exact
	if lost != 0 && lost == lost && math.Float64bits(s)&1 == 0 {
		// Round to odd, so that rounding again to float32 is right.
		if b := math.Float64bits(s); (lost > 0) == (s > 0) {
			s = math.Float64frombits(b + 1)
		} else {
			s = math.Float64frombits(b - 1)
		}
	}
	return float32(s)
}

// fusedDown is x·y + z rounded down.
func fusedDown(x, y, z float32) float32 {
	s, lost := twoSum(float64(x)*float64(y), float64(z))
	f := float32(s)
	if d := float64(f); d > s || d == s && lost < 0 {
		f = math.Nextafter32(f, float32(math.Inf(-1)))
	}
	return f
}

func addToZero(x, y float32) float32 {
	s := float64(x) + float64(y)
	_, lost := twoSum(float64(x), float64(y))
	f := float32(s)
	if d := math.Abs(float64(f)); d > math.Abs(s) || d == math.Abs(s) && lost != 0 && (lost > 0) != (s > 0) {
		f = math.Nextafter32(f, 0)
	}
	return f
}

func intOp(kind string, class byte, width int) func(a, b uint64) uint64 {
	isSigned := class == 's'
	value := func(x uint64) int64 {
		if isSigned {
			return signed(x, width)
		}
		return int64(x)
	}
	low := func(x uint64) uint64 { return x & (^uint64(0) >> (64 - width)) }
	switch kind {
	case "add":
		return func(a, b uint64) uint64 { return a + b }
	case "sub":
		return func(a, b uint64) uint64 { return a - b }
	case "mul.lo":
		return func(a, b uint64) uint64 { return a * b }
	case "mul.wide":
		if isSigned {
			return func(a, b uint64) uint64 { return uint64(signed(a, width) * signed(b, width)) }
		}
		return func(a, b uint64) uint64 { return low(a) * low(b) }
	case "and":
		return func(a, b uint64) uint64 { return a & b }
	case "or":
		return func(a, b uint64) uint64 { return a | b }
	case "xor":
		return func(a, b uint64) uint64 { return a ^ b }
	case "shl":
		return func(a, b uint64) uint64 { return a << min(b&0xffffffff, 64) }
	case "shr":
		if isSigned {
			return func(a, b uint64) uint64 { return uint64(signed(a, width) >> min(b&0xffffffff, 63)) }
		}
		return func(a, b uint64) uint64 { return low(a) >> min(b&0xffffffff, 64) }
	case "div":
		return func(a, b uint64) uint64 { return divide(value(low(a)), value(low(b)), isSigned, false) }
	case "rem":
		return func(a, b uint64) uint64 { return divide(value(low(a)), value(low(b)), isSigned, true) }
	case "min":
		if isSigned {
			return func(a, b uint64) uint64 { return uint64(min(signed(a, width), signed(b, width))) }
		}
		return func(a, b uint64) uint64 { return min(low(a), low(b)) }
	case "max":
		if isSigned {
			return func(a, b uint64) uint64 { return uint64(max(signed(a, width), signed(b, width))) }
		}
		return func(a, b uint64) uint64 { return max(low(a), low(b)) }
	}
	return nil
}

// divide is quotient or remainder; by zero it is all ones, as on the device (PTX
// leaves it open).
func divide(a, b int64, isSigned, rest bool) uint64 {
	switch {
	case b == 0:
		return ^uint64(0)
	case isSigned && b == -1: // Go's own overflow
		if rest {
			return 0
		}
		return uint64(-a)
	case isSigned && rest:
		return uint64(a % b)
	case isSigned:
		return uint64(a / b)
	case rest:
		return uint64(a) % uint64(b)
	}
	return uint64(a) / uint64(b)
}

// compareOp is setp. The u forms of floats are true of a NaN.
func compareOp(op string, class byte, width int) func(a, b uint64) uint64 {
	switch class {
	case 'f':
		value := func(x uint64) float64 { return float64(f32(x)) }
		if width == 64 {
			value = f64
		}
		if op == "num" {
			return func(a, b uint64) uint64 { return b2u(value(a) == value(a) && value(b) == value(b)) }
		}
		if op == "nan" {
			return func(a, b uint64) uint64 { return b2u(value(a) != value(a) || value(b) != value(b)) }
		}
		unordered := len(op) == 3 && op[2] == 'u'
		test := orderOf[float64](strings.TrimSuffix(op, "u"))
		if test == nil {
			return nil
		}
		return func(a, b uint64) uint64 {
			x, y := value(a), value(b)
			if x != x || y != y {
				return b2u(unordered)
			}
			return b2u(test(x, y))
		}
	case 's':
		test := orderOf[int64](op)
		if test == nil {
			return nil
		}
		return func(a, b uint64) uint64 { return b2u(test(signed(a, width), signed(b, width))) }
	}
	test := orderOf[uint64](map[string]string{"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}[op] + op)
	if test == nil {
		test = orderOf[uint64](op)
	}
	if test == nil {
		return nil
	}
	low := ^uint64(0) >> (64 - width)
	return func(a, b uint64) uint64 { return b2u(test(a&low, b&low)) }
}

func orderOf[T float64 | int64 | uint64](op string) func(a, b T) bool {
	switch op {
	case "eq":
		return func(a, b T) bool { return a == b }
	case "ne":
		return func(a, b T) bool { return a != b }
	case "lt":
		return func(a, b T) bool { return a < b }
	case "le":
		return func(a, b T) bool { return a <= b }
	case "gt":
		return func(a, b T) bool { return a > b }
	case "ge":
		return func(a, b T) bool { return a >= b }
	}
	return nil
}

// logic3 is the function of three bits whose results are those of table: bit
// 4a + 2b + c.
func logic3(a, b, c, table uint64) (d uint64) {
	for i := range uint64(8) {
		if table>>i&1 != 0 {
			d |= (a ^ (i>>2&1 - 1)) & (b ^ (i>>1&1 - 1)) & (c ^ (i&1 - 1))
		}
	}
	return d
}

func ternaryOp(part []string) func(a, b, c uint64) uint64 {
	switch strings.Join(part, ".") {
	case "fma.rn.f32":
		return func(a, b, c uint64) uint64 { return u32(fused(f32(a), f32(b), f32(c))) }
	case "fma.rm.f32":
		return func(a, b, c uint64) uint64 { return u32(fusedDown(f32(a), f32(b), f32(c))) }
	case "fma.rn.f64":
		return func(a, b, c uint64) uint64 { return u64(math.FMA(f64(a), f64(b), f64(c))) }
	case "mad.lo.s32", "mad.lo.u32", "mad.lo.s64":
		return func(a, b, c uint64) uint64 { return a*b + c }
	case "mad.wide.s32":
		return func(a, b, c uint64) uint64 { return uint64(signed(a, 32)*signed(b, 32)) + c }
	case "selp.b32", "selp.b64", "selp.f32", "selp.u16", "selp.u32", "selp.u64", "selp.f64", "selp.b16", "selp.s32":
		return func(a, b, p uint64) uint64 {
			if p != 0 {
				return a
			}
			return b
		}
	case "prmt.b32":
		return func(a, b, c uint64) uint64 {
			all, out := a&0xffffffff|b<<32, uint64(0)
			for i := range 4 {
				sel := c >> (4 * i) & 15
				v := all >> (8 * (sel & 7)) & 255
				if sel&8 != 0 {
					v = v >> 7 * 255
				}
				out |= v << (8 * i)
			}
			return out
		}
	}
	return nil
}

// convert is cvt.[rounding.][sat.]to.from, and cvta, which changes nothing here.
func (e *entry) convert(in *instr, part, ops []string) error {
	s, err := e.all(ops)
	if err != nil {
		return err
	}
	f := func(x uint64) uint64 { return x }
	if part[0] == "cvt" {
		if f = conversion(strings.Join(part[1:len(part)-2], "."), part[len(part)-2], part[len(part)-1]); f == nil {
			return fmt.Errorf("the interpreter does not know this conversion")
		}
	}
	mask := ^uint64(0) >> (64 - max(e.bitsOf(ops[0]), 1))
	in.exec = func(w *warp, m uint32) {
		d, a := w.reg(s[0]), w.reg(s[1])
		lanes(m, func(l int) { d[l] = f(a[l]) & mask })
	}
	return nil
}

func conversion(how, to, from string) func(x uint64) uint64 {
	if how == "rna" && to == "tf32" && from == "f32" {
		return toTF32
	}
	tc, tw := typeOf(to)
	fc, fw := typeOf(from)
	switch {
	case tc == 0 || fc == 0:
		return nil
	case tc != 'f' && fc != 'f' && how == "":
		low := ^uint64(0) >> (64 - min(tw, 64))
		if fc == 's' {
			return func(x uint64) uint64 { return uint64(signed(x, fw)) & low }
		}
		return func(x uint64) uint64 { return x & (^uint64(0) >> (64 - fw)) & low }
	case to == "f32" && fc == 's' && how == "rn":
		return func(x uint64) uint64 { return u32(float32(signed(x, fw))) }
	case to == "f32" && fc == 'u' && how == "rn":
		return func(x uint64) uint64 { return u32(float32(x & (^uint64(0) >> (64 - fw)))) }
	case to == "f64" && fc == 'u' && how == "rn":
		return func(x uint64) uint64 { return u64(float64(x & (^uint64(0) >> (64 - fw)))) }
	case to == "f64" && fc == 's' && how == "rn":
		return func(x uint64) uint64 { return u64(float64(signed(x, fw))) }
	}
	switch how + " " + to + " " + from {
	case " f64 f32":
		return func(x uint64) uint64 { return u64(float64(f32(x))) }
	case "rn f32 f64":
		return func(x uint64) uint64 { return u32(float32(f64(x))) }
	case " f32 f16":
		return func(x uint64) uint64 { return u32(block.FromF16(uint16(x))) }
	case "rn f16 f32":
		return func(x uint64) uint64 { return uint64(block.F16(f32(x))) }
	case "rni f32 f32":
		return func(x uint64) uint64 { return u32(float32(math.RoundToEven(float64(f32(x))))) }
	case "rzi f32 f32":
		return func(x uint64) uint64 { return u32(float32(math.Trunc(float64(f32(x))))) }
	case "sat f32 f32":
		return func(x uint64) uint64 {
			v := f32(x)
			if v != v {
				return 0
			}
			return u32(min(max(v, 0), 1))
		}
	case "rzi s32 f64":
		return func(x uint64) uint64 {
			v := math.Trunc(f64(x))
			if v != v {
				return 0
			}
			return uint64(uint32(int32(min(max(v, math.MinInt32), math.MaxInt32))))
		}
	case "rzi u32 f32":
		return func(x uint64) uint64 {
			v := math.Trunc(float64(f32(x)))
			if v != v {
				return 0
			}
			return uint64(min(max(v, 0), math.MaxUint32))
		}
	case "rzi s32 f32", "rni s32 f32":
		whole := math.Trunc
		if how == "rni" {
			whole = math.RoundToEven
		}
		return func(x uint64) uint64 {
			v := whole(float64(f32(x)))
			if v != v {
				return 0
			}
			return uint64(uint32(int32(min(max(v, math.MinInt32), math.MaxInt32))))
		}
	}
	return nil
}
