package stages

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/engine"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/recipes"
)

// ModelOptions say how a model is loaded.
type ModelOptions struct {
	Adapters []string  // PEFT folders, or adapters in GGUF files
	Weights  []float64 // factor of each; 1 where there is none
	Combine  lora.Combination
	Seed     uint64       // of the random masks of a combination
	NF4      bool         // hold the linear layers as NF4, as QLoRA does
	BF16     bool         // arithmetic
	Exact    bool         // inputs of linear maps are not rounded, whatever the folder says
	Note     func(string) // is told what the adapters' folders decide; may be nil
}

// Loaded is a model ready to run, with its tokenizer.
type Loaded struct {
	Path string
	Src  *arch.Source
	*model.Model
	BF16     bool
	adapters []*lora.Adapter
	dirs     []string // of the adapters
	note     func(string)
	release  func() // of what the tokenizer takes; nil before it was asked for
}

// LoadModel opens a model by path or hf:// reference. The caller closes it. On a backend
// that only counts nothing is read but headers.
func LoadModel(dev kernels.Backend, path string, o ModelOptions) (*Loaded, error) {
	l, err := loadModel(dev, path, o)
	if _, counts := dev.(*dry.Dry); !counts && errors.Is(err, kernels.ErrOutOfMemory) {
		o.Note = nil
		if refused := room(dev, path, func(dev *dry.Dry) error {
			l, err := loadModel(dev, path, o)
			if err == nil {
				l.Close()
			}
			return err
		}); refused != nil {
			return nil, refused
		}
	}
	return l, err
}

