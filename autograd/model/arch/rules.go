package arch

import (
	"fmt"
	"strings"
)

// Rule is one tensor of a model: what it is, its shape in memory, and where
// the files of each kind keep it.
type Rule struct {
	Role  Role
	Layer int  // -1 outside the blocks
	Bias  bool // the bias that belongs to the weight of the same role

	// Name is its name in memory: the hub's where the hub has it in one piece.
	Name string
	// Rows and Cols are the shape in memory, [out, in]; experts lie one below
	// another. A vector has one row and Vector set, for there are matrices of
	// one row, too.
	Rows, Cols int
	Vector     bool
	Experts    int // that lie one below another; 0: it is no stack

	HF, GGUF []Piece
	Also     [][]Piece // other forms in which Hugging Face folders keep it, which are read and not written
	// Other is the other way in which Hugging Face files keep experts: one by one
	// where HF has them together, together where it has them one by one.
	Other []Piece
	// Turned says that PEFT takes the matrix of an expert for its transpose, as the
	// parameter of Transformers lies: A and B of an adapter have changed places.
	Turned   bool
	Values   []float32 // of a tensor that files of a kind have no piece of: they state it otherwise
	Optional bool      // it may be absent
	Tied     bool      // it is the embedding; a file may hold a copy, which is not read

	module    bool   // of a router: it is a linear map of its own to Transformers
	layerPath string // the layer's module, or that of another part of a larger model
}

// Path is the module the tensor belongs to: its name without ".weight" or ".bias".
func (r *Rule) Path() string {
	return strings.TrimSuffix(strings.TrimSuffix(r.Name, ".weight"), ".bias")
}

// Parameter is the module that the tensor is a parameter of by itself, as those
// of experts and routers are, and its name there; "" where it is the weight of
// a module of its own.
func (r *Rule) Parameter() (module, name string) {
	if r.Experts == 0 && (r.Role != Router || r.module) {
		return "", ""
	}
	dot := strings.LastIndexByte(r.Name, '.')
	return r.Name[:dot], r.Name[dot+1:]
}

// IsLinear reports whether it is the matrix of a linear map of a block.
func (r *Rule) IsLinear() bool { return !r.Bias && r.Role.IsLinear() }

// AsLinear reports whether other programs take it for a linear map, though it stays as it
// is: routers, and the small maps that mix streams or make inputs. A quantized folder has
// to say of each that it is none of the quantized ones.
func (r *Rule) AsLinear() bool {
	switch r.Role {
	case Embed, Position, Head, EncoderEmbed, Near, EncoderNear, PartEmbed, ApartEmbed:
		return false
	}
	return r.IsLinear() || classes[r.Role] == table && !r.Vector && !r.Bias && strings.HasSuffix(r.Name, ".weight")
}

// Decays reports whether weight decay applies to it: not to norms and biases.
func (r *Rule) Decays() bool { return !r.Bias && r.Role.Decays() }

// Exact reports whether a GGUF holds it in F32, whatever type the file is of: vectors,
// biases, norms, convolutions, scans, positions, routers, and the small maps that mix
// streams or weigh what an index picks. They are what llama.cpp's converter never
// rounds (conversion/base.py, prepare_tensors), and most of its operations on them
// know no other type.
func (r *Rule) Exact() bool {
	switch r.Role {
	case Router, SharedRouter, Position, AltPredict, AltCorrect, IndexW:
		return true
	}
	return r.Vector || r.Bias || r.Role.IsNorm() || r.Role.IsState() || classes[r.Role] == fixed
}

// Shape is [rows, cols], or [n] for a vector.
func (r *Rule) Shape() []int64 {
	if r.Vector {
		return []int64{int64(r.Cols)}
	}
	return []int64{int64(r.Rows), int64(r.Cols)}
}

// Len is the number of elements.
func (r *Rule) Len() int { return r.Rows * r.Cols }

// units is the shape in which pieces count: the elements of a vector are its rows.
func (r *Rule) units() (rows, cols int) {
	if r.Vector {
		return r.Cols, 1
	}
	return r.Rows, r.Cols
}

