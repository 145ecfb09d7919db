package train

import (
	"errors"
	"io"
	"math"
	"os"
	"slices"
	"sync"
	"testing"
)

// connected are the Comms of ranks of this process that are connected by pipes, and a
// function for each that closes its ends.
func connected(t *testing.T, size int) (comms []Comm, leave []func()) {
	t.Helper()
	comms, leave = make([]Comm, size), make([]func(), size)
	var peers []io.ReadWriter
	var ends []*os.File
	for rank := 1; rank < size; rank++ {
		toIn, to, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		from, fromOut, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		peers, ends = append(peers, duplex{from, to}), append(ends, from, to)
		comms[rank] = Pipes(rank, size, []io.ReadWriter{duplex{toIn, fromOut}})
		leave[rank] = func() { toIn.Close(); fromOut.Close() }
	}
	comms[0] = Pipes(0, size, peers)
	leave[0] = func() {
		for _, f := range ends {
			f.Close()
		}
	}
	return comms, leave
}

type duplex struct {
	io.Reader
	io.Writer
}

// each runs f for every rank and returns their errors; a rank that ends leaves.
func each(comms []Comm, leave []func(), f func(c Comm) error) []error {
	errs := make([]error, len(comms))
	var wg sync.WaitGroup
	for i, c := range comms {
		wg.Go(func() {
			defer leave[i]()
			errs[i] = f(c)
		})
	}
	wg.Wait()
	return errs
}

// TestPipes: sums in the order of the ranks, of more bytes than a pipe holds; values of
// every rank, in numbers that differ; rank 0's bytes.
func TestPipes(t *testing.T) {
	for _, size := range []int{1, 2, 3, 5} {
		comms, leave := connected(t, size)
		const n = 100_000
		value := func(rank, i int) float32 { return float32(math.Ldexp(float64(i%7+1), -3*rank)) / 3 }
		errs := each(comms, leave, func(c Comm) error {
			if c.Size() != size {
				t.Errorf("size %d of %d", c.Size(), size)
			}
			v := make([]float32, n)
			for i := range v {
				v[i] = value(c.Rank(), i)
			}
			if err := c.Sum(v); err != nil {
				return err
			}
			for i := range v {
				want := value(0, i)
				for rank := 1; rank < size; rank++ {
					want += value(rank, i)
				}
				if v[i] != want {
					t.Errorf("%d ranks: rank %d has the sum %v, want %v", size, c.Rank(), v[i], want)
					break
				}
			}
			mine := make([]float64, c.Rank())
			for i := range mine {
				mine[i] = float64(10*c.Rank() + i)
			}
			all, err := c.Gather(mine)
			if err != nil {
				return err
			}
			for rank := range size {
				if len(all[rank]) != rank || rank > 0 && all[rank][rank-1] != float64(11*rank-1) {
					t.Errorf("rank %d has %v of rank %d", c.Rank(), all[rank], rank)
				}
			}
			b := []byte{byte(c.Rank() + 1), 7}
			if err := c.Broadcast(b); err != nil {
				return err
			}
			if !slices.Equal(b, []byte{1, 7}) {
				t.Errorf("rank %d has %v of rank 0", c.Rank(), b)
			}
			return nil
		})
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPipesBroken: a rank that leaves, or calls something else, is an error that names it
// on rank 0 and ends the others; nobody waits, whatever is called next.
func TestPipesBroken(t *testing.T) {
	for what, act := range map[string]func(c Comm) error{
		"leaves":        func(Comm) error { return nil },
		"calls other":   func(c Comm) error { return c.Broadcast(make([]byte, 8)) },
		"sums another":  func(c Comm) error { return c.Sum(make([]float32, 3)) },
		"gathers later": func(c Comm) error { _, err := c.Gather(nil); _ = c.Sum(nil); return err },
	} {
		comms, leave := connected(t, 3)
		errs := each(comms, leave, func(c Comm) error {
			if c.Rank() == 2 {
				return act(c)
			}
			_, err := c.Gather([]float64{1})
			for range 3 {
				if next := c.Sum(make([]float32, 5)); next != nil && err == nil {
					err = next
				}
			}
			return err
		})
		var gone *Gone
		if !errors.As(errs[0], &gone) || gone.Rank != 2 {
			t.Errorf("%s: rank 0 says %v", what, errs[0])
		}
		if !errors.As(errs[1], &gone) || gone.Rank != 0 {
			t.Errorf("%s: rank 1 says %v", what, errs[1])
		}
	}
}
