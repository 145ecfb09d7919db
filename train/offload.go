package train

import (
	"strings"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// The words for what lies in a mapped file, and in the host's memory where the device
// has its own.
const (
	onDisk = "disk"
	inHost = "cpu"
)

// offloads reports whether what v is for lies elsewhere than in the device's memory.
func offloads(v string) bool { return v == onDisk || v == inHost }

// onProcessor reports whether a device is the processor, or counts for no device by name.
func onProcessor(dev kernels.Backend) bool {
	name := dev.Info().Name
	return strings.HasPrefix(name, "cpu") || name == "dry"
}

// checkOffload refuses files that a device cannot read in place, and the host's memory
// where there is no other.
func (c *Config) checkOffload(dev kernels.Backend) error {
	for _, k := range []struct{ key, v string }{{"offload_optimizer", c.OffloadOptimizer}, {"activation_offloading", c.ActivationOffloading}} {
		switch {
		case k.v == onDisk && !onProcessor(dev):
			return fail.Usagef("train."+k.key, k.key+": "+inHost+" keeps it in the host's memory; or train with --device cpu", "%s: %s keeps memory in a file that the processor reads in place, device %s cannot", k.key, onDisk, dev.Info().Name)
		case k.v == inHost && onProcessor(dev):
			return fail.Usagef("train."+k.key, "leave it out, or "+k.key+": "+onDisk, "%s: %s keeps memory of a GPU in the host's, which device %s has", k.key, inHost, dev.Info().Name)
		}
	}
	return nil
}

// spill is memory for what is long idle. It lies in files without a name: the system
// writes it to the disk when it needs the room, and it is no anonymous memory. Of a
// device with memory of its own it is the host's.
type spill struct {
	dev    kernels.Backend
	host   bool
	beside string
	files  []*atomic.Scratch
	left   []byte // of the last file
	total  int    // bytes of all files
	taken  map[kernels.Buffer][]byte
	free   map[int][][]byte // what was given back, by size
	now    int64            // bytes taken
	most   int64            // at one time
}

func newSpill(dev kernels.Backend, beside string) *spill {
	return &spill{dev: dev, beside: beside, taken: map[kernels.Buffer][]byte{}, free: map[int][][]byte{}}
}

// Files are as large as all before them together, within these bounds.
const (
	leastSpill = 1 << 20
	mostSpill  = 256 << 20
)

// Take returns n elements, zero when they are new and of a file.
func (s *spill) Take(t dtype.Type, n int) (kernels.Buffer, error) {
	if s.host {
		return s.dev.Alloc(kernels.Host, t, n)
	}
	var b []byte
	if s.dev.Info().Level != "dry" { // a plan makes no files
		var err error
		if b, err = s.bytes((n*t.Kind.Info().Bytes + 63) &^ 63); err != nil {
			return nil, err
		}
	}
	m, err := s.dev.Load(kernels.Mapped, t, 1, n, b, kernels.Borrow)
	if err != nil {
		return nil, err
	}
	s.taken[m.Buffer] = b
	s.now += int64(n * t.Kind.Info().Bytes)
	s.most = max(s.most, s.now)
	return m.Buffer, nil
}

// Filled says that b will not be read soon.
func (s *spill) Filled(b kernels.Buffer) {
	if !s.host {
		atomic.LetGo(s.taken[b])
	}
}

// Give takes b back.
func (s *spill) Give(b kernels.Buffer) {
	if s.host {
		s.dev.Free(b)
		return
	}
	if mem := s.taken[b]; mem != nil {
		atomic.LetGo(mem)
		s.free[len(mem)] = append(s.free[len(mem)], mem)
	}
	delete(s.taken, b)
	s.now -= int64(b.Len() * b.Type().Kind.Info().Bytes)
	s.dev.Free(b)
}

func (s *spill) bytes(size int) ([]byte, error) {
	if f := s.free[size]; len(f) > 0 {
		s.free[size] = f[:len(f)-1]
		return f[len(f)-1], nil
	}
	if size > len(s.left) {
		n := max(size, leastSpill, min(s.total, mostSpill))
		f, err := atomic.NewScratch(s.beside)
		if err != nil {
			return nil, err
		}
		s.files = append(s.files, f)
		if s.left, err = f.Map(int64(n)); err != nil {
			return nil, err
		}
		s.total += n
	}
	b := s.left[:size:size]
	s.left = s.left[size:]
	return b, nil
}

// rest tells the system that nothing of it is needed soon.
func (s *spill) rest() {
	for _, f := range s.files {
		f.LetGo()
	}
}

// close gives the files back; nothing of them may be used any more.
func (s *spill) close() {
	for _, f := range s.files {
		f.Close()
	}
	s.files, s.left = nil, nil
}
