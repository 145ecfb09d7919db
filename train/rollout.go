package train

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/engine"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/train/judge"
)

// Answering is what a training on the model's own answers needs beside prompts.
type Answering struct {
	Rewards []*judge.Func
	Text    func(ids []int32) string // of an answer, without special tokens
	Stop    []int32                  // ids that end an answer
}

// rollout is the answers that the model wrote at one time, to learn from: those to
// a prompt lie together. The ID of a sample made of one is its place among them.
type rollout struct {
	Run     string    `json:"run"`        // identity of the training
	Index   int       `json:"generation"` // from 0
	Answers []written `json:"answers"`
	Values  Values    `json:"values"` // what is worth a curve, of all answers
	Reward  float64   `json:"reward"` // mean
}

// written is an answer. Old and Sampler are log-probabilities of its tokens.
type written struct {
	IDs       []int32   `json:"ids"` // with the one that ended it
	Truncated bool      `json:"truncated,omitempty"`
	Advantage float64   `json:"advantage"`
	Old       []float32 `json:"old,omitempty"` // when it was written; nil: the model has not changed since
	Sampler   []float32 `json:"sampler,omitempty"`
}

// asks reports whether the model learns from its own answers.
func (r *run) asks() bool { return r.Config.Asks() }

// promptsAtOnce is the number of prompts that are answered at one time, by all ranks.
func (c Config) promptsAtOnce() int {
	return c.MicroBatchSize * max(1, c.Ranks) * c.StepsPerGeneration / c.NumGenerations
}

// partsAtOnce is the number of optimizer steps that learn from one time's answers,
// each from others.
func (g GRPO) partsAtOnce(accumulation int) int { return g.StepsPerGeneration / accumulation }

// promptSteps is the number of optimizer steps of an epoch over so many prompts;
// it may be a fraction.
func (c Config) promptSteps(prompts int) float64 {
	steps := c.partsAtOnce(c.GradientAccumulationSteps) * c.NumIterations
	return float64(prompts) * float64(steps) / float64(c.promptsAtOnce())
}

// Steps is the number of optimizer steps of a run over so many rows, samples or
// groups of samples.
func (c Config) Steps(rows int) int {
	if c.Asks() {
		if c.MaxSteps > 0 {
			return c.MaxSteps
		}
		return max(1, int(math.Ceil(c.NumEpochs*c.promptSteps(rows))))
	}
	per := c.MicroBatchSize * c.GradientAccumulationSteps
	return c.Total(max(1, (rows+per-1)/per))
}

// answerStep is the step to come: a part of the answers in work, which are written
// where all before have been learned from.
func (r *run) answerStep(ctx context.Context) (data.Step, error) {
	parts := r.Config.partsAtOnce(r.Config.GradientAccumulationSteps)
	of := parts * r.Config.NumIterations
	index, within := r.step/of, r.step%of
	if r.rollout == nil || r.rollout.Index != index {
		var err error
		if within > 0 {
			r.rollout, err = r.kept(index)
		} else {
			r.rollout, err = r.answer(ctx, index)
		}
		if err != nil {
			r.rollout = nil
			return data.Step{}, err
		}
	}
	return r.learn(r.rollout, within%parts)
}

// learn lays out a part of a rollout as a step.
func (r *run) learn(w *rollout, part int) (data.Step, error) {
	per := r.Config.NumGenerations
	examples := make([]data.Example, len(w.Answers))
	for i, a := range w.Answers {
		prompt, err := r.loader.Row(w.Index*len(w.Answers)/per + i/per)
		if err != nil {
			return data.Step{}, err
		}
		examples[i] = answered(prompt, a, i, r.Config.MaskTruncatedCompletions)
	}
	l, err := data.NewLoader(data.InMemory(examples...), data.LoaderOptions{MicroBatch: r.Config.MicroBatchSize, Accum: r.Config.GradientAccumulationSteps * r.Comm.Size(), Packing: "none"})
	if err != nil {
		return data.Step{}, err
	}
	return l.Step(part)
}

// answered is a prompt with answer i; hide leaves one that was cut off without
// anything to learn.
func answered(prompt data.Example, a written, i int, hide bool) data.Example {
	e := data.Example{ID: uint64(i), IDs: slices.Concat(prompt.IDs, a.IDs), From: prompt.From}
	if len(a.IDs) > 0 && !(hide && a.Truncated) {
		e.Loss = [][2]int32{{int32(len(prompt.IDs)), int32(len(e.IDs))}}
	}
	return e
}

