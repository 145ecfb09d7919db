// Package par is the process's one pool of worker threads.
//
// Work is cut by the caller into chunks of a fixed size, and any worker takes
// any chunk: who computes a chunk varies, what a chunk is does not. A function
// whose chunks are independent, or whose chunk results are combined in order of
// chunks, therefore gives the same bits at any number of threads.
package par

import (
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// spin is how long an idle worker, or a caller waiting for the last chunk,
// watches for news before it parks. Waking a parked thread of a virtual machine
// costs tens of microseconds, as much as a small matrix product; between two
// products of a step norms, rotations and a choice of tokens take up to 150.
const spin = 200 * time.Microsecond

// pool is a set of workers of one size. It never changes; SetThreads replaces it.
type pool struct {
	threads int
	mu      sync.Mutex // held while a job is running
	job     atomic.Pointer[job]
	parked  atomic.Int32
	wake    chan struct{} // a token wakes one parked worker; a stale one does no harm
	done    chan struct{} // the last chunk's finisher tells a parked caller
	stop    atomic.Bool
}

// job is one For call. Workers that come late find no chunk left and go.
type job struct {
	n, grain, chunks int
	f                func(lo, hi int)
	next             atomic.Int64 // first chunk nobody has taken
	left             atomic.Int64 // chunks not finished
	waiting          atomic.Int32 // 0 running, 1 the caller is parked, 2 finished
	failed           atomic.Pointer[failure]
}

type failure struct{ value any }

var (
	current  atomic.Pointer[pool]
	changing sync.Mutex
)

// Threads returns how many threads For uses, the caller's included.
func Threads() int { return get().threads }

// SetThreads sets how many threads For uses, the caller's included; n < 1 means
// GOMAXPROCS, which is the default. It must not be called from inside For.
func SetThreads(n int) {
	if n < 1 {
		n = runtime.GOMAXPROCS(0)
	}
	changing.Lock()
	defer changing.Unlock()
	if old := current.Load(); old != nil {
		if old.threads == n {
			return
		}
		defer old.close()
	}
	current.Store(newPool(n))
}

// For calls f for the chunks [0,grain), [grain,2·grain), … of [0,n), the last
// one cut at n, on several threads, and returns when all are done. A call made
// while another one is running (from inside f, or from another goroutine) runs
// its chunks in order on its own goroutine. A panic in f stops the handing out
// of chunks and is raised again in the caller. grain < 1 panics.
func For(n, grain int, f func(lo, hi int)) {
	if grain < 1 {
		panic("par: grain below 1")
	}
	if n <= 0 {
		return
	}
	if n <= grain {
		f(0, n)
		return
	}
	p := get()
	if p.threads == 1 || !p.mu.TryLock() {
		inline(n, grain, f)
		return
	}
	if p.stop.Load() { // replaced in this moment
		p.mu.Unlock()
		inline(n, grain, f)
		return
	}
	p.run(&job{n: n, grain: grain, chunks: (n + grain - 1) / grain, f: f})
}

// Split calls f for consecutive ranges that cover [0,n), on several threads. Each
// is a thread's share of what is left, between least and most: they begin large
// and the last ones end together. Their sizes depend on the number of threads,
// so Split is for work where every index has a result of its own.
func Split(n, least, most int, f func(lo, hi int)) {
	threads := Threads()
	share := func(at int) int { return max(1, least, min(most, (n-at)/threads)) }
	cuts := 0
	for at := 0; at < n; at += share(at) {
		cuts++
	}
	For(cuts, 1, func(i, end int) {
		at := 0
		for range i {
			at += share(at)
		}
		for ; i < end; i++ {
			next := min(n, at+share(at))
			f(at, next)
			at = next
		}
	})
}

func inline(n, grain int, f func(lo, hi int)) {
	for lo := 0; lo < n; lo += grain {
		f(lo, min(lo+grain, n))
	}
}

func get() *pool {
	if p := current.Load(); p != nil {
		return p
	}
	p := newPool(runtime.GOMAXPROCS(0))
	if !current.CompareAndSwap(nil, p) {
		p.close()
	}
	return current.Load()
}

func newPool(n int) *pool {
	p := &pool{threads: n, wake: make(chan struct{}, n), done: make(chan struct{}, 1)}
	for range n - 1 {
		go p.work()
	}
	return p
}

// close lets the workers end once the running job, if any, has finished.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stop.Store(true)
	close(p.wake)
}

// run hands j to the workers and takes part in it. p.mu is held and released.
func (p *pool) run(j *job) {
	j.left.Store(int64(j.chunks))
	p.job.Store(j)
	if n := min(int(p.parked.Load()), j.chunks-1); n > 0 {
		for range n {
			select {
			case p.wake <- struct{}{}:
			default:
			}
		}
		// A goroutine that was just woken waits for this thread, and another takes
		// it away only after a sleep of 50 µs or more. So it gets this one, and
		// the caller goes on on the thread that is being woken.
		runtime.Gosched()
	}
	j.work(p)
	p.wait(j)
	p.job.Store(nil)
	j.f = nil // workers keep their last job; let what f holds go
	p.mu.Unlock()
	if bad := j.failed.Load(); bad != nil {
		panic(bad.value)
	}
}

// wait returns when every chunk of j is finished.
func (p *pool) wait(j *job) {
	if watch(func() bool { return j.left.Load() == 0 }) {
		return
	}
	if j.waiting.CompareAndSwap(0, 1) {
		<-p.done
	}
}

// watch polls ok for the spin time and reports whether it came true.
func watch(ok func() bool) bool {
	start := time.Now()
	for {
		for range 200 {
			if ok() {
				return true
			}
		}
		if time.Since(start) > spin {
			return false
		}
	}
}

// work is the life of a worker.
func (p *pool) work() {
	debug.SetPanicOnFault(true) // raised again in the caller, who knows what it read

	var last *job
	fresh := func() bool {
		j := p.job.Load()
		return j != nil && j != last || p.stop.Load()
	}
	for {
		woken := false
		if !watch(fresh) {
			p.parked.Add(1)
			if !fresh() {
				<-p.wake
				woken = true
			}
			p.parked.Add(-1)
		}
		if p.stop.Load() {
			return
		}
		if j := p.job.Load(); j != nil && j != last {
			last = j
			j.work(p)
		}
		if woken { // the caller may still wait for a thread
			runtime.Gosched()
		}
	}
}

// work takes chunks until none is left.
func (j *job) work(p *pool) {
	defer func() {
		if v := recover(); v != nil {
			j.fail(p, v)
		}
	}()
	for {
		c := int(j.next.Add(1)) - 1
		if c >= j.chunks {
			return
		}
		lo := c * j.grain
		j.f(lo, min(lo+j.grain, j.n))
		j.finish(p, 1)
	}
}

// fail records a panic and takes the chunks nobody has begun.
func (j *job) fail(p *pool, v any) {
	j.failed.CompareAndSwap(nil, &failure{v})
	begun := min(j.next.Swap(int64(j.chunks)), int64(j.chunks))
	j.finish(p, 1+int64(j.chunks)-begun)
}

// finish counts n chunks as done; the last one wakes a parked caller.
func (j *job) finish(p *pool, n int64) {
	if j.left.Add(-n) == 0 && j.waiting.Swap(2) == 1 {
		p.done <- struct{}{}
	}
}
