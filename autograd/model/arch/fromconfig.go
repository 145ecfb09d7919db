package arch

import (
	"slices"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// FromConfig is a model of which only config.json is there, as it would be stored in
// type t: tensors without bytes, good for backends that only count. What a config leaves
// open (Rule.Optional) is not there.
func FromConfig(path string, config []byte, t dtype.Type) (*Source, error) {
	r := &described{path: path, config: config}
	s := &Source{Reader: r}
	if err := s.readConfig(); err != nil {
		return nil, fail.Inputf(path, "", "%w", err)
	}
	if err := s.Spec.check(); err != nil {
		return nil, fail.Inputf(path, "", "%w", wrapCorrupt(err))
	}
	for _, rule := range s.arch.rulesOf(&s.Spec) {
		if !rule.Tied && !rule.Optional {
			r.tensors = append(r.tensors, formats.Tensor{Name: rule.Name, Shape: slices.Clone(rule.Shape()), Type: t})
		}
	}
	return FromReader(r)
}

// FromTensors is FromConfig with the tensors that there are, named and shaped as in
// memory.
func FromTensors(path string, config []byte, tensors []formats.Tensor) (*Source, error) {
	return FromReader(&described{path, config, tensors})
}

// described is the reader of a model that is only described.
type described struct {
	path    string
	config  []byte
	tensors []formats.Tensor
}

func (d *described) Path() string                                       { return d.path }
func (d *described) Format() string                                     { return InMemory }
func (d *described) Config() []byte                                     { return d.config }
func (d *described) KV() []formats.KV                                   { return nil }
func (d *described) File(string) ([]byte, error)                        { return nil, nil }
func (d *described) Tensors() []formats.Tensor                          { return d.tensors }
func (d *described) Warnings() []string                                 { return nil }
func (d *described) Close() error                                       { return nil }
func (d *described) Read(*formats.Tensor) ([]byte, error)               { return nil, nil }
func (d *described) ReadRows(*formats.Tensor, int, int) ([]byte, error) { return nil, nil }
func (d *described) Map(*formats.Tensor) ([]byte, bool)                 { return nil, true }
