// Package engine answers many requests with one model at once.
//
// While an Engine is open, one goroutine owns the model. Each step of it takes
// prompts, or parts of long ones, and single tokens of answers together. The
// tokens of a conversation stay in the cache when its answer is over: a later
// request that begins with them computes the rest only, as if the conversation
// had gone on. Requests with one prompt that are answered side by side compute it once.
//
// # What an answer depends on
//
// A request has random numbers of its own, and nothing of another request is
// ever read. But the results of kernels depend on shapes. On the CPU a prompt in
// steps of more than 16 tokens leaves the same bits in the cache in any company
// and however it was cut; steps of fewer tokens, which are those of answers
// being made, and logits are summed in an order that depends on how many there
// are, and of more than 4 bf16 may be rounded (kernels.LinearArgs.Fast). So in other
// company, or after a beginning that was there already, logits may differ in their last
// bits or by that rounding, and the answer where two tokens are that close.
// Requests that one call of Submit gives to an engine that is new are taken in
// the same steps every time: their answers are the same.
package engine

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// Options say how much an engine does side by side. Slots is needed.
type Options struct {
	Slots int // conversations held side by side
	// Max is how many tokens a conversation can have, prompt and answer; 0: what
	// memory allows. Room is for how many each has memory at first; 0: Max.
	Max, Room int
	Chunk     int // prompt tokens of one step at most; 0: 8192, and never under 64
	// Fresh computes every prompt from its first token on, so that no answer
	// depends on what was asked before.
	Fresh bool
}

const (
	chunk  = 8192 // prompt tokens of one step
	growth = 512  // a cache grows in steps of so many tokens
	scrap  = 32   // a step that takes part of a prompt leaves at least so many
)

// errClosed ends what an engine has not answered when it is closed.
var errClosed = errors.New("the engine was closed")

// Engine answers requests with a model. Its methods may be called from any
// goroutine; the model is its own until Close returns.
type Engine struct {
	m     *model.Model
	o     Options
	cache *model.Cache
	// What follows is the loop's.
	lanes   []lane // by slot of the cache
	running []*job // in the order in which they got their lanes
	ended   int    // answers so far

	mu     sync.Mutex
	work   sync.Cond // the queue is not empty, or closed
	queue  []*job
	closed bool
	done   chan struct{} // the loop has ended
}

// lane is a conversation in a slot of the cache, with the answer that is being
// made or its last one.
type lane struct {
	ids  []int32 // its tokens; the cache holds the first Cache.Len of them
	busy bool
	used int // number of its last answer: which lane has rested longest
}

// job is a request on its way.
type job struct {
	Request
	ctx  context.Context
	out  *Stream
	slot int
	ids  []int32 // prompt and answer
	stop stopper
	// source is what the encoder of a model that has one reads: the prompt asked for. The
	// job's own is then the token that answers begin with.
	source []int32

	reused int // tokens of the prompt that the cache held
}

// New makes an engine with the memory that its slots have at first.
func New(m *model.Model, o Options) (*Engine, error) {
	if o.Slots < 1 {
		panic("engine: an engine needs slots")
	}
	if o.Room == 0 {
		o.Room = o.Max
	}
	o.Chunk = max(cmp.Or(o.Chunk, chunk), 2*scrap)
	cache, err := m.NewCache(o.Slots, o.Room)
	if err != nil {
		return nil, err
	}
	e := &Engine{m: m, o: o, cache: cache, lanes: make([]lane, o.Slots), done: make(chan struct{})}
	e.work.L = &e.mu
	go e.loop()
	return e, nil
}

// Submit queues requests, which are answered in order of arrival as slots
// become free, and returns a stream for each. When ctx is over the answers end
// where they are, with its error. A request that cannot be answered fails alone.
func (e *Engine) Submit(ctx context.Context, requests ...Request) []*Stream {
	return e.submit(ctx, nil, requests)
}

