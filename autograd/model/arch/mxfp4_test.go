package arch_test

import (
	"context"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestMXFP4: gpt-oss as released goes into a GGUF with its experts in their 4 bits,
// and into a folder of floats, and has the same values in both.
func TestMXFP4(t *testing.T) {
	dir := t.TempDir()
	packed, plain := filepath.Join(dir, "packed"), filepath.Join(dir, "plain")
	if err := archtest.MXFP4(testdir.Shared(t, "golden/arch/gpt-oss"), packed, plain); err != nil {
		t.Fatal(err)
	}
	src, want := open(t, packed), open(t, plain)
	kv, err := arch.GGUFKeys(&src.Spec, "model", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "model.gguf")
	plan := src.Plan(func(x *arch.Tensor) (dtype.Type, string) { return x.Type, "" })
	sink, err := arch.CreateGGUF(path, &src.Spec, kv, plan)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Abort()
	dev := cpu.New(cpu.Options{})
	if err := arch.Copy(context.Background(), dev, src, sink, plan, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := sink.Commit(); err != nil {
		t.Fatal(err)
	}
	floats := arch.Dense{Path: filepath.Join(dir, "floats")}
	if err := floats.Write(context.Background(), dev, src, nil); err != nil {
		t.Fatal(err)
	}
	for path, typ := range map[string]dtype.Kind{path: dtype.MXFP4, floats.Path: dtype.BF16} {
		back := open(t, path)
		stacks := 0
		for _, x := range want.Tensors() {
			y := back.Named(x.Name)
			if x.Experts > 0 && !x.Bias {
				stacks++
				if y.Type != dtype.Of(typ) {
					t.Errorf("%s: %s is %v, want %v", path, y.Name, y.Type, typ)
				}
			}
			a, _, err := want.Read(x)
			if err != nil {
				t.Fatal(err)
			}
			b, _, err := back.Read(y)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(widened(t, a), widened(t, b)) {
				t.Errorf("%s: %s has other values", path, y.Name)
			}
		}
		if stacks != 4 {
			t.Errorf("%s: %d stacks of experts", path, stacks)
		}
	}
}
