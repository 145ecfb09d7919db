package jinja

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// rendering is one of 300 recorded by @huggingface/jinja 0.5.11, whose clock
// stood at 2024-07-26.
type rendering struct {
	template, conversation string
	vars                   map[string]any
	rendered, failure      string
}

func renderings(t testing.TB) []rendering {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(testdir.Shared(t, "chat-templates"), "renderings.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var out []rendering
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, 1<<24)
	for sc.Scan() {
		v, err := ParseJSON(sc.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		d := v.(*Dict)
		r := rendering{template: d.String("template"), conversation: d.String("conversation"), rendered: d.String("rendered"), failure: d.String("error"), vars: map[string]any{}}
		for _, k := range []string{"messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "date_string"} {
			if e, ok := d.Get(k); ok {
				r.vars[k] = e
			}
		}
		out = append(out, r)
	}
	if len(out) != 300 {
		t.Fatalf("%d renderings, want 300", len(out))
	}
	return out
}

var goldenNow = time.Date(2024, 7, 26, 0, 0, 0, 0, time.UTC)

// asTransformers tells what Transformers 5.23 (Jinja2 3.1.6) makes of those of
// the 300 that it renders otherwise than the recording: the text's SHA-256, or
// "error". It is right where they differ, with one exception left to the
// recording: after |safe Jinja2 escapes for HTML what is added to a text, which
// would put &#34; into the prompts of one template (two cases).
func asTransformers(t *testing.T) map[string]string {
	t.Helper()
	raw, err := os.ReadFile("testdata/transformers.json")
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]string
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRenderings(t *testing.T) {
	parsed := map[string]*Template{}
	other := asTransformers(t)
	for i, r := range renderings(t) {
		tmpl := parsed[r.template]
		if tmpl == nil {
			src, err := os.ReadFile(filepath.Join(testdir.Shared(t, "chat-templates"), r.template))
			if err != nil {
				t.Fatal(err)
			}
			if tmpl, err = Parse(string(src)); err != nil {
				t.Errorf("%s: %v", r.template, err)
				continue
			}
			parsed[r.template] = tmpl
		}
		got, _, err := tmpl.Render(r.vars, Options{Now: goldenNow})
		if want, ok := other[fmt.Sprint(i)]; ok {
			sum := fmt.Sprintf("%x", sha256.Sum256([]byte(got)))
			if err != nil {
				sum = "error"
			}
			if sum != want {
				t.Errorf("%d %s %s: %v, %q: not as Transformers", i, r.template, r.conversation, err, got)
			}
			continue
		}
		switch {
		case r.failure == "" && err != nil:
			t.Errorf("%d %s %s: %v", i, r.template, r.conversation, err)
		case r.failure == "" && got != r.rendered:
			t.Errorf("%d %s %s\n got %q\nwant %q", i, r.template, r.conversation, got, r.rendered)
		case r.failure != "" && err == nil:
			t.Errorf("%d %s %s rendered, want %q", i, r.template, r.conversation, r.failure)
		}
	}
}

// testdata/snippets.jsonl holds templates written for this test and what the
// environment of Transformers 5.23 (Jinja2 3.1.6) made of them with vars.json;
// its clock stood at 2024-07-26.
func TestSnippets(t *testing.T) {
	raw, err := os.ReadFile("testdata/vars.json")
	if err != nil {
		t.Fatal(err)
	}
	v, err := ParseJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	vars := map[string]any{}
	for i := range v.(*Dict).Len() {
		k, e := v.(*Dict).At(i)
		vars[k.(string)] = e
	}
	data, err := os.ReadFile("testdata/snippets.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range bytes.Split(bytes.TrimSpace(data), []byte("\n")) {
		v, err := ParseJSON(line)
		if err != nil {
			t.Fatal(err)
		}
		d := v.(*Dict)
		src := d.String("src")
		want, ok := d.Get("ok")
		var got string
		tmpl, err := Parse(src)
		if err == nil {
			got, _, err = tmpl.Render(vars, Options{Now: goldenNow})
		}
		switch {
		case ok && err != nil:
			t.Errorf("%q: %v, want %q", src, err, want)
		case ok && got != want:
			t.Errorf("%q\n got %q\nwant %q", src, got, want)
		case !ok && err == nil:
			t.Errorf("%q gives %q, want %s", src, got, d.String("err"))
		}
	}
}
