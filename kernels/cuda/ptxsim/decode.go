package ptxsim

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
)

type flow uint8

const (
	flowNone flow = iota
	flowBranch
	flowExit
	flowBarrier
	flowMeet // lanes of a mask together
)

// instr is one decoded instruction.
type instr struct {
	text    string
	pred    int // slot of the predicate; -1: none
	negated bool
	flow    flow
	target  int   // of a branch
	members int   // slot of the mask of lanes that meet
	orders  bool  // what lanes wrote before it, those that meet see after it
	sums    []int // slots, of a product of warpgroups
	exec    func(w *warp, m uint32)
}

func (e *entry) decode(s string) (instr, error) {
	in := instr{pred: -1, text: s}
	if strings.HasPrefix(s, "@") {
		p, rest, _ := strings.Cut(s[1:], " ")
		in.negated = strings.HasPrefix(p, "!")
		var err error
		if in.pred, err = e.slot(strings.TrimPrefix(p, "!")); err != nil {
			return in, err
		}
		s = rest
	}
	name, rest, _ := strings.Cut(s, " ")
	ops := operands(rest)
	part := strings.Split(name, ".")
	var err error
	switch part[0] {
	case "bra":
		in.flow = flowBranch
		to, ok := e.labels[ops[0]]
		if !ok {
			return in, fmt.Errorf("no label %s", ops[0])
		}
		in.target = to
	case "ret", "exit":
		in.flow = flowExit
	case "bar":
		if name == "bar.warp.sync" {
			in.flow, in.orders, in.exec = flowMeet, true, func(*warp, uint32) {}
			in.members, err = e.slot(ops[0])
		} else if name == "bar.sync" && len(ops) == 1 && ops[0] == "0" {
			in.flow = flowBarrier
		} else {
			err = fmt.Errorf("another barrier")
		}
	case "shfl":
		in.flow = flowMeet
		err = e.shuffle(&in, part, ops)
	case "vote":
		in.flow = flowMeet
		err = e.vote(&in, part, ops)
	case "cp":
		err = e.async(&in, name, ops)
	case "ldmatrix":
		err = e.matrices(&in, name, ops)
	case "wgmma":
		err = e.grouped(&in, name, ops)
	case "fence":
		if name != "fence.proxy.async" {
			err = fmt.Errorf("another fence")
		}
		e.showing(&in)
	case "mma":
		err = e.multiply(&in, name, ops)
	case "ld", "st":
		err = e.access(&in, part, ops)
	case "mov":
		err = e.move(&in, part, ops)
	default:
		err = e.compute(&in, name, part, ops)
	}
	return in, err
}

