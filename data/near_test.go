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
	"github.com/tunekit/tunekit/data/minhash"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/par"
)

// problems are rows of GSM8K as question and answer.
func problems(t testing.TB, n int) (out [][2]string) {
	raw, err := os.ReadFile(filepath.Join(testdir.Shared(t, "gsm8k"), "train.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		var r struct{ Question, Answer string }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if out = append(out, [2]string{r.Question, r.Answer}); len(out) == n {
			break
		}
	}
	return out
}

// changed replaces a word of a text.
func changed(s string, r *rand.Rand) string {
	words := strings.Fields(s)
	words[r.IntN(len(words))] = "another"
	return strings.Join(words, " ")
}

func messages(q, a string) any {
	return map[string]any{"messages": []any{
		map[string]string{"role": "system", "content": "You solve problems of arithmetic. Think step by step, and give the number last, after four marks of number."},
		map[string]string{"role": "user", "content": q}, map[string]string{"role": "assistant", "content": a}}}
}

// TestNearDuplicates: rows of real text of which copies with a changed word stand
// behind them. What is dropped is what comparing every row with all that were kept
// finds, but for those that share no band; the same for any number of threads, and
// in memory or in files.
func TestNearDuplicates(t *testing.T) {
	tok, tmpl := sharedTokenizer(t, "qwen3"), templateFor(t, "qwen3")
	r := rand.New(rand.NewPCG(1, 2))
	texts := problems(t, 200)
	for i := range 100 {
		p := texts[i]
		for range i % 4 {
			p[0] = changed(p[0], r)
		}
		texts = append(texts, p)
	}
	var rows []any
	for _, p := range texts {
		rows = append(rows, messages(p[0], p[1]))
	}
	in := jsonlFile(t, rows...)
	o := Options{Datasets: []Source{{Path: in}}, ValSetSize: "0", Dedup: "near", DedupThreshold: 0.7}
	_, want := ingestOne(t, o, tok, tmpl)

	h := minhash.New(5, 128)
	var kept []minhash.Signature
	brute := 0
	for i, p := range texts {
		sig := h.Sign(minhash.Text{Words: minhash.AppendWords(minhash.AppendWords(nil, p[0]), p[1])})
		if slices.ContainsFunc(kept, func(k minhash.Signature) bool { return minhash.Similarity(sig, k) >= 0.7 }) && !(i >= 200 && i%4 == 0) {
			brute++
		} else if !(i >= 200 && i%4 == 0) { // equal rows are duplicates
			kept = append(kept, sig)
		}
	}
	if want.Duplicates != 25 || want.Dropped["duplicate"] != 25 || want.Dropped["near_duplicate"] != want.NearDuplicates {
		t.Errorf("%d duplicates, %v", want.Duplicates, want.Dropped)
	}
	if n := int(want.NearDuplicates); n > brute || float64(n) < 0.95*float64(brute) || n < 50 {
		t.Errorf("%d near duplicates; comparing all with all finds %d", n, brute)
	}
	if len(want.Near) != maxBad || want.Near[0].Other.Row != want.Near[0].Row-200 || want.Near[0].Similarity < 0.7 {
		t.Errorf("the first is %+v", want.Near[0])
	}

	defer func(n int) { heldVector = n }(heldVector)
	defer par.SetThreads(par.Threads())
	for _, threads := range []int{1, 5} {
		par.SetThreads(threads)
		heldVector, o.Beside = 100, filepath.Join(t.TempDir(), "tokens")
		if _, got := ingestOne(t, o, tok, tmpl); !reflect.DeepEqual(got, want) {
			t.Errorf("%d threads, in files: another report", threads)
		}
	}
	o.DedupAction = "count"
	_, got := ingestOne(t, o, tok, tmpl)
	if got.NearDuplicates != want.NearDuplicates || got.Kept != 300 || len(got.Dropped) > 0 {
		t.Errorf("counted only: %d near duplicates, %d kept, dropped %v", got.NearDuplicates, got.Kept, got.Dropped)
	}
	o.DedupAction, o.Dedup = "", "exact"
	if _, got := ingestOne(t, o, tok, tmpl); got.Kept != 275 || got.NearDuplicates != 0 {
		t.Errorf("exact: %d kept, %d near duplicates", got.Kept, got.NearDuplicates)
	}
}

