package corpus_test

import (
	"testing"

	"github.com/tunekit/tunekit/data/corpus"
	"github.com/tunekit/tunekit/data/tokenizer"
)

// TestTokens: examples are short with a BPE of 2,048 tokens trained on the text.
func TestTokens(t *testing.T) {
	docs := func(yield func(string) bool) {
		for i := range 5000 {
			if !yield(corpus.Text(1, i)) {
				return
			}
		}
	}
	j, err := tokenizer.TrainBPE(docs, 2048, []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(j, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range corpus.Task(1, 3000, corpus.Train) {
		n := 0
		for _, m := range r.Messages {
			n += len(tok.Encode(m.Content, false))
		}
		if n > 110 {
			t.Errorf("%d tokens: %+v", n, r)
		}
	}
	for i := range 2000 {
		if n := len(tok.Encode(corpus.Text(2, i), false)); n > 255 {
			t.Errorf("text %d has %d tokens", i, n)
		}
	}
}
