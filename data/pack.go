package data

import "slices"

// PackBFD packs samples of the given lengths into bins of size tokens by best
// fit decreasing: longest first (equal lengths in their order), each into the
// bin with the least sufficient room, among those the one that has had that
// room longest; a new bin where none fits. Empty samples are left out. The
// result is bins of indices into lengths. It panics on a length over size.
//
// The same bins as TRL's "bfd", which works in groups of 1,000 rows; here a
// call is one group.
func PackBFD(lengths []int, size int) [][]int32 {
	order := make([]int32, 0, len(lengths))
	for i, n := range lengths {
		if n > size {
			panic("data: PackBFD: a sample is longer than a bin")
		}
		if n > 0 {
			order = append(order, int32(i))
		}
	}
	slices.SortStableFunc(order, func(a, b int32) int { return lengths[b] - lengths[a] })

	var bins [][]int32
	rooms := newRooms(size)
	for _, i := range order {
		n := lengths[i]
		bin, room := rooms.take(n)
		if bin < 0 {
			bin, room = len(bins), size
			bins = append(bins, nil)
		}
		bins[bin] = append(bins[bin], i)
		rooms.put(bin, room-n)
	}
	return bins
}

// rooms finds the open bin with the least room ≥ n: a queue of bins for each
// room, and a tree whose node says whether any queue below it has a bin.
type rooms struct {
	queue [][]int32
	tree  []bool
	leaf  int
}

func newRooms(size int) *rooms {
	leaf := 1
	for leaf <= size {
		leaf *= 2
	}
	return &rooms{queue: make([][]int32, size+1), tree: make([]bool, 2*leaf), leaf: leaf}
}

// take removes and returns a bin and its room, or -1.
func (r *rooms) take(n int) (bin, room int) {
	room = r.atLeast(n)
	if room < 0 {
		return -1, 0
	}
	q := r.queue[room]
	r.queue[room] = q[1:]
	r.set(room, len(q) > 1)
	return int(q[0]), room
}

func (r *rooms) put(bin, room int) {
	if room == 0 {
		return
	}
	r.queue[room] = append(r.queue[room], int32(bin))
	r.set(room, true)
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
