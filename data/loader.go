package data

import (
	"slices"
	"sync"

	"github.com/tunekit/tunekit/formats/fail"
)

// LoaderOptions say how samples become optimizer steps.
type LoaderOptions struct {
	MicroBatch int    // rows a micro-batch: bins of MaxLength when packing, groups otherwise; 0 means 1
	Accum      int    // micro-batches a step; 0 means 1
	MaxLength  int    // longest sample, and size of a bin when packing, or of the longest group where that is more
	Packing    string // bfd or none; empty means bfd
	Shuffle    bool   // a new order every epoch, by Seed
	Seed       uint64

	// Beside is a path in a folder that is there: what a loader knows of each sample
	// lies in a file without a name beside it. Empty keeps it in memory.
	Beside string
}

// Loader lays samples out in optimizer steps. Step is a pure function of the
// samples, the options and its argument, so that resuming needs no state. Of a
// sample the loader knows where it stands in the epoch (8 bytes), and reads it
// when its step is made. Safe for concurrent use.
type Loader struct {
	ex     Examples
	opt    LoaderOptions
	starts *vector[int32] // of groups, and the number of samples; nil: every sample is a group of its own
	rows   int            // of an epoch: the same in every epoch
	bin    int            // tokens of a bin

	mu     sync.Mutex
	epoch  int // of layout
	layout layout
}

// layout is an epoch: row r is samples[starts[r]] … samples[starts[r+1]-1].
type layout struct{ samples, starts *vector[int32] }

// NewLoader checks o and lays out the first epoch. Samples longer than MaxLength
// are an error when packing.
func NewLoader(ex Examples, o LoaderOptions) (*Loader, error) {
	o.MicroBatch, o.Accum = max(o.MicroBatch, 1), max(o.Accum, 1)
	if o.Packing == "" {
		o.Packing = "bfd"
	}
	if o.Packing != "bfd" && o.Packing != "none" {
		return nil, fail.Usagef("ingest", "packing: bfd or packing: none", "packing %q is not known", o.Packing)
	}
	if ex.Len() == 0 {
		return nil, fail.Inputf("ingest", "look at the report: every row was dropped or held back", "no sample to train on")
	}
	l := &Loader{ex: ex, opt: o, starts: groupStarts(ex, o.Beside)}
	if o.Packing == "bfd" {
		if err := l.measure(); err != nil {
			return nil, err
		}
	}
	l.layout = l.lay(0)
	l.rows = l.layout.starts.len() - 1
	return l, nil
}

// groupStarts lists where each group begins, and the number of samples; nil when
// every sample stands alone.
func groupStarts(ex Examples, beside string) *vector[int32] {
	n := 0
	ex.eachGroup(func(int) { n++ })
	if n == ex.Len() && !grouped(ex) {
		return nil
	}
	starts := newVector[int32](beside, 0)
	ex.eachGroup(func(i int) { starts.add(int32(i)) })
	starts.add(int32(ex.Len()))
	return starts
}

// groups is the number of groups, a sample that stands alone being one.
func (l *Loader) groups() int {
	if l.starts == nil {
		return l.ex.Len()
	}
	return l.starts.len() - 1
}

// bounds are the samples lo … hi-1 of group g.
func (l *Loader) bounds(g int32) (lo, hi int32) {
	if l.starts == nil {
		return g, g + 1
	}
	return l.starts.get(int(g)), l.starts.get(int(g) + 1)
}

// length is the number of tokens of group g.
func (l *Loader) length(g int32) int {
	n := 0
	for lo, hi := l.bounds(g); lo < hi; lo++ {
		tokens, _ := l.ex.Size(int(lo))
		n += tokens
	}
	return n
}

// measure finds what does not fit into a bin: a sample is an error, and a group, whose
// samples stay together, makes all bins as long as it is.
func (l *Loader) measure() error {
	l.bin = l.opt.MaxLength
	for g := range int32(l.groups()) {
		lo, hi := l.bounds(g)
		for k := lo; k < hi; k++ {
			n, _ := l.ex.Size(int(k))
			if n <= l.opt.MaxLength {
				continue
			}
			e, err := l.ex.At(int(k))
			if err != nil {
				return err
			}
			return fail.Inputf(e.From.String(), "ingest again with this max_length and overflow: drop, truncate or split",
				"sample has %d tokens, max_length is %d", n, l.opt.MaxLength)
		}
		l.bin = max(l.bin, l.length(g))
	}
	return nil
}

