package formats

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// maxProblems is how many problems Verify lists.
const maxProblems = 20

// Verify reads an artifact whole and returns everything that is wrong with it
// in one error that wraps ErrCorrupt, nil when nothing is: damaged or
// inconsistent headers, weights and scales that are not finite, group indices
// out of range, metadata that contradicts the tensors.
func Verify(path string) error {
	a, err := open(path)
	if err != nil {
		return err
	}
	defer a.Close()
	var v verifier
	for _, w := range a.warnings {
		v.add("%s", w)
	}
	v.tensors(a)
	switch a.format {
	case "gguf":
		v.gguf(a)
	case "hf":
		v.folder(a)
	}
	return v.result(path)
}

// verifier collects problems.
type verifier struct {
	problems []string
	more     int
}

func (v *verifier) add(format string, args ...any) {
	if len(v.problems) == maxProblems {
		v.more++
		return
	}
	v.problems = append(v.problems, fmt.Sprintf(format, args...))
}

func (v *verifier) result(path string) error {
	if len(v.problems) == 0 {
		return nil
	}
	text := strings.Join(v.problems, "\n  ")
	if v.more > 0 {
		text += fmt.Sprintf("\n  and %d more", v.more)
	}
	err := fail.Inputf(path, corruptHint, "problems found: %d\n  %s", len(v.problems)+v.more, text)
	err.Err = ErrCorrupt
	return err
}

// tensors reads every tensor and looks for values that are not finite.
func (v *verifier) tensors(a *artifact) {
	found := make([]string, len(a.tensors))
	par.For(len(a.tensors), 1, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			found[i] = scan(a, &a.tensors[i])
		}
	})
	for _, f := range found {
		if f != "" {
			v.add("%s", f)
		}
	}
}

// scan returns what is wrong with one tensor, "" when nothing is.
func scan(a *artifact, t *Tensor) string {
	if t.Unsupported != "" {
		return ""
	}
	if t.load != nil {
		data, err := t.load(t)
		if err != nil {
			return err.Error()
		}
		m := block.Raw{Type: t.Type, Rows: t.Rows(), Cols: t.Cols(), Data: data}
		if err := m.Check(); err != nil {
			return fmt.Sprintf("tensor %s: %v", quote(t.Name), err)
		}
		return notFinite(t, m, 0)
	}
	if t.Parts[0].Len == 0 {
		return "" // no values, in however many rows
	}
	step := max(1, (4<<20)/max(t.Cols(), 1))
	for row := 0; row < t.Rows(); row += step {
		n := min(step, t.Rows()-row)
		data, err := a.ReadRows(t, row, n)
		if err != nil {
			return err.Error()
		}
		if s := notFinite(t, block.Raw{Type: t.Type, Rows: n, Cols: t.Cols(), Data: data}, row); s != "" {
			return s
		}
	}
	return ""
}

// notFinite names the first value of m that is NaN or infinite; row0 is m's
// first row within the tensor.
func notFinite(t *Tensor, m block.Raw, row0 int) string {
	switch k := t.Type.Kind; {
	case m.Rows == 0 || m.Cols == 0:
		return ""
	case k == dtype.F64:
		for i := range len(m.Data) / 8 {
			if x := math.Float64frombits(binary.LittleEndian.Uint64(m.Data[8*i:])); math.IsNaN(x) || math.IsInf(x, 0) {
				return report(t, row0+i/m.Cols, i%m.Cols, x)
			}
		}
		return ""
	case !k.IsFloat() && !t.Type.Quantized():
		return ""
	}
	x := make([]float32, m.Cols)
	for r := range m.Rows {
		block.Decode(x, m, r, 0, m.Cols)
		for c, f := range x {
			if f-f != 0 {
				return report(t, row0+r, c, float64(f))
			}
		}
	}
	return ""
}

func report(t *Tensor, row, col int, x float64) string {
	return fmt.Sprintf("tensor %s (%v): value %v at row %d, column %d", quote(t.Name), t.Type, x, row, col)
}

// keys is GGUF metadata by name.
type keys map[string]any

func (k keys) uint(name string) (uint64, bool) { return asUint(k[name]) }

// gguf compares metadata with tensors.
func (v *verifier) gguf(a *artifact) {
	k := keys{}
	for _, e := range a.kv {
		k[e.Key] = e.Value
	}
	v.vocabulary(k)
	if kind, _ := k["general.type"].(string); len(a.tensors) == 0 || kind != "" && kind != "model" {
		return
	}
	arch, _ := k["general.architecture"].(string)
	if arch == "" {
		v.add("general.architecture is missing")
		return
	}
	for _, key := range []string{"context_length", "embedding_length", "block_count"} {
		if n, ok := k.uint(arch + "." + key); !ok || n == 0 {
			v.add("%s.%s is %v, expected a number above 0", arch, key, k[arch+"."+key])
		}
	}
	attends := slices.ContainsFunc(a.tensors, func(t Tensor) bool { return strings.Contains(t.Name, ".attn_q") })
	if n, ok := k.uint(arch + ".attention.head_count"); ok && n == 0 && attends {
		v.add("%s.attention.head_count is 0", arch)
	}
	for _, key := range []string{"attention.key_length", "attention.value_length", "rope.dimension_count"} {
		if n, ok := k.uint(arch + "." + key); ok && n == 0 {
			v.add("%s.%s is 0", arch, key)
		}
	}
	used, ok1 := k.uint(arch + ".expert_used_count")
	if count, ok2 := k.uint(arch + ".expert_count"); ok1 && ok2 && used > count {
		v.add("%s.expert_used_count is %d of %d experts", arch, used, count)
	}
	v.layers(a, arch, k)
}

