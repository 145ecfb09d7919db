package data

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/rows"
	"github.com/tunekit/tunekit/formats/fail"
)

// encodePair converts and encodes the two answers of a JSON row.
func encodePair(t *testing.T, row string) ([]encoded, error) {
	t.Helper()
	d := parseRow(t, []byte(row))
	if kind, err := detect("a.jsonl", nil, d, false); err != nil || kind != typePreference {
		t.Fatalf("%s: type %q, %v", row, kind, err)
	}
	samples, err := convertPreference(nil, d)
	if err != nil {
		return nil, err
	}
	o := Options{Datasets: []Source{{Path: "a.jsonl"}}}
	if err := o.Fill(); err != nil {
		t.Fatal(err)
	}
	e := newEncoding(&o, sharedTokenizer(t, "qwen3"), nil)
	e.tmpl = chatML{}
	out := make([]encoded, len(samples))
	for i, s := range samples {
		if out[i], err = e.encode(s); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// TestPreferenceForms: each of TRL's forms of a pair has the tokens and the
// supervision of two rows of prompt and completion.
func TestPreferenceForms(t *testing.T) {
	const u, sys = `{"role":"user","content":"q"}`, `{"role":"system","content":"S"}`
	say := func(s string) string { return `{"role":"assistant","content":"` + s + `"}` }
	chat := [2]string{`{"prompt":[` + u + `],"completion":[` + say("a") + `]}`, `{"prompt":[` + u + `],"completion":[` + say("b") + `]}`}
	long := [2]string{`{"prompt":[` + sys + `,` + u + `,` + say("x") + `,` + u + `],"completion":[` + say("a") + `]}`,
		`{"prompt":[` + sys + `,` + u + `,` + say("x") + `,` + u + `],"completion":[` + say("b") + `,` + u + `,` + say("c") + `]}`}
	text := [2]string{`{"prompt":"The sky is","completion":" blue."}`, `{"prompt":"The sky is","completion":" green."}`}
	for _, c := range []struct {
		row  string
		want [2]string
	}{
		{`{"prompt":"The sky is","chosen":" blue.","rejected":" green."}`, text},
		{`{"chosen":"The sky is blue.","rejected":"The sky is green."}`, text},
		{`{"prompt":null,"chosen":"The sky is blue.","rejected":"The sky is green."}`, text},
		{`{"prompt":"","chosen":"blue","rejected":"blau"}`, [2]string{`{"prompt":"","completion":"blue"}`, `{"prompt":"","completion":"blau"}`}},
		{`{"chosen":"ab","rejected":"abc"}`, [2]string{`{"prompt":"a","completion":"b"}`, `{"prompt":"a","completion":"bc"}`}},
		{`{"prompt":"q","chosen":"[{\"a\":1}]","rejected":"[]"}`, [2]string{`{"prompt":"q","completion":"[{\"a\":1}]"}`, `{"prompt":"q","completion":"[]"}`}},
		{`{"prompt":[` + u + `],"chosen":[` + say("a") + `],"rejected":[` + say("b") + `]}`, chat},
		{`{"chosen":[` + u + `,` + say("a") + `],"rejected":[` + u + `,` + say("b") + `]}`, chat},
		{`{"prompt":"q","chosen":[` + u + `,` + say("a") + `],"rejected":[` + u + `,` + say("b") + `]}`, chat},
		{`{"prompt":"q","chosen":[` + say("a") + `],"rejected":[` + say("b") + `]}`, chat},
		{`{"conversations":[{"from":"human","value":"q"}],"chosen":{"from":"gpt","value":"a"},"rejected":{"from":"gpt","value":"b"}}`, chat},
		{`{"prompt":[` + u + `],"chosen":[` + u + `,` + say("a") + `],"rejected":[` + u + `,` + say("b") + `]}`, chat},
		{`{"chosen":[` + sys + `,` + u + `,` + say("x") + `,` + u + `,` + say("a") + `],"rejected":[` + sys + `,` + u + `,` + say("x") + `,` + u + `,` + say("b") + `,` + u + `,` + say("c") + `]}`, long},
		{`{"prompt":[` + sys + `,` + u + `,` + say("x") + `,` + u + `],"chosen":[` + say("a") + `],"rejected":[` + say("b") + `,` + u + `,` + say("c") + `]}`, long},
	} {
		got, err := encodePair(t, c.row)
		if err != nil {
			t.Errorf("%s: %v", c.row, err)
			continue
		}
		for i := range got {
			_, want, err := chatRow(t, c.want[i], Options{Datasets: []Source{{Path: "a.jsonl"}}}, chatML{})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got[i].ids, want.ids) || !slices.Equal(got[i].loss, want.loss) {
				tok := sharedTokenizer(t, "qwen3")
				t.Errorf("%s: answer %d is %q learning %q, want %q learning %q", c.row, i, tok.Decode(got[i].ids, false), supervisedText(tok, got[i]),
					tok.Decode(want.ids, false), supervisedText(tok, want))
			}
		}
	}
}

// TestPreferenceErrors: what no pair can be made of is an error of the row.
func TestPreferenceErrors(t *testing.T) {
	for row, want := range map[string]string{
		`{"prompt":"q","chosen":"a","rejected":"a"}`:                                            "rejected: is the same as chosen",
		`{"prompt":"q","chosen":"a","rejected":""}`:                                             "rejected: is empty",
		`{"prompt":"q","chosen":"","rejected":"b"}`:                                             "chosen: is empty",
		`{"prompt":"q","chosen":"a","rejected":1}`:                                              "rejected: is a number",
		`{"prompt":"q","chosen":"a","rejected":[{"role":"assistant","content":"b"}]}`:           "chosen is text, rejected messages",
		`{"prompt":[{"role":"user","content":"q"}],"chosen":"a","rejected":"b"}`:                "prompt: is messages, the answers are text",
		`{"chosen":[{"role":"user","content":"q"}],"rejected":[{"role":"user","content":"r"}]}`: "no assistant message",
		`{"chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"rejected":[{"role":"user","content":"q"},{"role":"x","content":"r"}]}`: `role "x" is not known`,
	} {
		_, err := encodePair(t, row)
		var bad *rows.RowError
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", row, err, want)
		}
	}
}

