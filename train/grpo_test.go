package train

import (
	"context"
	"encoding/json"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/train/judge"
)

// goldenGRPO is what TRL's trainer recorded.
type goldenGRPO struct {
	Prompts, Completions [][]int32
	Truncated            []int
	Rewards              map[string][][]*float64
	EnvMask              [][]int      `json:"env_mask"`
	Sampling             [][]*float64 `json:"sampling_logps"`
	SamplingNoNull       [][]*float64 `json:"sampling_logps_without_null"`
	Advantages           []struct {
		Rewards     string
		Scale       Scaling `json:"scale_rewards"`
		Aggregation string
		Weights     []float64 `json:"reward_weights"`
		Advantages  []float64
		Metrics     map[string]float64
	}
	Cases []goldenGRPOCase
}

type goldenGRPOCase struct {
	Name      string
	Config    map[string]any
	Rewards   string
	Weights   []float64 `json:"reward_weights"`
	OffPolicy bool      `json:"off_policy"`
	EnvMask   bool      `json:"env_mask"`
	Sampling  bool      `json:"sampling_logprobs"`
	Loss      json.RawMessage
	GradNorm  float64 `json:"grad_norm"`
	Metrics   json.RawMessage
}

func readGRPO(t *testing.T) (*goldenGRPO, string) {
	t.Helper()
	dir := testdir.Shared(t, "golden/train/grpo")
	g := new(goldenGRPO)
	readJSON(t, filepath.Join(dir, "grpo.json"), g)
	return g, dir
}

// table is a table of rewards, NaN for none.
func (g *goldenGRPO) table(name string) (out [][]float64) {
	for _, row := range g.Rewards[name] {
		var r []float64
		for _, v := range row {
			if v == nil {
				r = append(r, math.NaN())
			} else {
				r = append(r, *v)
			}
		}
		out = append(out, r)
	}
	return out
}

// ones is w, or a weight of one for each function.
func ones(w []float64, n int) []float64 {
	for len(w) < n {
		w = append(w, 1)
	}
	return w
}

// TestGoldenAdvantages compares advantages, and what is logged of rewards.
func TestGoldenAdvantages(t *testing.T) {
	g, _ := readGRPO(t)
	if len(g.Advantages) != 22 {
		t.Errorf("%d cases", len(g.Advantages))
	}
	for _, c := range g.Advantages {
		table := g.table(c.Rewards)
		conf := GRPO{NumGenerations: 4, ScaleRewards: c.Scale, MultiObjective: c.Aggregation}
		got, values := conf.advantages(table, ones(c.Weights, len(table)), []string{"reward_0", "reward_1"}[:len(table)])
		for i, want := range c.Advantages {
			if !(math.Abs(got[i]-want) <= 2e-6) {
				t.Errorf("%+v: advantage %d is %v, want %v", c, i, got[i], want)
			}
		}
		if len(values) != len(c.Metrics) {
			t.Errorf("%d values, want %d", len(values), len(c.Metrics))
		}
		for _, v := range values {
			if want, ok := c.Metrics[v.Name]; !ok || !(math.Abs(v.V-want) <= 1e-6) {
				t.Errorf("%s is %v, want %v", v.Name, v.V, want)
			}
		}
	}
}

