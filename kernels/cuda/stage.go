package cuda

import (
	"fmt"
	"slices"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

var _ kernels.Stager = (*CUDA)(nil)

// Stage takes pinned memory of the host, as far as Options.Staged allows and until it is
// needed for what is Host.
func (c *CUDA) Stage(n int64) *kernels.Staged {
	c.mu.Lock()
	fits := !c.closed && c.err == nil && n > 0 && c.staged <= c.mostStaged-n
	if fits {
		c.staged += n
	}
	c.mu.Unlock()
	if !fits {
		return nil
	}
	s := new(kernels.Staged)
	err := c.wait(func(d driver.Driver) (err error) { s.Bytes, err = d.Pin(n); return err })
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.staged -= n // no failure of the device: others wait longer
		return nil
	}
	c.copies = append(c.copies, s)
	s.Release = func() {
		c.mu.Lock()
		if c.closed || s.Gone {
			c.mu.Unlock()
			return // it went with the context, or before
		}
		c.copies = slices.DeleteFunc(c.copies, func(x *kernels.Staged) bool { return x == s })
		c.staged -= n
		c.mu.Unlock()
		c.unpin(nil, [][]byte{s.Bytes})
	}
	return s
}

// part is the bytes of s that a buffer of size has.
func part(what string, s *kernels.Staged, size int64) []byte {
	if int64(len(s.Bytes)) != size {
		panic(fmt.Sprintf("cuda: %s: %d bytes of the host for %d", what, len(s.Bytes), size))
	}
	return s.Bytes
}

// Save copies src to the host's memory, and does not wait for it.
func (c *CUDA) Save(s *kernels.Staged, src kernels.Buffer) {
	b := src.(*Buf)
	from, to := ptr(b), part("save", s, b.size)
	c.post("bytes for the host", func(d driver.Driver) error { return d.Save(to, from) })
}

// LoadStaged makes a weight whose bytes come in the stream of copies.
func (c *CUDA) LoadStaged(p kernels.Purpose, t dtype.Type, rows, cols int, s *kernels.Staged) (kernels.Mat, error) {
	m, err := c.Load(p, t, rows, cols, nil, kernels.Borrow)
	if err != nil {
		return m, err
	}
	b := m.Buffer.(*Buf)
	to, from := b.at, part("load", s, b.size)
	coming := new(driver.Event)
	c.post("a weight from the host", func(d driver.Driver) (err error) { *coming, err = d.Ahead(to, from); return err })
	b.coming = coming
	return m, nil
}

// await has what is queued from now on wait for the bytes of b.
func (c *CUDA) await(b *Buf) {
	c.mu.Lock()
	coming := b.coming
	b.coming = nil
	c.mu.Unlock()
	if coming == nil {
		return
	}
	c.post("a weight from the host", func(d driver.Driver) error {
		if err := d.Await(*coming); err != nil {
			return err
		}
		return d.Release(*coming)
	})
}
