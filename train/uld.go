package train

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
)

// ULD is universal logit distillation (Boizard et al. 2024, arXiv:2402.12030): a teacher
// of other tokens is compared with by the ranks of probabilities. Keys are those of TRL's
// GOLD.
type ULD struct {
	UseULD             bool     `yaml:"use_uld_loss,omitempty" doc:"distill: compare probabilities by their ranks, so that the teacher may have other tokens" default:"false"`
	CrossEntropyWeight *float64 `yaml:"uld_crossentropy_weight,omitempty" doc:"use_uld_loss: weight of the mean of -log p of the given tokens" unset:"0" range:"[0,1000]"`
	DistillationWeight *float64 `yaml:"uld_distillation_weight,omitempty" doc:"use_uld_loss: weight of the comparison" unset:"1" range:"[0,1000]"`
	StudentTemperature *float64 `yaml:"uld_student_temperature,omitempty" doc:"use_uld_loss: of the model" unset:"1" range:"(0,100]"`
	TeacherTemperature *float64 `yaml:"uld_teacher_temperature,omitempty" doc:"use_uld_loss: of the teacher" unset:"1" range:"(0,100]"`
	SkipEOS            bool     `yaml:"uld_skip_eos,omitempty" doc:"use_uld_loss: leave out the tokens that end answers" default:"false"`
}

// checkULD refuses keys of ULD without it, and what it has no use for.
func (c Config) checkULD(given Config) error {
	if !c.UseULD {
		for key, set := range map[string]bool{
			"uld_crossentropy_weight": c.CrossEntropyWeight != nil, "uld_distillation_weight": c.DistillationWeight != nil, "uld_skip_eos": c.SkipEOS,
			"uld_student_temperature": c.StudentTemperature != nil, "uld_teacher_temperature": c.TeacherTemperature != nil,
		} {
			if set {
				return fail.Usagef("train."+key, "use_uld_loss: true", "%s belongs to use_uld_loss", key)
			}
		}
		return nil
	}
	switch {
	case !c.Distills():
		return fail.Usagef("train.use_uld_loss", "leave it out", "use_uld_loss belongs to objective: distill, not %s", c.Objective)
	case given.Beta != nil:
		return fail.Usagef("train.beta", "leave it out", "beta chooses a divergence of equal tokens, and use_uld_loss compares ranks")
	case given.Temperature != nil && !c.Writes():
		return fail.Usagef("train.temperature", "uld_student_temperature and uld_teacher_temperature", "temperature is of answers that are written, and use_uld_loss has one for each model")
	case c.LossTopK > 0:
		return fail.Usagef("train.loss_top_k", "leave it out", "loss_top_k keeps likely tokens, and use_uld_loss compares all ranks")
	case c.SeqKD:
		return fail.Usagef("train.seq_kd", "leave it out", "seq_kd has the teacher write answers, and use_uld_loss is for teachers of other tokens")
	}
	return nil
}

// Reader turns the samples of one tokenizer into those of another.
type Reader struct{ From, To *tokenizer.Tokenizer }

// aligned are runs of tokens of a model and of its teacher that say the same: token
// numbers [from, to) in the sample of each.
type aligned struct{ own, its [2]int32 }