func templateFor(t *testing.T, name string) *chat.Template {
	t.Helper()
	tmpl, err := chat.FromTokenizer(sharedTokenizer(t, name), chat.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return tmpl
}

// TestNotNear: rows that look alike and are not: sums, wanted and unwanted answers,
// chosen and rejected turned round, tool calls, system texts, rows without words.
func TestNotNear(t *testing.T) {
	tok, tmpl := sharedTokenizer(t, "qwen3"), templateFor(t, "qwen3")
	call := func(city string) any {
		return map[string]any{"messages": []any{map[string]any{"role": "user", "content": "Weather?"},
			map[string]any{"role": "assistant", "content": "", "tool_calls": []any{map[string]any{"type": "function", "function": map[string]any{"name": "weather", "arguments": map[string]any{"city": city}}}}}}}
	}
	long := strings.Repeat("the same long beginning of a question that all of these rows have ", 3)
	for name, c := range map[string]struct {
		rows []any
		near int64
	}{
		"sums":        {[]any{messages("3 + 4?", "7"), messages("3 - 4?", "7")}, 0},
		"labels":      {[]any{map[string]any{"prompt": "Say a word.", "completion": "Hello, there you are.", "label": true}, map[string]any{"prompt": "Say a word.", "completion": "Hello, there you are!", "label": false}}, 0},
		"same label":  {[]any{map[string]any{"prompt": "Say a word.", "completion": "Hello, there you are.", "label": false}, map[string]any{"prompt": "Say a word.", "completion": "Hello, there you are!", "label": false}}, 1},
		"turned":      {[]any{map[string]any{"prompt": "Q", "chosen": "one two three four five", "rejected": "six seven eight nine ten"}, map[string]any{"prompt": "Q", "rejected": "one two three four five", "chosen": "six seven eight nine ten"}}, 0},
		"calls":       {[]any{call("Rome"), call("Oslo")}, 0},
		"marks":       {[]any{map[string]any{"text": "... ... !!"}, map[string]any{"text": "?! . ; : ?"}}, 0},
		"punctuation": {[]any{map[string]any{"text": long + "One, two."}, map[string]any{"text": long + "one two"}}, 1},
		"tokens":      {[]any{map[string]any{"input_ids": []int{1, 2, 3, 4, 5, 6}}, map[string]any{"input_ids": []int{1, 2, 3, 4, 6, 5}}}, 0},
		"system only": {[]any{messages("What is it?", "A house."), messages("What was that?", "Nothing at all.")}, 0},
		"chinese":     {[]any{map[string]any{"text": strings.Repeat("天气很好我们去公园散步吧", 1) + "然后回家吃饭休息睡觉"}, map[string]any{"text": "天气很好我们去公园散步吧然后回家吃饭休息睡觉。"}}, 1},
	} {
		_, rep := ingestOne(t, Options{Datasets: []Source{{Path: jsonlFile(t, c.rows...)}}, ValSetSize: "0", Dedup: "near", TrainOnEOS: "none"}, tok, tmpl)
		if rep.NearDuplicates != c.near || rep.Duplicates != 0 {
			t.Errorf("%s: %d near duplicates, %d duplicates; want %d and 0", name, rep.NearDuplicates, rep.Duplicates, c.near)
		}
	}
}

// TestDecontaminate: training rows that stand in the evaluation, as they are or
// nearly, are counted or dropped; of its own rows nothing is.
func TestDecontaminate(t *testing.T) {
	tok, tmpl := sharedTokenizer(t, "qwen3"), templateFor(t, "qwen3")
	r := rand.New(rand.NewPCG(3, 4))
	all := problems(t, 130)
	row := func(p [2]string) any { return messages(p[0], p[1]) }
	var train, val, against []any
	for i, p := range all {
		switch {
		case i < 100:
			train = append(train, row(p))
		case i < 115:
			val = append(val, row(p))
		default: // a benchmark has columns of its own
			against = append(against, map[string]any{"instruction": p[0], "output": p[1]})
		}
	}
	train = append(train, row(all[100]), row(all[101]), row(all[120]))
	near := all[102]
	near[1] = changed(near[1], r)
	other := all[121]
	other[0] = changed(other[0], r)
	train = append(train, row(near), row(other))
	o := Options{Datasets: []Source{{Path: jsonlFile(t, train...)}}, ValDatasets: []Source{{Path: jsonlFile(t, val...)}},
		DecontaminateAgainst: []Source{{Path: jsonlFile(t, against...)}}}
	for _, c := range []struct {
		how, action         string
		exact, near, kept   int64
		dropped, valSamples int64
	}{
		// without a system text the row of the benchmark has other tokens than ours, though the same words
		{"", "", 2, 0, 120, 0, 15},
		{"exact", "drop", 2, 0, 118, 2, 15},
		{"near", "drop", 2, 3, 115, 5, 15},
		{"near", "count", 2, 3, 120, 0, 15},
	} {
		o.Decontaminate, o.DedupAction = c.how, c.action
		d, rep, err := Ingest(context.Background(), o, tok, tmpl, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := []int64{rep.Overlap, rep.NearOverlap, rep.Kept, rep.Dropped["in_evaluation"], int64(d.Val.Len()), rep.Compared}
		if want := []int64{c.exact, c.near, c.kept, c.dropped, c.valSamples, 15}; !slices.Equal(got, want) {
			t.Errorf("%q %q: overlap, near, kept, dropped, held back, compared are %v; want %v", c.how, c.action, got, want)
		}
		if rep.Rows != rep.Kept+rep.Truncated+rep.Split+rep.Compared+rep.Dropped["in_evaluation"] || int64(d.Train.Len()) != rep.Kept-15 {
			t.Errorf("%q: %d rows, %d to train on, of %+v", c.how, rep.Rows, d.Train.Len(), rep.Dropped)
		}
		bars := samplesIn(rep.Lengths)
		tokens, learned := rep.Sources[0].Tokens+rep.Sources[1].Tokens, rep.Sources[0].Supervised+rep.Sources[1].Supervised
		if bars != rep.Kept || tokens != rep.TrainTokens+rep.ValTokens || learned != rep.TrainSupervised+rep.ValSupervised {
			t.Errorf("%q: bars of %d rows, %d kept; %d tokens, %d learned, of the data sets; %d and %d in all", c.how, bars, rep.Kept, tokens, learned, rep.TrainTokens+rep.ValTokens, rep.TrainSupervised+rep.ValSupervised)
		}
		if c.near > 0 && (len(rep.NearHeld) != 3 || rep.NearHeld[1].Row != 104) {
			t.Errorf("%q: near are %v", c.how, rep.NearHeld)
		}
	}
	// a part of what is held back by hash, of rows that are split into several samples
	var rows []any
	for i := range 60 {
		words := make([]int, 30)
		for k := range words {
			words[k] = 1 + (i*31+k*7)%90
		}
		rows = append(rows, map[string]any{"input_ids": words}, map[string]any{"input_ids": append(words[:28:28], 95, 96)})
	}
	s := Options{Datasets: []Source{{Path: jsonlFile(t, rows...)}}, ValSetSize: "20", MaxLength: 12, Overflow: "split", Vocab: 99, Decontaminate: "near", DedupThreshold: 0.6}
	d, rep := ingestOne(t, s, nil, nil)
	if src := rep.Sources[0]; src.Tokens != rep.TrainTokens+rep.ValTokens || rep.Lengths[0].Samples != rep.Split {
		t.Errorf("%d tokens of the data set, %d in all; %d rows in bars, %d kept", src.Tokens, rep.TrainTokens+rep.ValTokens, rep.Lengths[0].Samples, rep.Split)
	}
	if rep.NearOverlap == 0 || rep.Dropped["in_evaluation"] != rep.NearOverlap || int64(d.Train.Len()) != 3*(rep.Split-20) {
		t.Errorf("%d near, dropped %v, %d samples to train on of %d split rows", rep.NearOverlap, rep.Dropped, d.Train.Len(), rep.Split)
	}
}

// TestDecontaminateAnswers: of rows with two answers, or with one that is labelled, each
// is looked for in the evaluation by itself, whichever side has them; pairs are near
// duplicates only as a whole.
func TestDecontaminateAnswers(t *testing.T) {
	tok, tmpl := sharedTokenizer(t, "qwen3"), templateFor(t, "qwen3")
	all := problems(t, 100)
	r := rand.New(rand.NewPCG(7, 8))
	completion := func(p [2]string) any { return map[string]any{"prompt": p[0], "completion": p[1]} }
	pair := func(q, chosen, rejected string) any {
		return map[string]any{"prompt": q, "chosen": chosen, "rejected": rejected}
	}
	var plain, changes, pairs, turned, near, labels []any
	for i, p := range all[:20] {
		wrong := all[60+i][1]
		q := [2]string{changed(p[0], r), p[1]}
		plain, changes = append(plain, completion(p)), append(changes, completion(q))
		pairs, turned = append(pairs, pair(p[0], p[1], wrong)), append(turned, pair(p[0], wrong, p[1]))
		near = append(near, pair(q[0], q[1], wrong))
		labels = append(labels, map[string]any{"prompt": p[0], "completion": p[1], "label": i%2 == 0})
	}
	var clean []any
	for i, p := range all[20:40] {
		clean = append(clean, pair(p[0], p[1], all[80+i][1]))
	}
	cleanSFT := completion(all[50])
	cleanLabel := map[string]any{"prompt": all[51][0], "completion": all[51][1], "label": true}
	for name, c := range map[string]struct {
		train, against []any
		how            string
		exact, near    int64
	}{
		"chosen":            {append(slices.Clone(clean), pairs...), plain, "exact", 20, 0},
		"rejected":          {append(slices.Clone(clean), turned...), plain, "exact", 20, 0},
		"labels":            {append([]any{cleanLabel}, labels...), plain, "exact", 20, 0},
		"of pairs":          {append([]any{cleanSFT}, plain...), pairs, "exact", 20, 0},
		"pairs":             {append(slices.Clone(clean), pairs...), turned, "exact", 20, 0},
		"near":              {append(slices.Clone(clean), near...), plain, "near", 0, 20},
		"near, of pairs":    {append([]any{cleanSFT}, changes...), turned, "near", 0, 20},
		"near, of unwanted": {append(slices.Clone(clean), near...), labels, "near", 0, 20},
		"near, equal":       {append(slices.Clone(clean), pairs...), plain, "near", 20, 0},
	} {
		for _, dedup := range []string{"none", "near"} {
			o := Options{Datasets: []Source{{Path: jsonlFile(t, c.train...)}}, DecontaminateAgainst: []Source{{Path: jsonlFile(t, c.against...)}}, ValSetSize: "0", Decontaminate: c.how, Dedup: dedup, DedupThreshold: 0.5, MaxLength: 4096}
			d, rep, err := Ingest(context.Background(), o, tok, tmpl, nil)
			if err != nil {
				t.Fatal(err)
			}
			left := len(c.train) - 20
			if rep.Overlap != c.exact || rep.NearOverlap != c.near || rep.Dropped["in_evaluation"] != 20 || rep.NearDuplicates != 0 || rep.Kept != int64(left) || d.Train.Len() < left || samplesIn(rep.Lengths) != int64(d.Train.Len()) {
				t.Errorf("%s, dedup %s: %d equal, %d near, %d near duplicates, dropped %v, %d kept; want %d, %d, %d", name, dedup, rep.Overlap, rep.NearOverlap, rep.NearDuplicates, rep.Dropped, rep.Kept, c.exact, c.near, left)
			}
		}
	}
}

func samplesIn(bars []Bin) (n int64) {
	for _, b := range bars {
		n += b.Samples
	}
	return n
}

// TestOutliersOfPairs: a row of two answers is listed with the tokens, and the learned
// ones, of the longer.
func TestOutliersOfPairs(t *testing.T) {
	row := map[string]any{"prompt": "Count!", "chosen": strings.Repeat(" one", 50), "rejected": strings.Repeat(" two", 49)}
	_, rep := ingestOne(t, Options{Datasets: []Source{{Path: jsonlFile(t, row)}}, ValSetSize: "0"}, sharedTokenizer(t, "qwen3"), nil)
	for _, list := range [][]Outlier{rep.Longer, rep.LeastSay} {
		if len(list) != 1 || list[0].Tokens != rep.Longest || list[0].Supervised < 50 || list[0].Supervised > list[0].Tokens {
			t.Errorf("%+v, of %d tokens", list, rep.Longest)
		}
	}
}

// TestNearIndex: a table of many signatures finds what comparing all with all finds,
// also where a thousand of them share bands.
func TestNearIndex(t *testing.T) {
	o := &Options{DedupNgram: 1, DedupNumPerm: 64}
	s := newSignatures(o, "")
	x := newNearIndex(s, 0.9)
	r := rand.New(rand.NewPCG(5, 6))
	words := func() (out []uint64) {
		for range 40 {
			out = append(out, r.Uint64())
		}
		return out
	}
	found, want := 0, 0
	base := words()
	for i := range 4000 {
		w := words()
		if i%4 == 0 {
			copy(w, base[:20]) // half alike
		}
		sig := s.of.Sign(minhash.Text{Words: w})
		if _, _, ok := x.find(sig); ok {
			t.Fatalf("row %d is like another", i)
		}
		x.add(s.add(sig, RowRef{"f", int64(i + 1)}))
		w[3] = 1
		want++
		if row, sim, ok := x.find(s.of.Sign(minhash.Text{Words: w})); ok && s.ref(row).Row == int64(i+1) && sim >= 0.9 {
			found++
		}
	}
	if float64(found) < 0.7*float64(want) { // a similarity of 39/41, estimated with an error of 0.03
		t.Errorf("%d of %d are found", found, want)
	}
}

// TestScripts: the script of a text, and rows of another one than most.
func TestScripts(t *testing.T) {
	for text, want := range map[string]string{
		"Hello, мир": "Latin", "привет, x": "Cyrillic", "漢字だけではない": "Japanese", "汉字汉字": "Han", "カタカナ": "Japanese", "안녕하세요": "Hangul",
		"12 + 3 = 15": noScript, "": noScript, "مرحبا": "Arabic", "ᏣᎳᎩ": otherScript, "ሰላም": "Ethiopic",
	} {
		if got := scriptOf([]sample{{text: &text}}); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
	var rows []any
	for i := range 100 {
		rows = append(rows, map[string]any{"text": fmt.Sprint("English text number ", i)})
	}
	rows[40] = map[string]any{"text": "Это написано по-русски"}
	_, rep := ingestOne(t, Options{Datasets: []Source{{Path: jsonlFile(t, rows...)}}, ValSetSize: "0"}, sharedTokenizer(t, "qwen3"), nil)
	if out := rep.Outliers(); len(out) != 1 || out[0].Script != "Cyrillic" || out[0].Rows != 1 || out[0].First[0].Row != 41 {
		t.Errorf("outliers %+v of %+v", out, rep.Scripts)
	}
}

// TestTablesWithoutDropped: a row that decontamination takes out is not named as one of those that are trained on.
func TestTablesWithoutDropped(t *testing.T) {
	tok := sharedTokenizer(t, "qwen3")
	long, other := strings.Repeat("a long row of many words ", 30), "это строка на другом языке"
	list := []any{map[string]any{"text": long}, map[string]any{"text": other}}
	for i := range 120 {
		list = append(list, map[string]any{"text": fmt.Sprintf("row %d of few words", i)})
	}
	list = append(list, map[string]any{"text": "a row of some more words than the others have in them"})
	o := Options{Datasets: []Source{{Path: jsonlFile(t, list...)}}, ValSetSize: "0", MaxLength: 1000}
	_, r := ingestOne(t, o, tok, nil)
	if r.LongestAt.Row != 1 || len(r.Longer) != shownRows || len(r.Outliers()) != 1 {
		t.Fatalf("%+v", r)
	}
	o.DecontaminateAgainst, o.Decontaminate = []Source{{Path: jsonlFile(t, list[:2]...)}}, "exact"
	_, r, err := Ingest(t.Context(), o, tok, nil, nil)
	if err != nil || r.Overlap != 2 || r.LongestAt.Row != int64(len(list)) || len(r.Longer) != shownRows || len(r.LeastSay) != shownRows || len(r.Outliers()) != 0 {
		t.Errorf("overlap %d, longest %v, longer %v, least %v, outliers %v", r.Overlap, r.LongestAt, r.Longer, r.LeastSay, r.Outliers())
	}
	for _, o := range append(r.Longer, r.LeastSay...) {
		if o.Row <= 2 {
			t.Errorf("row %d is named", o.Row)
		}
	}
}
