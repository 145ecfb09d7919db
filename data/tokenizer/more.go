package tokenizer

import (
	"bytes"
	"fmt"

	"github.com/tunekit/tunekit/formats/fail"
)

// Added is a token that With adds.
type Added struct {
	Token   string
	Special bool // no part of the text
}

// With is the tokenizer with tokens added behind its own, as add_tokens of
// Transformers adds them: each is found in the text before anything else is done.
// The ids of t's tokens stay.
func (t *Tokenizer) With(more []Added) (*Tokenizer, error) {
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
	return parseHF(b.Bytes(), config, files)
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
