package quant

import (
	"context"
	"fmt"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/kernels/dry"
)

// Rehearse runs Folder's own code on a backend that only counts, so that it
// knows the memory Folder will take; of blocks and matrices alike it takes the
// first. Nothing is read but headers, nothing is written. src may exist in a plan
// only; calibration counts by its lengths. The result is the bytes on disk for
// what memory has no room for.
func Rehearse(ctx context.Context, dev *dry.Dry, src *arch.Source, jobs []FolderJob, calibration [][]int32) (disk int64, err error) {
	r := &folderRun{walk: walk{ctx: ctx, dev: dev, src: src, disk: &spill{}}}
	if err := r.plan(jobs, calibration); err != nil {
		return 0, err
	}
	defer r.free()
	for _, o := range r.outputs {
		if err := o.rehearse(dev); err != nil {
			return 0, err
		}
	}
	if len(r.streams) == 0 {
		return 0, nil
	}
	if err := r.mix(jobs, calibration, true); err != nil {
		return 0, err
	}
	if r.m, err = model.Load(dev, src, model.Options{Stream: true}); err != nil {
		return 0, err
	}
	defer r.m.Close()
	err = r.walk.rehearse()
	return r.disk.end, err
}

// rehearse takes what needs no calibration text, of matrices each shape once.
func (o *output) rehearse(dev *dry.Dry) error {
	kept, rounded := o.outside()
	release, err := dev.Host(arch.CopyMemory(o.from, kept, nil))
	if err != nil {
		return err
	}
	release()
	seen := map[string]bool{}
	for _, out := range rounded {
		if k := fmt.Sprint(out.Rows, out.Cols, out.Tensor.Type, out.Type); !seen[k] {
			seen[k] = true
			if err := o.quantize(dev, out.Tensor, out.Type); err != nil {
				return err
			}
		}
	}
	return nil
}

// rehearse takes the blocks, each kind once.
func (w *walk) rehearse() error {
	if err := w.start(); err != nil {
		return err
	}
	seen := map[string]bool{}
	for i, b := range w.m.Blocks {
		if err := w.cross(i); err != nil {
			return err
		}
		k := fmt.Sprint(b.Lends)
		for _, p := range b.Params {
			k += fmt.Sprint(p.Rows, p.Cols, w.m.TensorOf(p).Role, w.m.TensorOf(p).Type, " ")
			for _, s := range w.streams {
				k += fmt.Sprint(s.plan.typeOf[p.Name], " ")
			}
		}
		if !seen[k] {
			seen[k] = true
			if err := w.block(b, false); err != nil {
				return err
			}
		}
	}
	return nil
}
