package cuda

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// RanksVariable is the environment variable that decides whether GPUs of several ranks
// gather by NVIDIA's NCCL: 0 never, 1 always (it is an error when it cannot be used), auto
// or "" where every rank has it.
const RanksVariable = "TUNE_NCCL"

// ranks connects this device with others. Of the device's thread.
type ranks struct {
	driver.Ranks // nil: not loaded
	size         int
}

var _ kernels.Ranked = (*CUDA)(nil)

// RanksWay is NCCL with its version. Its error is of the package fail where RanksVariable
// asks for what cannot be.
func (c *CUDA) RanksWay() (string, error) {
	asked := os.Getenv(RanksVariable)
	switch {
	case !slices.Contains([]string{"", "auto", "0", "1"}, asked):
		return "", fail.Usagef("device", "unset it to let the program choose", "%s=%s: known are 0, 1 and auto", RanksVariable, asked)
	case asked == "0":
		return "", errors.New(RanksVariable + "=0")
	}
	var way string
	err := c.wait(func(d driver.Driver) error {
		if c.link.Ranks == nil {
			l, ok := d.(driver.Linker)
			if !ok {
				return fmt.Errorf("%s has no library that connects ranks", c.info.Name)
			}
			lib, err := l.Ranks()
			if err != nil {
				return err
			}
			c.link.Ranks = lib
		}
		way = c.link.Version()
		return nil
	})
	if err != nil && asked == "1" {
		err = fail.Limitf(c.name, "install NCCL (nvidia-nccl of pip, or libnccl2) where it is looked for, or unset "+RanksVariable, "%s=1, but %w", RanksVariable, err)
	}
	return way, err
}

// RanksID asks NCCL for one.
func (c *CUDA) RanksID() (id []byte, err error) {
	err = c.wait(func(driver.Driver) (err error) { id, err = c.link.ID(); return err })
	if err != nil {
		return nil, c.unlinked("the ranks cannot be connected", err)
	}
	return id, nil
}

// unlinked is the error of a call of NCCL that failed.
func (c *CUDA) unlinked(what string, err error) error {
	return fail.Limitf(c.name, "start again: the run goes on from its last checkpoint; NCCL_DEBUG=WARN has NCCL say more, and "+RanksVariable+"=0 adds gradients in the host's memory", "%s: %w", what, err)
}

// JoinRanks connects this device, as rank of size, with the others.
func (c *CUDA) JoinRanks(id []byte, rank, size int, alive func() error) error {
	done := make(chan error, 1)
	c.queue <- task{run: func(driver.Driver) {
		c.link.size = size
		done <- c.link.Join(id, rank, size)
	}}
	for tick := time.NewTicker(linkTick); ; {
		select {
		case err := <-done:
			tick.Stop()
			if err != nil {
				return c.unlinked(fmt.Sprintf("rank %d of %d is not connected with the others", rank, size), err)
			}
			return nil
		case <-tick.C:
			if err := alive(); err != nil { // the call may never return
				tick.Stop()
				c.leaveThread(err)
				return err
			}
		}
	}
}

const linkTick = 20 * time.Millisecond

// leaveThread gives the device up, whose thread may be in a call that does not return.
func (c *CUDA) leaveThread(err error) {
	c.failed(err)
	close(c.stuck)
	go func() {
		for range c.queue { // nobody runs these, and nobody shall wait to queue one
		}
	}()
}

// GatherRanks makes the float32 of every rank those of dst [ranks, n]; each rank has put
// its own where they belong. It waits until they are there, or a rank is not alive.
func (c *CUDA) GatherRanks(dst kernels.Buffer, rank, n int, alive func() error) error {
	to := typed(dst, dtype.F32)
	var gone error
	err := c.wait(func(d driver.Driver) error {
		if err := c.lost(); err != nil {
			return err
		}
		want("gather of ranks", dst, c.link.size*n)
		if err := c.link.AllGather(to, to+driver.Ptr(4*rank*n), int64(4*n)); err != nil {
			return c.unlinked("gradients cannot be gathered", errors.Join(err, c.link.Abort()))
		}
		for pause := 10 * time.Microsecond; ; pause = min(2*pause, time.Millisecond) {
			idle, err := d.(driver.Linker).Idle()
			if err != nil {
				return c.explain("gradients were not gathered", errors.Join(err, c.link.Abort()))
			}
			if err := c.link.Failed(); err != nil {
				err = errors.Join(err, c.link.Abort())
				for until := time.Now().Add(time.Second); gone == nil && time.Now().Before(until); time.Sleep(linkTick) {
					gone = alive() // what the rank that left has to say is the cause
				}
				return c.unlinked("gradients were not gathered", err)
			}
			if idle {
				return nil
			}
			if gone = alive(); gone != nil {
				return c.unlinked("gradients were not gathered", errors.Join(gone, c.link.Abort()))
			}
			time.Sleep(pause)
		}
	})
	if err != nil {
		c.failed(err)
	}
	if gone != nil {
		return gone
	}
	return err
}

// LeaveRanks ends what JoinRanks made.
func (c *CUDA) LeaveRanks() error {
	return c.wait(func(driver.Driver) error {
		if err := c.link.Close(); err != nil {
			return c.unlinked("the ranks cannot be left", err)
		}
		return nil
	})
}

// describeRanks says what would gather the gradients of several GPUs.
func (c *CUDA) describeRanks() string {
	way, err := c.RanksWay()
	if err != nil {
		return "gradients of several GPUs in the host's memory (" + err.Error() + ")"
	}
	return fmt.Sprintf("gradients of several GPUs by %s of %s", way, c.link.Path())
}