// config is a case's configuration: the reference's defaults and what the case
// changes.
func (g *goldenGRPO) config(t *testing.T, c goldenGRPOCase) (out Config, micro int) {
	t.Helper()
	number := func(v any) *float64 { return ptr(v.(float64)) }
	out = Config{Objective: "grpo", DType: "f32"}
	out.NumGenerations, out.MaxCompletionLength = 4, 24
	switch c.Config["loss_type"] {
	case nil: // of rloo
		out.Objective = "rloo"
	case "sapo", "vespo", "cispo": // which do not clip
	default:
		out.EpsilonHigh = ptr(0.28)
	}
	if c.Config["beta"] != nil && out.Objective == "grpo" { // its default is true
		out.UseBiasCorrectionKL = ptr(false)
	}
	out.Rewards = []judge.Config{{Regex: "."}}
	micro = 1
	for k, v := range c.Config {
		switch k {
		case "loss_type":
			out.LossType = lora.Strings{v.(string)}
		case "importance_sampling_level":
			out.ImportanceSamplingLevel = v.(string)
		case "scale_rewards":
			out.ScaleRewards = Scaling(v.(string))
		case "beta":
			out.Beta = number(v)
		case "epsilon":
			out.Epsilon = number(v)
		case "epsilon_high":
			out.EpsilonHigh = nil
			if v != nil {
				out.EpsilonHigh = number(v)
			}
		case "delta":
			out.Delta = number(v)
		case "temperature":
			out.Temperature = number(v)
		case "use_bias_correction_kl":
			out.UseBiasCorrectionKL = ptr(v.(bool))
		case "mask_truncated_completions":
			out.MaskTruncatedCompletions = v.(bool)
		case "top_entropy_quantile":
			out.TopEntropyQuantile = number(v)
		case "entropy_coef":
			out.EntropyCoef = number(v)
		case "entropy_coef_min":
			out.EntropyCoefMin = number(v)
		case "entropy_coef_max":
			out.EntropyCoefMax = number(v)
		case "entropy_coef_delta":
			out.EntropyCoefDelta = number(v)
		case "entropy_target":
			out.EntropyTarget = number(v)
		case "normalize_advantages":
			out.NormalizeAdvantages = v.(bool)
		case "reward_clip_range":
			for _, x := range v.([]any) {
				out.RewardClipRange = append(out.RewardClipRange, x.(float64))
			}
		case "off_policy_mask_threshold":
			out.OffPolicyMaskThreshold = number(v)
		case "sapo_temperature_pos":
			out.SAPOTemperaturePos = number(v)
		case "sapo_temperature_neg":
			out.SAPOTemperatureNeg = number(v)
		case "vespo_k_pos":
			out.VESPOKPos = number(v)
		case "vespo_lambda_pos":
			out.VESPOLambdaPos = number(v)
		case "vespo_k_neg":
			out.VESPOKNeg = number(v)
		case "vespo_lambda_neg":
			out.VESPOLambdaNeg = number(v)
		case "vllm":
			out.SamplingCorrection = v.(bool)
		case "vllm_importance_sampling_mode":
			out.SamplingMode = v.(string)
		case "vllm_importance_sampling_clip_max":
			out.SamplingClipMax = number(v)
		case "vllm_importance_sampling_clip_min":
			out.SamplingClipMin = number(v)
		case "micro":
			micro = int(v.(float64))
		default:
			t.Fatalf("%s varies %s", c.Name, k)
		}
	}
	out.MicroBatchSize, out.GradientAccumulationSteps = len(g.Completions)/micro, micro
	return out, micro
}

// TestGoldenGRPO compares loss, metrics and gradients of every case.
func TestGoldenGRPO(t *testing.T) {
	g, dir := readGRPO(t)
	grads, batch := arrays(t, filepath.Join(dir, "grads.safetensors")), arrays(t, filepath.Join(dir, "batch.safetensors"))
	j, _ := goldenPairs(t, Config{Objective: "dpo"})
	var more []goldenGRPOCase // python3 cmd/tune/interop/trl_losses.py ../shared/data/golden/train grpo (TRL 1.16.0)
	readJSON(t, "testdata/trl_grpo.json", &more)
	if len(g.Cases) != 64 || len(more) != 7 {
		t.Errorf("%d and %d cases", len(g.Cases), len(more))
	}
	g.Cases = append(g.Cases, more...)
	for _, c := range g.Cases {
		t.Run(c.Name, func(t *testing.T) {
			conf, micro := g.config(t, c)
			conf.LoRA = j.Config.LoRA
			var err error
			if j.Config, err = conf.Resolve(1); err != nil {
				t.Fatal(err)
			}
			table := g.table(c.Rewards)
			advantages, _ := j.Config.advantages(table, ones(c.Weights, len(table)), []string{"a", "b"})
			roll, examples := g.rollout(t, j.Config, c, batch)
			for i, a := range advantages {
				roll.Answers[i].Advantage = a
			}
			r, s := learning(t, j, roll, examples, micro)
			compareGRPO(t, r, s, c, grads)
		})
	}
}

// rollout is the answers of a case, and samples to learn them from.
func (g *goldenGRPO) rollout(t *testing.T, conf Config, c goldenGRPOCase, batch map[string][]float32) (*rollout, []data.Example) {
	t.Helper()
	roll := &rollout{}
	var examples []data.Example
	for i, ids := range g.Completions {
		e := data.Example{ID: uint64(i), IDs: append(g.Prompts[i/4][:len(g.Prompts[i/4]):len(g.Prompts[i/4])], ids...)}
		w := written{IDs: ids}
		if c.Sampling {
			w.Sampler = []float32{}
		}
		for k := range ids {
			at := int32(len(g.Prompts[i/4]) + k)
			if c.EnvMask && g.EnvMask[i][k] == 0 || conf.MaskTruncatedCompletions && (i == g.Truncated[0] || i == g.Truncated[1]) {
				continue
			}
			e.Loss = append(e.Loss, [2]int32{at, at + 1})
			old := batch["old_per_token_logps"][i*24+k]
			if c.OffPolicy {
				w.Old = append(w.Old, old)
			}
			if c.Sampling {
				// TRL counts a token whose log-probability its sampler left out as one
				// that it gave rightly, with every loss but vespo.
				v := g.Sampling[i][k]
				if conf.LossType[0] == "vespo" {
					v = g.SamplingNoNull[i][k]
				}
				if v != nil {
					old = float32(*v)
				}
				w.Sampler = append(w.Sampler, old)
			}
		}
		roll.Answers = append(roll.Answers, w)
		examples = append(examples, e)
	}
	return roll, examples
}

