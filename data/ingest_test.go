package data

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
)

func ingestOne(t *testing.T, o Options, tok *tokenizer.Tokenizer, tmpl *chat.Template) (*Dataset, *Report) {
	t.Helper()
	d, r, err := Ingest(context.Background(), o, tok, tmpl, nil)
	if err != nil {
		t.Fatal(err)
	}
	var dropped int64
	for _, n := range r.Dropped {
		dropped += n
	}
	if r.Rows != r.Kept+r.Truncated+r.Split+dropped {
		t.Errorf("%d rows, but %d kept, %d truncated, %d split, %d dropped", r.Rows, r.Kept, r.Truncated, r.Split, dropped)
	}
	return d, r
}

// jsonlFile writes values as JSON lines.
func jsonlFile(t *testing.T, rows ...any) string {
	t.Helper()
	var b strings.Builder
	for _, r := range rows {
		j, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(j, '\n'))
	}
	return write(t, "rows.jsonl", b.String())
}

var no = false

// TestTextGolden compares with TRL's preparation of plain text and of prompt
// and completion, by four tokenizers. TRL joins prompt and completion before
// tokenizing; where a token straddles the seam (prompts that end in a space)
// ours keeps the prompt's own tokens instead, as inference has them.
func TestTextGolden(t *testing.T) {
	var inputs struct {
		Text             []struct{ Text string }
		PromptCompletion []struct{ Prompt, Completion string } `json:"prompt_completion"`
	}
	readGolden(t, "train/sft/inputs.json", &inputs)
	for _, name := range []string{"qwen3", "llama3", "llama2", "gemma3"} {
		tok := sharedTokenizer(t, name)
		enc := newEncoding(&Options{TrainOn: "assistant", TrainOnEOS: "turn"}, tok, nil)
		all := newEncoding(&Options{TrainOn: "all", TrainOnEOS: "turn"}, tok, nil)
		in := &ingest{o: &Options{MaxLength: 48, Overflow: "truncate"}, report: newReport(&Options{})}
		seams := 0
		for _, g := range sftRows(t, "text-"+name) {
			e := enc
			if g.Mode == "all" {
				e = all
			}
			s := sample{text: &inputs.Text[g.Row].Text}
			if g.Type == "prompt_completion" {
				s = sample{plain: true, prompt: inputs.PromptCompletion[g.Row].Prompt, completion: inputs.PromptCompletion[g.Row].Completion}
			}
			got, err := e.encode(s)
			if err != nil {
				t.Errorf("%s %s row %d: %v", name, g.Type, g.Row, err)
				continue
			}
			if got.note == noteSeam {
				seams++
				if prompt := s.prompt; !strings.HasSuffix(prompt, " ") && !strings.HasSuffix(prompt, "\n") {
					t.Errorf("%s row %d: a seam after %q", name, g.Row, prompt)
				}
				continue
			}
			label := fmt.Sprintf("%s %s %s row %d max %d", name, g.Type, g.Mode, g.Row, g.MaxLength)
			if g.MaxLength == 0 {
				if !slices.Equal(got.ids, g.InputIDs) || !reflect.DeepEqual(got.loss, g.Supervised) {
					t.Errorf("%s:\n got %v %v\nwant %v %v", label, got.ids, got.loss, g.InputIDs, g.Supervised)
				}
				continue
			}
			ex := fit(RowRef{}, got, in.o.MaxLength, in.o.Overflow).parts
			if g.Dropped != (len(ex) == 0) {
				t.Errorf("%s: %d samples, dropped is %v", label, len(ex), g.Dropped)
			} else if !g.Dropped && (len(ex[0].IDs) != g.Length || !reflect.DeepEqual(ex[0].Loss, g.Supervised)) {
				t.Errorf("%s: %d tokens %v, want %d %v", label, len(ex[0].IDs), ex[0].Loss, g.Length, g.Supervised)
			}
		}
		t.Logf("%s: %d cases with a token over the seam", name, seams)
	}
}

type sftRow struct {
	Type       string
	Row        int
	Mode       string
	MaxLength  int        `json:"max_length"`
	InputIDs   []int32    `json:"input_ids"`
	Supervised [][2]int32 `json:"supervised"`
	Length     int
	Dropped    bool
	Text       string
	TextError  string `json:"text_error"`
	All        *sftMode
	Assistant  *sftMode
	Completion *sftMode
}

