// Package gguf writes GGUF files as llama-quantize does: it chooses a storage
// type for every tensor by the mix of an output type, weighs columns by an
// importance matrix, and reports what each tensor became and why. It also reads
// and writes importance matrices; package quant collects them.
package gguf

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Options are the options of llama-quantize.
type Options struct {
	Type            string       // Q4_K_M, Q8_0, F16, …, COPY
	Imatrix         *Imatrix     // nil: none
	Pure            bool         // one type for all matrices
	Tensors         []TensorType // first match wins
	OutputType      string       // for output.weight; "" by the mix
	EmbeddingType   string       // for token_embd.weight; "" by the mix
	LeaveOutput     bool         // output.weight keeps its type
	AllowRequantize bool         // decode what is already quantized
	DryRun          bool         // plan only: nothing is written
	Force           bool         // replace an existing output
	Name            string       // general.name of a model that comes from a folder; "" its base name

	Override  []formats.KV // values that take the place of the model's (ParseOverride)
	Prune     []int        // blocks left out; those behind move up (ParseLayers)
	KeepSplit bool         // as many files as the model has, with the same tensors
	SplitSize int64        // bytes of tensors in one file; 0: one file for all
}

// Tensor is one tensor of the output and how it got its type.
type Tensor struct {
	Name       string  `json:"name"`
	Shape      []int64 `json:"shape"`
	From       string  `json:"from"`
	To         string  `json:"to"`
	Bytes      int64   `json:"bytes"`
	Why        string  `json:"why"`
	Fallback   bool    `json:"fallback,omitempty"`   // the row length forbade what was wanted
	Importance bool    `json:"importance,omitempty"` // weighed by the importance matrix
}

// Report says what was, or with DryRun would be, written.
type Report struct {
	Tensors       []Tensor `json:"tensors"`
	SourceBytes   int64    `json:"source_bytes"` // of tensors
	Bytes         int64    `json:"bytes"`        // of tensors
	Elements      int64    `json:"elements"`
	Fallbacks     int      `json:"fallbacks"`
	NoImportance  []string `json:"no_importance,omitempty"`  // quantized without, though a matrix is given
	UnusedEntries []string `json:"unused_entries,omitempty"` // of the matrix: no tensor has the name
	NeedsImatrix  bool     `json:"needs_imatrix,omitempty"`  // the real run will refuse
	Decoded       string   `json:"decoded,omitempty"`        // small floats with scales that are decoded before they are encoded again, in words
	LeftOut       string   `json:"left_out,omitempty"`       // other parts of a larger model, and what llama.cpp does otherwise, in words
	Files         []string `json:"files,omitempty"`          // of an output in parts
}

// BitsPerWeight is the mean over all tensors.
func (r *Report) BitsPerWeight() float64 {
	return float64(r.Bytes) * 8 / float64(max(r.Elements, 1))
}

// Notes say, one a line, which parts of a larger model are left out or mean something
// else to llama.cpp, and what an
// importance matrix did not do: matrices that were quantized without it, and entries of it that no tensor has. The embedding never
// has one: its rows are looked up.
func (r *Report) Notes() []string {
	var out []string
	for _, text := range []string{r.LeftOut, r.Decoded} {
		if text != "" {
			out = append(out, text)
		}
	}
	without := slices.DeleteFunc(slices.Clone(r.NoImportance), func(n string) bool { return categorize(n) == catEmbedding })
	if n := len(without); n > 0 {
		out = append(out, fmt.Sprintf("no importance for %d of %d tensors: %s", n, len(r.Tensors), someOf(without)))
	}
	if n := len(r.UnusedEntries); n > 0 {
		out = append(out, fmt.Sprintf("%d entries of the importance matrix belong to no tensor: %s", n, someOf(r.UnusedEntries)))
	}
	return out
}

// someOf are the first few of names.
func someOf(names []string) string {
	const few = 4
	if len(names) > few {
		return strings.Join(names[:few], ", ") + " …"
	}
	return strings.Join(names, ", ")
}

