package stages

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/recipes"
)

// Fit is what answering with a model takes, by how its weights are stored. Nothing of
// it is measured: it follows from shapes.
type Fit struct {
	Model   string `json:"model"`
	Arch    string `json:"architecture"`
	Params  int64  `json:"parameters"`
	Stored  string `json:"stored"` // type of its linear maps
	Licence string `json:"licence,omitempty"`
	Context int    `json:"context"`
	Longest int    `json:"longest_context"` // that it was trained for
	Memory  int64  `json:"memory"`
	// Cache is the bytes of keys, values and states of one conversation of Context
	// tokens, keys and values in 16 bits; Working what computing takes beside.
	Cache    int64      `json:"cache_bytes"`
	Working  int64      `json:"working_bytes"`
	Rows     []FitRow   `json:"types"`
	Parallel []FitShare `json:"tensor_parallel"`
	Notes    []string   `json:"notes,omitempty"`
}

// FitRow is the model with its weights in one type.
type FitRow struct {
	Type    string  `json:"type"`
	For     string  `json:"for"`
	Bits    float64 `json:"bits_per_weight"`
	Weights int64   `json:"weight_bytes"`
	Total   int64   `json:"total_bytes"`
	Fits    bool    `json:"fits"`
	Context int     `json:"context_that_fits"` // at most Longest; 0: none
}

// FitShare says whether so many devices can share the model.
type FitShare struct {
	Devices int    `json:"devices"`
	Even    bool   `json:"even"`
	Why     string `json:"why,omitempty"`
	Group   int    `json:"group_size"` // the largest of quantized columns that is not cut; 0: none
}

// Any reports whether the model fits in any type.
func (f *Fit) Any() bool { return slices.ContainsFunc(f.Rows, func(r FitRow) bool { return r.Fits }) }

// fitTypes are the GGUF mixes that are looked at, from large to small.
var fitTypes = []string{"BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K", "IQ2_XXS"}

// fitPrompt is how many tokens of a prompt are computed at a time.
const fitPrompt = 512

