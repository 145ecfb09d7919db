package tokenizer

import (
	"fmt"
	"slices"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/formats"
)

// moreFiles are the small files beside tokenizer.json that say more.
var moreFiles = []string{
	"special_tokens_map.json", "added_tokens.json", "generation_config.json", "config.json", "chat_template.jinja", "chat_template.json",
}

// Files are the names a tokenizer is read from in a Hugging Face folder.
var Files = slices.Concat([]string{"tokenizer.json", "tokenizer_config.json"}, moreFiles, vocabFiles)

// dict parses a JSON object among the files; nil without one.
func (t *Tokenizer) dict(name string) (*jinja.Dict, error) {
	raw, ok := t.files[name]
	if !ok {
		return nil, nil
	}
	if len(raw) > maxConfigFile {
		return nil, badTokenizer(name, "%d bytes are more than %d", len(raw), maxConfigFile)
	}
	v, err := jinja.ParseJSON(formats.FiniteJSON(raw))
	if err != nil {
		return nil, badTokenizer(name, "%v", err)
	}
	d, ok := v.(*jinja.Dict)
	if !ok {
		return nil, badTokenizer(name, "is no JSON object")
	}
	return d, nil
}

// readMore fills in what tokenizer_config.json left open.
func (t *Tokenizer) readMore() error {
	if src, ok := t.files["chat_template.jinja"]; ok {
		t.setDefault(string(src))
	}
	chat, err := t.dict("chat_template.json")
	if err != nil {
		return err
	}
	if s := chat.String("chat_template"); s != "" && t.templates == nil {
		t.setDefault(s)
	}
	if err := t.samplingFromConfig(); err != nil {
		return err
	}
	ends, err := t.endsFromConfig()
	if err != nil {
		return err
	}
	t.setEnds(ends...)
	return nil
}

// listOf is a JSON value that may be a list, or one of its elements.
func listOf(v any) []any {
	if list, ok := v.([]any); ok {
		return list
	}
	return []any{v}
}

// endsFromConfig reads eos_token_id, a number or a list, of the model's files.
// A number that is no token of the vocabulary ends nothing (-1 is written for
// "none"); anything else would leave answers without an end, and is an error.
func (t *Tokenizer) endsFromConfig() ([]int32, error) {
	var out []int32
	for _, name := range []string{"generation_config.json", "config.json"} {
		d, err := t.dict(name)
		if err != nil {
			return nil, err
		}
		v, _ := d.Get("eos_token_id")
		for _, e := range listOf(v) {
			switch n, ok := e.(int64); {
			case !ok && e != nil:
				return nil, badTokenizer(name, "eos_token_id says %.40q, expected the number of a token or a list of such", fmt.Sprint(e))
			case ok && n >= 0 && n < int64(len(t.vocab)):
				out = append(out, int32(n))
			}
		}
	}
	return out, nil
}

// Names under which tokenizers without a configuration keep their BOS and EOS.
var (
	bosNames = []string{"<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<｜begin▁of▁sentence｜>"}
	eosNames = []string{"</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "<｜end▁of▁sentence｜>"}
)

// guessSpecial finds BOS and EOS by name where no file told them.
func (t *Tokenizer) guessSpecial() {
	if t.config == nil && t.bos < 0 && t.eos < 0 {
		t.bos, t.eos = t.firstSpecial(bosNames), t.firstSpecial(eosNames)
	}
	t.setEnds(t.ends...)
}

func (t *Tokenizer) firstSpecial(names []string) int32 {
	for _, s := range names {
		if id, ok := t.ids[s]; ok && t.kinds[id] == kindControl {
			return id
		}
	}
	return -1
}

// bosFromTemplate takes a special token that the post-processor puts first as
// the BOS where nothing else tells it.
func (t *Tokenizer) bosFromTemplate() {
	if t.bos < 0 && t.config == nil && len(t.before) > 0 {
		t.bos = t.before[0]
	}
}
