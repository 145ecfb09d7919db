package train

import (
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/lora"
)

// param is one trainable tensor and how it learns.
type param struct {
	*autograd.Param
	path  string  // the module it belongs to: model.layers.0.self_attn.q_proj
	layer int     // that it is of; -1 outside of layers
	off   int     // in the flat buffers
	rate  float64 // factor of the learning rate
	fixed bool    // rate is that of an embedding's adapter, which lr_pattern has no part in
	decay float64
	// matrix reports whether rules for matrices take it; stack is the number of
	// experts whose matrices lie one below another (0: none), and block how many of its
	// values in a row share Adam-mini's second moment.
	matrix bool
	stack  int
	block  int
}

// params lists what j trains, in a fixed order: the adapter's parameters, or
// every weight of the model. Weight decay leaves out biases and norms.
func (j *Job) params() ([]param, error) {
	list := j.weights
	if j.Config.Adapter != "none" {
		list = j.adapterParams
	}
	ps, err := list()
	if err != nil {
		return nil, err
	}
	for i := range ps {
		if i > 0 {
			ps[i].off = ps[i-1].off + ps[i-1].Len()
		}
	}
	return ps, j.patterns(ps)
}

// weights are those of the model.
func (j *Job) weights() ([]param, error) {
	if j.Model.Flat == nil {
		panic("train: full training needs a model loaded with Trainable")
	}
	var out []param
	var mods []lora.Module
	list, err := unfrozen(j.Model.Params(), j.Config.UnfrozenParameters)
	if err != nil {
		return nil, err
	}
	for _, p := range list {
		t := j.Model.TensorOf(p)
		q := param{Param: p, path: t.Path(), layer: t.Layer, rate: 1, stack: t.Experts, block: j.block(t)}
		if t.Decays() {
			q.decay = j.Config.WeightDecay
		}
		if t.IsLinear() && t.Rows > 1 && t.Cols > 1 {
			mods = append(mods, lora.Module{Path: q.path})
		}
		out = append(out, q)
	}
	return out, j.target(out, mods)
}

// adapterParams are those of the adapter.
func (j *Job) adapterParams() ([]param, error) {
	if j.Adapter == nil {
		panic("train: adapter training needs an adapter")
	}
	var out []param
	var mods []lora.Module
	for _, p := range j.Adapter.Params() {
		q := param{Param: p.Param, path: modulePath(p.Name), layer: -1, rate: 1, block: p.Cols}
		if p.Decay {
			q.decay = j.Config.WeightDecay
		}
		if (p.Group == "B" || len(p.Shape) == 1) && j.Config.LoRA.LoRAPlusLRRatio > 0 {
			q.rate = j.Config.LoRA.LoRAPlusLRRatio
		}
		if own := j.Config.LoRA.LoRAPlusLREmbedding; p.Table && own > 0 {
			q.rate, q.fixed = own / *j.Config.LearningRate, true
		}
		if len(p.Shape) < 2 {
			q.block = 1
		} else if p.Rows > 1 && p.Cols > 1 {
			mods = append(mods, lora.Module{Path: q.path})
		}
		out = append(out, q)
	}
	if len(out) == 0 {
		return nil, fail.Usagef("train.lora", "", "the adapter has nothing to train")
	}
	if j.Config.LoRA.LoRAPlusLREmbedding > 0 && !slices.ContainsFunc(out, func(q param) bool { return q.fixed }) {
		return nil, fail.Usagef("train.lora.loraplus_lr_embedding", "name an embedding in target_modules, or leave it out", "loraplus_lr_embedding is given, and no embedding has an adapter")
	}
	return out, j.target(out, mods)
}

// modulePath is the module that an adapter's parameter belongs to.
func modulePath(name string) string {
	path := strings.TrimPrefix(name, "base_model.model.")
	for _, end := range []string{".lora_", ".base_layer", ".weight", ".bias"} {
		if i := strings.Index(path, end); i >= 0 {
			path = path[:i]
		}
	}
	return path
}

// block is the part of a weight that has one second moment under Adam-mini: a head
// of queries and keys, a row of the other matrices, one element of a bias, and all
// of a norm or a router.
func (j *Job) block(t *arch.Tensor) int {
	switch {
	case t.Bias:
		return 1
	case t.Vector || t.Role == arch.Router:
		return t.Len()
	case t.Role == arch.Q || t.Role == arch.K:
		for _, sub := range j.Model.Spec.Layers[t.Layer].Sublayers {
			if a, ok := sub.Body.(*arch.Attention); ok && t.Rows%a.D == 0 {
				return a.D * t.Cols
			}
		}
	}
	return t.Cols
}

// target marks the matrices that a rule for matrices takes, of which mods are all.
func (j *Job) target(ps []param, mods []lora.Module) error {
	if optimizers[j.Config.Optimizer].matrix == nil {
		return nil
	}
	if len(mods) == 0 {
		of := "what unfrozen_parameters leaves"
		if j.Config.Adapter != "none" {
			of = "adapter " + string(j.Config.Adapter)
		}
		return fail.Usagef("train.optimizer", "optimizer: adamw", "optimizer %s updates matrices, %s has only vectors", j.Config.Optimizer, of)
	}
	c, err := lora.Config{TargetModules: j.Config.OptimTargetModules}.Resolve()
	if err != nil {
		return err
	}
	chosen, err := lora.Match(c, mods)
	if err != nil {
		return fail.Usagef("train.optim_target_modules", "", "%w", err)
	}
	in := map[string]bool{}
	for _, m := range chosen {
		in[m.Path] = true
	}
	for i := range ps {
		p := &ps[i]
		p.matrix = in[p.path] && p.Rows > 1 && p.Cols > 1
	}
	return nil
}

// patterns gives parameters the rates of lr_pattern. A pattern that no module
// matches is an error.
func (j *Job) patterns(ps []param) error {
	for k, e := range j.Config.LRPattern {
		one, used := j.Config.LRPattern[k:k+1], false
		for i := range ps {
			_, ok, err := one.Get(ps[i].path)
			if err != nil {
				return err
			}
			used = used || ok
		}
		if !used {
			return fail.Usagef("train.lr_pattern", "modules are called "+ps[0].path, "lr_pattern: %q matches no trained module", e.Key)
		}
	}
	for i := range ps {
		rate, ok, err := j.Config.LRPattern.Get(ps[i].path)
		if err != nil {
			return err
		}
		if ok && ps[i].fixed {
			return fail.Usagef("train.lr_pattern", "leave one of the two out", "lr_pattern and loraplus_lr_embedding both give %s a rate", ps[i].path)
		}
		if ok {
			ps[i].rate *= rate / *j.Config.LearningRate
		}
	}
	return nil
}
