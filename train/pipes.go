package train

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// Gone is the error of a training whose rank Rank left or stopped by itself; what
// happened there it says itself.
type Gone struct {
	Rank int
	Err  error // of the connection to it; nil: it said that it stops
}

func (g *Gone) Error() string {
	if g.Err == nil {
		return fmt.Sprintf("rank %d stopped", g.Rank)
	}
	return fmt.Sprintf("rank %d is gone: %v", g.Rank, g.Err)
}

func (g *Gone) Unwrap() error { return g.Err }

// Late is the error of a rank that was waited for in vain.
type Late struct{ After time.Duration }

func (l *Late) Error() string { return fmt.Sprintf("it has not answered within %v", l.After) }

// pipes is the Comm of processes of one machine: every rank but 0 has a connection to
// rank 0, which adds and hands out.
type pipes struct {
	rank, size int
	peers      []io.ReadWriter
	patience   time.Duration
	broken     error // the first error: the others may wait for what no longer comes
}

// Pipes is the Comm of a rank whose process is connected with that of rank 0 by peers[0],
// and of rank 0 with that of rank i+1 by peers[i]. The bytes are those of memory: all
// ranks run the same program. Rank 0, with which the others end, waits so long for one of
// them, 0: for ever; time in which its own process is stopped does not count. The caller
// closes the connections.
func Pipes(rank, size int, peers []io.ReadWriter, patience time.Duration) Comm {
	if rank > 0 && len(peers) != 1 || rank == 0 && len(peers) != size-1 {
		panic(fmt.Sprintf("train: rank %d of %d with %d connections", rank, size, len(peers)))
	}
	return &pipes{rank: rank, size: size, peers: peers, patience: patience}
}

func (p *pipes) Rank() int { return p.rank }
func (p *pipes) Size() int { return p.size }

// mostGathered bounds the values that one rank gives to Gather.
const mostGathered = 1 << 24

// send writes a message: what is called, and its bytes.
func (p *pipes) send(peer int, what byte, b []byte) error {
	if p.broken != nil {
		return p.broken
	}
	head := binary.LittleEndian.AppendUint64([]byte{what}, uint64(len(b)))
	return p.lost(peer, p.within(func() error {
		_, err := p.peers[peer].Write(head)
		if err == nil {
			_, err = p.peers[peer].Write(b)
		}
		return err
	}))
}

// read fills b.
func (p *pipes) read(peer int, b []byte) error {
	return p.lost(peer, p.within(func() error {
		_, err := io.ReadFull(p.peers[peer], b)
		return err
	}))
}

// within waits for f, on rank 0 no longer than it has patience. f may go on then.
func (p *pipes) within(f func() error) error {
	if p.rank > 0 || p.patience == 0 {
		return f()
	}
	done := make(chan error, 1)
	go func() { done <- f() }()
	c := p.clock()
	tick := time.NewTicker(c.step)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			if c.over() {
				return &Late{p.patience}
			}
		}
	}
}

// clock counts the time in which this process runs: it is asked every step or more often.
type clock struct {
	left, step time.Duration
	last       time.Time
}

func (p *pipes) clock() *clock {
	return &clock{p.patience, min(time.Second, max(p.patience/10, time.Millisecond)), time.Now()}
}

// over reports whether patience is at its end.
func (c *clock) over() bool {
	now := time.Now()
	c.left -= min(now.Sub(c.last), 2*c.step)
	c.last = now
	return c.left <= 0
}

// receive reads the head of a message, which must be of the same call and, where want is
// at least 0, of so many bytes.
func (p *pipes) receive(peer int, what byte, want int) (n int, err error) {
	if p.broken != nil {
		return 0, p.broken
	}
	head := make([]byte, 9)
	if err := p.read(peer, head); err != nil {
		return 0, err
	}
	size := binary.LittleEndian.Uint64(head[1:])
	if head[0] != what || want >= 0 && size != uint64(want) || want < 0 && size > 8*mostGathered {
		return 0, p.lost(peer, fmt.Errorf("it calls %c with %d bytes, this rank %c with %d", head[0], size, what, want))
	}
	return int(size), nil
}

