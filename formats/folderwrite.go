package formats

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
)

const shardBytes = 5_000_000_000 // Transformers' long-standing default

// CreateFolder starts a Hugging Face folder. An unfinished earlier attempt with
// equal arguments is continued. It refuses a path that exists and is not an
// empty folder.
func CreateFolder(dir string, o FolderOptions) (Writer, error) {
	return createFolder(atomic.Disk{FS: atomic.Real}, dir, o)
}

func createFolder(d atomic.Disk, dir string, o FolderOptions) (Writer, error) {
	if o.Layout == "" {
		o.Layout = Plain
	}
	small, err := folderFiles(dir, o)
	if err != nil {
		return nil, err
	}
	w := &writer{path: dir, items: map[string]*item{}}
	var plan atomic.Plan
	plan.Dir = true
	if err := w.shards(&plan, o, small); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(small)) {
		w.head = append(w.head, headBytes{len(plan.Files), small[name]})
		plan.Files = append(plan.Files, atomic.PlanFile{Name: name, Size: int64(len(small[name]))})
	}
	if w, err = w.start(d, plan); err != nil {
		return nil, err // a nil *writer must not become a Writer
	}
	return w, nil
}

// folderFiles makes the small files of a folder: config.json with the
// quantization_config of the layout, and the caller's.
func folderFiles(dir string, o FolderOptions) (map[string][]byte, error) {
	small := map[string][]byte{}
	for name, b := range o.Files {
		if !plainName(name) || name == "config.json" {
			return nil, fail.Inputf(dir, "", "file name %s cannot be used in the folder", quote(name))
		}
		small[name] = b
	}
	if o.Config == nil {
		if o.Layout != Plain {
			return nil, fail.Inputf(dir, "", "a %s folder needs a config.json", o.Layout)
		}
		return small, nil
	}
	config, err := parseObject(filepath.Join(dir, "config.json"), o.Config)
	if err != nil {
		return nil, err
	}
	config = config.without("quantization_config")
	q, err := quantizationConfig(o)
	if err != nil {
		return nil, fail.Inputf(dir, "", "%w", err)
	}
	if q != nil {
		config = append(config, member{"quantization_config", q})
		if o.Layout == GPTQ || o.Layout == AWQ {
			small["quantize_config.json"] = indented(q)
		}
	}
	small["config.json"] = indented(config)
	return small, nil
}

// shards lays out the safetensors files of the folder and its index.
func (w *writer) shards(plan *atomic.Plan, o FolderOptions, small map[string][]byte) error {
	files, total, err := w.assign(o)
	if err != nil {
		return err
	}
	of := object{}
	for i, slots := range files {
		name := "model.safetensors"
		if len(files) > 1 {
			name = fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(files))
		}
		header, size, err := stLayout(slots, map[string]string{"format": "pt"})
		if err != nil {
			return fail.Limitf(w.path, "choose a smaller shard size", "%s: %w", name, err)
		}
		plan.Files = append(plan.Files, atomic.PlanFile{Name: name, Size: size})
		w.head = append(w.head, headBytes{i, header})
		w.adopt(slots, i)
		for _, s := range slots {
			of = append(of, member{s.name, name})
		}
	}
	if len(files) > 1 {
		slices.SortFunc(of, func(a, b member) int { return compare(a.Key, b.Key) })
		small["model"+indexName] = indented(object{{"metadata", object{{"total_size", total}}}, {"weight_map", of}})
	}
	return nil
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// assign makes the items of the plan and spreads their slots over files. A
// file takes tensors in the order of the plan until the next would exceed the
// limit; the arrays of one tensor stay together.
func (w *writer) assign(o FolderOptions) (files [][]slot, total int64, err error) {
	limit := o.MaxShard
	if limit <= 0 {
		limit = shardBytes
	}
	names := map[string]bool{}
	var fill int64
	for _, p := range o.Plan {
		it, size, err := w.item(p, o)
		if err != nil {
			return nil, 0, err
		}
		if len(files) == 0 || fill > 0 && fill+size > limit {
			files, fill = append(files, nil), 0
		}
		for _, s := range it.layout.slots {
			if names[s.name] || s.name == "" || s.name == "__metadata__" {
				return nil, 0, fail.Inputf(w.path, "", "tensor %s is planned twice or has no usable name", quote(s.name))
			}
			names[s.name] = true
			s.role = p.Name + "\x00" + s.role
			files[len(files)-1] = append(files[len(files)-1], s)
		}
		fill += size
		total += size
	}
	if len(files) == 0 {
		files = [][]slot{nil}
	}
	return files, total, nil
}

func (w *writer) item(p TensorPlan, o FolderOptions) (*item, int64, error) {
	if err := checkPlan(w.path, p); err != nil {
		return nil, 0, err
	}
	if w.items[p.Name] != nil {
		return nil, 0, fail.Inputf(w.path, "", "tensor %s is planned twice", quote(p.Name))
	}
	l, err := layoutOf(p, o.Layout, floatOf(o.Config))
	var size int64
	for i := range l.slots {
		var e error
		if l.slots[i].size, e = l.slots[i].bytes(); e != nil {
			err = e
		}
		size += l.slots[i].size
	}
	if err != nil {
		return nil, 0, fail.Inputf(w.path, "", "tensor %s: %w", quote(p.Name), err)
	}
	it := &item{plan: p, layout: l}
	w.items[p.Name] = it
	w.order = append(w.order, p.Name)
	return it, size, nil
}

