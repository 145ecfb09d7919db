package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/train"
)

// TestTailAnswers: every answer is shown once, however polls part those of a step, also
// when the file is made anew or moves to where finished stages lie.
func TestTailAnswers(t *testing.T) {
	dir := t.TempDir()
	work, done := filepath.Join(dir, ".work", "s"), filepath.Join(dir, "s")
	for _, d := range []string{work, filepath.Join(dir, ".state")} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	run, err := recipes.Follow(dir)
	if err != nil {
		t.Fatal(err)
	}
	shown := ""
	tail := &tailing{run: run, dir: dir, json: func(v any) error { a := v.(loggedAnswer); shown += fmt.Sprint(a.Step, a.Text, " "); return nil }}
	tail.stages = map[string]*tailedStage{"s": {metrics: run.Log("s", train.MetricsFile), answers: run.Log("s", train.AnswersFile)}}
	var text bytes.Buffer
	add := func(step int, texts ...string) {
		for _, s := range texts {
			b, _ := json.Marshal(train.Answer{Step: step, Text: s})
			text.Write(append(b, '\n'))
		}
	}
	path := filepath.Join(work, train.AnswersFile)
	poll := func() {
		if err := os.WriteFile(path, text.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := tail.logs("s", math.MaxInt); err != nil {
			t.Fatal(err)
		}
	}
	add(1, "a", "b")
	poll()
	add(1, "c")
	poll()
	add(2, "d")
	poll()
	text.Reset() // a run that goes on after step 1
	add(1, "a", "b", "c")
	poll()
	add(2, "d", "e")
	add(3, "f")
	poll()
	if err := os.Rename(work, done); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(done, train.AnswersFile)
	add(3, "g")
	poll()
	if want := "1a 1b 1c 2d 2e 3f 3g "; shown != want {
		t.Errorf("shown %s, want %s", shown, want)
	}
}