// TestCommonText: TRL's rule, on characters.
func TestCommonText(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"The sky is blue.", "The sky is green.", 10}, {"ab", "abc", 1}, {"a", "b", 0}, {"", "x", 0}, {"é1", "é2", 2}, {"é", "è", 0}, {" a", " b", 0}, {"x y z", "x y q", 3},
	} {
		if got := commonText(c.a, c.b); got != c.want {
			t.Errorf("%q and %q have a prompt of %d bytes, want %d", c.a, c.b, got, c.want)
		}
	}
}

// TestFitPair: both answers or none.
func TestFitPair(t *testing.T) {
	row := func(n int32) encoded { return encoded{ids: make([]int32, n), loss: [][2]int32{{4, n}}} }
	for _, c := range []struct {
		a, b     int32
		overflow string
		parts    int
		all      int64
		kept     int64
	}{
		{8, 6, "drop", 2, 6, 6}, {8, 12, "drop", 0, 12, 0}, {12, 8, "drop", 0, 12, 0}, {12, 8, "truncate", 2, 12, 10}, {8, 8, "error", 2, 8, 8}, {12, 8, "error", 0, 12, 0},
	} {
		f := fitPair(RowRef{}, row(c.a), row(c.b), 10, c.overflow)
		if len(f.parts) != c.parts || f.all != c.all || f.kept != c.kept || f.together != (c.parts > 0) {
			t.Errorf("%d and %d tokens, %s: %+v", c.a, c.b, c.overflow, f)
		}
	}
	if fitPair(RowRef{}, row(8), row(6), 10, "drop").id == fitPair(RowRef{}, row(6), row(8), 10, "drop").id {
		t.Error("a pair and its reverse have one hash")
	}
}

