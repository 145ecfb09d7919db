package lora

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// An adapter in a GGUF is as llama.cpp's convert_lora_to_gguf makes it: for every
// adapted tensor NAME.lora_a [r, in] and NAME.lora_b [out, r] under the base's name of
// it and with its rows, of experts with their number in front; of the table of tokens,
// where they are looked up, NAME.lora_a [V, r] and NAME.lora_b [in, r]. The factor of the
// product is adapter.lora.alpha over r; alpha 0 stands for factor 1.
const (
	ggufAlpha = "adapter.lora.alpha"
	ggufA     = ".lora_a"
	ggufB     = ".lora_b"
)

// IsGGUF reports whether a path is that of a GGUF, not of a PEFT folder.
func IsGGUF(path string) bool { return strings.EqualFold(filepath.Ext(path), ".gguf") }

// Read reads an adapter: a PEFT folder, or a GGUF for the base src, which for a folder
// may be nil: adapters are combined without it.
func Read(path string, src *arch.Source) (*Folder, error) {
	if IsGGUF(path) {
		return ReadGGUF(path, src)
	}
	f, err := ReadFolder(path)
	if err != nil || src == nil {
		return f, err
	}
	return f, f.checkTying(src.Spec.Tied)
}

// WriteGGUF writes the adapter for the base src as a GGUF whose matrices are of type
// typ: F32, F16, BF16 or Q8_0, the last with F16 where rows are no whole blocks. Of src
// no weights are read but those of tables that the adapter holds whole. What is no
// low-rank matrix of a linear map or of an untied table of tokens is an error, and so is
// one that llama.cpp would leave out without a word.
func (f *Folder) WriteGGUF(path string, src *arch.Source, name string, typ dtype.Type) error {
	if err := f.plainLoRA("merge the adapter, and export the model"); err != nil {
		return err
	}
	mods, tensors := sourceModules(src)
	for _, t := range f.tensors {
		t.used = false
	}
	chosen, err := f.choose(f.Config, mods)
	if err != nil {
		return f.blame(err)
	}
	stems := storedPaths(chosen)
	alpha, folded, err := f.ggufAlpha(chosen)
	if err != nil {
		return err
	}
	var plan []formats.TensorPlan
	data := map[string][]byte{}
	for i, mod := range chosen {
		t := tensors[mod.index]
		table := mod.Kind == EmbeddingModule
		if t == nil || table && !looksUp(src, t) {
			return fail.Inputf(f.Dir, "merge the adapter, and export the model", "%s: "+otherTables, mod.Path)
		}
		if src.Unheard(t.Rule) {
			return fail.Inputf(f.Dir, "merge the adapter, and export the model; or train one without it (exclude_modules)", "%s: llama.cpp does not apply an adapter's matrices of it in architecture %s", mod.Path, src.GGUFName())
		}
		r, al, err := f.Config.rankAlpha(mod.name())
		if err != nil {
			return err
		}
		var a, b []float32
		if table {
			if b, a, err = f.table(stems[i], r, t.Rows, t.Cols); err == nil {
				a = transposed(a, 1, t.Cols, r)
			}
		} else {
			a, b, err = f.layer(stems[i], r, t.Rows/max(t.Experts, 1), t.Cols, t.Experts, t.Turned)
		}
		if err != nil {
			return err
		}
		if folded {
			b = slices.Clone(b)
			by := float32(float64(f.Config.scale(r, al)) * float64(r) / float64(alpha))
			for i := range b {
				b[i] *= by
			}
		}
		pieces := t.AsGGUF()
		if len(pieces) == 0 {
			return fail.Inputf(f.Dir, "merge the adapter, and export the model", "%s: a GGUF has no tensor for it", mod.Path)
		}
		for _, p := range pieces {
			if err := addPiece(&plan, data, p, a, b, r, typ, table); err != nil {
				return fail.Inputf(f.Dir, "merge the adapter, and export the model", "%s: %w", mod.Path, err)
			}
		}
	}
	if err := f.ownTables(src); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(f.tensors)) {
		if !f.tensors[name].used {
			return fail.Inputf(f.Dir, "merge the adapter, and export the model", "tensor %s%s: a GGUF holds low-rank matrices only", prefix, name)
		}
	}
	kv := []formats.KV{{Key: "general.architecture", Value: src.GGUFName()}, {Key: "general.type", Value: "adapter"}, {Key: "adapter.type", Value: "lora"},
		{Key: "general.name", Value: name}, {Key: ggufAlpha, Value: alpha}, {Key: "general.quantization_version", Value: uint32(2)}}
	w, err := formats.CreateGGUF(path, kv, plan)
	if err != nil {
		return err
	}
	defer w.Abort()
	for _, p := range plan {
		if w.Has(p.Name) {
			continue
		}
		if err := w.Write(p.Name, data[p.Name]); err != nil {
			return err
		}
	}
	return w.Commit()
}

