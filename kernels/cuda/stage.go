package cuda

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

var _ kernels.Stager = (*CUDA)(nil)

// Stage takes pinned memory of the host, as far as Options.Staged allows.
func (c *CUDA) Stage(n int64) *kernels.Staged {
	c.mu.Lock()
	fits := !c.closed && c.err == nil && c.staged+n <= c.mostStaged
	if fits {
		c.staged += n
	}
	c.mu.Unlock()
	if !fits || n == 0 {
		return nil
	}
	back := func() {
		c.mu.Lock()
		c.staged -= n
		c.mu.Unlock()
	}
	var host []byte
	if err := c.wait(func(d driver.Driver) (err error) { host, err = d.Pin(n); return err }); err != nil {
		back() // no failure of the device: others wait longer
		return nil
	}
	return &kernels.Staged{Bytes: host, Release: func() {
		c.mu.Lock()
		closed := c.closed
		c.mu.Unlock()
		if closed {
			return // it went with the context
		}
		back()
		c.post("pinned memory cannot be given back", func(d driver.Driver) error {
			if err := d.Sync(); err != nil {
				return err
			}
			return d.Unpin(host)
		})
	}}
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