// read is a sample as To has it, and which learned tokens of both say the same. Text is
// taken as From's tokens say it, added tokens included, cut where learning begins and
// ends. The zero Reader is for a teacher of the same tokens. The error is about text that To cannot tokenize.
func (r Reader) read(e data.Example, skipEOS bool) (its data.Example, groups []aligned, err error) {
	its = data.Example{ID: e.ID}
	if r.To == nil {
		its.IDs = e.IDs
		for _, l := range e.Loss {
			for at := l[0]; at < l[1]; at++ {
				groups = append(groups, aligned{[2]int32{at, at + 1}, [2]int32{at, at + 1}})
			}
		}
		return its, groups, nil
	}
	ids := e.IDs
	begin := int32(0)
	if r.From.AddsBOS() && len(ids) > 0 && ids[0] == r.From.BOS() {
		begin = 1
	}
	if r.To.AddsBOS() {
		its.IDs = append(its.IDs, r.To.BOS())
	}
	for _, l := range e.Loss {
		if l[0] > begin {
			before, err := r.To.TryEncode(r.From.Decode(ids[begin:l[0]], false), false)
			if err != nil {
				return its, nil, err
			}
			its.IDs = append(its.IDs, before...)
		}
		begin = l[1]
		answer, ends := ids[l[0]:l[1]], false
		if n := len(answer); n > 0 && slices.Contains(r.From.EOSIDs(), answer[n-1]) {
			answer, ends = answer[:n-1], true
		}
		from := int32(len(its.IDs))
		translated, err := r.To.TryEncode(r.From.Decode(answer, false), false)
		if err != nil {
			return its, nil, err
		}
		for _, g := range same(r.From.Pieces(answer), r.To.Pieces(translated)) {
			if from+g.its[0] > 0 { // before the first token nothing was said
				groups = append(groups, aligned{[2]int32{l[0] + g.own[0], l[0] + g.own[1]}, [2]int32{from + g.its[0], from + g.its[1]}})
			}
		}
		its.IDs = append(its.IDs, translated...)
		if ends && r.To.EOS() >= 0 {
			at := int32(len(its.IDs))
			its.IDs = append(its.IDs, r.To.EOS())
			if !skipEOS && at > 0 {
				groups = append(groups, aligned{[2]int32{l[1] - 1, l[1]}, [2]int32{at, at + 1}})
			}
		}
	}
	return its, groups, nil
}

// same finds where two lists of pieces have said the same text, and no character is
// cut. Where they differ, as where one tokenizer normalizes, it goes on behind.
func same(own, its []string) (out []aligned) {
	x, y := newTextOf(own), newTextOf(its)
	for from := [2]int{}; from[0] >= 0; from = resume(x, y, from) {
		out, from = alike(out, x, y, from)
	}
	return out
}

// textOf are pieces as one text and where each begins in it.
type textOf struct {
	text  string
	begin []int // of each piece, and the end
	own   []string
}

func newTextOf(pieces []string) textOf {
	t := textOf{text: strings.Join(pieces, ""), begin: make([]int, len(pieces)+1), own: pieces}
	for i, p := range pieces {
		t.begin[i+1] = t.begin[i] + len(p)
	}
	return t
}

// whole reports whether piece i begins with a character.
func (t textOf) whole(i int) bool { return i == 0 || t.own[i-1] != "" }

// Texts that differ go on as one where so many bytes, or all that are left, are equal,
// after at most so many pieces of both.
const resumeBytes, resumePieces = 12, 64

// resume finds the nearest pieces behind from where both texts go on alike; -1 when
// there are none.
func resume(x, y textOf, from [2]int) [2]int {
	for skip := 1; skip <= resumePieces; skip++ {
		for k := range skip + 1 {
			i, j := from[0]+k, from[1]+skip-k
			if i >= len(x.own) || j >= len(y.own) || !x.whole(i) || !y.whole(j) {
				continue
			}
			a, b := x.text[x.begin[i]:], y.text[y.begin[j]:]
			if n := resumeBytes; a == b || len(a) >= n && len(b) >= n && a[:n] == b[:n] {
				return [2]int{i, j}
			}
		}
	}
	return [2]int{-1, -1}
}

// alike adds to out the groups from pieces from on, up to the first difference, and
// returns where that is.
func alike(out []aligned, x, y textOf, from [2]int) ([]aligned, [2]int) {
	i, j := from[0], from[1]
	ahead := func() int { return x.begin[i] - x.begin[from[0]] - (y.begin[j] - y.begin[from[1]]) }
	for i < len(x.own) && j < len(y.own) {
		for i++; !x.whole(i) && i < len(x.own); i++ { // those that complete nothing belong to the next
		}
		for ahead() > 0 {
			if j == len(y.own) {
				return out, from
			}
			for j++; ahead() < 0; i++ {
				if i == len(x.own) {
					return out, from
				}
			}
		}
		if x.text[x.begin[from[0]]:x.begin[i]] != y.text[y.begin[from[1]]:y.begin[j]] {
			return out, from
		}
		out = append(out, aligned{[2]int32{int32(from[0]), int32(i)}, [2]int32{int32(from[1]), int32(j)}})
		from = [2]int{i, j}
	}
	return out, from
}

