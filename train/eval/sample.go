// Package eval measures models: perplexity, KL divergence and agreement
// against a reference, answers to held-back prompts, speed; and judges
// differences with paired intervals. It needs a model and data, no training.
package eval

import (
	"fmt"
	"slices"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/data"
)

// Sample is one piece of text to score.
type Sample struct {
	IDs []int32
	// At are the positions [start, end) whose prediction counts: position p
	// predicts token p+1. The last position has no token to predict; it counts
	// for comparisons of distributions only.
	At [][2]int32
}

// positions is the number of positions that count.
func (s *Sample) positions() int {
	n := 0
	for _, r := range s.At {
		n += int(r[1] - r[0])
	}
	return n
}

// Targets is the number of tokens predicted.
func (s *Sample) Targets() int {
	n := s.positions()
	if k := len(s.At); k > 0 && int(s.At[k-1][1]) == len(s.IDs) {
		n--
	}
	return n
}

// Windows cuts a text into windows of context tokens, one every stride tokens.
// With stride = context they do not overlap; with less, each token is scored
// once, in the first window that holds it, with at least context-stride tokens
// before it (the strided recipe of Transformers' documentation, with every
// token weighted alike). The first token of the text is not predicted.
func Windows(ids []int32, context, stride int) ([]Sample, error) {
	if context < 2 || stride < 1 || stride > context {
		return nil, fmt.Errorf("eval: context %d and stride %d: want 1 ≤ stride ≤ context and context ≥ 2", context, stride)
	}
	var out []Sample
	done := 0
	for begin := 0; begin < len(ids); begin += stride {
		end := min(begin+context, len(ids))
		from := max(done-begin-1, 0)
		if end-begin >= 2 && from < end-begin {
			out = append(out, Sample{IDs: ids[begin:end], At: [][2]int32{{int32(from), int32(end - begin)}}})
		}
		done = end
		if end == len(ids) {
			break
		}
	}
	return out, nil
}

// Largest are the passes of Run over samples that take the most memory: of all tokens,
// of the positions that count, and of one sample's tokens.
func Largest(samples []Sample) [][]Sample {
	passes := model.Passes(samples, func(s Sample) int { return len(s.IDs) })
	sum := func(pass []Sample, size func(s *Sample) int) (n int) {
		for i := range pass {
			n += size(&pass[i])
		}
		return n
	}
	tokens := func(s *Sample) int { return len(s.IDs) }
	var out [][]Sample
	for _, size := range []func(pass []Sample) int{
		func(pass []Sample) int { return sum(pass, tokens) },
		func(pass []Sample) int { return sum(pass, (*Sample).positions) },
		func(pass []Sample) int { // of as many tokens, those of longer samples attend to more
			return sum(pass, func(s *Sample) int { return len(s.IDs) * len(s.IDs) })
		},
	} {
		if len(passes) > 0 {
			out = append(out, slices.MaxFunc(passes, func(a, b []Sample) int { return size(a) - size(b) }))
		}
	}
	return out
}

// Examples turns ingested rows into samples: supervised tokens count.
func Examples(ex []data.Example, context int) []Sample {
	var out []Sample
	for _, e := range ex {
		s := Sample{IDs: e.IDs[:min(len(e.IDs), context)]}
		for _, r := range e.Loss {
			lo, hi := max(r[0]-1, 0), min(r[1]-1, int32(len(s.IDs))-1)
			if lo < hi {
				s.At = append(s.At, [2]int32{lo, hi})
			}
		}
		if len(s.At) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// Whole are samples that count at every position.
func Whole(ex []data.Example) []Sample {
	out := make([]Sample, len(ex))
	for i, e := range ex {
		out[i] = Sample{IDs: e.IDs, At: [][2]int32{{0, int32(len(e.IDs))}}}
	}
	return out
}
