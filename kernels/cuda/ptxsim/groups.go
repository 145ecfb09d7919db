package ptxsim

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// Products of warpgroups (wgmma, sm_90a): four warps multiply what lies in shared memory while they go on. PTX says nothing of what happens to a
// kernel that does not wait for them, or does not say that what it has written is there for them; here each of these is an error.

// issued is one wgmma.mma_async of a warp whose end nobody has awaited yet.
type issued struct {
	chunks []int32 // of shared memory, 16 bytes each, that it reads
	sums   []int   // slots of its sums
	text   string
}

// products are those of a warp.
type products struct {
	groups  [][]issued // closed ones
	open    []issued
	flying  []uint16 // by slot: products on their way to it
	changed []bool   // by slot: something else wrote it since the last wgmma.fence
	fenced  bool     // there was one
	count   int      // issued so far
	unshown [32][]int32
}

// proxies is what is known of 16 bytes of shared memory each.
type proxies struct {
	unshown []uint16 // writes that no fence.proxy.async of their thread has followed
	reading []uint16 // products on their way that read it
}

// same is what all warps of a group do alike.
type same struct {
	pc   string
	a, b uint64
}

// matrixIn is an operand in shared memory: a descriptor (PTX ISA 9.7.15.5.1.2.2).
type matrixIn struct {
	start, lead, stride, width uint64 // width of the swizzle, 16 for none
	across                     bool   // the rows that lie together are across the sum (MN-major)
}

func matrixOf(d uint64, across bool) (matrixIn, error) {
	m := matrixIn{start: d & 0x3fff << 4, lead: d >> 16 & 0x3fff << 4, stride: d >> 32 & 0x3fff << 4, width: []uint64{16, 128, 64, 32}[d>>62], across: across}
	switch pattern := 8 * m.width; {
	case d&(3<<14|3<<30|7<<46|0x3ff<<52) != 0:
		return m, fmt.Errorf("descriptor %#x has bits that mean nothing", d)
	case d>>49&7 != 0:
		return m, fmt.Errorf("descriptor %#x has a base offset, which the interpreter does not know", d)
	case m.width > 16 && across && m.start%pattern != 0 || m.width > 16 && !across && m.start%pattern+32 > m.width:
		return m, fmt.Errorf("descriptor %#x begins inside a pattern of %d bytes", d, pattern)
	}
	return m, nil
}

// chunk is where 16 bytes lie: numbers 8c … 8c+7 along the sum of row i, or of column 8i … across it number c of the sum.
func (m *matrixIn) chunk(i, c int) uint64 {
	r, s, per := uint64(i), uint64(c), m.width/16
	at := m.start
	switch {
	case !m.across && per == 1:
		at += r%8*16 + r/8*m.stride + s*m.lead
	case !m.across:
		at += r%8*m.width + r/8*m.stride + s*16
	case per == 1:
		at += r*m.stride + s%8*16 + s/8*m.lead
	default:
		at += r%per*16 + r/per*m.lead + s%8*m.width + s/8*m.stride
	}
	return at ^ at>>3&((per-1)<<4)
}

// numbers reads rows first … first+n-1 of an operand, 16 along the sum, of shared memory, and notes what it read.
func (m *matrixIn) numbers(w *warp, into *issued, out [][16]float32, first int, half bool) error {
	outer, inner := len(out), 2
	if m.across {
		outer, inner = len(out)/8, 16
	}
	shared := w.shared
	for i := range outer {
		for c := range inner {
			row := i + first
			if m.across {
				row = i + first/8
			}
			p := m.chunk(row, c)
			if p+16 > uint64(len(shared.data)) {
				return fmt.Errorf("16 bytes at %d of %d bytes of shared memory", p, len(shared.data))
			}
			data, err := shared.use(int(p), 16, false, w.who(0, w.sharedID))
			if err != nil {
				return err
			}
			if w.proxies.unshown[p/16] > 0 {
				return fmt.Errorf("reads offset %d of shared memory, which was written without a fence.proxy.async of the thread after it", p)
			}
			w.proxies.reading[p/16]++
			into.chunks = append(into.chunks, int32(p/16))
			for j := range 8 {
				x, _ := halves(uint64(binary.LittleEndian.Uint16(data[2*j:])), half)
				if m.across {
					out[8*i+j][c] = x
				} else {
					out[i][8*c+j] = x
				}
			}
		}
	}
	return nil
}

