package ptxsim

import (
	"fmt"
	"math/bits"

	"github.com/tunekit/tunekit/kernels/cuda/driver"
)

// grid is one launch.
type grid struct {
	sim           *Sim
	entry         *entry
	module        *module
	params        []byte
	blocks, block driver.Dim
	threads       int // of a block
	launch        uint32
}

// cta is one block while it runs.
type cta struct {
	*grid
	index    driver.Dim
	number   int32
	shared   *region
	epoch    uint32 // barriers passed
	sharedID uint32
	warps    []*warp

	proxies   *proxies // of shared memory; nil: the kernel has no products of warpgroups
	groupLogs [][]same // what groups of four warps have multiplied
}

// warp is 32 lanes. Lanes at the same place run together; the group that is
// furthest behind goes first, so that groups meet again where branches join.
type warp struct {
	*cta
	first  int32 // thread of lane 0
	alive  uint32
	groups []group
	regs   []uint64 // [slots][32]
	epoch  uint32   // meetings of the warp
	recent *region  // of global memory
	async  *[32]copies
	err    error

	products products
}

type group struct {
	pc   int
	mask uint32
	wait wait
}

type wait uint8

const (
	running wait = iota
	atBarrier
	atMeeting // of the warp
)

// run executes all blocks, one after another.
func (g *grid) run() error {
	n := int(g.blocks.X) * int(g.blocks.Y) * int(g.blocks.Z)
	for i := range n {
		at := i
		if g.sim.Reverse {
			at = n - 1 - i
		}
		x, y := int(g.blocks.X), int(g.blocks.Y)
		b := &cta{grid: g, number: int32(at), index: driver.Dim{X: uint32(at % x), Y: uint32(at / x % y), Z: uint32(at / (x * y))}}
		if err := b.run(); err != nil {
			return fmt.Errorf("kernel %s, block %d,%d,%d: %w", g.entry.name, b.index.X, b.index.Y, b.index.Z, err)
		}
	}
	return nil
}

func (b *cta) run() error {
	b.sim.launches++ // shared memory is another one for every block
	b.sharedID = b.sim.launches
	size := b.entry.shared + int(b.sim.dynamic)
	if b.sim.shared == nil || len(b.sim.shared.data) != size {
		b.sim.shared = newRegion(0, size, "shared memory")
	}
	b.shared = b.sim.shared
	clear(b.shared.written)
	clear(b.shared.flying)
	if b.entry.groups {
		b.proxies = &proxies{unshown: make([]uint16, (size+15)/16), reading: make([]uint16, (size+15)/16)}
		b.groupLogs = make([][]same, (b.threads+127)/128)
	}
	for t := 0; t < b.threads; t += 32 {
		b.warps = append(b.warps, b.newWarp(len(b.warps), t))
	}
	for {
		waiting, done := 0, 0
		for _, w := range b.warps {
			w.run()
			if w.err != nil {
				return w.err
			}
			if w.alive == 0 {
				done++
			} else {
				waiting++
			}
		}
		if waiting == 0 {
			for i, w := range b.warps {
				if b.groupLogs != nil && w.products.count != len(b.groupLogs[i/4]) {
					return fmt.Errorf("the warps of a group have not all multiplied the same: %d and %d products", w.products.count, len(b.groupLogs[i/4]))
				}
			}
			return nil
		}
		pc := b.warps[0].groups[0].pc
		for _, w := range b.warps {
			switch {
			case w.alive != w.all():
				return fmt.Errorf("threads wait at a barrier that others of the block have left without: %s", b.entry.code[pc].text)
			case w.groups[0].pc != pc:
				return fmt.Errorf("divergent barrier: warps wait at different ones")
			}
		}
		b.epoch++
		for _, w := range b.warps {
			w.groups[0].wait = running
			w.groups[0].pc++
		}
	}
}

func (w *warp) all() uint32 {
	if n := w.threads - int(w.first); n < 32 {
		return 1<<n - 1
	}
	return ^uint32(0)
}

