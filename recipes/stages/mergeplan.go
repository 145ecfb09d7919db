package stages

import (
	"fmt"
	"strings"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/train/eval"
)

// planMerge: adapter into weights, and the check of the result.
func planMerge(p *recipes.Planner, j *recipes.Job, s *recipes.StagePlan) error {
	baseRef, _ := j.In("model")
	base, err := p.Source(baseRef)
	if err != nil {
		return err
	}
	merged, err := p.Source(recipes.Ref{Kind: recipes.ModelRef, Stage: j.ID})
	if err != nil {
		return err
	}
	s.Disk = heldBytes(merged)
	s.Does = fmt.Sprintf("→ %s %s", strings.ToLower(merged.LinearType().String()), j.Options.(*Merge).Format)
	for _, ad := range adapterRefs(j) {
		if ad.Stage == "" {
			continue
		}
		if o, ok := p.Env.Job(ad.Stage).Options.(*Train); ok && o.LoRA.InitWeights == lora.InitLoftQ && j.Options.(*Merge).Base != "trained" {
			return fail.Usagef(j.ID+".base", "base: trained", "init_lora_weights: loftq trains for the base quantized to NF4, and %s merges into the original", j.ID)
		}
	}
	if err := mergeMemory(p, j, s, base); err != nil {
		return err
	}
	s.Seconds = float64(s.Disk)/3e8 + float64(merged.Spec.Params())/3e8
	if merged.Spec.Reward {
		s.Note("%s", rewardMerge)
		return nil
	}
	in, ok := j.In("data")
	if !ok {
		s.Note("no data to measure the KL of the merge on")
		return nil
	}
	rows, err := rowsFor(p, in, baseRef)
	if err != nil || p.Quick && rows.unknown != "" { // nothing is refused on a guess
		return err
	}
	tokens := int64(klTokens)
	if rows.unknown == "" {
		if tokens = rows.valTokens; rows.val == 0 {
			tokens = rows.trainTokens
		}
	}
	tokens = min(tokens, klTokens)
	refs := []model.Options{{}}
	if trainedNF4(p.Env, j, base) {
		if err := checkNF4(base); err != nil {
			return err
		}
		nf4 := dtype.NF4Double
		refs = append(refs, model.Options{Hold: &nf4})
		if j.Options.(*Merge).Base == "trained" {
			refs = refs[1:]
		}
	}
	for _, ref := range refs {
		if err := compared(p, j, s, base, ref, merged, tokens); err != nil {
			return err
		}
	}
	return nil
}

// adapted attaches the adapters of a merge to m: those that stages are to train, or
// those of files. A combination takes about as much as one of them.
func adapted(p *recipes.Planner, j *recipes.Job, base *arch.Source, m *model.Model) (values int64, close func(), err error) {
	var list []*lora.Adapter
	close = func() {
		for _, a := range list {
			a.Close()
		}
	}
	refs := adapterRefs(j)
	if !j.Options.(*Merge).Sums() {
		refs = refs[:1]
	}
	for _, ref := range refs {
		a, err := attachRef(p, ref, base, m)
		if err != nil {
			close()
			return 0, nil, err
		}
		list, values = append(list, a), values+a.Trainable()
	}
	return values, close, nil
}

// attachRef attaches one adapter to m: the one that a stage is to train, or that of a
// file.
func attachRef(p *recipes.Planner, ref recipes.Ref, base *arch.Source, m *model.Model) (_ *lora.Adapter, err error) {
	if ref.Stage != "" {
		of := p.Env.Job(ref.Stage)
		if t, ok := of.Options.(*Train); ok {
			of := &trial{j: of, config: t.Config}
			if of.config.LoRA.InitWeights == lora.InitLoftQ { // whose weights are quantized in training alone
				of.config.LoRA.InitWeights, of.config.LoRA.LoftQ = lora.InitKaiming, nil
			}
			if of.config, err = learnNew(of.config, p.Env, of.j, base, firstPlanned(p)); err != nil {
				return nil, err
			}
			return of.adapter(p, m)
		}
		from, _ := of.In("adapter") // of an export
		return attachRef(p, from, base, m)
	}
	ads, err := readAdapters(base, []string{ref.Path}, nil)
	if err != nil {
		return nil, err
	}
	return ads[0].Attach(m)
}

// mergeMemory counts what writing the merged weights takes.
func mergeMemory(p *recipes.Planner, j *recipes.Job, s *recipes.StagePlan, base *arch.Source) error {
	m, err := dryModelAs(dry.New(dry.Options{}), base, model.Options{Stream: true})
	if err != nil {
		return err
	}
	defer m.Close()
	values, close, err := adapted(p, j, base, m)
	if err != nil {
		return err
	}
	defer close()
	o := lora.MergeOptions{Dense: arch.Dense{Path: mergePath(p.Env, j)}}
	if o.Type, err = storageType(j.Options.(*Merge).DType); err != nil {
		return err
	}
	if trainedNF4(p.Env, j, base) {
		nf4 := dtype.NF4Double
		o.TrainedAs = &nf4
	}
	countHost(s, lora.MergeMemory(base, o, values)+tokenizer.Memory(base.Reader))
	return nil
}

// compared adds the cost of measuring the KL between two models: base with the
// adapter, loaded as o says, and m.
func compared(p *recipes.Planner, j *recipes.Job, s *recipes.StagePlan, base *arch.Source, o model.Options, m *arch.Source, tokens int64) error {
	n := int(min(tokens, 2048))
	var work dry.Work
	err := counted(p, s, func(dev *dry.Dry) error {
		a, err := dryModelAs(dev, base, o)
		if err != nil {
			return err
		}
		defer a.Close()
		_, close, err := adapted(p, j, base, a)
		if err != nil {
			return err
		}
		defer close()
		b, err := dryModel(dev, m)
		if err != nil {
			return err
		}
		defer b.Close()
		length := InTable(&base.Spec, min(n, 256))
		_, err = eval.Diverge(p.Context, b, a, eval.Examples(zeroRows(max(1, n/max(length, 1)), length), n))
		work = dev.Work()
		return err
	})
	s.Seconds += p.Rates.Seconds(times(work, float64(tokens)/float64(max(n, 1))), false)
	return err
}