// learning is a run of j on a rollout, and its step of so many micro-batches.
func learning(t *testing.T, j Job, roll *rollout, examples []data.Example, micro int) (*run, data.Step) {
	t.Helper()
	j.Train = data.InMemory(examples...)
	r, err := begin(j)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.end)
	r.rollout = roll
	loader, err := data.NewLoader(j.Train, data.LoaderOptions{MicroBatch: j.Config.MicroBatchSize, Accum: micro, Packing: "none"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := loader.Step(0)
	if err != nil {
		t.Fatal(err)
	}
	return r, s
}

// TestAdaptiveEntropy compares loss, gradient norm and coefficient of steps on the same
// answers: python3 cmd/tune/interop/trl_losses.py ../shared/data/golden/train entropy (TRL 1.16.0).
func TestAdaptiveEntropy(t *testing.T) {
	g, dir := readGRPO(t)
	batch := arrays(t, filepath.Join(dir, "batch.safetensors"))
	var cases []struct {
		Config map[string]any
		Steps  []struct {
			Loss     float64
			GradNorm float64 `json:"grad_norm"`
			Coef     float64 `json:"entropy_coef"`
		}
	}
	readJSON(t, "testdata/trl_entropy.json", &cases)
	if len(cases) != 3 {
		t.Errorf("%d cases", len(cases))
	}
	j, _ := goldenPairs(t, Config{Objective: "dpo"})
	for _, want := range cases {
		c := goldenGRPOCase{Config: map[string]any{"loss_type": "dapo", "micro": 2.0}}
		for k, v := range want.Config {
			c.Config[k] = v
		}
		conf, micro := g.config(t, c)
		conf.UseAdaptiveEntropy, conf.LoRA = true, j.Config.LoRA
		var err error
		if j.Config, err = conf.Resolve(1); err != nil {
			t.Fatal(err)
		}
		table := g.table("two")
		advantages, _ := j.Config.advantages(table, ones(nil, 2), []string{"a", "b"})
		roll, examples := g.rollout(t, j.Config, c, batch)
		for i, a := range advantages {
			roll.Answers[i].Advantage = a
		}
		r, s := learning(t, j, roll, examples, micro)
		for n, w := range want.Steps {
			m, err := r.gradients(context.Background(), s, r.count(s.Micro))
			if err != nil {
				t.Fatal(err)
			}
			r.entropyNow = r.entropyNext
			if math.Abs(m.Loss-w.Loss) > 1e-5 || math.Abs(m.GradNorm/w.GradNorm-1) > 1e-4 || math.Abs(valueOf(t, m.Objective, "entropy_coef")-w.Coef) > 1e-9 {
				t.Errorf("%v, step %d: loss %v, gradient norm %v, %v; want %+v", want.Config, n+1, m.Loss, m.GradNorm, m.Objective, w)
			}
		}
	}
}

func compareGRPO(t *testing.T, r *run, s data.Step, c goldenGRPOCase, grads map[string][]float32) {
	t.Helper()
	losses, metrics := []float64{0}, []map[string]float64{nil}
	if err := json.Unmarshal(c.Loss, &losses[0]); err != nil {
		if err := json.Unmarshal(c.Loss, &losses); err != nil {
			t.Fatal(err)
		}
	}
	if err := json.Unmarshal(c.Metrics, &metrics[0]); err != nil {
		if err := json.Unmarshal(c.Metrics, &metrics); err != nil {
			t.Fatal(err)
		}
	}
	total := r.count(s.Micro)
	m, err := r.gradients(context.Background(), s, total)
	if err != nil {
		t.Fatal(err)
	}
	near := func(name string, got, want float64) {
		if !(math.Abs(got-want) <= 1e-5*max(1, math.Abs(want))) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	sum := 0.0
	for i := range s.Micro {
		score, err := r.pass(&s.Micro[i], whole{})
		if err != nil {
			t.Fatal(err)
		}
		near("loss of a micro-batch", score.Loss/float64(total), losses[i])
		sum += losses[i]
		units := r.count(s.Micro[i : i+1])
		if got := score.mean(units, 0).Values; len(got) != len(metrics[i]) {
			t.Errorf("metrics %v, want %v", got, metrics[i])
		} else {
			for _, v := range got {
				want, ok := metrics[i][v.Name]
				if !ok {
					t.Errorf("%s is not in the reference", v.Name)
				}
				near(v.Name, v.V, want)
			}
		}
	}
	near("loss", m.Loss, sum)
	if !(math.Abs(m.GradNorm/c.GradNorm-1) <= 1e-4) {
		t.Errorf("gradient norm %v, want %v", m.GradNorm, c.GradNorm)
	}
	if !strings.HasPrefix(c.Name, "more.") {
		compareGradients(t, r, c.Name, grads, 2)
	}
}
