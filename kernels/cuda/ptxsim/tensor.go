package ptxsim

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/kernels/block"
)

// Copies that go on beside the threads, matrices, and products of them.

// copying is one cp.async that was started.
type copying struct {
	to   int // offset in shared memory
	data [16]byte
	text string
}

// copies are those of a lane: groups that are closed, and one that is open.
type copies struct {
	groups [][]copying
	open   []copying
}

// async is cp.async.
func (e *entry) async(in *instr, name string, ops []string) error {
	switch {
	case name == "cp.async.commit_group":
		in.exec = func(w *warp, m uint32) {
			lanes(m, func(l int) {
				c := w.lane(l)
				c.groups, c.open = append(c.groups, c.open), nil
			})
		}
		return nil
	case name == "cp.async.wait_group" && len(ops) == 1:
		left, err := strconv.Atoi(ops[0])
		in.exec = func(w *warp, m uint32) {
			lanes(m, func(l int) {
				c := w.lane(l)
				for ; len(c.groups) > left; c.groups = c.groups[1:] {
					for _, cp := range c.groups[0] {
						if err := w.shared.land(cp, w.who(l, w.sharedID)); err != nil {
							w.fail(l, cp.text, err)
						}
						w.unshown(l, cp.to, 16)
					}
				}
			})
		}
		return err
	case name != "cp.async.cg.shared.global" || len(ops) != 4 || ops[2] != "16":
		return fmt.Errorf("unknown copy")
	}
	to, toOff, err := e.place(ops[0])
	if err != nil {
		return err
	}
	from, fromOff, err := e.place(ops[1])
	if err != nil {
		return err
	}
	size, err := e.slot(ops[3])
	if err != nil {
		return err
	}
	in.exec = func(w *warp, m uint32) {
		w.countAccess(kindShared, w.reg(to), toOff, 16, m)
		var reading uint32
		lanes(m, func(l int) {
			if w.reg(size)[l] > 0 {
				reading |= 1 << l
			}
		})
		w.countAccess(kindGlobal, w.reg(from), fromOff, 16, reading)
		lanes(m, func(l int) {
			c := copying{text: in.text}
			n, p := int(uint32(w.reg(size)[l])), w.reg(from)[l]+fromOff
			if n > 16 || p%16 != 0 {
				w.fail(l, in.text, fmt.Errorf("copies %d of 16 bytes from %#x, which is to be a multiple of 16", n, p))
				return
			}
			if n > 0 {
				data, err := w.globalPart(l, p, n)
				if err != nil {
					w.fail(l, in.text, err)
					return
				}
				copy(c.data[:], data)
			}
			dst := w.reg(to)[l] + toOff
			err := w.shared.leave(dst, w.who(l, w.sharedID))
			if err == nil {
				err = w.free(int(dst), 16)
			}
			if err != nil {
				w.fail(l, in.text, err)
				return
			}
			c.to = int(dst)
			q := w.lane(l)
			q.open = append(q.open, c)
		})
	}
	return nil
}

func (w *warp) lane(l int) *copies {
	if w.async == nil {
		w.async = new([32]copies)
	}
	return &w.async[l]
}

// landed says whether no lane of m has a copy on its way.
func (w *warp) landed(m uint32) bool {
	if w.async == nil {
		return true
	}
	ok := true
	lanes(m, func(l int) {
		c := &w.async[l]
		ok = ok && len(c.open) == 0
		for _, g := range c.groups {
			ok = ok && len(g) == 0
		}
	})
	return ok
}

// globalPart reads n bytes, which need not be a power of two, of 16 that are aligned.
func (w *warp) globalPart(l int, p uint64, n int) ([]byte, error) {
	r := w.sim.mem.find(p, n)
	if r == nil {
		return nil, fmt.Errorf("%d bytes at %#x are outside of every allocation", n, p)
	}
	w.sim.Read += int64(n)
	off := int(p - r.base)
	for at := off; at < off+n; at += 2 {
		if _, err := r.use(at, 2, false, w.who(l, w.launch)); err != nil {
			return nil, err
		}
	}
	return r.data[off : off+n], nil
}

// leave marks 16 bytes as those that a copy is on its way to: until it has landed,
// nobody may read them.
func (r *region) leave(p uint64, a access) error {
	if p%16 != 0 || p+16 > uint64(len(r.data)) || p+16 < p {
		return fmt.Errorf("16 bytes at %d of %d bytes of shared memory", p, len(r.data))
	}
	if r.flying == nil {
		r.flying = make([]bool, len(r.data))
	}
	off := int(p)
	if r.flying[off] {
		return fmt.Errorf("race: offset %d of shared memory is the target of another copy on its way", off)
	}
	if err := r.touch(off, 16, true, a); err != nil {
		return fmt.Errorf("offset %d of shared memory: %w", off, err)
	}
	for i := off; i < off+16; i++ {
		r.written[i], r.flying[i] = false, true
	}
	return nil
}

