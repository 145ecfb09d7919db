package data

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/jinja"
)

// A message that says whether it is learned is heard, whatever the field's name;
// what cannot be done is a bad row that names the field.
func TestMessagesSayWhatIsLearned(t *testing.T) {
	tok := sharedTokenizer(t, "qwen3")
	two := func(first, second string) string {
		return `{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"old"` + first + `},{"role":"user","content":"r"},{"role":"assistant","content":"new"` + second + `}]}`
	}
	user := func(field string) string {
		return `{"messages":[{"role":"user","content":"q"` + field + `},{"role":"assistant","content":"new"}]}`
	}
	for _, c := range []struct{ row, trainOn, want, bad string }{
		{two(`,"weight":0`, `,"weight":1`), "", "new<|im_end|>", ""},
		{two(`,"weight":0.0`, `,"weight":1.0`), "", "new<|im_end|>", ""},
		{two(`,"train":false`, ``), "", "new<|im_end|>", ""},
		{two(`,"training":false`, `,"training":true`), "", "new<|im_end|>", ""},
		{two(`,"loss":false`, `,"loss":true`), "", "new<|im_end|>", ""},
		{two(`,"loss_mask":0`, `,"loss_mask":1`), "", "new<|im_end|>", ""},
		{two(`,"weight":null`, ``), "", "old<|im_end|>|new<|im_end|>", ""},
		{two(`,"weight":1`, `,"weight":1`), "last", "new<|im_end|>", ""},
		{two(`,"train":false`, ``), "all", "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n|\n<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\nnew<|im_end|>\n", ""},
		{`{"conversations":[{"from":"human","value":"q"},{"from":"function_call","value":"{\"name\":\"f\"}","weight":0},{"from":"gpt","value":"new"}]}`, "", "new<|im_end|>", ""},
		{user(`,"weight":1`), "", "new<|im_end|>", ""},
		{user(`,"train":false`), "", "new<|im_end|>", ""},
		{two(`,"weight":0.5`, ``), "", "", "message 1: weight is 0.5"},
		{two(`,"weight":0,"train":true`, ``), "", "", "weight and train disagree"},
		{two(`,"train_detail":[]`, ``), "", "", "train_detail"},
		{two(`,"weight":0`, `,"weight":0`), "", "", noSupervised},
		{two(``, `,"weight":0`), "last", "", noSupervised},
		{user(`,"training":true`), "", "", "message 0 (user): training asks to learn it"},
		{user(`,"weight":0`), "all", "", "message 0 (user): weight says that it is not learned"},
	} {
		_, e, err := chatRow(t, c.row, Options{Datasets: []Source{{Path: "x"}}, TrainOn: c.trainOn}, chatML{})
		switch {
		case c.bad != "":
			if err == nil || !strings.Contains(err.Error(), c.bad) {
				t.Errorf("%s: %v, want an error with %q", c.row, err, c.bad)
			}
		case err != nil || supervisedText(tok, e) != c.want:
			t.Errorf("%s: %q, %v; want %q", c.row, supervisedText(tok, e), err, c.want)
		}
	}
}

// Rows of tokens are learned where all that speaks of it agrees.
func TestTokenMasks(t *testing.T) {
	for _, c := range []struct{ row, want, bad string }{
		{`{"input_ids":[5,6,7],"completion_mask":[0,1,1]}`, "[[1 3]]", ""},
		{`{"input_ids":[5,6,7],"assistant_masks":[0,0,1]}`, "[[2 3]]", ""},
		{`{"input_ids":[5,6,7],"completion_mask":[0,1,1],"labels":[5,6,-100]}`, "[[1 2]]", ""},
		{`{"input_ids":[5,6,7],"loss_mask":[1,1,0],"completion_mask":[0,1,1]}`, "[[1 2]]", ""},
		{`{"input_ids":[5,6,7,8],"loss":[0,1,3,4]}`, "[[0 1] [3 4]]", ""},
		{`{"input_ids":[5,6,0],"completion_mask":[0,1,0],"attention_mask":[1,1,0]}`, "[[1 2]]", ""},
		{`{"input_ids":[5,6],"position_ids":[0,1]}`, "[[0 2]]", ""},
		{`{"input_ids":[5,6,7],"completion_mask":[0,1]}`, "", "completion_mask"},
		{`{"input_ids":[5,6,7],"completion_mask":[0,2,1]}`, "", "element 1 is 2"},
		{`{"input_ids":[5,6,7],"completion_mask":[0,0,0]}`, "", noSupervised},
		{`{"input_ids":[5,6,7],"loss":[2,9]}`, "", "range 2 to 9"},
		{`{"input_ids":[5,6,7],"seq_lengths":[1,2]}`, "", "seq_lengths"},
		{`{"input_ids":[5,6,7],"position_ids":[0,0,1]}`, "", "begins anew"},
	} {
		_, e, err := chatRow(t, c.row, Options{Datasets: []Source{{Path: "x"}}}, nil)
		switch {
		case c.bad != "":
			if err == nil || !strings.Contains(err.Error(), c.bad) {
				t.Errorf("%s: %v, want an error with %q", c.row, err, c.bad)
			}
		case err != nil || fmt.Sprint(e.loss) != c.want:
			t.Errorf("%s: %v, %v; want %s", c.row, e.loss, err, c.want)
		}
	}
}

