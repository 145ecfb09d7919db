package formats

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

// A large GGUF may lie in parts: files of one folder, of which the first has the metadata, and each
// its tensors and three keys (llama.cpp, tools/gguf-split). The name of the first stands for all.
const (
	splitNo      = "split.no"            // uint16, from 0
	splitCountOf = "split.count"         // uint16; of a file that was joined again 0
	splitTensors = "split.tensors.count" // int32, in all parts
	maxParts     = 65535                 // that the count has room for
)

// SplitKeys are the keys that say how a GGUF lies in parts.
func SplitKeys() []string { return []string{splitNo, splitCountOf, splitTensors} }

// SplitKeysOf are the keys of part i, from 0, of a GGUF of n parts with so many tensors in all: number, count of parts
// and count of tensors.
func SplitKeysOf(i, n, tensors int) (no, count, all KV) {
	return KV{splitNo, uint16(i)}, KV{splitCountOf, uint16(n)}, KV{splitTensors, int32(tensors)}
}

var partName = regexp.MustCompile(`^(.*)-([0-9]{5})-of-([0-9]{5})\.gguf$`)

// SplitPath is the path of part i, from 0, of a GGUF in n parts.
func SplitPath(prefix string, i, n int) string {
	return fmt.Sprintf("%s-%05d-of-%05d.gguf", prefix, i+1, n)
}

// SplitOf takes the path of a part of a GGUF apart; ok is false where it is the name of none.
func SplitOf(path string) (prefix string, i, n int, ok bool) {
	m := partName.FindStringSubmatch(path)
	if m == nil {
		return "", 0, 0, false
	}
	i, _ = strconv.Atoi(m[2])
	n, _ = strconv.Atoi(m[3])
	return m[1], i - 1, n, 0 < i && i <= n
}

// Parts are the files of the model at path by their names: all parts of a GGUF whose first part it
// is, as far as they are there, and path alone of everything else.
func Parts(path string) []string {
	out := []string{path}
	prefix, i, n, ok := SplitOf(path)
	if !ok || i != 0 {
		return out
	}
	for i := 1; i < n; i++ {
		p := SplitPath(prefix, i, n)
		if _, err := os.Stat(p); err != nil {
			break
		}
		out = append(out, p)
	}
	return out
}

// uintKey is an integer of metadata that is not negative.
func uintKey(kv []KV, key string) (uint64, bool) {
	for _, e := range kv {
		if e.Key == key {
			return asUint(e.Value)
		}
	}
	return 0, false
}

// gguf reads the header of s, which is the first file of the artifact, and of the other parts that it
// names.
func (a *artifact) gguf(s *source) error {
	var err error
	if a.tensors, a.kv, a.warnings, err = ggufHead(s); err != nil {
		return err
	}
	if n, ok := uintKey(a.kv, splitCountOf); ok && n > 1 {
		if err := a.otherParts(n); err != nil {
			return err
		}
	}
	a.tensors, err = withScales(a.path, a.tensors)
	return err
}

