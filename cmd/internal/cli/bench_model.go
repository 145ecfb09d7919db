package cli

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/dustin/go-humanize"
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/recipes/stages"
	"github.com/tunekit/tunekit/train/eval"
)

// modelSpeed is what tune bench --model measures. Rates are of the best round.
type modelSpeed struct {
	Path         string  `json:"path"`
	DType        string  `json:"dtype"`
	Rounds       int     `json:"rounds"`
	Prompt       int     `json:"prompt_tokens"`
	New          int     `json:"new_tokens"`
	PromptRate   float64 `json:"prompt_tokens_per_second"`
	PromptMedian float64 `json:"prompt_tokens_per_second_median"`
	DecodeRate   float64 `json:"decode_tokens_per_second"`
	DecodeMedian float64 `json:"decode_tokens_per_second_median"`
	P50          float64 `json:"latency_ms_p50"` // of a token, over all rounds
	P95          float64 `json:"latency_ms_p95"`
	Load         float64 `json:"load_seconds"`
	Memory       int64   `json:"peak_memory_bytes"` // of the device, without mapped files
	Mapped       int64   `json:"mapped_bytes"`      // of files
}

func benchModel(c *ucli.Context, dev kernels.Backend, r *benchReport, w io.Writer) error {
	began := time.Now()
	m, err := openModelOn(c, dev, c.String("model"), "auto")
	if err != nil {
		return err
	}
	defer m.Close()
	s := &modelSpeed{Path: c.String("model"), DType: dtypeName(m), Rounds: c.Int("rounds"), Load: time.Since(began).Seconds()}
	text := make([]int32, c.Int("prompt")) // any tokens take the same time
	for i := range text {
		text[i] = int32(i * 7919 % m.Spec.V)
	}
	progress, clear := bar(c, "bench", "rounds")
	defer clear()
	var prompt, decode []float64
	var each []float32
	for i := range s.Rounds {
		progress(int64(i), int64(s.Rounds))
		p, err := eval.Measure(c.Context, m.Model, text, c.Int("prompt"), c.Int("decode"))
		if err != nil {
			return err
		}
		s.Prompt, s.New = p.Prompt, p.New
		prompt, decode, each = append(prompt, p.PromptRate()), append(decode, p.DecodeRate()), append(each, p.Each...)
	}
	slices.Sort(prompt)
	slices.Sort(decode)
	slices.Sort(each)
	all := eval.Pace{Each: each}
	s.PromptRate, s.PromptMedian = prompt[len(prompt)-1], prompt[len(prompt)/2]
	s.DecodeRate, s.DecodeMedian = decode[len(decode)-1], decode[len(decode)/2]
	s.P50, s.P95 = all.Latency(0.5), all.Latency(0.95)
	in := dev.Info()
	s.Memory, s.Mapped = in.PeakTotal, in.Mem.Peak[kernels.Mapped]
	r.Model = s
	clear()
	fmt.Fprintf(w, "%s, arithmetic %s, %d rounds\n", s.Path, s.DType, s.Rounds)
	fmt.Fprintf(w, "  prompt of %d     %7s tokens/s (median %s)\n", s.Prompt, figure(s.PromptRate), figure(s.PromptMedian))
	fmt.Fprintf(w, "  decode of %-4d    %7s tokens/s (median %s), a token p50 %.2f ms, p95 %.2f ms\n", s.New, figure(s.DecodeRate), figure(s.DecodeMedian), s.P50, s.P95)
	fmt.Fprintf(w, "  load             %7.2f s\n", s.Load)
	fmt.Fprintf(w, "  memory           %7s, and %s of files mapped\n", humanize.IBytes(uint64(s.Memory)), humanize.IBytes(uint64(s.Mapped)))
	return nil
}

func dtypeName(m *stages.Loaded) string {
	if m.BF16 {
		return "bf16"
	}
	return "f32"
}