// otherTables is why the adapter of an embedding, or of a head that is one, has no place
// in a GGUF: llama.cpp reads it where it looks tokens up, and of a tied head it would
// multiply with the same two matrices.
const otherTables = "a GGUF holds low-rank matrices of linear maps and of the table of tokens, not of a tied table or head, of positions, or of an encoder's tokens"

// looksUp reports whether llama.cpp takes the adapter of the embedding t.
func looksUp(src *arch.Source, t *arch.Tensor) bool {
	return t.Role == arch.Embed && !src.Spec.Tied && src.Spec.Encoder == 0
}

// ownTables takes the tables, and the biases of heads, that PEFT stores beside their adapters.
// They must be those of the base, but for a rounding to bf16; with one of a quantized base
// nothing is compared.
func (f *Folder) ownTables(src *arch.Source) error {
	for _, name := range slices.Sorted(maps.Keys(f.tensors)) {
		t := src.Named(baseName(name))
		if t == nil || !strings.Contains(name, ".base_layer.") {
			continue
		}
		v, err := f.takeWhole(name, ofTokens(t), t.Shape()...)
		if err != nil {
			return err
		}
		m, _, err := src.Read(t)
		if err != nil {
			return err
		}
		if m.Type.Quantized() {
			continue
		}
		own := make([]float32, len(v))
		block.DecodeAll(own, m)
		for i, x := range own {
			if d := math.Abs(float64(v[i]) - float64(x)); !(d <= math.Abs(float64(x))/256) {
				return fail.Inputf(f.Dir, "merge the adapter, and export the model", "tensor %s%s[%d] is %v, in the base %v: a GGUF holds low-rank matrices only", prefix, name, i, v[i], x)
			}
		}
	}
	return nil
}

// CheckGGUF refuses what WriteGGUF would of the adapter: before it is trained.
func (ad *Adapter) CheckGGUF() error {
	const hint = "merge the adapter, and export the model"
	switch {
	case ad.Kind != "":
		return fail.Usagef("export.adapter", hint, "an adapter of kind %s is not LoRA: a GGUF holds low-rank matrices only", ad.Kind)
	case ad.Config.UseDoRA:
		return fail.Usagef("lora.use_dora", hint, "use_dora: its magnitudes are no low-rank matrices, and a GGUF holds nothing else")
	case ad.Config.LoRABias:
		return fail.Usagef("lora.lora_bias", hint, "lora_bias: its biases are no low-rank matrices, and a GGUF holds nothing else")
	case len(ad.whole) > 0 || len(ad.variants) > 0:
		return fail.Usagef("export.adapter", hint, "a GGUF holds low-rank matrices only, and no modules trained whole")
	}
	src := ad.model.Source()
	for _, l := range ad.tables {
		if t := ad.model.TensorOf(l.embed.W); t == nil || !looksUp(src, t) {
			return fail.Usagef("export.adapter", hint, "%s: "+otherTables, l.path)
		}
	}
	var paths, names []string
	for i := range ad.Layers {
		l := &ad.Layers[i]
		if t := ad.model.TensorOf(l.Linear.W); t != nil && src.Unheard(t.Rule) {
			paths, names = append(paths, l.Path), append(names, cmp.Or(l.param, l.Path[strings.LastIndexByte(l.Path, '.')+1:]))
		}
	}
	if len(paths) == 0 {
		return nil
	}
	slices.Sort(names)
	return fail.Usagef("lora.exclude_modules", fmt.Sprintf("exclude_modules: [%s]; or %s", strings.Join(slices.Compact(names), ", "), hint),
		"llama.cpp does not apply an adapter's matrices of %s (%d modules in all) in architecture %s", paths[0], len(paths), src.GGUFName())
}

