package data

// PackBFD packs samples of the given lengths into bins of size tokens by best
// fit decreasing: longest first (equal lengths in their order), each into the
// bin with the least sufficient room, among those the one that has had that
// room longest; a new bin where none fits. Empty samples are left out. The
// result is bins of indices into lengths. It panics on a length over size.
//
// The same bins as TRL's "bfd", which works in groups of 1,000 rows; here a
// call is one group.
func PackBFD(lengths []int, size int) [][]int32 {
	samples, starts := pack("", len(lengths), func(i int) int { return lengths[i] }, size)
	bins := make([][]int32, starts.len()-1)
	for b := range bins {
		bins[b] = samples.at[starts.at[b]:starts.at[b+1]]
	}
	return bins
}

// Bins is the number of bins of size tokens into which PackBFD lays ex, of whose
// samples longer ones count as size.
func Bins(ex Examples, size int) int {
	counts := lengthCounts(ex.Len(), func(i int) int {
		n, _ := ex.Size(i)
		return min(n, size)
	}, size)
	open, bins := newRooms(size), 0
	waiting := make([]int, size+1) // bins by their room
	for n := size; n > 0; n-- {
		for range counts[n] {
			room := open.atLeast(n)
			if room < 0 {
				bins++
				room = size
			} else if waiting[room]--; waiting[room] == 0 {
				open.set(room, false)
			}
			if room > n {
				waiting[room-n]++
				open.set(room-n, true)
			}
		}
	}
	return bins
}

// lengthCounts counts the samples of each length.
func lengthCounts(n int, length func(i int) int, size int) []int32 {
	counts := make([]int32, size+1)
	for i := range n {
		k := length(i)
		if k > size {
			panic("data: PackBFD: a sample is longer than a bin")
		}
		counts[k]++
	}
	return counts
}

// pack is PackBFD of n samples: bin b is samples[starts[b]] … samples[starts[b+1]-1].
// The vectors lie beside a path.
func pack(beside string, n int, length func(i int) int, size int) (samples, starts *vector[int32]) {
	counts := lengthCounts(n, length, size)
	order := newVector[int32](beside, n-int(counts[0])) // the longest first
	defer order.close()
	next := make([]int32, size+1) // place in order of the next sample of each length
	for k, at := size, int32(0); k > 0; k-- {
		next[k] = at
		at += counts[k]
	}
	for i := range n {
		if k := length(i); k > 0 {
			order.at[next[k]] = int32(i)
			next[k]++
		}
	}
	bin := newVector[int32](beside, order.len()) // of each of order
	defer bin.close()
	behind := newVector[int32](beside, order.len()) // of a bin: the next one that has its room
	defer behind.close()
	open, bins := newRooms(size), int32(0)
	queues := make([]struct{ first, last int32 }, size+1) // of bins with a room
	for k, at := size, 0; k > 0; k-- {
		for range counts[k] {
			room, b := open.atLeast(k), bins
			if room < 0 {
				bins++
				room = size
			} else {
				q := &queues[room]
				b = q.first
				if q.first = behind.at[b]; b == q.last {
					open.set(room, false)
				}
			}
			bin.at[at] = b
			at++
			if room == k {
				continue
			}
			if q := &queues[room-k]; open.tree[open.leaf+room-k] {
				behind.at[q.last], q.last = b, b
			} else {
				q.first, q.last = b, b
				open.set(room-k, true)
			}
		}
	}
	samples, starts = newVector[int32](beside, order.len()), newVector[int32](beside, int(bins)+1)
	for _, b := range bin.at {
		starts.at[b+1]++
	}
	for b := range bins {
		starts.at[b+1] += starts.at[b]
	}
	place := behind.at[:bins] // of the next sample of a bin
	copy(place, starts.at)
	for i, b := range bin.at {
		samples.at[place[b]] = order.at[i]
		place[b]++
	}
	return samples, starts
}

// rooms finds the least room ≥ n that some open bin has: a tree whose node says
// whether there is a bin with any room below it.
type rooms struct {
	tree []bool
	leaf int
}

func newRooms(size int) *rooms {
	leaf := 1
	for leaf <= size {
		leaf *= 2
	}
	return &rooms{tree: make([]bool, 2*leaf), leaf: leaf}
}

func (r *rooms) set(room int, open bool) {
	i := r.leaf + room
	r.tree[i] = open
	for i /= 2; i > 0; i /= 2 {
		r.tree[i] = r.tree[2*i] || r.tree[2*i+1]
	}
}

// atLeast returns the least room ≥ n of an open bin, or -1.
func (r *rooms) atLeast(n int) int {
	i := r.leaf + n
	for !r.tree[i] {
		for i&1 == 1 { // a right child: nothing more to its right under this parent
			i /= 2
		}
		if i == 0 {
			return -1
		}
		i++
	}
	for i < r.leaf {
		i *= 2
		if !r.tree[i] {
			i++
		}
	}
	return i - r.leaf
}
