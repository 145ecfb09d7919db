package cuda

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"slices"

	"github.com/tunekit/tunekit/kernels/cuda/driver"
)

// graphs finds launches that repeat: a token of an answer makes hundreds, with the same
// shapes and addresses as the token before it, and to start each takes longer than it
// computes. What is launched between two calls of another kind (a copy, a wait) is a
// run; one of many launches is several, so that the first computes while others are queued. A run that was seen twice is captured as a graph of the driver; from then on its
// launches are held back as long as they are the same to the byte, and at the run's end
// started at once. Where they are others, those held back are started one by one: what
// is computed never changes.
type graphs struct {
	on     bool
	reason error // why on ended
	seed   maphash.Seed

	log   []task                 // launches of this run that were started
	held  []task                 // or are held back; then log is empty
	may   []*captured            // graphs that begin with held
	known map[uint64][]*captured // by their first launch
	seen  map[uint64]int         // runs by their launches: when they were last started
	now   int                    // runs until now
	size  int                    // launches of all graphs
}

// captured is a run as a graph.
type captured struct {
	list  []task
	graph driver.Graph
	used  int // the run that was started by it last
}

// A graph has at least and at most so many launches; all of them together have at most so
// many, and so many runs are remembered.
const (
	leastLaunches = 8
	mostLaunches  = 256
	allLaunches   = 1 << 15
	mostSeen      = 1 << 10
)

func sameWork(a, b *task) bool {
	return a.kernel == b.kernel && a.work.Grid == b.work.Grid && a.work.Block == b.work.Block && a.work.Shared == b.work.Shared && bytes.Equal(a.work.Params, b.work.Params)
}

// sum is a number of launches that others hardly have.
func (g *graphs) sum(list []task) uint64 {
	if g.seen == nil {
		g.seed, g.known, g.seen = maphash.MakeSeed(), map[uint64][]*captured{}, map[uint64]int{}
	}
	var h maphash.Hash
	h.SetSeed(g.seed)
	for i := range list {
		t := &list[i]
		h.WriteString(t.kernel)
		var dims [28]byte
		for j, v := range []uint32{t.work.Grid.X, t.work.Grid.Y, t.work.Grid.Z, t.work.Block.X, t.work.Block.Y, t.work.Block.Z, t.work.Shared} {
			binary.LittleEndian.PutUint32(dims[4*j:], v)
		}
		h.Write(dims[:])
		h.Write(t.work.Params)
	}
	return h.Sum64()
}

// graph takes a launch: it is held back, or started with those that are.
func (c *CUDA) graph(d driver.Driver, t task) {
	g := &c.graphs
	if len(g.log) == 0 {
		if len(g.held) == 0 {
			g.may = slices.Clone(g.known[g.sum([]task{t})])
		}
		at := len(g.held)
		g.may = slices.DeleteFunc(g.may, func(k *captured) bool { return len(k.list) <= at || !sameWork(&k.list[at], &t) })
		if len(g.may) > 0 {
			if g.held = append(g.held, t); len(g.held) == mostLaunches {
				c.cut(d)
			}
			return
		}
		c.letGo(d)
	}
	c.start(d, t)
	if g.log = append(g.log, t); len(g.log) == mostLaunches {
		c.cut(d)
	}
}

// letGo starts what was held back, one by one.
func (c *CUDA) letGo(d driver.Driver) {
	g := &c.graphs
	for _, t := range g.held {
		c.start(d, t)
	}
	g.log, g.held = append(g.log, g.held...), nil
}

// cut ends a run.
func (c *CUDA) cut(d driver.Driver) {
	g := &c.graphs
	if len(g.log)+len(g.held) > 0 {
		g.now++
	}
	if len(g.held) > 0 {
		if i := slices.IndexFunc(g.may, func(k *captured) bool { return len(k.list) == len(g.held) }); i >= 0 {
			c.attempt("a graph of kernels", func() error { return d.Replay(g.may[i].graph) })
			g.may[i].used = g.now
			g.held = nil
			return
		}
		c.letGo(d)
	}
	n := len(g.log)
	if n == 0 {
		return
	}
	defer func() { clear(g.log); g.log = g.log[:0] }()
	if n < leastLaunches || !g.on || c.lost() != nil {
		return
	}
	sum := g.sum(g.log)
	if last, again := g.seen[sum]; again && c.evict(d, n, last) {
		delete(g.seen, sum)
		c.capture(d)
		return
	}
	if len(g.seen) == mostSeen {
		clear(g.seen)
	}
	g.seen[sum] = g.now
}

// evict gives graphs back, the one that was not replayed for longest first, until n
// launches more are not too many. Those that were replayed since a run stay, or the graphs
// of work that repeats and is more than all would be made for ever; then it reports false.
func (c *CUDA) evict(d driver.Driver, n, since int) bool {
	g := &c.graphs
	if g.size+n <= allLaunches {
		return true
	}
	var old []*captured
	free := 0
	for _, list := range g.known {
		for _, k := range list {
			if k.used < since {
				old = append(old, k)
				free += len(k.list)
			}
		}
	}
	if g.size-free+n > allLaunches {
		return false
	}
	slices.SortFunc(old, func(a, b *captured) int { return a.used - b.used })
	c.attempt("a graph of kernels", d.Sync) // none may be running
	for _, k := range old {
		if g.size+n <= allLaunches {
			break
		}
		first := g.sum(k.list[:1])
		if g.known[first] = slices.DeleteFunc(g.known[first], func(x *captured) bool { return x == k }); len(g.known[first]) == 0 {
			delete(g.known, first)
		}
		g.size -= len(k.list)
		c.attempt("a graph of kernels", func() error { return d.Drop(k.graph) })
	}
	return c.lost() == nil
}

// capture makes a graph of the run that ends. Where the driver cannot, there are none
// from then on, and Describe says why.
func (c *CUDA) capture(d driver.Driver) {
	g := &c.graphs
	k := &captured{list: slices.Clone(g.log), used: g.now}
	work := make([]driver.Work, len(k.list))
	for i, t := range k.list {
		f, err := c.code.function(d, t.kernel)
		if err != nil {
			return // it was started before
		}
		work[i] = t.work
		work[i].Function = f
	}
	var err error
	if k.graph, err = d.Capture(work); err != nil {
		c.mu.Lock()
		g.on, g.reason = false, err
		c.mu.Unlock()
		return
	}
	first := g.sum(k.list[:1])
	g.known[first] = append(g.known[first], k)
	g.size += len(k.list)
}

// dropGraphs gives graphs back.
func (c *CUDA) dropGraphs(d driver.Driver) {
	for _, list := range c.graphs.known {
		for _, k := range list {
			d.Drop(k.graph) // what it could say has no reader any more
		}
	}
}
