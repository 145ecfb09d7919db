package train

import (
	"context"
	"fmt"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
)

// Following is a reference that comes after the model in training (TR-DPO,
// arXiv:2404.09656), by TRL's names. It begins as the model does before step 1 and is a copy of all that
// is trained: of an adapter, its values are mixed, not what they make of the weights.
type Following struct {
	SyncRefModel bool     `yaml:"sync_ref_model,omitempty" doc:"the reference is a copy of what is trained, as it began, and comes after it" default:"false"`
	MixupAlpha   *float64 `yaml:"ref_model_mixup_alpha,omitempty" doc:"with sync_ref_model: the share of what is trained in the reference after it moved" unset:"0.6" range:"(0,1]"`
	SyncSteps    int      `yaml:"ref_model_sync_steps,omitempty" doc:"with sync_ref_model: steps until it moves" unset:"512" range:"[1,1000000000]"`
}

// fill gives the keys of sync_ref_model their defaults.
func (f *Following) fill() {
	if f.SyncRefModel {
		defp(&f.MixupAlpha, 0.6)
		deft(&f.SyncSteps, 512)
	}
}

// checkFollowing refuses what does not go with a reference that moves.
func (c *Config) checkFollowing() error {
	if !c.SyncRefModel {
		for key, given := range map[string]bool{"ref_model_mixup_alpha": c.MixupAlpha != nil, "ref_model_sync_steps": c.SyncSteps != 0} {
			if given {
				return fail.Usagef("train."+key, "sync_ref_model: true", "%s says how a reference moves, and sync_ref_model, which makes it move, is off", key)
			}
		}
		return nil
	}
	switch {
	case !c.ReadsReference():
		return fail.Usagef("train.sync_ref_model", "leave it out, or give grpo and rloo a beta", "sync_ref_model moves a reference, and objective: %s as it stands here has none", c.Objective)
	case c.EMADecay != nil || optimizers[c.Optimizer].free():
		return fail.Usagef("train.sync_ref_model", "leave ema_decay out, and use an optimizer that keeps no average", "sync_ref_model copies what is trained, and what is kept would be an average of that")
	}
	return nil
}

// showReference puts the reference in the parameters' place, which wait where gradients
// are; showParams undoes it.
func (o *optimizer) showReference() error {
	return o.dev.Run(func() error {
		for i := range o.params {
			p := &o.params[i]
			o.copy(o.slice(o.g, p), p.Buffer, p.Len())
			o.copy(p.Buffer, o.slice(o.ref, p), p.Len())
		}
		return nil
	})
}

// follow moves the reference, where it is time to.
func (r *run) follow() error {
	r.refs = nil
	if o := r.opt; r.Config.SyncRefModel && r.step%r.Config.SyncSteps == 0 {
		return r.dev.Run(func() error {
			o.lerp(o.ref, *r.Config.MixupAlpha)
			return nil
		})
	}
	return nil
}

// withReference runs f with the reference in the model's place. No gradients may be
// underway.
func (r *run) withReference(f func() error) (err error) {
	if err = r.opt.showReference(); err == nil {
		err = r.refresh()
	}
	if err == nil {
		err = f()
	}
	if back := r.opt.showParams(); err == nil {
		err = back
	}
	if back := r.refresh(); err == nil {
		err = back
	}
	return err
}

// askReference has a reference that moves look at micro, before there are gradients.
func (r *run) askReference(ctx context.Context, micro []data.Batch) error {
	if !r.Config.SyncRefModel || r.objective.Reads() < ReadsReference {
		return nil
	}
	refs := map[string][]float32{}
	err := r.withReference(func() error {
		for i := range micro {
			if err := ctx.Err(); err != nil {
				return err
			}
			logp, err := logProbs(r.Model, &micro[i], false, true, r.bf16, r.temperature())
			if err != nil {
				return err
			}
			refs[sampleKey(&micro[i])] = logp
		}
		return nil
	})
	r.refs = refs
	return err
}

// sampleKey names the samples of b.
func sampleKey(b *data.Batch) string { return fmt.Sprint(b.Sample) }

// followed is reference where that moves: what askReference found or, outside of a step's
// gradients, what it is now.
func (r *run) followed(b *data.Batch, training bool, p part) (logp []float32, err error) {
	if logp, ok := r.refs[sampleKey(b)]; ok && p == (part{}) {
		return logp, nil
	}
	err = r.withReference(func() error {
		logp, err = logProbs(r.Model, b, false, training, r.bf16, r.temperature())
		return err
	})
	return logp, err
}
