package cpu

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestProbsGolden: Transformers' logits processors on fixed logits
// (golden/train/eval/sampling.json).
func TestProbsGolden(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(testdir.Shared(t, "golden/train/eval"), "sampling.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g struct {
		PromptIDs []int32     `json:"prompt_ids"`
		Logits    [][]float32 `json:"logits"`
		Cases     []struct {
			Params map[string]float64 `json:"params"`
			Vector int                `json:"vector"`
			Kept   int                `json:"kept"`
			Probs  []float64          `json:"probs"`
		} `json:"cases"`
	}
	if err := json.Unmarshal(raw, &g); err != nil {
		t.Fatal(err)
	}
	known := []string{"temperature", "top_k", "top_p", "min_p", "repetition_penalty"}
	ran := 0
	for i, c := range g.Cases {
		skip := false
		for k := range c.Params {
			skip = skip || !slices.Contains(known, k)
		}
		if skip {
			continue
		}
		ran++
		s := &kernels.SampleRow{Temperature: c.Params["temperature"], TopK: int(c.Params["top_k"]), TopP: c.Params["top_p"], MinP: c.Params["min_p"],
			RepetitionPenalty: c.Params["repetition_penalty"], Seen: g.PromptIDs}
		kept := 0
		// Which of several equal logits survives is arbitrary in torch, so tied
		// tokens are compared as a set: within runs of one logit value.
		got, want := probs(s, g.Logits[c.Vector]), c.Probs
		untie(got, g.Logits[c.Vector])
		untie(want, g.Logits[c.Vector])
		for j, p := range got {
			if p > 0 {
				kept++
			}
			if math.Abs(p-want[j]) > 2e-6*want[j]+1e-9 {
				t.Errorf("case %d %v: token %d has %g, want %g", i, c.Params, j, p, want[j])
			}
		}
		if kept != c.Kept {
			t.Errorf("case %d %v: %d tokens kept, want %d", i, c.Params, kept, c.Kept)
		}
	}
	if ran < 10 {
		t.Errorf("only %d of %d cases ran", ran, len(g.Cases))
	}
}

// untie sorts the probabilities of tokens that have the same logit.
func untie(p []float64, logits []float32) {
	at := map[float32][]int{}
	for i, v := range logits {
		at[v] = append(at[v], i)
	}
	for _, idx := range at {
		var v []float64
		for _, i := range idx {
			v = append(v, p[i])
		}
		slices.Sort(v)
		for k, i := range idx {
			p[i] = v[k]
		}
	}
}

// TestSameTokens: a seed's tokens are part of what a user can rely on.
func TestSameTokens(t *testing.T) {
	const v, n = 100, 12
	logits := make([]float32, n*v)
	for i := range logits {
		logits[i] = float32(uint32(i)*2654435761>>20) / 512 // 0 … 8
	}
	for _, c := range []struct {
		row  kernels.SampleRow
		want []int32
	}{
		{kernels.SampleRow{}, []int32{55, 44, 88, 77, 32, 21, 65, 54, 98, 87, 42, 31}},
		{kernels.SampleRow{Temperature: 0.7, Seed: 42}, []int32{97, 86, 96, 77, 82, 29, 52, 41, 17, 61, 66, 86}},
		{kernels.SampleRow{Temperature: 1, TopK: 10, TopP: 0.9, Seed: 7}, []int32{97, 86, 28, 17, 32, 29, 94, 20, 9, 74, 97, 18}},
		{kernels.SampleRow{Temperature: 1.5, MinP: 0.1, RepetitionPenalty: 1.3, Seed: 1}, []int32{55, 86, 2, 77, 90, 45, 52, 23, 72, 1, 8, 52}},
	} {
		dev := New(Options{})
		b, err := dev.Alloc(kernels.Activations, dtype.Of(dtype.F32), n*v)
		ids, err2 := dev.Alloc(kernels.Activations, dtype.Of(dtype.I32), n)
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		copy(f32(b), logits)
		rows := make([]kernels.SampleRow, n)
		for i := range rows {
			rows[i] = c.row
			rows[i].Seen = []int32{5, 17, 33, 33, 80}
			rows[i].Stream, rows[i].Step = uint64(i%3), uint64(i/3)
		}
		dev.Sample(ids, &kernels.SampleArgs{V: v, Logits: b, Rows: rows})
		if got := i32(ids); !slices.Equal(got, c.want) {
			t.Errorf("%+v: tokens %v, want %v", c.row, got, c.want)
		}
		dev.Close()
	}
}

