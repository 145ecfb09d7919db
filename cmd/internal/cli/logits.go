package cli

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
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
			&ucli.StringFlag{Name: "input", Usage: "safetensors with input_ids int64 [B,T] and optional position_ids, attention_mask; of a model with an encoder also decoder_input_ids [B,U] and their mask"},
			&ucli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "safetensors to write: logits f32 [B,T,V], or [B,U,V] behind an encoder"},
			&ucli.BoolFlag{Name: "hidden", Usage: "also hidden.0 … hidden.L and hidden_last, of a model with an encoder each twice, encoder.hidden.0 and so on"}),
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
	if err := in.check(c.String("input"), &m.Spec); err != nil {
		return err
	}
	out, err := in.logits(m, c.Bool("hidden"))
	if err != nil {
		return err
	}
	if err := formats.WriteSafetensors(c.String("output"), out, nil); err != nil {
		return err
	}
	for _, t := range out {
		if n := notFinite(t.Data); n > 0 {
			noteOn(c)(fmt.Sprintf("%s: %d of %d numbers are NaN or infinite; tune verify looks for such weights in the model", t.Name, n, len(t.Data)/4))
		}
	}
	return nil
}

// notFinite counts the f32 in b that are NaN or infinite.
func notFinite(b []byte) (n int) {
	for ; len(b) >= 4; b = b[4:] {
		if binary.LittleEndian.Uint32(b)>>23&0xff == 0xff {
			n++
		}
	}
	return n
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
	prefix         string // of its tensors' names
	b, t           int
	ids, pos, mask []int64 // [B·T]; pos, mask may be nil

	decoder *padded // what the decoder behind an encoder reads; nil: nothing
}

func readIDs(path string) (*padded, error) {
	ts, _, err := formats.ReadSafetensors(path)
	if err != nil {
		return nil, err
	}
	p, decoder := &padded{}, &padded{prefix: "decoder_"}
	for _, t := range ts {
		for _, half := range []*padded{p, decoder} {
			if err := half.take(path, t); err != nil {
				return nil, err
			}
		}
	}
	if decoder.b > 0 {
		p.decoder = decoder
	}
	for half := p; half != nil; half = half.decoder {
		if half.ids == nil {
			return nil, fail.Inputf(path, "", "no tensor %sinput_ids", half.prefix)
		}
	}
	return p, nil
}

// take reads t where it is one of p's tensors.
func (p *padded) take(path string, t formats.NamedTensor) error {
	dst := map[string]*[]int64{"input_ids": &p.ids, "position_ids": &p.pos, "attention_mask": &p.mask}[strings.TrimPrefix(t.Name, p.prefix)]
	if dst == nil || !strings.HasPrefix(t.Name, p.prefix) {
		return nil
	}
	if t.DType != "I64" || len(t.Shape) != 2 {
		return fail.Inputf(path, "save it as int64 [B,T]", "%s is %s %v", t.Name, t.DType, t.Shape)
	}
	if p.b != 0 && (int64(p.b) != t.Shape[0] || int64(p.t) != t.Shape[1]) {
		return fail.Inputf(path, "", "%s is %v, other tensors [%d %d]", t.Name, t.Shape, p.b, p.t)
	}
	p.b, p.t = int(t.Shape[0]), int(t.Shape[1])
	*dst = make([]int64, len(t.Data)/8)
	for i := range *dst {
		(*dst)[i] = int64(binary.LittleEndian.Uint64(t.Data[8*i:]))
	}
	return nil
}

// check holds p to what the model reads.
func (p *padded) check(path string, s *arch.Spec) error {
	switch {
	case s.Encoder > 0 && p.decoder == nil:
		return fail.Inputf(path, "give decoder_input_ids, which begin with the decoder's start token", "the model has an encoder, and nothing says what its decoder reads")
	case s.Encoder == 0 && p.decoder != nil:
		return fail.Inputf(path, "leave decoder_input_ids out", "the model has no encoder")
	case s.Encoder > 0 && p.decoder.b != p.b:
		return fail.Inputf(path, "", "decoder_input_ids have %d rows, input_ids %d", p.decoder.b, p.b)
	}
	for half := p; half != nil; half = half.decoder {
		if err := half.checkIDs(path, s.V, s.Context()); err != nil {
			return err
		}
	}
	return nil
}

// checkIDs holds ids to the vocabulary, and positions and lengths to the context (0:
// none), before either becomes a number of 32 bits. Masked places may hold anything.
func (p *padded) checkIDs(path string, vocab, context int) error {
	if context == 0 {
		context = math.MaxInt32
	}
	for b := range p.b {
		kept := 0
		for t := range p.t {
			i := b*p.t + t
			if p.mask != nil && p.mask[i] == 0 {
				continue
			}
			kept++
			if id := p.ids[i]; id < 0 || id >= int64(vocab) {
				return fail.Inputf(path, "is it of this model's tokenizer?", "%sinput_ids[%d,%d] is %d, the model has %d tokens", p.prefix, b, t, id, vocab)
			}
			if p.pos != nil && (p.pos[i] < 0 || p.pos[i] >= int64(context)) {
				return fail.Inputf(path, "", "%sposition_ids[%d,%d] is %d, the model's context has %d", p.prefix, b, t, p.pos[i], context)
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
	in, at := p.pack()
	if p.decoder != nil {
		source, of := in, at
		if in, at = p.decoder.pack(); len(in.Seq) != p.b+1 || len(source.Seq) != p.b+1 {
			return nil, fail.Inputf("input_ids", "", "a row without tokens")
		}
		in.Source = &source
		return p.decoder.run(m, in, at, p, of, hidden)
	}
	return p.run(m, in, at, p, at, hidden)
}

// run computes the outputs of in, whose packed tokens come from the places at of p;
// those of an encoder, if there is one, from the places of of source.
func (p *padded) run(m *stages.Loaded, in model.Inputs, at []int, source *padded, of []int, hidden bool) ([]formats.NamedTensor, error) {
	var out []formats.NamedTensor
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
			h = states[len(states)-1]
			for i, s := range states {
				name, encoder := stateName(&m.Spec, i)
				from, places := p, at
				if encoder {
					from, places = source, of
				}
				nt, err := from.scatter(t, s, name, s.Cols(), places)
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

// stateName is what tensor i of a model's States is called, and whether it is of an
// encoder.
func stateName(s *arch.Spec, i int) (name string, encoder bool) {
	prefix, n := "", len(s.Layers)
	if encoder = i <= s.Encoder+1 && s.Encoder > 0; encoder {
		prefix, n = "encoder.", s.Encoder
	} else if s.Encoder > 0 {
		prefix, n, i = "decoder.", n-s.Encoder, i-s.Encoder-2
	}
	if i > n {
		return prefix + "hidden_last", encoder
	}
	return prefix + "hidden." + itoa(i), encoder
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