// input is a model on its way to GGUF, in GGUF's names.
type input struct {
	model     MixModel
	kv        []formats.KV
	tensors   []MixTensor                                   // types as a conversion to GGUF would give them
	stored    map[string]dtype.Type                         // types as they lie in the file
	leftOut   string                                        // what a GGUF has no place for, and what llama.cpp does otherwise, in words
	read      func(name string) ([]byte, dtype.Type, error) // a tensor of the source, decoded where no GGUF has its type
	small     map[string]dtype.Type                         // types of small floats with scales, and of what has rounded inputs, by their names in the source
	smallNote string                                        // what goes where all of those are decoded, in words
	packed    map[string]packed                             // tensors that a GGUF type holds as they are, by their names in the source
	first     []formats.TensorPlan                          // tensors that the model's keys make, before all others
	values    func(name string) []byte
	close     func() error
	folder    bool  // not a GGUF
	tokenizer int64 // bytes of memory that its tokenizer takes
}

// Write writes the model at src, a GGUF file or a Hugging Face folder, as a GGUF
// file at out, or in parts at formats.SplitPath of out without its ending. Tensors, their order and the metadata are those of
// llama-quantize. progress is called with elements done and in all; it may be
// nil. A cancelled run is suspended and goes on when called again.
//
// dev counts the memory that this takes.
func Write(ctx context.Context, dev kernels.Backend, src, out string, o Options, progress func(done, total int64)) (*Report, error) {
	if o.KeepSplit && o.SplitSize > 0 {
		return nil, fail.Usagef("keep-split", "one of the two", "--keep-split and --split-max-size contradict each other")
	}
	if !o.DryRun && !o.KeepSplit && o.SplitSize == 0 { // before anything is read
		if err := free(src, []string{out}, o.Force); err != nil {
			return nil, err
		}
	}
	in, err := openInput(src, &o)
	if err != nil {
		return nil, err
	}
	defer in.close()
	choices, rep, err := planTypes(in, &o)
	if err != nil {
		return rep, err
	}
	parts := o.parts(in, choices)
	files := o.files(out, len(parts))
	if len(files) > 1 || files[0] != out {
		rep.Files = files
	}
	if o.DryRun {
		return rep, nil
	}
	if err := free(src, files, o.Force); err != nil {
		return rep, err
	}
	if err := refuse(src, choices, rep, &o); err != nil {
		return rep, err
	}
	kv, err := metadata(in, &o)
	if err != nil {
		return rep, err
	}
	release, err := dev.Host(Memory(choices) + in.tokenizer)
	if err != nil {
		return rep, err
	}
	defer release()
	w, err := in.create(out, &o, kv, choices, parts)
	if err != nil {
		return rep, err
	}
	defer w.Abort()
	g := encoder{ctx: ctx, in: in, w: w, o: &o, rep: rep, progress: progress}
	for i := range choices {
		if err = g.tensor(&choices[i]); err != nil {
			break
		}
	}
	if e := g.flush(); err == nil {
		err = e
	}
	switch {
	case err == nil:
		return rep, w.Commit()
	case ctx.Err() != nil:
		return rep, g.suspend(out)
	}
	return rep, err
}

// free refuses an output that is a file of the input, or that exists.
func free(src string, files []string, force bool) error {
	for _, out := range files {
		if _, err := os.Lstat(out); err != nil { // a link to nothing is something
			continue
		}
		st, _ := os.Stat(out)
		for _, in := range formats.Parts(src) {
			if s, err := os.Stat(in); err == nil && st != nil && os.SameFile(s, st) {
				return fail.Usagef(out, "name another output", "output and input are the same file")
			}
		}
		if !force {
			return fail.Usagef(out, "name another output, or use --force to replace it", "the file exists")
		}
	}
	return nil
}

// create starts the output: one file, or the parts, each with the tensors of its choices and those that
// stand before all others in the first.
func (in *input) create(out string, o *Options, kv []formats.KV, choices []Choice, parts []part) (formats.Writer, error) {
	var set []formats.GGUFPart
	for i, p := range parts {
		f := formats.GGUFPart{KV: kv}
		if i == 0 {
			f.Plan = slices.Clone(in.first)
		} else {
			f.KV = nil
		}
		for _, c := range choices[p.lo:p.hi] {
			f.Plan = append(f.Plan, formats.TensorPlan{Name: c.Name, Shape: c.Shape, Type: c.To, Why: c.Why})
		}
		if len(parts) > 1 {
			f.KV = append(slices.Clone(f.KV), o.splitKeys(i, len(parts), len(in.first)+len(choices))...)
		}
		set = append(set, f)
	}
	var w formats.Writer
	var err error
	if o.KeepSplit || o.SplitSize > 0 {
		w, err = formats.CreateSplitGGUF(strings.TrimSuffix(out, ".gguf"), set)
	} else {
		w, err = formats.CreateGGUF(out, kv, set[0].Plan)
	}
	if err != nil {
		return nil, err
	}
	for _, t := range in.first {
		if !w.Has(t.Name) {
			if err := w.Write(t.Name, in.values(t.Name)); err != nil {
				w.Abort()
				return nil, err
			}
		}
	}
	return w, nil
}

