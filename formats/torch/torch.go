// Package torch reads the headers of PyTorch's checkpoints, what torch.save
// writes: a zip archive with a pickle and a record for every storage, or, before
// PyTorch 1.6, pickles with the storages behind them. The pickle is read as data:
// names of Python that no tensor needs are an error, and none is ever called. Values
// stay in the file.
package torch

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Tensor says where the values of one tensor lie in the file.
type Tensor struct {
	Name   string
	DType  string // as torch calls it: "float32", "bfloat16"
	Width  int64  // bytes of one value
	Shape  []int64
	Stride []int64 // in values; those of other than row-major order, or of views
	Off    int64   // of its first value in the file, in bytes

	storage *storage
	start   int64 // of its first value in the storage, in bytes
}

// Elements is the number of values.
func (t *Tensor) Elements() int64 {
	n := int64(1)
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Contiguous reports whether the values lie one after another in row-major order.
func (t *Tensor) Contiguous() bool {
	want := int64(1)
	for i := len(t.Shape) - 1; i >= 0; i-- {
		if t.Shape[i] == 0 {
			return true
		}
		if t.Shape[i] != 1 && t.Stride[i] != want {
			return false
		}
		want *= t.Shape[i]
	}
	return true
}

// Unsupported is something valid that is not read.
type Unsupported struct{ Hint, Msg string }

func (u *Unsupported) Error() string { return u.Msg }

// Read returns the tensors of a checkpoint of size bytes, in the order of their
// dictionary, and the names of entries that are no tensors. Every claim is checked
// against the file's length. An error is an *Unsupported, or says what is damaged.
func Read(r io.ReaderAt, size int64) (tensors []Tensor, skipped []string, err error) {
	head := make([]byte, min(size, 512))
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	var root any
	switch {
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		root, err = readZip(r, size)
	case len(head) > 2 && head[0] == 0x80:
		root, err = readLegacy(r, size)
	case len(head) > 262 && string(head[257:262]) == "ustar":
		err = &Unsupported{stateHint, "it has the tar format of PyTorch 0.1, which is not read"}
	case bytes.HasPrefix(head, []byte("version https://git-lfs")):
		err = &Unsupported{"fetch the file itself: git lfs pull", "this is a Git LFS pointer, not the file itself"}
	default:
		err = &Unsupported{"a checkpoint of PyTorch begins with PK (a zip archive) or with a pickle", "this is no checkpoint of PyTorch"}
	}
	if err != nil {
		return nil, nil, err
	}
	d, err := stateDict(root)
	if err != nil {
		return nil, nil, err
	}
	return flatten(d, size)
}

// readZip reads the format of PyTorch 1.6 and later.
func readZip(r io.ReaderAt, size int64) (any, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, fmt.Errorf("the zip archive is damaged: %w", err)
	}
	files := make(map[string]*zip.File, len(z.File))
	prefix, found := "", 0
	for _, f := range z.File {
		if files[f.Name] != nil {
			return nil, fmt.Errorf("the zip archive has two files %.200q", f.Name)
		}
		files[f.Name] = f
		if dir, ok := strings.CutSuffix(f.Name, "/data.pkl"); ok && !strings.Contains(dir, "/") {
			prefix, found = dir+"/", found+1
		}
	}
	if found != 1 {
		return nil, &Unsupported{"a checkpoint of PyTorch has one file …/data.pkl in its archive", fmt.Sprintf("the zip archive holds %d files …/data.pkl", found)}
	}
	if files[prefix+"constants.pkl"] != nil {
		return nil, &Unsupported{stateHint, "this is a program (TorchScript, torch.jit.save), not weights"}
	}
	record := func(name string) (*io.SectionReader, int64, error) { return section(r, size, files, prefix+name) }
	if files[prefix+"byteorder"] != nil {
		s, _, err := record("byteorder")
		if err != nil {
			return nil, err
		}
		order := make([]byte, min(s.Size(), 16))
		if _, err := s.ReadAt(order, 0); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if string(order) != "little" {
			return nil, &Unsupported{"save it again on a machine of little-endian order", fmt.Sprintf("its byte order is %q; only little is read", order)}
		}
	}
	pickle, _, err := record("data.pkl")
	if err != nil {
		return nil, err
	}
	stored := map[string]*storage{}
	m := newMachine(pickle, pickle.Size(), func(pid tuple) (any, error) {
		s, n, err := storageOf(pid, 5, stored)
		if err != nil || s.off >= 0 {
			return s, err
		}
		data, at, err := record("data/" + s.key)
		if err != nil {
			return nil, err
		}
		if data.Size() != s.bytes {
			return nil, fmt.Errorf("storage %.100q has %d bytes, %d values need %d", s.key, data.Size(), n, s.bytes)
		}
		s.off = at
		return s, nil
	})
	root, err := m.run()
	if err == nil && m.left != 0 {
		err = fmt.Errorf("%d bytes follow the pickle", m.left)
	}
	return root, err
}

