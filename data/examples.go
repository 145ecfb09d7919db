package data

// Examples is an ordered list of samples, in memory or in a cache on disk, of
// which only an index is then held. The zero value is an empty list. It may be
// copied, and used by several goroutines.
type Examples struct{ src source }

// source is where samples lie.
type source interface {
	count() int
	// size and id are known without reading the sample.
	size(i int) (tokens int, group uint32)
	id(i int) uint64
	mark(i int) float32
	// read returns a sample of its own memory, or of memory that no one changes.
	read(i int) (Example, error)
}

// InMemory is a list of ex, which is kept, not copied.
func InMemory(ex ...Example) Examples { return Examples{list(ex)} }

// Len is the number of samples.
func (x Examples) Len() int {
	if x.src == nil {
		return 0
	}
	return x.src.count()
}

// Size returns the number of tokens and the group of sample i from the index.
func (x Examples) Size(i int) (tokens int, group uint32) { return x.src.size(i) }

// Mark returns the mark of sample i from the index.
func (x Examples) Mark(i int) float32 { return x.src.mark(i) }

// ID returns the ID of sample i from the index.
func (x Examples) ID(i int) uint64 { return x.src.id(i) }

// At reads sample i, which the caller must not change. An error wraps
// formats.ErrCorrupt: the cache is damaged.
func (x Examples) At(i int) (Example, error) { return x.src.read(i) }

// Read reads the first n samples, or all where there are fewer.
func (x Examples) Read(n int) ([]Example, error) {
	out := make([]Example, max(0, min(n, x.Len())))
	for i := range out {
		var err error
		if out[i], err = x.At(i); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ReadTokens reads the first samples that have n tokens together, or all where
// they have fewer.
func (x Examples) ReadTokens(n int) ([]Example, error) {
	k := 0
	for ; k < x.Len() && n > 0; k++ {
		tokens, _ := x.Size(k)
		n -= tokens
	}
	return x.Read(k)
}

// Firsts leaves out all but the first sample of each group, the chosen answer of
// a pair, and unwanted answers; what is left stands alone.
func (x Examples) Firsts() Examples {
	var firsts []int32
	x.eachGroup(func(i int) {
		if _, group := x.Size(i); group != 0 || x.Mark(i) >= 0 {
			firsts = append(firsts, int32(i))
		}
	})
	if len(firsts) == x.Len() {
		return x
	}
	v := &view{of: x.src, order: newVector[int32]("", len(firsts))}
	copy(v.order.at, firsts)
	return Examples{v}
}

// eachGroup calls f with the first sample of each group, and each that stands alone.
func (x Examples) eachGroup(f func(i int)) {
	last := uint32(0)
	for i := range x.Len() {
		_, group := x.Size(i)
		if group == 0 || group != last {
			f(i)
		}
		last = group
	}
}

// grouped tells whether some samples are learned from together.
func grouped(x Examples) bool {
	for i := range x.Len() {
		if _, group := x.Size(i); group != 0 {
			return true
		}
	}
	return false
}

// hasMarks tells whether some samples say more than their text.
func hasMarks(x Examples) bool {
	for i := range x.Len() {
		if x.Mark(i) != 0 {
			return true
		}
	}
	return false
}

// close gives back the room of an order of its own.
func (x Examples) close() {
	if v, ok := x.src.(*view); ok {
		v.order.close()
		v.groups.close()
	}
}

// list is samples in memory.
type list []Example

func (l list) count() int { return len(l) }

func (l list) size(i int) (int, uint32) { return len(l[i].IDs), l[i].Group }

func (l list) id(i int) uint64 { return l[i].ID }

func (l list) mark(i int) float32 { return l[i].Mark }

func (l list) read(i int) (Example, error) { return l[i], nil }