// TestPreferenceIngest: pairs stay next to each other and in order through
// shuffling, weights, holding back, saving and loading, with a number of their own.
func TestPreferenceIngest(t *testing.T) {
	var lines []any
	for i := range 30 {
		lines = append(lines, map[string]any{"prompt": "row ", "chosen": fmt.Sprint(i, " good"), "rejected": fmt.Sprint(i, " bad and longer")})
	}
	tok := sharedTokenizer(t, "qwen3")
	o := Options{Datasets: []Source{{Path: jsonlFile(t, lines...), Weight: 2.5}}, ValSetSize: "5"}
	d, r := ingestOne(t, o, tok, nil)
	if r.Rows != 30 || r.Kept != 30 || r.Types[typePreference] != 30 || d.Val.Len() != 10 || d.Train.Len() < 2*50 || d.Train.Len() > 2*75 {
		t.Errorf("%d rows, %d kept, %v, samples %d and %d", r.Rows, r.Kept, r.Types, d.Train.Len(), d.Val.Len())
	}
	dir := filepath.Join(t.TempDir(), "saved")
	if err := d.SaveArrow(dir); err != nil {
		t.Fatal(err)
	}
	again, err := LoadArrow(dir)
	if err != nil {
		t.Fatal(err)
	}
	for what, ex := range map[string]Examples{"train": d.Train, "val": d.Val, "train again": again.Train, "val again": again.Val} {
		all, err := ex.Read(ex.Len())
		if err != nil {
			t.Fatal(err)
		}
		groups := map[uint32]bool{}
		for i := 0; i+1 < len(all); i += 2 {
			a, b := all[i], all[i+1]
			if a.Group == 0 || a.Group != b.Group || groups[a.Group] || a.From != b.From {
				t.Fatalf("%s: samples %d and %d are of groups %d and %d, rows %v and %v", what, i, i+1, a.Group, b.Group, a.From, b.From)
			}
			groups[a.Group] = true
			if x, y := tok.Decode(a.IDs, true), tok.Decode(b.IDs, true); !strings.HasSuffix(x, " good") || !strings.HasSuffix(y, " bad and longer") {
				t.Fatalf("%s: %q before %q", what, x, y)
			}
		}
		first, err := ex.Firsts().Read(ex.Len())
		if err != nil || len(first) != ex.Len()/2 {
			t.Fatalf("%s: %d first samples, %v", what, len(first), err)
		}
		for i, e := range first {
			if e.ID != all[2*i].ID || e.Group != 0 {
				t.Fatalf("%s: first sample %d is %+v", what, i, e)
			}
		}
	}
	single := InMemory(Example{ID: 1}, Example{ID: 2})
	if first := single.Firsts(); first.Len() != 2 || first.ID(1) != 2 {
		t.Errorf("of samples that stand alone %d are first", first.Len())
	}
}

// TestMarks: what a row says beside its answers reaches the samples, through the cache
// too, and calibration leaves unwanted answers out.
func TestMarks(t *testing.T) {
	const u = `[{"role":"user","content":"q"}]`
	file := func(lines ...string) string { return write(t, "rows.jsonl", strings.Join(lines, "\n")+"\n") }
	tmpl, err := chat.Parse(chatMLTemplate, chat.Options{EOS: "<|im_end|>"})
	if err != nil {
		t.Fatal(err)
	}
	single := file(`{"prompt":"q","completion":" a","label":true}`, `{"prompt":"q","completion":" a","label":false}`,
		`{"prompt":`+u+`,"completion":[{"role":"assistant","content":"b"}],"label":true}`)
	turns := file(`{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"x"},{"role":"user","content":"r"},{"role":"assistant","content":"y"}],"label":false}`)
	pairs := file(`{"prompt":"q","chosen":" a","rejected":" b","margin":1.5,"score_chosen":9,"score_rejected":2}`, `{"prompt":"q","chosen":" c","rejected":" d"}`)
	scored := Source{Path: pairs, Columns: map[string]string{"score_chosen": "score_chosen", "score_rejected": "score_rejected"}}
	for _, c := range []struct {
		sources []Source
		marks   []float32
		firsts  int
	}{
		{[]Source{{Path: single}}, []float32{Wanted, Unwanted, Wanted}, 2},
		{[]Source{{Path: turns}}, []float32{Unwanted}, 0},
		{[]Source{{Path: file(`{"prompt":"q","chosen":"a","rejected":"b","margin":10000000000000000000000}`)}}, []float32{1e22, 0}, 1},
		{[]Source{{Path: pairs}}, []float32{1.5, 0, 0, 0}, 2},
		{[]Source{scored, {Path: turns}}, []float32{7, 0, 0, 0, Unwanted}, 2},
	} {
		o := Options{Datasets: c.sources, ValSetSize: "0", Shuffle: new(bool), MaxLength: 100}
		d, _ := ingestOne(t, o, sharedTokenizer(t, "qwen3"), tmpl)
		cache := filepath.Join(t.TempDir(), "cache")
		if err := d.SaveArrow(cache); err != nil {
			t.Fatal(err)
		}
		again, err := LoadArrow(cache)
		if err != nil {
			t.Fatal(err)
		}
		for _, ex := range []Examples{d.Train, again.Train} {
			var marks []float32
			for i := range ex.Len() {
				e, err := ex.At(i)
				if err != nil || e.Mark != ex.Mark(i) {
					t.Fatalf("mark %v and %v, %v", e.Mark, ex.Mark(i), err)
				}
				marks = append(marks, e.Mark)
			}
			if !slices.Equal(marks, c.marks) || ex.Firsts().Len() != c.firsts {
				t.Errorf("%v: marks %v, want %v; %d for calibration, want %d", c.sources, marks, c.marks, ex.Firsts().Len(), c.firsts)
			}
		}
		d.Close()
	}
}

