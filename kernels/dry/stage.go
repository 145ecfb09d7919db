package dry

import (
	"slices"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// staged is what Stage counted.
type staged struct {
	*kernels.Staged
	n int64
}

// Stage says that a device with memory of its own has memory of the host, as far as
// Options.Staged allows, and gives none: nothing is copied.
func (d *Dry) Stage(n int64) *kernels.Staged {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.o.Copies || n <= 0 || d.host > d.o.Staged-n {
		return nil
	}
	d.host += n
	s := new(kernels.Staged)
	d.staged = append(d.staged, staged{s, n})
	s.Release = func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.staged = slices.DeleteFunc(d.staged, func(x staged) bool {
			if x.Staged == s {
				d.host -= n
			}
			return x.Staged == s
		})
	}
	return s
}

// pin counts size bytes of what is Host; where they do not fit, copies go, the latest
// first. d.mu is held.
func (d *Dry) pin(size int64) bool {
	if size == 0 {
		return true
	}
	size = kernels.SizeClass(size)
	for n := len(d.staged); n > 0 && d.host > d.o.Staged-size; n-- {
		s := d.staged[n-1]
		d.staged, s.Gone, d.host = d.staged[:n-1], true, d.host-s.n
	}
	if d.host > d.o.Staged-size {
		return false
	}
	d.host += size
	return true
}

// Save does nothing.
func (d *Dry) Save(*kernels.Staged, kernels.Buffer) {}

// LoadStaged counts a weight.
func (d *Dry) LoadStaged(p kernels.Purpose, t dtype.Type, rows, cols int, _ *kernels.Staged) (kernels.Mat, error) {
	return d.Load(p, t, rows, cols, nil, kernels.Borrow)
}
