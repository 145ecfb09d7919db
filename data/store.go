package data

import (
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

// HeldBytes is how much memory an ingest gives to tokens before they go to a
// file, where Options.Beside allows one.
const HeldBytes = 32 << 20

// scratchBeside is where files without a name lie for a result that will be at a
// path: in the nearest folder above it that is there.
func scratchBeside(path string) string {
	if path == "" {
		return ""
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if st, err := os.Stat(dir); err == nil && st.IsDir() || dir == filepath.Dir(dir) {
			return filepath.Join(dir, filepath.Base(path))
		}
	}
}

// store keeps the samples of an ingest in the order of their rows: in memory,
// or, when there are more than limit bytes of them and there is a place for it,
// in a file without a name beside a path.
type store struct {
	beside string // "": memory only
	limit  int64
	info   cacheInfo

	n     int // samples
	held  []Example
	bytes int64 // of held
	file  *atomic.Scratch
	w     *tableWriter
}

func (s *store) add(e Example) error {
	if s.n == math.MaxInt32 {
		return fail.Limitf("ingest", "take fewer rows (max_samples), or a longer max_length where rows are split", "more than %s samples", group(math.MaxInt32))
	}
	s.n++
	if s.w != nil {
		return s.w.add(e)
	}
	s.held = append(s.held, e)
	s.bytes += int64(4*len(e.IDs) + 8*len(e.Loss) + len(e.Row) + 100)
	if s.beside == "" || s.bytes <= s.limit {
		return nil
	}
	return s.spill()
}

// spill moves what is held to a file, where the rest will follow.
func (s *store) spill() (err error) {
	if s.file, err = atomic.NewScratch(s.beside); err != nil {
		return err
	}
	s.w = newTableWriter(unclosed{s.file}, &s.info)
	for _, e := range s.held {
		if err := s.w.add(e); err != nil {
			return err
		}
	}
	s.held = nil
	return nil
}

// unclosed is a file that is used after the table in it was written.
type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }

// samples ends the adding and returns what was added.
func (s *store) samples() (source, error) {
	if s.w == nil {
		return list(s.held), nil
	}
	err := s.w.close()
	if s.w = nil; err != nil {
		return nil, err
	}
	file, err := formats.MapScratch(s.file)
	if err != nil {
		return nil, err
	}
	return newTable(file, s.beside, &s.info, s.n)
}

// close gives the file's room back.
func (s *store) close() {
	if s.w != nil {
		_ = s.w.close() // its file goes
	}
	if s.file != nil {
		s.file.Close()
	}
}

// view is samples of another source in an order of its own, in groups of its own.
type view struct {
	of     source
	order  *vector[int32]  // samples of of
	groups *vector[uint32] // of each of order; nil: none
}

func (v *view) count() int { return v.order.len() }

func (v *view) size(i int) (tokens int, group uint32) {
	tokens, _ = v.of.size(int(v.order.get(i)))
	if v.groups != nil {
		group = v.groups.get(i)
	}
	return tokens, group
}

func (v *view) mark(i int) float32 { return v.of.mark(int(v.order.get(i))) }

func (v *view) id(i int) uint64 { return v.of.id(int(v.order.get(i))) }

func (v *view) read(i int) (Example, error) {
	e, err := v.of.read(int(v.order.get(i)))
	_, e.Group = v.size(i)
	return e, err
}

// examples lists the samples of items, in the order of which where that is not nil.
// Those of an item of several are a group.
func examples(of source, items *vector[item], which *vector[int32]) Examples {
	n := items.len()
	if which != nil {
		n = which.len()
	}
	at := func(i int) item {
		if which != nil {
			i = int(which.get(i))
		}
		return items.get(i)
	}
	total, grouped := 0, false
	for i := range n {
		it := at(i)
		total += int(it.n)
		grouped = grouped || it.n > 1
	}
	v := &view{of: of, order: newVector[int32](items.beside, total)}
	if grouped {
		v.groups = newVector[uint32](items.beside, total)
	}
	last, to := uint32(0), 0
	for i := range n {
		it := at(i)
		if it.n > 1 {
			last++
		}
		for k := range it.n {
			v.order.at[to] = it.first + k
			if it.n > 1 {
				v.groups.at[to] = last
			}
			to++
		}
	}
	return Examples{v}
}
