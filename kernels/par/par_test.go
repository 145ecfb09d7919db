package par

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func withThreads(t *testing.T, n int) {
	t.Helper()
	SetThreads(n)
	t.Cleanup(func() { SetThreads(0) })
}

// Every element is visited once, in chunks cut at multiples of grain.
func TestForVisitsEveryChunkOnce(t *testing.T) {
	for _, threads := range []int{1, 2, 3, 7} {
		withThreads(t, threads)
		for _, n := range []int{0, 1, 2, 9, 10, 11, 1000} {
			for _, grain := range []int{1, 3, 10, 2000} {
				seen := make([]int32, n)
				For(n, grain, func(lo, hi int) {
					if lo%grain != 0 || hi != min(lo+grain, n) {
						t.Errorf("chunk %d..%d of %d with grain %d", lo, hi, n, grain)
					}
					for i := lo; i < hi; i++ {
						atomic.AddInt32(&seen[i], 1)
					}
				})
				for i, c := range seen {
					if c != 1 {
						t.Fatalf("threads %d n %d grain %d: element %d visited %d times", threads, n, grain, i, c)
					}
				}
			}
		}
	}
}

// Two chunks can only meet when two threads work on them.
// Ranges follow one another and cover everything, at least and at most so long.
func TestSplit(t *testing.T) {
	for _, threads := range []int{1, 2, 3, 7} {
		withThreads(t, threads)
		for _, n := range []int{0, 1, 9, 1000, 100000} {
			var mu sync.Mutex
			end := map[int]int{}
			Split(n, 5, 300, func(lo, hi int) {
				mu.Lock()
				defer mu.Unlock()
				end[lo] = hi
			})
			for at := 0; at < n; at = end[at] {
				if d := end[at] - at; d < 1 || d > 300 || d < 5 && end[at] != n {
					t.Fatalf("threads %d n %d: range %d…%d", threads, n, at, end[at])
				}
			}
		}
	}
}

func TestForUsesSeveralThreads(t *testing.T) {
	withThreads(t, 2)
	for range 50 { // parked and spinning workers
		var meet sync.WaitGroup
		meet.Add(2)
		For(2, 1, func(lo, hi int) {
			meet.Done()
			meet.Wait()
		})
		time.Sleep(100 * time.Microsecond)
	}
}

func TestNestedRunsInline(t *testing.T) {
	withThreads(t, 3)
	var sum atomic.Int64
	For(10, 1, func(lo, hi int) {
		last := -1
		For(10, 2, func(l, h int) {
			if l <= last {
				t.Errorf("chunk %d after %d: nested chunks run in order", l, last)
			}
			last = l
			for i := l; i < h; i++ {
				sum.Add(int64(lo*10 + i))
			}
		})
	})
	if want := int64(99 * 100 / 2); sum.Load() != want {
		t.Fatalf("sum %d, want %d", sum.Load(), want)
	}
}

func TestConcurrentCallers(t *testing.T) {
	withThreads(t, 3)
	var wg sync.WaitGroup
	var sum atomic.Int64
	for range 8 {
		wg.Go(func() {
			for range 200 {
				For(64, 4, func(lo, hi int) { sum.Add(int64(hi - lo)) })
			}
		})
	}
	wg.Wait()
	if sum.Load() != 8*200*64 {
		t.Fatalf("%d elements visited, want %d", sum.Load(), 8*200*64)
	}
}

func TestPanicComesBack(t *testing.T) {
	for _, threads := range []int{1, 2, 3} {
		withThreads(t, threads)
		for _, bad := range []int{0, 5, 99} {
			func() {
				defer func() {
					if v := recover(); v != "boom" {
						t.Errorf("threads %d: recovered %v", threads, v)
					}
				}()
				For(100, 1, func(lo, hi int) {
					if lo == bad {
						panic("boom")
					}
				})
				t.Errorf("threads %d: no panic from chunk %d", threads, bad)
			}()
		}
		n := atomic.Int32{} // the pool goes on working
		For(100, 1, func(lo, hi int) { n.Add(1) })
		if n.Load() != 100 {
			t.Fatalf("after a panic %d chunks of 100 ran", n.Load())
		}
	}
}

func TestSetThreads(t *testing.T) {
	defer SetThreads(0)
	base := runtime.NumGoroutine()
	for _, n := range []int{5, 1, 3} {
		SetThreads(n)
		if Threads() != n {
			t.Fatalf("Threads() = %d after SetThreads(%d)", Threads(), n)
		}
		For(50, 1, func(lo, hi int) {})
	}
	SetThreads(1)
	for range 1000 { // workers of replaced pools end
		if runtime.NumGoroutine() <= base+1 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%d goroutines left of %d at the start", runtime.NumGoroutine(), base)
}

func BenchmarkForkJoin(b *testing.B) {
	for b.Loop() {
		For(2, 1, func(lo, hi int) {})
	}
}

// From handing out a job to having all threads at work on it, when they have
// been idle for a while.
func BenchmarkWake(b *testing.B) {
	all := Threads()
	var took []time.Duration
	for b.Loop() {
		time.Sleep(2 * time.Millisecond)
		var here atomic.Int32
		began := time.Now()
		For(all, 1, func(_, _ int) {
			here.Add(1)
			for here.Load() < int32(all) && time.Since(began) < 10*time.Millisecond {
			}
		})
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[0].Nanoseconds())/1e3, "best-µs")
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "median-µs")
}