// ggufAlpha is the alpha that gives every module its factor over its rank: rsLoRA's is
// alpha·√r. Where no number does, folded says that B takes what differs.
func (f *Folder) ggufAlpha(chosen []Module) (alpha float32, folded bool, err error) {
	first := true
	for _, mod := range chosen {
		r, al, err := f.Config.rankAlpha(mod.name())
		if err != nil {
			return 0, false, err
		}
		own := float32(al)
		if f.Config.UseRSLoRA {
			own = float32(float64(f.Config.scale(r, al)) * float64(r))
		}
		if first {
			alpha, first = own, false
		} else if own != alpha {
			folded = true
		}
	}
	if folded {
		alpha = float32(f.Config.Alpha)
	}
	if alpha == 0 { // which readers of such files take for factor 1
		return 1, true, nil
	}
	return alpha, folded, nil
}

// addPiece plans A and B of one of the file's tensors, which may be the table of tokens.
func addPiece(plan *[]formats.TensorPlan, data map[string][]byte, p arch.FileTensor, a, b []float32, r int, typ dtype.Type, table bool) error {
	fa, fb, err := p.LowRank(a, b, r)
	if err != nil {
		return err
	}
	in, n := int64(p.Of.Cols), max(p.Of.Experts, 1)
	shapes := [][]int64{{int64(r), in}, {int64(len(fb) / r / n), int64(r)}}
	if table {
		fa, fb = fb, transposed(fa, 1, r, p.Of.Cols)
		shapes = [][]int64{shapes[1], {in, int64(r)}}
	}
	for i, v := range [][]float32{fa, fb} {
		if n > 1 || p.Of.Experts > 0 {
			shapes[i] = append([]int64{int64(n)}, shapes[i]...)
		}
		one := formats.TensorPlan{Name: p.Name + []string{ggufA, ggufB}[i], Shape: shapes[i], Type: typ}
		if !dtype.Fits(typ, one.Cols()) {
			one.Type = dtype.Of(dtype.F16)
		}
		m := block.New(one.Type, one.Rows(), one.Cols())
		if err := block.Encode(m, v, nil); err != nil {
			return err
		}
		data[one.Name] = m.Data
		*plan = append(*plan, one)
	}
	return nil
}

// ReadGGUF reads an adapter from a GGUF for the base src, of which no weights are read.
// Errors are of kind fail.Input.
func ReadGGUF(path string, src *arch.Source) (*Folder, error) {
	r, err := formats.Open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	g := &ggufAdapter{r: r, tensors: map[string]*formats.Tensor{}}
	if err := g.readKeys(src); err != nil {
		return nil, err
	}
	list := r.Tensors()
	for i := range list {
		g.tensors[list[i].Name] = &list[i]
	}
	f := &Folder{Dir: path, Base: g.base, tensors: map[string]*stored{}}
	if src.Spec.Encoder > 0 {
		f.task = "SEQ_2_SEQ_LM"
	}
	mods, tensors := sourceModules(src)
	var chosen []Module
	var low []*lowRank
	for i, t := range tensors {
		if t == nil {
			continue
		}
		table := mods[i].Kind == EmbeddingModule
		l, err := g.take(t, table)
		if err != nil {
			return nil, err
		}
		if l == nil {
			continue
		}
		if table && !looksUp(src, t) {
			return nil, fail.Inputf(path, "train one without it (exclude_modules)", "%s: "+otherTables, mods[i].Path)
		}
		chosen, low = append(chosen, mods[i]), append(low, l)
	}
	for _, name := range slices.Sorted(maps.Keys(g.tensors)) {
		return nil, fail.Inputf(path, "is it an adapter of this base?", "tensor %s has no place in this model", name)
	}
	if len(low) == 0 {
		return nil, fail.Inputf(path, "", "holds no tensor")
	}
	g.fill(f, mods, chosen, low)
	return f, nil
}

// ggufAdapter is an open file.
type ggufAdapter struct {
	r       formats.Reader
	alpha   float64
	base    string
	tensors map[string]*formats.Tensor // not taken yet
}

