package formats

import (
	"reflect"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestActivations: the rounding of inputs is read from llm-compressor's folders
// and written in its words, key by key; scales measured beforehand are not
// applied.
func TestActivations(t *testing.T) {
	dir := testdir.Shared(t, "golden/quant")
	r := mustOpen(t, dir+"/ct-w8a8-int8")
	plan := copyPlan(r)
	for i, x := range r.Tensors() {
		want := dtype.Type{}
		if x.Type.Quantized() {
			want = ActInt8
		}
		if x.Act != want {
			t.Errorf("%s: inputs are rounded to %v, want %v", x.Name, x.Act, want)
		}
		plan[i].Act = x.Act
	}
	for _, x := range mustOpen(t, dir+"/ct-fp8-static").Tensors() {
		if x.Act != (dtype.Type{}) {
			t.Errorf("%s: inputs are rounded to %v though their scale was measured", x.Name, x.Act)
		}
	}
	q := must(quantizationConfig(FolderOptions{Config: r.Config(), Plan: plan, Layout: CompressedTensors, Head: "lm_head"}))
	var got map[string]any
	var want struct {
		Q map[string]any `json:"quantization_config"`
	}
	if err := unmarshalNumbers(must(q.MarshalJSON()), &got); err != nil {
		t.Fatal(err)
	}
	if err := unmarshalNumbers(r.Config(), &want); err != nil {
		t.Fatal(err)
	}
	if got["format"] != want.Q["format"] {
		t.Errorf("format %v, want %v", got["format"], want.Q["format"])
	}
	a, b := got["config_groups"].(map[string]any)["group_0"].(map[string]any), want.Q["config_groups"].(map[string]any)["group_0"].(map[string]any)
	for _, part := range []string{"format", "targets", "output_activations", "input_activations", "weights"} {
		x, isMap := a[part].(map[string]any)
		if !isMap {
			if !reflect.DeepEqual(a[part], b[part]) {
				t.Errorf("%s: %v, want %v", part, a[part], b[part])
			}
			continue
		}
		for key, v := range x {
			if key != "observer" && !reflect.DeepEqual(v, b[part].(map[string]any)[key]) {
				t.Errorf("%s.%s: %v, want %v", part, key, v, b[part].(map[string]any)[key])
			}
		}
	}
}
