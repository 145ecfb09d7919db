package eval

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sort"

	"github.com/tunekit/tunekit/autograd/model"
)

// Sampling chooses the next token. The zero value is greedy. Filters have
// Transformers' meanings and order: repetition penalty, temperature, top-k,
// top-p, min-p.
type Sampling struct {
	Temperature       float64 // 0: greedy
	TopK              int     // 0: off
	TopP              float64 // 0 or 1: off
	MinP              float64 // 0: off
	RepetitionPenalty float64 // 0 or 1: off
	Seed              uint64
}

// Probs are the probabilities of every token after the filters, given the
// logits and the tokens so far. Removed tokens are exactly 0.
func (s Sampling) Probs(logits []float32, seen []int32) []float64 {
	x := make([]float64, len(logits))
	for i, v := range logits {
		x[i] = float64(v)
	}
	if p := s.RepetitionPenalty; p != 0 && p != 1 {
		done := map[int32]bool{}
		for _, id := range seen {
			if done[id] || int(id) >= len(x) {
				continue
			}
			done[id] = true
			if x[id] > 0 {
				x[id] /= p
			} else {
				x[id] *= p
			}
		}
	}
	if t := s.Temperature; t != 0 && t != 1 {
		for i := range x {
			x[i] /= t
		}
	}
	if k := s.TopK; k > 0 && k < len(x) {
		sorted := slices.Clone(x)
		sort.Sort(sort.Reverse(sort.Float64Slice(sorted)))
		drop(x, func(v float64) bool { return v < sorted[k-1] })
	}
	if p := s.TopP; p > 0 && p < 1 {
		topP(x, p)
	}
	if p := s.MinP; p > 0 {
		best := slices.Max(x)
		drop(x, func(v float64) bool { return math.Exp(v-best) < p })
	}
	return softmax(x)
}

func drop(x []float64, out func(float64) bool) {
	for i, v := range x {
		if out(v) {
			x[i] = math.Inf(-1)
		}
	}
}

// topP keeps the smallest set of most likely tokens whose probability reaches
// p: going up from the least likely, tokens go while their sum is at most 1-p.
func topP(x []float64, p float64) {
	probs := softmax(x)
	order := make([]int, len(x))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { // of equal ones the lowest id stays longest
		return cmp.Or(cmp.Compare(probs[a], probs[b]), b-a)
	})
	sum := 0.0
	for _, i := range order[:len(order)-1] {
		if sum += probs[i]; sum > 1-p {
			break
		}
		x[i] = math.Inf(-1)
	}
}

func softmax(x []float64) []float64 {
	best := slices.Max(x)
	out := make([]float64, len(x))
	sum := 0.0
	for i, v := range x {
		out[i] = math.Exp(v - best)
		sum += out[i]
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}

// next picks a token: greedily the lowest id of the largest logit, else by one
// random number that depends on (Seed, stream, step) alone.
func (s Sampling) next(logits []float32, seen []int32, stream, step uint64) int32 {
	if s.Temperature == 0 && (s.RepetitionPenalty == 0 || s.RepetitionPenalty == 1) {
		best := 0
		for i, v := range logits {
			if v > logits[best] {
				best = i
			}
		}
		return int32(best)
	}
	p := s.Probs(logits, seen)
	if s.Temperature == 0 {
		best := 0
		for i, v := range p {
			if v > p[best] {
				best = i
			}
		}
		return int32(best)
	}
	u := uniform(s.Seed, stream, step)
	last := int32(0)
	for i, v := range p {
		if v == 0 {
			continue
		}
		last = int32(i)
		if u -= v; u < 0 {
			break
		}
	}
	return last
}

// uniform is a number in [0, 1) from a counter (SplitMix64's finalizer).
func uniform(seed, stream, step uint64) float64 {
	z := seed*0x9e3779b97f4a7c15 ^ stream*0xbf58476d1ce4e5b9 ^ (step+1)*0x94d049bb133111eb
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z = (z ^ z>>31) * 0x9e3779b97f4a7c15
	z ^= z >> 29
	return float64(z>>11) / (1 << 53)
}

// Generation is one finished answer.
type Generation struct {
	IDs  []int32 // new tokens, without the one that stopped it
	Stop string  // "eos", "length"
	End  int32   // the token that stopped it, -1 for length
}

// GenerateOptions limit an answer.
type GenerateOptions struct {
	Sampling
	MaxNew int     // new tokens
	Stop   []int32 // ids that end an answer
	// Token, when set, sees every new token of prompt i as it is made.
	Token    func(i int, id int32)
	Progress func(done, total int64) // prompts
}

// slots is how many answers are generated side by side; a constant, although
// an answer does not depend on its neighbours.
const slots = 16

// Generate answers every prompt.
func Generate(ctx context.Context, m *model.Model, prompts [][]int32, o GenerateOptions) ([]Generation, error) {
	out := make([]Generation, len(prompts))
	longest := 0
	for _, p := range prompts {
		longest = max(longest, len(p))
	}
	width := min(slots, max(len(prompts), 1))
	cache, err := m.NewCache(width, longest+o.MaxNew)
	if err != nil {
		return nil, err
	}
	defer cache.Close()
	g := &generator{m: m, o: o, prompts: prompts, out: out, cache: cache, slot: make([]int, width), seen: make([][]int32, len(prompts))}
	for i := range g.slot {
		g.slot[i] = -1
	}
	for g.finished < len(prompts) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := g.step(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

type generator struct {
	m              *model.Model
	o              GenerateOptions
	prompts        [][]int32
	out            []Generation
	cache          *model.Cache
	slot           []int // prompt in each slot, -1 none
	seen           [][]int32
	next, finished int
}

// step feeds every slot: a waiting prompt, or the last token.
func (g *generator) step() error {
	var pieces []model.Piece
	for s := range g.slot {
		i := g.slot[s]
		if i < 0 {
			if g.next == len(g.prompts) {
				continue
			}
			i = g.next
			g.next++
			g.slot[s] = i
			g.cache.Reset(s)
			g.seen[i] = slices.Clone(g.prompts[i])
			pieces = append(pieces, model.Piece{Slot: s, Tokens: g.prompts[i]})
			continue
		}
		pieces = append(pieces, model.Piece{Slot: s, Tokens: g.seen[i][len(g.seen[i])-1:]})
	}
	logits, err := g.m.Step(g.cache, pieces)
	if err != nil {
		return err
	}
	for k, p := range pieces {
		g.take(p.Slot, logits[k])
	}
	return nil
}

// take chooses the next token of a slot and ends its answer when it is over.
func (g *generator) take(slot int, logits []float32) {
	i := g.slot[slot]
	r := &g.out[i]
	id := g.o.next(logits, g.seen[i], uint64(i), uint64(len(r.IDs)))
	r.End = -1
	switch {
	case slices.Contains(g.o.Stop, id):
		r.Stop, r.End = "eos", id
	default:
		r.IDs = append(r.IDs, id)
		g.seen[i] = append(g.seen[i], id)
		if g.o.Token != nil {
			g.o.Token(i, id)
		}
		if len(r.IDs) < g.o.MaxNew {
			return
		}
		r.Stop = "length"
	}
	g.slot[slot] = -1
	g.finished++
	if g.o.Progress != nil {
		g.o.Progress(int64(g.finished), int64(len(g.prompts)))
	}
}