func (g *ggufAdapter) readKeys(src *arch.Source) error {
	text := map[string]string{}
	for _, kv := range g.r.KV() {
		if _, ok := kv.Value.(float32); kv.Key == ggufAlpha && !ok {
			return fail.Inputf(g.r.Path(), "", "%s is %v of type %T, want a float32", ggufAlpha, kv.Value, kv.Value)
		}
		switch v := kv.Value.(type) {
		case string:
			text[kv.Key] = v
		case float32:
			if kv.Key == ggufAlpha {
				g.alpha = float64(v)
			}
		}
		if strings.HasPrefix(kv.Key, "adapter.") && kv.Key != ggufAlpha && kv.Key != "adapter.type" {
			return fail.Inputf(g.r.Path(), "", "%s is not supported", kv.Key)
		}
	}
	if text["general.type"] != "adapter" || text["adapter.type"] != "lora" {
		return fail.Inputf(g.r.Path(), "give a PEFT folder or a LoRA adapter in a GGUF", "is no adapter: general.type is %q, adapter.type %q", text["general.type"], text["adapter.type"])
	}
	if name := text["general.architecture"]; name != src.GGUFName() {
		return fail.Inputf(g.r.Path(), "", "was made for a base of architecture %s, %s is %s", name, src.Reader.Path(), src.GGUFName())
	}
	if !(g.alpha >= 0 && g.alpha < 1e9) {
		return fail.Inputf(g.r.Path(), "", "%s is %v", ggufAlpha, g.alpha)
	}
	g.base = cmp.Or(text["general.base_model.0.name"], src.Reader.Path())
	return nil
}

// lowRank is the adapter of one tensor in memory: a [experts·r, in], b [rows, r].
type lowRank struct {
	t     *arch.Tensor
	a, b  []float32
	r     int
	one   bool // the factor is in b already
	table bool // rows are tokens
}

// take puts the adapter of a tensor together from those of its pieces; nil where there
// is none. Pieces with a different A lie beside each other in the rank.
func (g *ggufAdapter) take(t *arch.Tensor, table bool) (*lowRank, error) {
	var parts []lowRank
	for _, p := range t.AsGGUF() {
		l, err := g.piece(p, table)
		if err != nil {
			return nil, err
		}
		if l != nil {
			parts = append(parts, *l)
		}
	}
	if len(parts) == 0 {
		return nil, nil
	}
	out := parts[0]
	same := func(l lowRank) bool { return l.r == out.r && slices.Equal(l.a, out.a) }
	if !slices.ContainsFunc(parts, func(l lowRank) bool { return !same(l) }) {
		for _, l := range parts[1:] { // rows of other pieces are 0
			for i, v := range l.b {
				out.b[i] += v
			}
		}
		return &out, nil
	}
	all := 0
	for _, l := range parts {
		all += l.r
	}
	n := max(t.Experts, 1)
	sum := lowRank{t: t, a: make([]float32, n*all*t.Cols), b: make([]float32, t.Rows*all), r: all, one: true, table: table}
	at := 0
	for _, l := range parts {
		by := float32(g.scale(l.r))
		for e := range n {
			copy(sum.a[(e*all+at)*t.Cols:], l.a[e*l.r*t.Cols:(e+1)*l.r*t.Cols])
		}
		for row := range t.Rows {
			for j := range l.r {
				sum.b[row*all+at+j] = l.b[row*l.r+j] * by
			}
		}
		at += l.r
	}
	return &sum, nil
}

// scale is the factor of a product of rank r.
func (g *ggufAdapter) scale(r int) float64 {
	if g.alpha == 0 {
		return 1
	}
	return g.alpha / float64(r)
}

