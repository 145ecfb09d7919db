package recipes

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes/report"
)

// LoggedEvent is a line of a run's log of events, which a watcher in another process
// follows. The first one of a run is called run, the last one end.
type LoggedEvent struct {
	Time float64 `json:"time"` // Unix seconds
	Event
	Run     string `json:"run,omitempty"`       // of run: what started it
	Outcome string `json:"outcome,omitempty"`   // of end: the verdict of the report
	Code    *int   `json:"exit_code,omitempty"` // of end
	Error   string `json:"error,omitempty"`
	Hint    string `json:"hint,omitempty"`
}

// eventsFile is the log in .state. It begins anew with every run, and is no part of what a
// run makes: what cannot be written there is left out.
const eventsFile = "events.jsonl"

// everyProgress is how often progress is logged.
const everyProgress = time.Second

// eventLog writes the log; a nil one does nothing.
type eventLog struct {
	f        *atomic.Log
	progress time.Time // of the last line of progress
	of       string    // its stage and unit
}

// begin starts the log of a run.
func (f folder) begin(command string) *eventLog {
	path := f.state(eventsFile)
	if err := atomic.WriteFile(path, nil); err != nil {
		return nil
	}
	log, err := atomic.OpenLog(path)
	if err != nil {
		return nil
	}
	l := &eventLog{f: log}
	l.write(LoggedEvent{Event: Event{What: "run"}, Run: command})
	return l
}

func (l *eventLog) write(e LoggedEvent) {
	if l == nil {
		return
	}
	now := time.Now()
	if e.What == "progress" {
		of := e.Stage + " " + e.Unit
		if of == l.of && now.Sub(l.progress) < everyProgress {
			return
		}
		l.of, l.progress = of, now // the first of each is logged: it says how many there will be
	}
	e.Time = float64(now.UnixMilli()) / 1000
	if raw, err := json.Marshal(e); err == nil {
		_ = l.f.WriteLine(raw)
	}
}

// end writes how the run ended.
func (l *eventLog) end(s *report.Summary, err error) {
	if l == nil {
		return
	}
	code := fail.Code(err)
	e := LoggedEvent{Event: Event{What: "end"}, Outcome: verdict(s, true, err), Code: &code, Hint: fail.Hint(err)}
	if s != nil {
		e.Outcome = s.Verdict
	}
	if err != nil {
		e.Error = err.Error()
	}
	l.write(e)
	_ = l.f.Close()
}

// Follower reads the log of events of a run while it is written.
type Follower struct {
	dir    folder
	events lines
	ended  bool
}

// Follow opens the log of the run in dir.
func Follow(dir string) (*Follower, error) {
	w := &Follower{dir: folder(filepath.Clean(dir))}
	st, err := os.Stat(dir)
	if err != nil || !st.IsDir() {
		hint := "name a folder below runs/"
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			if other := filepath.Join("runs", dir); isDir(other) {
				hint = "did you mean " + other + "?"
			} else if near := fail.Nearest(filepath.Base(dir), namesIn(filepath.Dir(filepath.Clean(dir)))); near != "" {
				hint = "did you mean " + filepath.Join(filepath.Dir(dir), near) + "?"
			}
		}
		return nil, fail.Usagef(dir, hint, "no such run")
	}
	if !isDir(w.dir.state("")) {
		return nil, fail.Usagef(dir, "name a folder below runs/", "not a run folder")
	}
	w.events.path = w.dir.state(eventsFile)
	return w, nil
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// namesIn lists the folders in dir.
func namesIn(dir string) (out []string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out
}

// Next returns the events since the last call. After the one called end there are none,
// unless the run is started again, which is a new log: again is then true.
func (w *Follower) Next() (list []LoggedEvent, again bool, err error) {
	text, again, err := w.events.next()
	if err != nil {
		return nil, false, err
	}
	w.ended = w.ended && !again
	for _, line := range text {
		var e LoggedEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, false, fail.Inputf(w.events.path, "run the recipe again: it begins anew", "bad line %.80q: %w", line, err)
		}
		w.ended = w.ended || e.What == "end"
		list = append(list, e)
	}
	return list, again, nil
}

// Running reports whether a process works in the folder.
func (w *Follower) Running() bool {
	path := w.dir.state("lock")
	if _, err := os.Stat(path); err != nil {
		return false
	}
	l := flock.New(path)
	ok, err := l.TryRLock()
	if ok {
		_ = l.Unlock()
	}
	return err == nil && !ok
}

// Log is a file of lines of a stage, in the folder where it works or its own.
func (w *Follower) Log(stage, name string) *StageLog {
	return &StageLog{paths: [2]string{filepath.Join(w.dir.work(stage), name), filepath.Join(w.dir.stage(stage), name)}}
}

// StageLog reads such a file while it is written.
type StageLog struct {
	paths [2]string
	at    int
	lines lines
}

// Next returns the whole lines since the last call. When the file was made anew, as by a
// run that goes on, or moved, they come from its start: again is then true.
func (s *StageLog) Next() (text [][]byte, again bool, err error) {
	for i, path := range s.paths {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		moved := s.lines.path != "" && i != s.at
		if moved { // the same lines, and those after
			s.lines = lines{}
		}
		s.at, s.lines.path = i, path
		text, again, err := s.lines.next()
		return text, again || moved, err
	}
	return nil, false, nil
}

// lines reads a growing file by whole lines.
type lines struct {
	path string
	info fs.FileInfo // of the file that was read
	off  int64
}

// next returns the lines since the last call; again says that the file is another one.
func (l *lines) next() (out [][]byte, again bool, err error) {
	f, err := os.Open(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	if l.info != nil && (!os.SameFile(l.info, info) || info.Size() < l.off) {
		l.off, again = 0, true
	}
	l.info = info
	raw := make([]byte, info.Size()-l.off)
	n, err := f.ReadAt(raw, l.off)
	if err != nil && n == 0 && len(raw) > 0 {
		return nil, again, nil // cut meanwhile: the next call sees it
	}
	raw = raw[:n]
	end := bytes.LastIndexByte(raw, '\n') + 1 // what follows is being written
	l.off += int64(end)
	for line := range bytes.Lines(raw[:end]) {
		out = append(out, bytes.TrimSuffix(line, []byte("\n")))
	}
	return out, again, nil
}

// command is what runs the recipe again.
func (x *run) command() string {
	if strings.HasPrefix(x.path, "tune ") { // of a command that writes its own
		return x.path
	}
	return "tune run " + x.path
}
