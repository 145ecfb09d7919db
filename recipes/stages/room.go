package stages

import (
	"errors"
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/recipes"
)

// room refuses work on the model at path that would not end within dev's limit, before
// it begins, and names the least limit with which it does. work is that work's own code
// on a backend that only counts; what else is wrong with it the work itself says.
func room(dev kernels.Backend, path string, work func(dev *dry.Dry) error) error {
	info := dev.Info()
	if info.Limit <= 0 {
		return nil
	}
	try := func(limit int64) (s recipes.StagePlan, err error) {
		s.Stage = path
		o := dryAs(info, limit)
		err = dryRun(&o, &s, work)
		return s, err
	}
	s, err := try(info.Limit)
	if err != nil || s.Peak <= info.Limit {
		return nil
	}
	refused := recipes.Refusal(&s, "needs", info)
	n := recipes.Least(s.Peak, info.Process.Program, func(limit int64) (int64, bool) {
		s, err := try(limit)
		return s.Peak, err == nil
	})
	refused.Hint = "a smaller model, or fewer tokens at a time"
	switch {
	case n > 0 && info.Copies:
		refused.Hint = fmt.Sprintf("a GPU with %d MiB free; or %s", n>>20, refused.Hint)
	case n > 0:
		refused.Hint = fmt.Sprintf("--memory-limit %dMiB → it fits; or %s", n>>20, refused.Hint)
	}
	return refused
}

// dryAs are the options of a backend that counts for the device of info, under a limit.
func dryAs(info kernels.Info, limit int64) dry.Options {
	return dry.Options{MemoryLimit: limit, Process: info.Process, Label: info.Name, Copies: info.Copies, Staged: info.Staged, Working: info.Working}
}

// dryRun runs work on a backend of these options: the limit decides what of a model stays
// in memory. What does not fit is run again beyond it, so that a refusal can say by how
// much.
func dryRun(o *dry.Options, s *recipes.StagePlan, work func(dev *dry.Dry) error) error {
	dev := dry.New(*o)
	err := work(dev)
	var short *kernels.MemoryError
	if errors.Is(err, kernels.ErrOutOfMemory) && !(errors.As(err, &short) && short.Pinned()) {
		o.Beyond = true
		dev = dry.New(*o)
		err = work(dev)
	}
	if err == nil {
		info := dev.Info()
		s.CountMemory(info.PeakTotal, info.Mem)
	}
	return err
}

// hosts takes n bytes of the host's memory and gives them back.
func hosts(dev *dry.Dry, n int64) error {
	release, err := dev.Host(n)
	if err == nil {
		release()
	}
	return err
}
