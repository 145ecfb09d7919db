package data

import (
	"maps"
	"math"
	"slices"
)

// finish holds rows back, repeats by weight, orders, and completes the report.
func (in *ingest) finish() (*Dataset, error) {
	if err := in.holdBack(); err != nil {
		return nil, err
	}
	samples, err := in.kept.samples()
	if err == nil {
		err = in.decontaminate(samples)
	}
	if err != nil {
		return nil, err
	}
	train := in.weighted(samples)
	defer train.close()
	d := &Dataset{Key: in.report.Key, MaxLength: in.o.MaxLength, Vocab: int(in.enc.vocab)}
	if tok := in.enc.tok; tok != nil {
		d.Tokens, d.Spellings = tok.Size(), tok.Spellings(tok.Size())
		if t := in.tmpl; t != nil && t.Source() != tok.ChatTemplate() && in.o.ChatTemplate != "" && in.o.ChatTemplate != "model" {
			d.Template = t.Source()
		}
	}
	d.Train, d.Val = examples(samples, in.train, train), examples(samples, in.val, nil)
	d.close = func() {
		d.Train.close()
		d.Val.close()
		in.kept.close()
	}
	if err := in.report.finish(d); err != nil { // while samples are read in the order in which they lie
		return nil, err
	}
	if *in.o.Shuffle {
		d.Train.close()
		mixed := newVector[int32](train.beside, train.len())
		defer mixed.close()
		permute(mixed.at, in.o.Seed, 1<<63)
		for i, k := range mixed.at {
			mixed.at[i] = train.at[k]
		}
		d.Train = examples(samples, in.train, mixed)
	}
	first := []string{noteSeam, noteStraddle, noteControl, noteCutEnd, noteNoBOS}
	for _, n := range append(first, slices.Sorted(maps.Keys(in.notes))...) {
		if c := in.notes[n]; c > 0 {
			in.note(n, c)
			delete(in.notes, n)
		}
	}
	if d.Train.Len() == 0 {
		return nil, in.nothing()
	}
	return d, nil
}

// holdBack moves val_set_size rows to the validation part: those whose content
// has the smallest hashes, so that the order of rows does not matter and
// copies of a row stay on one side.
func (in *ingest) holdBack() error {
	if n, err := in.o.ValRows(math.MaxInt32); err != nil || n == 0 {
		return err // none of any number: the rows need not be counted
	}
	rows, largest := 0, uint64(0)
	in.eachRow(func(key uint64) {
		rows++
		largest = max(largest, key)
	})
	want, err := in.o.HeldRows(rows)
	if err != nil || want == 0 {
		return err
	}
	last := in.rowKey(want - 1) // and its copies
	train := in.train.at[:0]
	for _, it := range in.train.at {
		if key := mix64(it.row); key <= last && key < largest { // the last content is left to train on
			in.val.add(it)
		} else {
			train = append(train, it)
		}
	}
	in.train.at = train
	return nil
}

// eachRow calls f with what decides the part of every training row (not of every
// sample it was split into): equal rows have one key, and no others.
func (in *ingest) eachRow(f func(key uint64)) {
	last := int64(0)
	for _, it := range in.train.at {
		if it.nth != last {
			f(mix64(it.row))
			last = it.nth
		}
	}
}

// rowKey is the key at place n, from 0, of all rows sorted by their keys. It is
// found 16 bits at a time, by counting the rows that have the bits found so far.
func (in *ingest) rowKey(n int) (key uint64) {
	counts := make([]int, 1<<16)
	for shift := 48; shift >= 0; shift -= 16 {
		clear(counts)
		in.eachRow(func(k uint64) {
			if k>>shift>>16 == key {
				counts[k>>shift&0xffff]++
			}
		})
		bits := 0
		for ; n >= counts[bits]; bits++ {
			n -= counts[bits]
		}
		key = key<<16 | uint64(bits)
	}
	return key
}

