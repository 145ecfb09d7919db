package gguf

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// ParseOverride reads KEY=TYPE:VALUE, a value of --override-kv. TYPE is int (stored as uint32, as
// llama-quantize does), float (float32), bool or str.
func ParseOverride(s string) (formats.KV, error) {
	bad := func(format string, args ...any) (formats.KV, error) {
		return formats.KV{}, fail.Usagef("override-kv", "for example --override-kv general.name=str:Mine; types are int, float, bool and str", "%q: "+format, append([]any{s}, args...)...)
	}
	key, rest, ok := strings.Cut(s, "=")
	kind, value, ok2 := strings.Cut(rest, ":")
	if !ok || !ok2 || key == "" {
		return bad("not of the form KEY=TYPE:VALUE")
	}
	e := formats.KV{Key: key}
	switch kind {
	case "int":
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < 0 || n > math.MaxUint32 {
			return bad("want an integer from 0 to %d, which GGUF's counts are", uint32(math.MaxUint32))
		}
		e.Value = uint32(n)
	case "float":
		f, err := strconv.ParseFloat(value, 32)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return bad("want a finite number of 32 bits")
		}
		e.Value = float32(f)
	case "bool":
		if value != "true" && value != "false" {
			return bad("want true or false")
		}
		e.Value = value == "true"
	case "str":
		e.Value = value
	default:
		return bad("unknown type %q", kind)
	}
	return e, nil
}

// set gives a key its value, at the end, as llama.cpp does.
func set(kv []formats.KV, key string, value any) []formats.KV {
	return append(slices.DeleteFunc(kv, func(e formats.KV) bool { return e.Key == key }), formats.KV{Key: key, Value: value})
}

// override checks the values that stand in place of those of the model, and lets what the mix asks for follow them.
func (in *input) override(with []formats.KV) error {
	kv := slices.Clone(in.kv)
	for i, e := range with {
		if slices.ContainsFunc(with[:i], func(o formats.KV) bool { return o.Key == e.Key }) {
			return fail.Usagef("override-kv", "give it once", "%s is given twice", e.Key)
		}
		if slices.Contains(formats.SplitKeys(), e.Key) {
			return fail.Usagef("override-kv", "leave it out", "%s follows from the files that are written", e.Key)
		}
		for _, old := range in.kv {
			if old.Key == e.Key && sort(old.Value) != sort(e.Value) {
				return fail.Usagef("override-kv", "give it the type that it has: llama.cpp reads no other", "%s is %s in the model, and %s is given", e.Key, sort(old.Value), sort(e.Value))
			}
		}
		kv = set(kv, e.Key, e.Value)
	}
	in.model = factsOf(kv)
	return nil
}

// sort is what kind of value v is, in the words of --override-kv.
func sort(v any) string {
	switch reflect.ValueOf(v).Kind() {
	case reflect.String:
		return "str"
	case reflect.Bool:
		return "bool"
	case reflect.Float32, reflect.Float64:
		return "float"
	case reflect.Slice:
		return "an array"
	}
	return "int"
}

