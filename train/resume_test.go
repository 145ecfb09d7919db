package train

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/lora"
)

// smallJob is a run of 24 steps (two epochs and a half) with dropout,
// shuffling, packing, validation and a checkpoint every second step.
func smallJob(t testing.TB, dir string) Job { return smallJobOn(t, dir, device(t)) }

func smallJobOn(t testing.TB, dir string, dev kernels.Backend) Job {
	t.Helper()
	return smallJobAs(t, dir, dev, model.Options{})
}

// smallJobAs is smallJobOn with the model loaded otherwise.
func smallJobAs(t testing.TB, dir string, dev kernels.Backend, o model.Options) Job {
	t.Helper()
	shared := testdir.Shared(t, "golden/train/lora")
	src, err := arch.Open(filepath.Join(shared, "base-qwen2"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	m, err := model.Load(dev, src, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	ad, err := lora.Apply(m, lora.Config{R: 4, Dropout: 0.1}, 7)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ad.Close)
	c := Config{MaxSteps: 24, MicroBatchSize: 1, GradientAccumulationSteps: 2, LearningRate: ptr(3e-3), DType: "f32",
		SaveSteps: Every{Steps: 2}, EvalSteps: Every{Steps: 5}, LoRA: lora.Config{R: 4, Dropout: 0.1}}
	if c, err = c.Resolve(7); err != nil {
		t.Fatal(err)
	}
	j := Job{Config: c, Model: m, Adapter: ad, MaxLength: 96, Packing: "bfd", Shuffle: true, Dir: dir, Identity: "test"}
	var ex []data.Example
	for i := range 40 {
		ex = append(ex, sample(uint64(i)))
	}
	j.Val, j.Train = data.InMemory(ex[:4]...), data.InMemory(ex[4:]...)
	return j
}

// sample is a short text of random bytes whose second half is supervised.
func sample(id uint64) data.Example {
	r := rand.New(rand.NewPCG(id, 1))
	e := data.Example{ID: id}
	for range 20 + r.IntN(30) {
		e.IDs = append(e.IDs, int32(97+r.IntN(26)))
	}
	e.Loss = [][2]int32{{int32(len(e.IDs) / 2), int32(len(e.IDs))}}
	return e
}

// hash is the SHA-256 of what a run trained.
func hash(t testing.TB, j Job) string {
	t.Helper()
	h := sha256.New()
	ps, err := j.params()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ps {
		b := make([]byte, 4*p.Len())
		if err := j.Model.Dev.Run(func() error { return j.Model.Dev.Download(b, p.Buffer) }); err != nil {
			t.Fatal(err)
		}
		h.Write(b)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// curve is the part of metrics.jsonl that must not depend on interruptions.
func curveOf(t testing.TB, dir string) string {
	t.Helper()
	steps, evals, err := ReadMetrics(filepath.Join(dir, MetricsFile))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, m := range steps {
		fmt.Fprintln(&b, m.Step, m.Epoch, math.Float64bits(m.Loss), math.Float64bits(m.GradNorm), m.LearningRate, m.Tokens, m.Supervised)
	}
	for _, e := range evals {
		fmt.Fprintln(&b, e.Step, math.Float64bits(e.Loss), e.Supervised)
	}
	return b.String()
}

// straight runs the job without interruption, once.
func straight(t *testing.T) (hashed, curve string) {
	t.Helper()
	j := smallJob(t, t.TempDir())
	res, err := Run(context.Background(), j)
	if err != nil {
		t.Fatal(err)
	}
	if res.Steps != 24 || math.IsNaN(res.ValLoss) {
		t.Fatalf("result %+v", res)
	}
	return hash(t, j), curveOf(t, j.Dir)
}

// TestChild is the process that TestKill kills: it runs smallJob in a folder
// and leaves the hash of the result there.
func TestChild(t *testing.T) {
	dir := os.Getenv("TUNEKIT_TRAIN_CHILD")
	if dir == "" {
		t.Skip("run by TestKill")
	}
	j := smallJob(t, filepath.Join(dir, "state"))
	if _, err := Run(context.Background(), j); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hash"), []byte(hash(t, j)), 0o666); err != nil {
		t.Fatal(err)
	}
}

// TestKill kills a training process at random moments until it gets through.
// Adapter and curve must be those of a run that nobody disturbed.
func TestKill(t *testing.T) {
	start := time.Now()
	want, curve := straight(t)
	whole := time.Since(start)
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(uint64(start.UnixNano()), 0))
	kills := 0
	for range 200 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
		cmd.Env = append(os.Environ(), "TUNEKIT_TRAIN_CHILD="+dir)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if kills < 20 {
			time.Sleep(time.Duration(r.Float64() * 0.7 * float64(whole)))
			cmd.Process.Kill()
		}
		err := cmd.Wait()
		if err != nil && !cmd.ProcessState.Exited() {
			kills++
		}
		if got, rerr := os.ReadFile(filepath.Join(dir, "hash")); rerr == nil {
			if string(got) != want {
				t.Errorf("after %d kills the adapter is %.12s, want %.12s", kills, got, want)
			}
			if c := curveOf(t, filepath.Join(dir, "state")); c != curve {
				t.Errorf("after %d kills the curve is\n%s\nwant\n%s", kills, c, curve)
			}
			t.Logf("killed %d times", kills)
			return
		}
		if err != nil && cmd.ProcessState.Exited() {
			t.Fatalf("child failed: %v\n%s", err, out.String())
		}
	}
	t.Fatal("the run never finished")
}

// TestCancel stops a run by its context after every possible step in turn.
func TestCancel(t *testing.T) {
	want, curve := straight(t)
	dir := t.TempDir()
	stops := 0
	for _, at := range []int{1, 2, 5, 5, 9, 20, 24} {
		j := smallJob(t, dir)
		ctx, cancel := context.WithCancel(context.Background())
		j.Progress = func(p Progress) {
			if p.Step == at && (p.Micro == 1 || p.Evaluating) {
				cancel()
			}
		}
		_, err := Run(ctx, j)
		cancel()
		if fail.Code(err) != int(fail.Interrupted) {
			t.Fatalf("stop at %d: %v", at, err)
		}
		stops++
		if at > 0 {
			steps, err := listStates(dir)
			if err != nil || len(steps) == 0 || steps[0] != at {
				t.Fatalf("stop at %d: checkpoints %v, %v", at, steps, err)
			}
		}
	}
	j := smallJob(t, dir)
	res, err := Run(context.Background(), j)
	if err != nil {
		t.Fatal(err)
	}
	if res.Resumed != 24 || hash(t, j) != want || curveOf(t, dir) != curve {
		t.Errorf("after %d stops: resumed at %d, adapter equal %v, curve equal %v", stops, res.Resumed, hash(t, j) == want, curveOf(t, dir) == curve)
	}
}

// TestDamagedCheckpoint flips a bit of the newest checkpoint, or cuts it: the
// run says so, goes on from the one before and ends the same.
func TestDamagedCheckpoint(t *testing.T) {
	want, _ := straight(t)
	for name, damage := range map[string]func([]byte) []byte{
		"bit":    func(b []byte) []byte { b[len(b)*2/3] ^= 4; return b },
		"header": func(b []byte) []byte { b[30] ^= 1; return b },
		"cut":    func(b []byte) []byte { return b[:len(b)-5] },
		"empty":  func(b []byte) []byte { return nil },
	} {
		dir := t.TempDir()
		stopAt(t, dir, 9)
		steps, _ := listStates(dir)
		if len(steps) < 2 {
			t.Fatalf("checkpoints %v", steps)
		}
		path := statePath(dir, steps[0])
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, damage(b), 0o666); err != nil {
			t.Fatal(err)
		}
		j := smallJob(t, dir)
		var said []string
		j.Log = func(s string) { said = append(said, s) }
		res, err := Run(context.Background(), j)
		if err != nil {
			t.Fatal(name, err)
		}
		if res.Resumed != steps[1] || hash(t, j) != want {
			t.Errorf("%s: resumed at %d, want %d; adapter equal %v", name, res.Resumed, steps[1], hash(t, j) == want)
		}
		if !strings.Contains(strings.Join(said, "\n"), "damaged checkpoint") {
			t.Errorf("%s: nobody was told: %q", name, said)
		}
	}
}

