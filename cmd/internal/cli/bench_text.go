package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/par"
	"github.com/tunekit/tunekit/recipes/stages"
)

// textSpeed is what tune bench --text measures.
type textSpeed struct {
	Path   string  `json:"path"`
	Bytes  int     `json:"bytes"`
	Lines  int     `json:"lines"`
	Tokens int64   `json:"tokens"`
	Rounds int     `json:"rounds"`
	Rate   float64 `json:"mb_per_second"` // of the best round
	Median float64 `json:"mb_per_second_median"`
}

// benchText tokenizes every line of --text, on all threads.
func benchText(c *ucli.Context, r *benchReport, w io.Writer) error {
	tok, err := stages.TokenizerOf(c.String("model"))
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(c.String("text"))
	if err != nil {
		return fail.Inputf(c.String("text"), "", "%w", err)
	}
	if len(raw) == 0 {
		return fail.Inputf(c.String("text"), "", "is empty")
	}
	var lines []string
	for line := range bytes.Lines(raw) {
		lines = append(lines, string(bytes.TrimSuffix(line, []byte("\n"))))
	}
	t := &textSpeed{Path: c.String("text"), Bytes: len(raw), Lines: len(lines), Rounds: c.Int("rounds")}
	var rates []float64
	for range t.Rounds {
		var tokens atomic.Int64
		var failed atomic.Pointer[error]
		began := time.Now()
		par.For(len(lines), 256, func(lo, hi int) {
			for _, line := range lines[lo:hi] {
				ids, err := tok.TryEncode(line, false)
				if err != nil {
					failed.Store(&err)
					return
				}
				tokens.Add(int64(len(ids)))
			}
		})
		if err := failed.Load(); err != nil {
			return *err
		}
		rates = append(rates, float64(len(raw))/time.Since(began).Seconds()/1e6)
		t.Tokens = tokens.Load()
		if err := c.Context.Err(); err != nil {
			return err
		}
	}
	slices.Sort(rates)
	t.Rate, t.Median = rates[len(rates)-1], rates[len(rates)/2]
	r.Text = t
	fmt.Fprintf(w, "%s: %d lines, %d tokens\n  tokenize %s MB/s (median %s)\n", t.Path, t.Lines, t.Tokens, figure(t.Rate), figure(t.Median))
	return nil
}