// land finishes a copy.
func (r *region) land(c copying, a access) error {
	for i := c.to; i < c.to+16; i++ {
		r.flying[i] = false
	}
	if err := r.touch(c.to, 16, true, a); err != nil {
		return fmt.Errorf("offset %d of shared memory: %w", c.to, err)
	}
	r.setKnown(c.to, 16)
	copy(r.data[c.to:], c.data[:])
	return nil
}

// together makes an instruction one that all lanes of a warp execute.
func (e *entry) together(in *instr) (err error) {
	in.flow = flowMeet
	in.members, err = e.slot("-1")
	return err
}

// matrices is ldmatrix: lanes 8i … 8i+7 give the addresses of the rows of matrix i,
// 16 bytes each, and lane l gets elements 2(l%4) and the next of row l/4; with
// trans, of the transpose.
func (e *entry) matrices(in *instr, name string, ops []string) error {
	rest, ok := strings.CutPrefix(name, "ldmatrix.sync.aligned.m8n8.x4.")
	trans := rest == "trans.shared.b16"
	if !ok || !trans && rest != "shared.b16" || len(ops) != 2 {
		return fmt.Errorf("unknown load of matrices")
	}
	d, err := e.all(operands(strings.Trim(ops[0], "{}")))
	if err != nil || len(d) != 4 {
		return fmt.Errorf("unknown load of matrices: %d registers (%v)", len(d), err)
	}
	base, off, err := e.place(ops[1])
	if err != nil {
		return err
	}
	in.exec = func(w *warp, m uint32) {
		w.countAccess(kindShared, w.reg(base), off, 16, m)
		var rows [32][]byte
		for l := range 32 {
			data, err := w.local(l, w.reg(base)[l]+off, 16, false)
			if err != nil {
				w.fail(l, in.text, err)
				return
			}
			rows[l] = data
		}
		for i := range 4 {
			dst := w.reg(d[i])
			for l := range 32 {
				if trans {
					lo := binary.LittleEndian.Uint16(rows[8*i+2*(l%4)][2*(l/4):])
					hi := binary.LittleEndian.Uint16(rows[8*i+2*(l%4)+1][2*(l/4):])
					dst[l] = uint64(lo) | uint64(hi)<<16
				} else {
					dst[l] = uint64(binary.LittleEndian.Uint32(rows[8*i+l/4][4*(l%4):]))
				}
			}
		}
	}
	return e.together(in)
}

// multiply is mma.m16n8k16 of bf16 or f16, or m16n8k8 of tf32, with sums in f32, or what multiplyBytes is. The order of a sum and
// its rounding are open in PTX; here every product is added in the order of k and
// rounded to nearest.
func (e *entry) multiply(in *instr, name string, ops []string) error {
	half, wide := false, false
	switch name {
	case "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32":
		return e.multiplyBytes(in, ops)
	case "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32":
	case "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32":
		half = true
	case "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32":
		wide = true
	default:
		return fmt.Errorf("unknown product of matrices")
	}
	s, err := e.fragments(ops)
	if err != nil {
		return err
	}
	depth := 16
	if wide {
		depth = 8
	}
	in.exec = func(w *warp, _ uint32) {
		var a [16][16]float32
		var b [8][16]float32 // columns
		for l := range 32 {
			if wide {
				row, col := l/4, l%4
				for i, slot := range s[1] {
					a[row+i%2*8][col+i/2*4] = w.tf32(l, slot, in.text)
				}
				for i, slot := range s[2] {
					b[row][col+i*4] = w.tf32(l, slot, in.text)
				}
				continue
			}
			row, col := l/4, l%4*2
			for i, slot := range s[1] {
				a[row+i%2*8][col+i/2*8], a[row+i%2*8][col+i/2*8+1] = halves(w.reg(slot)[l], half)
			}
			for i, slot := range s[2] {
				b[row][col+i*8], b[row][col+i*8+1] = halves(w.reg(slot)[l], half)
			}
		}
		for l := range 32 {
			for i, slot := range s[0] {
				x, y := &a[l/4+i/2*8], &b[l%4*2+i%2]
				sum := f32(w.reg(s[3][i])[l])
				for k := range depth {
					sum = float32(x[k]*y[k]) + sum // the product is exact
				}
				w.reg(slot)[l] = u32(sum)
			}
		}
		if c := w.sim.count; c != nil {
			c.Tensor += 16 * 8 * int64(depth)
		}
	}
	return e.together(in)
}

