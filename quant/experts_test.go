package quant

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// TestFewTokens: experts that see hardly any of the text are rounded to nearest,
// which the report counts and says; the layers beside them are not.
func TestFewTokens(t *testing.T) {
	src := openSource(t, testdir.Shared(t, "golden/arch/mixtral"))
	dir := t.TempDir()
	job := func(method string) FolderJob {
		return FolderJob{Path: filepath.Join(dir, method), Method: method, Format: "compressed-tensors", Group: 8, For: []string{"transformers"}}
	}
	reps := folder(t, src, text(3, 1, fewTokens-1, src.Spec.V), job("gptq"), job("rtn"))
	a, b := openSource(t, job("gptq").Path), openSource(t, job("rtn").Path)
	stacks, experts := 0, 0
	for _, l := range reps[0].Layers {
		experts += l.Experts
		x, y := a.Named(l.Layer+".weight"), b.Named(l.Layer+".weight")
		if x == nil { // a stack is a parameter of its own, without a module
			x, y = a.Named(l.Layer), b.Named(l.Layer)
		}
		p, _, err := a.Read(x)
		if err != nil {
			t.Fatal(err)
		}
		q, _, err := b.Read(y)
		if err != nil {
			t.Fatal(err)
		}
		if l.Experts > 0 {
			stacks++
		}
		if (l.Experts > 0) != bytes.Equal(p.Data, q.Data) || (l.Experts > 0) != strings.Contains(l.Fallback, "tokens of the text") {
			t.Errorf("%s: %d experts fell back (%q), the codes are those of rounding: %v", l.Layer, l.Experts, l.Fallback, bytes.Equal(p.Data, q.Data))
		}
	}
	if stacks == 0 || stacks == len(reps[0].Layers) || experts <= stacks || len(reps[0].Warnings) != 2 || !strings.Contains(reps[0].Warnings[1], "experts were rounded to nearest") {
		t.Errorf("%d of %d layers, %d experts: %q", stacks, len(reps[0].Layers), experts, reps[0].Warnings)
	}
}
