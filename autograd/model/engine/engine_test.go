package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
)

var dims = archtest.Dims{C: 16, V: 60, Layers: 2, H: 2, K: 1, D: 8, F: 24}

// counter counts the tokens whose keys are stored.
type counter struct {
	kernels.Backend
	stored int
}

func (c *counter) KVAppend(kv *kernels.KV, a *kernels.KVAppendArgs) {
	c.stored += a.N
	c.Backend.KVAppend(kv, a)
}

// taken returns the tokens that went through the model since it was last asked.
func (c *counter) taken() int {
	n := c.stored / dims.Layers
	c.stored = 0
	return n
}

func load(t *testing.T, limit int64) (*model.Model, *counter) {
	t.Helper()
	r := rand.New(rand.NewPCG(7, 1))
	src, err := archtest.Llama(dims, func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(0.2 * r.NormFloat64())
		}
		return v
	})
	if err != nil {
		t.Fatal(err)
	}
	dev := &counter{Backend: cpu.New(cpu.Options{MemoryLimit: limit})}
	m, err := model.Load(dev, src, model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m, dev
}

// open makes an engine that must leave no memory behind.
func open(t *testing.T, m *model.Model, o Options) *Engine {
	t.Helper()
	before := m.Dev.Info().Mem.Now
	e, err := New(m, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.Close()
		if now := m.Dev.Info().Mem.Now; now[kernels.Activations] != before[kernels.Activations] {
			t.Errorf("%d bytes of activations are left, %d were there before", now[kernels.Activations], before[kernels.Activations])
		}
	})
	return e
}

func tokens(seed uint64, n int) []int32 {
	r := rand.New(rand.NewPCG(seed, 2))
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(r.IntN(dims.V))
	}
	return ids
}