// otherParts adds the tensors of the parts behind the first, n in all, and takes the keys of parts away.
func (a *artifact) otherParts(n uint64) error {
	prefix, i, named, ok := SplitOf(a.path)
	if !ok || uint64(named) != n {
		return fail.Inputf(a.path, fmt.Sprintf("give all parts the names they had, NAME-00001-of-%05d.gguf and so on, in one folder", n), "this is one of %d parts of a split GGUF, and its name does not say so", n)
	}
	if no, ok := uintKey(a.kv, splitNo); !ok || no != uint64(i) {
		return corrupt(a.path, "%s is %d, its name says that it is part %d of %d", splitNo, no, i+1, n)
	}
	if i != 0 {
		return fail.Inputf(a.path, "open the first part, "+SplitPath(prefix, 0, named)+", which stands for all", "this is part %d of %d of a split GGUF", i+1, n)
	}
	where := make(map[string]string, len(a.tensors))
	for _, t := range a.tensors {
		where[t.Name] = a.path
	}
	total, counted := uintKey(a.kv, splitTensors)
	for i := 1; i < named; i++ {
		path := SplitPath(prefix, i, named)
		if _, err := os.Stat(path); err != nil {
			return fail.Inputf(path, "all parts must lie in one folder", "part %d of %d of a split GGUF is missing: %w", i+1, n, err)
		}
		s, err := a.add(path)
		if err != nil {
			return err
		}
		tensors, kv, warnings, err := ggufHead(s)
		if err != nil {
			return err
		}
		no, hasNo := uintKey(kv, splitNo)
		count, hasCount := uintKey(kv, splitCountOf)
		if !hasNo || !hasCount || no != uint64(i) || count != n {
			return corrupt(path, "%s is %d and %s %d, expected %d and %d: it is a part of another file", splitNo, no, splitCountOf, count, i, n)
		}
		for _, t := range tensors {
			if other, twice := where[t.Name]; twice {
				return corrupt(path, "tensor %s lies in %s, too", quote(t.Name), filepath.Base(other))
			}
			where[t.Name] = path
		}
		a.tensors = append(a.tensors, tensors...)
		a.warnings = append(a.warnings, warnings...)
	}
	if counted && total != uint64(len(a.tensors)) {
		return corrupt(a.path, "%s is %d, the %d parts hold %d tensors", splitTensors, total, n, len(a.tensors))
	}
	a.kv = slices.DeleteFunc(a.kv, func(e KV) bool { return strings.HasPrefix(e.Key, "split.") })
	return nil
}

// GGUFPart is one file of a GGUF in parts.
type GGUFPart struct {
	KV   []KV
	Plan []TensorPlan
}

// CreateSplitGGUF starts a GGUF in parts at SplitPath(prefix, i, len(parts)), each with the metadata given
// for it. The files appear together, the first last, so that a set that can be opened is whole: an older
// first part goes before any other part is replaced. An interrupted attempt with equal arguments is continued.
func CreateSplitGGUF(prefix string, parts []GGUFPart) (Writer, error) {
	if len(parts) == 0 || len(parts) > maxParts {
		return nil, fail.Inputf(prefix, "choose a larger size for each", "%d parts; a split GGUF has 1 to %d", len(parts), maxParts)
	}
	w := &splitWriter{of: map[string]*writer{}}
	for i, p := range parts {
		part, err := createGGUF(atomic.Disk{FS: atomic.Real}, SplitPath(prefix, i, len(parts)), p.KV, p.Plan)
		if err != nil {
			w.Abort()
			return nil, err
		}
		w.parts = append(w.parts, part)
		for _, t := range p.Plan {
			if w.of[t.Name] != nil {
				w.Abort()
				return nil, fail.Inputf(part.path, "", "tensor %s is planned twice", quote(t.Name))
			}
			w.of[t.Name] = part
		}
	}
	return w, nil
}

// splitWriter writes each tensor to the part that it belongs to.
type splitWriter struct {
	parts []*writer
	of    map[string]*writer
}

func (w *splitWriter) part(name string) (*writer, error) {
	if p := w.of[name]; p != nil {
		return p, nil
	}
	return nil, fail.Inputf(w.parts[0].path, "", "tensor %s is not in the plan", quote(name))
}

func (w *splitWriter) Has(name string) bool {
	p := w.of[name]
	return p != nil && p.Has(name)
}

func (w *splitWriter) Write(name string, data []byte) error {
	p, err := w.part(name)
	if err != nil {
		return err
	}
	return p.Write(name, data)
}

func (w *splitWriter) Read(name string) ([]byte, error) {
	p, err := w.part(name)
	if err != nil {
		return nil, err
	}
	return p.Read(name)
}

func (w *splitWriter) Commit() error {
	for _, p := range w.parts {
		if err := p.whole(); err != nil {
			return err
		}
	}
	first := w.parts[0]
	if _, err := os.Lstat(first.path); err == nil && len(w.parts) > 1 {
		if err := atomic.RemoveAll(first.path); err != nil {
			return err
		}
	}
	for _, p := range append(slices.Clone(w.parts[1:]), first) {
		if err := p.Commit(); err != nil {
			return err
		}
	}
	return nil
}

func (w *splitWriter) Suspend() error {
	var first error
	for _, p := range w.parts {
		if err := p.Suspend(); first == nil {
			first = err
		}
	}
	return first
}

func (w *splitWriter) Abort() {
	for _, p := range w.parts {
		p.Abort()
	}
}