// checkPlan refuses shapes that cannot be sized.
func checkPlan(path string, p TensorPlan) error {
	if n, ok := product(p.Shape); !ok || n > 1<<46 {
		return fail.Inputf(path, "", "tensor %s: shape %v is too large", quote(p.Name), p.Shape)
	}
	in := p.Type.Kind.Info()
	if p.Type.Group == 0 && (in.Name == "NF4" || in.Name == "FP4" || p.Type.Bits() > 0) {
		return fail.Inputf(path, "", "tensor %s: %v needs a group size", quote(p.Name), p.Type)
	}
	if t := (Tensor{Shape: p.Shape}); !fits(p, t.Cols()) {
		return fail.Inputf(path, "", "tensor %s: rows of %d are no whole number of %v blocks", quote(p.Name), t.Cols(), p.Type)
	}
	return nil
}

// adopt gives the slots, now placed in a file, back to their items.
func (w *writer) adopt(slots []slot, file int) {
	for _, s := range slots {
		i := indexByte(s.role, 0)
		it := w.items[s.role[:i]]
		for k := range it.layout.slots {
			if it.layout.slots[k].role == s.role[i+1:] {
				it.layout.slots[k].file, it.layout.slots[k].off = file, s.off
			}
		}
	}
}

func indexByte(s string, c byte) int {
	for i := range len(s) {
		if s[i] == c {
			return i
		}
	}
	return -1
}

// writer implements Writer over a partial artifact.
type writer struct {
	path  string
	p     *atomic.Partial
	items map[string]*item
	order []string
	head  []headBytes // headers and small files
}

// headBytes are bytes that belong at the beginning of a file.
type headBytes struct {
	file int
	data []byte
}

// item is one tensor of the plan.
type item struct {
	plan   TensorPlan
	layout layout
}

// start opens the partial artifact. Its identity is everything but the
// tensors' values: headers and small files.
func (w *writer) start(d atomic.Disk, plan atomic.Plan) (*writer, error) {
	h := sha256.New()
	for _, e := range w.head {
		fmt.Fprintf(h, "%q %d\n", plan.Files[e.file].Name, len(e.data))
		h.Write(e.data)
	}
	for _, name := range w.order {
		fmt.Fprintf(h, "%q %v\n", name, w.items[name].plan.Type)
	}
	plan.ID = hex.EncodeToString(h.Sum(nil))
	var err error
	if w.p, err = d.Resume(w.path, plan); err != nil {
		return nil, err
	}
	return w, nil
}

func key(name string) string { return "tensor " + name }

func (w *writer) Has(name string) bool { return w.p.Has(key(name)) }

func (w *writer) lookup(name string) (*item, error) {
	if it := w.items[name]; it != nil {
		return it, nil
	}
	return nil, fail.Inputf(w.path, "", "tensor %s is not in the plan", quote(name))
}

func (w *writer) Write(name string, data []byte) error {
	it, err := w.lookup(name)
	if err != nil {
		return err
	}
	if want := it.plan.Size(); len(data) != want {
		return fail.Inputf(w.path, "", "tensor %s: %d bytes were given, %v %v takes %d", quote(name), len(data), it.plan.Type, it.plan.Shape, want)
	}
	stored, err := it.layout.out(it.raw(data))
	if err != nil {
		return fail.Inputf(w.path, "", "tensor %s: %w", quote(name), err)
	}
	var pieces []atomic.Piece
	for _, s := range it.layout.slots {
		b := stored[s.role]
		if int64(len(b)) != s.size {
			return fail.Inputf(w.path, "", "tensor %s: %s has %d bytes, %d were planned", quote(name), s.name, len(b), s.size)
		}
		pieces = append(pieces, atomic.Piece{File: s.file, Off: s.off, Data: b})
	}
	return w.p.Write(key(name), pieces...)
}

func (it *item) raw(data []byte) block.Raw {
	return block.Raw{Type: it.plan.Type, Rows: it.plan.Rows(), Cols: it.plan.Cols(), Data: data}
}

func (w *writer) Read(name string) ([]byte, error) {
	it, err := w.lookup(name)
	if err != nil {
		return nil, err
	}
	if !w.Has(name) {
		return nil, fail.Inputf(w.path, "", "tensor %s is not written yet", quote(name))
	}
	stored := parts{}
	for _, s := range it.layout.slots {
		b := make([]byte, s.size)
		if err := w.p.ReadAt(s.file, b, s.off); err != nil {
			return nil, err
		}
		stored[s.role] = b
	}
	m := it.raw(make([]byte, it.plan.Size()))
	if err := it.layout.in(m, stored); err != nil {
		return nil, fail.Inputf(w.path, "", "tensor %s: %w", quote(name), err)
	}
	return m.Data, nil
}

// whole refuses while a tensor is missing.
func (w *writer) whole() error {
	var missing []string
	for _, name := range w.order {
		if !w.Has(name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fail.Inputf(w.path, "", "%d of %d tensors were not written: %s", len(missing), len(w.order), list(missing))
	}
	return nil
}

func (w *writer) Commit() error {
	if err := w.whole(); err != nil {
		return err
	}
	for i, h := range w.head {
		if err := w.p.Write(fmt.Sprintf("head %d", i), atomic.Piece{File: h.file, Data: h.data}); err != nil {
			return err
		}
	}
	return w.p.Commit()
}

func (w *writer) Suspend() error { return w.p.Suspend() }

func (w *writer) Abort() { w.p.Abort() }

// indented is JSON as Transformers writes it.
func indented(v any) []byte {
	b, err := marshal(v)
	if err != nil {
		panic(errors.Join(errors.New("formats: own JSON does not marshal"), err))
	}
	return indent(b)
}