// planTypes chooses all types and checks that the conversion is allowed.
func planTypes(in *input, o *Options) ([]Choice, *Report, error) {
	mo, err := o.mix(o.Imatrix != nil)
	if err != nil {
		return nil, nil, err
	}
	if err := in.override(o.Override); err != nil {
		return nil, nil, err
	}
	if err := in.prune(o.Prune); err != nil {
		return nil, nil, err
	}
	choices, err := Mix(in.model, in.tensors, mo)
	if err != nil {
		return nil, nil, err
	}
	choices = in.withNumbers(choices)
	rep, err := describe(in, choices, o)
	if rep != nil {
		rep.LeftOut, rep.Decoded = in.leftOut, in.decoded(choices)
	}
	return choices, rep, err
}

// MixOf chooses the types that Write with o will give the tensors of a model,
// which may exist in a plan only. importance says that there will be a matrix.
func MixOf(src *arch.Source, o *Options, importance bool) ([]Choice, error) {
	mo, err := o.mix(importance)
	if err != nil {
		return nil, err
	}
	for _, t := range src.Tensors() {
		if t.Type.Quantized() && !t.Type.ScaledFloat() && !t.Vector && !o.AllowRequantize {
			return nil, fail.Inputf("export", "start from the float model, or accept the loss with --allow-requantize, in a recipe allow_requantize: true", "%s is already %v", t.Name, t.Type)
		}
	}
	kv, err := arch.GGUFKeys(&src.Spec, "", 0, nil)
	if err != nil {
		return nil, err
	}
	choices, err := Mix(factsOf(kv), mixTensors(src, mo.FileType), mo)
	if err != nil {
		return nil, err
	}
	for i := range choices {
		if c := &choices[i]; c.NeedsImatrix && !importance {
			return nil, needsImatrix(c, o)
		}
	}
	return choices, nil
}

// mix is what o says of types.
func (o *Options) mix(importance bool) (MixOptions, error) {
	mo := MixOptions{Importance: importance, Pure: o.Pure, LeaveOutput: o.LeaveOutput, Tensors: o.Tensors, keepOrder: o.KeepSplit}
	var err error
	if mo.FileType, err = ParseFileType(o.Type); err != nil {
		return mo, err
	}
	if mo.Output, err = optionalKind("output-tensor-type", o.OutputType); err != nil {
		return mo, err
	}
	if mo.Embedding, err = optionalKind("token-embedding-type", o.EmbeddingType); err != nil {
		return mo, err
	}
	for _, t := range o.Tensors {
		if err := encodable("tensor-type "+t.Pattern, t.Type); err != nil {
			return mo, err
		}
	}
	return mo, nil
}

func optionalKind(flag, name string) (*dtype.Kind, error) {
	if name == "" {
		return nil, nil
	}
	k, err := ParseTensorKind(flag, name)
	return &k, err
}

// ParseTensorKind finds a type that a GGUF tensor can be encoded to, ignoring
// case. flag names the option in the error.
func ParseTensorKind(flag, name string) (dtype.Kind, error) {
	k, ok := dtype.Parse(name)
	if !ok {
		return k, fail.Usagef(flag, kindHint(), "unknown tensor type %q", name)
	}
	return k, encodable(flag, k)
}

// ParseTensorType reads RE=TYPE, the value of --tensor-type.
func ParseTensorType(s string) (TensorType, error) {
	i := strings.LastIndexByte(s, '=')
	if i <= 0 {
		return TensorType{}, fail.Usagef("tensor-type", "for example attn_v=Q6_K", "%q is not of the form REGEXP=TYPE", s)
	}
	if _, err := regexp.Compile(s[:i]); err != nil {
		return TensorType{}, fail.Usagef("tensor-type", "", "%q is not a regular expression: %v", s[:i], err)
	}
	k, err := ParseTensorKind("tensor-type", s[i+1:])
	return TensorType{Pattern: s[:i], Type: k}, err
}

