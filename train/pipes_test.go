package train

import (
	"errors"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// connected are the Comms of ranks of this process that are connected by pipes, and a
// function for each that closes its ends.
func connected(t *testing.T, size int, patience time.Duration) (comms []Comm, leave []func()) {
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
		comms[rank] = Pipes(rank, size, []io.ReadWriter{duplex{toIn, fromOut}}, patience)
		leave[rank] = func() { toIn.Close(); fromOut.Close() }
	}
	comms[0] = Pipes(0, size, peers, patience)
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
		comms, leave := connected(t, size, 0)
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
		comms, leave := connected(t, 3, 0)
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

// TestPipesLate: a rank that does not answer is named, whatever it owes: values, or that it
// takes those of others; the rank that waits for rank 0 ends with that one.
func TestPipesLate(t *testing.T) {
	const patience = 200 * time.Millisecond
	for what, act := range map[string]func(c Comm) error{
		"gathers nothing": func(c Comm) error { return nil },
		"takes no sum": func(c Comm) error {
			p := c.(*pipes)
			return p.send(0, 'S', kernels.Bytes(make([]float32, 1<<20)))
		},
	} {
		comms, leave := connected(t, 3, patience)
		ended := make(chan struct{})
		errs := each(comms, leave, func(c Comm) error {
			switch c.Rank() {
			case 0:
				defer close(ended)
			case 2:
				err := act(c)
				<-ended // stopped: it leaves no connection
				return err
			}
			err := c.Sum(make([]float32, 1<<20))
			if err == nil { // rank 1 may have it before rank 0 waits for rank 2
				err = c.Sum(make([]float32, 1<<20))
			}
			return err
		})
		var gone *Gone
		var late *Late
		if !errors.As(errs[0], &gone) || gone.Rank != 2 || !errors.As(errs[0], &late) || late.After != patience {
			t.Errorf("%s: rank 0 says %v", what, errs[0])
		}
		if !errors.As(errs[1], &gone) || gone.Rank != 0 || errors.As(errs[1], &late) {
			t.Errorf("%s: rank 1 says %v", what, errs[1])
		}
	}
	comms, leave := connected(t, 2, time.Minute) // who answers in time is not late
	errs := each(comms, leave, func(c Comm) error {
		if c.Rank() == 1 {
			time.Sleep(50 * time.Millisecond)
		}
		return c.Sum(make([]float32, 3))
	})
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

// end is an end of a connection that says whether the other has hung up.
type end struct {
	io.ReadWriter
	gone *atomic.Bool
}

func (e end) HungUp() bool { return e.gone.Load() }

// TestWatch: rank 0 that waits elsewhere names the rank that has left, or the one that does
// not leave when patience ends; time in which it was not running does not count.
func TestWatch(t *testing.T) {
	const patience = 100 * time.Millisecond
	defer func(a, l time.Duration) { afterRank0, leaving = a, l }(afterRank0, leaving)
	afterRank0, leaving = 0, 500*time.Millisecond
	watched := func(rank int, after []time.Duration) error { // the peers leave; 0: they stay
		peers, size := []io.ReadWriter{}, 2
		for _, d := range after {
			gone := new(atomic.Bool)
			if peers = append(peers, end{nil, gone}); d > 0 {
				time.AfterFunc(d, func() { gone.Store(true) })
			}
		}
		if rank == 0 {
			size = 1 + len(peers)
		}
		alive := Pipes(rank, size, peers, patience).(*pipes).Watch()
		for {
			if err := alive(); err != nil {
				return err
			}
			time.Sleep(time.Millisecond)
		}
	}
	var gone *Gone
	var late *Late
	if err := watched(0, []time.Duration{0, 1}); !errors.As(err, &gone) || gone.Rank != 2 || errors.As(err, &late) {
		t.Errorf("rank 2 has left: %v", err)
	}
	if err := watched(0, []time.Duration{2 * patience, 0, 3 * patience}); !errors.As(err, &gone) || gone.Rank != 2 || !errors.As(err, &late) {
		t.Errorf("rank 2 does not leave: %v", err)
	}
	if err := watched(0, []time.Duration{2 * patience, 3 * patience}); err == nil || !strings.Contains(err.Error(), "3 ranks waited 100ms for each other") || fail.Code(err) != int(fail.Limit) {
		t.Errorf("all leave: %v", err)
	}
	if err := watched(1, []time.Duration{0}); !errors.As(err, &gone) || gone.Rank != 0 || !errors.As(err, &late) {
		t.Errorf("rank 0 does not answer: %v", err)
	}
	c := &clock{left: patience, step: patience / 10, last: time.Now().Add(-time.Hour)}
	if c.over() {
		t.Error("a process that was stopped for an hour has waited that long")
	}
}