// TestTopPLikely: sorting the likely tokens alone leaves the same as sorting all, for
// flat and steep distributions, ties, impossible tokens and every p.
func TestTopPLikely(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		x := make([]float64, 1+r.IntN(400))
		spread := math.Pow(10, 2-4*r.Float64())
		for k := range x {
			x[k] = spread * r.NormFloat64()
			switch r.IntN(8) {
			case 0:
				x[k] = x[r.IntN(k+1)] // a tie
			case 1:
				if k > 0 {
					x[k] = math.Inf(-1)
				}
			}
		}
		p := r.Float64()
		if i%4 == 0 {
			clear(x) // uniform: sums meet 1-p
			p = float64(1+r.IntN(len(x))) / float64(len(x)+1)
		}
		want := slices.Clone(x)
		topPOfAll(want, softmax(want), p)
		topP(x, p)
		if !slices.Equal(x, want) {
			t.Fatalf("case %d, p %v of %d: other tokens are left", i, p, len(x))
		}
	}
}

// TestKthLargest compares with sorting, ties and -Inf among the values.
func TestKthLargest(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		x := make([]float64, 2+r.IntN(300))
		for k := range x {
			x[k] = float64(r.IntN(40))
			if x[k] < float64(r.IntN(12)) {
				x[k] = math.Inf(-1)
			}
		}
		k := 1 + r.IntN(len(x)-1)
		if got, want := kthLargest(x, k), slices.Sorted(slices.Values(x))[len(x)-k]; got != want {
			t.Fatalf("the %d. of %v is %v, want %v", k, x, got, want)
		}
	}
}

// BenchmarkSample draws a token of a vocabulary: ns of one.
func BenchmarkSample(b *testing.B) {
	r := rand.New(rand.NewPCG(5, 6))
	logits := make([]float32, 49152)
	for i := range logits {
		logits[i] = float32(3 * r.NormFloat64())
	}
	for name, s := range map[string]kernels.SampleRow{"temperature": {Temperature: 1}, "top_p": {Temperature: 1, TopP: 0.9}, "top_k": {Temperature: 1, TopK: 50}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				sample(&s, logits)
				s.Step++
			}
		})
	}
}

// TestDrawAll: drawing by parts chooses the token that the probabilities in float64
// do, unless a border of its is as near as rounding; and never an impossible one.
func TestDrawAll(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 400 {
		logits := make([]float32, 1+r.IntN(3000))
		for k := range logits {
			if logits[k] = float32(8 * r.NormFloat64()); r.IntN(4) == 0 {
				logits[k] = float32(math.Inf(-1))
			}
		}
		logits[r.IntN(len(logits))] = 3
		s := &kernels.SampleRow{Temperature: 0.02 + 3*r.Float64()}
		if !keepsAll(s, len(logits)) {
			t.Fatal("not drawn by parts")
		}
		p := probs(s, logits)
		for _, u := range []float64{0, r.Float64(), r.Float64(), 1 - 1e-16} {
			id := drawAll(logits, s.Temperature, u)
			low := 0.0
			for _, v := range p[:id] {
				low += v
			}
			const near = 1e-5
			if p[id] == 0 || u < low-near || u > low+p[id]+near {
				t.Errorf("%d: %g chose token %d, which is from %g to %g", i, u, id, low, low+p[id])
			}
		}
	}
}