// TestMaxPromptLength: of longer prompts the last tokens stay, the answers whole, and
// rows are counted; other rows have no such prompt.
func TestMaxPromptLength(t *testing.T) {
	rows := []any{map[string]any{"prompt": "one two three four five six", "chosen": " a b", "rejected": " c"}, map[string]any{"prompt": "one", "chosen": " a", "rejected": " c"}}
	o := Options{Datasets: []Source{{Path: jsonlFile(t, rows...)}}, ValSetSize: "0", Shuffle: new(bool), MaxPromptLength: 3}
	tok := sharedTokenizer(t, "qwen3")
	d, r := ingestOne(t, o, tok, nil)
	all, err := d.Train.Read(4)
	if err != nil || r.PromptsCut != 1 || len(all) != 4 {
		t.Fatalf("%d prompts cut, %d samples, %v", r.PromptsCut, len(all), err)
	}
	if got := tok.Decode(all[0].IDs, true); got != " four five six a b" || all[0].Loss[0][0] != 3 {
		t.Errorf("%q, learned from %d", got, all[0].Loss[0][0])
	}
	if got := tok.Decode(all[3].IDs, true); got != "one c" {
		t.Errorf("%q", got)
	}
	o.Datasets[0].Path = jsonlFile(t, map[string]any{"text": "a b c"})
	if _, _, err := Ingest(t.Context(), o, tok, nil, nil); fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), "max_prompt_length") {
		t.Errorf("of plain text: %v", err)
	}
}

// TestLabelErrors: labels and margins that say nothing.
func TestLabelErrors(t *testing.T) {
	tok := sharedTokenizer(t, "qwen3")
	for row, want := range map[string]string{
		`{"prompt":"q","completion":"a","label":2}`:                  "label: is 2, neither true nor false",
		`{"prompt":"q","completion":"a","label":"yes"}`:              `label: is the text "yes", neither true nor false`,
		`{"prompt":"q","completion":"","label":true}`:                "completion: is empty",
		`{"messages":[{"role":"user","content":"q"}],"label":true}`:  "assistant",
		`{"prompt":"q","chosen":"a","rejected":"b","margin":"wide"}`: `margin: is the text "wide", not a number`,
		`{"prompt":"q","chosen":"a","rejected":"a","margin":1}`:      "rejected: is the same as chosen",
	} {
		_, _, err := Ingest(t.Context(), Options{Datasets: []Source{{Path: write(t, "rows.jsonl", row+"\n"), Type: typePreference}}}, tok, nil, nil)
		if fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", row, err, want)
		}
	}
	o := Options{Datasets: []Source{{Path: write(t, "rows.jsonl", `{"prompt":"q","chosen":"a","rejected":"b"}`+"\n"), Columns: map[string]string{"score_chosen": "x"}}}}
	if _, _, err := Ingest(t.Context(), o, tok, nil, nil); fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), "a margin is one column") {
		t.Errorf("one score: %v", err)
	}
	o = Options{Datasets: []Source{{Path: jsonlFile(t, map[string]any{"prompt": "q", "chosen": "a", "rejected": "a"}, map[string]any{"prompt": "q", "chosen": "a", "rejected": "b"})}}, BadRows: "drop", ValSetSize: "0"}
	if _, r := ingestOne(t, o, tok, nil); r.Dropped["equal_answers"] != 1 || r.Kept != 1 {
		t.Errorf("%+v", r)
	}
}