// section is a stored file of the archive, and where it begins.
func section(r io.ReaderAt, size int64, files map[string]*zip.File, name string) (*io.SectionReader, int64, error) {
	f := files[name]
	if f == nil {
		return nil, 0, fmt.Errorf("the zip archive has no file %.200q", name)
	}
	if f.Method != zip.Store || f.CompressedSize64 != f.UncompressedSize64 || f.Flags&1 != 0 {
		return nil, 0, &Unsupported{"torch.save stores without compression; save it again", fmt.Sprintf("file %.200q of the zip archive is compressed or encrypted", name)}
	}
	off, err := f.DataOffset()
	if err != nil {
		return nil, 0, fmt.Errorf("file %.200q of the zip archive: %w", name, err)
	}
	if n := f.UncompressedSize64; off < 0 || off > size || n > uint64(size-off) {
		return nil, 0, fmt.Errorf("file %.200q of the zip archive: %d bytes at %d lie outside the %d of the file", name, n, off, size)
	}
	return io.NewSectionReader(r, off, int64(f.UncompressedSize64)), off, nil
}

// storageOf reads a persistent id, ("storage", class, key, device, values) and
// what more the format has, and returns the one storage of its key.
func storageOf(pid tuple, items int, known map[string]*storage) (*storage, int64, error) {
	if len(pid) != items || pid[0] != "storage" {
		return nil, 0, fmt.Errorf("a persistent id is not that of a storage")
	}
	class, ok1 := pid[1].(global)
	dtype, ok2 := storageType(class)
	key, ok3 := pid[2].(string)
	n, ok4 := pid[4].(int64)
	if ok1 && !ok2 {
		return nil, 0, &Unsupported{stateHint, fmt.Sprintf("a storage of %.100q is not read", class)}
	}
	if !ok1 || !ok3 || !ok4 || n < 0 || n > 1<<50 {
		return nil, 0, fmt.Errorf("a persistent id is not that of a storage")
	}
	width := int64(1)
	if dtype != "" {
		width = dtypes[dtype]
	}
	s := &storage{dtype: dtype, key: key, off: -1, bytes: n * width}
	if had := known[key]; had != nil {
		if had.dtype != dtype || had.bytes != s.bytes {
			return nil, 0, fmt.Errorf("storage %.100q is described in two ways", key)
		}
		return had, n, nil
	}
	known[key] = s
	return s, n, nil
}

// The first pickles of a file before PyTorch 1.6.
const (
	legacyMagic   = long("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19")
	legacyVersion = int64(1001)
)

// readLegacy reads the format before PyTorch 1.6: a magic number, a version, notes
// on the machine, the object, the keys of its storages, and these.
func readLegacy(r io.ReaderAt, size int64) (any, error) {
	stored := map[string]*storage{}
	m := newMachine(r, size, func(pid tuple) (any, error) {
		s, _, err := storageOf(pid, 6, stored)
		if err == nil && pid[5] != nil {
			err = &Unsupported{stateHint, fmt.Sprintf("storage %.100q is a part of another, as PyTorch 0.3 wrote", s.key)}
		}
		return s, err
	})
	var head [5]any
	for i := range head {
		var err error
		if head[i], err = m.run(); err != nil {
			return nil, err
		}
		if i == 0 && head[0] != legacyMagic {
			return nil, &Unsupported{stateHint, "this is a pickle, but none of torch.save: its magic number is missing"}
		}
		if i == 1 && head[1] != legacyVersion {
			return nil, &Unsupported{stateHint, fmt.Sprintf("version %s of PyTorch's older format is not read; 1001 is", plain(head[1]))}
		}
	}
	machine, ok := head[2].(*dict)
	keys, ok2 := head[4].(*list)
	if !ok || !ok2 {
		return nil, fmt.Errorf("the pickles of the machine and of the storages are not what torch.save writes")
	}
	if machine.get("little_endian") != true {
		return nil, &Unsupported{"save it again on a machine of little-endian order", "its byte order is not little-endian"}
	}
	at := m.pos
	for _, k := range keys.items {
		key, _ := k.(string)
		s := stored[key]
		if s == nil || s.off >= 0 {
			return nil, fmt.Errorf("storage %.100q is listed but not used, or twice", key)
		}
		width := max(dtypes[s.dtype], 1)
		var n [8]byte
		if _, err := r.ReadAt(n[:], at); err != nil {
			return nil, fmt.Errorf("storage %.100q @%d is cut off: %w", key, at, err)
		}
		count := binary.LittleEndian.Uint64(n[:])
		if count != uint64(s.bytes/width) {
			return nil, fmt.Errorf("storage %.100q @%d holds %d values, the pickle says %d", key, at, count, s.bytes/width)
		}
		if s.bytes > size-at-8 {
			return nil, fmt.Errorf("storage %.100q: %d bytes at %d lie outside the %d of the file", key, s.bytes, at+8, size)
		}
		s.off, at = at+8, at+8+s.bytes
	}
	for key, s := range stored {
		if s.off < 0 {
			return nil, fmt.Errorf("storage %.100q is missing", key)
		}
	}
	if at != size {
		return nil, fmt.Errorf("%d bytes follow the last storage", size-at)
	}
	return head[3], nil
}