func encodable(flag string, k dtype.Kind) error {
	if k.Info().GGUF < 0 || !block.CanEncode(k) {
		return fail.Usagef(flag, kindHint(), "tensors of a GGUF cannot be encoded as %v", k)
	}
	return nil
}

func kindHint() string {
	s := "one of"
	for _, k := range dtype.Kinds() {
		if k.Info().GGUF >= 0 && block.CanEncode(k) {
			s += " " + k.String()
		}
	}
	return s
}

func describe(in *input, choices []Choice, o *Options) (*Report, error) {
	rep := &Report{}
	used := map[string]bool{}
	for i := range choices {
		c := &choices[i]
		from := in.stored[c.in()]
		if in.keeps(c) {
			from = c.To
		}
		cols, rows := c.Shape[max(len(c.Shape)-1, 0):], int64(1)
		n := int64(1)
		if len(cols) == 1 {
			n = cols[0]
		}
		for _, d := range c.Shape[:max(len(c.Shape)-1, 0)] {
			rows *= d
		}
		if c.To.Kind.Info().GGUF < 0 {
			return nil, fail.Inputf(c.Name, "give the tensor a type with --tensor-type or --output-tensor-type", "%v cannot be stored in a GGUF", c.To)
		}
		if !dtype.Fits(c.To, int(n)) {
			return nil, fail.Inputf(c.Name, "choose another type for it", "rows of %d cannot be stored as %v (blocks of %d)", n, c.To, c.To.Kind.Info().Block)
		}
		t := Tensor{Name: c.Name, Shape: c.Shape, From: from.String(), To: c.To.String(), Why: c.Why, Fallback: c.Fallback,
			Bytes: int64(dtype.Size(c.To, int(rows), int(n)))}
		if c.Fallback {
			rep.Fallbacks++
		}
		e, err := importanceOf(o.Imatrix, c)
		if err != nil {
			return nil, err
		}
		if e != nil {
			used[e.Name] = true
		}
		t.Importance = e != nil && from != c.To && block.Weighs(c.To.Kind)
		if e == nil && o.Imatrix != nil && from != c.To && c.To.Quantized() {
			rep.NoImportance = append(rep.NoImportance, c.Name)
		}
		rep.NeedsImatrix = rep.NeedsImatrix || c.NeedsImatrix && e == nil
		rep.SourceBytes += int64(dtype.Size(from, int(rows), int(n)))
		rep.Bytes += t.Bytes
		rep.Elements += rows * n
		rep.Tensors = append(rep.Tensors, t)
	}
	if o.Imatrix != nil {
		for _, e := range o.Imatrix.Entries {
			if !used[e.Name] {
				rep.UnusedEntries = append(rep.UnusedEntries, e.Name)
			}
		}
		if len(used) == 0 {
			return nil, fail.Inputf(o.Imatrix.File, "make one from this very model with quant imatrix", "the importance matrix has no entry for any tensor of the model (its first is %q)", firstEntry(o.Imatrix))
		}
	}
	return rep, nil
}

func firstEntry(m *Imatrix) string {
	if len(m.Entries) == 0 {
		return ""
	}
	return m.Entries[0].Name
}

// importanceOf is the entry for a tensor, nil when there is none.
func importanceOf(m *Imatrix, c *Choice) (*ImatrixEntry, error) {
	if m == nil {
		return nil, nil
	}
	i := slices.IndexFunc(m.Entries, func(e ImatrixEntry) bool { return e.Name == c.in() })
	if i < 0 || len(c.Shape) < 2 {
		return nil, nil
	}
	e := &m.Entries[i]
	want := c.Shape[len(c.Shape)-1]
	if len(c.Shape) > 2 {
		want *= c.Shape[len(c.Shape)-3]
	}
	if int64(len(e.Sums)) == want {
		return e, nil
	}
	if categorize(c.Name) == catEmbedding {
		return nil, nil
	}
	return nil, fail.Inputf(m.File, "make one from this very model with quant imatrix", "%s has %d values, the tensor needs %d", e.Name, len(e.Sums), want)
}

