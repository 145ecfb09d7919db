package cli

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/recipes"
)

// TestLogLines: a log has a line for every tenth of a training, or as many as
// asked for, each with its numbers; other progress has none in its first seconds.
func TestLogLines(t *testing.T) {
	for _, c := range []struct {
		every int64
		total int
		want  []int // steps
	}{
		{0, 60, []int{6, 12, 18, 24, 30, 36, 42, 48, 54, 60}}, {0, 3, []int{1, 2, 3}},
		{25, 60, []int{25, 50, 60}}, {1, 4, []int{1, 2, 3, 4}},
	} {
		var out bytes.Buffer
		w := newWatcher(&out, false)
		w.logEvery = c.every
		for step := range c.total + 1 {
			for range 2 { // twice: a validation reports the same step
				w.event(recipes.Event{Stage: "train", What: "progress", Unit: "steps", Done: int64(step), Total: int64(c.total), Text: "loss 1.5"})
			}
		}
		var want strings.Builder
		for _, s := range c.want {
			fmt.Fprintf(&want, "train %d/%d steps  loss 1.5\n", s, c.total)
		}
		if out.String() != want.String() {
			t.Errorf("every %d of %d:\n%swant\n%s", c.every, c.total, &out, &want)
		}
		out.Reset()
		w.event(recipes.Event{Stage: "eval", What: "progress", Unit: "rows", Done: 5, Total: 10})
		if out.Len() > 0 {
			t.Errorf("a line of rows: %s", &out)
		}
	}
}