// FitModel says what a model takes with a context, and which types of its weights fit
// into memory; context 0 is 8,192, or what the model was trained for. path may be a
// config.json, or a folder with nothing but one. No weights are read.
func FitModel(path string, memory int64, context int) (*Fit, error) {
	src, config, err := openShapes(path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	f := &Fit{Model: path, Arch: src.Architecture(), Params: src.Spec.Params(), Stored: src.LinearType().String(), Licence: recipes.LicenceOf(src.Reader), Longest: src.Spec.MaxPos, Memory: memory}
	if config {
		f.Notes = append(f.Notes, "shapes follow from config.json alone: weights are taken for 16 bits")
		f.Stored = ""
	}
	if f.Context = context; context == 0 {
		f.Context = min(8192, f.Longest)
	}
	if f.Context > f.Longest {
		f.Notes = append(f.Notes, fmt.Sprintf("the model was trained for %d tokens", f.Longest))
	}
	one, _, err := cacheOf(src, 1)
	if err != nil {
		return nil, err
	}
	all, working, err := cacheOf(src, f.Context)
	if err != nil {
		return nil, err
	}
	perToken := float64(all-one) / float64(max(f.Context-1, 1)) / 2 // here they are 32 bits
	f.Cache, f.Working = one+int64(perToken*float64(f.Context-1)), working
	windows, latents := src.Spec.LessCached(f.Context)
	if windows {
		f.Notes = append(f.Notes, "the cache has all positions of layers with windows, too, as here; llama.cpp and vLLM keep the windows alone")
	}
	if latents {
		f.Notes = append(f.Notes, "the cache has the keys and values that latents become, as here; llama.cpp and vLLM keep the latents alone")
	}
	f.rows(src, perToken, one)
	for _, n := range []int{2, 4, 8} {
		why, group := src.Spec.Split(n)
		f.Parallel = append(f.Parallel, FitShare{Devices: n, Even: why == "", Why: why, Group: group})
	}
	return f, nil
}

// openShapes opens a model, or what a config.json alone describes.
func openShapes(path string) (src *arch.Source, config bool, err error) {
	local, err := recipes.ResolveHeaders(path)
	if err != nil {
		return nil, false, err
	}
	local = recipes.OnlyModelIn(local)
	file := local
	if st, err := os.Stat(local); err == nil && st.IsDir() {
		if file = filepath.Join(local, "config.json"); formats.HasWeights(local) {
			src, err = arch.Open(local)
			if !errors.Is(err, formats.ErrHeaderOnly) { // else shapes are among the values: bitsandbytes
				return src, false, err
			}
		}
	} else if !strings.EqualFold(filepath.Ext(local), ".json") {
		src, err = arch.Open(local)
		return src, false, err
	}
	text, err := formats.SideFile(file)
	if err != nil {
		return nil, false, err
	}
	if text == nil {
		return nil, false, fail.Inputf(path, "give a model's folder, a config.json or a GGUF", "there is no model")
	}
	src, err = arch.FromConfig(file, text, dtype.Of(dtype.BF16))
	return src, true, err
}

// cacheOf counts the bytes of a cache for so many tokens, and of what computing part
// of a prompt and the token after it takes.
func cacheOf(src *arch.Source, tokens int) (cache, working int64, err error) {
	dev := dry.New(dry.Options{})
	m, err := dryModel(dev, src)
	if err != nil {
		return 0, 0, err
	}
	defer m.Close()
	before := dev.Info().Mem.Now
	c, err := m.NewCache(1, tokens)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	held := dev.Info().Mem.Now
	cache = kernels.Total(held) - kernels.Total(before)
	dev.ResetCounters()
	part := make([]int32, min(tokens, fitPrompt))
	if src.Spec.Encoder > 0 { // which reads the prompt, and the answer begins with one token
		c.Source(0, part)
		part = part[:1]
	}
	_, err = m.Step(c, []model.Piece{{Tokens: part}})
	return cache, dev.Info().PeakTotal - kernels.Total(held), err
}

// rows lists how the weights can be stored: as they are, as GGUF, and in 4 bits for
// other programs.
func (f *Fit) rows(src *arch.Source, perToken float64, states int64) {
	add := func(typ, who string, bytes int64) {
		r := FitRow{Type: typ, For: who, Bits: 8 * float64(bytes) / float64(f.Params), Weights: bytes, Total: bytes + f.Cache + f.Working}
		r.Fits = r.Total <= f.Memory
		if left := f.Memory - bytes - f.Working - states; left >= 0 {
			if r.Context = f.Longest; perToken > 0 {
				r.Context = int(min(float64(f.Longest), 1+float64(left)/perToken))
			}
		}
		f.Rows = append(f.Rows, r)
	}
	if f.Stored != "" {
		add(f.Stored, "as stored", heldBytes(src))
	} else {
		add(dtype.BF16.String(), "Transformers", heldBytes(src))
	}
	for _, typ := range fitTypes {
		types, err := exportedTypes(&Export{Format: "gguf", Imatrix: "any", AllowRequantize: true}, src, typ)
		if err != nil {
			f.Notes = append(f.Notes, fmt.Sprintf("GGUF %s: %v", typ, err))
			if typ == fitTypes[0] { // a model that GGUF cannot state
				break
			}
			continue
		}
		add(typ, "GGUF", sizeAs(src, types))
	}
	if bytes, ok := linearAs(src, dtype.NF4Double); ok {
		add("NF4", "bitsandbytes", bytes)
	}
	for _, group := range []int32{128, 64, 32} {
		if bytes, ok := linearAs(src, dtype.Type{Kind: dtype.Int4, Group: group}); ok {
			add(fmt.Sprintf("W4A16 g%d", group), "GPTQ, AWQ", bytes)
			break
		}
	}
}

// linearAs is the size of a model whose linear maps have a type, the rest 16 bits;
// false where their columns are no whole groups.
func linearAs(src *arch.Source, linear dtype.Type) (bytes int64, ok bool) {
	for _, t := range src.Tensors() {
		typ := dtype.Of(dtype.BF16)
		if t.IsLinear() {
			if typ = linear; t.Cols%int(typ.Group) != 0 {
				return 0, false
			}
		}
		bytes += int64(dtype.Size(typ, t.Rows, t.Cols))
	}
	return bytes, true
}
