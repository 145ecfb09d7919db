package data

import (
	"sync"

	"github.com/tunekit/tunekit/formats/fail"
)

// LoaderOptions say how samples become optimizer steps.
type LoaderOptions struct {
	MicroBatch int    // rows a micro-batch: bins of MaxLength when packing, samples otherwise; 0 means 1
	Accum      int    // micro-batches a step; 0 means 1
	MaxLength  int    // size of a bin when packing
	Packing    string // bfd or none; empty means bfd
	Shuffle    bool   // a new order every epoch, by Seed
	Seed       uint64
}

// Loader lays samples out in optimizer steps. Step is a pure function of the
// samples, the options and its argument, so that resuming needs no state.
// Safe for concurrent use.
type Loader struct {
	ex   []Example
	opt  LoaderOptions
	rows int // bins or samples an epoch: the same in every epoch

	mu     sync.Mutex
	epoch  int // of layout
	layout [][]int32
}

// NewLoader checks o and lays out the first epoch. ex is kept, not copied.
// Samples longer than MaxLength are an error when packing.
func NewLoader(ex []Example, o LoaderOptions) (*Loader, error) {
	o.MicroBatch, o.Accum = max(o.MicroBatch, 1), max(o.Accum, 1)
	if o.Packing == "" {
		o.Packing = "bfd"
	}
	if o.Packing != "bfd" && o.Packing != "none" {
		return nil, fail.Usagef("ingest", "packing: bfd or packing: none", "packing %q is not known", o.Packing)
	}
	if len(ex) == 0 {
		return nil, fail.Inputf("ingest", "look at the report: every row was dropped or held back", "no sample to train on")
	}
	if o.Packing == "bfd" {
		for i := range ex {
			if len(ex[i].IDs) > o.MaxLength {
				return nil, fail.Inputf(ex[i].From.String(), "ingest again with this max_length and overflow: drop, truncate or split",
					"sample has %d tokens, max_length is %d", len(ex[i].IDs), o.MaxLength)
			}
		}
	}
	l := &Loader{ex: ex, opt: o}
	l.layout = l.lay(0)
	l.rows = len(l.layout)
	return l, nil
}

// StepsPerEpoch is the number of steps that see every sample once. The last
// one of an epoch may hold fewer rows.
func (l *Loader) StepsPerEpoch() int {
	per := l.opt.MicroBatch * l.opt.Accum
	return (l.rows + per - 1) / per
}

// Rows is the number of bins (packing) or samples of an epoch.
// Step returns optimizer step i, counted from 0 over all epochs. The caller
// owns the result.
func (l *Loader) Step(i int) Step {
	per := l.opt.MicroBatch * l.opt.Accum
	spe := l.StepsPerEpoch()
	rows := l.epochLayout(i / spe)
	lo := i % spe * per
	rows = rows[lo:min(lo+per, len(rows))]
	s := Step{Index: i}
	for len(rows) > 0 {
		n := min(l.opt.MicroBatch, len(rows))
		b := Batch{Seq: []int32{0}}
		for _, row := range rows[:n] {
			for _, e := range row {
				b.append(&l.ex[e])
			}
		}
		s.Supervised += int64(b.Supervised)
		s.Micro = append(s.Micro, b)
		rows = rows[n:]
	}
	return s
}

func (l *Loader) epochLayout(epoch int) [][]int32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if epoch != l.epoch {
		l.layout, l.epoch = l.lay(epoch), epoch
	}
	return l.layout
}

// lay returns the rows of an epoch, each a list of samples. With shuffling the
// samples are permuted before packing (which decides among equal lengths) and
// the bins after it (which would otherwise come longest first).
func (l *Loader) lay(epoch int) [][]int32 {
	var order []int32
	if l.opt.Shuffle {
		order = permutation(len(l.ex), l.opt.Seed, uint64(2*epoch))
	} else {
		order = make([]int32, len(l.ex))
		for i := range order {
			order[i] = int32(i)
		}
	}
	if l.opt.Packing == "none" {
		rows := make([][]int32, len(order))
		for i := range rows {
			rows[i] = order[i : i+1]
		}
		return rows
	}
	lengths := make([]int, len(order))
	for i, e := range order {
		lengths[i] = len(l.ex[e].IDs)
	}
	bins := PackBFD(lengths, l.opt.MaxLength)
	for _, b := range bins {
		for i, at := range b {
			b[i] = order[at]
		}
	}
	if !l.opt.Shuffle {
		return bins
	}
	rows := make([][]int32, len(bins))
	for i, p := range permutation(len(bins), l.opt.Seed, uint64(2*epoch+1)) {
		rows[i] = bins[p]
	}
	return rows
}
