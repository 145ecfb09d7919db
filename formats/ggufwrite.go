package formats

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
)

// CreateGGUF starts a GGUF v3 file with the given metadata and tensors, in this
// order, placed as llama.cpp demands: each offset is the padded end of the
// tensor before. Alignment is general.alignment of kv (a uint32), else 32. An
// unfinished earlier attempt with equal arguments is continued.
func CreateGGUF(path string, kv []KV, plan []TensorPlan) (Writer, error) {
	w, err := createGGUF(atomic.Disk{FS: atomic.Real}, path, kv, plan)
	if err != nil {
		return nil, err // a nil *writer must not become a Writer
	}
	return w, nil
}

func createGGUF(d atomic.Disk, path string, kv []KV, plan []TensorPlan) (*writer, error) {
	w := &writer{path: path, items: map[string]*item{}}
	align, err := writeAlignment(path, kv)
	if err != nil {
		return nil, err
	}
	head := []byte("GGUF")
	le := binary.LittleEndian
	head = le.AppendUint32(head, 3)
	head = le.AppendUint64(head, uint64(len(plan)))
	head = le.AppendUint64(head, uint64(len(kv)))
	if head, err = appendKVs(path, head, kv); err != nil {
		return nil, err
	}
	off := int64(0)
	for _, p := range plan {
		size, err := w.ggufItem(p)
		if err != nil {
			return nil, err
		}
		head = ggufString64(head, p.Name)
		head = le.AppendUint32(head, uint32(len(p.Shape)))
		for _, d := range slices.Backward(p.Shape) {
			head = le.AppendUint64(head, uint64(d))
		}
		head = le.AppendUint32(head, uint32(p.Type.Kind.Info().GGUF))
		head = le.AppendUint64(head, uint64(off))
		w.items[p.Name].layout.slots[0].off = off
		off += padded(size, align)
	}
	base := int64(len(head))
	if len(plan) > 0 {
		base = padded(base, align)
	}
	for _, it := range w.items {
		it.layout.slots[0].off += base
	}
	w.head = []headBytes{{0, head}}
	return w.start(d, atomic.Plan{Files: []atomic.PlanFile{{Size: base + off}}})
}

// writeAlignment is the alignment kv asks for.
func writeAlignment(path string, kv []KV) (int64, error) {
	for _, e := range kv {
		if e.Key == "general.alignment" {
			v, ok := e.Value.(uint32)
			if !ok || v == 0 || v > maxAlignment || v&(v-1) != 0 {
				return 0, fail.Inputf(path, "", "general.alignment is %v (%T), expected a power of two up to %d as uint32", e.Value, e.Value, maxAlignment)
			}
			return int64(v), nil
		}
	}
	return 32, nil
}

// ggufItem checks one tensor of the plan and makes its item.
func (w *writer) ggufItem(p TensorPlan) (int64, error) {
	in := p.Type.Kind.Info()
	switch {
	case in.GGUF < 0:
		return 0, fail.Inputf(w.path, "", "tensor %s: GGUF has no %v", quote(p.Name), p.Type)
	case p.Name == "" || len(p.Name) > maxGGUFName || !cleanText(p.Name):
		return 0, fail.Inputf(w.path, "", "tensor name %s: GGUF allows 1 to %d bytes of printable text", quote(p.Name), maxGGUFName)
	case len(p.Shape) > 4:
		return 0, fail.Inputf(w.path, "", "tensor %s has %d dimensions, GGUF allows 4", quote(p.Name), len(p.Shape))
	case w.items[p.Name] != nil:
		return 0, fail.Inputf(w.path, "", "tensor %s is planned twice", quote(p.Name))
	}
	if err := checkPlan(w.path, p); err != nil {
		return 0, err
	}
	size := int64(p.Size())
	w.order = append(w.order, p.Name)
	w.items[p.Name] = &item{plan: p, layout: layout{
		slots: []slot{{role: only, name: p.Name, size: size}},
		out:   func(m block.Raw) (parts, error) { return parts{only: m.Data}, nil },
		in:    func(m block.Raw, p parts) error { copy(m.Data, p[only]); return nil },
	}}
	return size, nil
}