type sftMode struct {
	Supervised [][2]int32
	InputIDs   []int32 `json:"input_ids"`
	Error      string
}

// sftRows reads a .jsonl.gz of golden/train/sft.
func sftRows(t *testing.T, name string) []sftRow {
	t.Helper()
	raw := testdir.ReadFile(t, filepath.Join(testdir.Shared(t, "golden/train/sft"), name+".jsonl"))
	var out []sftRow
	for _, line := range strings.Split(strings.TrimSpace(string(raw)), "\n") {
		var r sftRow
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%s: %v\n%.200s", name, err, line)
		}
		out = append(out, r)
	}
	return out
}

func TestSeamKeepsThePrompt(t *testing.T) {
	for _, name := range []string{"qwen3", "llama3", "llama2", "gemma3"} {
		tok := sharedTokenizer(t, name)
		e := newEncoding(&Options{TrainOn: "assistant", TrainOnEOS: "turn"}, tok, nil)
		got, err := e.prompt("Q: two plus two\nA: ", "Natalia sold")
		if err != nil {
			t.Fatal(err)
		}
		start := got.loss[0][0]
		if head := tok.Encode("Q: two plus two\nA: ", true); !slices.Equal(got.ids[:start], head) {
			t.Errorf("%s: prompt %v, alone %v", name, got.ids[:start], head)
		}
		if text := tok.Decode(got.ids, true); strings.Join(strings.Fields(text), " ") != "Q: two plus two A: Natalia sold" {
			t.Errorf("%s: reads %q", name, text)
		}
		if got.ids[len(got.ids)-1] != tok.EOS() || got.loss[0][1] != int32(len(got.ids)) {
			t.Errorf("%s: EOS is not supervised: %v of %d", name, got.loss, len(got.ids))
		}
	}
}

func tokenRows(n, length int) []any {
	var rows []any
	for i := range n {
		ids := make([]int, length)
		for k := range ids {
			ids[k] = 1 + (i*7+k*k)%50
		}
		ids[0], ids[1] = i%50+1, i/50+1
		rows = append(rows, map[string]any{"input_ids": ids})
	}
	return rows
}

func TestOverflow(t *testing.T) {
	rows := append(tokenRows(4, 10), tokenRows(1, 25)...)
	labels := make([]int, 30)
	for i := range labels {
		labels[i] = -100
	}
	tail := map[string]any{"input_ids": make([]int, 30), "labels": labels} // supervised at its end only
	labels[29] = 0
	rows = append(rows, tail)
	path := jsonlFile(t, rows...)
	o := Options{Datasets: []Source{{Path: path}}, MaxLength: 12, ValSetSize: "0", Vocab: 99, Shuffle: &no}

	_, r, err := Ingest(context.Background(), o, nil, nil, nil)
	want := "2 of 6 rows are longer than max_length 12 (first: " + path + " row 5, 25 tokens; 0 over 1k, 0 over 2k, 0 over 4k, 0 over 8k)"
	if fail.Code(err) != int(fail.Input) || err.Error() != want || r.Longest != 30 {
		t.Errorf("error %v\n want %s, longest %d", err, want, r.Longest)
	}
	// Of 4·9 + 24 + 1 supervised tokens, 13 and 1 lie beyond 12 tokens.
	if h := fail.Hint(err); h != "overflow: drop loses 33.3 % of rows, truncate 23.0 % of supervised tokens; max_length: 256 keeps all" {
		t.Errorf("hint %s", h)
	}
	for _, c := range []struct {
		overflow                                 string
		samples                                  int
		kept, truncated, split, long, none, lost int64
	}{
		{"drop", 4, 4, 0, 0, 2, 0, 25},
		{"truncate", 5, 4, 1, 0, 0, 1, 14},
		{"split", 7, 4, 0, 2, 0, 0, 2}, // 25 = 12 + 12 + 1, whose single token has none before it
	} {
		o.Overflow = c.overflow
		d, r := ingestOne(t, o, nil, nil)
		got := []int64{int64(d.Train.Len()), r.Kept, r.Truncated, r.Split, r.Dropped["too_long"], r.Dropped["no_supervised_token"], r.LostSupervised}
		if fmt.Sprint(got) != fmt.Sprint([]int64{int64(c.samples), c.kept, c.truncated, c.split, c.long, c.none, c.lost}) {
			t.Errorf("%s: %v, want %v", c.overflow, got, c)
		}
		for _, e := range readAll(t, d.Train) {
			if len(e.IDs) > 12 || e.Supervised() == 0 || e.ID != contentID(e.IDs, e.Loss) {
				t.Errorf("%s: sample %v %v", c.overflow, e.IDs, e.Loss)
			}
		}
	}
}

