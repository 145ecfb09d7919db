package lora

import (
	"context"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// MergeKL says how far a merged model is from what it was made of.
type MergeKL struct {
	// Merge compares it with base and adapters unmerged: what rounding to the
	// stored type lost. This is what max_kl limits.
	Merge Divergence `json:"merge"`
	// Trained compares it with the model as it was in training, on weights held
	// as NF4 for example; nil where these were the same weights.
	Trained *Divergence `json:"trained,omitempty"`
}

// MeasureMerge compares the model that Merge wrote at o.Path with base and
// adapters side by side, on batches. It holds two models in memory at a time.
func MeasureMerge(ctx context.Context, dev kernels.Backend, src *arch.Source, adapters []Weighted, o MergeOptions, batches []data.Batch) (*MergeKL, error) {
	out, err := arch.Open(o.Path)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	merged, err := model.Load(dev, out, model.Options{})
	if err != nil {
		return nil, err
	}
	defer merged.Close()
	against := func(hold *dtype.Type) (d Divergence, err error) {
		m, err := model.Load(dev, src, model.Options{Hold: hold})
		if err != nil {
			return d, err
		}
		defer m.Close()
		for _, w := range adapters {
			ad, err := w.Folder.Attach(m, w.Folder.Config)
			if err != nil {
				return d, err
			}
			defer ad.Close()
			for _, l := range ad.Layers {
				l.LoRA.Scale *= float32(w.Weight)
			}
		}
		return Compare(ctx, m, merged, batches)
	}
	r := &MergeKL{}
	if o.TrainedAs != nil {
		d, err := against(o.TrainedAs)
		if err != nil {
			return nil, err
		}
		r.Trained = &d
		if o.Trained { // merged into those very weights
			r.Merge = d
			return r, nil
		}
	}
	r.Merge, err = against(nil)
	return r, err
}
