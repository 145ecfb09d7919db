package cli

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tunekit/tunekit/recipes"
)

// The bar never wraps: it is cut to the width that the terminal has at each refresh,
// whole fields from the right.
func TestBarFits(t *testing.T) {
	width := 0
	var out bytes.Buffer
	p := &watcher{w: &out, width: func() int { return width }}
	e := recipes.Event{Stage: "train", Index: 2, Of: 5, What: "progress", Done: 6, Total: 20, Unit: "steps",
		Text: "loss 1.1665 (val 1.2204)  554 tok/s", Memory: 75 << 20}
	p.event(e)
	for _, width = range []int{1000, 80, 60, 30, 1} {
		out.Reset()
		p.began, p.drawn = time.Now().Add(-10*time.Second), time.Time{}
		e.Done++
		p.event(e)
		bar := strings.TrimPrefix(out.String(), "\r\x1b[K")
		if n := utf8.RuneCountInString(bar); n >= width || width == 80 && (!strings.HasSuffix(bar, "554 tok/s") || n < 60) || width == 1000 && !strings.HasSuffix(bar, "75 MiB") {
			t.Errorf("%d columns: %q", width, bar)
		}
	}
}

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

// TestChanges: a script is given each step of a training once, the end of other work,
// and not what it was told before.
func TestChanges(t *testing.T) {
	var got []recipes.Event
	w := changes(func(e recipes.Event) { got = append(got, e) })
	for step := range int64(3) {
		for range 5 {
			w(recipes.Event{Stage: "train", What: "progress", Unit: "steps", Done: step, Total: 2})
		}
		w(recipes.Event{Stage: "train", What: "progress", Unit: "steps", Done: step, Total: 2, Text: "validating"})
	}
	for n := range int64(1000) {
		w(recipes.Event{Stage: "export", What: "progress", Unit: "weights", Done: n + 1, Total: 1000})
	}
	for n := range int64(1000) { // nobody knows how many
		w(recipes.Event{Stage: "export", What: "progress", Unit: "rows", Done: n + 1})
	}
	w(recipes.Event{Stage: "export", What: "done"})
	n := len(got)
	if got[n-2].Unit != "rows" || got[n-2].Done != 1000 {
		t.Errorf("the last is %+v", got[n-2])
	}
	got = slices.Delete(got, slices.IndexFunc(got, func(e recipes.Event) bool { return e.Unit == "rows" }), n-1)
	if n := len(got); n < 6+3 || n > 100 || got[6].Done != 1 || got[n-2].Done != 1000 || got[n-1].What != "done" {
		t.Errorf("%d events: %+v", n, got)
	}
}
