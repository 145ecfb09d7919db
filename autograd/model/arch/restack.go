package arch

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// InLayer is the name of a piece or tensor of layer r.Layer in another layer.
func (r *Rule) InLayer(name string, layer int) string {
	if r.Layer < 0 {
		return name
	}
	path := r.layerPath[:strings.LastIndexByte(r.layerPath, '.')]
	list := path[strings.LastIndexByte(path, '.')+1:] // what the layers are called
	from := fmt.Sprintf("%s.%d.", list, r.Layer)
	return strings.Replace(name, from, fmt.Sprintf("%s.%d.", list, layer), 1)
}

// AsFolder lists a tensor as a plain Hugging Face folder holds it.
func (t *Tensor) AsFolder() []FileTensor { return t.as(t.HF) }

// ReadPiece is ReadAs in the type of the file where the file itself has the piece as a
// plain tensor: then no more than that is read.
func (s *Source) ReadPiece(f FileTensor) (block.Raw, error) {
	for i, st := range f.Of.stored {
		if s.Reader.Format() == "hf" && st.Name == f.Name && isDense(st.Type) && slices.Equal(st.Shape, f.Shape) {
			data, _, err := s.bytes(f.Of.stored[i])
			return block.Raw{Type: st.Type, Rows: st.Rows(), Cols: st.Cols(), Data: data}, err
		}
	}
	m, err := s.ReadAs(f)
	if n := len(f.Shape); err == nil && n > 0 {
		m.Cols = int(f.Shape[n-1])
		m.Rows = f.Of.pieceLen(f) / m.Cols
	}
	return m, err
}

// pieceLen is the number of values of a piece.
func (t *Tensor) pieceLen(f FileTensor) int {
	n := 1
	for _, d := range f.Shape {
		n *= int(d)
	}
	return n
}

// FloatType is the type that a tensor's values are plainly stored in: its own, or
// BF16 of a quantized one.
func (t *Tensor) FloatType() dtype.Type {
	if isDense(t.Type) {
		return t.Type
	}
	return dtype.Of(dtype.BF16)
}

// layerKeys are what config.json calls the number of layers.
var layerKeys = []string{"num_hidden_layers", "n_layer", "n_layers", "num_layers"}

// Restack is config.json of a model that has the layers from of s, one above another,
// and rows tokens, and what it says. What the config lists by layer follows them. A
// layer that would be computed otherwise in its new place is an error.
func (s *Source) Restack(from []int, rows int, set map[string]any) ([]byte, *Spec, error) {
	text, err := s.ConfigJSON(set)
	if err != nil {
		return nil, nil, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, nil, fail.Inputf(s.Reader.Path(), "", "config.json: %w", err)
	}
	own := all
	inner := map[string]json.RawMessage{}
	if raw, ok := all["text_config"]; ok {
		if err := json.Unmarshal(raw, &inner); err != nil {
			return nil, nil, fail.Inputf(s.Reader.Path(), "", "config.json: text_config: %w", err)
		}
		own = inner
	}
	was := len(s.Spec.Layers)
	if same := slices.Equal(from, identity(was)); !same {
		if err := s.relist(own, from); err != nil {
			return nil, nil, err
		}
	}
	if rows != s.Spec.V {
		own["vocab_size"] = json.RawMessage(fmt.Sprint(rows))
	}
	if len(inner) > 0 {
		if all["text_config"], err = json.Marshal(inner); err != nil {
			return nil, nil, err
		}
	}
	if text, err = json.MarshalIndent(all, "", "  "); err != nil {
		return nil, nil, err
	}
	c, err := parseConfig(text)
	if err != nil {
		return nil, nil, err
	}
	spec, err := s.arch.Spec(c)
	if err != nil {
		return nil, nil, fail.Inputf(s.Reader.Path(), "", "with layers %v: %w", from, err)
	}
	spec.Tied = s.Spec.Tied
	if len(spec.Layers) != len(from) {
		return nil, nil, fail.Inputf(s.Reader.Path(), "merge whole models", "config.json says %d layers, not the %d that are asked for", len(spec.Layers), len(from))
	}
	for i, at := range from {
		if at >= was {
			continue
		}
		if what := difference(reflect.ValueOf(spec.Layers[i]), reflect.ValueOf(s.Spec.Layers[at]), ""); what != "" {
			return nil, nil, fail.Usagef(s.Reader.Path(), "keep layers of a kind in their order", "layer %d cannot be layer %d of the result: config.json would compute it otherwise (%s)", at, i, what)
		}
	}
	return text, &spec, nil
}

// relist changes the number of layers in a config and what it lists by layer.
func (s *Source) relist(own map[string]json.RawMessage, from []int) error {
	was, found := len(s.Spec.Layers), false
	for key, raw := range own {
		var list []json.RawMessage
		switch {
		case slices.Contains(layerKeys, key) && string(raw) == fmt.Sprint(was):
			own[key], found = json.RawMessage(fmt.Sprint(len(from))), true
		case json.Unmarshal(raw, &list) == nil && len(list) == was && was > 1:
			var out []json.RawMessage
			for _, i := range from {
				if i >= was {
					return fail.Usagef(s.Reader.Path(), "name the longer model as base_model", "config.json: %s has nothing for layer %d", key, i)
				}
				out = append(out, list[i])
			}
			text, err := json.Marshal(out)
			if err != nil {
				return err
			}
			own[key] = text
		}
	}
	if !found {
		return fail.Inputf(s.Reader.Path(), "merge whole models", "config.json has none of %s, so the number of layers cannot be changed", strings.Join(layerKeys, ", "))
	}
	return nil
}

func identity(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// Differs names the first part in which the model o is computed otherwise than s; ""
// where there is none. A tied head and whose half of a larger model it is do not count:
// the tensors say that.
func (s *Source) Differs(o *Source) string {
	a, b := s.Spec, o.Spec
	a.Tied, a.Half, b.Tied, b.Half = false, false, false, false
	a.Whole, a.Deep, b.Whole, b.Deep = Whole{}, 0, Whole{}, 0
	a.RouterLoss, b.RouterLoss = false, false // of training alone
	if what := otherAngles(&a, &b); what != "" {
		return what
	}
	a.Ropes, b.Ropes = nil, nil // files state the same angles in several ways
	return difference(reflect.ValueOf(a), reflect.ValueOf(b), "")
}

// otherAngles names the first rotary table whose angles differ, in short or long texts.
func otherAngles(a, b *Spec) string {
	if len(a.Ropes) != len(b.Ropes) {
		return fmt.Sprintf("%d rotary tables and %d", len(a.Ropes), len(b.Ropes))
	}
	for i := range a.Ropes {
		for _, n := range []int{1, a.MaxPos, b.MaxPos} {
			p, by := a.Ropes[i].Angles(n)
			q, to := b.Ropes[i].Angles(n)
			near := func(x, y float64) bool { return math.Abs(x-y) <= 1e-6*math.Abs(x) }
			if !near(by, to) || !slices.EqualFunc(p, q, near) {
				return fmt.Sprintf("rotary angles (table %d, texts of %d tokens)", i, n)
			}
		}
	}
	return ""
}