// stopAt runs the small job in dir and stops it after a step.
func stopAt(t *testing.T, dir string, step int) {
	t.Helper()
	j := smallJob(t, dir)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	j.Progress = func(p Progress) {
		if p.Step == step {
			cancel()
		}
	}
	if _, err := Run(ctx, j); fail.Code(err) != int(fail.Interrupted) {
		t.Fatal(err)
	}
}

// TestAllDamaged: a folder whose checkpoints are all broken is an error, never
// a fresh start.
func TestAllDamaged(t *testing.T) {
	dir := t.TempDir()
	stopAt(t, dir, 3)
	steps, _ := listStates(dir)
	for _, s := range steps {
		if err := os.WriteFile(statePath(dir, s), []byte("nothing"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Run(context.Background(), smallJob(t, dir)); !errors.Is(err, formats.ErrCorrupt) || fail.Code(err) != int(fail.Input) {
		t.Errorf("error %v", err)
	}
}

// TestOtherRun: the state of a run with other inputs is refused.
func TestOtherRun(t *testing.T) {
	dir := t.TempDir()
	stopAt(t, dir, 3)
	for name, change := range map[string]func(*Job){
		"identity": func(j *Job) { j.Identity = "other" },
		"rate":     func(j *Job) { j.Config.LearningRate = ptr(1e-3) },
		"data":     func(j *Job) { change(j, func(ex []data.Example) { ex[3].ID++ }) },
	} {
		j := smallJob(t, dir)
		change(&j)
		if _, err := Run(context.Background(), j); fail.Code(err) != int(fail.Input) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	j := smallJob(t, dir)
	j.Config.SaveSteps, j.Config.SaveTotalLimit = Every{Auto: true}, 5
	if _, err := Run(context.Background(), j); err != nil {
		t.Errorf("how often it saves is no part of a run: %v", err)
	}
}

// TestSecondRun: a folder in use is refused at once, by name of the process.
func TestSecondRun(t *testing.T) {
	dir := t.TempDir()
	j := smallJob(t, dir)
	var second error
	j.Progress = func(p Progress) {
		if p.Step == 2 && second == nil {
			_, second = Run(context.Background(), smallJob(t, dir))
		}
	}
	j.Config.MaxSteps = 3
	if _, err := Run(context.Background(), j); err != nil {
		t.Fatal(err)
	}
	if fail.Code(second) != int(fail.Input) || !strings.Contains(fmt.Sprint(second), fmt.Sprint(os.Getpid())) {
		t.Errorf("error of the second run: %v", second)
	}
}

// TestNotFinite: a diverging run stops with its own exit code and keeps the
// checkpoint before.
func TestNotFinite(t *testing.T) {
	j := smallJob(t, t.TempDir())
	j.Config.LearningRate, j.Config.WarmupSteps, j.Config.WarmupRatio = ptr(1e30), ptr(6), nil
	j.Config.SaveSteps = Every{Steps: 1}
	j.Config.MaxGradNorm = ptr(0.0)
	_, err := Run(context.Background(), j)
	if fail.Code(err) != int(fail.Numeric) {
		t.Fatalf("error %v", err)
	}
	steps, _ := listStates(j.Dir)
	if len(steps) == 0 {
		t.Error("no checkpoint was kept")
	}
	m, _, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
	if err != nil || len(m) == 0 {
		t.Fatal(m, err)
	}
	for _, s := range m {
		if math.IsNaN(s.Loss) || math.IsInf(s.Loss, 0) {
			t.Errorf("step %d logged loss %v", s.Step, s.Loss)
		}
	}
}

// TestRotation keeps the newest and the best, whatever the order of saves.
func TestRotation(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		dir := t.TempDir()
		limit, best, step := 1+r.IntN(3), -1, 0
		for range 12 {
			step += 1 + r.IntN(3)
			if err := os.WriteFile(statePath(dir, step), nil, 0o666); err != nil {
				t.Fatal(err)
			}
			if r.IntN(3) == 0 {
				best = step
			}
			if err := rotate(dir, limit, best); err != nil {
				t.Fatal(err)
			}
			left, err := listStates(dir)
			if err != nil {
				t.Fatal(err)
			}
			if left[0] != step || best >= 0 && !slices.Contains(left, best) || len(left) > max(limit, 2) {
				t.Fatalf("limit %d, best %d, newest %d: left %v", limit, best, step, left)
			}
		}
	}
}

// TestLoadBest ends with the parameters of the lowest validation loss.
func TestLoadBest(t *testing.T) {
	j := smallJob(t, t.TempDir())
	j.Config.LoadBestModelAtEnd = ptr(true)
	j.Config.EvalSteps = Every{Steps: 2}
	res, err := Run(context.Background(), j)
	if err != nil {
		t.Fatal(err)
	}
	_, evals, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
	if err != nil {
		t.Fatal(err)
	}
	best := evals[0]
	for _, e := range evals {
		if e.Loss < best.Loss {
			best = e
		}
	}
	if res.BestStep != best.Step {
		t.Errorf("kept step %d, the best was %d", res.BestStep, best.Step)
	}
	r := &run{Job: j, dev: j.Model.Dev, objective: sft{}}
	o := data.LoaderOptions{MicroBatch: 1, Accum: 1, MaxLength: j.MaxLength, Packing: j.Packing}
	if r.val, err = data.NewLoader(j.Val, o); err != nil {
		t.Fatal(err)
	}
	sum, n := 0.0, int64(0)
	for i := range r.val.StepsPerEpoch() {
		s, err := r.val.Step(i)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range s.Micro {
			v, err := r.pass(&b, whole{})
			if err != nil {
				t.Fatal(err)
			}
			sum += v.Loss
		}
		n += s.Supervised
	}
	if got := sum / float64(n); got != best.Loss {
		t.Errorf("loss of what was kept is %v, want %v", got, best.Loss)
	}
}

// TestOtherMachine: when a repeated step differs from what was logged for it
// before the interruption, the run says so.
func TestOtherMachine(t *testing.T) {
	dir := t.TempDir()
	stopAt(t, dir, 4)
	f, err := os.OpenFile(filepath.Join(dir, MetricsFile), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(f, `{"step":5,"loss":1.25,"grad_norm":0.5}`)
	f.Close()
	j := smallJob(t, dir)
	var said []string
	j.Log = func(s string) { said = append(said, s) }
	if _, err := Run(context.Background(), j); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(said, "\n"), "step 5 gave loss 1.25") {
		t.Errorf("said %q", said)
	}
	steps, _, err := ReadMetrics(filepath.Join(dir, MetricsFile))
	if err != nil || len(steps) != 24 || steps[4].Loss == 1.25 {
		t.Errorf("%d lines, %v", len(steps), err)
	}
}
