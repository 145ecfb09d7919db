package cli

import (
	"encoding/binary"
	"math"
	"slices"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes/stages"
)

func logitsCommand() *ucli.Command {
	return &ucli.Command{
		Name: "logits", Usage: "logits of given token ids, for comparing with other programs",
		Description: examples("tune logits --model models/M --input ids.safetensors --output out.safetensors --hidden"),
		Flags: modelFlags(modelFlag(), adapterFlag(),
			&ucli.StringFlag{Name: "input", Usage: "safetensors with input_ids int64 [B,T] and optional position_ids, attention_mask"},
			&ucli.StringFlag{Name: "output", Usage: "safetensors to write: logits f32 [B,T,V]"},
			&ucli.BoolFlag{Name: "hidden", Usage: "also hidden.0 … hidden.L and hidden_last"}),
		Action: runLogits,
	}
}

func runLogits(c *ucli.Context) error {
	if err := required(c, "model", "input", "output"); err != nil {
		return err
	}
	if err := logitsTo(c.String("output")); err != nil {
		return err
	}
	in, err := readIDs(c.String("input"))
	if err != nil {
		return err
	}
	m, err := openModel(c, c.String("model"), "f32")
	if err != nil {
		return err
	}
	defer m.Dev.Close()
	defer m.Close()
	if err := in.check(c.String("input"), m.Spec.V, m.Spec.Context()); err != nil {
		return err
	}
	out, err := in.logits(m, c.Bool("hidden"))
	if err != nil {
		return err
	}
	return formats.WriteSafetensors(c.String("output"), out, nil)
}

// logitsTo refuses a file that holds something other than logits, such as the ids
// themselves or a model.
func logitsTo(path string) error {
	return atomic.Own(path, "a file of logits", func() bool {
		r, err := formats.Open(path)
		if err != nil {
			return false
		}
		defer r.Close()
		return slices.ContainsFunc(r.Tensors(), func(t formats.Tensor) bool { return t.Name == "logits" })
	})
}

// padded is a batch as Transformers has it: rows of one length with a mask.
type padded struct {
	b, t           int
	ids, pos, mask []int64 // [B·T]; pos, mask may be nil
}

func readIDs(path string) (*padded, error) {
	ts, _, err := formats.ReadSafetensors(path)
	if err != nil {
		return nil, err
	}
	p := &padded{}
	for _, t := range ts {
		var dst *[]int64
		switch t.Name {
		case "input_ids":
			dst = &p.ids
		case "position_ids":
			dst = &p.pos
		case "attention_mask":
			dst = &p.mask
		default:
			continue
		}
		if t.DType != "I64" || len(t.Shape) != 2 {
			return nil, fail.Inputf(path, "save it as int64 [B,T]", "%s is %s %v", t.Name, t.DType, t.Shape)
		}
		if p.ids != nil && (int64(p.b) != t.Shape[0] || int64(p.t) != t.Shape[1]) || p.ids == nil && p.b != 0 && (int64(p.b) != t.Shape[0] || int64(p.t) != t.Shape[1]) {
			return nil, fail.Inputf(path, "", "%s is %v, other tensors [%d %d]", t.Name, t.Shape, p.b, p.t)
		}
		p.b, p.t = int(t.Shape[0]), int(t.Shape[1])
		*dst = make([]int64, len(t.Data)/8)
		for i := range *dst {
			(*dst)[i] = int64(binary.LittleEndian.Uint64(t.Data[8*i:]))
		}
	}
	if p.ids == nil {
		return nil, fail.Inputf(path, "", "no tensor input_ids")
	}
	return p, nil
}

// check holds ids to the vocabulary, and positions and lengths to the context,
// before either becomes a number of 32 bits. Masked places may hold anything.
func (p *padded) check(path string, vocab, context int) error {
	for b := range p.b {
		kept := 0
		for t := range p.t {
			i := b*p.t + t
			if p.mask != nil && p.mask[i] == 0 {
				continue
			}
			kept++
			if id := p.ids[i]; id < 0 || id >= int64(vocab) {
				return fail.Inputf(path, "is it of this model's tokenizer?", "input_ids[%d,%d] is %d, the model has %d tokens", b, t, id, vocab)
			}
			if p.pos != nil && (p.pos[i] < 0 || p.pos[i] >= int64(context)) {
				return fail.Inputf(path, "", "position_ids[%d,%d] is %d, the model's context has %d", b, t, p.pos[i], context)
			}
		}
		if kept > context {
			return fail.Inputf(path, "give fewer tokens in a row", "row %d has %d tokens, the model's context has %d", b, kept, context)
		}
	}
	return nil
}

// pack drops the masked tokens: row b keeps its others, in order. at[i] is the
// place of packed token i in the padded batch. Without position_ids a row's
// kept tokens count from 0.
func (p *padded) pack() (in model.Inputs, at []int) {
	in.Seq = []int32{0}
	in.Pos = []int32{}
	for b := range p.b {
		for t := range p.t {
			i := b*p.t + t
			if p.mask != nil && p.mask[i] == 0 {
				continue
			}
			pos := int32(len(in.IDs)) - in.Seq[len(in.Seq)-1]
			if p.pos != nil {
				pos = int32(p.pos[i])
			}
			in.IDs, in.Pos, at = append(in.IDs, int32(p.ids[i])), append(in.Pos, pos), append(at, i)
		}
		if n := int32(len(in.IDs)); n > in.Seq[len(in.Seq)-1] {
			in.Seq = append(in.Seq, n)
		}
	}
	return in, at
}

func (p *padded) logits(m *stages.Loaded, hidden bool) ([]formats.NamedTensor, error) {
	var out []formats.NamedTensor
	in, at := p.pack()
	if len(at) == 0 {
		return nil, fail.Inputf("input_ids", "", "no tokens")
	}
	err := m.Dev.Run(func() error {
		t := &autograd.Tape{Dev: m.Dev, BF16: m.BF16}
		defer t.Free()
		var h *autograd.Tensor
		if hidden {
			states := m.States(t, in)
			if t.Err() != nil {
				return t.Err()
			}
			for i, s := range states {
				name := "hidden." + itoa(i)
				if i == len(states)-1 {
					name, h = "hidden_last", s
				}
				nt, err := p.scatter(t, s, name, s.Cols(), at)
				if err != nil {
					return err
				}
				out = append(out, nt)
			}
		} else {
			h = m.Hidden(t, in)
		}
		if t.Err() != nil {
			return t.Err()
		}
		nt, err := p.scatter(t, m.Logits(t, h), "logits", m.Spec.V, at)
		out = append(out, nt)
		return err
	})
	return out, err
}

// scatter puts packed rows back to their places; masked tokens get zeros.
func (p *padded) scatter(t *autograd.Tape, x *autograd.Tensor, name string, width int, at []int) (formats.NamedTensor, error) {
	v, err := t.Values(x)
	raw := make([]byte, 4*p.b*p.t*width)
	for i, place := range at {
		if err != nil {
			break
		}
		for j := range width {
			binary.LittleEndian.PutUint32(raw[4*(place*width+j):], math.Float32bits(v[i*width+j]))
		}
	}
	return formats.NamedTensor{Name: name, DType: "F32", Shape: []int64{int64(p.b), int64(p.t), int64(width)}, Data: raw}, err
}
