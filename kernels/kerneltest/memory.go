package kerneltest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// testMemory: what goes in comes out, slices share, purposes are counted.
func testMemory(s *suite) {
	s.in("upload", func(s *suite) {
		for _, k := range []dtype.Kind{dtype.F32, dtype.BF16, dtype.F16, dtype.I32, dtype.I64, dtype.U8} {
			n, size := 1001, k.Info().Bytes
			b := s.alloc(k, n)
			if b.Len() != n || b.Type() != dtype.Of(k) {
				s.Errorf("%v: buffer of %d %v", k, b.Len(), b.Type())
			}
			src := s.bytes(n * size)
			s.b.Upload(b, src)
			got := make([]byte, n*size)
			if err := s.b.Download(got, b); err != nil || !bytes.Equal(got, src) {
				s.Errorf("%v: downloaded bytes differ (%v)", k, err)
			}
			part := s.b.Slice(s.b.Slice(b, 10, 100), 5, 20)
			got = got[:20*size]
			if err := s.b.Download(got, part); err != nil || !bytes.Equal(got, src[15*size:35*size]) {
				s.Errorf("%v: slice of a slice differs (%v)", k, err)
			}
		}
	})
	s.in("fill", func(s *suite) {
		b := s.up(s.normal(70000, 1))
		s.b.Fill(s.b.Slice(b, 1, 69998), 2.5)
		got := s.get(b)
		for i, v := range got[1:69999] {
			if v != 2.5 {
				s.Fatalf("element %d is %v", i+1, v)
			}
		}
		if got[0] == 2.5 || got[69999] == 2.5 {
			s.Error("filled outside of the slice")
		}
	})
	s.in("load", testLoad)
	s.in("counts", testCounts)
	s.in("run", func(s *suite) {
		want := errors.New("step failed")
		if err := s.b.Run(func() error { return want }); !errors.Is(err, want) {
			s.Errorf("Run returned %v", err)
		}
	})
}

func (s *suite) bytes(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(s.rng.Uint32())
	}
	return p
}

func testLoad(s *suite) {
	for _, u := range []kernels.Use{kernels.Copy, kernels.Borrow} {
		for off := range 3 { // bytes of a mapped file need not be aligned
			x := s.normal(6*8, 1)
			host := make([]byte, 4*len(x)+off)[off:]
			for i, v := range x {
				binary.LittleEndian.PutUint32(host[4*i:], math.Float32bits(float32(v)))
			}
			m, err := s.b.Load(kernels.Weights, dtype.Of(dtype.F32), 6, 8, host, u)
			if err != nil {
				s.Fatal(err)
			}
			if u == kernels.Copy {
				clear(host)
			}
			if m.Rows != 6 || m.Cols != 8 || m.Row0 != 0 || m.Of != 6 {
				s.Errorf("loaded as %d×%d, row %d of %d", m.Rows, m.Cols, m.Row0, m.Of)
			}
			y := s.alloc(dtype.F32, 3*8)
			s.b.Dequantize(y, m.RowsOf(2, 3))
			s.close("rows 2 to 4", s.get(y), x[2*8:5*8], 0)
			s.b.Free(m.Buffer)
		}
	}
}

func testCounts(s *suite) {
	before := s.b.Info().Mem
	b, err := s.b.Alloc(kernels.Optimizer, dtype.Of(dtype.BF16), 1000)
	if err != nil {
		s.Fatal(err)
	}
	if got := s.b.Info().Mem.Now[kernels.Optimizer] - before.Now[kernels.Optimizer]; got != 2000 {
		s.Errorf("1000 bf16 counted as %d bytes", got)
	}
	s.b.Free(b)
	s.b.Free(nil)
	after := s.b.Info()
	if after.Mem.Now != before.Now {
		s.Errorf("after Free %v, before %v", after.Mem.Now, before.Now)
	}
	defer func() {
		s.b.ResetCounters()
		if in := s.b.Info(); in.Mem.Peak != in.Mem.Now || in.PeakTotal != kernels.Total(in.Mem.Now) {
			s.Errorf("after ResetCounters in use %v, peak %v, total %d", in.Mem.Now, in.Mem.Peak, in.PeakTotal)
		}
	}()
	if after.Mem.Peak[kernels.Optimizer] < before.Now[kernels.Optimizer]+2000 || after.PeakTotal < kernels.Total(before.Now)+2000 {
		s.Errorf("peak %v, total %d", after.Mem.Peak, after.PeakTotal)
	}
}
