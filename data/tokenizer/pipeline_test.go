package tokenizer

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// testdata/pipelines.jsonl.gz holds small tokenizers trained for this test on
// generated text with Hugging Face's tokenizers 0.23.3, one for each
// normalizer, pre-tokenizer, split behavior, post-processor, decoder and model,
// and what they make of 20 texts. corners.jsonl.gz is from testdata/make_corners.py.
func TestPipelines(t *testing.T) {
	data := slices.Concat(testdir.ReadFile(t, "testdata/pipelines.jsonl"), testdir.ReadFile(t, "testdata/corners.jsonl"))
	for _, line := range bytes.Split(bytes.TrimSpace(data), []byte("\n")) {
		var p struct {
			Name      string
			Tokenizer json.RawMessage
			Cases     []struct {
				vectorCase
				Skipped string
			}
		}
		if err := json.Unmarshal(line, &p); err != nil {
			t.Fatal(err)
		}
		t.Run(p.Name, func(t *testing.T) {
			tok, err := Parse(p.Tokenizer, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range p.Cases {
				if got := tok.Encode(c.Text, false); !slices.Equal(got, c.IDs) {
					t.Errorf("Encode(%q)\n got %v\nwant %v", c.Text, got, c.IDs)
				}
				if got := tok.Encode(c.Text, true); !slices.Equal(got, c.IDsSpecial) {
					t.Errorf("Encode(%q, special)\n got %v\nwant %v", c.Text, got, c.IDsSpecial)
				}
				if got := tok.Decode(c.IDsSpecial, false); got != c.Decoded {
					t.Errorf("Decode of %q\n got %q\nwant %q", c.Text, got, c.Decoded)
				}
				if got := tok.Decode(c.IDsSpecial, true); got != c.Skipped {
					t.Errorf("Decode of %q without special tokens\n got %q\nwant %q", c.Text, got, c.Skipped)
				}
				stream, parts := tok.Stream(true), ""
				for _, id := range c.IDsSpecial {
					parts += stream.Push(id)
				}
				if parts += stream.Flush(); parts != c.Skipped {
					t.Errorf("stream of %q\n got %q\nwant %q", c.Text, parts, c.Skipped)
				}
			}
		})
	}
}