// wrappers are the keys under which trainers put a model's weights beside other
// things.
var wrappers = []string{"state_dict", "model_state_dict", "model", "module"}

// stateDict finds the dictionary of tensors. Weights beside it would be lost, and are
// refused; the states of optimizers lie deeper.
func stateDict(root any) (*dict, error) {
	d, ok := root.(*dict)
	if !ok {
		return nil, &Unsupported{stateHint, "it holds no dictionary of tensors"}
	}
	for range 4 {
		var inner []string
		for _, k := range wrappers {
			if in, ok := d.get(k).(*dict); ok && holdsTensors(in) {
				inner = append(inner, k)
			}
		}
		if len(inner) == 0 {
			return d, nil
		}
		if len(inner) > 1 {
			return nil, &Unsupported{stateHint, fmt.Sprintf("it holds tensors under %q and %q: which are the model's?", inner[0], inner[1])}
		}
		at := slices.Index(d.keys, any(inner[0]))
		for i, k := range d.keys {
			if i != at && listsWeights(d.values[i]) {
				return nil, &Unsupported{stateHint, fmt.Sprintf("it holds tensors under %q and %s: which are the model's?", inner[0], plain(k))}
			}
		}
		d = d.values[at].(*dict)
	}
	return d, nil
}

// listsWeights reports a tensor that may be a weight, or a dictionary that has one.
// A single number is a loss, a row of bytes the state of a generator of random numbers.
func listsWeights(v any) bool {
	isWeight := func(v any) bool {
		t, ok := v.(*Tensor)
		return ok && len(t.Shape) > 0 && (len(t.Shape) > 1 || t.DType != "uint8")
	}
	d, ok := v.(*dict)
	return isWeight(v) || ok && slices.ContainsFunc(d.values, isWeight)
}

// holdsTensors looks for a tensor, a few dictionaries or lists deep.
func holdsTensors(v any) bool {
	visits := 0 // what is shared is met again and again
	var look func(v any, depth int) bool
	look = func(v any, depth int) bool {
		var items []any
		switch v := v.(type) {
		case *Tensor:
			return true
		case *dict:
			items = v.values
		case *list:
			items = v.items
		case tuple:
			items = v
		}
		visits++
		return visits > maxObjects || depth < 4 && slices.ContainsFunc(items, func(v any) bool { return look(v, depth+1) })
	}
	return look(v, 0)
}

// flatten lists the tensors of a dictionary.
func flatten(d *dict, size int64) ([]Tensor, []string, error) {
	var out []Tensor
	var skipped []string
	seen := make(map[string]bool, len(d.keys))
	for i, k := range d.keys {
		name, ok := k.(string)
		if !ok {
			return nil, nil, &Unsupported{stateHint, fmt.Sprintf("a key of its dictionary is %s, not the name of a tensor", plain(k))}
		}
		if seen[name] {
			return nil, nil, fmt.Errorf("%.200q occurs twice", name)
		}
		seen[name] = true
		v, ok := d.values[i].(*Tensor)
		if !ok {
			if holdsTensors(d.values[i]) {
				return nil, nil, &Unsupported{stateHint, fmt.Sprintf("%.200q holds more tensors; a model's are read at the top, or under %s", name, strings.Join(wrappers, ", "))}
			}
			skipped = append(skipped, name)
			continue
		}
		t := *v
		t.Name, t.Off = name, v.storage.off+v.start
		if n := t.Elements(); n > size { // a view that repeats its values has more than the file
			return nil, nil, fmt.Errorf("tensor %.200q: shape %v has %d values, the file %d bytes", name, t.Shape, n, size)
		}
		out = append(out, t)
	}
	if len(out) == 0 {
		return nil, nil, &Unsupported{stateHint, "it holds no tensor"}
	}
	return out, skipped, nil
}
