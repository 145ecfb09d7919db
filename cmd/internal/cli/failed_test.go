package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

// TestFailedJSON: every command that knows --json ends with one line {"error": …}
// when it fails, and says the same on standard error.
func TestFailedJSON(t *testing.T) {
	n := 0
	for _, name := range []string{"tune", "quant"} {
		for _, words := range CommandNames(name) {
			if !flagsOf(strings.Join(words, " "))["json"] {
				continue
			}
			n++
			argv := append(slices.Clone(words), "--json", "--no-such-flag")
			var out, errs bytes.Buffer
			code := run(context.Background(), name, argv, &out, &errs)
			var got failed
			d := json.NewDecoder(&out)
			if err := d.Decode(&got); err != nil || d.More() {
				t.Errorf("%s %v: %v, more: %v", name, argv, err, d.More())
			}
			if code != int(fail.Usage) || got.Error.Code != code || !strings.HasPrefix(errs.String(), "tune: "+got.Error.Message) || !strings.Contains(errs.String(), got.Error.Hint) {
				t.Errorf("%s %v: exit %d, %+v, %s", name, argv, code, got, &errs)
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d commands have --json", n)
	}
}

func TestFailedJSONForms(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("version: 1\nstages:\n- train: {lr: 1}\n- merge: {nothing: 2}\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		argv []string
		want string
	}{
		{[]string{"validate", bad, "--json"}, `{"error":{"code":2,"kind":"usage","message":"BAD: problems found: 2","problems":[` +
			`{"file":"BAD","line":3,"column":11,"key":"train","message":"unknown key lr (torchtune)","hint":"here it is learning_rate"},` +
			`{"file":"BAD","line":4,"column":11,"key":"merge","message":"unknown key nothing","hint":"known keys:`},
		{[]string{"validate", "quickstart", "--json"}, `{"recipe":"quickstart","ok":true,"stages":["data",`},
		{[]string{"verify", filepath.Join(dir, "none"), "--json"}, `{"error":{"code":3,"kind":"input","message":"`},
		{[]string{"verify", "--json", "--", "--json"}, `{"error":{"code":3,"kind":"input","message":"--json: `},
		{[]string{"verify", "--", "--json"}, ``},
		{[]string{"diff", pocketModel, pocketModel, "--json"}, `{"a":"../../../recipes/pocket/model",`},
	} {
		var out bytes.Buffer
		run(context.Background(), "tune", c.argv, &out, io.Discard)
		got := strings.ReplaceAll(out.String(), bad, "BAD")
		if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%v: %s\nwant %s", c.argv, got, c.want)
		}
	}
}

// TestAsksJSON: --json is what the parser of flags takes for it, the last one counts.
func TestAsksJSON(t *testing.T) {
	for line, want := range map[string]bool{
		"eval --json": true, "eval -json": true, "eval --json=true x": true, "eval --json=1": true, "eval --json=TRUE": true,
		"eval": false, "eval --json=false": false, "eval --json --json=0": false, "eval -- --json": false, "eval --jsonl": false, "eval --json=maybe": false,
	} {
		if got := asksJSON(strings.Fields(line)); got != want {
			t.Errorf("%s: %v", line, got)
		}
	}
}
