package data

import (
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/formats/fail"
)

const withTools = "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

// TestSystemAndTools: a system text and tools reach the template from every type of rows that has
// messages, and where they cannot the report says so.
func TestSystemAndTools(t *testing.T) {
	tok := sharedTokenizer(t, "qwen3")
	tmpl, err := chat.Parse(withTools, chat.Options{EOS: "<|im_end|>"})
	if err != nil {
		t.Fatal(err)
	}
	const tools = `"tools":[{"type":"function","function":{"name":"look"}}]`
	const both = "<tools>[{\"type\": \"function\", \"function\": {\"name\": \"look\"}}]</tools><|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
	for row, want := range map[string]string{
		`{"system":"S",` + tools + `,"instruction":"a","output":"b"}`:                                                                                both,
		`{"system":"S",` + tools + `,"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}`:                                 both,
		`{"system":"S",` + tools + `,"prompt":[{"role":"user","content":"a"}],"completion":[{"role":"assistant","content":"b"}]}`:                    both,
		`{"system":"S",` + tools + `,"prompt":[{"role":"user","content":"a"}],"completion":[{"role":"assistant","content":"b"}],"label":true}`:       both,
		`{"system":"S",` + tools + `,"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"label":true}`:                    both,
		`{"system":"S",` + tools + `,"prompt":"a","chosen":[{"role":"assistant","content":"b"}],"rejected":[{"role":"assistant","content":"c"}]}`:    both,
		`{"system":"S","messages":[{"role":"system","content":"S"},{"role":"user","content":"a"},{"role":"assistant","content":"b"}],` + tools + `}`: both,
	} {
		o := Options{Datasets: []Source{{Path: write(t, "rows.jsonl", row+"\n")}}, ValSetSize: "0"}
		d, r := ingestOne(t, o, tok, tmpl)
		if got := tok.Decode(readAll(t, d.Train)[0].IDs, false); got != want {
			t.Errorf("%s:\n%q, want\n%q", row, got, want)
		}
		if len(r.Notes) > 0 {
			t.Errorf("%s: notes %q", row, r.Notes)
		}
	}
	for row, want := range map[string]string{
		`{"system":"T","messages":[{"role":"system","content":"S"},{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}`: "the column system says",
		`{"system":"T","prompt":"a b","completion":" c"}`:                "the column system is lost",
		`{"history":[["q","r"]],"prompt":"a b","completion":" c"}`:       "the column history is lost",
		`{` + tools + `,"prompt":"a b","completion":" c","label":false}`: "the column tools is lost",
		`{"system":"T","prompt":"a b","chosen":" c","rejected":" d"}`:    "the column system is lost",
	} {
		o := Options{Datasets: []Source{{Path: write(t, "rows.jsonl", row+"\n"+row+"\n")}}, ValSetSize: "0"}
		_, r := ingestOne(t, o, tok, tmpl)
		if !strings.Contains(strings.Join(r.Notes, "\n"), want) || !strings.HasPrefix(strings.Join(r.Notes, "\n"), "2 rows: ") {
			t.Errorf("%s: notes %q, want %q", row, r.Notes, want)
		}
	}
}