// answer writes the answers of generation index, rewards them, and keeps what
// more than one step will learn from.
func (r *run) answer(ctx context.Context, index int) (*rollout, error) {
	c := &r.Config
	n := c.promptsAtOnce()
	prompts := make([]data.Example, n)
	for i := range prompts {
		var err error
		if prompts[i], err = r.loader.Row(index*n + i); err != nil {
			return nil, err
		}
	}
	r.tell(Progress{Answering: true})
	answers, err := r.write(ctx, prompts, c.NumGenerations, uint64(*c.Seed), uint64(index)*uint64(n*c.NumGenerations))
	if err != nil {
		return nil, err
	}
	w := &rollout{Run: r.identity, Index: index, Answers: answers}
	rewards, texts, err := r.judged(ctx, prompts, answers, c.NumGenerations)
	if err != nil {
		return nil, err
	}
	weights, names := make([]float64, len(rewards)), make([]string, len(rewards))
	for f, fn := range r.Answering.Rewards {
		weights[f], names[f] = fn.Weight, fn.Name
	}
	kl, err := r.remember(w)
	if err != nil {
		return nil, err
	}
	advantages, values := c.advantagesOf(rewards, weights, names, kl)
	for i := range answers {
		answers[i].Advantage = advantages[i]
	}
	w.Values, w.Reward = append(values, lengthValues(answers)...), meanOf(weighted(rewards, weights))
	if r.Comm.Rank() > 0 {
		return w, agree(r.Comm, nil)
	}
	if c.partsAtOnce(c.GradientAccumulationSteps)*c.NumIterations > 1 {
		err = w.keep(r.Dir)
	}
	if err = agree(r.Comm, err); err != nil {
		return nil, err
	}
	return w, r.logAnswers(w, prompts, texts, weighted(rewards, weights))
}

// kept is the answers that a checkpoint goes on with, which rank 0 alone has.
func (r *run) kept(index int) (w *rollout, err error) {
	if r.Comm.Rank() == 0 {
		w, err = readRollout(r.Dir, index, r.identity)
	}
	if err = agree(r.Comm, err); err != nil || r.Comm.Size() == 1 {
		return w, err
	}
	return broadcast(r.Comm, w)
}

// write has the model answer each prompt a number of times, every rank its share. The random
// numbers of the answers are those of seed from stream on, whoever writes them.
func (r *run) write(ctx context.Context, prompts []data.Example, times int, seed, stream uint64) ([]written, error) {
	c := &r.Config
	requests := make([]engine.Request, 0, len(prompts)*times)
	for _, p := range prompts {
		for range times {
			requests = append(requests, engine.Request{Prompt: p.IDs, MaxNew: c.MaxCompletionLength, Stop: r.Answering.Stop,
				Sampling: kernels.SampleRow{Temperature: *c.Temperature, TopK: c.TopK, TopP: *c.TopP, MinP: *c.MinP, RepetitionPenalty: *c.RepetitionPenalty,
					Seed: seed, Stream: stream + uint64(len(requests))}})
		}
	}
	out := make([]written, len(requests))
	lo, hi := shareOf(len(requests), r.Comm)
	err := r.fill(ctx, r.Model, requests[lo:hi], out[lo:hi])
	if err = agree(r.Comm, err); err != nil {
		return nil, err
	}
	var own []int
	for i := lo; i < hi; i++ {
		own = append(own, i)
	}
	return out, pool(r.Comm, own, func(i int, m *message) {
		a := &out[i]
		numbers(m, &a.IDs)
		m.flag(&a.Truncated)
	})
}

// fill has m answer requests, and writes what it answers to out.
func (r *run) fill(ctx context.Context, m *model.Model, requests []engine.Request, out []written) error {
	if len(requests) == 0 {
		return nil
	}
	got, err := r.answers(ctx, m, requests)
	for i, a := range got {
		out[i] = written{IDs: slices.Clone(a.IDs), Truncated: a.Stop != engine.StopEOS}
		if a.End >= 0 {
			out[i].IDs = append(out[i].IDs, a.End)
		}
	}
	return err
}

// message is what one rank tells the others of one thing: it is written, or read.
type message struct {
	v     []float64
	reads bool
}

func (m *message) number(x *float64) {
	if m.reads {
		*x, m.v = m.v[0], m.v[1:]
	} else {
		m.v = append(m.v, *x)
	}
}