// all finds the slots of operands.
func (e *entry) all(ops []string) ([]int, error) {
	out := make([]int, len(ops))
	for i, o := range ops {
		var err error
		if out[i], err = e.slot(o); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (w *warp) reg(slot int) []uint64 { return w.regs[32*slot : 32*slot+32] }

// lanes calls f for the lanes of m.
func lanes(m uint32, f func(l int)) {
	if m == ^uint32(0) {
		for l := range 32 {
			f(l)
		}
		return
	}
	for ; m != 0; m &= m - 1 {
		f(bits.TrailingZeros32(m))
	}
}

func (e *entry) compute(in *instr, name string, part, ops []string) error {
	if part[0] == "cvta" || part[0] == "cvt" && len(ops) == 2 {
		return e.convert(in, part, ops)
	}
	s, err := e.all(ops)
	if err != nil {
		return err
	}
	mask := ^uint64(0) >> (64 - max(e.bitsOf(ops[0]), 1))
	if f := oftenOp(name); f != nil && len(s) == 3 {
		in.exec = func(w *warp, m uint32) { f(w.reg(s[0]), w.reg(s[1]), w.reg(s[2]), m) }
		return nil
	}
	if f := unaryOp(part); f != nil && len(s) == 2 {
		in.exec = func(w *warp, m uint32) {
			d, a := w.reg(s[0]), w.reg(s[1])
			lanes(m, func(l int) { d[l] = f(a[l]) & mask })
		}
		return nil
	}
	if f := binaryOp(part); f != nil && len(s) == 3 {
		in.exec = func(w *warp, m uint32) {
			d, a, b := w.reg(s[0]), w.reg(s[1]), w.reg(s[2])
			if m == ^uint32(0) {
				for l := range d {
					d[l] = f(a[l], b[l]) & mask
				}
				return
			}
			for ; m != 0; m &= m - 1 {
				l := bits.TrailingZeros32(m)
				d[l] = f(a[l], b[l]) & mask
			}
		}
		return nil
	}
	if name == "fma.rn.f32" && len(s) == 4 {
		in.exec = func(w *warp, m uint32) {
			d, a, b, c := w.reg(s[0]), w.reg(s[1]), w.reg(s[2]), w.reg(s[3])
			for ; m != 0; m &= m - 1 {
				l := bits.TrailingZeros32(m)
				d[l] = u32(fused(f32(a[l]), f32(b[l]), f32(c[l])))
			}
		}
		return nil
	}
	if f := ternaryOp(part); f != nil && len(s) == 4 {
		in.exec = func(w *warp, m uint32) {
			d, a, b, c := w.reg(s[0]), w.reg(s[1]), w.reg(s[2]), w.reg(s[3])
			lanes(m, func(l int) { d[l] = f(a[l], b[l], c[l]) & mask })
		}
		return nil
	}
	if name == "lop3.b32" && len(s) == 5 {
		in.exec = func(w *warp, m uint32) {
			d, a, b, c, table := w.reg(s[0]), w.reg(s[1]), w.reg(s[2]), w.reg(s[3]), w.reg(s[4])
			lanes(m, func(l int) { d[l] = logic3(a[l], b[l], c[l], table[l]) & mask })
		}
		return nil
	}
	if name == "bfi.b32" && len(s) == 5 {
		in.exec = func(w *warp, m uint32) {
			d, a, b, c, n := w.reg(s[0]), w.reg(s[1]), w.reg(s[2]), w.reg(s[3]), w.reg(s[4])
			lanes(m, func(l int) {
				pos, size := min(c[l]&255, 32), min(n[l]&255, 32)
				field := uint32((uint64(1)<<size - 1) << pos)
				d[l] = uint64(uint32(b[l])&^field | uint32(a[l]<<pos)&field)
			})
		}
		return nil
	}
	return fmt.Errorf("the interpreter does not know %s with %d operands", name, len(ops))
}

// shuffle: d|p, a, b, c, members.
func (e *entry) shuffle(in *instr, part, ops []string) error {
	if len(part) != 4 || part[1] != "sync" || part[3] != "b32" || len(ops) != 5 || part[2] != "bfly" && part[2] != "idx" {
		return fmt.Errorf("unknown shuffle")
	}
	d, p, ok := strings.Cut(ops[0], "|")
	if !ok {
		p = d
	}
	s, err := e.all(append([]string{d, p}, ops[1:]...))
	if err != nil {
		return err
	}
	in.members = s[5]
	butterfly := part[2] == "bfly"
	in.exec = func(w *warp, m uint32) {
		a, b, c := w.reg(s[2]), w.reg(s[3]), w.reg(s[4])
		var value [32]uint64
		var inside [32]bool
		lanes(m, func(l int) {
			segment := int(c[l]>>8) & 31
			top := l&segment | int(c[l])&31&^segment
			j := l&segment | int(b[l])&31&^segment
			if butterfly {
				j = l ^ int(b[l])&31
			}
			if inside[l] = j <= top; !inside[l] {
				j = l
			}
			if m>>j&1 == 0 {
				w.fail(l, in.text, fmt.Errorf("reads lane %d, which does not take part", j))
			}
			value[l] = a[j]
		})
		dst, pred := w.reg(s[0]), w.reg(s[1])
		lanes(m, func(l int) {
			if ok {
				pred[l] = b2u(inside[l])
			}
			dst[l] = value[l]
		})
	}
	return nil
}

// vote: p, q, members.
func (e *entry) vote(in *instr, part, ops []string) error {
	if strings.Join(part, ".") != "vote.sync.any.pred" {
		return fmt.Errorf("unknown vote")
	}
	s, err := e.all(ops)
	if err != nil {
		return err
	}
	in.members = s[2]
	in.exec = func(w *warp, m uint32) {
		var any uint64
		lanes(m, func(l int) { any |= w.reg(s[1])[l] })
		lanes(m, func(l int) { w.reg(s[0])[l] = any })
	}
	return nil
}

// move also packs and unpacks pairs.
func (e *entry) move(in *instr, part, ops []string) error {
	if len(ops) != 2 {
		return fmt.Errorf("mov of %d operands", len(ops))
	}
	braced := func(s string) []string {
		if strings.HasPrefix(s, "{") {
			return operands(strings.Trim(s, "{}"))
		}
		return nil
	}
	half := map[string]uint{"b64": 32, "b32": 16}[part[1]] // bits of either
	if lo := braced(ops[0]); len(lo) == 2 && half > 0 {
		s, err := e.all(append(lo, ops[1]))
		in.exec = func(w *warp, m uint32) {
			lanes(m, func(l int) {
				v := w.reg(s[2])[l]
				w.reg(s[0])[l], w.reg(s[1])[l] = v&(1<<half-1), v>>half
			})
		}
		return err
	}
	if lo := braced(ops[1]); len(lo) == 2 && half > 0 {
		s, err := e.all(append(lo, ops[0]))
		in.exec = func(w *warp, m uint32) {
			lanes(m, func(l int) { w.reg(s[2])[l] = w.reg(s[0])[l]&(1<<half-1) | w.reg(s[1])[l]<<half })
		}
		return err
	}
	if strings.ContainsAny(ops[0]+ops[1], "{}") {
		return fmt.Errorf("unknown pack")
	}
	s, err := e.all(ops)
	mask := ^uint64(0) >> (64 - max(e.bitsOf(ops[0]), 1))
	in.exec = func(w *warp, m uint32) {
		d, a := w.reg(s[0]), w.reg(s[1])
		if m == ^uint32(0) {
			for l := range d {
				d[l] = a[l] & mask
			}
			return
		}
		lanes(m, func(l int) { d[l] = a[l] & mask })
	}
	return err
}

// place is base register and offset of [reg+off].
func (e *entry) place(op string) (slot int, off uint64, err error) {
	op = strings.Trim(op, "[]")
	base, plus := op, ""
	if i := strings.LastIndexByte(op, '+'); i > 0 {
		base, plus = op[:i], op[i+1:]
	}
	if plus != "" {
		v, err := strconv.ParseInt(plus, 10, 64)
		if err != nil {
			return 0, 0, err
		}
		off = uint64(v)
	}
	slot, err = e.slot(base)
	return slot, off, err
}

// access is a load or store: ld.space[.v2|.v4].type.
func (e *entry) access(in *instr, part, ops []string) error {
	space, count := part[1], 1
	if part[2] == "v2" || part[2] == "v4" {
		count = int(part[2][1] - '0')
	}
	kind := part[len(part)-1]
	width, err := strconv.Atoi(kind[1:])
	if len(part) != 3 && !(len(part) == 4 && count > 1) || err != nil || len(ops) != 2 {
		return fmt.Errorf("unknown access")
	}
	load, size := part[0] == "ld", width/8
	values, where := ops[0], ops[1]
	if !load {
		values, where = ops[1], ops[0]
	}
	names := operands(strings.Trim(values, "{}"))
	if len(names) != count {
		return fmt.Errorf("%d values", len(names))
	}
	regs, err := e.all(names)
	if err != nil {
		return err
	}
	base, off, err := e.place(where)
	if err != nil {
		return err
	}
	masks := make([]uint64, count)
	for i, n := range names {
		masks[i] = ^uint64(0)
		if b := e.bitsOf(n); b > 0 {
			masks[i] >>= 64 - b
		}
	}
	isSigned := kind[0] == 's'
	memory, ok := map[string]func(w *warp, l int, p uint64, n int, write bool) ([]byte, error){
		"global": (*warp).global, "shared": (*warp).local, "const": (*warp).constant, "param": (*warp).param}[space]
	if !ok {
		return fmt.Errorf("memory of kind %s", space)
	}
	if load && space == "param" && count == 1 && e.isFixed(base) { // the same for all lanes
		at := e.fixedValue(base) + off
		in.exec = func(w *warp, m uint32) {
			data, err := window(w.params, at, size, "parameters")
			if err != nil {
				w.fail(bits.TrailingZeros32(m), in.text, err)
				return
			}
			v := extend(word(data, size), isSigned, width) & masks[0]
			d := w.reg(regs[0])
			lanes(m, func(l int) { d[l] = v })
		}
		return nil
	}
	counted := map[string]int{"global": kindGlobal, "shared": kindShared, "const": -1, "param": -1}[space]
	in.exec = func(w *warp, m uint32) {
		b := w.reg(base)
		if counted >= 0 {
			w.countAccess(counted, b, off, size*count, m)
		}
		for r := m; r != 0; r &= r - 1 {
			l := bits.TrailingZeros32(r)
			data, err := memory(w, l, b[l]+off, size*count, !load)
			if err != nil {
				w.fail(l, in.text, err)
				return
			}
			for i, slot := range regs {
				if load {
					w.regs[32*slot+l] = extend(word(data[i*size:], size), isSigned, width) & masks[i]
				} else {
					putWord(data[i*size:], size, w.regs[32*slot+l])
				}
			}
		}
	}
	return nil
}

// extend repeats the sign of a value of so many bits.
func extend(v uint64, isSigned bool, width int) uint64 {
	if isSigned {
		return uint64(signed(v, width))
	}
	return v
}

func (w *warp) who(lane int, launch uint32) access {
	return access{launch: launch, block: w.number, thread: w.first + int32(lane), b: w.cta.epoch, w: w.epoch}
}

func (w *warp) global(l int, p uint64, n int, write bool) ([]byte, error) {
	r := w.recent
	if r == nil || p < r.base || p+uint64(n) > r.base+uint64(len(r.data)) {
		r = w.sim.mem.find(p, n)
		w.recent = r
	}
	if r == nil {
		return nil, fmt.Errorf("%d bytes at %#x are outside of every allocation", n, p)
	}
	if write {
		w.sim.Written += int64(n)
	} else {
		w.sim.Read += int64(n)
	}
	return r.use(int(p-r.base), n, write, w.who(l, w.launch))
}

func (w *warp) local(l int, p uint64, n int, write bool) ([]byte, error) {
	if p+uint64(n) > uint64(len(w.shared.data)) || p+uint64(n) < p {
		return nil, fmt.Errorf("%d bytes at %d of %d bytes of shared memory", n, p, len(w.shared.data))
	}
	if write {
		if err := w.free(int(p), n); err != nil {
			return nil, err
		}
		w.unshown(l, int(p), n)
	}
	return w.shared.use(int(p), n, write, w.who(l, w.sharedID))
}

func (w *warp) constant(_ int, p uint64, n int, _ bool) ([]byte, error) {
	return window(w.module.consts, p, n, "constant memory")
}

func (w *warp) param(_ int, p uint64, n int, _ bool) ([]byte, error) {
	return window(w.params, p, n, "parameters")
}

func window(b []byte, p uint64, n int, what string) ([]byte, error) {
	if p%uint64(n) != 0 || p > math.MaxInt32 || int(p)+n > len(b) {
		return nil, fmt.Errorf("%d bytes at %d of %d bytes of %s", n, p, len(b), what)
	}
	return b[p:][:n], nil
}

// use checks an access completely and returns the bytes.
func (r *region) use(off, n int, write bool, a access) ([]byte, error) {
	if off%n != 0 {
		return nil, fmt.Errorf("%d bytes at offset %d of an allocation are not aligned", n, off)
	}
	if !write && !r.known(off, n) {
		if r.flying != nil && r.flying[off] {
			return nil, fmt.Errorf("reads %d bytes at offset %d of shared memory, which a copy is still on its way to", n, off)
		}
		return nil, fmt.Errorf("reads %d bytes at offset %d of an allocation of %d, which were never written", n, off, len(r.data))
	}
	if err := r.touch(off, n, write, a); err != nil {
		return nil, fmt.Errorf("offset %d of an allocation of %d bytes: %w", off, len(r.data), err)
	}
	if write {
		r.setKnown(off, n)
	}
	return r.data[off : off+n], nil
}

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
