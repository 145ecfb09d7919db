package arch

import (
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats"
)

// Arch is one architecture.
type Arch struct {
	Name string   // the key of the table, and model_type in config.json
	HF   []string // architectures in config.json
	GGUF string   // general.architecture
	// Spec reads config.json (of either generation) into a Spec.
	Spec func(c *Config) (Spec, error)
	// GGUFSpec reads GGUF metadata; tensors are the names present.
	GGUFSpec func(m *Metadata) (Spec, error)
	// Rules lists every tensor of a model of this shape.
	Rules func(s *Spec) []TensorRule
	// KV is the metadata a GGUF of this architecture carries after general.*.
	KV func(s *Spec) []formats.KV
	// Config is what config.json says about a model of this shape, for
	// folders written from a GGUF.
	Config func(s *Spec) []formats.KV
}

// Op is how a tensor's rows differ between the two name spaces. Each is
// invertible.
type Op uint8

const (
	Same        Op = iota // as it is
	PermuteRope           // GGUF stores the rows of each head with rotation pairs adjacent
)

// TensorRule maps one tensor. Rows and Cols are its shape in memory; Cols is 0
// for vectors. Optional tensors may be absent.
type TensorRule struct {
	HF, GGUF   string
	Rows, Cols int
	Op         Op
	Heads      int // for PermuteRope
	Optional   bool
}

// archs is the table. A new architecture is one line here and one file.
var archs = []*Arch{
	&llama,
	&qwen2,
}

func byHF(name, modelType string) *Arch {
	for _, a := range archs {
		if slices.Contains(a.HF, name) || name == "" && a.Name == modelType {
			return a
		}
	}
	return nil
}

func byGGUF(name string) *Arch {
	for _, a := range archs {
		if a.GGUF == name {
			return a
		}
	}
	return nil
}

// Names lists the supported architectures.
func Names() []string {
	var out []string
	for _, a := range archs {
		out = append(out, a.Name)
	}
	return out
}

func known() string { return strings.Join(Names(), ", ") }