func (m *message) flag(b *bool) {
	x := 0.0
	if *b {
		x = 1
	}
	m.number(&x)
	*b = x != 0
}

// numbers are a list of what float64 holds.
func numbers[T int32 | float32](m *message, s *[]T) {
	n := float64(len(*s))
	if *s == nil {
		n = -1
	}
	m.number(&n)
	if m.reads && n >= 0 {
		*s = make([]T, int(n))
	}
	for i := range *s {
		x := float64((*s)[i])
		m.number(&x)
		(*s)[i] = T(x)
	}
}

// pool gives every rank what each has of its own things, by their numbers: tell writes one
// to a message, or reads it.
func pool(c Comm, own []int, tell func(i int, m *message)) error {
	if c.Size() == 1 {
		return nil
	}
	m := &message{}
	for _, i := range own {
		at := float64(i)
		m.number(&at)
		tell(i, m)
	}
	all, err := c.Gather(m.v)
	for rank, v := range all {
		if rank == c.Rank() {
			continue
		}
		for m := (&message{v, true}); len(m.v) > 0; {
			var at float64
			m.number(&at)
			tell(int(at), m)
		}
	}
	return err
}

// answers has m answer requests, and counts the time. With dtype: bf16 operands may be
// rounded as those of training are, but where weights are quantized: there it would be to
// 8 bits.
func (r *run) answers(ctx context.Context, m *model.Model, requests []engine.Request) ([]engine.Answer, error) {
	defer func(was bool) { m.Fast = was }(m.Fast)
	m.Fast = r.bf16 && !slices.ContainsFunc(m.Params(), func(p *autograd.Param) bool { return m.HeldType(p).Quantized() })
	began := time.Now()
	out, err := engine.Run(ctx, m, requests, nil)
	r.writing += time.Since(began)
	return out, err
}

// judged gives every answer its rewards [functions][answers], NaN for none, and
// its text.
func (r *run) judged(ctx context.Context, prompts []data.Example, answers []written, times int) (out [][]float64, texts []string, err error) {
	given := make([]judge.Answer, len(answers))
	texts = make([]string, len(answers))
	var row map[string]any
	for i, a := range answers {
		p := prompts[i/times]
		if i%times == 0 {
			d := json.NewDecoder(strings.NewReader(p.Row))
			d.UseNumber()
			row = nil
			if err := d.Decode(&row); err != nil {
				return nil, nil, fail.Inputf(p.From.String(), "ingest the rows again", "the row beside the prompt: %w", err)
			}
		}
		texts[i] = r.Answering.Text(a.IDs)
		given[i] = judge.Answer{Text: texts[i], IDs: a.IDs, Row: row}
	}
	for _, f := range r.Answering.Rewards {
		v := make([]float64, len(given))
		if r.Comm.Rank() == 0 { // whoever gives it is asked once
			v, err = f.Score(ctx, given)
		}
		if err = agree(r.Comm, err); err == nil {
			err = r.Comm.Broadcast(kernels.Bytes(v))
		}
		if err != nil {
			return nil, nil, err
		}
		out = append(out, v)
	}
	unrated := 0
	for i := range answers {
		if !slices.ContainsFunc(out, func(v []float64) bool { return !math.IsNaN(v[i]) }) {
			unrated++
		}
	}
	if unrated > 0 && !r.unrated {
		r.unrated = true
		r.log("%d of %d answers got no reward from any function: nothing is learned from them (said once)", unrated, len(answers))
	}
	return out, texts, nil
}

