package train

import "github.com/tunekit/tunekit/data"

// SourceLoss is the loss over the samples of one data set of several.
type SourceLoss struct {
	Source string  `json:"source"`
	Loss   float64 `json:"loss"`  // a mean like that of the step
	Count  int64   `json:"count"` // of supervised tokens, or what else the objective counts
}

// sourcePart is what one source adds to a Score.
type sourcePart struct {
	loss, tokens float64 // as Score.Loss and Score.Tokens
	units, of    float64 // what they are means over
}

// addParts adds the parts of another score.
func addParts(to, from []sourcePart) []sourcePart {
	if to == nil && from != nil {
		to = make([]sourcePart, len(from))
	}
	for i, p := range from {
		to[i] = sourcePart{to[i].loss + p.loss, to[i].tokens + p.tokens, to[i].units + p.units, to[i].of + p.of}
	}
	return to
}

// bySource scores the samples of each source of b alone; nil where there is one source.
func (r *run) bySource(b *data.Batch, p LogProbs) []sourcePart {
	if r.parted() == 0 {
		return nil
	}
	out := make([]sourcePart, r.parted())
	for lo := 0; lo+1 < len(b.Seq); {
		source, hi := r.Source(b.From[lo].File), lo+1
		for hi+1 < len(b.Seq) && r.Source(b.From[hi].File) == source {
			hi++
		}
		if source >= 0 {
			some, of := samplesOf(b, p, lo, hi)
			s := r.objective.Score(&some, of)
			out[source].loss += s.Loss
			out[source].tokens += s.Tokens
			out[source].units += float64(r.objective.Count(&some))
			out[source].of += float64(r.countTokens([]data.Batch{some}))
		}
		lo = hi
	}
	return out
}

// samplesOf is samples lo … hi-1 of b and what is known of them.
func samplesOf(b *data.Batch, p LogProbs, lo, hi int) (data.Batch, LogProbs) {
	from, to := b.Seq[lo], b.Seq[hi]
	some := data.Batch{IDs: b.IDs[from:to], Pos: b.Pos[from:to], Target: b.Target[from:to], Key: b.Key[from:to],
		Group: b.Group[lo:hi], Mark: b.Mark[lo:hi], Sample: b.Sample[lo:hi], From: b.From[lo:hi]}
	for _, s := range b.Seq[lo : hi+1] {
		some.Seq = append(some.Seq, s-from)
	}
	for _, t := range some.Target {
		if t >= 0 {
			some.Supervised++
		}
	}
	cut := func(v []float32) []float32 {
		switch len(v) {
		case len(b.Target):
			return v[from:to]
		case len(b.Seq) - 1: // a value a sample
			return v[lo:hi]
		}
		return nil
	}
	p.Policy, p.Reference, p.Mean, p.Divergence, p.Entropy = cut(p.Policy), cut(p.Reference), cut(p.Mean), cut(p.Divergence), cut(p.Entropy)
	return some, p
}

// lossesOf names the losses of parts.
func (r *run) lossesOf(parts []sourcePart) []SourceLoss {
	var out []SourceLoss
	for i, p := range parts {
		if p.units == 0 {
			continue
		}
		loss := p.loss / p.units
		if p.tokens != 0 {
			loss += p.tokens / p.of
		}
		out = append(out, SourceLoss{r.Sources[i], loss, int64(p.units)})
	}
	return out
}

// parted is the number of sources that losses are told apart by, 0 for none.
func (r *run) parted() int {
	if len(r.Sources) < 2 || r.asks() {
		return 0
	}
	return len(r.Sources)
}