// count notes the passes over the banks of shared memory that reading rows takes: 128 bytes each, eight times 16.
func (m *matrixIn) count(w *warp, rows int) {
	outer, inner := rows/8, 2
	for i := range outer {
		for c := range inner {
			var banks [8]int64
			for j := range 8 {
				p := m.chunk(8*i+j, c)
				if m.across {
					p = m.chunk(i, 8*c+j)
				}
				banks[p/16%8]++
			}
			w.sim.count.SharedRequests++
			w.sim.count.SharedLeast++
			w.sim.count.SharedPasses += slices.Max(banks[:])
		}
	}
}

var groupProduct = strings.NewReplacer("wgmma.mma_async.sync.aligned.m64n", "", "k16.f32", "")

// grouped is wgmma and what belongs to it.
func (e *entry) grouped(in *instr, name string, ops []string) error {
	switch {
	case name == "wgmma.fence.sync.aligned":
		in.exec = func(w *warp, _ uint32) {
			clear(w.products.changed)
			w.products.fenced = true
		}
	case name == "wgmma.commit_group.sync.aligned":
		in.exec = func(w *warp, _ uint32) {
			w.products.groups, w.products.open = append(w.products.groups, w.products.open), nil
		}
	case name == "wgmma.wait_group.sync.aligned" && len(ops) == 1:
		left, err := strconv.Atoi(ops[0])
		if err != nil {
			return err
		}
		in.exec = func(w *warp, _ uint32) {
			p := &w.products
			for ; len(p.groups) > left; p.groups = p.groups[1:] {
				for _, x := range p.groups[0] {
					w.ended(&x)
				}
			}
		}
	case strings.HasPrefix(name, "wgmma.mma_async."):
		if err := e.groupProduct(in, name, ops); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unknown instruction of warpgroups")
	}
	e.groups = true
	return e.together(in)
}

// ended is the end of a product: until here it may have read.
func (w *warp) ended(x *issued) {
	for _, c := range x.chunks {
		w.proxies.reading[c]--
		if err := w.shared.touch(16*int(c), 16, false, w.who(0, w.sharedID)); err != nil {
			w.fail(0, x.text, fmt.Errorf("offset %d of shared memory: %w", 16*c, err))
		}
	}
	for _, s := range x.sums {
		w.products.flying[s]--
	}
}

// groupProduct is wgmma.mma_async of bf16 or f16 in shared memory with sums in f32. Sums as those of mma.
func (e *entry) groupProduct(in *instr, name string, ops []string) error {
	size, types, ok := strings.Cut(groupProduct.Replace(name), ".")
	n, err := strconv.Atoi(size)
	half := types == "f16.f16"
	if !ok || err != nil || n%8 != 0 || n < 8 || n > 256 || !half && types != "bf16.bf16" || len(ops) != 8 || ops[4] != "1" || ops[5] != "1" {
		return fmt.Errorf("unknown product of warpgroups")
	}
	sums, err := e.all(operands(strings.Trim(ops[0], "{}")))
	if err != nil || len(sums) != n/2 {
		return fmt.Errorf("product of warpgroups: %d sums (%v)", len(sums), err)
	}
	s, err := e.all(ops[1:4])
	if err != nil {
		return err
	}
	var across [2]bool
	for i, op := range ops[6:] {
		if across[i] = op == "1"; op != "0" && op != "1" {
			return fmt.Errorf("product of warpgroups: transposed is %q", op)
		}
	}
	in.sums, in.text = sums, name+" {…}, "+strings.Join(ops[1:], ", ")
	in.exec = func(w *warp, _ uint32) {
		err := w.multiplyGroup(in, n, [2]uint64{w.reg(s[0])[0], w.reg(s[1])[0]}, across, half, w.reg(s[2])[0] != 0)
		if err != nil {
			w.fail(0, in.text, err)
		}
	}
	return nil
}

