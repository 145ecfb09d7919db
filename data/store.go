package data

import (
	"math"
	"path/filepath"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

// HeldBytes is how much memory an ingest gives to tokens before they go to a
// file, where Options.Beside allows one.
const HeldBytes = 32 << 20

// store keeps the samples of an ingest in the order of their rows: in memory,
// or, when there are more than limit bytes of them and there is a place for it,
// in a temporary folder beside dir.
type store struct {
	dir   string // "": memory only
	limit int64
	info  cacheInfo

	n     int // samples
	held  []Example
	bytes int64 // of held
	temp  *atomic.Folder
	w     *tableWriter
}

// storedFile is the file in the temporary folder.
const storedFile = "rows.arrow"

func (s *store) add(e Example) error {
	if s.n == math.MaxInt32 {
		return fail.Limitf("ingest", "take fewer rows (max_samples), or a longer max_length where rows are split", "more than %s samples", group(math.MaxInt32))
	}
	s.n++
	if s.w != nil {
		return s.w.add(e)
	}
	s.held = append(s.held, e)
	s.bytes += int64(4*len(e.IDs) + 8*len(e.Loss) + 100)
	if s.dir == "" || s.bytes <= s.limit {
		return nil
	}
	return s.spill()
}

// spill moves what is held to a file, where the rest will follow.
func (s *store) spill() (err error) {
	if err := atomic.MkdirAll(filepath.Dir(s.dir)); err != nil {
		return err
	}
	if s.temp, err = atomic.Dir(s.dir); err != nil {
		return err
	}
	if s.w, err = newTableWriter(s.temp, storedFile, &s.info); err != nil {
		return err
	}
	for _, e := range s.held {
		if err := s.w.add(e); err != nil {
			return err
		}
	}
	s.held = nil
	return nil
}

// samples ends the adding and returns what was added.
func (s *store) samples() (source, error) {
	if s.w == nil {
		return list(s.held), nil
	}
	err := s.w.close()
	if s.w = nil; err != nil {
		return nil, err
	}
	return openTable(filepath.Join(s.temp.Temp(), storedFile), &s.info, s.n)
}

// close removes the file.
func (s *store) close() {
	if s.w != nil {
		_ = s.w.close() // its file goes
	}
	if s.temp != nil {
		s.temp.Abort()
	}
}

// view is samples of another source in an order of its own, in groups of its own.
type view struct {
	of     source
	order  []int32  // samples of of
	groups []uint32 // of each of order; nil: none
}

func (v *view) count() int { return len(v.order) }

func (v *view) size(i int) (tokens int, group uint32) {
	tokens, _ = v.of.size(int(v.order[i]))
	if v.groups != nil {
		group = v.groups[i]
	}
	return tokens, group
}

func (v *view) id(i int) uint64 { return v.of.id(int(v.order[i])) }

func (v *view) read(i int) (Example, error) {
	e, err := v.of.read(int(v.order[i]))
	_, e.Group = v.size(i)
	return e, err
}

// examples lists the samples of items. Those of an item of several are a group.
func examples(of source, items []item) Examples {
	v := &view{of: of}
	last := uint32(0)
	for _, it := range items {
		for k := range it.n {
			v.order = append(v.order, it.first+k)
		}
		if it.n > 1 && v.groups == nil {
			v.groups = make([]uint32, len(v.order)-int(it.n))
		}
		if v.groups == nil {
			continue
		}
		id := uint32(0)
		if it.n > 1 {
			last++
			id = last
		}
		for range it.n {
			v.groups = append(v.groups, id)
		}
	}
	return Examples{v}
}