// rules collects the tensors of an architecture in the order of its files.
type rules struct {
	list     []Rule
	layer    int
	hf, gguf string // what the names of the layer begin with
	addOne   bool   // GGUF holds 1 more than a norm's weights
	bare     bool   // norms have no weights
	bias     bool   // norms have biases
	names    layerNames
}

// rename lets names in Hugging Face files that begin with from begin with to:
// there the text half of a larger model is called otherwise than in memory.
func rename(list []Rule, from, to string) {
	for i := range list {
		for j := range list[i].HF {
			p := &list[i].HF[j]
			if rest, ok := strings.CutPrefix(p.Name, from); ok {
				p.Name = to + rest
			}
		}
	}
}

// enter makes the rules that follow those of a layer; -1 leaves the blocks.
func (b *rules) enter(layer int, hf, gguf string) { b.layer, b.hf, b.gguf = layer, hf, gguf }

// matrix adds a weight [rows, cols] that both kinds of file have in one piece.
func (b *rules) matrix(role Role, hf, gguf string, rows, cols int) *Rule {
	return b.add(Rule{Role: role, Rows: rows, Cols: cols}, hf+".weight", gguf+".weight")
}

// vector adds a vector of n values.
func (b *rules) vector(role Role, hf, gguf string, n int) *Rule {
	return b.add(Rule{Role: role, Rows: 1, Cols: n, Vector: true}, hf, gguf)
}

func (b *rules) add(r Rule, hf, gguf string) *Rule {
	r.Layer, r.layerPath, r.Name = b.layer, strings.TrimSuffix(b.hf, "."), b.hf+hf
	r.HF, r.GGUF = []Piece{{Name: r.Name}}, []Piece{{Name: b.gguf + gguf}}
	b.list = append(b.list, r)
	return &b.list[len(b.list)-1]
}

// linear adds a linear map with its bias, if it has one. In GGUF the rows of
// each of pairs heads lie in rotation pairs; 0: as in memory.
func (b *rules) linear(role Role, hf, gguf string, out, in int, bias bool, pairs int) {
	b.matrix(role, hf, gguf, out, in).GGUF[0].Pairs = pairs
	if bias {
		v := b.vector(role, hf+".bias", gguf+".bias", out)
		v.Bias, v.GGUF[0].Pairs = true, pairs
	}
}

// part is linear under the names that the role has in the family's files.
func (b *rules) part(role Role, out, in int, bias bool, pairs int) {
	name := b.names.of(role)
	b.linear(role, name[0], name[1], out, in, bias, pairs)
	if b.names.transposed {
		r := &b.list[len(b.list)-1]
		if r.Bias {
			r = &b.list[len(b.list)-2]
		}
		r.HF[0].Transpose = true
	}
}

// norm adds the weights of a normalisation of n values.
func (b *rules) norm(role Role, hf, gguf string, n int) {
	if b.bare {
		return
	}
	b.vector(role, hf+".weight", gguf+".weight", n).GGUF[0].AddOne = b.addOne
	if b.bias {
		b.vector(role, hf+".bias", gguf+".bias", n).Bias = true
	}
}

// number adds a tensor of one value, which GGUF states among its keys.
func (b *rules) number(role Role, hf string, value float32, shape []int64) {
	r := b.vector(role, hf, "", 1)
	r.HF[0].Shape, r.GGUF, r.Values = shape, nil, []float32{value}
}

// Rules lists every tensor of a model of this shape, in the order of its files.
func (s *Spec) Rules() ([]Rule, error) {
	for _, a := range archs {
		if a.Name == s.Arch {
			return a.rulesOf(s), nil
		}
	}
	return nil, fmt.Errorf("arch: no architecture %q; known: %s", s.Arch, known())
}

// Params is the number of weights, a tied head not counted again.
func (s *Spec) Params() int64 {
	list, err := s.Rules()
	if err != nil {
		panic(err)
	}
	n := int64(0)
	for i := range list {
		if !list[i].Tied {
			n += int64(list[i].Rows) * int64(list[i].Cols)
		}
	}
	return n
}
