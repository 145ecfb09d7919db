package tokenizer

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/formats/fail"
)

// Added is a token that With adds.
type Added struct {
	Token   string
	Special bool // no part of the text
}

// With is the tokenizer with tokens added behind its own, as add_tokens of
// Transformers adds them: each is found in the text before anything else is done.
// The ids of t's tokens stay. One that t has already, that is empty or that is given twice
// is an error.
func (t *Tokenizer) With(more []Added) (*Tokenizer, error) {
	seen := map[string]bool{}
	for _, a := range more {
		id, known := t.ids[a.Token]
		switch {
		case a.Token == "" || len(a.Token) > maxTokenLen || !utf8.ValidString(a.Token):
			return nil, fail.Usagef("", "write it as it stands in the text", "a token to add is %q: it is empty, too long or no text", clip(a.Token))
		case known:
			return nil, fail.Usagef("", "take it out of the list: the model has a row for it", "the tokenizer has the token %q already, id %d", clip(a.Token), id)
		case seen[a.Token]:
			return nil, fail.Usagef("", "list it once", "the token %q is to be added twice", clip(a.Token))
		}
		seen[a.Token] = true
	}
	files, err := t.HFFiles()
	if err != nil {
		return nil, err
	}
	const name = "tokenizer.json"
	data := files[name]
	if data == nil {
		return nil, fail.Inputf(name, "", "is missing: tokens cannot be added")
	}
	delete(files, "added_tokens.json") // lists the tokens without the new ones
	var b bytes.Buffer
	b.WriteString("{")
	s, n, found := &jsonScan{data: data}, 0, false
	err = s.object(func(key string) error {
		raw, err := s.skip(1)
		if key == "added_tokens" {
			raw, found = t.appendAdded(raw, more), true
		}
		fmt.Fprintf(&b, "%s\n%s:%s", comma(n), quoteJSON(key), raw)
		n++
		return err
	})
	if err != nil {
		return nil, badTokenizer(name, "%v", err)
	}
	if !found {
		fmt.Fprintf(&b, "%s\n\"added_tokens\":%s", comma(n), t.appendAdded([]byte("[]"), more))
	}
	b.WriteString("\n}\n")
	config := files["tokenizer_config.json"]
	delete(files, name)
	delete(files, "tokenizer_config.json")
	if config != nil {
		if config, err = t.listAdded(config, more); err != nil {
			return nil, err
		}
	}
	return parseHF(b.Bytes(), config, files)
}

// listAdded is tokenizer_config.json with more where it lists added tokens: programs
// that read the vocabulary from another file than tokenizer.json find them there.
func (t *Tokenizer) listAdded(config []byte, more []Added) ([]byte, error) {
	const name = "tokenizer_config.json"
	v, err := jinja.ParseJSON(config)
	d, ok := v.(*jinja.Dict)
	if err != nil || !ok {
		return nil, badTokenizer(name, "is no JSON object")
	}
	v, _ = d.Get("added_tokens_decoder")
	list, ok := v.(*jinja.Dict)
	if !ok {
		list = t.hfAddedDecoder()
	}
	v, _ = d.Get("additional_special_tokens")
	special, listed := v.([]any)
	for i, a := range more {
		list.Set(fmt.Sprint(t.Size()+i), jinja.NewDict("content", a.Token, "lstrip", false, "normalized", !a.Special,
			"rstrip", false, "single_word", false, "special", a.Special))
		if a.Special {
			special = append(special, a.Token)
		}
	}
	d.Set("added_tokens_decoder", list)
	if listed {
		d.Set("additional_special_tokens", special)
	}
	return indented(d), nil
}

// appendAdded is the list of added tokens with more.
func (t *Tokenizer) appendAdded(list []byte, more []Added) []byte {
	list = bytes.TrimRight(bytes.TrimSpace(list), "] \n\t\r")
	var b bytes.Buffer
	b.Write(list)
	n := len(t.added)
	for i, a := range more {
		fmt.Fprintf(&b, "%s\n{\"id\":%d,\"content\":%s,\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":%t,\"special\":%t}",
			comma(n+i), t.Size()+i, quoteJSON(a.Token), !a.Special, a.Special)
	}
	b.WriteString("]")
	return b.Bytes()
}