// StepsPerEpoch is the number of steps that see every sample once. The last
// one of an epoch may hold fewer rows.
func (l *Loader) StepsPerEpoch() int {
	per := l.opt.MicroBatch * l.opt.Accum
	return (l.rows + per - 1) / per
}

// Step returns optimizer step i, counted from 0 over all epochs. The caller
// owns the result. An error is one of reading a sample.
func (l *Loader) Step(i int) (Step, error) {
	s := Step{Index: i}
	for _, samples := range l.micro(i) {
		b := Batch{Seq: []int32{0}}
		for _, k := range samples {
			e, err := l.ex.At(int(k))
			if err != nil {
				return Step{}, err
			}
			b.append(&e, k)
		}
		s.Supervised += int64(b.Supervised)
		s.Micro = append(s.Micro, b)
	}
	return s, nil
}

// Row returns the one sample of row i, counted from 0 over all epochs, of a loader
// with a sample a row and a row a step.
func (l *Loader) Row(i int) (Example, error) { return l.ex.At(int(l.micro(i)[0][0])) }

// Sizes returns the number of tokens of each micro-batch of step i, without
// reading them.
func (l *Loader) Sizes(i int) []int {
	micro := l.micro(i)
	out := make([]int, len(micro))
	for m, samples := range micro {
		for _, k := range samples {
			tokens, _ := l.ex.Size(int(k))
			out[m] += tokens
		}
	}
	return out
}

// micro lists the samples of each micro-batch of step i.
func (l *Loader) micro(i int) [][]int32 {
	per := l.opt.MicroBatch * l.opt.Accum
	spe := l.StepsPerEpoch()
	lo := i % spe * per
	hi := min(lo+per, l.rows)
	l.mu.Lock()
	defer l.mu.Unlock()
	if epoch := i / spe; epoch != l.epoch {
		old := l.layout
		l.layout, l.epoch = l.lay(epoch), epoch
		old.samples.close()
		old.starts.close()
	}
	y := l.layout
	var out [][]int32
	for ; lo < hi; lo += l.opt.MicroBatch {
		from, to := y.starts.get(lo), y.starts.get(min(lo+l.opt.MicroBatch, hi))
		out = append(out, slices.Clone(y.samples.at[from:to]))
	}
	return out
}

// lay lays out an epoch. With shuffling the groups are permuted before packing
// (which decides among equal lengths) and the bins after it (which would
// otherwise come longest first).
func (l *Loader) lay(epoch int) layout {
	order := l.numbers(l.groups(), 2*epoch)
	defer order.close()
	if l.opt.Packing == "none" {
		return l.rowsOf(order.at, order.len(), func(row int) (lo, hi int) { return row, row + 1 })
	}
	packed, starts := pack(l.opt.Beside, order.len(), func(i int) int { return l.length(order.at[i]) }, l.bin)
	defer packed.close()
	defer starts.close()
	for i, at := range packed.at {
		packed.at[i] = order.at[at]
	}
	turn := l.numbers(starts.len()-1, 2*epoch+1)
	defer turn.close()
	return l.rowsOf(packed.at, turn.len(), func(row int) (lo, hi int) {
		bin := turn.at[row]
		return int(starts.at[bin]), int(starts.at[bin+1])
	})
}

// numbers are those from 0 to n-1, shuffled where that is asked for.
func (l *Loader) numbers(n, stream int) *vector[int32] {
	a := newVector[int32](l.opt.Beside, n)
	if l.opt.Shuffle {
		permute(a.at, l.opt.Seed, uint64(stream))
	} else {
		count(a.at)
	}
	return a
}

// rowsOf lays the samples of groups out in n rows, each of the groups lo … hi-1.
func (l *Loader) rowsOf(groups []int32, n int, of func(row int) (lo, hi int)) layout {
	y := layout{samples: newVector[int32](l.opt.Beside, l.ex.Len()), starts: newVector[int32](l.opt.Beside, n+1)}
	to := int32(0)
	for row := range n {
		lo, hi := of(row)
		for _, g := range groups[lo:hi] {
			for s, end := l.bounds(g); s < end; s++ {
				y.samples.at[to] = s
				to++
			}
		}
		y.starts.at[row+1] = to
	}
	y.samples.at = y.samples.at[:to] // empty samples are in no bin
	return y
}
