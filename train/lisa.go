package train

import (
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// LISA trains some layers at a time, drawn anew every so many steps, and what is outside
// the layers in all of them (arXiv:2403.17919; the keys are axolotl's).
type LISA struct {
	Layers   int `yaml:"lisa_n_layers,omitempty" doc:"of adapter: none: how many layers learn at a time, drawn by the seed; embedding, head and last norm always do" unset:"all" range:"[1,100000]"`
	Interval int `yaml:"lisa_step_interval,omitempty" doc:"steps until other layers are drawn; needs lisa_n_layers" range:"[1,1000000000]"`
}

// checkLISA refuses what does not go with layers that rest.
func (c *Config) checkLISA() error {
	if c.LISA == (LISA{}) {
		return nil
	}
	k := optimizers[c.Optimizer]
	switch {
	case c.LISA.Layers == 0:
		return fail.Usagef("train.lisa_step_interval", "lisa_n_layers: 2", "lisa_step_interval says how often layers are drawn, and lisa_n_layers, which says how many, is missing")
	case c.LISA.Interval == 0:
		return fail.Usagef("train.lisa_n_layers", "lisa_step_interval: 20", "lisa_n_layers says how many layers learn at a time, and lisa_step_interval, which says for how many steps, is missing")
	case c.Adapter != "none":
		return fail.Usagef("train.lisa_n_layers", "lora.layers_to_transform chooses layers of an adapter", "lisa_n_layers belongs to adapter: none, not %s", c.Adapter)
	case k.matrix != nil || k.free() || k.kind == kernels.Prodigy:
		return fail.Usagef("train.lisa_n_layers", "optimizer: adamw", "optimizer %s remembers what all parameters did together, and with lisa_n_layers some rest", c.Optimizer)
	case c.DType == fp16:
		return fail.Usagef("train.lisa_n_layers", "dtype: bf16", "dtype: fp16 leaves steps out, which lisa_n_layers counts for each layer")
	}
	return nil
}

// turns says which layers learn in which step. Nothing of it is state: it follows from
// the seed.
type turns struct {
	LISA
	seed   uint64
	layers []int // that have parameters
	// counts are how many of the first counted steps each layer learned in.
	counts  map[int]int
	counted int
}

// newTurns is nil where all parameters learn in every step.
func newTurns(c *Config, ps []param) (*turns, error) {
	if c.LISA.Layers == 0 {
		return nil, nil
	}
	in := map[int]bool{}
	for _, p := range ps {
		if p.layer >= 0 {
			in[p.layer] = true
		}
	}
	t := &turns{LISA: c.LISA, seed: uint64(*c.Seed), layers: slices.Sorted(maps.Keys(in))}
	if t.Layers > len(t.layers) {
		return nil, fail.Usagef("train.lisa_n_layers", "leave it out to train all of them", "lisa_n_layers is %d, and %d layers have weights that learn", t.Layers, len(t.layers))
	}
	return t, nil
}

// learn are the layers that learn in a step, from 1.
func (t *turns) learn(step int) map[int]bool {
	rng := rand.New(rand.NewPCG(t.seed, uint64((step-1)/t.Interval)))
	out := map[int]bool{}
	for i, k := range t.layers { // each with the chance that is left for it
		if rng.Uint64N(uint64(len(t.layers)-i)) < uint64(t.Layers-len(out)) {
			out[k] = true
		}
	}
	return out
}

// updates is how often p has been updated after a step in which it learns, 0 in one
// in which it rests.
func (t *turns) updates(p *param, step int) int {
	if t == nil || p.layer < 0 {
		return step
	}
	if t.counts == nil || t.counted > step {
		t.counts, t.counted = map[int]int{}, 0
	}
	for t.counted < step { // a step of one interval at a time
		first := t.counted + 1
		last := min(step, (t.counted/t.Interval+1)*t.Interval)
		for k := range t.learn(first) {
			t.counts[k] += last - t.counted
		}
		t.counted = last
	}
	if !t.learn(step)[p.layer] {
		return 0
	}
	return t.counts[p.layer]
}

// focus freezes the parameters that rest in a step, from 1: no gradient is made for them.
func (o *optimizer) focus(step int) {
	if o.turns != nil {
		o.freeze(o.turns.learn(step))
	}
}

// focusMost lets the layers of most values learn, whose steps take most memory.
func (o *optimizer) focusMost() {
	if o.turns == nil {
		return
	}
	size := map[int]int{}
	for _, p := range o.params {
		size[p.layer] += p.Len()
	}
	layers := slices.Clone(o.turns.layers)
	slices.SortStableFunc(layers, func(a, b int) int { return size[b] - size[a] })
	learn := map[int]bool{}
	for _, k := range layers[:o.turns.Layers] {
		learn[k] = true
	}
	o.freeze(learn)
}

// freeze keeps gradients for the layers that learn, and for what is outside of layers.
func (o *optimizer) freeze(learn map[int]bool) {
	for i := range o.params {
		p := &o.params[i]
		if p.Grad = nil; p.layer < 0 || learn[p.layer] {
			p.Grad = o.slice(o.g, p)
		}
	}
}

// awake splits the update of a step into one for each number of updates that its
// parameters have had, and sets their rates: rate is the schedule's.
func (o *optimizer) awake(step int, rate float64) []*kernels.OptimArgs {
	by := map[int]*kernels.OptimArgs{}
	for i, p := range o.spans {
		n := o.turns.updates(p, step)
		if n == 0 {
			continue
		}
		a := by[n]
		if a == nil {
			one := o.plain
			a, by[n] = &one, &one
			a.Spans, a.Step = nil, n
		}
		s := o.plain.Spans[i]
		s.LR = o.c.at(&a.OptimRule, n, rate) * p.rate
		a.Spans = append(a.Spans, s)
	}
	var out []*kernels.OptimArgs
	for _, n := range slices.Sorted(maps.Keys(by)) {
		out = append(out, by[n])
	}
	return out
}
