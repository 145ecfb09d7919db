package data

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/rows"
)

// FuzzCache: any bytes in a folder of samples give samples within the vocabulary,
// or an error.
func FuzzCache(f *testing.F) {
	dir := filepath.Join(f.TempDir(), "d")
	d := &Dataset{Key: "k", Vocab: 100, MaxLength: 8, Train: InMemory(Example{ID: 1, IDs: []int32{1, 2, 3}, Loss: [][2]int32{{1, 3}}}, Example{ID: 2, IDs: []int32{9}}), Val: InMemory(Example{ID: 3, IDs: []int32{5, 5}})}
	if err := d.SaveArrow(dir); err != nil {
		f.Fatal(err)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	f.Add(read("dataset.json"), read("train.arrow"), read("val.arrow"))
	f.Add(read("dataset.json"), read("val.arrow"), read("train.arrow"))
	f.Fuzz(func(t *testing.T, info, train, val []byte) {
		for name, b := range map[string][]byte{"dataset.json": info, "train.arrow": train, "val.arrow": val} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		d, err := LoadArrow(dir)
		if err != nil {
			return
		}
		defer d.Close()
		for _, ex := range []Examples{d.Train, d.Val} {
			for i := range ex.Len() {
				e, err := ex.At(i)
				if err != nil {
					continue
				}
				for _, id := range e.IDs {
					if id < 0 || int(id) >= d.Vocab {
						t.Fatalf("id %d of %d", id, d.Vocab)
					}
				}
			}
		}
	})
}

// FuzzRow: any JSON object is a sample whose learned ranges lie within its tokens, or a
// bad row.
func FuzzRow(f *testing.F) {
	for _, s := range []string{
		`{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a","weight":0},{"role":"user","content":[{"type":"text","text":"r"}]},{"role":"assistant","content":"<think>b</think>c"}]}`,
		`{"conversations":{"from":["human","gpt"],"value":["q","a"]},"system":"s","chat_template_kwargs":{"x":1}}`,
		`{"instruction":"q","input":"i","output":"a","history":[["p","o"]]}`, `{"prompt":"p","completion":"c"}`, `{"text":"t"}`,
		`{"prompt":[{"role":"user","content":"q"}],"chosen":[{"role":"assistant","content":"a"}],"rejected":[{"role":"assistant","content":"b"}]}`,
		`{"input_ids":[5,6,7],"labels":[-100,6,7],"attention_mask":[1,1,0],"loss":[0,2]}`,
		`{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":"{\"x\": 1}"}}]}],"tools":"[{\"name\": \"f\"}]"}`,
		`{"messages":[{"role":"user","content":"q"},{"role":"assistant","reasoning_content":"r","content":"a"}]}`,
	} {
		f.Add([]byte(s))
	}
	text, _ := chat.Builtin("chatml")
	tmpl, err := chat.Parse(text, chat.Options{EOS: "<|im_end|>"})
	if err != nil {
		f.Fatal(err)
	}
	tok := sharedTokenizer(f, "qwen3")
	var ways []*ingest
	for _, reasoning := range []string{"keep", "mask", "drop"} {
		o := Options{Datasets: []Source{{Path: "x"}}, Reasoning: reasoning}
		if reasoning == "mask" {
			o.Dedup = "near"
		}
		if err := o.Fill(); err != nil {
			f.Fatal(err)
		}
		in := &ingest{o: &o, enc: newEncoding(&o, tok, tmpl)}
		if o.Dedup == "near" {
			in.sigs = newSignatures(&o, "")
		}
		ways = append(ways, in)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := rows.ParseJSON(b)
		row, ok := v.(*jinja.Dict)
		if err != nil || !ok {
			return
		}
		kind, err := detect("a.jsonl", nil, row, true)
		if err != nil {
			return
		}
		for _, in := range ways {
			got := in.tokenize(input{}, kind, rawRow{row: row})
			if got.err != nil {
				return // a bad row, which may have been changed
			}
			for _, e := range got.samples {
				end := int32(-1)
				for _, r := range e.loss {
					if r[0] <= end || r[0] >= r[1] || int(r[1]) > len(e.ids) {
						t.Fatalf("range %v of %d tokens", r, len(e.ids))
					}
					end = r[1]
				}
			}
		}
	})
}