// newWarp gives lanes their numbers; memory of registers is used again.
func (b *cta) newWarp(i, first int) *warp {
	pool := &b.sim.registers
	for len(*pool) <= i {
		*pool = append(*pool, nil)
	}
	if len((*pool)[i]) < 32*b.entry.regs {
		(*pool)[i] = make([]uint64, 32*b.entry.regs)
	}
	w := &warp{cta: b, first: int32(first), regs: (*pool)[i]}
	w.alive = w.all()
	w.groups = []group{{mask: w.alive}}
	if b.entry.groups {
		w.products.flying, w.products.changed = make([]uint16, b.entry.regs), make([]bool, b.entry.regs)
	}
	for _, f := range b.entry.fixed {
		for l := range 32 {
			w.regs[32*f.slot+l] = f.value
		}
	}
	for name, slot := range b.entry.special {
		value := specials[name]
		for l := range 32 {
			w.regs[32*slot+l] = uint64(value(w, uint32(l)))
		}
	}
	return w
}

// specials are the registers that say which thread this is.
var specials = map[string]func(w *warp, lane uint32) uint32{
	"%laneid":   func(_ *warp, lane uint32) uint32 { return lane },
	"%tid.x":    func(w *warp, lane uint32) uint32 { return (uint32(w.first) + lane) % w.grid.block.X },
	"%tid.y":    func(w *warp, lane uint32) uint32 { return (uint32(w.first) + lane) / w.grid.block.X % w.grid.block.Y },
	"%tid.z":    func(w *warp, lane uint32) uint32 { return (uint32(w.first) + lane) / (w.grid.block.X * w.grid.block.Y) },
	"%ntid.x":   func(w *warp, _ uint32) uint32 { return w.grid.block.X },
	"%ntid.y":   func(w *warp, _ uint32) uint32 { return w.grid.block.Y },
	"%ntid.z":   func(w *warp, _ uint32) uint32 { return w.grid.block.Z },
	"%ctaid.x":  func(w *warp, _ uint32) uint32 { return w.index.X },
	"%ctaid.y":  func(w *warp, _ uint32) uint32 { return w.index.Y },
	"%ctaid.z":  func(w *warp, _ uint32) uint32 { return w.index.Z },
	"%nctaid.x": func(w *warp, _ uint32) uint32 { return w.blocks.X },
	"%nctaid.y": func(w *warp, _ uint32) uint32 { return w.blocks.Y },
	"%nctaid.z": func(w *warp, _ uint32) uint32 { return w.blocks.Z },
}

// fail keeps the first error, with the instruction and the lane.
func (w *warp) fail(lane int, text string, err error) {
	if w.err == nil {
		w.err = fmt.Errorf("thread %d: %s: %w", int(w.first)+lane, text, err)
	}
}

// run goes on until all lanes have ended or wait at a barrier.
func (w *warp) run() {
	for w.err == nil && len(w.groups) > 0 {
		i := w.behind()
		if i < 0 {
			w.stuck()
			return
		}
		w.advance(i)
	}
}

// behind joins groups that are at the same place and picks the running one that
// is furthest behind, -1 where all wait.
func (w *warp) behind() int {
	best := -1
	for i := 0; i < len(w.groups); i++ {
		for j := i + 1; j < len(w.groups); j++ {
			if w.groups[j].pc == w.groups[i].pc {
				w.groups[i].mask |= w.groups[j].mask
				w.groups[i].wait = min(w.groups[i].wait, w.groups[j].wait)
				w.groups = append(w.groups[:j], w.groups[j+1:]...)
				j--
			}
		}
		if w.groups[i].wait == running && (best < 0 || w.groups[i].pc < w.groups[best].pc) {
			best = i
		}
	}
	return best
}

// stuck says why no lane can go on, unless all wait at one barrier.
func (w *warp) stuck() {
	g := w.groups[0]
	if len(w.groups) == 1 && g.wait == atBarrier && g.mask == w.alive {
		return
	}
	what := "divergent barrier: lanes of a warp wait at different places"
	if g.wait == atMeeting {
		what = "lanes of a warp that are to meet do not come"
	}
	w.fail(bits.TrailingZeros32(g.mask), w.entry.code[g.pc].text, fmt.Errorf("%s", what))
}