// ParseLayers reads L,L…, the value of --prune-layers: numbers of blocks from 0, sorted.
func ParseLayers(s string) ([]int, error) {
	var out []int
	for _, f := range strings.Split(s, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 0 {
			return nil, fail.Usagef("prune-layers", "numbers of blocks from 0, for example 20,21,22", "%q is no number of a block", f)
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// blockName is a tensor of a block.
var blockName = regexp.MustCompile(`^blk\.([0-9]+)\.`)

// prune takes blocks out and gives those behind them their numbers, as llama-quantize does, which leaves
// values of single blocks (feed_forward_length …) as they are: they go with their blocks here.
func (in *input) prune(layers []int) error {
	if len(layers) == 0 {
		return nil
	}
	n := in.model.Layers
	if last := layers[len(layers)-1]; last >= n {
		return fail.Usagef("prune-layers", fmt.Sprintf("its blocks are 0 to %d", n-1), "the model has no block %d", last)
	}
	if len(layers) == n {
		return fail.Usagef("prune-layers", "leave some", "all %d blocks of the model are named", n)
	}
	for _, t := range in.tensors {
		if strings.HasPrefix(t.Name, "enc.blk.") || strings.HasPrefix(t.Name, "dec.blk.") {
			return fail.Usagef("prune-layers", "", "a model of an encoder and a decoder has two lists of blocks, which no number tells apart")
		}
	}
	var kept []MixTensor
	for _, t := range in.tensors {
		m := blockName.FindStringSubmatch(t.Name)
		if m == nil {
			kept = append(kept, t)
			continue
		}
		b, err := strconv.Atoi(m[1])
		if err != nil {
			return fail.Inputf(t.Name, "", "not the name of a block: %w", err)
		}
		before, gone := slices.BinarySearch(layers, b)
		if gone {
			continue
		}
		t.source, t.Name = t.Name, fmt.Sprintf("blk.%d.%s", b-before, t.Name[len(m[0]):])
		kept = append(kept, t)
	}
	before, shapes := slices.Clone(in.kv), shapesOf(in.tensors)
	in.tensors = kept
	for i, e := range in.kv {
		if v := reflect.ValueOf(e.Value); v.Kind() == reflect.Slice && strings.HasPrefix(e.Key, in.model.Arch+".") && v.Len() == n {
			out := reflect.MakeSlice(v.Type(), 0, n-len(layers))
			for b := range n {
				if _, gone := slices.BinarySearch(layers, b); !gone {
					out = reflect.Append(out, v.Index(b))
				}
			}
			in.kv[i].Value = out.Interface()
		}
	}
	after := set(slices.Clone(in.kv), in.model.Arch+".block_count", uint32(n-len(layers)))
	if what := arch.PruneNote(before, after, shapes, shapesOf(kept), layers); what != "" {
		in.leftOut = strings.Join(slices.DeleteFunc([]string{in.leftOut, "pruned blocks change the kind of others, which follows from their numbers: by the new ones, " + what}, func(s string) bool { return s == "" }), "; ")
	}
	return nil
}

// shapesOf are the shapes of tensors by their names in the output.
func shapesOf(tensors []MixTensor) map[string][]int64 {
	out := map[string][]int64{}
	for _, t := range tensors {
		out[t.Name] = t.Shape
	}
	return out
}

// Only keeps the entries whose names hold one of include, or none of exclude; of empty lists all. It returns nil
// where none is left. A word that no name holds is an error.
func (m *Imatrix) Only(include, exclude []string) (*Imatrix, error) {
	if len(include) > 0 && len(exclude) > 0 {
		return nil, fail.Usagef("include-weights", "one of the two", "--include-weights and --exclude-weights contradict each other")
	}
	flag, words := "include-weights", include
	if len(exclude) > 0 {
		flag, words = "exclude-weights", exclude
	}
	if len(words) == 0 {
		return m, nil
	}
	for _, w := range words {
		if w == "" || !slices.ContainsFunc(m.Entries, func(e ImatrixEntry) bool { return strings.Contains(e.Name, w) }) {
			return nil, fail.Usagef(flag, "entries have GGUF names, for example "+firstEntry(m), "%q is part of no name in %s", w, m.File)
		}
	}
	out := *m
	out.Entries = slices.DeleteFunc(slices.Clone(m.Entries), func(e ImatrixEntry) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(e.Name, w) }) == (len(exclude) > 0)
	})
	if len(out.Entries) == 0 {
		return nil, nil
	}
	return &out, nil
}

// ReadTensorTypes reads a file of RE=TYPE, separated by blanks or line ends (--tensor-type-file).
func ReadTensorTypes(path string) ([]TensorType, error) {
	raw, err := formats.TextFile(path)
	if err != nil {
		return nil, err
	}
	var out []TensorType
	for _, s := range strings.Fields(string(raw)) {
		t, err := ParseTensorType(s)
		if err != nil {
			return nil, fail.Inputf(path, fail.Hint(err), "%w", err)
		}
		out = append(out, t)
	}
	if len(out) == 0 {
		return nil, fail.Inputf(path, "for example attn_v=Q6_K", "no type of a tensor in it")
	}
	return out, nil
}

// part is a file of the output: its tensors among all choices.
type part struct{ lo, hi int }

// parts divides the choices, which are in file order: one for each part of the source with KeepSplit, or as many as
// SplitSize asks for, whose tensors with their padding take no more bytes than it; one alone without both.
func (o *Options) parts(in *input, choices []Choice) []part {
	all := []part{{0, len(choices)}}
	switch {
	case o.KeepSplit:
		last := 0
		for _, c := range choices {
			last = max(last, c.part)
		}
		out := make([]part, last+1)
		for i, c := range choices {
			for p := c.part; p <= last; p++ {
				out[p].hi = i + 1
				if p > c.part {
					out[p].lo = i + 1
				}
			}
		}
		return out
	case o.SplitSize > 0:
		var out []part
		var size int64
		for i, c := range choices {
			n := (c.bytes() + 31) / 32 * 32
			if size += n; len(out) == 0 || size > o.SplitSize {
				out, size = append(out, part{i, i}), n
			}
			out[len(out)-1].hi = i + 1
		}
		if len(out) > 0 {
			return out
		}
	}
	return all
}

// bytes is the size of the tensor in the output.
func (c *Choice) bytes() int64 {
	p := formats.TensorPlan{Shape: c.Shape, Type: c.To}
	return int64(dtype.Size(c.To, p.Rows(), p.Cols()))
}

// files are the paths that the parts are written to.
func (o *Options) files(out string, n int) []string {
	if !o.KeepSplit && o.SplitSize == 0 {
		return []string{out}
	}
	prefix := strings.TrimSuffix(out, ".gguf")
	files := make([]string, n)
	for i := range files {
		files[i] = formats.SplitPath(prefix, i, n)
	}
	return files
}
