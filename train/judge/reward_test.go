package judge

import (
	"encoding/json"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tunekit/tunekit/formats/fail"
)

func ask(t *testing.T, c Config, row string, texts ...string) []float64 {
	t.Helper()
	f, err := c.Resolve().New("rewards[0]")
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.Score(t.Context(), answers(t, row, texts...))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func answers(t *testing.T, row string, texts ...string) []Answer {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(row))
	d.UseNumber()
	var r map[string]any
	if err := d.Decode(&r); err != nil {
		t.Fatal(err)
	}
	var out []Answer
	for _, s := range texts {
		out = append(out, Answer{Text: s, IDs: make([]int32, len(s)), Row: r})
	}
	return out
}

// TestRewards: each kind of reward gives 1 to what it is for and 0 to the rest.
func TestRewards(t *testing.T) {
	three := 3
	for _, c := range []struct {
		name         string
		c            Config
		row          string
		right, wrong []string
	}{
		{"exact", Config{Exact: "answer"}, `{"answer":"Paris "}`, []string{"Paris", " Paris\n"}, []string{"paris", "Paris.", ""}},
		{"exact number", Config{Exact: "answer"}, `{"answer":0.50}`, []string{"0.50"}, []string{"0.5"}},
		{"pattern", Config{Exact: "answer", Pattern: `<a>(.*?)</a>`}, `{"answer":"x"}`, []string{"<a>y</a> no, <a>x</a>"}, []string{"x", "<a>x</a> <a>y</a>"}},
		{"numeric", Config{Numeric: "answer"}, `{"answer":"12 and 3\n#### 1,234"}`, []string{"1234", "It is $1,234.00.", "9, so 1234"}, []string{"12", "none", "1234 of 5"}},
		{"numeric column", Config{Numeric: "answer"}, `{"answer":-0.5}`, []string{"-0.5", "x = -.5", "-5e-1"}, []string{"0.5"}},
		{"numeric pattern", Config{Numeric: "answer", Pattern: `#### (.*)`}, `{"answer":7}`, []string{"#### 7"}, []string{"7", "#### 8\n7"}},
		{"regex", Config{Regex: `^\d+$`}, `{}`, []string{"12"}, []string{"a12", ""}},
		{"schema", Config{JSONSchema: `{"type":"object","required":["a"],"properties":{"a":{"type":"integer","minimum":1}},"additionalProperties":false}`}, `{}`,
			[]string{`{"a":1}`, " {\"a\": 2}\n"}, []string{`{"a":0}`, `{"a":1,"b":2}`, `{}`, `{"a":1}x`, "a"}},
		{"any JSON", Config{JSONSchema: `{}`}, `{}`, []string{`[1]`, `"x"`}, []string{`[1`, ``}},
		{"tags", Config{Tags: []string{"think", "answer"}}, `{}`, []string{"<think>a\nb</think>\n<answer>c</answer>", " <think></think><answer></answer> "},
			[]string{"<answer>c</answer><think>a</think>", "<think>a</think>", "x<think>a</think><answer>c</answer>", "<think>a</think><answer>b</answer><answer>c</answer>"}},
		{"length", Config{Length: &Length{Min: 2, Max: three}}, `{}`, []string{"ab", "abc"}, []string{"a", "abcd"}},
		{"at least", Config{Length: &Length{Min: 2}}, `{}`, []string{"ab", "abcdef"}, []string{"a"}},
	} {
		for _, s := range c.right {
			if got := ask(t, c.c, c.row, s); got[0] != 1 {
				t.Errorf("%s: %q gets %v", c.name, s, got[0])
			}
		}
		for _, s := range c.wrong {
			if got := ask(t, c.c, c.row, s); got[0] != 0 {
				t.Errorf("%s: %q gets %v", c.name, s, got[0])
			}
		}
	}
}

// TestCommand: a program of the user gets a JSON object a line and gives a number
// or null a line; what goes wrong is named with what it wrote.
func TestCommand(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no sh")
	}
	got := ask(t, Config{Command: `while read -r l; do case "$l" in *'"prompt":"q","completion":"a<b","completion_ids":[0,0,0],"row":{"answer":7'*) echo 0.5;; *) echo null;; esac; done`}, `{"prompt":"q","answer":7}`, "a<b", "other")
	if got[0] != 0.5 || !math.IsNaN(got[1]) {
		t.Errorf("rewards %v", got)
	}
	for command, words := range map[string][2]string{
		"cat >/dev/null; echo no such thing >&2; exit 3": {"exit status 3", "no such thing"},
		"cat >/dev/null; echo 1":                         {"1 lines for 2 answers", ""},
		"cat >/dev/null; echo 1; echo good":              {`line 2 is "good"`, ""},
		"cat >/dev/null; echo 1; echo NaN":               {`line 2 is "NaN"`, ""},
		"sleep 20":                                       {"did not end within 0.2 seconds", ""},
	} {
		f, err := Config{Command: command, Timeout: 0.2}.Resolve().New("rewards[0]")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(command, "sleep") {
			if f, err = (Config{Command: command}).Resolve().New("rewards[0]"); err != nil {
				t.Fatal(err)
			}
		}
		begun := time.Now()
		_, err = f.Score(t.Context(), answers(t, `{}`, "a", "b"))
		if fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), words[0]) || !strings.Contains(fail.Hint(err), words[1]) {
			t.Errorf("%s: error %v, hint %q", command, err, fail.Hint(err))
		}
		if time.Since(begun) > 15*time.Second {
			t.Errorf("%s was waited for", command)
		}
	}
}

// TestBadRewards: what is no reward is named.
func TestBadRewards(t *testing.T) {
	for words, c := range map[string]Config{
		"a reward is one of":         {},
		"is one of exact":            {Exact: "a", Regex: "b"},
		"missing closing )":          {Regex: "("},
		"has no group":               {Exact: "a", Pattern: "b"},
		"pattern belongs to":         {Regex: "a", Pattern: "(b)"},
		"timeout belongs to command": {Regex: "a", Timeout: 3},
		"is no name of a tag":        {Tags: []string{"a b"}},
		"none within":                {Length: &Length{Min: 3, Max: 2}},
		"is not read":                {JSONSchema: `{"$ref":"https://example.com/x"}`},
		"not valid":                  {JSONSchema: `{"type":"thing"}`},
	} {
		err := c.Check("rewards[0]")
		if fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), words) {
			t.Errorf("%+v: error %v, want %q", c, err, words)
		}
	}
	f, err := Config{Numeric: "anser"}.Resolve().New("rewards[0]")
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Score(t.Context(), answers(t, `{"answer":1,"prompt":"q"}`, "1"))
	if fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), `no column "anser"`) || !strings.Contains(fail.Hint(err), "answer, prompt") {
		t.Errorf("error %v, hint %q", err, fail.Hint(err))
	}
}
