package recipes

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/formats/hub"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/lora"
)

// resolvePath maps hf://org/name@revision to the local cache and embedded: to
// an unpacked copy; other paths stay.
func resolvePath(path string) (string, error) {
	if name, ok := strings.CutPrefix(path, embeddedPrefix); ok {
		return unpack(name)
	}
	if hub.IsRef(path) {
		dir, _, err := hub.Resolve(path)
		return dir, err
	}
	return path, nil
}

// ResolvePath is what every command does with a path a user gives.
func ResolvePath(path string) (string, error) { return resolvePath(path) }

// ModelOptions say how a model is loaded.
type ModelOptions struct {
	Adapters []string  // PEFT folders, summed
	Weights  []float64 // factor of each; 1 where there is none
	NF4      bool      // hold the linear layers as NF4, as QLoRA does
	BF16     bool      // arithmetic
}

// Loaded is a model ready to run, with its tokenizer.
type Loaded struct {
	Path string
	Src  *arch.Source
	*model.Model
	BF16     bool
	adapters []*lora.Adapter
}

// LoadModel opens a model by path or hf:// reference. The caller closes it.
func LoadModel(dev kernels.Backend, path string, o ModelOptions) (*Loaded, error) {
	local, err := resolvePath(path)
	if err != nil {
		return nil, err
	}
	src, err := arch.Open(local)
	if err != nil {
		return nil, err
	}
	l := &Loaded{Path: path, Src: src, BF16: o.BF16}
	mo := model.Options{}
	if o.NF4 {
		t := dtype.NF4Double
		mo.Hold = &t
	}
	if l.Model, err = model.Load(dev, src, mo); err != nil {
		src.Close()
		return nil, err
	}
	l.Fast = o.BF16
	if err := l.attach(o.Adapters, o.Weights); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (l *Loaded) attach(dirs []string, weights []float64) error {
	ads, err := readAdapters(dirs, weights)
	for _, w := range ads {
		a, err := w.Attach(l.Model)
		if err != nil {
			return err
		}
		l.adapters = append(l.adapters, a)
	}
	return err
}

// readAdapters reads PEFT folders; a weight that is not given is 1.
func readAdapters(dirs []string, weights []float64) ([]lora.Weighted, error) {
	if len(weights) > len(dirs) {
		return nil, fail.Usagef("", "a weight belongs to the adapter at its place", "%d weights for %d adapters", len(weights), len(dirs))
	}
	var out []lora.Weighted
	for i, dir := range dirs {
		f, err := lora.ReadFolder(dir)
		if err != nil {
			return nil, err
		}
		w := lora.Weighted{Folder: f, Weight: 1}
		if i < len(weights) {
			w.Weight = weights[i]
		}
		out = append(out, w)
	}
	return out, nil
}

// Close gives everything back.
func (l *Loaded) Close() {
	for _, a := range l.adapters {
		a.Close()
	}
	l.Model.Close()
	l.Src.Close()
}

// Tokenizer reads the model's tokenizer and checks that it fits the model.
func (l *Loaded) Tokenizer() (*tokenizer.Tokenizer, error) { return openTokenizer(l.Src) }

func openTokenizer(src *arch.Source) (*tokenizer.Tokenizer, error) {
	tok, err := tokenizer.Open(src.Reader)
	if err != nil {
		return nil, err
	}
	if tok.Size() > src.Spec.V {
		return nil, fail.Inputf(src.Reader.Path(), "the tokenizer belongs to another model",
			"tokenizer has %d tokens, the embedding %d rows", tok.Size(), src.Spec.V)
	}
	return tok, nil
}

// OpenTokenizer reads the tokenizer of a model without its weights.
func OpenTokenizer(path string) (*tokenizer.Tokenizer, *arch.Source, error) {
	tok, src, err := ingestTokenizer(path)
	if err == nil && tok == nil {
		_, err = openTokenizer(src) // says what is missing
		src.Close()
	}
	return tok, src, err
}

// ingestTokenizer is OpenTokenizer for rows: a model without a tokenizer has
// none, which rows of type tokens do not need.
func ingestTokenizer(path string) (*tokenizer.Tokenizer, *arch.Source, error) {
	local, err := resolvePath(path)
	if err != nil {
		return nil, nil, err
	}
	src, err := arch.Open(local)
	if err != nil {
		return nil, nil, err
	}
	if !hasTokenizer(src) {
		return nil, src, nil
	}
	tok, err := openTokenizer(src)
	if err != nil {
		src.Close()
		return nil, nil, err
	}
	return tok, src, nil
}

// TokenizerOf reads the tokenizer of a model, or of a folder that has only a
// tokenizer.
func TokenizerOf(path string) (*tokenizer.Tokenizer, error) {
	local, err := resolvePath(path)
	if err != nil {
		return nil, err
	}
	if weights, _ := filepath.Glob(filepath.Join(local, "*.safetensors")); len(weights) == 0 && exists(filepath.Join(local, "tokenizer.json")) {
		return tokenizer.Open(tokenizerFolder{dir: local})
	}
	r, err := formats.Open(local)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return tokenizer.Open(r)
}

// tokenizerFolder reads a folder without weights; it has no other method of a
// Reader.
type tokenizerFolder struct {
	formats.Reader
	dir string
}

func (f tokenizerFolder) Path() string   { return f.dir }
func (f tokenizerFolder) Format() string { return "hf" }

func (f tokenizerFolder) File(name string) ([]byte, bool) {
	raw, err := os.ReadFile(filepath.Join(f.dir, name))
	return raw, err == nil
}

// ParseBF16 reads a dtype option: auto is bf16 where the machine multiplies it
// clearly faster.
func ParseBF16(dev kernels.Backend, name string) (bool, error) {
	switch name {
	case "", "auto":
		return dev.Info().FastBF16, nil
	case "bf16":
		return true, nil
	case "f32":
		return false, nil
	}
	return false, fail.Usagef("", "auto, f32 or bf16", "dtype %q", name)
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }
