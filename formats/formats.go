// Package formats reads and writes the files models live in: safetensors
// (single and sharded), GGUF, Hugging Face folders, PEFT adapter folders, and
// the quantized folders of GPTQ, AWQ, compressed-tensors and bitsandbytes. It also
// reads folders of EXL2, ModelOpt, torchao and HQQ, and PyTorch's checkpoints where a
// folder has no safetensors.
//
// A Reader lists logical tensors: one matrix of one dtype.Type, even where the
// folder stores it in four pieces. Opening reads headers only, never weights,
// and every count a file states is checked against the file's length before
// memory is taken. A Writer puts a plan of tensors on disk through package
// atomic: the target path holds the whole artifact or does not exist, and an
// interrupted write goes on where it was.
package formats

import (
	"errors"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// ErrCorrupt is wrapped by every error about a file that is damaged, hostile or
// inconsistent. Such errors are of kind fail.Input.
var ErrCorrupt = errors.New("corrupt file")

// Reader gives the tensors and metadata of one artifact. All methods are safe
// for concurrent use; Close ends the life of mapped bytes.
type Reader interface {
	// Path is what Open was given.
	Path() string
	// Format is "hf" (a folder), "safetensors", "gguf" or "pytorch" (single files).
	Format() string
	// Config is config.json of a folder, nil elsewhere.
	Config() []byte
	// KV is the metadata of a GGUF file in file order; of safetensors the
	// __metadata__ strings.
	KV() []KV
	// File returns a small file beside the weights of a folder, e.g.
	// tokenizer.json: nil where there is none, an error where there is one that
	// cannot be read. The name must be plain, without a path.
	File(name string) ([]byte, error)
	// Tensors lists the logical tensors in file order. The slice is shared.
	Tensors() []Tensor
	// Read returns a whole tensor in the layout of dtype.Planes, in new memory.
	Read(t *Tensor) ([]byte, error)
	// ReadRows returns the rows row0 … row0+rows of a tensor whose rows lie one
	// after another (plain and GGUF types), in new memory.
	ReadRows(t *Tensor, row0, rows int) ([]byte, error)
	// Map returns the mapped bytes of a tensor whose layout in the file is its
	// layout in memory; false where it is not or the system cannot map. The
	// bytes are read only and end with Close.
	Map(t *Tensor) ([]byte, bool)
	// Warnings lists what is odd but readable, e.g. a GGUF layout that llama.cpp
	// refuses.
	Warnings() []string
	Close() error
}

// Tensor is one logical tensor of an artifact.
type Tensor struct {
	Name  string
	Shape []int64 // outermost first, as in PyTorch; empty for a scalar
	Type  dtype.Type
	Act   dtype.Type // what inputs of the product with it are rounded to; the zero Type: not at all
	Parts []Part     // where it is stored; one for plain types
	// Unrounded is how the folder wants inputs of the product with it rounded where
	// Act does not say it, for people; "" elsewhere. Such inputs stay exact here.
	Unrounded string
	// Unsupported is the name of a stored type that has no dtype ("Q8_K",
	// "U16"): such a tensor can be listed and hashed, but Read refuses it and
	// Type means nothing. Empty for all others.
	Unsupported string

	load loader // set for tensors made of several parts

	apart []Tensor // see Apart

	grid inputGrid // names of the parts with scale and zero point of Act, where they were measured beforehand
}

// Part is one stored array of a logical tensor.
type Part struct {
	Name  string // as stored
	DType string // as the file calls it
	Shape []int64
	File  string // file name within the folder, or of the file
	Off   int64  // of its first byte in the file
	Len   int64  // of all its values

	stride []int64 // see array
	src    *source
}

// Rows is the product of all dimensions but the last; 1 for vectors and scalars.
func (t *Tensor) Rows() int {
	n := int64(1)
	for _, d := range t.Shape[:max(len(t.Shape)-1, 0)] {
		n *= d
	}
	return int(n)
}

// Cols is the last dimension; 1 for a scalar.
func (t *Tensor) Cols() int {
	if len(t.Shape) == 0 {
		return 1
	}
	return int(t.Shape[len(t.Shape)-1])
}

// Elements is the number of values.
func (t *Tensor) Elements() int64 { return int64(t.Rows()) * int64(t.Cols()) }

// Stored is the number of bytes on disk, all parts together.
func (t *Tensor) Stored() int64 {
	var n int64
	for _, p := range t.Parts {
		n += p.Len
	}
	return n
}

// KV is one entry of metadata. Value is a uint8 … uint64, int8 … int64,
// float32, float64, bool or string, or a slice of one of these.
type KV struct {
	Key   string
	Value any
}

// TensorPlan is one tensor of an artifact still to be written.
type TensorPlan struct {
	Name  string
	Shape []int64 // outermost first
	Type  dtype.Type
	Act   dtype.Type // what inputs of the product with it are rounded to: ActInt8, ActFP8, the zero Type for not at all
	Why   string     // for people: why this type; not written
	// Linear says that it is the matrix of a linear module: the configuration of
	// a quantized folder names those that stay as they are.
	Linear bool
	// Part is the first part of the name of a tensor that belongs to another part
	// of a larger model, which stays as it is; "": it is of the model itself.
	Part string
}

// Rows is as Tensor.Rows.
func (p TensorPlan) Rows() int { t := Tensor{Shape: p.Shape}; return t.Rows() }

// Cols is as Tensor.Cols.
func (p TensorPlan) Cols() int { t := Tensor{Shape: p.Shape}; return t.Cols() }

// Size is the number of bytes Writer.Write expects: dtype.Size of the plan.
func (p TensorPlan) Size() int { return dtype.Size(p.Type, p.Rows(), p.Cols()) }

// Writer fills the tensors of a plan. Nothing is visible at the target path
// before Commit. Write and Has may be called from several goroutines.
type Writer interface {
	// Has reports whether the tensor was finished before a restart.
	Has(name string) bool
	// Write stores one tensor of the plan, laid out as dtype.Planes says. Any
	// order; each once.
	Write(name string, data []byte) error
	// Read returns a finished tensor as it was given to Write, read back from
	// the unfinished files.
	Read(name string) ([]byte, error)
	// Commit publishes the artifact. It fails while a tensor is missing.
	Commit() error
	// Suspend closes the unfinished artifact; the same call that created the
	// Writer goes on with it later.
	Suspend() error
	// Abort closes and removes it. After Commit or Suspend it does nothing, so
	// it may be deferred.
	Abort()
}

// Layouts of folders.
const (
	Plain             = "plain"
	GPTQ              = "gptq"
	GPTQV2            = "gptq_v2" // GPTQ with zero points as they are, which GPTQ stores less one
	AWQ               = "awq"
	Bitsandbytes      = "bitsandbytes"
	EXL2              = "exl2"
	CompressedTensors = "compressed-tensors"
	FP8               = "fp8" // fine-grained: 8-bit floats with a scale for every block of 128×128
)

// Layouts lists the layouts of folders.
func Layouts() []string {
	return []string{Plain, GPTQ, GPTQV2, AWQ, Bitsandbytes, CompressedTensors, EXL2, FP8}
}

// InGPTQ reports the layouts of GPTQ's arrays.
func InGPTQ(layout string) bool { return layout == GPTQ || layout == GPTQV2 }

// FolderOptions says what a folder holds besides tensors and how the quantized
// ones are stored.
type FolderOptions struct {
	Config   []byte            // config.json; its quantization_config is replaced by the one of the Layout; nil writes none
	Files    map[string][]byte // further small files by name
	Plan     []TensorPlan      // quantized weights carry the name of the float weight, "….weight"
	MaxShard int64             // bytes in one safetensors file; 0: 5 GB
	Layout   string            // Plain when empty
	Head     string            // module of the output layer, which has no tensor where it is tied; "": there is none
	HeadToo  string            // what other programs call Head, whatever the file does: named wherever Head is; "": the same
	// Quantization is a JSON object merged over the quantization_config the
	// writer makes; e.g. {"damp_percent": 0.01}. nil adds nothing.
	Quantization []byte
}

// loader reads a logical tensor that is stored in several parts.
type loader func(*Tensor) ([]byte, error)
