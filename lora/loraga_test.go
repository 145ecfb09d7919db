package lora

import (
	"encoding/json"
	"math"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
)

// TestLoRAGA: the first values are PEFT's but for the signs of singular vectors, and the
// model begins as it was. testdata/lora_ga.json holds the script.
func TestLoRAGA(t *testing.T) {
	root := testdir.Shared(t, "golden/train")
	var golden struct {
		Samples int
		Cases   []struct {
			Direction, Scale string
			Gamma            float64                               `json:"stable_gamma"`
			Layers           map[string]struct{ A, B [][]float64 } // of the vectors 0, 3 and 15 the first four values
		}
	}
	must(t, json.Unmarshal(testdir.ReadFile(t, "testdata/lora_ga.json"), &golden))
	samples := batches(t, root, [2]int{0, 2})
	if len(samples) != golden.Samples || len(golden.Cases) != 5 {
		t.Fatalf("%d samples, %d cases", len(samples), len(golden.Cases))
	}
	_, m := loadModel(t, filepath.Join(root, "lora", "base-llama"))
	ids := [][]int32{samples[0].IDs}
	before := logitsOf(t, m, ids)
	c := Config{R: 16, Alpha: 24, TargetModules: Targets{Names: []string{"q_proj", "down_proj"}}, InitWeights: InitLoRAGA}
	for _, want := range golden.Cases {
		c.LoRAGA = &LoRAGA{Direction: want.Direction, Scale: want.Scale, Gamma: want.Gamma}
		ad, err := ApplyOn(m, c, 1, samples)
		must(t, err)
		compared := 0
		for _, l := range ad.Layers {
			w, ok := want.Layers[l.Path]
			if !ok {
				continue
			}
			compared++
			a, err := values(m.Dev, l.LoRA.A.Buffer)
			must(t, err)
			b, err := values(m.Dev, l.LoRA.B.Buffer)
			must(t, err)
			for n, k := range []int{0, 3, 15} {
				sizeA, sizeB := 0.0, 0.0
				for j := range l.Linear.In() {
					sizeA += math.Pow(float64(a[k*l.Linear.In()+j]), 2)
				}
				for i := range l.Linear.Out() {
					sizeB += math.Pow(float64(b[i*16+k]), 2)
				}
				for i := range 4 {
					gotA, gotB := math.Abs(float64(a[k*l.Linear.In()+i])), math.Abs(float64(b[i*16+k]))
					if !(math.Abs(gotA-w.A[n][i]) <= 2e-3*math.Sqrt(sizeA)) || !(math.Abs(gotB-w.B[n][i]) <= 2e-3*math.Sqrt(sizeB)) {
						t.Errorf("%s %s, %s, vector %d: A %v, want %v; B %v, want %v", want.Direction, want.Scale, l.Path, k, gotA, w.A[n][i], gotB, w.B[n][i])
					}
				}
			}
		}
		if d := farthest(logitsOf(t, m, ids), before); compared != 2 || !(d <= 1e-4) {
			t.Errorf("%d layers were compared; logits begin %g away", compared, d)
		}
		ad.Close()
	}
	for l := range m.Linears() {
		if l.W.Grad != nil {
			t.Errorf("%s keeps a gradient", l.Path)
		}
	}
	c.R = 33
	if _, err := ApplyOn(m, c, 1, samples); fail.Code(err) != int(fail.Usage) {
		t.Errorf("rank 33 of 64: %v", err)
	}
	if _, err := ApplyOn(m, c, 1, nil); fail.Code(err) != int(fail.Input) {
		t.Errorf("without samples: %v", err)
	}
}