// lost makes an error of the connection one of the rank behind it.
func (p *pipes) lost(peer int, err error) error {
	if err == nil {
		return nil
	}
	rank := 0
	if p.rank == 0 {
		rank = peer + 1
	}
	p.broken = &Gone{Rank: rank, Err: err}
	return p.broken
}

// Watch is for a rank that waits for the others elsewhere. What it returns is asked
// meanwhile, and is an error where a connection says (HungUp) that the rank behind it is
// gone, or patience is at its end.
func (p *pipes) Watch() func() error {
	c := p.clock()
	if p.rank > 0 { // rank 0 is to find out who does not answer
		c.left += afterRank0
	}
	return func() error {
		for peer := range p.peers {
			if p.broken == nil && p.hungUp(peer) {
				return p.lost(peer, errors.New("its connection is closed"))
			}
		}
		if p.broken == nil && p.patience > 0 && c.over() {
			p.broken = p.silent()
		}
		return p.broken
	}
}

func (p *pipes) hungUp(peer int) bool {
	h, ok := p.peers[peer].(interface{ HungUp() bool })
	return ok && h.HungUp()
}

// silent is the error of a wait without end: the others, whose patience ends too, leave,
// and the rank that does not is the one.
func (p *pipes) silent() error {
	late := &Late{p.patience}
	if p.rank > 0 {
		return &Gone{Rank: 0, Err: late}
	}
	last := 0 // to be there
	for end := time.Now().Add(leaving); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for last < len(p.peers) && p.hungUp(last) {
			last++
		}
		if last == len(p.peers) {
			return fail.Limitf("train", "run the same command again to go on from the last checkpoint", "%d ranks waited %v for each other", p.size, p.patience)
		}
	}
	return &Gone{Rank: last + 1, Err: late}
}

// afterRank0 the patience of the others ends, and leaving is how long they then have to leave.
var afterRank0, leaving = time.Second, 10 * time.Second

// fetch reads a message of len(b) bytes into b.
func (p *pipes) fetch(peer int, what byte, b []byte) error {
	if _, err := p.receive(peer, what, len(b)); err != nil {
		return err
	}
	return p.read(peer, b)
}

// hand gives b to every other rank.
func (p *pipes) hand(what byte, b []byte) error {
	for peer := range p.peers {
		if err := p.send(peer, what, b); err != nil {
			return err
		}
	}
	return nil
}

// Sum adds on rank 0, in the order of the ranks.
func (p *pipes) Sum(v []float32) error {
	b := kernels.Bytes(v)
	if p.rank > 0 {
		if err := p.send(0, 'S', b); err != nil {
			return err
		}
		return p.fetch(0, 'S', b)
	}
	other := make([]float32, len(v))
	for peer := range p.peers {
		if err := p.fetch(peer, 'S', kernels.Bytes(other)); err != nil {
			return err
		}
		for i, x := range other {
			v[i] += x
		}
	}
	return p.hand('S', b)
}

// Broadcast hands out rank 0's bytes to those that ask for them.
func (p *pipes) Broadcast(v []byte) error {
	if p.rank > 0 {
		if err := p.send(0, 'B', nil); err != nil {
			return err
		}
		return p.fetch(0, 'B', v)
	}
	for peer := range p.peers {
		if err := p.fetch(peer, 'B', nil); err != nil {
			return err
		}
	}
	return p.hand('B', v)
}

// Gather collects on rank 0, which hands out all values, behind their numbers.
func (p *pipes) Gather(v []float64) ([][]float64, error) {
	if p.rank > 0 {
		if err := p.send(0, 'G', kernels.Bytes(v)); err != nil {
			return nil, err
		}
	}
	out := [][]float64{v}
	if p.rank > 0 {
		out = nil
	}
	for len(out) < p.size {
		peer := 0
		if p.rank == 0 {
			peer = len(out) - 1
		}
		one, err := p.values(peer)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	if p.rank > 0 {
		return out, nil
	}
	for _, one := range out {
		if err := p.hand('G', kernels.Bytes(one)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// values reads as many values as a message has.
func (p *pipes) values(peer int) ([]float64, error) {
	n, err := p.receive(peer, 'G', -1)
	if err != nil {
		return nil, err
	}
	v := make([]float64, n/8)
	return v, p.read(peer, kernels.Bytes(v))
}