// submit is Submit with a function that hears of the end of every answer.
func (e *Engine) submit(ctx context.Context, ended func(error), requests []Request) []*Stream {
	out := make([]*Stream, len(requests))
	var jobs []*job
	for i, r := range requests {
		out[i] = newStream(ended)
		if err := e.check(&r); err != nil {
			out[i].end(Answer{End: -1}, err)
			continue
		}
		j := &job{Request: r, ctx: ctx, out: out[i], stop: stopper{texts: r.StopTexts}}
		if e.m.Spec.Encoder > 0 {
			j.source, j.Prompt = slices.Clone(r.Prompt), []int32{e.m.Spec.Start}
		}
		j.ids = slices.Clone(j.Prompt)
		jobs = append(jobs, j)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		for _, j := range jobs {
			j.end("", -1, errClosed)
		}
		return out
	}
	e.queue = append(e.queue, jobs...)
	e.work.Signal()
	return out
}

// Close ends what is not answered yet, and what is submitted afterwards, with an
// error and gives the memory of the cache back.
func (e *Engine) Close() {
	e.mu.Lock()
	e.closed = true
	e.work.Signal()
	e.mu.Unlock()
	<-e.done
	e.cache.Close()
}

// loop steps as long as there is something to answer, and waits otherwise.
func (e *Engine) loop() {
	defer close(e.done)
	for e.wait() {
		e.cancel()
		e.admit()
		if len(e.running) == 0 {
			continue
		}
		if err := e.safely(e.step); err != nil {
			for _, j := range slices.Clone(e.running) {
				e.finish(j, "", -1, err)
			}
		}
	}
	for _, j := range slices.Concat(e.running, e.queue) {
		j.end("", -1, errClosed)
	}
}

// safely calls step, in which the model's file may turn out to be unreadable.
func (e *Engine) safely(step func()) (err error) {
	defer formats.CatchFaults(&err)()
	step()
	return nil
}

// wait returns when there is work, and false when the engine is to be closed.
func (e *Engine) wait() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for !e.closed && len(e.queue) == 0 && len(e.running) == 0 {
		e.work.Wait()
	}
	return !e.closed
}