func (w *warp) multiplyGroup(in *instr, n int, descriptors [2]uint64, across [2]bool, half, add bool) error {
	p := &w.products
	index := int(w.first) / 32
	if w.threads%128 != 0 {
		return fmt.Errorf("a block of %d threads is not of whole groups of 128", w.threads)
	}
	if !p.fenced {
		return fmt.Errorf("there was no wgmma.fence before the first product")
	}
	for _, slot := range in.sums {
		if p.changed[slot] {
			return fmt.Errorf("a sum was written since the last wgmma.fence")
		}
		if p.flying[slot] > 0 && !slices.Equal(p.last(), in.sums) {
			return fmt.Errorf("a sum is that of another product on its way")
		}
	}
	log := &w.groupLogs[index/4]
	now := same{in.text, descriptors[0], descriptors[1]}
	if p.count == len(*log) {
		*log = append(*log, now)
	} else if (*log)[p.count] != now {
		return fmt.Errorf("the warps of a group do not all multiply the same")
	}
	p.count++
	var m [2]matrixIn
	for i := range m {
		var err error
		if m[i], err = matrixOf(descriptors[i], across[i]); err != nil {
			return err
		}
	}
	if w.sim.count != nil {
		w.sim.count.Tensor += int64(16 * 16 * n)
		if index%4 == 0 { // once a group
			m[0].count(w, 64)
			m[1].count(w, n)
		}
	}
	x := issued{sums: in.sums, text: in.text}
	var a [16][16]float32
	var columns [256][16]float32
	b := columns[:n]
	if err := m[0].numbers(w, &x, a[:], index%4*16, half); err != nil {
		return fmt.Errorf("A: %w", err)
	}
	if err := m[1].numbers(w, &x, b, 0, half); err != nil {
		return fmt.Errorf("B: %w", err)
	}
	for i, slot := range in.sums {
		d := w.reg(slot)
		p.flying[slot]++
		for l := range 32 {
			row, col := &a[l/4+i%4/2*8], &b[i/4*8+l%4*2+i%2]
			sum := float32(0)
			if add {
				sum = f32(d[l])
			}
			for k := range row {
				sum = float32(row[k]*col[k]) + sum // the product is exact
			}
			d[l] = u32(sum)
		}
	}
	p.open = append(p.open, x)
	return nil
}

// last is the sums of the product that was issued last.
func (p *products) last() []int {
	if n := len(p.open); n > 0 {
		return p.open[n-1].sums
	}
	for _, g := range slices.Backward(p.groups) {
		if n := len(g); n > 0 {
			return g[n-1].sums
		}
	}
	return nil
}

// idle says whether no product is on its way.
func (p *products) idle() bool {
	return len(p.open) == 0 && !slices.ContainsFunc(p.groups, func(g []issued) bool { return len(g) > 0 })
}

// showing is fence.proxy.async: what a thread has written is there for products.
func (e *entry) showing(in *instr) {
	in.exec = func(w *warp, m uint32) {
		lanes(m, func(l int) {
			for _, c := range w.products.unshown[l] {
				w.proxies.unshown[c]--
			}
			w.products.unshown[l] = w.products.unshown[l][:0]
		})
	}
}

// free says whether no product reads n bytes of shared memory at off.
func (w *warp) free(off, n int) error {
	if w.proxies == nil {
		return nil
	}
	for c := off / 16; c <= (off+n-1)/16; c++ {
		if w.proxies.reading[c] > 0 {
			return fmt.Errorf("race: offset %d of shared memory is read by a product on its way", off)
		}
	}
	return nil
}

// unshown notes that a lane wrote n bytes of shared memory at off.
func (w *warp) unshown(l, off, n int) {
	if w.proxies == nil {
		return
	}
	for c := off / 16; c <= (off+n-1)/16; c++ {
		w.proxies.unshown[c]++
		w.products.unshown[l] = append(w.products.unshown[l], int32(c))
	}
}

// guard has the instructions of an entry with products of warpgroups leave sums alone that these are on their way to, and
// notes those that are written.
func (e *entry) guard(statements []string) {
	isSum := make([]bool, e.regs)
	for i := range e.code {
		for _, s := range e.code[i].sums {
			isSum[s] = true
		}
	}
	for i, text := range statements {
		in := &e.code[i]
		if in.sums != nil || in.exec == nil {
			continue
		}
		var names, written []int
		name, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
		if strings.HasPrefix(name, "@") {
			name, rest, _ = strings.Cut(rest, " ")
		}
		stores := strings.HasPrefix(name, "st.")
		for j, op := range operands(rest) {
			for _, reg := range operands(strings.Trim(op, "{}[]")) {
				s, ok := e.slots[reg]
				if !ok || !isSum[s] {
					continue
				}
				names = append(names, s)
				if j == 0 && !stores {
					written = append(written, s)
				}
			}
		}
		if names == nil {
			continue
		}
		run := in.exec
		in.exec = func(w *warp, m uint32) {
			for _, s := range names {
				if w.products.flying[s] > 0 {
					w.fail(bits.TrailingZeros32(m), in.text, fmt.Errorf("touches a sum that a product is still on its way to"))
					return
				}
			}
			run(w, m)
			for _, s := range written {
				w.products.changed[s] = true
			}
		}
	}
}