// decontaminate counts the training rows that are held back too, or stand in what
// they are compared with, and takes them out where that is asked for.
func (in *ingest) decontaminate(samples source) error {
	if in.val.len() == 0 && in.report.Compared == 0 {
		return nil
	}
	held := in.against
	var near *nearIndex
	if in.o.Decontaminate == "near" {
		near = newNearIndex(in.sigs, in.o.DedupThreshold)
		defer near.close()
		for _, sig := range in.likely.at {
			near.add(sig)
		}
	}
	last := int64(0)
	for _, it := range in.val.at {
		held.add(it.row)
		for i := range int(it.owns) {
			held.add(in.owns.get(int(it.own) + i))
		}
		for i := range int32(it.sigs) {
			if near != nil && it.nth != last {
				near.add(it.sig + i)
			}
		}
		last = it.nth
	}
	last = 0
	drop, found := in.o.Decontaminate != "none" && in.o.DedupAction == "drop", false
	train := in.train.at[:0]
	for _, it := range in.train.at {
		if it.nth != last {
			last, found = it.nth, in.stained(it, held, near)
			if found && drop {
				in.unfile(it)
			}
		}
		if !found || !drop {
			train = append(train, it)
			continue
		}
		src := &in.report.Sources[it.source]
		for k := range int(it.n) {
			e, err := samples.read(int(it.first) + k)
			if err != nil {
				return err
			}
			src.Tokens, src.Supervised = src.Tokens-int64(len(e.IDs)), src.Supervised-int64(e.Supervised())
		}
	}
	in.train.at = train
	return nil
}

// stained counts a training row that must not be measured with: one that, or a sample of
// which, is one of held, or that near has the like of.
func (in *ingest) stained(it item, held *idSet, near *nearIndex) bool {
	found := held.has(it.row)
	for i := range int(it.owns) {
		found = found || held.has(in.owns.get(int(it.own)+i))
	}
	if found {
		in.report.Overlap++
		in.report.Sources[it.source].Overlap++
		return true
	}
	var like Like
	for i := range int32(it.sigs) {
		if near == nil {
			break
		}
		if other, similarity, ok := near.find(in.sigs.get(it.sig + i)); ok && similarity > like.Similarity {
			like, found = Like{in.sigs.ref(it.sig), in.sigs.ref(other), similarity}, true
		}
	}
	if found {
		in.report.NearOverlap++
		in.report.Sources[it.source].Overlap++
		in.report.NearHeld = likes(in.report.NearHeld, like)
	}
	return found
}

// unfile counts a row as dropped that was kept.
func (in *ingest) unfile(it item) {
	r := in.report
	switch {
	case !it.long:
		r.Kept--
	case in.o.Overflow == "split":
		r.Split--
	default:
		r.Truncated--
	}
	r.drop("in_evaluation")
	r.Sources[it.source].Dropped++
	r.forget(it.nth, it.script)
	for _, bar := range it.bars {
		if bar > 0 {
			r.Lengths[bar-1].Samples--
		}
	}
}

// weighted lists training items, each as often as its dataset's weight says.
func (in *ingest) weighted(samples source) *vector[int32] {
	out := newVector[int32](in.train.beside, 0)
	for i, it := range in.train.at {
		n := int(it.weight)
		if share(it.row, 0x77656967, it.weight-float64(n)) {
			n++
		}
		if n == 0 {
			in.report.Skipped++
		} else {
			in.report.Repeated += int64(n - 1)
		}
		src := &in.report.Sources[it.source]
		src.Samples += int64(n) * int64(it.n)
		for k := range it.n {
			tokens, _ := samples.size(int(it.first + k))
			src.TrainTokens += int64(n) * int64(tokens)
		}
		for range n {
			out.add(int32(i))
		}
	}
	return out
}

// share tells whether an item belongs to the first part p of all content, by
// a hash that salt decides.
func share(row, salt uint64, p float64) bool {
	return float64(mix64(row^mix64(salt))>>11) < p*math.Exp2(53)
}