// cancel ends what nobody waits for any more.
func (e *Engine) cancel() {
	for _, j := range slices.Clone(e.running) {
		if err := j.ctx.Err(); err != nil {
			e.finish(j, "", -1, err)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queue = slices.DeleteFunc(e.queue, func(j *job) bool {
		err := j.ctx.Err()
		if err != nil {
			j.end("", -1, err)
		}
		return err != nil
	})
}

// admit gives free lanes to the requests that have waited longest.
func (e *Engine) admit() {
	for j := e.next(); j != nil; j = e.next() {
		slot, held := e.seat(j.ids)
		if need := j.need(e.m.Spec.Context()); need > e.cache.Max {
			if err := e.cache.Grow(e.room(need)); err != nil {
				j.end("", -1, err)
				continue
			}
		}
		j.slot, j.reused = slot, e.cache.Truncate(slot, held)
		if j.source != nil {
			e.cache.Source(slot, j.source)
		}
		e.lanes[slot].busy = true
		e.running = append(e.running, j)
	}
}

// next takes a request from the queue if a lane is free for it.
func (e *Engine) next() *job {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.queue) == 0 || len(e.running) == len(e.lanes) {
		return nil
	}
	j := e.queue[0]
	e.queue = e.queue[1:]
	return j
}

// room is how much a cache is made for that needs room for n tokens.
func (e *Engine) room(n int) int {
	n = (n + growth - 1) / growth * growth
	if e.o.Max > 0 {
		n = min(n, e.o.Max)
	}
	return n
}

// seat finds a free lane for a prompt: the one that holds the longest beginning
// of it, if that is half of what the lane holds, so that a conversation is not
// given up for a few words in common; else the one that rested longest. held is
// how many of its tokens can stay. The last token of a prompt is always
// computed: its logits are needed.
func (e *Engine) seat(prompt []int32) (slot, held int) {
	slot = -1
	best := 0
	for i := range e.lanes {
		l := &e.lanes[i]
		if l.busy {
			continue
		}
		n, score := 0, 0
		if !e.o.Fresh {
			n = e.cache.Kept(i, common(l.ids[:e.cache.Len(i)], prompt[:len(prompt)-1]))
		}
		if 2*n >= e.cache.Len(i) {
			score = n
		}
		if slot < 0 || score > best || score == best && l.used < e.lanes[slot].used {
			slot, held, best = i, n, score
		}
	}
	return slot, held
}

// common is the length of the longest beginning of a and b.
func common(a, b []int32) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// step runs the next tokens of every running request and chooses those that
// follow. An error (memory) ends the request with most of the tokens; the others
// are taken again.
func (e *Engine) step() {
	var pieces []model.Piece
	var how []*kernels.SampleRow
	var who []*job
	left := e.o.Chunk
	for _, j := range e.running {
		switch wait, err := e.follow(j); {
		case err != nil:
			e.finish(j, "", -1, err)
			return
		case wait:
			continue
		}
		todo := j.ids[e.cache.Len(j.slot):]
		n := e.share(len(todo), &left)
		if n == 0 {
			continue
		}
		pieces, who = append(pieces, model.Piece{Slot: j.slot, Tokens: todo[:n]}), append(who, j)
		if n == len(todo) {
			how = append(how, j.row())
		} else {
			how = append(how, nil)
		}
	}
	ids, err := e.m.Choose(e.cache, pieces, how)
	if err != nil {
		most := 0
		for i := range pieces {
			if len(pieces[i].Tokens) > len(pieces[most].Tokens) {
				most = i
			}
		}
		e.finish(who[most], "", -1, err)
		return
	}
	for i, j := range who {
		if how[i] != nil {
			e.take(j, ids[i])
		}
	}
}

// follow lets a request with the prompt of an earlier one, that is being answered, take
// what the cache holds of it, all but the last token. It reports whether that must be
// waited for.
func (e *Engine) follow(j *job) (wait bool, err error) {
	n := len(j.Prompt) - 1
	if n < 1 || e.cache.Len(j.slot) > 0 || !e.cache.Shares() {
		return false, nil
	}
	for _, first := range e.running {
		if first == j {
			break
		}
		if !slices.Equal(first.Prompt, j.Prompt) {
			continue
		}
		if e.cache.Len(first.slot) < n {
			return true, nil
		}
		took, err := e.cache.Share(first.slot, j.slot, n)
		if took {
			j.reused = n
		}
		return false, err
	}
	return false, nil
}

// share is how many of n waiting tokens a step takes: one always, of a prompt
// what is left of the chunk.
func (e *Engine) share(n int, left *int) int {
	if n == 1 {
		return 1
	}
	take := min(n, *left)
	if rest := n - take; rest > 0 && rest < scrap {
		take = max(0, n-scrap)
	}
	*left -= take
	return take
}

// take adds a token to an answer and ends it when it is over.
func (e *Engine) take(j *job, id int32) {
	if slices.Contains(j.Stop, id) {
		e.finish(j, StopEOS, id, nil)
		return
	}
	j.ids = append(j.ids, id)
	switch {
	case j.show(id):
		e.finish(j, StopText, -1, nil)
	case j.made() == j.MaxNew:
		e.finish(j, StopLength, -1, nil)
	case j.made() == j.most(e.m.Spec.Context()):
		e.finish(j, StopRoom, -1, nil)
	}
}

// finish ends an answer. Its lane keeps the conversation.
func (e *Engine) finish(j *job, stop string, end int32, err error) {
	e.ended++
	e.lanes[j.slot] = lane{ids: j.ids, used: e.ended}
	e.running = slices.DeleteFunc(e.running, func(x *job) bool { return x == j })
	j.end(stop, end, err)
}
