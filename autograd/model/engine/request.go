package engine

import (
	"context"
	"iter"
	"strings"
	"sync"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// Request is a prompt and what its answer may be.
type Request struct {
	Prompt []int32 // at least one token
	MaxNew int     // tokens of the answer at most, at least 1
	// Sampling says how tokens are chosen; the zero value is greedy. A random
	// number is a function of Seed, Stream and the place in the answer alone. Step
	// and Seen are filled in by the engine.
	Sampling kernels.SampleRow
	Stop     []int32 // ids that end an answer and are no part of it
	// StopTexts end an answer where one of them begins, wherever the borders of
	// tokens are; they need Text.
	StopTexts []string
	// Text makes text of this answer's tokens; nil: there is none.
	Text Decoder
}

// Decoder makes text of tokens as they come, such as a tokenizer's Stream.
type Decoder interface {
	Push(id int32) string // the text that is now complete
	Flush() string        // what is left at the end
}

// Token is a token of an answer. Text is what can be shown now that it is
// there, often "": characters are never cut, and what may become a stop text is
// held back. A last one with ID -1 may bring the rest of the text.
type Token struct {
	ID   int32
	Text string
}

// Why an answer ended.
const (
	StopEOS    = "eos"     // a token of Request.Stop
	StopLength = "length"  // MaxNew tokens
	StopText   = "text"    // a text of Request.StopTexts
	StopRoom   = "context" // the model's context is full
)

// Answer is a finished answer, or with an error as much as there is of it.
type Answer struct {
	IDs    []int32 // new tokens, without the one that stopped it
	Text   string  // of these, up to a stop text; "" without a Decoder
	Stop   string  // why it ended; "" with an error
	End    int32   // the token of Request.Stop that stopped it, else -1
	Reused int     // tokens of the prompt that were there already
}

// Stream is an answer in the making.
type Stream struct {
	mu     sync.Mutex
	more   sync.Cond // tokens or over have changed
	tokens []Token
	over   bool
	answer Answer
	err    error
	ended  func(error) // called at the end; may be nil
}

func newStream(ended func(error)) *Stream {
	s := &Stream{ended: ended}
	s.more.L = &s.mu
	return s
}

// Tokens yields the answer's tokens from the first on, as they come, and ends
// with the answer. Whoever reads slowly keeps nobody waiting.
func (s *Stream) Tokens() iter.Seq[Token] {
	return func(yield func(Token) bool) {
		for i := 0; ; i++ {
			t, ok := s.at(i)
			if !ok || !yield(t) {
				return
			}
		}
	}
}

// at waits for token i; there is none when the answer has ended before it.
func (s *Stream) at(i int) (Token, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i == len(s.tokens) && !s.over {
		s.more.Wait()
	}
	if i == len(s.tokens) {
		return Token{}, false
	}
	return s.tokens[i], true
}

// Answer waits for the end and returns the answer.
func (s *Stream) Answer() (Answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.over {
		s.more.Wait()
	}
	return s.answer, s.err
}

func (s *Stream) add(t Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = append(s.tokens, t)
	s.more.Broadcast()
}

// end publishes the answer with the text of its tokens.
func (s *Stream) end(a Answer, err error) {
	s.mu.Lock()
	var text strings.Builder
	for _, t := range s.tokens {
		text.WriteString(t.Text)
	}
	a.Text = text.String()
	s.answer, s.err, s.over = a, err, true
	s.more.Broadcast()
	s.mu.Unlock()
	if s.ended != nil {
		s.ended(err)
	}
}

// check refuses what can never be answered.
func (e *Engine) check(r *Request) error {
	switch {
	case len(r.Prompt) == 0:
		return fail.Inputf("prompt", "", "no tokens")
	case r.MaxNew < 1:
		return fail.Usagef("request", "ask for at least 1", "an answer of %d tokens", r.MaxNew)
	case e.o.Max > 0 && len(r.Prompt)+r.MaxNew > e.o.Max:
		return fail.Limitf("request", "shorten the prompt, ask for fewer tokens or raise the context length",
			"%d tokens of prompt and up to %d of answer, a conversation has room for %d", len(r.Prompt), r.MaxNew, e.o.Max)
	}
	for _, s := range r.StopTexts {
		if s == "" || r.Text == nil {
			return fail.Usagef("request", "give a text and a decoder", "stop text %q cannot be looked for", s)
		}
	}
	return e.m.CheckPrompt(r.Prompt)
}

// most is how many tokens the answer may have: no more than the model's context has
// room for after the prompt.
func (j *job) most(context int) int {
	if context > 0 {
		return min(j.MaxNew, context-len(j.Prompt))
	}
	return j.MaxNew
}

// need is how many tokens a cache must have room for.
func (j *job) need(context int) int { return max(len(j.source), len(j.Prompt)+j.most(context)) }

// made is how many tokens the answer has.
func (j *job) made() int { return len(j.ids) - len(j.Prompt) }

// row says how the next token is chosen.
func (j *job) row() *kernels.SampleRow {
	r := j.Sampling
	r.Seen, r.Step = j.ids, uint64(j.made())
	return &r
}

// show adds a token to the stream and reports whether a stop text has come.
func (j *job) show(id int32) (stopped bool) {
	t := Token{ID: id}
	if j.Text != nil {
		t.Text, stopped = j.stop.push(j.Text.Push(id))
	}
	j.out.add(t)
	return stopped
}

// end shows the text that was held back and publishes the answer.
func (j *job) end(stop string, end int32, err error) {
	if j.Text != nil && !j.stop.met {
		text, met := j.stop.push(j.Text.Flush())
		switch {
		case !met:
			text += j.stop.flush()
		case err == nil:
			stop, end = StopText, -1
		}
		if text != "" {
			j.out.add(Token{ID: -1, Text: text})
		}
	}
	a := Answer{Stop: stop, End: end, Reused: j.reused}
	if j.made() > 0 {
		a.IDs = j.ids[len(j.Prompt):]
	}
	j.out.end(a, err)
}

// Together is how many answers Run makes side by side: the most for which the
// products of a step without prompts are made for few rows.
const Together = 16

// Start is an engine of their own for requests, each answered from its first token
// on, with their streams. The caller closes it.
func Start(ctx context.Context, m *model.Model, requests []Request) (*Engine, []*Stream, error) {
	return start(ctx, m, requests, nil)
}

func start(ctx context.Context, m *model.Model, requests []Request, ended func(error)) (*Engine, []*Stream, error) {
	o := Options{Slots: min(Together, max(len(requests), 1)), Fresh: true}
	for _, r := range requests {
		o.Max = max(o.Max, len(r.Prompt)+r.MaxNew)
	}
	e, err := New(m, o)
	if err != nil {
		return nil, nil, err
	}
	return e, e.submit(ctx, ended, requests), nil
}

// Run answers all requests with an engine of their own, each from its first
// token on, and calls progress, if set, after every answer. The first error ends
// all.
func Run(ctx context.Context, m *model.Model, requests []Request, progress func(done, total int64)) ([]Answer, error) {
	ends := make(chan error, len(requests))
	e, streams, err := start(ctx, m, requests, func(err error) { ends <- err })
	if err != nil {
		return nil, err
	}
	defer e.Close()
	for n := range streams {
		if err := <-ends; err != nil {
			return nil, err
		}
		if progress != nil {
			progress(int64(n+1), int64(len(requests)))
		}
	}
	out := make([]Answer, len(requests))
	for i, s := range streams {
		out[i], _ = s.Answer()
	}
	return out, nil
}
