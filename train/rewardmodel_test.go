package train

import (
	"fmt"
	"math"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/lora"
)

// rewards are the reference's texts, chosen ones first, and what it computed for them.
type rewards struct {
	IDs   [][]int32 `json:"input_ids"`
	Mask  [][]int32 `json:"attention_mask"`
	Cases []struct {
		Name    string
		Margin  []float32
		Center  *float64 `json:"center_rewards_coefficient"`
		Loss    float64
		Rewards []float32
		Metrics map[string]float64
	}
}

// pairs are the samples with their margins.
func (g *rewards) pairs(margin []float32) []data.Example {
	half := len(g.IDs) / 2
	var out []data.Example
	for i := range half {
		for k, row := range []int{i, half + i} {
			n := 0
			for _, m := range g.Mask[row] {
				n += int(m)
			}
			e := data.Example{ID: uint64(row), IDs: g.IDs[row][:n], Loss: [][2]int32{{int32(n - 1), int32(n)}}, Group: uint32(i + 1)}
			if k == 0 && margin != nil {
				e.Mark = margin[i]
			}
			out = append(out, e)
		}
	}
	return out
}

// goldenReward is a job on the reference's texts with its head.
func goldenReward(t *testing.T, c Config, ex []data.Example, head []float32) Job {
	t.Helper()
	dir := testdir.Shared(t, "golden/train/lora")
	src, err := arch.Open(filepath.Join(dir, "base-llama"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	if err := src.Reward(func(n int) []float32 { return head[:n] }); err != nil {
		t.Fatal(err)
	}
	m, err := model.Load(device(t), src, model.Options{Reward: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	c.Objective, c.LoRA.InitFrom, c.DType = "reward", filepath.Join(dir, "lora/adapter"), "f32"
	if c, err = c.Resolve(1); err != nil {
		t.Fatal(err)
	}
	ad, err := lora.Start(m, c.LoRA, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ad.Close)
	return Job{Config: c, Model: m, Adapter: ad, Train: data.InMemory(ex...), MaxLength: 256, Packing: "none", Dir: t.TempDir()}
}

// TestGoldenReward compares rewards, loss, metrics and gradients, the head's too, at once
// and pair by pair.
func TestGoldenReward(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/reward")
	var g rewards
	readJSON(t, filepath.Join(dir, "reward.json"), &g)
	stored := arrays(t, filepath.Join(dir, "grads.safetensors"))
	grads := map[string][]float32{}
	for _, c := range g.Cases {
		for _, name := range []string{"base_model.model.score.weight", "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight", "base_model.model.model.layers.3.mlp.down_proj.lora_B.weight"} {
			key := name
			if name == "base_model.model.score.weight" {
				key = "score.weight"
			}
			grads[c.Name+"."+name] = stored[c.Name+".grad."+key]
		}
	}
	if len(g.Cases) != 4 {
		t.Fatalf("%d cases", len(g.Cases))
	}
	for _, want := range g.Cases {
		for _, micro := range []int{4, 1} {
			t.Run(fmt.Sprintf("%s/%d", want.Name, micro), func(t *testing.T) {
				c := Config{MicroBatchSize: micro, GradientAccumulationSteps: 4 / micro, Preferences: Preferences{CenterRewards: want.Center}}
				r, m := firstStep(t, goldenReward(t, c, g.pairs(want.Margin), stored["score.weight"]))
				if !(math.Abs(m.Loss-want.Loss) <= 2e-5) {
					t.Errorf("loss %v, want %v", m.Loss, want.Loss)
				}
				for _, v := range m.Objective {
					if w, ok := want.Metrics[v.Name]; !ok || !(math.Abs(v.V-w) <= 2e-5) {
						t.Errorf("%s is %v, want %v", v.Name, v.V, w)
					}
				}
				if len(m.Objective) != len(want.Metrics)-1 { // less num_tokens
					t.Errorf("measured %v", m.Objective)
				}
				compareGradients(t, r, want.Name, grads, 3)
			})
		}
	}
}