// remember stores the log-probabilities of a rollout that its steps need beside
// those of the model as it is then. Where rewards know of the reference it returns
// how far each answer is from that; else nil.
func (r *run) remember(w *rollout) (kl []running, err error) {
	c := &r.Config
	later := c.partsAtOnce(c.GradientAccumulationSteps)*c.NumIterations > 1
	penalty := objectives[c.Objective].penalty && *c.Beta > 0
	if !later && !c.SamplingCorrection && !penalty {
		return nil, nil
	}
	if penalty {
		kl = make([]running, len(w.Answers))
	}
	for part := range c.partsAtOnce(c.GradientAccumulationSteps) {
		s, err := r.learn(w, part)
		if err != nil {
			return nil, err
		}
		own := share(s.Micro, r.Comm)
		err = r.rememberOwn(w, own, later, penalty, kl)
		if err = agree(r.Comm, err); err != nil {
			return nil, err
		}
		var of []int
		for k := range own {
			for s := range len(own[k].Seq) - 1 {
				of = append(of, int(own[k].Key[own[k].Seq[s]]>>32))
			}
		}
		err = pool(r.Comm, of, func(i int, m *message) {
			numbers(m, &w.Answers[i].Old)
			numbers(m, &w.Answers[i].Sampler)
			if penalty {
				m.number(&kl[i].Sum)
				m.number(&kl[i].N)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return kl, nil
}

// rememberOwn does so of a rank's own micro-batches.
func (r *run) rememberOwn(w *rollout, own []data.Batch, later, penalty bool, kl []running) error {
	for k := range own {
		b := &own[k]
		if later || penalty {
			logp, err := logProbs(r.Model, b, false, true, r.bf16, r.temperature())
			if err != nil {
				return err
			}
			if later {
				w.spread(b, logp, func(a *written) *[]float32 { return &a.Old })
			}
			if penalty {
				if err := r.drift(b, logp, kl); err != nil {
					return err
				}
			}
		}
		if r.Config.SamplingCorrection {
			logp, err := logProbs(r.Model, b, false, false, r.bf16, r.temperature())
			if err != nil {
				return err
			}
			w.spread(b, logp, func(a *written) *[]float32 { return &a.Sampler })
		}
	}
	return nil
}

// drift sets of kl what belongs to the answers of b, whose log-probabilities are logp: the
// sum of log ratios to the reference, over so many tokens.
func (r *run) drift(b *data.Batch, logp []float32, kl []running) error {
	reference, err := r.reference(b, true, part{})
	if err != nil {
		return err
	}
	for s := range len(b.Seq) - 1 {
		kl[b.Key[b.Seq[s]]>>32] = running{sumOf(b, logp, s) - sumOf(b, reference, s), float64(targetsOf(b, s))}
	}
	return nil
}

// advantagesOf are the advantages of answers under c's objective, kl nil or how far each is from the
// reference, and what is worth a curve.
func (c Config) advantagesOf(rewards [][]float64, weights []float64, names []string, kl []running) (out []float64, values Values) {
	if !objectives[c.Objective].penalty {
		return c.advantages(rewards, weights, names)
	}
	var all running
	var penalty []float64
	for _, v := range kl {
		all.Sum, all.N = all.Sum+v.Sum, all.N+v.N
		penalty = append(penalty, *c.Beta*v.Sum)
	}
	out, values = c.leaveOneOut(rewards, weights, names, penalty)
	if kl != nil {
		values = append(values, Value{"kl", all.mean()})
	}
	return out, values
}

// spread gives the answers of b their log-probabilities.
func (w *rollout) spread(b *data.Batch, logp []float32, to func(*written) *[]float32) {
	for s := 0; s+1 < len(b.Seq); s++ {
		v := to(&w.Answers[b.Key[b.Seq[s]]>>32])
		*v = []float32{}
		for i := b.Seq[s]; i < b.Seq[s+1]; i++ {
			if b.Target[i] >= 0 {
				*v = append(*v, logp[i])
			}
		}
	}
}

// answersOf is what is known of the answers that b is made of; nil where they are
// not the model's.
func (r *run) answersOf(b *data.Batch) *Answers {
	if r.rollout == nil {
		return nil
	}
	a := &Answers{}
	place := func(to *[]float32, from []float32, s int) {
		if from == nil {
			return
		}
		if *to == nil {
			*to = make([]float32, len(b.Target))
		}
		for i := b.Seq[s]; i < b.Seq[s+1]; i++ {
			if b.Target[i] >= 0 {
				(*to)[i], from = from[0], from[1:]
			}
		}
	}
	for s := 0; s+1 < len(b.Seq); s++ {
		w := r.rollout.Answers[b.Key[b.Seq[s]]>>32]
		a.Advantage = append(a.Advantage, w.Advantage)
		place(&a.Old, w.Old, s)
		place(&a.Sampler, w.Sampler, s)
	}
	return a
}

// lengthValues are what TRL logs of answers' lengths.
func lengthValues(answers []written) Values {
	stats := func(name string, lengths []float64) Values {
		if len(lengths) == 0 {
			lengths = []float64{0}
		}
		return Values{{"completions/mean_" + name, meanOf(lengths)}, {"completions/min_" + name, slices.Min(lengths)}, {"completions/max_" + name, slices.Max(lengths)}}
	}
	var all, ended []float64
	for _, a := range answers {
		all = append(all, float64(len(a.IDs)))
		if !a.Truncated {
			ended = append(ended, float64(len(a.IDs)))
		}
	}
	v := append(stats("length", all), Value{"completions/clipped_ratio", 1 - float64(len(ended))/float64(len(all))})
	return append(v, stats("terminated_length", ended)...)
}

// scoreAnswers answers the prompts held back once each and adds up their rewards
// as a score whose loss is minus the reward.
func (r *run) scoreAnswers(ctx context.Context) (sum Score, tokens int64, w whole, err error) {
	prompts := make([]data.Example, r.val.StepsPerEpoch())
	for i := range prompts {
		if prompts[i], err = r.val.Row(i); err != nil {
			return sum, 0, w, err
		}
	}
	r.tell(Progress{Answering: true, Evaluating: true})
	answers, err := r.write(ctx, prompts, 1, ^uint64(*r.Config.Seed), 0)
	if err != nil {
		return sum, 0, w, memory(err)
	}
	rewards, _, err := r.judged(ctx, prompts, answers, 1)
	if err != nil {
		return sum, 0, w, err
	}
	sum.Values = Values{{Name: "reward"}}
	weights := make([]float64, len(rewards))
	for f, fn := range r.Answering.Rewards {
		weights[f] = fn.Weight
		sum.Values = append(sum.Values, Value{Name: "rewards/" + fn.Name + "/mean"})
	}
	sum.Of = make([]float64, len(sum.Values)) // each a mean over the answers that it rated
	total := weighted(rewards, weights)
	for i, v := range total {
		if math.IsNaN(v) || r.Comm.Rank() > 0 { // rank 0 counts them all
			continue
		}
		w.units, tokens = w.units+1, tokens+int64(len(answers[i].IDs))
		sum.Loss -= v
		sum.Values[0].V += v
		sum.Of[0]++
		for f := range rewards {
			if x := rewards[f][i]; !math.IsNaN(x) {
				sum.Values[1+f].V += x
				sum.Of[1+f]++
			}
		}
	}
	return sum, tokens, w, nil
}

// checkAnswering refuses a run that cannot ask.
func (r *run) checkAnswering() error {
	if !r.asks() {
		return nil
	}
	longest, limit := max(longestPrompt(r.Train), longestPrompt(r.Val)), r.Model.Spec.MaxPos
	if need := longest + r.Config.MaxCompletionLength; limit > 0 && need > limit {
		return fail.Usagef("train.max_completion_length", fmt.Sprintf("max_completion_length: %d fits all prompts; ingest.max_length keeps longer prompts out", max(1, limit-longest)),
			"the longest prompt has %d tokens, an answer up to %d: together more than the model's context of %d", longest, r.Config.MaxCompletionLength, limit)
	}
	return nil
}

// longestPrompt is the most tokens of a prompt, at least 1.
func longestPrompt(ex data.Examples) int {
	most := 1
	for i := range ex.Len() {
		n, _ := ex.Size(i)
		most = max(most, n)
	}
	return most
}

// rehearsed is a step like the largest that r may meet: answers of full length to
// the longest prompt.
func (r *run) rehearsed(ctx context.Context) (data.Step, error) {
	c := &r.Config
	prompt := data.Example{IDs: make([]int32, longestPrompt(r.Train))}
	requests := make([]engine.Request, min(16, (c.promptsAtOnce()*c.NumGenerations+r.Comm.Size()-1)/r.Comm.Size()))
	for i := range requests {
		requests[i] = engine.Request{Prompt: prompt.IDs, MaxNew: c.MaxCompletionLength, Stop: []int32{0}}
	}
	if _, err := r.answers(ctx, r.Model, requests); err != nil {
		return data.Step{}, err
	}
	r.rollout = &rollout{}
	var examples []data.Example
	for i := range c.MicroBatchSize {
		a := written{IDs: make([]int32, cmp.Or(c.MaxCompletionLength, 1)), Advantage: 1}
		r.rollout.Answers = append(r.rollout.Answers, a)
		examples = append(examples, answered(prompt, a, i, false))
	}
	l, err := data.NewLoader(data.InMemory(examples...), data.LoaderOptions{MicroBatch: c.MicroBatchSize, Packing: "none"})
	if err != nil {
		return data.Step{}, err
	}
	return l.Step(0)
}