// piece reads the adapter of one of the base's tensors in a GGUF.
func (g *ggufAdapter) piece(p arch.FileTensor, table bool) (*lowRank, error) {
	ta, tb := g.tensors[p.Name+ggufA], g.tensors[p.Name+ggufB]
	if ta == nil && tb == nil {
		return nil, nil
	}
	if ta == nil || tb == nil {
		return nil, fail.Inputf(g.r.Path(), "", "%s has one of %s and %s", p.Name, ggufA, ggufB)
	}
	sa, sb := ta.Shape, tb.Shape
	if table && len(sb) == 2 {
		sa, sb = []int64{sb[1], sb[0]}, sa
	}
	n := len(sa)
	want := append(slices.Clone(p.Shape[:len(p.Shape)-2]), 0, 0)
	if n != len(want) || len(sb) != n || sa[n-1] != p.Shape[n-1] || sb[n-2] != p.Shape[n-2] || sa[n-2] != sb[n-1] || sa[n-2] < 1 ||
		!slices.Equal(sa[:n-2], want[:n-2]) || !slices.Equal(sb[:n-2], want[:n-2]) {
		return nil, fail.Inputf(g.r.Path(), "", "was made for another base: A and B of %s are %v and %v, the tensor is %v", p.Name, ta.Shape, tb.Shape, p.Shape)
	}
	a, err := g.values(ta)
	if err != nil {
		return nil, err
	}
	b, err := g.values(tb)
	if err != nil {
		return nil, err
	}
	delete(g.tensors, p.Name+ggufA)
	delete(g.tensors, p.Name+ggufB)
	l := &lowRank{t: p.Of, r: int(sb[n-1]), table: table}
	if table {
		a, b = transposed(b, 1, p.Of.Cols, l.r), a
	}
	l.b = make([]float32, p.Of.Rows*l.r)
	if l.a, err = p.FromLowRank(a, b, l.r, l.b); err != nil {
		return nil, fail.Inputf(g.r.Path(), "", "%w", err)
	}
	return l, nil
}

// values decodes a tensor.
func (g *ggufAdapter) values(t *formats.Tensor) ([]float32, error) {
	raw, err := g.r.Read(t)
	if err != nil {
		return nil, err
	}
	m := block.Raw{Type: t.Type, Rows: t.Rows(), Cols: t.Cols(), Data: raw}
	if err := m.Check(); err != nil {
		return nil, fail.Inputf(g.r.Path(), "", "%s: %w", t.Name, err)
	}
	v := make([]float32, t.Elements())
	block.DecodeAll(v, m)
	return v, formats.CheckFinite(t.Name, v, 0, t.Cols())
}

// fill makes the folder that says the same.
func (g *ggufAdapter) fill(f *Folder, mods, chosen []Module, low []*lowRank) {
	c := Config{Bias: "none", InitWeights: InitKaiming, R: low[0].r}
	var paths []string
	for _, m := range chosen {
		if m.Param == "" {
			paths = append(paths, m.Path)
		} else {
			c.TargetParameters = append(c.TargetParameters, m.name())
		}
	}
	if len(paths) > 0 {
		c.TargetModules = explicit(Config{TargetModules: Targets{All: true}}, paths, mods)
	}
	if c.Alpha = g.alpha; g.alpha == 0 || low[0].one {
		c.Alpha = float64(c.R)
	}
	for i, stem := range storedPaths(chosen) {
		l := low[i]
		alpha := g.alpha
		if alpha == 0 || l.one {
			alpha = float64(l.r)
		}
		if l.r != c.R {
			c.RankPattern = append(c.RankPattern, PatternEntry{chosen[i].name(), float64(l.r)})
		}
		if alpha != c.Alpha {
			c.AlphaPattern = append(c.AlphaPattern, PatternEntry{chosen[i].name(), alpha})
		}
		f.put(stem, l)
	}
	f.Config = c
}

// put stores a module's matrices as PEFT does.
func (f *Folder) put(stem string, l *lowRank) {
	t, n := l.t, max(l.t.Experts, 1)
	if l.table {
		f.tensors[stem+embeddingA] = &stored{shape: []int64{int64(l.r), int64(t.Rows)}, data: transposed(l.b, 1, t.Rows, l.r)}
		f.tensors[stem+embeddingB] = &stored{shape: []int64{int64(t.Cols), int64(l.r)}, data: transposed(l.a, 1, l.r, t.Cols)}
		return
	}
	a, b, in, out := l.a, l.b, t.Cols, t.Rows/n
	if t.Turned {
		a, b = transposed(l.b, n, out, l.r), transposed(l.a, n, l.r, in)
		in, out = out, in
	}
	if t.Experts > 0 {
		b = toPEFT(b, l.r, n)
	}
	f.tensors[stem+".lora_A.weight"] = &stored{shape: []int64{int64(n * l.r), int64(in)}, data: a}
	f.tensors[stem+".lora_B.weight"] = &stored{shape: []int64{int64(out), int64(n * l.r)}, data: b}
}
