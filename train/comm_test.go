package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// group connects ranks that are goroutines of this process.
type group struct {
	mu     sync.Mutex
	cond   *sync.Cond
	size   int
	now    *meeting
	broken error
}

// meeting is one call that every rank makes.
type meeting struct {
	what  []string
	given []any
	n     int
}

// member is a rank of a group.
type member struct {
	*group
	rank int
}

func newGroup(size int) []member {
	g := &group{size: size}
	g.cond = sync.NewCond(&g.mu)
	g.now = g.next()
	out := make([]member, size)
	for i := range out {
		out[i] = member{g, i}
	}
	return out
}

func (g *group) next() *meeting {
	return &meeting{what: make([]string, g.size), given: make([]any, g.size)}
}

// meet waits until every rank has called it for what and returns what each gave.
func (m member) meet(what string, given any) ([]any, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.now
	if m.broken != nil {
		return nil, m.broken
	}
	at.what[m.rank], at.given[m.rank] = what, given
	if at.n++; at.n == m.size {
		if n := len(slices.Compact(slices.Sorted(slices.Values(at.what)))); n > 1 {
			m.broken = fmt.Errorf("the ranks called %q", at.what)
		}
		m.now = m.next()
		m.cond.Broadcast()
	}
	for at.n < m.size && m.broken == nil {
		m.cond.Wait()
	}
	if at.n < m.size || len(slices.Compact(slices.Clone(at.what))) > 1 {
		return nil, m.broken
	}
	return at.given, nil
}

// Close breaks what the other ranks wait for.
func (m member) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken == nil {
		m.broken = fmt.Errorf("rank %d has left", m.rank)
	}
	m.cond.Broadcast()
}

func (m member) Rank() int { return m.rank }
func (m member) Size() int { return m.size }

func (m member) Sum(v []float32) error {
	all, err := m.meet(fmt.Sprint("sum of ", len(v)), slices.Clone(v))
	if err != nil {
		return err
	}
	clear(v)
	for _, one := range all {
		for i, x := range one.([]float32) {
			v[i] += x
		}
	}
	return nil
}

func (m member) Gather(v []float64) ([][]float64, error) {
	all, err := m.meet("gather", slices.Clone(v))
	if err != nil {
		return nil, err
	}
	out := make([][]float64, len(all))
	for i, one := range all {
		out[i] = one.([]float64)
	}
	return out, nil
}

func (m member) Broadcast(v []byte) error {
	all, err := m.meet(fmt.Sprint("broadcast of ", len(v)), slices.Clone(v))
	if err == nil {
		copy(v, all[0].([]byte))
	}
	return err
}

// together runs f for every rank of a group and returns their errors.
func together(size int, f func(c Comm) error) []error {
	errs := make([]error, size)
	var wg sync.WaitGroup
	for i, m := range newGroup(size) {
		wg.Go(func() {
			defer m.Close()
			errs[i] = f(m)
		})
	}
	wg.Wait()
	return errs
}

// rankJobs are equal jobs for the ranks of a group; the first one has a folder.
func rankJobs(t *testing.T, size int, dir string) []Job {
	t.Helper()
	out := make([]Job, size)
	for i := range out {
		out[i] = smallJob(t, "")
	}
	out[0].Dir = dir
	return out
}

