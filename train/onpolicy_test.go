package train

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
)

// studying is goldenTeacher with an adapter that begins as another model, whose answers
// are written.
func studying(t *testing.T, change func(*Config)) Job {
	t.Helper()
	c := Config{Preferences: Preferences{Beta: ptr(0.5)}}
	c.Lmbda, c.MaxCompletionLength = ptr(1.0), 12
	change(&c)
	j := goldenTeacher(t, c, 3)
	j.Config.MicroBatchSize, j.Config.MaxSteps = 2, 3
	j.Answering.Stop = []int32{257}
	return j
}

// likeliestOf is the likeliest token after each of b's under m.
func likeliestOf(m *model.Model, b *data.Batch) (out []int32, err error) {
	err = m.Dev.Run(func() error {
		t := &autograd.Tape{Dev: m.Dev}
		defer t.Free()
		z, err := t.Values(m.Logits(t, m.Hidden(t, inputs(b))))
		for i := range b.IDs {
			if err == nil {
				out = append(out, likeliest(z[i*m.Spec.V:(i+1)*m.Spec.V], 1)[0])
			}
		}
		return err
	})
	return out, err
}

// TestWrittenAnswers: nearly without chance an answer is what its writer thinks likeliest:
// the model with lmbda, its teacher with seq_kd; prompts stay, lengths keep to their bounds,
// and the same step has the same answers.
func TestWrittenAnswers(t *testing.T) {
	for _, c := range []struct {
		name   string
		lmbda  float64
		seq    bool
		writer func(j Job) *model.Model
	}{
		{"model", 1, false, func(j Job) *model.Model { return j.Model }},
		{"teacher", 0, true, func(j Job) *model.Model { return j.Teacher }},
		{"model before teacher", 1, true, func(j Job) *model.Model { return j.Model }},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := studying(t, func(o *Config) { o.Lmbda, o.SeqKD, o.Temperature = &c.lmbda, c.seq, ptr(0.01) })
			r, err := begin(j)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(r.end)
			given, err := r.loader.Step(0)
			if err != nil {
				t.Fatal(err)
			}
			s, err := r.writtenAnswers(context.Background(), given)
			if err != nil {
				t.Fatal(err)
			}
			again, err := r.writtenAnswers(context.Background(), given)
			if err != nil || !slices.Equal(again.Micro[0].IDs, s.Micro[0].IDs) {
				t.Fatal("the same step has other answers", err)
			}
			b, was := &s.Micro[0], &given.Micro[0]
			if slices.Equal(b.IDs, was.IDs) || s.Supervised != int64(b.Supervised) {
				t.Fatal("nothing was written, or it was not counted")
			}
			for i := range len(b.Seq) - 1 {
				now, before := sampleIn(b, i), sampleIn(was, i)
				n := int(before.Loss[len(before.Loss)-1][0])
				if !slices.Equal(now.IDs[:n], before.IDs[:n]) || len(now.Loss) != 1 || int(now.Loss[0][0]) != n || int(now.Loss[0][1]) != len(now.IDs) {
					t.Errorf("sample %d: prompt of %d tokens, learned %v", i, n, now.Loss)
				}
				if got := len(now.IDs) - n; got < 1 || got > 12 || len(now.IDs) > j.MaxLength || got < 12 && now.IDs[len(now.IDs)-1] != 257 {
					t.Errorf("sample %d: %d tokens written", i, got)
				}
			}
			// each token is the likeliest of its writer: none is less likely than any could be
			writer := c.writer(j)
			logits, err := likeliestOf(writer, b)
			if err != nil {
				t.Fatal(err)
			}
			for i, id := range b.Target {
				if id >= 0 && logits[i] != id {
					t.Errorf("token %d is %d, the writer's likeliest %d", i, id, logits[i])
				}
			}
		})
	}
}

// TestOnPolicyShare: lmbda is the share of micro-batches, and a step's choice does not
// depend on others.
func TestOnPolicyShare(t *testing.T) {
	j := studying(t, func(o *Config) { *o.Lmbda = 0.3 })
	r, err := begin(j)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.end)
	given, err := r.loader.Step(0)
	if err != nil {
		t.Fatal(err)
	}
	wrote := 0
	for r.step = range 60 {
		s, err := r.writtenAnswers(context.Background(), given)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(s.Micro[0].IDs, given.Micro[0].IDs) {
			wrote++
		}
	}
	r.step = 0
	if wrote < 8 || wrote > 30 {
		t.Errorf("%d of 60 micro-batches were written", wrote)
	}
}

// TestOnPolicyLearns: on its own answers a model comes nearer to its teacher, in the same
// way each time, and a run that is taken up goes on with the same.
func TestOnPolicyLearns(t *testing.T) {
	losses := func(stop int) (out []float64) {
		j := studying(t, func(*Config) {})
		j.Config.MaxSteps, j.Config.LearningRate, j.Config.LRScheduler = 12, ptr(5e-3), "constant"
		if stop > 0 {
			ctx, cancel := context.WithCancel(context.Background())
			j.Progress = func(p Progress) {
				if p.Step == stop {
					cancel()
				}
			}
			if _, err := Run(ctx, j); fail.Code(err) != int(fail.Interrupted) {
				t.Fatal(err)
			}
			again := studying(t, func(*Config) {})
			again.Config, again.Dir = j.Config, j.Dir
			j = again
		}
		if _, err := Run(context.Background(), j); err != nil {
			t.Fatal(err)
		}
		steps, _, err := ReadMetrics(j.Dir + "/" + MetricsFile)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range steps {
			out = append(out, m.Loss)
		}
		return out
	}
	whole := losses(0)
	if taken := losses(5); !slices.Equal(whole, taken) {
		t.Errorf("taken up: %v, want %v", taken, whole)
	}
	if first, last := whole[0], whole[len(whole)-1]; !(last < first/2) || math.IsNaN(first) {
		t.Errorf("loss %v, at last %v", first, last)
	}
}

// TestOnPolicyRanks: ranks have the answers of their own micro-batches written, with the
// draws of one rank.
func TestOnPolicyRanks(t *testing.T) {
	for what, change := range map[string]func(*Config){
		"half by the model": func(o *Config) { *o.Lmbda = 0.5 },
		"all by either":     func(o *Config) { *o.Lmbda, o.SeqKD = 0.5, true },
	} {
		for _, ranks := range []int{2, 3} {
			of := func(n int) Job {
				j := studying(t, change)
				j.Config.MicroBatchSize, j.Config.GradientAccumulationSteps, j.Config.Ranks = 1, ranks/n*2, n
				return j
			}
			one := of(1)
			one.Dir = t.TempDir()
			var list []Job
			for range ranks {
				list = append(list, of(ranks))
			}
			list[0].Dir = t.TempDir()
			nearRanks(t, fmt.Sprintf("%s, %d ranks", what, ranks), one, list)
		}
	}
}