// What other tools' rows look like: the same conversation in each form, or a bad
// row that says which column it is.
func TestForeignForms(t *testing.T) {
	tok := sharedTokenizer(t, "qwen3")
	for _, c := range []struct{ row, want, bad string }{
		{`{"messages":{"role":["user","assistant"],"content":["q","a"]}}`, "user q assistant a", ""},
		{`{"instruction":"q","output":"a","history":[["p","o"]]}`, "user p assistant o user q assistant a", ""},
		{`{"instruction":"q","output":"a","history":"[[\"p\",\"o\"]]"}`, "user p assistant o user q assistant a", ""},
		{`{"instruction":"q","output":"a","history":[]}`, "user q assistant a", ""},
		{`{"messages":{"role":["user"],"content":["q","a"]}}`, "", "object of lists"},
		{`{"instruction":"q","output":"a","history":["p","o"]}`, "", "history: element 0"},
		{`{"messages":[{"role":"user","content":[{"type":"image_url"}]},{"role":"assistant","content":"a"}]}`, "", "text only"},
		{`{"messages":[{"role":"user","content":"<image>q"},{"role":"assistant","content":"a"}],"images":["x.png"]}`, "", "images"},
		{`{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"images":[]}`, "user q assistant a", ""},
		{`{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"images":"x.png"}`, "", "images"},
		{`{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"videos":{"bytes":null,"path":"x.mp4"}}`, "", "videos"},
		{`{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"images":"","audios":{}}`, "user q assistant a", ""},
		{`{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"tools":["no"]}`, "", "column tools: tool 0"},
		{`{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"tools":[1]}`, "", "column tools: tool 0 is a number"},
		{`{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"chat_template_kwargs":{"messages":[]}}`, "", "chat_template_kwargs"},
	} {
		_, e, err := chatRow(t, c.row, Options{Datasets: []Source{{Path: "x"}}}, chatML{})
		got := strings.Join(strings.Fields(strings.NewReplacer("<|im_start|>", " ", "<|im_end|>", " ").Replace(tok.Decode(e.ids, false))), " ")
		switch {
		case c.bad != "":
			if err == nil || !strings.Contains(err.Error(), c.bad) {
				t.Errorf("%s: %v, want an error with %q", c.row, err, c.bad)
			}
		case err != nil || got != c.want:
			t.Errorf("%s: %q, %v; want %q", c.row, got, err, c.want)
		}
	}
}

// Tools are the same objects however a row spells them, with the nulls that JSON
// says.
func TestToolsForms(t *testing.T) {
	const tool = `{"type":"function","function":{"name":"f","parameters":{"city":{"default":null}}}}`
	quoted := strings.ReplaceAll(tool, `"`, `\"`)
	for _, tools := range []string{"[" + tool + "]", `"[` + quoted + `]"`, `["` + quoted + `"]`} {
		row := parseRow(t, []byte(`{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"tools":`+tools+`}`))
		s, err := convert(typeChat, nil, row, true)
		if err != nil {
			t.Fatal(err)
		}
		tmpl, err := chat.Parse("{{ tools | tojson }}", chat.Options{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := tmpl.Render(*s.chat, false)
		if want := strings.ReplaceAll(strings.ReplaceAll("["+tool+"]", ":", ": "), ",", ", "); err != nil || got != want {
			t.Errorf("%s: %s, %v", tools, got, err)
		}
	}
}

// Of a file that fills structures in, nulls are left out at any depth; a column that
// is null stays.
func TestDropNulls(t *testing.T) {
	row := parseRow(t, []byte(`{"a":null,"m":[{"role":"user","content":[{"type":"text","text":"q","image":null}],"name":null}]}`))
	dropNulls(row)
	want := parseRow(t, []byte(`{"a":null,"m":[{"role":"user","content":[{"type":"text","text":"q"}]}]}`))
	if got := asJSON(t, row); got != asJSON(t, want) {
		t.Error(got)
	}
}

func asJSON(t *testing.T, d *jinja.Dict) string {
	t.Helper()
	b, err := d.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
