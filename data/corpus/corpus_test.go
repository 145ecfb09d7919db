package corpus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"
)

// TestTextVariety checks that documents are repeatable, short, different from
// each other and of every kind.
func TestTextVariety(t *testing.T) {
	const n = 5000
	seen, byKind := map[string]int{}, map[string]int{}
	for i := range n {
		kind, doc := textOf(7, i)
		if doc != Text(7, i) {
			t.Fatalf("document %d is not repeatable", i)
		}
		if len(doc) < 20 || len(doc) > 800 || doc != strings.TrimSpace(doc) {
			t.Errorf("document %d (%s) has %d bytes or spaces around it: %q", i, kind, len(doc), doc)
		}
		seen[doc]++
		byKind[kind]++
	}
	if len(seen) < n*995/1000 {
		t.Errorf("%d different documents of %d", len(seen), n)
	}
	for _, k := range kinds {
		if got := float64(byKind[k.name]) / n * 100; got < float64(k.share)*0.7 || got > float64(k.share)*1.3 {
			t.Errorf("%s: %.1f %% of documents, share is %d %%", k.name, got, k.share)
		}
	}
	if Text(7, 3) == Text(8, 3) {
		t.Error("two seeds give the same document")
	}
}

// TestTextIsNotChat: a base trained on the text must not know the task's form.
func TestTextIsNotChat(t *testing.T) {
	for i := range 3000 {
		doc := Text(1, i)
		for _, s := range []string{"<|", "please.", " as JSON", "Convert ", "Sort ", "How many ", "Tell me", "role"} {
			if strings.Contains(doc, s) {
				t.Fatalf("document %d holds %q: %s", i, s, doc)
			}
		}
	}
}

func TestSharesAddUp(t *testing.T) {
	sum := 0
	for _, k := range kinds {
		sum += k.share
	}
	if sum != 100 {
		t.Errorf("text shares add to %d", sum)
	}
	sum = 0
	for _, k := range tasks {
		sum += k.share
	}
	if sum != 100 {
		t.Errorf("task shares add to %d", sum)
	}
}

// TestTaskDisjoint counts prompts and what they ask about over both parts and
// several seeds.
func TestTaskDisjoint(t *testing.T) {
	trained := map[string]bool{}
	asked := map[string]bool{}
	for seed := range uint64(3) {
		rows := Task(seed, 3000, Train)
		own := map[string]bool{}
		for _, r := range rows {
			if own[r.Messages[0].Content] {
				t.Fatalf("prompt twice: %s", r.Messages[0].Content)
			}
			own[r.Messages[0].Content] = true
			trained[r.Messages[0].Content] = true
			asked[r.Kind+subject(r)] = true
		}
	}
	held := Task(99, 1000, HeldOut)
	for _, r := range held {
		if trained[r.Messages[0].Content] {
			t.Errorf("held-out prompt is trained on: %s", r.Messages[0].Content)
		}
		if asked[r.Kind+subject(r)] {
			t.Errorf("held-out %s is trained on in other words: %s", r.Kind, r.Messages[0].Content)
		}
	}
	if len(held) != 1000 {
		t.Errorf("%d held-out rows", len(held))
	}
}

var (
	reField  = regexp.MustCompile(`([a-z]+): ([^;\n]+)`)
	reDate   = regexp.MustCompile(`\d{4}-\d\d-\d\d|\d+/\d+/\d{4}|\d+ [A-Z][a-z]+ \d{4}`)
	reAmount = regexp.MustCompile(`(\d+) ([a-z]+)`)
	reNumber = regexp.MustCompile(`\d+`)
)

// subject is what a row asks about, whatever its words, found from the text.
func subject(r Row) string {
	text := r.Messages[0].Content
	switch r.Kind {
	case "json", "pick":
		m := reField.FindAllString(text, -1)
		slices.Sort(m)
		return strings.Join(m, ";")
	case "date":
		return parseDate(reDate.FindString(text)).Format("2006-01-02")
	case "unit":
		return reAmount.FindString(text) + r.Messages[1].Content
	}
	m := reNumber.FindAllString(text, -1)
	slices.Sort(m)
	return strings.Join(m, ",")
}

func parseDate(s string) time.Time {
	for _, layout := range []string{"2006-01-02", "2/1/2006", "2 January 2006"} {
		if d, err := time.Parse(layout, s); err == nil {
			return d
		}
	}
	panic("no date: " + s)
}

