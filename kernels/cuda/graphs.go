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
// run. A run that was seen twice is captured as a graph of the driver; from then on its
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
	seen  map[uint64]int         // runs by their launches
	n     int                    // graphs
}

// captured is a run as a graph.
type captured struct {
	list  []task
	graph driver.Graph
}

// A graph has at least and at most so many launches; there are at most so many graphs,
// and runs that are remembered.
const (
	leastLaunches = 8
	mostLaunches  = 1 << 14
	mostGraphs    = 64
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
			g.held = append(g.held, t)
			return
		}
		c.letGo(d)
	}
	c.start(d, t)
	if len(g.log) <= mostLaunches {
		g.log = append(g.log, t)
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
	if len(g.held) > 0 {
		if i := slices.IndexFunc(g.may, func(k *captured) bool { return len(k.list) == len(g.held) }); i >= 0 {
			c.attempt("a graph of kernels", func() error { return d.Replay(g.may[i].graph) })
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
	if n < leastLaunches || n > mostLaunches || !g.on || g.n == mostGraphs || c.lost() != nil {
		return
	}
	if len(g.seen) == mostSeen {
		clear(g.seen)
	}
	sum := g.sum(g.log)
	if g.seen[sum]++; g.seen[sum] == 2 {
		c.capture(d)
	}
}

// capture makes a graph of the run that ends. Where the driver cannot, there are none
// from then on, and Describe says why.
func (c *CUDA) capture(d driver.Driver) {
	g := &c.graphs
	k := &captured{list: slices.Clone(g.log)}
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
	g.n++
}

// dropGraphs gives graphs back.
func (c *CUDA) dropGraphs(d driver.Driver) {
	for _, list := range c.graphs.known {
		for _, k := range list {
			d.Drop(k.graph) // what it could say has no reader any more
		}
	}
}