// TestLabelsHeard: an answer that its row calls unwanted is never learned because of how the label is written.
func TestLabelsHeard(t *testing.T) {
	tok := sharedTokenizer(t, "qwen3")
	tmpl, err := chat.Parse(withTools, chat.Options{EOS: "<|im_end|>"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, rows, want string }{
		{"a.csv", "prompt,completion,label\na,b,True\nc,d,False\n", ""},
		{"a.jsonl", `{"prompt":"a","completion":"b","label":"false"}` + "\n", ""},
		{"a.csv", "prompt,completion,label\na,b,1\nc,d,0\n", `row 2: column label: is the text "1"`},
		{"a.csv", "prompt,completion,label\na,b, True\nc,d,False \n", ""},
		{"a.csv", "prompt,completion,label\na,b,\nc,d,0.0\n", `row 3: column label: is the text "0.0"`},
		{"a.csv", "prompt,completion,label\na,b,\nc,d,False \n", `row 3: column label: is the text "False "`},
		{"a.csv", "prompt,completion,label\na,b,no\n", `row 2: column label: is the text "no"`},
		{"a.jsonl", `{"prompt":"a","completion":"b","label":0.0}` + "\n", "row 1: column label: is 0.0"},
		{"a.jsonl", `{"prompt":"a","completion":"b","label":-1}` + "\n", "type: preference with labels of true and false or 1 and 0 heeds it"},
		{"a.jsonl", `{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"label":-1.0}` + "\n", "row 1: column label: is -1"},
		{"a.jsonl", `{"instruction":"a","output":"b","label":[0]}` + "\n", "row 1: column label: is a list"},
		{"a.jsonl", `{"prompt":"a","completion":"b","label":0}` + "\n", "row 1: column label: is 0"},
		{"a.jsonl", `{"prompt":"a","completion":"b"}` + "\n" + `{"prompt":"a","completion":"c","label":false}` + "\n", "row 2: column label: is false"},
		{"a.jsonl", `{"instruction":"a","output":"b","label":false}` + "\n", "row 1: column label: is false"},
	} {
		o := Options{Datasets: []Source{{Path: write(t, c.name, c.rows)}}, ValSetSize: "0"}
		_, r, err := Ingest(t.Context(), o, tok, tmpl, nil)
		if c.want == "" && (err != nil || r.Types[typePreference] != int64(strings.Count(c.rows, "alse")+strings.Count(c.rows, "True"))) {
			t.Errorf("%s: %v, %v", c.rows, err, r.Types)
		}
		if c.want != "" && (fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.rows, err, c.want)
		}
		if c.want != "" { // and with a type there is nothing to ask
			o.Datasets[0].Type = r.Files[0].Type
			if _, _, err := Ingest(t.Context(), o, tok, tmpl, nil); err != nil {
				t.Errorf("%s as %s: %v", c.rows, o.Datasets[0].Type, err)
			}
		}
	}
	// what the refusal of instruct rows advises is heeded
	o := Options{Datasets: []Source{{Path: write(t, "a.csv", "instruction,output,label\na,b,1.0\nc,d,0.0\n")}}, ValSetSize: "0"}
	if _, _, err := Ingest(t.Context(), o, tok, tmpl, nil); err == nil || !strings.Contains(err.Error(), "type: preference with columns: {prompt: instruction, completion: output} heeds it") {
		t.Errorf("instruct rows: %v", err)
	}
	o.Datasets[0].Type, o.Datasets[0].Columns = typePreference, map[string]string{"prompt": "instruction", "completion": "output"}
	d, _ := ingestOne(t, o, tok, nil)
	var marks []float32
	for _, e := range readAll(t, d.Train) {
		marks = append(marks, e.Mark)
	}
	if !slices.Equal(marks, []float32{Wanted, Unwanted}) && !slices.Equal(marks, []float32{Unwanted, Wanted}) {
		t.Errorf("marks %v", marks)
	}
}

// TestEmptyMargins: an empty cell is no margin, and one score alone makes none.
func TestEmptyMargins(t *testing.T) {
	tok := sharedTokenizer(t, "qwen3")
	o := Options{Datasets: []Source{{Path: write(t, "a.csv", "prompt,chosen,rejected,margin\nq,a,b,\nq,c,d, 2\n")}}, ValSetSize: "0"}
	d, _ := ingestOne(t, o, tok, nil)
	sum := float32(0)
	for _, e := range readAll(t, d.Train) {
		sum += e.Mark
	}
	if d.Train.Len() != 4 || sum != 2 {
		t.Errorf("%d samples with margins of %v", d.Train.Len(), sum)
	}
	o.Datasets[0] = Source{Path: write(t, "b.csv", "prompt,chosen,rejected,a,b\nq,a,b,,\nq,c,d,,3\n"), Columns: map[string]string{"score_chosen": "a", "score_rejected": "b"}}
	if _, _, err := Ingest(t.Context(), o, tok, nil, nil); fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), "row 3: column a: and b make a margin together") {
		t.Errorf("one score: %v", err)
	}
}

// TestColumnsMet: the name of a column that is not there, or that the type of rows does not have, is an error,
// and a column without a name, as pandas writes its index, is none of ours.
func TestColumnsMet(t *testing.T) {
	tok := sharedTokenizer(t, "qwen3")
	for _, c := range []struct{ rows, ours, theirs, want string }{
		{`{"instruction":"a","inp":"x","output":"b"}`, "input", "imp", "columns: input is imp, and no row has a column of this name"},
		{`{"instruction":"a","output":"b"}` + "\n" + `{"instruction":"a","inp":"x","output":"b"}`, "input", "inp", ""},
		{`{"instruction":"a","x":{"inp":"x"},"output":"b"}`, "input", "x.inp", ""},
		{`{"input_ids":[1,2]}`, "attention_mask", "mask", "attention_mask is mask"},
		{`{"meta":{"system":"s"},"instruction":"a","output":"b"}`, "system", "meta.sistem", "columns: system is meta.sistem, and no row has a column of this name"},
		{`{"meta":{"system":null},"instruction":"a","output":"b"}`, "system", "meta.system", ""},
		{`{"text":"a"}`, "system", "text", "columns: system is text, and rows of type text have no system"},
	} {
		o := Options{Datasets: []Source{{Path: write(t, "rows.jsonl", c.rows+"\n"), Columns: map[string]string{c.ours: c.theirs}}}, ValSetSize: "0"}
		_, _, err := Ingest(t.Context(), o, tok, nil, nil)
		if c.want == "" && err != nil || c.want != "" && (fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.rows, err, c.want)
		}
	}
	o := Options{Datasets: []Source{{Path: write(t, "rows.csv", ",instruction,output\n0,a,b\n")}}, ValSetSize: "0"}
	if _, r := ingestOne(t, o, tok, nil); r.Types[typeInstruct] != 1 {
		t.Errorf("types %v", r.Types)
	}
}