// TestTaskAnswers checks every answer against the prompt's text alone.
func TestTaskAnswers(t *testing.T) {
	byKind := map[string]int{}
	for _, r := range append(Task(1, 2000, Train), Task(1, 500, HeldOut)...) {
		byKind[r.Kind]++
		if len(r.Messages) != 2 || r.Messages[0].Role != "user" || r.Messages[1].Role != "assistant" {
			t.Fatalf("roles: %+v", r)
		}
		prompt, answer := r.Messages[0].Content, r.Messages[1].Content
		if want, err := solve(r.Kind, prompt); err != nil || want != answer {
			t.Errorf("%s\n%s\nanswer %q, want %q (%v)", r.Kind, prompt, answer, want, err)
		}
	}
	for _, k := range tasks {
		if byKind[k.kind] < 50 {
			t.Errorf("only %d rows of %s", byKind[k.kind], k.kind)
		}
	}
}

// solve answers a prompt by reading it, sharing nothing with the generator but
// the names of fields that are numbers.
func solve(kind, prompt string) (string, error) {
	switch kind {
	case "json", "pick":
		return solveRecord(kind, prompt)
	case "date":
		d := parseDate(reDate.FindString(prompt))
		for name, layout := range map[string]string{"ISO form": "2006-01-02", "short form": "2/1/2006", "long form": "2 January 2006"} {
			if strings.Contains(prompt, name) {
				return d.Format(layout), nil
			}
		}
	case "unit":
		return solveUnit(prompt)
	case "sort":
		var n []int
		for _, s := range reNumber.FindAllString(prompt, -1) {
			var v int
			fmt.Sscan(s, &v)
			n = append(n, v)
		}
		slices.Sort(n)
		return strings.Join(strings.Fields(strings.Trim(fmt.Sprint(n), "[]")), ", "), nil
	}
	return "", fmt.Errorf("no answer")
}

func solveRecord(kind, prompt string) (string, error) {
	fields := map[string]string{}
	for _, m := range reField.FindAllStringSubmatch(prompt, -1) {
		fields[m[1]] = m[2]
	}
	// The request is the line that is not part of the record.
	for _, re := range []string{`^Write (.*) as JSON\.`, `^Make JSON with (.*) from this record:`, `\nJSON with (.*), please\.$`,
		`^What is the (.*)\?`, `^Tell me the (.*) in this record:`, `\nWhich (.*)\?$`} {
		m := regexp.MustCompile(re).FindStringSubmatch(prompt)
		if m == nil {
			continue
		}
		if kind == "pick" {
			return fields[m[1]], nil
		}
		numbers := map[string]bool{"price": true, "count": true, "room": true, "year": true, "age": true}
		var out []string
		for _, k := range strings.Split(m[1], ", ") {
			v := any(fields[k])
			if numbers[k] {
				v = json.Number(fields[k])
			}
			b, err := json.Marshal(v)
			if err != nil {
				return "", err
			}
			out = append(out, fmt.Sprintf("%q: %s", k, b))
		}
		return "{" + strings.Join(out, ", ") + "}", nil
	}
	return "", fmt.Errorf("no request")
}

func solveUnit(prompt string) (string, error) {
	m := reAmount.FindStringSubmatch(prompt)
	var n int
	fmt.Sscan(m[1], &n)
	var to string
	for _, re := range []string{` to ([a-z]+)\.$`, `^How many ([a-z]+) are`, ` in ([a-z]+), please\.$`} {
		if t := regexp.MustCompile(re).FindStringSubmatch(prompt); t != nil {
			to = t[1]
		}
	}
	base := map[string]float64{"km": 1e6, "m": 1e3, "cm": 10, "mm": 1, "t": 1e9, "kg": 1e6, "g": 1e3, "mg": 1,
		"l": 1000, "ml": 1, "h": 3600, "min": 60, "s": 1}
	return fmt.Sprintf("%.0f %s", float64(n)*base[m[2]]/base[to], to), nil
}

func TestWriters(t *testing.T) {
	rows := Task(5, 50, Train)
	var a, b, lines bytes.Buffer
	if err := WriteParquet(&a, rows); err != nil {
		t.Fatal(err)
	}
	if err := WriteParquet(&b, rows); err != nil || !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Errorf("the same rows give other bytes (%v)", err)
	}
	got, err := parquet.Read[Row](bytes.NewReader(a.Bytes()), int64(a.Len()))
	if err != nil || fmt.Sprint(got) != fmt.Sprint(rows) {
		t.Errorf("Parquet reads back other rows (%v)", err)
	}
	if err := WriteJSONL(&lines, rows); err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(&lines)
	for i := range rows {
		var r Row
		if err := dec.Decode(&r); err != nil || fmt.Sprint(r) != fmt.Sprint(rows[i]) {
			t.Fatalf("line %d: %v, %v", i+1, r, err)
		}
	}
}

// TestManyRows: kinds that run out of payloads give way to records.
func TestManyRows(t *testing.T) {
	if got := len(Task(1, 20000, HeldOut)); got != 20000 {
		t.Errorf("%d rows", got)
	}
}
