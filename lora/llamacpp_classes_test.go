package lora

import (
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/formats"
)

// TestLlamaCppClasses is TestLlamaCpp of the classes without a reference case: logits in
// F32 are what ours are, which package arch compares with those of Transformers.
func TestLlamaCppClasses(t *testing.T) {
	python := os.Getenv("TUNEKIT_LLAMACPP_PYTHON")
	if python == "" {
		t.Skip("TUNEKIT_LLAMACPP_PYTHON names no Python with xllamacpp")
	}
	l := &llamaCpp{python: python}
	classes, err := archtest.Classes("../autograd/model/arch/testdata/classes.json")
	must(t, err)
	for _, name := range slices.Sorted(maps.Keys(classes)) {
		t.Run(name, func(t *testing.T) {
			f := classes[name]
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "config.json"), f.Config, 0o666))
			must(t, formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), f.Stored(), nil))
			src, err := arch.Open(dir)
			must(t, err)
			defer src.Close()
			q := question{IDs: [][]int32{archtest.ClassIDs}}
			in := model.Pack(archtest.ClassIDs)
			if f.Source != nil {
				source := model.Pack(f.Source)
				q.IDs, q.Decoder = [][]int32{f.Source}, q.IDs
				in.Source = &source
			}
			if q.Model, err = writeAs(withTokenizer(t, dir, src.Spec.V, deviation{}), t.TempDir(), "F32"); err != nil {
				t.Logf("refused: %s", refused(t, err))
				return
			}
			got, _, err := l.ask(t, q)
			_, m := loadModel(t, dir)
			want, largest := inputLogits(t, m, in), 1.0
			for _, v := range want {
				largest = max(largest, math.Abs(float64(v)))
			}
			off, note := farthest(got, want), src.LlamaCppNote()
			switch {
			case note == "":
				if must(t, err); !(off <= 1e-5*largest) {
					t.Errorf("logits within %g of ours, of which the largest is %g", off, largest)
				}
			case err == nil && off < 0.1:
				t.Errorf("export says %q, and logits are within %g of ours", note, off)
			default:
				t.Logf("differs: %s", note)
			}
			if scale := float32(src.Spec.LogitScale); note != "" && f.Source != nil { // a tied T5, whose logits it does not scale; of GELU it has a table in F16
				for i := range got {
					got[i] *= scale
				}
				if off := farthest(got, want); !(off <= 1e-2) {
					t.Errorf("scaled by %g logits are within %g of ours", scale, off)
				}
			}
		})
	}
}