func ggufString64(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}

func appendKVs(path string, b []byte, kv []KV) ([]byte, error) {
	seen := map[string]bool{}
	for _, e := range kv {
		if e.Key == "" || len(e.Key) > maxGGUFKey || !cleanText(e.Key) || seen[e.Key] {
			return nil, fail.Inputf(path, "", "metadata key %s is empty, too long, unprintable or given twice", quote(e.Key))
		}
		seen[e.Key] = true
		b = ggufString64(b, e.Key)
		var ok bool
		if b, ok = appendValue(b, e.Value); !ok {
			return nil, fail.Inputf(path, "", "metadata %s: GGUF cannot hold a %T", quote(e.Key), e.Value)
		}
	}
	return b, nil
}

// appendValue writes the type tag and the bytes of one value.
func appendValue(b []byte, v any) ([]byte, bool) {
	le := binary.LittleEndian
	switch v := v.(type) {
	case string:
		return ggufString64(le.AppendUint32(b, uint32(ggufString)), v), true
	case []string:
		b = arrayHead(b, ggufString, len(v))
		for _, s := range v {
			b = ggufString64(b, s)
		}
		return b, true
	case []uint8:
		return append(arrayHead(b, ggufU8, len(v)), v...), true
	case []int8:
		return appendAll(b, ggufI8, v), true
	case []uint16:
		return appendAll(b, ggufU16, v), true
	case []int16:
		return appendAll(b, ggufI16, v), true
	case []uint32:
		return appendAll(b, ggufU32, v), true
	case []int32:
		return appendAll(b, ggufI32, v), true
	case []float32:
		return appendAll(b, ggufF32, v), true
	case []bool:
		return appendAll(b, ggufBool, v), true
	case []uint64:
		return appendAll(b, ggufU64, v), true
	case []int64:
		return appendAll(b, ggufI64, v), true
	case []float64:
		return appendAll(b, ggufF64, v), true
	}
	k, ok := scalarKind(v)
	if !ok {
		return b, false
	}
	return appendScalar(le.AppendUint32(b, uint32(k)), v), true
}

func arrayHead(b []byte, k ggufKind, n int) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(ggufArray))
	b = binary.LittleEndian.AppendUint32(b, uint32(k))
	return binary.LittleEndian.AppendUint64(b, uint64(n))
}

func appendAll[T any](b []byte, k ggufKind, vs []T) []byte {
	b = arrayHead(b, k, len(vs))
	for _, v := range vs {
		b = appendScalar(b, v)
	}
	return b
}

func scalarKind(v any) (ggufKind, bool) {
	switch v.(type) {
	case uint8:
		return ggufU8, true
	case int8:
		return ggufI8, true
	case uint16:
		return ggufU16, true
	case int16:
		return ggufI16, true
	case uint32:
		return ggufU32, true
	case int32:
		return ggufI32, true
	case float32:
		return ggufF32, true
	case bool:
		return ggufBool, true
	case uint64:
		return ggufU64, true
	case int64:
		return ggufI64, true
	case float64:
		return ggufF64, true
	}
	return 0, false
}

func appendScalar(b []byte, v any) []byte {
	le := binary.LittleEndian
	switch v := v.(type) {
	case uint8:
		return append(b, v)
	case int8:
		return append(b, byte(v))
	case uint16:
		return le.AppendUint16(b, v)
	case int16:
		return le.AppendUint16(b, uint16(v))
	case uint32:
		return le.AppendUint32(b, v)
	case int32:
		return le.AppendUint32(b, uint32(v))
	case float32:
		return le.AppendUint32(b, math.Float32bits(v))
	case bool:
		if v {
			return append(b, 1)
		}
		return append(b, 0)
	case uint64:
		return le.AppendUint64(b, v)
	case int64:
		return le.AppendUint64(b, uint64(v))
	case float64:
		return le.AppendUint64(b, math.Float64bits(v))
	}
	panic(fmt.Sprintf("formats: appendScalar of %T", v))
}
