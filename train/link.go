package train

import (
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// link connects the devices of the ranks where every rank has one of its own and the same
// way to gather; else it says why gradients are added in the host's memory.
func (r *run) link() error {
	dev, ok := r.dev.(kernels.Ranked)
	if !ok {
		dev = nil
	}
	way, why, err := "", errors.New("not on this device"), error(nil)
	if dev != nil {
		way, why = dev.RanksWay()
	}
	var must *fail.Error
	if errors.As(why, &must) {
		err = why
	}
	if err = agree(r.Comm, err); err != nil {
		return err
	}
	number := func(s string) float64 { return float64(crc32.ChecksumIEEE([]byte(s))) }
	has := 0.0
	if why == nil {
		has = 1
	}
	all, err := r.Comm.Gather([]float64{has, number(way), number(r.dev.Info().Name)})
	if err != nil {
		return err
	}
	devices := map[float64]bool{}
	for rank, v := range all {
		switch {
		case why != nil:
		case v[0] != 1:
			why = fmt.Errorf("rank %d has no way to gather", rank)
		case v[1] != all[0][1]:
			why = fmt.Errorf("rank %d has another version of the library than rank 0", rank)
		case devices[v[2]]:
			why = fmt.Errorf("rank %d shares its device with another rank", rank)
		}
		devices[v[2]] = true
	}
	if why != nil {
		if dev != nil && r.Comm.Rank() == 0 {
			r.log("gradients of %d ranks are added in the host's memory: %v", r.Comm.Size(), why)
		}
		return nil
	}
	id, err := make([]byte, 0), error(nil)
	if r.Comm.Rank() == 0 {
		id, err = dev.RanksID()
	}
	if err = agree(r.Comm, err); err != nil {
		return err
	}
	all, err = r.Comm.Gather([]float64{float64(len(id))})
	if err != nil {
		return err
	}
	if r.Comm.Rank() > 0 {
		id = make([]byte, int(all[0][0]))
	}
	if err := r.Comm.Broadcast(id); err != nil {
		return err
	}
	if err := dev.JoinRanks(id, r.Comm.Rank(), r.Comm.Size(), r.watch()); err != nil {
		return err // the others wait for this rank there, and see that it leaves
	}
	r.linked = true
	if r.Comm.Rank() == 0 {
		r.log("gradients of %d ranks are gathered by %s", r.Comm.Size(), way)
	}
	return nil
}

// watch is what a device asks while it waits for those of other ranks: an error where one
// is known to have left, or to be waited for in vain.
func (r *run) watch() func() error {
	if c, ok := r.Comm.(interface{ Watch() func() error }); ok {
		return c.Watch()
	}
	return func() error { return nil }
}

// linkChunk is the gradients that are gathered at once, of each rank.
const linkChunk = 1 << 20

// sumLinked adds in the order of the ranks, as Comm.Sum does. After an error this rank is
// apart: others may wait for it on their devices, and end when they see that it leaves.
func (r *run) sumLinked() (err error) {
	o, dev, ranks := r.opt, r.dev.(kernels.Ranked), r.Comm.Size()
	n := min(linkChunk, o.n)
	all, err := o.dev.Alloc(kernels.Scratch, dtype.Of(dtype.F32), ranks*n)
	defer func() { o.dev.Free(all) }()
	if err = agree(r.Comm, err); err != nil {
		return err
	}
	defer func() { r.apart = err != nil }()
	for off := 0; off < o.n; off += n {
		n := min(n, o.n-off)
		part := o.dev.Slice(o.g, off, n)
		row := func(rank int) kernels.Buffer { return o.dev.Slice(all, rank*n, n) }
		rows := o.dev.Slice(all, 0, ranks*n)
		err = o.dev.Run(func() error {
			o.dev.Add(kernels.To(row(r.Comm.Rank())), &kernels.AddArgs{N: n, A: part, Alpha: 1})
			return nil
		})
		if err == nil {
			err = dev.GatherRanks(rows, r.Comm.Rank(), n, r.watch())
		}
		if err == nil {
			err = o.dev.Run(func() error {
				for rank := range ranks {
					o.dev.Add(kernels.Dst{Buffer: part, Add: rank > 0}, &kernels.AddArgs{N: n, A: row(rank), Alpha: 1})
				}
				return nil
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unlink leaves the others.
func (r *run) unlink() error {
	if !r.linked {
		return nil
	}
	r.linked = false
	return r.dev.(kernels.Ranked).LeaveRanks()
}
