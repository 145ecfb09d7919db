package arch

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// inside is a checkpoint as the half of a larger model that reads text.
type inside struct {
	formats.Reader
	class string
}

func (r inside) Config() []byte {
	config, err := json.Marshal(map[string]any{"architectures": []string{r.class}, "text_config": json.RawMessage(r.Reader.Config())})
	if err != nil {
		panic(err)
	}
	return config
}

func (r inside) Tensors() []formats.Tensor {
	list := []formats.Tensor{{Name: "mtp.norm.weight", Shape: []int64{1}}}
	for _, t := range r.Reader.Tensors() {
		if rest, ok := strings.CutPrefix(t.Name, "model."); ok {
			t.Name = "model.language_model." + rest
		}
		list = append(list, t)
	}
	return list
}

// Qwen3.5 with experts inside a larger model is what it is by itself.
func TestSeeing(t *testing.T) {
	dir := testdir.Shared(t, "golden/arch/qwen3-5-moe")
	own, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	r, err := formats.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	src, err := FromReader(inside{r, "Qwen3_5MoeForConditionalGeneration"})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if len(src.Tensors()) != len(own.Tensors()) || src.Architecture() != "qwen3_5_moe" {
		t.Fatalf("%s of %d tensors, want %d", src.Architecture(), len(src.Tensors()), len(own.Tensors()))
	}
	for i, x := range src.Tensors() {
		y := own.Tensors()[i]
		a, _, err := src.Read(x)
		if err != nil {
			t.Fatal(err)
		}
		b, _, err := own.Read(y)
		if err != nil {
			t.Fatal(err)
		}
		if x.Name != strings.Replace(y.Name, "model.", "model.language_model.", 1) || !bytes.Equal(a.Data, b.Data) {
			t.Errorf("%s is not %s", x.Name, y.Name)
		}
	}
}
