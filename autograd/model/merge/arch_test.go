package merge

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// TestArchitectures: the mean of a model and itself is the model, under the names and
// in the shapes of its folder: experts one by one and together, fused, transposed and
// tied tensors.
func TestArchitectures(t *testing.T) {
	dir := testdir.Shared(t, "golden/arch")
	for _, name := range []string{"mixtral", "qwen3-moe", "gpt2", "phi3", "qwen2", "deepseek3", "qwen3-next", "gemma3", "falcon"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			src, err := arch.Open(path)
			must(t, err)
			defer src.Close()
			out := filepath.Join(t.TempDir(), "m")
			two := &Config{Method: "linear", Models: []Input{{Model: "a", Parameters: one()}, {Model: "b", Parameters: one()}}}
			must(t, two.check())
			_, err = Write(t.Context(), cpu.New(cpu.Options{}), two, map[Model]*arch.Source{"a": src, "b": src}, Options{Path: out})
			must(t, err)
			want, shapes := values(t, path)
			got, gotShapes := values(t, out)
			for name := range want {
				if !slices.Equal(want[name], got[name]) || !slices.Equal(shapes[name], gotShapes[name]) {
					t.Errorf("%s: %v became %v", name, shapes[name], gotShapes[name])
				}
			}
			if len(got) != len(want) {
				t.Errorf("%d tensors, want %d", len(got), len(want))
			}
			samePlan(t, src, out)
		})
	}
}

// samePlan checks that a plan of the shapes of src alone is the model at out.
func samePlan(t *testing.T, src *arch.Source, out string) {
	t.Helper()
	var shapes []formats.Tensor
	for _, x := range src.Tensors() {
		shapes = append(shapes, formats.Tensor{Name: x.Name, Shape: x.Shape(), Type: x.Type})
	}
	config, err := src.ConfigJSON(nil)
	must(t, err)
	ghost, err := arch.FromTensors("ghost", config, shapes)
	must(t, err)
	c := &Config{Method: "linear", Models: []Input{{Model: "a", Parameters: one()}, {Model: "b", Parameters: one()}}}
	must(t, c.check())
	will, err := Plan(c, map[Model]*arch.Source{"a": ghost, "b": ghost}, nil)
	must(t, err)
	planned, err := will.Model("planned")
	must(t, err)
	made, err := arch.Open(out)
	must(t, err)
	defer made.Close()
	list := func(s *arch.Source) (out []string) {
		for _, x := range s.Tensors() {
			out = append(out, fmt.Sprint(x.Name, x.Shape(), x.Type))
		}
		return out
	}
	if got, want := list(planned), list(made); !slices.Equal(got, want) {
		t.Errorf("planned %v, made %v", got, want)
	}
	if !reflect.DeepEqual(planned.Spec, made.Spec) {
		t.Errorf("planned %+v, made %+v", planned.Spec, made.Spec)
	}
	if n := len(made.Reader.Tensors()); will.Tensors != n {
		t.Errorf("%d tensors planned, %d made", will.Tensors, n)
	}
}

func one() Parameters { return Parameters{"weight": {Values: []float64{1}}} }
