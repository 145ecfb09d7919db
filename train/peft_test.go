package train

import (
	"encoding/json"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/lora"
)

// TestGoldenPEFT: five steps of PEFT with biases of B, DoRA beside trained biases, rows of
// heads, and LoRA+, which gives vectors the rate of B. testdata/peft.json holds the script.
func TestGoldenPEFT(t *testing.T) {
	var golden struct {
		Runs map[string]struct {
			Base       string
			Config     json.RawMessage
			Ratio      float64
			Loss, Norm []float64
		}
	}
	readJSON(t, "testdata/peft.json", &golden)
	e := data.Example{ID: 1, Loss: [][2]int32{{1, 24}}}
	for i := range int32(24) {
		e.IDs = append(e.IDs, (7*i*i+13*i+3)%256)
	}
	for name, want := range golden.Runs {
		t.Run(name, func(t *testing.T) {
			src, err := arch.Open(filepath.Join(testdir.Shared(t, "golden/train/lora"), want.Base))
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close()
			m, err := model.Load(device(t), src, model.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			rate, norm := 0.01, 0.0
			c := Config{Adapter: "lora", DType: "f32", MicroBatchSize: 1, GradientAccumulationSteps: 1, MaxSteps: len(want.Loss), LearningRate: &rate,
				LRScheduler: "constant", MaxGradNorm: &norm, SaveSteps: Every{Steps: 1000}}
			if err := yaml.Unmarshal(want.Config, &c.LoRA); err != nil {
				t.Fatal(err)
			}
			c.LoRA.R, c.LoRA.Alpha, c.LoRA.LoRAPlusLRRatio = 4, 8, want.Ratio
			if c, err = c.Resolve(1); err != nil {
				t.Fatal(err)
			}
			ad, err := c.Start(m, data.InMemory(e))
			if err != nil {
				t.Fatal(err)
			}
			defer ad.Close()
			for _, p := range ad.Params() {
				waves(t, m.Dev, p)
			}
			if err := ad.Refresh(); err != nil {
				t.Fatal(err)
			}
			j := Job{Config: c, Model: m, Adapter: ad, MaxLength: 24, Packing: "none", Dir: t.TempDir(), Train: data.InMemory(e)}
			if _, err := Run(t.Context(), j); err != nil {
				t.Fatal(err)
			}
			steps, _, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
			if err != nil {
				t.Fatal(err)
			}
			for i, s := range steps {
				if !(math.Abs(s.Loss-want.Loss[i]) <= 2e-4) || !(math.Abs(s.GradNorm/want.Norm[i]-1) <= 2e-3) {
					t.Errorf("step %d: loss %v, norm %v; PEFT has %v, %v", i+1, s.Loss, s.GradNorm, want.Loss[i], want.Norm[i])
				}
			}
			if len(steps) != len(want.Loss) {
				t.Errorf("%d steps", len(steps))
			}
		})
	}
}

// waves gives a parameter the first values of testdata/peft.json.
func waves(t *testing.T, dev kernels.Backend, p lora.Param) {
	t.Helper()
	if p.Group == "magnitude" {
		return
	}
	v := make([]float32, p.Len())
	err := dev.Run(func() error { return dev.Download(kernels.Bytes(v), p.Buffer) })
	for i := range v {
		first := float64(v[i])
		if strings.Contains(p.Name, "lora_") {
			first = 0
		}
		v[i] = float32(first + math.Sin(0.37*float64(i))/16)
	}
	if err == nil {
		err = dev.Run(func() error { dev.Upload(p.Buffer, kernels.Bytes(v)); return nil })
	}
	if err != nil {
		t.Fatal(err)
	}
}