func answer(t *testing.T, s *Stream) Answer {
	t.Helper()
	a, err := s.Answer()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// alone is what an engine of its own answers.
func alone(t *testing.T, m *model.Model, r Request) Answer {
	t.Helper()
	a, err := Run(t.Context(), m, []Request{r}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a[0]
}

// The second turn of a long conversation computes what is new in it.
func TestNextTurn(t *testing.T) {
	m, count := load(t, 0)
	e := open(t, m, Options{Slots: 2, Room: 64}) // both grow
	first := Request{Prompt: tokens(1, 1980), MaxNew: 20}
	a := answer(t, e.Submit(t.Context(), first)[0])
	if n := count.taken(); n != 1980+19 || a.Reused != 0 || len(a.IDs) != 20 {
		t.Fatalf("first turn: %d tokens through the model, %d reused, %d new", n, a.Reused, len(a.IDs))
	}
	other := Request{Prompt: tokens(9, 30), MaxNew: 5} // goes to the other slot
	answer(t, e.Submit(t.Context(), other)[0])
	count.taken()

	second := Request{Prompt: slices.Concat(first.Prompt, a.IDs, tokens(2, 11)), MaxNew: 8}
	b := answer(t, e.Submit(t.Context(), second)[0])
	// The last token of the first answer was chosen, but never run.
	if n := count.taken(); n != 1+11+7 || b.Reused != 1999 {
		t.Errorf("second turn: %d tokens through the model, %d reused; want 19 and 1999", n, b.Reused)
	}
	if want := alone(t, m, second); !slices.Equal(b.IDs, want.IDs) {
		t.Errorf("second turn %v, computed whole %v", b.IDs, want.IDs)
	}
	count.taken()

	// Another ending of the same conversation keeps what stands before it.
	third := Request{Prompt: slices.Concat(first.Prompt[:1500], tokens(3, 40)), MaxNew: 4}
	c := answer(t, e.Submit(t.Context(), third)[0])
	if n := count.taken(); n != 40+3 || c.Reused != 1500 {
		t.Errorf("another ending: %d tokens through the model, %d reused; want 43 and 1500", n, c.Reused)
	}
	if want := alone(t, m, third); !slices.Equal(c.IDs, want.IDs) {
		t.Errorf("another ending %v, computed whole %v", c.IDs, want.IDs)
	}
	count.taken()

	// A few tokens in common are no reason to give up a long conversation.
	answer(t, e.Submit(t.Context(), Request{Prompt: slices.Concat(first.Prompt[:50], tokens(4, 10)), MaxNew: 2})[0])
	count.taken()
	d := answer(t, e.Submit(t.Context(), third)[0])
	if n := count.taken(); n != 1+3 || d.Reused != 1539 || !slices.Equal(d.IDs, c.IDs) {
		t.Errorf("the same prompt again: %d tokens through the model, %d reused, answer %v; want 4, 1539 and %v", n, d.Reused, d.IDs, c.IDs)
	}
}

// mixed are requests of all kinds and lengths.
func mixed(n int) []Request {
	var out []Request
	for i := range n {
		r := Request{Prompt: tokens(uint64(i), 1+37*i%190), MaxNew: 1 + 13*i%40, Stop: []int32{int32(i % 5)}}
		if i%2 == 1 {
			r.Sampling = kernels.SampleRow{Temperature: 0.8, TopK: 20, TopP: 0.95, RepetitionPenalty: 1.1, Seed: uint64(i), Stream: uint64(i % 3)}
		}
		out = append(out, r)
	}
	return out
}

// Many requests at once get the answers that they get alone.
func TestCompany(t *testing.T) {
	m, count := load(t, 0)
	requests := mixed(20)
	var want []Answer
	for _, r := range requests {
		want = append(want, alone(t, m, r))
	}
	for _, o := range []Options{{Slots: 6, Max: 256, Fresh: true}, {Slots: 20, Room: 8, Chunk: 64}, {Slots: 1, Max: 300}} {
		count.taken()
		e := open(t, m, o)
		need := 0
		for i, s := range e.Submit(t.Context(), requests...) {
			var ids []int32
			for tok := range s.Tokens() {
				ids = append(ids, tok.ID)
			}
			a := answer(t, s)
			if !slices.Equal(a.IDs, want[i].IDs) || a.Stop != want[i].Stop || a.End != want[i].End {
				t.Errorf("%+v: request %d: %v, alone %v", o, i, a, want[i])
			}
			if !slices.Equal(ids, a.IDs) {
				t.Errorf("%+v: request %d: tokens %v came of the answer %v", o, i, ids, a.IDs)
			}
			if need += len(requests[i].Prompt) + len(a.IDs) - a.Reused; a.Stop == StopLength {
				need--
			}
		}
		if n := count.taken(); n != need {
			t.Errorf("%+v: %d tokens through the model, want %d", o, n, need)
		}
	}
	var seen []int64
	if all, err := Run(t.Context(), m, requests, func(done, total int64) { seen = append(seen, done, total) }); err != nil {
		t.Error(err)
	} else {
		if len(seen) != 40 || seen[0] != 1 || seen[38] != 20 || seen[39] != 20 {
			t.Errorf("progress %v", seen)
		}
		for i := range all {
			if !slices.Equal(all[i].IDs, want[i].IDs) {
				t.Errorf("Run: request %d: %v, alone %v", i, all[i], want[i])
			}
		}
	}
}

// Requests with one prompt compute it once, and get the answers that they get alone.
func TestOnePrompt(t *testing.T) {
	m, count := load(t, 0)
	prompt := tokens(5, 150)
	var requests []Request
	for i := range 5 {
		requests = append(requests, Request{Prompt: prompt, MaxNew: 20 + i, Sampling: kernels.SampleRow{Temperature: 0.9, Seed: uint64(i)}})
	}
	requests = slices.Insert(requests, 2, Request{Prompt: prompt[:149], MaxNew: 7}, Request{Prompt: prompt[:1], MaxNew: 3}, Request{Prompt: prompt[:1], MaxNew: 3})
	var want []Answer
	for _, r := range requests {
		want = append(want, alone(t, m, r))
	}
	for _, o := range []Options{{Slots: 8, Max: 200, Fresh: true}, {Slots: 8, Room: 8, Chunk: 64}, {Slots: 3, Max: 200, Fresh: true}} {
		count.taken()
		e := open(t, m, o)
		need, reused := 0, 0
		for i, s := range e.Submit(t.Context(), requests...) {
			a := answer(t, s)
			if !slices.Equal(a.IDs, want[i].IDs) {
				t.Errorf("%+v: request %d: %v, alone %v", o, i, a.IDs, want[i].IDs)
			}
			need += len(requests[i].Prompt) - a.Reused + len(a.IDs) - 1
			reused += a.Reused
		}
		if n := count.taken(); n != need {
			t.Errorf("%+v: %d tokens through the model, want %d", o, n, need)
		}
		if o.Slots == 8 && reused != 4*149 {
			t.Errorf("%+v: %d tokens of prompts taken from another, want %d", o, reused, 4*149)
		}
	}
}

// A request that cannot be answered fails alone.
func TestErrors(t *testing.T) {
	m, _ := load(t, 0)
	good := Request{Prompt: tokens(1, 10), MaxNew: 5}
	want := alone(t, m, good)
	e := open(t, m, Options{Slots: 2, Max: 64})
	bad := map[string]struct {
		r    Request
		kind fail.Kind
	}{
		"longer than a slot": {Request{Prompt: tokens(1, 60), MaxNew: 5}, fail.Limit},
		"no such token":      {Request{Prompt: []int32{3, int32(dims.V)}, MaxNew: 5}, fail.Input},
		"no prompt":          {Request{MaxNew: 5}, fail.Input},
		"no answer":          {Request{Prompt: tokens(1, 3)}, fail.Usage},
		"no decoder":         {Request{Prompt: tokens(1, 3), MaxNew: 5, StopTexts: []string{"x"}}, fail.Usage},
		"an empty stop text": {Request{Prompt: tokens(1, 3), MaxNew: 5, StopTexts: []string{""}, Text: &script{}}, fail.Usage},
	}
	for name, c := range bad {
		all := e.Submit(t.Context(), good, c.r, good)
		if _, err := all[1].Answer(); fail.Code(err) != int(c.kind) {
			t.Errorf("%s: %v", name, err)
		}
		for _, i := range []int{0, 2} {
			if a := answer(t, all[i]); !slices.Equal(a.IDs, want.IDs) {
				t.Errorf("%s: the request beside it got %v, alone %v", name, a.IDs, want.IDs)
			}
		}
	}
}

// When memory for a longer conversation is missing, the others go on.
func TestMemory(t *testing.T) {
	m, _ := load(t, 2<<20)
	m.Spec.MaxPos = 1 << 16
	e := open(t, m, Options{Slots: 2, Room: 64})
	short := Request{Prompt: tokens(1, 10), MaxNew: 30}
	for _, n := range []int{20000, 4000} { // too much for the cache, too much for a step
		all := e.Submit(t.Context(), short, Request{Prompt: tokens(2, n), MaxNew: 5}, short)
		if _, err := all[1].Answer(); !errors.Is(err, kernels.ErrOutOfMemory) {
			t.Errorf("%d tokens in 2 MiB: %v", n, err)
		}
		for _, i := range []int{0, 2} {
			if a := answer(t, all[i]); len(a.IDs) != 30 {
				t.Errorf("an answer of %d tokens beside %d", len(a.IDs), n)
			}
		}
	}
	long := Request{Prompt: tokens(2, 4000), MaxNew: 5}
	if _, err := Run(t.Context(), m, []Request{short, long}, nil); !errors.Is(err, kernels.ErrOutOfMemory) {
		t.Errorf("Run with 4000 tokens in 2 MiB: %v", err)
	}
}

// A request that is cancelled ends where it is; its tokens can be used again.
// An answer ends where the model's context does, and a prompt that fills it is refused.
func TestContext(t *testing.T) {
	m, _ := load(t, 0)
	m.Spec.MaxPos = 40
	for _, c := range []struct {
		prompt, most, want int
		stop               string
	}{{30, 10, 10, StopLength}, {30, 11, 10, StopRoom}, {39, 100, 1, StopRoom}} {
		got, err := Run(context.Background(), m, []Request{{Prompt: tokens(1, c.prompt), MaxNew: c.most}}, nil)
		if err != nil || len(got[0].IDs) != c.want || got[0].Stop != c.stop {
			t.Errorf("%d tokens, %d wanted: %+v, %v", c.prompt, c.most, got, err)
		}
	}
	if _, err := Run(context.Background(), m, []Request{{Prompt: tokens(1, 40), MaxNew: 1}}, nil); fail.Code(err) != int(fail.Input) {
		t.Error(err)
	}
}

func TestCancel(t *testing.T) {
	m, count := load(t, 0)
	long := Request{Prompt: tokens(1, 100), MaxNew: 900}
	short := Request{Prompt: tokens(2, 20), MaxNew: 30}
	want := alone(t, m, short)
	e := open(t, m, Options{Slots: 2, Room: 1 << 10})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first, second := e.Submit(ctx, long)[0], e.Submit(t.Context(), short)[0]
	n := 0
	for range first.Tokens() {
		if n++; n == 5 {
			cancel()
		}
	}
	a, err := first.Answer()
	if !errors.Is(err, context.Canceled) || a.Stop != "" || len(a.IDs) < 5 || len(a.IDs) == 900 {
		t.Fatalf("cancelled after 5 tokens: %d tokens, stop %q, %v", len(a.IDs), a.Stop, err)
	}
	if b := answer(t, second); !slices.Equal(b.IDs, want.IDs) {
		t.Errorf("the request beside it got %v, alone %v", b.IDs, want.IDs)
	}
	if _, err := e.Submit(ctx, short)[0].Answer(); !errors.Is(err, context.Canceled) {
		t.Errorf("submitted with a context that is over: %v", err)
	}
	count.taken()
	next := Request{Prompt: slices.Concat(long.Prompt, a.IDs), MaxNew: 1}
	c := answer(t, e.Submit(t.Context(), next)[0])
	if n := count.taken(); n != 1 || c.Reused != len(next.Prompt)-1 {
		t.Errorf("continued: %d tokens through the model, %d of %d reused", n, c.Reused, len(next.Prompt))
	}
}

// What is not answered when the engine is closed ends with an error.
func TestClose(t *testing.T) {
	m, _ := load(t, 0)
	e := open(t, m, Options{Slots: 1, Max: 2000})
	r := Request{Prompt: tokens(1, 10), MaxNew: 1900}
	all := e.Submit(t.Context(), r, r)
	for range all[0].Tokens() {
		break
	}
	e.Close()
	for i, s := range append(all, e.Submit(t.Context(), r)...) {
		if a, err := s.Answer(); err == nil || len(a.IDs) == 1900 {
			t.Errorf("request %d: %d tokens, %v", i, len(a.IDs), err)
		}
	}
}

// script is a decoder that has words of its own for the tokens as they come.
type script struct {
	words []string
	end   string
}

func (s *script) Push(int32) string {
	if len(s.words) == 0 {
		return ""
	}
	w := s.words[0]
	s.words = s.words[1:]
	return w
}

func (s *script) Flush() string { return s.end }

func TestStopTexts(t *testing.T) {
	m, _ := load(t, 0)
	e := open(t, m, Options{Slots: 4, Max: 64})
	for _, c := range []struct {
		words []string
		end   string
		stop  []string
		text  string
		n     int
		why   string
	}{
		{[]string{"one", " tw", "o", " three"}, "", []string{"two"}, "one ", 3, StopText},
		{[]string{"", "", "naïve", " 日", "本", "語 "}, "", []string{"本語"}, "naïve 日", 6, StopText},
		{[]string{"a\n", "\n", "b"}, "", []string{"END", "\n\n"}, "a", 2, StopText},
		{[]string{"x EN", "E", "ND y"}, "", []string{"END"}, "x EN", 3, StopText},
		{[]string{"a", "b", "EN"}, "", []string{"END"}, "abEN", 8, StopLength},
		{[]string{"a", "b"}, "\uFFFD", []string{"END"}, "ab\uFFFD", 8, StopLength},
		{[]string{"a", "b EN"}, "D?", []string{"END"}, "ab ", 8, StopText}, // completed by what the last token held back
		{[]string{"abcde"}, "", []string{"d", "bc"}, "a", 1, StopText},
		{[]string{"abc"}, "?", nil, "abc?", 8, StopLength},
	} {
		s := e.Submit(t.Context(), Request{Prompt: tokens(1, 5), MaxNew: 8, StopTexts: c.stop, Text: &script{slices.Clone(c.words), c.end}})[0]
		var shown strings.Builder
		ids := 0
		for tok := range s.Tokens() {
			shown.WriteString(tok.Text)
			if tok.ID >= 0 {
				ids++
			}
		}
		a := answer(t, s)
		if a.Text != c.text || shown.String() != c.text || len(a.IDs) != c.n || ids != c.n || a.Stop != c.why {
			t.Errorf("%q until %q: text %q, shown %q, %d tokens (%d came), stop %q; want %q, %d, %q",
				c.words, c.stop, a.Text, shown.String(), len(a.IDs), ids, a.Stop, c.text, c.n, c.why)
		}
	}
}

// Wherever a text is cut into pieces, what is shown is what stands before the
// first of the stop texts, and nothing that could be taken back.
func TestStopperCuts(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	word := func(n int) string {
		var b strings.Builder
		for range n {
			b.WriteString([]string{"a", "b", "é"}[r.IntN(3)])
		}
		return b.String()
	}
	for range 3000 {
		text, stops := word(12), []string{word(1 + r.IntN(4)), word(2)}
		want := len(text)
		for end := range len(text) + 1 { // the first moment at which a stop text is there
			at := -1
			for _, s := range stops {
				if i := strings.Index(text[:end], s); i >= 0 && (at < 0 || i < at) {
					at = i
				}
			}
			if at >= 0 {
				want = at
				break
			}
		}
		s, shown, rest := stopper{texts: stops}, "", []rune(text)
		for len(rest) > 0 && !s.met {
			show, _ := s.push(string(rest[:1]))
			shown, rest = shown+show, rest[1:]
		}
		if !s.met {
			shown += s.flush()
		}
		if shown != text[:want] {
			t.Fatalf("%q until %q: %q was shown, want %q", text, stops, shown, text[:want])
		}
	}
}
