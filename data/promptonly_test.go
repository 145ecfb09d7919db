package data

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/formats/fail"
)

// TestPromptOnly: prompts are tokenized up to where the answer begins, and their
// rows stay with them, in a cache too.
func TestPromptOnly(t *testing.T) {
	tok := sharedTokenizer(t, "qwen3")
	text, _ := chat.Builtin("chatml")
	tmpl, err := chat.Parse(text, chat.Options{})
	if err != nil {
		t.Fatal(err)
	}
	rows := []string{
		`{"prompt":"2+2=","answer":4}`,
		`{"instruction":"2+2?","system":"Be brief.","answer":"four","tags":["a",{"b":null}]}`,
		`{"prompt":[{"role":"user","content":"2+2?"}],"answer":4.5}`,
		`{"messages":[{"role":"user","content":"2+2?"},{"role":"assistant","content":"4"}]}`,
	}
	want := []string{
		"2+2=",
		"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n",
		"<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n",
		"<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n",
	}
	t.Chdir(filepath.Dir(write(t, "a.jsonl", strings.Join(rows, "\n"))))
	const path = "a.jsonl" // a folder names its files without theirs
	no := false
	o := Options{Datasets: []Source{{Path: path, Type: "prompt"}}, ValSetSize: "0", Shuffle: &no}
	d, rep := ingestOne(t, o, tok, tmpl)
	if rep.Kept != 4 || rep.Types["prompt"] != 4 {
		t.Errorf("report %+v", rep)
	}
	dir := filepath.Join(t.TempDir(), "cache")
	if err := d.SaveArrow(dir); err != nil {
		t.Fatal(err)
	}
	again, err := LoadArrow(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := readAll(t, again.Train)
	if !reflect.DeepEqual(got, readAll(t, d.Train)) {
		t.Errorf("a cache gives %+v, not %+v", got, readAll(t, d.Train))
	}
	for i, e := range got {
		if text := tok.Decode(e.IDs, false); text != want[i] || len(e.Loss) != 0 {
			t.Errorf("row %d: %q with %v, want %q", i, text, e.Loss, want[i])
		}
		var row, had map[string]any
		if err := json.Unmarshal([]byte(e.Row), &row); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(rows[i]), &had); err != nil {
			t.Fatal(err)
		}
		switch i {
		case 1:
			had["prompt"] = "2+2?"
		case 3:
			had["prompt"], had["completion"] = []any{map[string]any{"role": "user", "content": "2+2?"}}, "4"
		}
		if !reflect.DeepEqual(row, had) {
			t.Errorf("row %d is %v, want %v", i, row, had)
		}
	}
	if asks, err := again.Train.Asks(); !asks || err != nil {
		t.Errorf("asks %v, %v", asks, err)
	}
}

// TestPromptOnlyRefused: prompts that cannot be answered, and rows beside them.
func TestPromptOnlyRefused(t *testing.T) {
	tok := sharedTokenizer(t, "qwen3")
	for row, words := range map[string]string{
		`{"prompt":""}`: "is empty",
		`{"prompt":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}`: "nothing to answer",
		`{"prompt":7}`: "not a list of messages",
	} {
		o := Options{Datasets: []Source{{Path: write(t, "a.jsonl", row), Type: "prompt"}}}
		if _, _, err := Ingest(t.Context(), o, tok, nil, nil); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: error %v, want %q", row, err, words)
		}
	}
	prompts, texts := write(t, "p.jsonl", `{"prompt":"q"}`), write(t, "t.jsonl", `{"text":"some text"}`)
	for _, list := range [][]Source{{{Path: prompts, Type: "prompt"}, {Path: texts}}, {{Path: texts}, {Path: prompts, Type: "prompt"}}} {
		_, _, err := Ingest(t.Context(), Options{Datasets: list}, tok, nil, nil)
		if fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), "prompts") {
			t.Errorf("mixed rows: error %v", err)
		}
	}
	_, _, err := Ingest(t.Context(), Options{Datasets: []Source{{Path: prompts, Type: "prompt"}}, Overflow: "truncate"}, tok, nil, nil)
	if fail.Code(err) != int(fail.Usage) {
		t.Errorf("overflow: error %v", err)
	}
}
