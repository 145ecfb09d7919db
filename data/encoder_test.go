package data

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/tokenizer"
)

// letters is a tokenizer of letters that ends texts as T5's does.
func letters(t *testing.T) *tokenizer.Tokenizer {
	t.Helper()
	vocab := `["<pad>",0],["</s>",0],["<unk>",0],["▁",-2]`
	for c := 'a'; c <= 'z'; c++ {
		vocab += fmt.Sprintf(`,["%c",-3]`, c)
	}
	tok, err := tokenizer.Parse([]byte(`{"added_tokens":[{"id":0,"content":"<pad>","special":true},{"id":1,"content":"</s>","special":true},{"id":2,"content":"<unk>","special":true}],
		"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always"},"model":{"type":"Unigram","unk_id":2,"vocab":[`+vocab+`]},
		"post_processor":{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"</s>","type_id":0}}],"special_tokens":{"</s>":{"id":"</s>","ids":[1],"tokens":["</s>"]}}}}`),
		[]byte(`{"eos_token":"</s>","pad_token":"<pad>"}`))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// Rows of models with an encoder are a prompt and one answer: as Transformers has
// input_ids and labels of tokenizer(prompt) and tokenizer(text_target=completion).
func TestEncoderRows(t *testing.T) {
	tok := letters(t)
	tmpl, err := chat.Parse(`{% for m in messages %}{{ m['role'][0] + m['content'] + 'z' }}{% endfor %}{% if add_generation_prompt %}{{ 'a' }}{% endif %}`, chat.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ids := func(s string) []int32 {
		var out []int32
		for _, c := range s {
			out = append(out, int32(slices.Index([]rune("</?▁abcdefghijklmnopqrstuvwxyz"), c)))
		}
		return out
	}
	kind := "auto"
	one := func(row any, eos string) (Example, error) {
		o := Options{Datasets: []Source{{Path: jsonlFile(t, row), Type: kind}}, ValSetSize: "0", TrainOnEOS: eos, MaxLength: 40}
		o.ForModel(0, 30, true)
		ds, _, err := Ingest(context.Background(), o, tok, tmpl, nil)
		if err != nil {
			return Example{}, err
		}
		return ds.Train.At(0)
	}
	message := func(role, content string) map[string]any { return map[string]any{"role": role, "content": content} }
	for name, c := range map[string]struct {
		row            any
		eos            string
		prompt, answer string
	}{
		"completion": {map[string]any{"prompt": "ab c", "completion": "de"}, "", "▁ab▁c/", "▁de/"},
		"no end":     {map[string]any{"prompt": "ab", "completion": "de"}, "none", "▁ab/", "▁de"},
		"chat":       {map[string]any{"messages": []any{message("user", "bc"), message("assistant", "d"), message("user", "e"), message("assistant", "fg")}}, "none", "▁ubczadzueza", "fg"},
		"tokens":     {map[string]any{"input_ids": []int{4, 5, 1, 0}, "attention_mask": []int{1, 1, 1, 0}, "labels": []int{6, 1, -100}}, "", "ab/", "c/"},
	} {
		e, err := one(c.row, c.eos)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		prompt, answer := e.Answer()
		if name == "no end" { // which is there, and not learned
			e.IDs = e.IDs[:len(prompt)+len(answer)]
		}
		if !slices.Equal(prompt, ids(c.prompt)) || !slices.Equal(answer, ids(c.answer)) || len(e.IDs) != len(prompt)+len(answer) {
			t.Errorf("%s: %v answered by %v, of %v, want %v and %v", name, prompt, answer, e.IDs, ids(c.prompt), ids(c.answer))
		}
	}
	kind = "prompt"
	asked, err := one(map[string]any{"prompt": "ab"}, "")
	kind = "auto"
	if err != nil || !slices.Equal(asked.IDs, ids("▁ab/")) || asked.Row == "" {
		t.Errorf("a prompt alone is %v: %v", asked.IDs, err)
	}
	for name, c := range map[string]struct {
		row  any
		want string
	}{
		"text":      {map[string]any{"text": "ab"}, "rows of type text have no answer"},
		"no labels": {map[string]any{"input_ids": []int{4}}, "labels"},
		"masked":    {map[string]any{"input_ids": []int{4}, "labels": []int{-100}}, "0 tokens answer 1 input_ids"},
	} {
		if _, err := one(c.row, ""); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// What a vocabulary without an unknown token cannot spell makes a bad row, beside control tokens that someone wrote too.
func TestUnspelled(t *testing.T) {
	tok, err := tokenizer.Parse([]byte(`{"added_tokens":[{"id":0,"content":"</s>","special":true}],"model":{"type":"Unigram","vocab":[["</s>",0],["a",-1],["u",-1],["\n",-1]]}}`), []byte(`{"eos_token":"</s>"}`))
	if err != nil {
		t.Fatal(err)
	}
	tmpl, err := chat.Parse(`{% for m in messages %}{{ m['content'] }}{{ '</s>' }}{% endfor %}`, chat.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e := newEncoding(&Options{TrainOn: "assistant", TrainOnEOS: "turn"}, tok, tmpl)
	for said, want := range map[string]string{
		"u": "", "uéa": `"é" is not in its vocabulary`, "é</s>": `"é</s>" is not in its vocabulary`,
	} {
		_, err := e.encode(sample{chat: &chat.Conversation{Messages: []chat.Message{chat.NewMessage("user", said), chat.NewMessage("assistant", "a")}}})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", said, err, want)
		}
	}
	if _, err := e.continuation("é"); err == nil {
		t.Error("a continuation that cannot be spelled")
	}
}