// TestHeldBack: the split does not depend on the order of rows, copies stay on
// one side, and seeds do not move it.
func TestHeldBack(t *testing.T) {
	rows := tokenRows(200, 8)
	rows = append(rows, rows[:50]...) // copies
	shuffled := slices.Clone(rows)
	rand.New(rand.NewPCG(3, 4)).Shuffle(len(rows), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	ids := func(rows []any, o Options) ([]uint64, *Report) {
		o.Datasets, o.Vocab = []Source{{Path: jsonlFile(t, rows...)}}, 99
		d, r := ingestOne(t, o, nil, nil)
		var val []uint64
		for _, e := range readAll(t, d.Val) {
			val = append(val, e.ID)
		}
		for _, e := range readAll(t, d.Train) {
			if slices.Contains(val, e.ID) {
				t.Error("a held-back row is trained on")
			}
		}
		slices.Sort(val)
		return val, r
	}
	a, r := ids(rows, Options{ValSetSize: "20%"})
	b, _ := ids(shuffled, Options{ValSetSize: "20%", Seed: 9})
	if !slices.Equal(a, b) {
		t.Error("the order of rows changes the split")
	}
	if len(a) < 50 || len(a) > 51 || r.Duplicates != 50 || r.Overlap != 0 {
		t.Errorf("%d held back, %d duplicates, overlap %d", len(a), r.Duplicates, r.Overlap)
	}
	for size, want := range map[string]int{"": 13, "0": 0, "0.1": 25, "7": 7, " 2.5 % ": 6} {
		got, _ := ids(rows, Options{ValSetSize: size})
		if len(got) < want || len(got) > want+1 {
			t.Errorf("val_set_size %q holds %d rows back, want %d", size, len(got), want)
		}
	}
	for _, size := range []string{"x", "-1", "1.5", "100%", "250"} {
		o := Options{Datasets: []Source{{Path: jsonlFile(t, rows...)}}, Vocab: 99, ValSetSize: size}
		if _, _, err := Ingest(context.Background(), o, nil, nil, nil); fail.Code(err) != int(fail.Usage) {
			t.Errorf("val_set_size %q: %v", size, err)
		}
	}
}

func TestDedupWeightAndParts(t *testing.T) {
	rows := tokenRows(100, 8)
	path := jsonlFile(t, append(rows, rows[:10]...)...)
	other := jsonlFile(t, rows[95:]...)
	d, r := ingestOne(t, Options{Datasets: []Source{{Path: path}}, Vocab: 99, Dedup: "exact", ValSetSize: "0"}, nil, nil)
	if d.Train.Len() != 100 || r.Dropped["duplicate"] != 10 || r.Duplicates != 10 {
		t.Errorf("dedup: %d samples, report %+v", d.Train.Len(), r)
	}
	d, r = ingestOne(t, Options{Datasets: []Source{{Path: path, MaxSamples: 100, Weight: 2.5}}, ValDatasets: []Source{{Path: other}}, Vocab: 99}, nil, nil)
	if d.Val.Len() != 5 || r.Overlap != 5 || r.Rows != 105 {
		t.Errorf("val_datasets: %d held back, overlap %d, %d rows", d.Val.Len(), r.Overlap, r.Rows)
	}
	if n := d.Train.Len(); n < 230 || n > 270 || r.Repeated != int64(n-100) {
		t.Errorf("weight 2.5: %d samples of 100, %d repeated", n, r.Repeated)
	}
	d, r = ingestOne(t, Options{Datasets: []Source{{Path: path, MaxSamples: 100, Weight: 0.25}}, Vocab: 99, ValSetSize: "0"}, nil, nil)
	if n := d.Train.Len(); n < 10 || n > 40 || r.Skipped != int64(100-n) {
		t.Errorf("weight 0.25: %d samples, %d skipped", n, r.Skipped)
	}
}

func TestShuffleAndKey(t *testing.T) {
	path := jsonlFile(t, tokenRows(50, 8)...)
	order := func(o Options) string {
		o.Datasets, o.Vocab, o.ValSetSize = []Source{{Path: path}}, 99, "0"
		d, _ := ingestOne(t, o, nil, nil)
		var rows []string
		for _, e := range readAll(t, d.Train) {
			rows = append(rows, fmt.Sprint(e.From.Row))
		}
		return strings.Join(rows, " ") + d.Key[:0]
	}
	if s := order(Options{Shuffle: &no}); !strings.HasPrefix(s, "1 2 3 4 5") || !strings.HasSuffix(s, "49 50") {
		t.Errorf("shuffle: false gives %s", s)
	}
	one, again := order(Options{Seed: 1}), order(Options{Seed: 1})
	if one == order(Options{Seed: 2}) || one != again {
		t.Error("order does not follow the seed")
	}
	keyOf := func(o Options) string {
		if err := o.Fill(); err != nil {
			t.Fatal(err)
		}
		inputs, _, err := resolve(&o, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer hashes(context.Background(), inputs, nil)()
		k, err := key(&o, inputs, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	base := Options{Datasets: []Source{{Path: path}}}
	copied := write(t, "elsewhere.jsonl", readString(t, path))
	same := base
	same.Datasets = []Source{{Path: copied}}
	same.Packing, same.MaxLength = "none", 2048
	if keyOf(base) != keyOf(same) {
		t.Error("another place or packing changes the key")
	}
	for name, change := range map[string]func(*Options){
		"max_length": func(o *Options) { o.MaxLength = 100 }, "train_on": func(o *Options) { o.TrainOn = "last" },
		"seed": func(o *Options) { o.Seed = 7 }, "val": func(o *Options) { o.ValSetSize = "1" },
		"columns": func(o *Options) { o.Datasets = []Source{{Path: path, Columns: map[string]string{"text": "x"}}} },
		"file":    func(o *Options) { o.Datasets = []Source{{Path: jsonlFile(t, tokenRows(51, 8)...)}} },
	} {
		o := base
		change(&o)
		if keyOf(o) == keyOf(base) {
			t.Errorf("%s does not change the key", name)
		}
	}
}

func readString(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestRowErrors: each kind of bad row names file, row and reason.
func TestRowErrors(t *testing.T) {
	tok := sharedTokenizer(t, "llama2")
	good := `{"input_ids":[1,2,3]}`
	for _, c := range []struct{ kind, row, want string }{
		{"", `{"input_ids":[1,2],"labels":[1,3]}`, "column labels: element 1 is 3: neither -100 nor the token 2"},
		{"", `{"input_ids":[1,2],"labels":[1]}`, "1 labels for 2 input_ids"},
		{"", `{"input_ids":[1,2],"labels":[-100,-100]}`, "no supervised token"},
		{"", `{"input_ids":[1,2],"labels":[1,-100]}`, "no supervised token"},
		{"", `{"input_ids":[]}`, "is empty"},
		{"", `{"input_ids":[1,"a"]}`, `element 1 is the text "a", not a whole number`},
		{"", `{"input_ids":[1,5000000000]}`, "element 1 is 5000000000"},
		{"", `{"input_ids":"x"}`, "is text, not a list of numbers"},
		{"", `{"input_ids":[1,2],"attention_mask":[0,0]}`, "masks every token out"},
		{"", `{"input_ids":[1,2],"labels":[-100,2],"attention_mask":[1,0]}`, "supervised and masked out"},
		{"text", `{"text":7}`, "column text: is a number, not text"},
		{"text", `{"text":""}`, "column text: is empty"},
		{"text", `{"text":"<s>Hello"}`, "begins with two BOS"},
		{"text", `{"text":`, "not JSON"},
		{"prompt_completion", `{"prompt":"a","completion":[]}`, "both must be"},
		{"prompt_completion", `{"prompt":"a"}`, "completion: is null"},
	} {
		first := map[string]string{"": good, "text": `{"text":"x y z"}`, "prompt_completion": `{"prompt":"a","completion":"b"}`}[c.kind]
		path := write(t, "a.jsonl", first+"\n"+c.row+"\n"+first+"\n"+strings.Replace(first, "x y", "y x", 1)+"\n")
		o := Options{Datasets: []Source{{Path: path, Type: c.kind}}, ValSetSize: "0"}
		_, r, err := Ingest(context.Background(), o, tok, nil, nil)
		if err == nil || !strings.Contains(err.Error(), path+" row 2: ") || !strings.Contains(err.Error(), c.want) || fail.Code(err) != int(fail.Input) {
			t.Errorf("%s: %v (code %d), want row 2: %q", c.row, err, fail.Code(err), c.want)
			continue
		}
		if len(r.Bad) != 1 || r.Bad[0].Row != 2 {
			t.Errorf("%s: report lists %v", c.row, r.Bad)
		}
		o.BadRows = "drop"
		told := 0
		o.OnBad = func(BadRow) { told++ }
		d, r := ingestOne(t, o, tok, nil)
		if d.Train.Len() != 3 || r.Dropped["bad_row"]+r.Dropped["no_supervised_token"] != 1 || told != 1 {
			t.Errorf("%s dropped: %d samples, %v, told %d", c.row, d.Train.Len(), r.Dropped, told)
		}
	}
}

func TestSetErrors(t *testing.T) {
	tok := sharedTokenizer(t, "qwen3")
	text, tokens := `{"text":"hello"}`, `{"input_ids":[1,2,3]}`
	for _, c := range []struct {
		row  string
		o    Options
		tok  *tokenizer.Tokenizer
		kind fail.Kind
		want string
		hint string
	}{
		{`{"q":"a","a":"b","id":1}`, Options{}, tok, fail.Input, "columns [q, a, id] fit no dataset type", "type: prompt_completion with columns: {prompt: q, completion: a}"},
		{`{"conv":[{"role":"user","content":"x"}]}`, Options{}, tok, fail.Input, "fit no dataset type", "columns: {messages: conv}"},
		{`{"body":"x"}`, Options{}, tok, fail.Input, "fit no dataset type", "columns: {text: body}"},
		{`{"prompt":"a","chosen":"b","rejected":"c"}`, Options{Overflow: "split"}, tok, fail.Usage, "overflow: split would part the answers", "truncate"},
		{`{"prompt":"a","chosen":"b","rejected":"c"}`, Options{TrainOn: "all"}, tok, fail.Usage, "train_on: all would compare prompts", "leave train_on out"},
		{`{"messages":[{"role":"user","content":"x"}],"label":true}`, Options{}, tok, fail.Input, "assistant", ""},
		{`{"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y"}]}`, Options{}, tok, fail.Input, "no chat template", "chat_template"},
		{text, Options{}, nil, fail.Usage, "there is no tokenizer", ""},
		{tokens, Options{Vocab: 3}, nil, fail.Input, "row 1: token id 3, the model has 3: the tokenizer does not match the model", ""},
		{text, Options{Vocab: 100}, tok, fail.Input, "the tokenizer does not match the model", ""},
		{text, Options{Overflow: "cut"}, tok, fail.Usage, `ingest.overflow: found "cut"`, "truncate"},
		{text, Options{MaxLength: 4096, Context: 2048}, tok, fail.Usage, "more than the model's context of 2048", "max_length: 2048"},
		{"", Options{}, tok, fail.Input, "no row to train on", ""},
	} {
		c.o.Datasets = []Source{{Path: write(t, "a.jsonl", c.row+"\n")}}
		_, _, err := Ingest(context.Background(), c.o, c.tok, nil, nil)
		if fail.Code(err) != int(c.kind) || !strings.Contains(err.Error(), c.want) || !strings.Contains(fail.Hint(err), c.hint) {
			t.Errorf("%s:\n got %v (code %d, hint %q)\nwant %q (code %d, hint %q)", c.row, err, fail.Code(err), fail.Hint(err), c.want, c.kind, c.hint)
		}
	}
	for want, s := range map[string]Source{
		"without path": {}, "type \"chatml\"": {Path: "x", Type: "chatml"}, "unknown name": {Path: "x", Columns: map[string]string{"msgs": "y"}},
		"weight": {Path: "x", Weight: -1}, "no such file": {Path: "nothing.jsonl"},
	} {
		if _, _, err := Ingest(context.Background(), Options{Datasets: []Source{s}}, tok, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := Ingest(ctx, Options{Datasets: []Source{{Path: jsonlFile(t, tokenRows(5, 5)...)}}}, nil, nil, nil); err == nil {
		t.Error("a cancelled context is ignored")
	}
}

// TestManyBadRows lists the first 20 and counts the rest.
func TestManyBadRows(t *testing.T) {
	var b strings.Builder
	for i := range 1500 {
		if i%10 == 9 {
			b.WriteString("{\"input_ids\":[]}\n")
		} else {
			fmt.Fprintf(&b, "{\"input_ids\":[1,2,%d]}\n", i)
		}
	}
	path := write(t, "a.jsonl", b.String())
	_, r, err := Ingest(context.Background(), Options{Datasets: []Source{{Path: path}}}, nil, nil, nil)
	if err == nil || !strings.Contains(err.Error(), path+" row 10: column input_ids: is empty (and 149 more bad rows of 1,500)") {
		t.Errorf("error %v", err)
	}
	if len(r.Bad) != 20 || r.Dropped["bad_row"] != 150 || r.Bad[19].Row != 200 {
		t.Errorf("report lists %d, counts %d", len(r.Bad), r.Dropped["bad_row"])
	}
	if l := r.Line(); !strings.Contains(l, "150 bad row") || !strings.Contains(r.Bad[19].Error(), "column input_ids") {
		t.Errorf("line %q, last bad row %v", l, r.Bad[19])
	}
}

// TestGSM8K: the columns of a real file, named by the user.
func TestGSM8K(t *testing.T) {
	path := testdir.Shared(t, "gsm8k/test.jsonl")
	tok := sharedTokenizer(t, "qwen3")
	o := Options{Datasets: []Source{{Path: path, Columns: map[string]string{"prompt": "question", "completion": "answer"}}}}
	d, r := ingestOne(t, o, tok, nil)
	if r.Rows != 1319 || r.Kept != 1319 || r.Types["prompt_completion"] != 1319 || d.Val.Len() != 66 || d.Train.Len() != 1253 {
		t.Errorf("%+v", r)
	}
	for _, e := range readAll(t, d.Train) {
		last := e.Loss[len(e.Loss)-1]
		if int(last[1]) != len(e.IDs) || e.IDs[last[1]-1] != tok.EOS() {
			t.Fatalf("%s: EOS is not supervised", e.From)
		}
	}
}

func TestShow(t *testing.T) {
	tok := sharedTokenizer(t, "qwen3")
	e := newEncoding(&Options{TrainOn: "assistant", TrainOnEOS: "turn"}, tok, nil)
	got, err := e.prompt("What?\n", " Yes\x1b[2J")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	ex := Example{IDs: got.ids, Loss: got.loss, From: RowRef{"a.jsonl", 3}}
	if err := Show(&b, &ex, tok, false); err != nil {
		t.Fatal(err)
	}
	if want := "a.jsonl row 3 · 7 tokens, 5 supervised\nWhat?\n⟦ Yes\\x1b[2J<|im_end|>⟧\n"; b.String() != want {
		t.Errorf("got %q\nwant %q", b.String(), want)
	}
}

func TestAnswer(t *testing.T) {
	e := Example{IDs: []int32{1, 2, 3, 4, 5}, Loss: [][2]int32{{1, 2}, {3, 5}}}
	p, a := e.Answer()
	if !slices.Equal(p, []int32{1, 2, 3}) || !slices.Equal(a, []int32{4, 5}) {
		t.Errorf("prompt %v, answer %v", p, a)
	}
	other := Example{IDs: []int32{1, 2, 3, 9}, Loss: [][2]int32{{3, 4}}}
	far := Example{IDs: []int32{7, 8, 9}, Loss: [][2]int32{{1, 3}}}
	if n, err := SharedPrompts(InMemory(other, far, other, Example{IDs: []int32{5}}), InMemory(far), InMemory(e, e)); n != 3 || err != nil {
		t.Errorf("%d shared prompts (%v)", n, err)
	}
}
