package cli

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/recipes"
)

// watcher shows what a run is doing: one redrawn line on a terminal, else a
// plain line every 30 seconds, at every start and end, and for every tenth of a
// training.
type watcher struct {
	mu    sync.Mutex
	w     io.Writer
	width func() int // of the terminal, now; nil: w is none
	json  func(recipes.Event)
	quiet bool

	logEvery int64 // steps between lines of a training, on a terminal too; 0: as above
	logged   int64 // step of the last one

	at     time.Time // of the event, where it is not now
	noTime bool      // say no time left: the event does

	began time.Time // of the phase in work
	phase string
	first int64
	drawn time.Time
	open  bool // a bar is on the screen
}

func newWatcher(w io.Writer, quiet bool) *watcher {
	p := &watcher{w: w, quiet: quiet}
	f, ok := w.(*os.File)
	if c, is := w.(*console); is { // what is redrawn is ours to write
		f, ok = c.w.(*os.File)
		p.w = coloured(w)
	}
	if ok && isTerminal(f) && os.Getenv("TERM") != "dumb" && os.Getenv("CI") == "" {
		p.width = func() int { return cmp.Or(columns(f), 80) }
	}
	return p
}

const (
	redraw = 100 * time.Millisecond
	plain  = 30 * time.Second
)

func (p *watcher) event(e recipes.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.json != nil {
		p.json(e)
		return
	}
	if p.quiet {
		return
	}
	where := e.Stage
	if e.Of > 0 {
		where = fmt.Sprintf("%s %d/%d", e.Stage, e.Index, e.Of)
	}
	switch e.What {
	case "start":
		p.phase = ""
		p.line(where)
	case "done":
		p.line(fmt.Sprintf("%s  done in %s", where, short(time.Duration(e.Took*float64(time.Second)))))
	case "cached":
		p.line(where + "  unchanged")
	case "note":
		p.line(where + "  " + e.Text)
	case "progress":
		p.progress(where, e)
	}
}

// changes passes on what scripts need of the events of a run: every step of a training,
// and of other progress ten lines a second and the last of it; a progress that says what the
// last one said is left out.
func changes(write func(recipes.Event)) func(recipes.Event) {
	var last recipes.Event  // that was written
	var held *recipes.Event // progress since
	var at time.Time
	return func(e recipes.Event) {
		if e.What == "progress" && e.Stage == last.Stage && e.Unit == last.Unit {
			if e.Done == last.Done && e.Total == last.Total && e.Text == last.Text {
				return
			}
			if e.Unit != "steps" && e.Done != e.Total && time.Since(at) < redraw {
				held = &e
				return
			}
		} else if held != nil { // of unknown length, or left early
			write(*held)
		}
		last, held, at = e, nil, time.Now()
		write(e)
	}
}

// line prints a finished line, over the bar if there is one.
func (p *watcher) line(s string) {
	p.clear()
	fmt.Fprintln(p.w, harmless(s))
}

func (p *watcher) clear() {
	if p.open {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.open = false
	}
}

// now is when the event in work happened.
func (p *watcher) now() time.Time {
	if p.at.IsZero() {
		return time.Now()
	}
	return p.at
}

func (p *watcher) progress(where string, e recipes.Event) {
	now := p.now()
	if phase := where + e.Unit + fmt.Sprint(e.Total); phase != p.phase {
		p.phase, p.began, p.first, p.drawn, p.logged = phase, now, e.Done, now, e.Done
		if p.width == nil {
			return
		}
	}
	if p.logs(e) {
		p.logged, p.drawn = e.Done, now
		p.line(strings.Join(p.status(where, e, now), "  "))
		return
	}
	every := redraw
	if p.width == nil {
		every = plain
	}
	if now.Sub(p.drawn) < every {
		return
	}
	p.drawn = now
	fields := p.status(where, e, now)
	if p.width == nil {
		fmt.Fprintln(p.w, harmless(strings.Join(fields, "  ")))
		return
	}
	fmt.Fprint(p.w, "\r\x1b[K"+harmless(fitting(fields, p.width()-1))) // in the last column some terminals wrap
	p.open = true
}

// fitting is a line of as many fields as width columns have room for, from the left;
// of the first what fits.
func fitting(fields []string, width int) string {
	line := fields[0]
	for _, f := range fields[1:] {
		if utf8.RuneCountInString(line)+2+utf8.RuneCountInString(f) > width {
			break
		}
		line += "  " + f
	}
	if r := []rune(line); len(r) > width {
		line = string(r[:max(width, 0)])
	}
	return line
}

// logs reports whether a step of a training has a line of its own.
func (p *watcher) logs(e recipes.Event) bool {
	if e.Unit != "steps" || e.Total == 0 || e.Done == p.logged {
		return false
	}
	if p.logEvery > 0 {
		return e.Done/p.logEvery > p.logged/p.logEvery || e.Done == e.Total
	}
	return p.width == nil && e.Done*10/e.Total > p.logged*10/e.Total
}

// status is one line in fields, what matters most first: place, bar and counts, the
// stage's own words, the time left and memory.
func (p *watcher) status(where string, e recipes.Event, now time.Time) []string {
	var b strings.Builder
	b.WriteString(where)
	if p.width != nil && e.Total > 0 {
		const width = 18
		full := int(float64(width) * min(1, float64(e.Done)/float64(e.Total)))
		fmt.Fprintf(&b, " ▕%s%s▏", strings.Repeat("█", full), strings.Repeat(" ", width-full))
	}
	if e.Unit == "bytes" {
		fmt.Fprintf(&b, " %s/%s", humanize.Bytes(uint64(e.Done)), humanize.Bytes(uint64(e.Total)))
	} else if e.Total > 0 {
		fmt.Fprintf(&b, " %s/%s %s", humanize.Comma(e.Done), humanize.Comma(e.Total), e.Unit)
	} else {
		fmt.Fprintf(&b, " %s %s", humanize.Comma(e.Done), e.Unit)
	}
	out := []string{b.String()}
	if e.Text != "" {
		out = append(out, strings.Split(e.Text, "  ")...)
	}
	took := now.Sub(p.began)
	if done := e.Done - p.first; done > 0 && took > time.Second {
		if e.Text == "" && e.Unit != "bytes" {
			out = append(out, humanize.SIWithDigits(float64(done)/took.Seconds(), 1, "")+"/s")
		}
		if e.Total > e.Done && !p.noTime {
			left := time.Duration(float64(took) * float64(e.Total-e.Done) / float64(done))
			out = append(out, "left "+short(left))
		}
	}
	if e.Memory > 0 {
		out = append(out, humanize.IBytes(uint64(e.Memory)))
	}
	return out
}

func short(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%d h %02d min", int(d.Hours()), int(d.Minutes())%60)
}