// advance runs one group until it meets another, splits, waits or ends.
func (w *warp) advance(i int) {
	g := w.groups[i]
	next := int(^uint(0) >> 1) // place of the nearest other group ahead
	for j, o := range w.groups {
		if j != i && o.pc > g.pc {
			next = min(next, o.pc)
		}
	}
	code := w.entry.code
	for w.err == nil {
		if g.pc >= len(code) {
			w.fail(bits.TrailingZeros32(g.mask), "end", fmt.Errorf("the kernel has no ret"))
			return
		}
		in := &code[g.pc]
		m := g.mask
		if in.pred >= 0 {
			m = w.predicate(in, m)
		}
		w.sim.Instructions++
		w.sim.LaneInstructions += int64(bits.OnesCount32(m))
		if w.sim.count != nil {
			w.sim.count.Instructions++
		}
		if w.sim.Instructions > w.sim.limit {
			w.fail(bits.TrailingZeros32(g.mask), in.text, fmt.Errorf("more than %d instructions: the kernel does not end", w.sim.perLaunch))
			return
		}
		switch in.flow {
		case flowNone:
			if m != 0 {
				in.exec(w, m)
			}
			g.pc++
		case flowBranch:
			switch {
			case m == g.mask:
				g.pc = in.target
			case m == 0:
				g.pc++
			default:
				w.groups = append(w.groups, group{pc: in.target, mask: m})
				g.mask &^= m
				g.pc++
				w.groups[i] = g
				return
			}
			if len(w.groups) > 1 {
				w.groups[i] = g
				return
			}
		case flowExit:
			if !w.landed(m) {
				w.fail(bits.TrailingZeros32(m), in.text, fmt.Errorf("ends while copies to shared memory are on their way"))
				return
			}
			if !w.products.idle() {
				w.fail(bits.TrailingZeros32(m), in.text, fmt.Errorf("ends while products of its group are on their way"))
				return
			}
			w.alive &^= m
			g.mask &^= m
			g.pc++
			if g.mask == 0 {
				w.groups = append(w.groups[:i], w.groups[i+1:]...)
				return
			}
		case flowBarrier:
			if m != g.mask {
				w.fail(bits.TrailingZeros32(g.mask), in.text, fmt.Errorf("divergent barrier: only some lanes wait"))
				return
			}
			g.wait = atBarrier
			w.groups[i] = g
			return
		case flowMeet:
			if !w.meet(in, &g, m) {
				w.groups[i] = g
				return
			}
		}
		if g.pc >= next {
			w.groups[i] = g
			return
		}
	}
}

func (w *warp) predicate(in *instr, m uint32) uint32 {
	p, out := w.regs[32*in.pred:32*in.pred+32], uint32(0)
	for r := m; r != 0; r &= r - 1 {
		l := bits.TrailingZeros32(r)
		if (p[l] != 0) != in.negated {
			out |= 1 << l
		}
	}
	return out
}

// meet executes an instruction that the lanes of a mask execute together; false:
// the group waits for others.
func (w *warp) meet(in *instr, g *group, m uint32) bool {
	lane := bits.TrailingZeros32(m)
	if m == 0 {
		g.pc++
		return true
	}
	members := uint32(w.regs[32*in.members+lane])
	switch missing := members &^ m; {
	case m&^members != 0:
		w.fail(lane, in.text, fmt.Errorf("a lane outside of the mask %08x", members))
		return false
	case missing&^w.alive&w.all() != 0:
		w.fail(lane, in.text, fmt.Errorf("the mask %08x names lanes that have ended", members))
		return false
	case missing&w.alive != 0:
		g.wait = atMeeting
		return false
	}
	if in.orders {
		w.epoch++
	}
	in.exec(w, m)
	g.pc++
	return w.err == nil
}
