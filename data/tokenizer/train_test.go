package tokenizer

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func trainDocs() []string {
	var docs []string
	for i := range 300 {
		docs = append(docs, fmt.Sprintf("Record %d: the colour of item %d isn't blue; naïve café costs %d.%02d €.\n\n  Next\tline %d", i, i*7, i, i%100, i))
	}
	return docs
}

func TestTrainBPE(t *testing.T) {
	special := []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
	docs := trainDocs()
	a, err := TrainBPE(slices.Values(docs), 310, special)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(docs)
	b, err := TrainBPE(slices.Values(docs), 310, special)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("the order of the documents changed the tokenizer")
	}
	tok, err := Parse(a, nil)
	if err != nil {
		t.Fatal(err)
	}
	if tok.Size() != 310 {
		t.Errorf("%d tokens, want 310", tok.Size())
	}
	for i, s := range special {
		if id, ok := tok.ID(s); !ok || int(id) != i {
			t.Errorf("%s has id %d", s, id)
		}
	}
	text := "item 1234 isn't naïve 🎉\n" + docs[0]
	ids := tok.Encode(text, false)
	if got := tok.Decode(ids, false); got != text {
		t.Errorf("decoded %q, want %q", got, text)
	}
	if len(ids)*2 > len(text) {
		t.Errorf("%d ids for %d bytes: nothing was learnt", len(ids), len(text))
	}
	for id := range int32(tok.Size()) {
		if s := tok.Token(id); id >= 3 && strings.ContainsAny(s, "0123456789") && len(s) > 1 {
			t.Errorf("token %q holds a digit and more", s)
		}
	}
}

// The merges follow from counts and ids alone: "ab" and "bc" tie in "abc", and
// a comes before b.
func TestTrainBPETies(t *testing.T) {
	got, err := TrainBPE(slices.Values([]string{"abc", "abc"}), 257, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(got, []byte(`"merges": [
      "a b"
    ]`)) {
		t.Errorf("the first merge is not a b: %s", got[len(got)-60:])
	}
}

func TestTrainBPETooLittle(t *testing.T) {
	_, err := TrainBPE(slices.Values([]string{"hi"}), 300, nil)
	if err == nil || !strings.Contains(err.Error(), "gives 257 tokens of the 300") {
		t.Errorf("got %v", err)
	}
	if _, err = TrainBPE(slices.Values([]string{"hi"}), 100, nil); err == nil {
		t.Error("a vocabulary smaller than the bytes was accepted")
	}
}