// fragments are the registers of a product of matrices: those of the result, of both operands and of what is added.
func (e *entry) fragments(ops []string) (s [4][]int, err error) {
	if len(ops) != len(s) {
		return s, fmt.Errorf("product of matrices: %d operands", len(ops))
	}
	for i, n := range []int{4, 4, 2, 4} {
		if s[i], err = e.all(operands(strings.Trim(ops[i], "{}"))); err != nil || len(s[i]) != n {
			return s, fmt.Errorf("product of matrices: operand %d has %d registers (%v)", i, len(s[i]), err)
		}
	}
	return s, nil
}

// multiplyBytes is mma.m16n8k32 of signed bytes. Sums are of 32 bits and wrap.
func (e *entry) multiplyBytes(in *instr, ops []string) error {
	s, err := e.fragments(ops)
	if err != nil {
		return err
	}
	in.exec = func(w *warp, _ uint32) {
		var a [16][32]int32
		var b [8][32]int32 // columns
		for l := range 32 {
			row, col := l/4, l%4*4
			for j := range 4 { // of a register
				for i, slot := range s[1] {
					a[row+i%2*8][col+i/2*16+j] = int32(int8(w.reg(slot)[l] >> (8 * j)))
				}
				for i, slot := range s[2] {
					b[row][col+i*16+j] = int32(int8(w.reg(slot)[l] >> (8 * j)))
				}
			}
		}
		for l := range 32 {
			for i, slot := range s[0] {
				x, y := &a[l/4+i/2*8], &b[l%4*2+i%2]
				sum := int32(uint32(w.reg(s[3][i])[l]))
				for k := range 32 {
					sum += x[k] * y[k]
				}
				w.reg(slot)[l] = uint64(uint32(sum))
			}
		}
		if c := w.sim.count; c != nil {
			c.Tensor += 16 * 8 * 32
		}
	}
	return e.together(in)
}

// tf32 is an operand of mma in tf32. What cvt has not rounded to it gives a result that PTX leaves undefined.
func (w *warp) tf32(l, slot int, text string) float32 {
	x := f32(w.reg(slot)[l])
	if x == x && uint32(w.reg(slot)[l])&0x1fff != 0 {
		w.fail(l, text, fmt.Errorf("%v was not rounded to tf32", x))
	}
	return x
}

// toTF32 is cvt.rna.tf32.f32: 10 bits behind the point, halves away from zero; a NaN stays one.
func toTF32(x uint64) uint64 {
	switch b := uint32(x); {
	case b&0x7fffffff > 0x7f800000:
		return 0x7fffffff
	default:
		return uint64((b + 0x1000) &^ 0x1fff) // of an infinity the same
	}
}

// halves are two numbers of 16 bits.
func halves(x uint64, half bool) (lo, hi float32) {
	if half {
		return block.FromF16(uint16(x)), block.FromF16(uint16(x >> 16))
	}
	return f32(x << 16 & 0xffff0000), f32(x & 0xffff0000)
}

// Count is what launches of one kernel did, with Sim.Profile.
type Count struct {
	Launches, Blocks, Threads int64
	Instructions              int64 // of warps
	Tensor                    int64 // products of two numbers in mma
	Bytes                     int64 // of global memory that threads asked for
	GlobalRequests            int64 // accesses of a warp to global memory, and
	GlobalSectors             int64 // the 32-byte sectors that they touch
	SharedRequests            int64 // accesses of a warp to shared memory,
	SharedPasses              int64 // the passes that they take, and
	SharedLeast               int64 // those without bank conflicts
}

const (
	kindGlobal = iota
	kindShared
)

// countAccess notes what one access of the lanes of m costs.
func (w *warp) countAccess(kind int, base []uint64, off uint64, size int, m uint32) {
	c := w.sim.count
	if c == nil || m == 0 {
		return
	}
	if kind == kindGlobal {
		c.GlobalRequests++
		c.Bytes += int64(size * bits.OnesCount32(m))
		var seen [128]uint64
		n := 0
		lanes(m, func(l int) {
			for s := (base[l] + off) / 32; s <= (base[l]+off+uint64(size)-1)/32; s++ {
				if !has(seen[:n], s) {
					seen[n] = s
					n++
				}
			}
		})
		c.GlobalSectors += int64(n)
		return
	}
	// A pass serves 32 banks of 4 bytes: all lanes of 4 bytes, half of 8, a quarter of 16.
	c.SharedRequests++
	part := 32 * 4 / max(size, 4)
	for first := 0; first < 32; first += part {
		mask := m >> first & uint32(1<<part-1)
		if mask == 0 {
			continue
		}
		var words [32][]uint64
		most := 0
		lanes(mask, func(l int) {
			p := base[first+l] + off
			for word := p / 4; word <= (p+uint64(size)-1)/4; word++ {
				if b := &words[word%32]; !has(*b, word) {
					*b = append(*b, word)
					most = max(most, len(*b))
				}
			}
		})
		c.SharedPasses += int64(most)
		c.SharedLeast++
	}
}

func has(list []uint64, x uint64) bool {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i] == x {
			return true
		}
	}
	return false
}
