package merge

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

// FuzzRead: a configuration is read or refused with a usage error, whatever it holds.
func FuzzRead(f *testing.F) {
	list, _ := filepath.Glob("../../../../shared/data/golden/train/merge_models/configs/*.yaml")
	for _, path := range list {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add("merge_method: linear\nmodules: {default: {models: [{model: {model: {path: a}}}], parameters: {weight: [{filter: x, value: [1, 2]}]}}}\ntokenizer: {source: union, tokens: {a: {source: {kind: zero}}}}")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Read("c.yaml", []byte(text))
		if err != nil {
			var e *fail.Error
			if !errors.As(err, &e) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		if len(c.Slices) == 0 || len(c.References()) == 0 {
			t.Fatalf("nothing to merge in %q", text)
		}
		for _, s := range c.Slices {
			for _, p := range []Parameters{s.Parameters, c.Parameters} {
				for _, x := range p {
					x.at("model.layers.0.mlp.up_proj.weight", 0.5)
				}
			}
		}
	})
}
