package cli

import (
	"bytes"
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