// layers compares the counts of blocks with the blocks there are; those of a
// model with an encoder are named apart.
func (v *verifier) layers(a *artifact, arch string, k keys) {
	have := map[string]map[string]bool{}
	for _, t := range a.tensors {
		if part, rest, ok := strings.Cut(t.Name, "blk."); ok && slices.Contains([]string{"", "enc.", "dec."}, part) {
			if have[part] == nil {
				have[part] = map[string]bool{}
			}
			n, _, _ := strings.Cut(rest, ".")
			have[part][n] = true
		}
	}
	if _, ok := k.uint(arch + ".decoder_block_count"); ok { // both are there, with however few blocks
		for _, part := range []string{"enc.", "dec."} {
			if have[part] == nil {
				have[part] = map[string]bool{}
			}
		}
	}
	if len(have) == 0 {
		have[""] = nil
	}
	for _, part := range slices.Sorted(maps.Keys(have)) {
		key := "block_count"
		if _, ok := k.uint(arch + ".decoder_block_count"); ok && part == "dec." {
			key = "decoder_block_count"
		}
		if want, ok := k.uint(arch + "." + key); ok && want != uint64(len(have[part])) {
			v.add("%s.%s is %d, the file has tensors of %d blocks %s…", arch, key, want, len(have[part]), part+"blk.")
		}
	}
}

// vocabulary checks the arrays of the tokenizer against each other.
func (v *verifier) vocabulary(k keys) {
	value, ok := k["tokenizer.ggml.tokens"]
	if !ok {
		return
	}
	tokens, ok := value.([]string)
	if !ok {
		v.add("tokenizer.ggml.tokens is %T, expected an array of strings", value)
		return
	}
	for i, s := range tokens {
		if len(s) > 1<<20 {
			v.add("tokenizer.ggml.tokens[%d] has %d bytes", i, len(s))
		}
	}
	n := len(tokens)
	if s, ok := k["tokenizer.ggml.scores"]; ok {
		if f, ok := s.([]float32); !ok || len(f) != n {
			v.add("tokenizer.ggml.scores is %T of %d, expected []float32 of %d", s, length(s), n)
		}
	}
	if s, ok := k["tokenizer.ggml.token_type"]; ok {
		if f, ok := s.([]int32); !ok || len(f) != n {
			v.add("tokenizer.ggml.token_type is %T of %d, expected []int32 of %d", s, length(s), n)
		}
	}
	if s, ok := k["tokenizer.ggml.merges"]; ok {
		if _, ok := s.([]string); !ok {
			v.add("tokenizer.ggml.merges is %T, expected an array of strings", s)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(k)) {
		if id, ok := asUint(k[name]); ok && strings.HasPrefix(name, "tokenizer.ggml.") && strings.HasSuffix(name, "_token_id") && id >= uint64(n) && id != math.MaxUint32 {
			v.add("%s is %d, the vocabulary has %d tokens", name, id, n)
		}
	}
}

func length(v any) int {
	if r := reflect.ValueOf(v); r.Kind() == reflect.Slice {
		return r.Len()
	}
	return 1
}

// folder checks the JSON beside the weights, and the pairs of an adapter.
func (v *verifier) folder(a *artifact) {
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", adapterConfig} {
		b, err := a.File(name)
		if err == nil && b != nil {
			err = checkJSON(filepath.Join(a.dir, name), b)
		}
		if err != nil {
			v.add("%v", err)
		}
	}
	b, err := a.File(adapterConfig)
	adapter := b != nil || err != nil
	if a.config == nil && !adapter {
		v.add("config.json is missing")
	}
	if adapter {
		v.adapter(a)
	}
}

// adapter checks that every lora_A has a lora_B of the same rank.
func (v *verifier) adapter(a *artifact) {
	shapes := map[string][]int64{}
	for _, t := range a.tensors {
		shapes[t.Name] = t.Shape
	}
	for _, t := range a.tensors {
		for _, p := range [][2]string{{".lora_A.", ".lora_B."}, {".lora_embedding_A", ".lora_embedding_B"}} {
			for i := range p {
				if !strings.Contains(t.Name, p[i]) {
					continue
				}
				other := strings.Replace(t.Name, p[i], p[1-i], 1)
				s, ok := shapes[other]
				switch {
				case !ok:
					v.add("tensor %s has no %s", quote(t.Name), quote(other))
				case i == 0 && len(t.Shape) == 2 && len(s) == 2 && t.Shape[0] != s[1]:
					v.add("tensors %s %v and %s %v have different ranks", quote(t.Name), t.Shape, quote(other), s)
				}
			}
		}
	}
}