// ranked is pass for o with use_uld_loss. A group of tokens counts as often as it has
// tokens, so that the loss is a mean over supervised tokens.
func (r *run) ranked(b *data.Batch, o distill, w whole) (s Score, err error) {
	c := r.Config.ULD
	p := LogProbs{Divergence: make([]float32, len(b.Target)), Entropy: make([]float32, len(b.Target))}
	list := make([]data.Example, len(b.Seq)-1)
	numbers := make([]int32, len(list))
	var rows, its []int32 // of the model's hidden states and the teacher's
	var tokens, itsTokens []int32
	var groups, itsGroups [][2]int32
	limit := int32(max(1, r.Model.RankedRows(r.Teacher)))
	from := int32(0) // where the sample begins in the teacher's batch
	for i := range list {
		var same []aligned
		list[i], same, err = r.Reader.read(sampleIn(b, i), c.SkipEOS)
		if err != nil {
			return s, fmt.Errorf("the teacher's tokenizer: %w", err)
		}
		for _, g := range same {
			n, m := g.own[1]-g.own[0], g.its[1]-g.its[0]
			if n > limit || m > limit {
				continue
			}
			for at := int32(len(rows)); at%limit+n > limit; at++ { // a group lies in one part
				rows, tokens = append(rows, b.Seq[i]), append(tokens, 0)
			}
			groups, itsGroups = append(groups, [2]int32{int32(len(rows)), int32(len(rows)) + n}), append(itsGroups, [2]int32{int32(len(its)), int32(len(its)) + m})
			for at := g.own[0]; at < g.own[1]; at++ {
				rows, tokens = append(rows, b.Seq[i]+at-1), append(tokens, b.IDs[b.Seq[i]+at])
			}
			for at := g.its[0]; at < g.its[1]; at++ {
				its, itsTokens = append(its, from+at-1), append(itsTokens, list[i].IDs[at])
			}
		}
		from += int32(len(list[i].IDs))
	}
	cross := value(c.CrossEntropyWeight, 0)
	if len(rows) == 0 && cross == 0 {
		return o.Score(b, p), nil
	}
	units := float64(max(w.units, 1))
	coef := make([]float32, len(groups))
	for k, g := range groups {
		coef[k] = float32(value(c.DistillationWeight, 1) * float64(g[1]-g[0]) / units)
	}
	var weights []float32
	if w.units == 0 {
		coef = nil
	} else if cross > 0 {
		weights = make([]float32, len(b.Target))
		for i, t := range b.Target {
			if t >= 0 {
				weights[i] = float32(cross / units)
			}
		}
	}
	coef, weights = r.scaled(coef), r.scaled(weights)
	err = r.dev.Run(func() error {
		t := r.tape(w.units > 0)
		defer t.Free()
		h := r.Model.Hidden(t, r.inputs(b, t.Record))
		if t.Err() != nil {
			return t.Err()
		}
		if len(rows) > 0 {
			tb := data.NewBatch(list, numbers)
			theirs := &autograd.Tape{Dev: r.dev, BF16: r.bf16, F16: r.scaler != nil}
			defer theirs.Free()
			said := r.Teacher.Hidden(theirs, inputs(&tb))
			if theirs.Err() != nil {
				return theirs.Err()
			}
			own := t.Rows(h, t.Upload(rows, len(rows), 1))
			loss, err := r.Model.DivergeRanked(t, own, model.RankedTeacher{
				Model: r.Teacher, Hidden: theirs.Rows(said, theirs.Upload(its, len(its), 1)), Groups: itsGroups, Tokens: itsTokens, Temperature: float32(value(c.TeacherTemperature, 1)),
			}, groups, tokens, float32(value(c.StudentTemperature, 1)), coef)
			t.Done(own)
			if err != nil {
				return err
			}
			for k, g := range groups {
				for at := g[0]; at < g[1]; at++ {
					p.Divergence[rows[at]] = float32(value(c.DistillationWeight, 1)) * loss[k]
				}
			}
		}
		if cross > 0 {
			logp, err := t.Values(r.Model.LogProb(t, h, b.Target, weights).LogP)
			if err != nil {
				return err
			}
			for i, target := range b.Target {
				if target >= 0 {
					p.Divergence[i] -= float32(cross) * logp[i]
				}
			}
		}
		t.Done(h)
		s = o.Score(b, p)
		s.Values = nil // no entropy is measured
		s.parts = r.bySource(b, p)
		r.suspect(b, p.Divergence)
		return t.Backward()
	})
	return s, err
}
