package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/recipes/stages"
)

// modelSpeed is what tune bench --model measures.
type modelSpeed struct {
	Path          string              `json:"path"`
	DType         string              `json:"dtype"`
	Rounds        int                 `json:"rounds"`
	*stages.Speed                     // nil with --answers
	Answers       *stages.AnswerSpeed `json:"side_by_side,omitempty"`
	Load          float64             `json:"load_seconds"`
	Memory        int64               `json:"peak_memory_bytes"` // of the device, without mapped files
	Mapped        int64               `json:"mapped_bytes"`      // of files
}

func benchModel(c *ucli.Context, dev kernels.Backend, r *benchReport, w io.Writer) error {
	began := time.Now()
	m, err := openModelOn(c, dev, c.String("model"), "auto")
	if err != nil {
		return err
	}
	defer m.Close()
	s := &modelSpeed{Path: c.String("model"), DType: dtypeName(m), Rounds: c.Int("rounds"), Load: time.Since(began).Seconds()}
	progress, clear := bar(c, "bench", "rounds")
	defer clear()
	if n := c.Int("answers"); n > 0 {
		s.Answers, err = stages.MeasureAnswers(c.Context, m, n, c.Int("prompt"), c.Int("decode"), s.Rounds, progress)
	} else {
		s.Speed, err = stages.MeasureSpeed(c.Context, m, c.Int("prompt"), c.Int("decode"), s.Rounds, progress)
	}
	if err != nil {
		return err
	}
	in := dev.Info()
	s.Memory, s.Mapped = in.PeakTotal, in.Mem.Peak[kernels.Mapped]
	r.Model = s
	clear()
	fmt.Fprintf(w, "%s, arithmetic %s, %d rounds\n", s.Path, s.DType, s.Rounds)
	if a := s.Answers; a != nil {
		fmt.Fprintf(w, "  answers          %7s tokens/s (median %s): %d of %d tokens, with reading prompts of %d\n", figure(a.Rate), figure(a.Median), a.Answers, a.New, a.Prompt)
	} else {
		fmt.Fprintf(w, "  prompt of %d     %7s tokens/s (median %s)\n", s.Prompt, figure(s.PromptRate), figure(s.PromptMedian))
		fmt.Fprintf(w, "  decode of %-4d    %7s tokens/s (median %s), a token p50 %.2f ms, p95 %.2f ms\n", s.New, figure(s.DecodeRate), figure(s.DecodeMedian), s.P50, s.P95)
	}
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
