package model

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// inLarger is a checkpoint as the half of a larger model that reads text: its
// names begin otherwise, and there are tensors of another half.
type inLarger struct {
	formats.Reader
	config []byte
	rename func(name string) string
	other  string // name of another half's
}

func (r inLarger) Config() []byte { return r.config }

func (r inLarger) Tensors() []formats.Tensor {
	list := slices.Clone(r.Reader.Tensors())
	for i := range list {
		list[i].Name = r.rename(list[i].Name)
	}
	other := list[0] // any values
	other.Name = r.other
	return append(list, other)
}

// TestHalf: Gemma 3 inside a larger model computes what it does alone, and the
// other half is in what would be written, as it is.
func TestHalf(t *testing.T) {
	g := openGolden(t, "gemma3")
	r, err := formats.Open(g.dir)
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(map[string]any{"architectures": []string{"Gemma3ForConditionalGeneration"}, "model_type": "gemma3", "text_config": json.RawMessage(r.Config())})
	if err != nil {
		t.Fatal(err)
	}
	const other = "vision_tower.vision_model.embeddings.patch_embedding.weight"
	src, err := arch.FromReader(inLarger{r, config, func(name string) string { return "language_model." + name }, other})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	m, err := Load(cpu.New(cpu.Options{}), src, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if p := m.Blocks[0].Linears()[0].Path; p != "model.language_model.layers.0.self_attn.q_proj" {
		t.Errorf("the first linear map is %s", p)
	}
	tape := &autograd.Tape{Dev: m.Dev}
	defer tape.Free()
	near(t, "logits", values(t, tape, m.Logits(tape, m.Hidden(tape, Pack(g.rows(t, "input_ids")...)))), g.floats(t, "logits"), 10*g.noise)

	f32 := dtype.Of(dtype.F32)
	plan := (&arch.Dense{Path: "x", Type: &f32}).Plan(src)
	last := plan[len(plan)-1]
	if last.Name != other || last.Type != dtype.Of(dtype.BF16) || len(plan) != len(src.Tensors())+1 {
		t.Errorf("the last of %d tensors is %s in %v", len(plan), last.Name, last.Type)
	}
	for _, o := range (&arch.Dense{Path: "x.gguf"}).Plan(src) {
		if strings.HasPrefix(o.Name, "vision") {
			t.Errorf("a GGUF would hold %s", o.Name)
		}
	}
	if a, b := src.CarriedNote(false), src.CarriedNote(true); !strings.Contains(a, "1 tensors") || !strings.Contains(b, "left out") {
		t.Errorf("notes: %q, %q", a, b)
	}
}