func loadModel(dev kernels.Backend, path string, o ModelOptions) (*Loaded, error) {
	src, err := OpenSource(path)
	if err != nil {
		return nil, err
	}
	l := &Loaded{Path: path, Src: src, BF16: o.BF16, dirs: o.Adapters, note: noteTo(o.Note)}
	mo := model.Options{Exact: o.Exact}
	if text := unrounded(src); text != "" && !o.Exact {
		l.note(text)
	}
	if text := src.ConfigNote(); text != "" {
		l.note(text)
	}
	if text := src.CacheNote(); text != "" && !o.Exact {
		l.note(text)
	}
	if o.NF4 {
		t := dtype.NF4Double
		mo.Hold = &t
	}
	ads, err := readAdapters(src, o.Adapters, o.Weights)
	if err == nil {
		err = growFor(src, ads)
	}
	held := src
	if _, counts := dev.(*dry.Dry); err == nil && counts {
		held, err = shapesOf(src)
	}
	if err == nil {
		l.Model, err = model.Load(dev, held, mo)
	}
	if err != nil {
		src.Close()
		return nil, err
	}
	l.Fast = o.BF16
	if err := l.attach(dev, o, ads); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Room refuses requests whose answers memory has no room for, before any is begun.
func (l *Loaded) Room(ctx context.Context, requests []engine.Request) error {
	return room(l.Dev, l.Path, func(dev *dry.Dry) error {
		m, err := LoadModel(dev, l.Path, ModelOptions{Adapters: l.dirs, BF16: l.BF16})
		if err != nil {
			return err
		}
		defer m.Close()
		m.Fast = l.Fast
		if err := m.countTokenizer(); err != nil {
			return err
		}
		return rehearseAnswers(ctx, m, requests)
	})
}

// unrounded says which inputs the programs that serve a folder round and we do not; ""
// for none.
func unrounded(src *arch.Source) string {
	n, how := 0, ""
	for _, t := range src.Tensors() {
		if t.Unrounded != "" {
			n, how = n+1, t.Unrounded
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%s: programs that serve it round the inputs of %d matrices (%s); here they stay exact, so answers and measurements are a little better than theirs", src.Reader.Path(), n, how)
}

// growFor gives src the tokens that adapters were trained with.
func growFor(src *arch.Source, ads []lora.Weighted) error {
	for _, a := range ads {
		if err := lora.Grow(src, a.Folder); err != nil {
			return err
		}
	}
	return nil
}

func (l *Loaded) attach(dev kernels.Backend, o ModelOptions, ads []lora.Weighted) error {
	err := otherBase(l.Path, ads, false, l.note)
	if err == nil {
		ads, err = combined(dev, ads, o.Combine, o.Seed)
	}
	if err != nil {
		return err
	}
	for _, w := range ads {
		a, err := w.Attach(l.Model)
		if err != nil {
			return err
		}
		l.adapters = append(l.adapters, a)
	}
	return nil
}

// noteTo is f, or a function that drops what it is told.
func noteTo(f func(string)) func(string) {
	if f == nil {
		return func(string) {}
	}
	return f
}

// writtenNotes gives note what becomes of parts and types of src where it is written to a folder.
func writtenNotes(src *arch.Source, note func(string)) {
	for _, text := range []string{src.CarriedNote(false), src.DecodedNote()} {
		if text != "" {
			note(text)
		}
	}
}

// otherBase notes the adapters that say to belong to a base of other content than
// the model at path. One that names this very path is believed unless sure is set,
// since all of a large model would be read.
func otherBase(path string, ads []lora.Weighted, sure bool, note func(string)) error {
	for _, w := range ads {
		f := w.Folder
		if f.Notes.BaseHash == "" || f.Base == path && !sure {
			continue
		}
		h, err := recipes.ContentHash(path)
		if err != nil {
			return err
		}
		if f.Notes.BaseHash != string(h) {
			note(fmt.Sprintf("%s was trained on a base of other content than %s (%q): only its shapes fit", f.Dir, path, f.Base))
		}
	}
	return nil
}

// combined is adapters made into one; those that are added up stay as they are.
func combined(dev kernels.Backend, ads []lora.Weighted, c lora.Combination, seed uint64) ([]lora.Weighted, error) {
	if len(ads) == 0 || c.Sums() {
		return ads, c.Check()
	}
	one, err := lora.Combine(dev, ads, c, seed)
	return []lora.Weighted{{Folder: one, Weight: 1}}, err
}

// readAdapters reads PEFT folders, and GGUF files of adapters for the base src; a
// weight that is not given is 1.
func readAdapters(src *arch.Source, dirs []string, weights []float64) ([]lora.Weighted, error) {
	if len(weights) > len(dirs) {
		return nil, fail.Usagef("", "a weight belongs to the adapter at its place", "%d weights for %d adapters", len(weights), len(dirs))
	}
	var out []lora.Weighted
	for i, dir := range dirs {
		f, err := lora.Read(dir, src)
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
	if l.release != nil {
		l.release()
	}
	l.Model.Close()
	l.Src.Close()
}

// Tokenizer reads the model's tokenizer, with the chat templates of its adapters
// where they have some. It may have tokens without a row in the
// embedding: an id that a model does not have is an error where it is used.
func (l *Loaded) Tokenizer() (*tokenizer.Tokenizer, error) {
	if err := l.countTokenizer(); err != nil {
		return nil, err
	}
	return servedTokenizer(l.Src, l.dirs, l.note)
}

// countTokenizer counts what the model's tokenizer takes until l is closed.
func (l *Loaded) countTokenizer() (err error) {
	if l.release == nil {
		l.release, err = l.Dev.Host(tokenizer.Beyond(l.Src.Reader))
	}
	return err
}

// checkRows refuses ids of text that have no row in an embedding of rows rows.
// A tokenizer may have tokens beyond it, which most texts do not hold.
func checkRows(where string, tok *tokenizer.Tokenizer, ids []int32, rows int) error {
	for _, id := range ids {
		if int(id) >= rows {
			return fail.Inputf(where, "use the tokenizer that came with the model, or resize the embedding",
				"token id %d (%q): the embedding has %d rows, the tokenizer %d tokens", id, tok.Token(id), rows, tok.Size())
		}
	}
	return nil
}

// OpenTokenizer reads the tokenizer of a model with adapters, as Loaded.Tokenizer
// does, without its weights.
func OpenTokenizer(path string, adapters ...string) (*tokenizer.Tokenizer, *arch.Source, error) {
	src, err := OpenSource(path)
	if err != nil {
		return nil, nil, err
	}
	tok, err := servedTokenizer(src, adapters, noteTo(nil))
	if err != nil {
		src.Close()
	}
	return tok, src, err
}

// ingestTokenizer is OpenTokenizer for rows: a model without a tokenizer has
// none, which rows of type tokens do not need.
func ingestTokenizer(path string) (*tokenizer.Tokenizer, *arch.Source, error) {
	src, err := OpenSource(path)
	if err != nil {
		return nil, nil, err
	}
	if !hasTokenizer(src) {
		return nil, src, nil
	}
	tok, err := tokenizer.Open(src.Reader)
	if err != nil {
		src.Close()
		return nil, nil, err
	}
	return tok, src, nil
}

// TokenizerOf reads the tokenizer of a model, or of a folder that has only a
// tokenizer.
func TokenizerOf(path string) (*tokenizer.Tokenizer, error) {
	local, err := recipes.ResolvePath(path)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(local)
	if err == nil && st.IsDir() && !formats.HasWeights(local) && tokenizer.Found(tokenizerFolder{dir: local}.File) {
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

func (f tokenizerFolder) File(name string) ([]byte, error) {
	return formats.SideFile(filepath.Join(f.dir, name))
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

// modelFiles are the tokenizer and generation files of a model, in the form a
// Hugging Face folder has them.
func modelFiles(src *arch.Source) (map[string][]byte, error) {
	out := map[string][]byte{}
	const name = "generation_config.json"
	raw, err := copied(src, name)
	if err != nil {
		return nil, err
	}
	if raw != nil {
		out[name] = raw
	}
	if !hasTokenizer(src) {
		return out, nil
	}
	for _, name := range tokenizer.Files {
		if err := within(src.Reader.Path(), name); err != nil {
			return nil, err
		}
	}
	tok, err := tokenizer.Open(src.Reader)
	if err != nil {
		return nil, err
	}
	files, err := tok.HFFiles()
	if err != nil {
		return nil, err
	}
	maps.Copy(out, files)
	return out, nil
}

// baseFiles are modelFiles and what else of the model's folder belongs to a new
// version of its weights: the tokenizer's other forms, the licence.
func baseFiles(src *arch.Source) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
		"vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tekken.json", "chat_template.jinja", "generation_config.json", "LICENSE", "LICENSE.txt"} {
		b, err := copied(src, name)
		if err != nil {
			return nil, err
		}
		if b != nil {
			out[name] = b
		}
	}
	files, err := modelFiles(src)
	maps.Copy(out, files)
	return out, err
}

// copied reads a file of the model that a new model is given, too: nil where
// there is none.
func copied(src *arch.Source, name string) ([]byte, error) {
	if err := within(src.Reader.Path(), name); err != nil {
		return nil, err
	}
	return src.Reader.File(name)
}

// within refuses a link that leads out of a model's folder: what it holds is
// copied as it is into models that are given to others. In a cache of models the
// folder of the repository holds what its snapshots link to.
func within(dir, name string) error {
	if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
		return nil // whoever reads it says what is wrong, if anything is
	}
	real, err := filepath.EvalSymlinks(filepath.Join(dir, name))
	if err != nil {
		return fail.Inputf(filepath.Join(dir, name), "", "%w", err)
	}
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fail.Inputf(dir, "", "%w", err)
	}
	if up := filepath.Dir(root); filepath.Base(up) == "snapshots" {
		root = filepath.Dir(up)
	}
	if rel, err := filepath.Rel(root, real); err != nil || !filepath.IsLocal(rel) {
		return fail.Inputf(filepath.Join(dir, name), "copy the file there if it belongs to the model, or remove the link", "is a link to %q, outside of the folder; it would be copied into the new model", real)
	}
	return nil
}

// hasTokenizer also counts one that cannot be read: whoever opens it says why.
func hasTokenizer(src *arch.Source) bool {
	if src.Reader.Format() != "gguf" {
		return tokenizer.Found(src.Reader.File)
	}
	for _, kv := range src.Reader.KV() {
		if kv.Key == "tokenizer.ggml.tokens" {
			return true
		}
	}
	return false
}

// VerifyModel refuses a whole artifact that could not be loaded as the model it is:
// config and tensors, and the tokenizer where there is one, or an adapter that could
// not be read. Files of other things pass; note says where a model is of an
// architecture that is not known, of which only the file can be checked.
func VerifyModel(path string) (note string, err error) {
	r, err := formats.Open(path)
	if err != nil {
		return "", err
	}
	defer r.Close()
	b, err := r.File("adapter_config.json")
	if err != nil {
		return "", err
	}
	if b != nil && r.Config() == nil {
		_, err := lora.ReadFolder(path)
		return "", err
	}
	if r.Format() != "gguf" && r.Config() == nil {
		return "", nil
	}
	for _, kv := range r.KV() {
		if kind, _ := kv.Value.(string); kv.Key == "general.type" && kind != "model" {
			return "", nil
		}
	}
	if len(r.Tensors()) == 0 { // a vocabulary alone
		return "", nil
	}
	src, err := arch.FromReader(r)
	switch {
	case errors.Is(err, arch.ErrUnknown):
		return fmt.Sprintf("%v; its file was checked, not what it means", err), nil
	case err != nil:
		return "", err
	}
	if _, _, _, err := sampling(src, path); err != nil {
		return "", err
	}
	if hasTokenizer(src) {
		_, err = tokenizer.Open(src.Reader)
	}
	return "", err
}

// floatTypes are the types that unquantized weights are written in.
var floatTypes = map[string]dtype.Kind{"f32": dtype.F32, "f16": dtype.F16, "bf16": dtype.BF16}

// storageType reads a dtype option; auto is nil.
func storageType(name string) (*dtype.Type, error) {
	if name == "" || name == "auto" {
		return nil, nil
	}
	k, ok := floatTypes[name]
	if !ok {
		return nil, fail.Usagef("", "auto, bf16, f16 or f32", "storage type %q", name)
	}
	t := dtype.Of(k)
	return &t, nil
}

// OpenSource opens a model by path or reference without reading weights. The
// caller closes it.
func OpenSource(path string) (*arch.Source, error) {
	local, err := recipes.ResolvePath(path)
	if err != nil {
		return nil, err
	}
	return arch.Open(local)
}

// exists reports whether there is something at path.
func exists(path string) bool { _, err := os.Stat(path); return err == nil }
