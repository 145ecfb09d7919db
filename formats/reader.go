package formats

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
)

// Bounds of files that are read whole: tokenizer.json, of which 100 MB are known, and
// index.json; and config.json and its like, of which each byte may take a hundred of
// memory.
const (
	maxSmall  = 256 << 20
	maxConfig = 16 << 20
)

// artifact implements Reader for every format.
type artifact struct {
	path     string
	format   string
	dir      string // of a folder
	config   []byte
	kv       []KV
	meta     []KV // __metadata__ of all safetensors of a folder
	tensors  []Tensor
	sources  []*source
	warnings []string
}

// Open opens an artifact: a Hugging Face folder, a .safetensors, a .gguf or a
// file of torch.save, told apart by content. Errors are of kind fail.Input.
func Open(path string) (Reader, error) {
	a, err := open(path)
	if err != nil {
		return nil, err // a nil *artifact must not become a Reader
	}
	return a, nil
}

func open(path string) (*artifact, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, openError(path, err)
	}
	a := &artifact{path: path}
	if st.IsDir() {
		a.format, a.dir = "hf", path
		err = a.folder()
	} else {
		err = a.single()
	}
	if err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// add opens one more file of the artifact.
func (a *artifact) add(path string) (*source, error) {
	s, err := openSource(path)
	if err == nil {
		a.sources = append(a.sources, s)
	}
	return s, err
}

// single opens a lone file.
func (a *artifact) single() error {
	s, err := a.add(a.path)
	if err != nil {
		return err
	}
	magic, err := s.read(0, min(4, s.size))
	if err != nil {
		return err
	}
	if string(magic) == "GGUF" || strings.EqualFold(filepath.Ext(a.path), ".gguf") {
		a.format = "gguf"
		return a.gguf(s)
	}
	var arrays []array
	if a.format = "safetensors"; isPickle(a.path) {
		a.format = "pytorch"
		arrays, a.warnings, err = pytorch(s)
	} else {
		arrays, a.kv, err = safetensors(s)
	}
	if err != nil {
		return err
	}
	a.tensors = make([]Tensor, len(arrays))
	for i := range arrays {
		a.tensors[i] = arrays[i].tensor()
	}
	return nil
}

// isPickle reports whether a file's name is one that torch.save's files have.
func isPickle(path string) bool {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".bin", ".pt", ".pth", ".ckpt", ".pkl":
		return true
	}
	return false
}

func (a *artifact) Path() string       { return a.path }
func (a *artifact) Format() string     { return a.format }
func (a *artifact) Config() []byte     { return a.config }
func (a *artifact) KV() []KV           { return a.kv }
func (a *artifact) Tensors() []Tensor  { return a.tensors }
func (a *artifact) Warnings() []string { return a.warnings }

func (a *artifact) File(name string) ([]byte, error) {
	if a.dir == "" || !plainName(name) {
		return nil, nil
	}
	return SideFile(filepath.Join(a.dir, name))
}

// SideFile reads a small file that need not be there: nil where it is not. One
// that is there and cannot be read is an error of kind fail.Input, so that no
// template or tokenizer is missing without a word.
func SideFile(path string) ([]byte, error) {
	limit := int64(maxSmall)
	if strings.HasSuffix(path, "_config.json") || strings.HasSuffix(path, "_map.json") {
		limit = maxConfig
	}
	b, err := smallFile(path, limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

func (a *artifact) Read(t *Tensor) ([]byte, error) {
	if t.Unsupported != "" {
		return nil, unsupported(a.path, "", "tensor %s is stored as %s, which this program does not decode", quote(t.Name), t.Unsupported)
	}
	if t.load != nil {
		return t.load(t)
	}
	return t.Parts[0].read()
}

func (a *artifact) ReadRows(t *Tensor, row0, rows int) ([]byte, error) {
	if t.Unsupported != "" || t.load != nil {
		return nil, fail.Inputf(a.path, "", "tensor %s (%v) cannot be read by rows", quote(t.Name), t.Type)
	}
	all := t.Rows()
	if row0 < 0 || rows < 0 || rows > all || row0 > all-rows {
		return nil, fail.Inputf(a.path, "", "tensor %s has %d rows; rows %d to %d were asked for", quote(t.Name), all, row0, row0+rows)
	}
	p := &t.Parts[0]
	if p.stride != nil {
		return p.gather(row0, rows)
	}
	width := p.Len / int64(max(all, 1))
	return p.src.read(p.Off+int64(row0)*width, int64(rows)*width)
}

func (a *artifact) Map(t *Tensor) ([]byte, bool) {
	if t.Unsupported != "" || t.load != nil || t.Parts[0].Len == 0 {
		return nil, false
	}
	if t.Parts[0].stride != nil {
		return nil, false
	}
	in := t.Type.Kind.Info()
	if in.Block == 1 && t.Parts[0].Off%int64(in.Bytes) != 0 {
		return nil, false
	}
	return t.Parts[0].src.bytes(t.Parts[0].Off, t.Parts[0].Len)
}

// Forget lets go of the memory that holds a mapped tensor, for those who go
// through a large model once. What Map returned stays valid and is read from
// the file again when it is used.
func (a *artifact) Forget(t *Tensor) {
	if b, ok := a.Map(t); ok {
		forgetPages(b)
	}
}

func (a *artifact) Close() error {
	var errs []error
	for _, s := range a.sources {
		errs = append(errs, s.close())
	}
	a.sources = nil
	return errors.Join(errs...)
}