// refuse is where llama-quantize throws.
func refuse(src string, choices []Choice, rep *Report, o *Options) error {
	for i, c := range choices {
		if c.NeedsImatrix && (o.Imatrix == nil || slices.Contains(rep.NoImportance, c.Name)) {
			return needsImatrix(&choices[i], o)
		}
		from := rep.Tensors[i].From
		if from != rep.Tensors[i].To && quantizedName(from) && !o.AllowRequantize {
			return fail.Inputf(src, "start from the float model, or accept the loss with --allow-requantize, in a recipe allow_requantize: true", "%s is already quantized (%s); requantizing it to %v is not allowed", c.Name, from, c.To)
		}
	}
	return nil
}

// needsImatrix says that a tensor cannot have its type without importance.
func needsImatrix(c *Choice, o *Options) error {
	with := ""
	if o.Imatrix != nil {
		with = " with an entry for it, and " + o.Imatrix.File + " has none"
	}
	return fail.Inputf(c.Name, "quant imatrix makes one; give it with --imatrix, in a recipe imatrix: ingest; or choose a type that needs none, as IQ3_S, Q2_K or TQ2_0",
		"%s as %v needs an importance matrix%s", o.Type, c.To, with)
}

func quantizedName(s string) bool {
	for _, k := range dtype.Kinds() {
		if k.Plain() && k.String() == s {
			return false
		}
	}
	return true
}

// metadata is the source's, with what describes the new file at its end.
func metadata(in *input, o *Options) ([]formats.KV, error) {
	f, err := ParseFileType(o.Type)
	if err != nil {
		return nil, err
	}
	id := f.ID
	kv := slices.DeleteFunc(slices.Clone(in.kv), func(e formats.KV) bool { return slices.Contains(formats.SplitKeys(), e.Key) })
	if f.Name == "COPY" {
		id = in.fileType()
	}
	kv = set(kv, "general.quantization_version", uint32(2))
	kv = set(kv, "general.file_type", id)
	for _, e := range o.Override {
		kv = set(kv, e.Key, e.Value)
	}
	if m := o.Imatrix; m != nil {
		kv = set(kv, "quantize.imatrix.file", m.File)
		if len(m.Datasets) > 0 {
			kv = set(kv, "quantize.imatrix.dataset", m.Datasets[0])
		}
		kv = set(kv, "quantize.imatrix.entries_count", uint32(len(m.Entries)))
		if m.Chunks > 0 {
			kv = set(kv, "quantize.imatrix.chunks_count", uint32(m.Chunks))
		}
	}
	if n := len(o.Prune); n > 0 {
		kv = set(kv, in.model.Arch+".block_count", uint32(in.model.Layers-n))
	}
	return kv, nil
}

// guessed is what llama.cpp adds to a file type that no key says.
const guessed = 1024

// fileType is general.file_type of a copy: the model's, or as llama.cpp guesses it, that of the type that most
// tensors have, of a folder most matrices.
func (in *input) fileType() uint32 {
	for _, e := range in.kv {
		if e.Key == "general.file_type" && !in.folder {
			return uint32(intOf(e.Value))
		}
	}
	n, most := map[dtype.Type]int{}, dtype.Of(dtype.F32)
	for _, t := range slices.SortedFunc(slices.Values(in.tensors), func(a, b MixTensor) int { return compareNames(a.Name, b.Name) }) {
		if in.folder && len(t.Shape) < 2 {
			continue
		}
		if n[t.Type]++; n[t.Type] > n[most] {
			most = t.Type
		}
	}
	id := uint32(0)
	if f, err := ParseFileType(most.Kind.String()); err == nil {
		id = f.ID
	}
	switch {
	case in.folder:
		return id
	case most.Kind == dtype.MXFP4: // to llama.cpp no type of a file, but by its key
		return guessed
	}
	return id | guessed
}

// splitKeys are the keys of part i of n, in the order of llama-quantize or of llama-gguf-split.
func (o *Options) splitKeys(i, n, tensors int) []formats.KV {
	no, count, all := formats.SplitKeysOf(i, n, tensors)
	if o.KeepSplit {
		return []formats.KV{no, count, all}
	}
	return []formats.KV{no, all, count}
}

// baseName is the last part of a path, of a GGUF file without its ending.
func baseName(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		abs = path
	}
	return strings.TrimSuffix(filepath.Base(abs), ".gguf")
}