// runRanks runs the jobs together and fails on an error of any rank.
func runRanks(t *testing.T, jobs []Job) {
	t.Helper()
	errs := together(len(jobs), func(c Comm) error {
		j := jobs[c.Rank()]
		j.Comm = c
		_, err := Run(t.Context(), j)
		return err
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for i := range jobs {
		if hash(t, jobs[i]) != hash(t, jobs[0]) {
			t.Errorf("rank %d ends with other values than rank 0", i)
		}
	}
}

// firstGradients returns the gradients of j's first step.
func firstGradients(j Job) ([]float32, Metrics, error) {
	r, err := begin(j)
	if err != nil {
		return nil, Metrics{}, err
	}
	defer r.end()
	s, err := r.loader.Step(0)
	if err != nil {
		return nil, Metrics{}, err
	}
	m, err := r.gradients(context.Background(), s, r.count(s.Micro))
	g := make([]float32, r.opt.n)
	if err == nil {
		err = r.dev.Run(func() error { return r.dev.Download(kernels.Bytes(g), r.opt.g) })
	}
	return g, m, err
}

// TestRanks: the gradients of two and of three ranks are those of one with as
// many times the micro-batches, the last of three with fewer.
func TestRanks(t *testing.T) {
	for _, ranks := range []int{2, 3} {
		j := smallJob(t, "")
		j.Config.GradientAccumulationSteps = 2 * ranks
		want, wm, err := firstGradients(j)
		if err != nil {
			t.Fatal(err)
		}
		norm := 0.0
		for _, v := range want {
			norm += float64(v) * float64(v)
		}
		jobs, got, ms := rankJobs(t, ranks, ""), make([][]float32, ranks), make([]Metrics, ranks)
		errs := together(ranks, func(c Comm) (err error) {
			j := jobs[c.Rank()]
			j.Comm = c
			got[c.Rank()], ms[c.Rank()], err = firstGradients(j)
			return err
		})
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		for rank := range got {
			diff := 0.0
			for i, v := range got[rank] {
				diff += (float64(v) - float64(want[i])) * (float64(v) - float64(want[i]))
			}
			if d := math.Sqrt(diff / norm); !(d <= 1e-6) {
				t.Errorf("%d ranks: gradients of rank %d differ by %.2g", ranks, rank, d)
			}
			if m := ms[rank]; !(math.Abs(m.Loss-wm.Loss) <= 1e-6) || m.Tokens != wm.Tokens || m.Supervised != wm.Supervised {
				t.Errorf("%d ranks: rank %d says %+v, want %+v", ranks, rank, m, wm)
			}
			if !slices.Equal(got[rank], got[0]) || ms[rank].GradNorm != ms[0].GradNorm {
				t.Errorf("%d ranks: ranks 0 and %d have other gradients", ranks, rank)
			}
		}
	}
}

// TestRanksRepeat: a run of two ranks has the same bits every time, and those
// of a run that was stopped, on one rank, and went on.
func TestRanksRepeat(t *testing.T) {
	first := rankJobs(t, 2, t.TempDir())
	runRanks(t, first)
	second := rankJobs(t, 2, t.TempDir())
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	second[1].Progress = func(p Progress) {
		if p.Step == 7 {
			cancel()
		}
	}
	errs := together(2, func(c Comm) error {
		j := second[c.Rank()]
		j.Comm = c
		mine := context.Background()
		if c.Rank() == 1 {
			mine = ctx
		}
		_, err := Run(mine, j)
		return err
	})
	for rank, err := range errs {
		if fail.Code(err) != int(fail.Interrupted) {
			t.Errorf("rank %d: error %v", rank, err)
		}
	}
	third := rankJobs(t, 2, second[0].Dir)
	runRanks(t, third)
	if hash(t, third[0]) != hash(t, first[0]) || curveOf(t, third[0].Dir) != curveOf(t, first[0].Dir) {
		t.Error("an interruption changes the result of two ranks")
	}
	steps, evals, err := ReadMetrics(filepath.Join(first[0].Dir, MetricsFile))
	if err != nil || len(steps) != 24 || len(evals) == 0 {
		t.Errorf("%d steps, %d validations, %v", len(steps), len(evals), err)
	}
}

// TestRanksBest: all ranks keep the best parameters, which rank 0 alone holds
// on disk.
func TestRanksBest(t *testing.T) {
	jobs := rankJobs(t, 2, t.TempDir())
	for i := range jobs {
		jobs[i].Config.LoadBestModelAtEnd, jobs[i].Config.EvalSteps = ptr(true), Every{Steps: 1}
		jobs[i].Config.LearningRate, jobs[i].Config.LRScheduler = ptr(5.0), "constant" // the last step is not the best
	}
	runRanks(t, jobs)
	_, evals, err := ReadMetrics(filepath.Join(jobs[0].Dir, MetricsFile))
	if err != nil {
		t.Fatal(err)
	}
	best := slices.MinFunc(evals, func(a, b EvalMetrics) int {
		if a.Loss < b.Loss {
			return -1
		}
		return 1
	})
	if best.Step == 24 {
		t.Fatalf("the last step is the best: nothing was shown: %+v", evals)
	}
}

// TestRanksMemoryShort: where memory is short on one rank, all recompute, and
// the result is the same.
func TestRanksMemoryShort(t *testing.T) {
	jobs := rankJobs(t, 2, t.TempDir())
	runRanks(t, jobs)
	want, peak := hash(t, jobs[0]), jobs[1].Model.Dev.Info().PeakTotal
	slim := rankJobs(t, 2, t.TempDir())
	for i := range slim {
		slim[i].Config.GradientCheckpointing = "true"
	}
	runRanks(t, slim)
	low := slim[1].Model.Dev.Info().PeakTotal
	if !(low < peak) {
		t.Fatalf("peak %d with gradient checkpointing, %d without", low, peak)
	}
	short := rankJobs(t, 2, t.TempDir())
	short[1] = smallJobOn(t, "", cpu.New(cpu.Options{MemoryLimit: (low + peak) / 2}))
	runRanks(t, short)
	if a, b := short[0].Model.RecomputeBlocks, short[1].Model.RecomputeBlocks; a != b || a == 0 {
		t.Errorf("ranks recompute %d and %d blocks", a, b)
	}
	if hash(t, short[0]) != want {
		t.Error("recomputing changes the result")
	}
	none := rankJobs(t, 2, t.TempDir())
	none[1] = smallJobOn(t, "", cpu.New(cpu.Options{MemoryLimit: low * 9 / 10}))
	errs := together(2, func(c Comm) error {
		j := none[c.Rank()]
		j.Comm = c
		_, err := Run(t.Context(), j)
		return err
	})
	for rank, err := range errs {
		if fail.Code(err) != int(fail.Limit) || !errors.Is(err, kernels.ErrOutOfMemory) {
			t.Errorf("rank %d: error %v", rank, err)
		}
	}
}

// TestRanksApart: a rank that fails, or trains something else, ends the run of
// all with an error; nobody waits.
func TestRanksApart(t *testing.T) {
	for what, change := range map[string]struct {
		f    func(*Job)
		want string
	}{
		"other data":   {func(j *Job) { j.Train = data.InMemory(sample(1), sample(2)) }, "trains something else than rank 0"},
		"cannot begin": {func(j *Job) { j.Train = data.Examples{} }, "no sample to train on"},
	} {
		jobs := rankJobs(t, 3, t.TempDir())
		change.f(&jobs[1])
		errs := together(3, func(c Comm) error {
			j := jobs[c.Rank()]
			j.Comm = c
			_, err := Run(t.Context(), j)
			return err
		})
		for rank, err := range errs {
			want := "rank 1"
			if rank == 1 {
				want = change.want
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: rank %d: error %v, want %q", what, rank, err, want)
			}
		}
	}
}

// TestShare: every micro-batch belongs to exactly one rank, in order.
func TestShare(t *testing.T) {
	for n := range 8 {
		micro := make([]data.Batch, n)
		for i := range micro {
			micro[i].Supervised = i
		}
		for _, size := range []int{1, 2, 3, 5} {
			next := 0
			for _, m := range newGroup(size) {
				for _, b := range share(micro, m) {
					if b.Supervised != next {
						t.Errorf("%d of %d: micro-batch %d after %d", n, size, b.Supervised, next-1)
					}
					next++
				}
			}
			if next != n {
				t.Errorf("%d micro-batches for %d ranks: %d were given", n, size, next)
			}
		}
	}
}

// TestRanksPreferences: losses that are means over tokens and baselines of a whole step are
// the reference's on three ranks, too, each of which has a part of the step.
func TestRanksPreferences(t *testing.T) {
	var p preferences
	readJSON(t, filepath.Join(testdir.Shared(t, "golden/train/prefs"), "prefs.json"), &p)
	found := 0
	for _, want := range p.Cases {
		if !slices.Contains([]string{"kto_d1.33_u0.8", "orpo_b1.0", "cpo_sigmoid_b0.1_g0.0_a1.0"}, want.Name) {
			continue
		}
		found++
		jobs, ms := make([]Job, 3), make([]Metrics, 3)
		for i := range jobs {
			c := want.config()
			c.MicroBatchSize, c.GradientAccumulationSteps = 1, 1
			if want.Name[0] == 'k' {
				c.MicroBatchSize = 2
			}
			jobs[i], _ = goldenPairs(t, c)
		}
		errs := together(3, func(c Comm) (err error) {
			j := jobs[c.Rank()]
			j.Comm = c
			_, ms[c.Rank()], err = firstGradients(j)
			return err
		})
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		for rank, m := range ms {
			if !(math.Abs(m.Loss-want.Loss) <= 1e-5) || !(math.Abs(m.GradNorm/want.GradNorm-1) <= 1e-4) {
				t.Errorf("%s: rank %d has loss %v and norm %v, want %v and %v", want.Name, rank, m.Loss, m.GradNorm, want.Loss, want.GradNorm)
			}
			for _, v := range m.Objective {
				if w := want.Metrics[v.Name]; !(math.Abs(v.V-w) <= 1e-5*max(1, math.Abs(w))) {
					t.Errorf("%s: rank %d says %s is %v, want %v", want.Name, rank, v.Name, v.V, w)
				}
			}
		}
	}
	if found != 3 {
		t.Errorf("%d cases were compared", found)
	}
}
