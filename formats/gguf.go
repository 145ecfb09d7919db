package formats

import (
	"bufio"
	"encoding/binary"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits of what a GGUF header may hold: above anything known, far below what hurts.
const (
	maxGGUFString  = 16 << 20
	maxGGUFArray   = 64 << 20
	maxGGUFKey     = 65535
	maxGGUFName    = 63 // ggml keeps 64 bytes with the final NUL
	maxGGUFTensors = 1 << 20
	maxGGUFKVs     = 1 << 20
	maxAlignment   = 65536
)

// ggufReader walks the header once. Every count is compared with what is left
// of the file before memory is taken for it.
type ggufReader struct {
	s    *source
	r    *bufio.Reader
	at   int64 // offset of the next byte
	buf  [8]byte
	err  error // the first error; later reads do nothing
	what string
}

func openGGUF(s *source) *ggufReader {
	return &ggufReader{s: s, r: bufio.NewReaderSize(io.NewSectionReader(s.r, 0, s.held()), 1<<16)}
}

// ggufHead reads the header of s, which may be a part of a split file.
func ggufHead(s *source) (tensors []Tensor, kv []KV, warnings []string, err error) {
	g := openGGUF(s)
	nTensors, nKV := g.header()
	kv = g.kvs(nKV)
	align := g.alignment(kv)
	tensors = g.infos(nTensors)
	if g.err != nil {
		return nil, nil, nil, g.err
	}
	warnings, err = g.place(tensors, align)
	return tensors, kv, warnings, err
}

// asUint widens any non-negative integer of metadata.
func asUint(v any) (uint64, bool) {
	switch v := v.(type) {
	case uint8:
		return uint64(v), true
	case uint16:
		return uint64(v), true
	case uint32:
		return uint64(v), true
	case uint64:
		return v, true
	case int8:
		return uint64(v), v >= 0
	case int16:
		return uint64(v), v >= 0
	case int32:
		return uint64(v), v >= 0
	case int64:
		return uint64(v), v >= 0
	}
	return 0, false
}

func (g *ggufReader) fail(format string, args ...any) {
	if g.err == nil {
		where := g.s.path
		if g.what != "" {
			where += ": " + g.what
		}
		g.err = corrupt(where, format+" @%d", append(args, g.at)...)
	}
}

func (g *ggufReader) left() uint64 { return uint64(g.s.held() - g.at) }

// take reads n ≤ 8 bytes; zeros after an error.
func (g *ggufReader) take(n int) []byte {
	b := g.buf[:n]
	clear(g.buf[:])
	if g.err != nil {
		return b
	}
	if g.left() < uint64(n) {
		g.fail("the file ends within a header of %d bytes", g.s.held())
		return b
	}
	if _, err := io.ReadFull(g.r, b); err != nil {
		g.fail("reading: %v", err)
		clear(b)
	}
	g.at += int64(n)
	return b
}

func (g *ggufReader) u32() uint32 { return binary.LittleEndian.Uint32(g.take(4)) }
func (g *ggufReader) u64() uint64 { return binary.LittleEndian.Uint64(g.take(8)) }

// count reads a u64 that announces items of at least min bytes each.
func (g *ggufReader) count(what string, min, limit uint64) uint64 {
	n := g.u64()
	switch {
	case g.err != nil:
		return 0
	case n > g.left()/min:
		g.fail("%s: %d, but only %d bytes follow", what, n, g.left())
		return 0
	case n > limit:
		g.err = tooBig(g.s.path, "%s @%d: %d, allowed are %d", what, g.at-8, n, limit)
		return 0
	}
	return n
}

// str reads a string of at most limit bytes.
func (g *ggufReader) str(what string, limit uint64) string {
	n := g.count(what+" length", 1, limit)
	if g.err != nil || n == 0 {
		return ""
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(g.r, b); err != nil {
		g.fail("%s: reading: %v", what, err)
		return ""
	}
	g.at += int64(n)
	return string(b)
}

func (g *ggufReader) header() (tensors, kvs uint64) {
	if string(g.take(4)) != "GGUF" {
		g.err = corrupt(g.s.path, "magic @0: this is no GGUF file")
		return 0, 0
	}
	switch v := g.u32(); {
	case g.err != nil:
	case v == 2, v == 3:
	case v&0xffff == 0 && v != 0:
		g.err = unsupported(g.s.path, "convert it with gguf_convert_endian.py", "version @4: this is a big-endian GGUF file; only little-endian ones are read")
	case v == 1:
		g.err = unsupported(g.s.path, "convert the model again; version 1 was in use for a week in 2023", "version @4: found 1, allowed are 2 and 3")
	default:
		g.err = corrupt(g.s.path, "version @4: found %d, allowed are 2 and 3", v)
	}
	tensors = g.count("tensor count", 24, maxGGUFTensors)
	kvs = g.count("metadata count", 13, maxGGUFKVs)
	return tensors, kvs
}

func (g *ggufReader) kvs(n uint64) []KV {
	out := make([]KV, 0, n)
	seen := make(map[string]struct{}, n)
	for i := uint64(0); i < n && g.err == nil; i++ {
		g.what = ""
		key := g.str("metadata key", maxGGUFKey)
		if g.err == nil && (key == "" || !cleanText(key)) {
			g.fail("metadata key %s: empty, no UTF-8, or with control characters", quote(key))
			break
		}
		if _, dup := seen[key]; dup && g.err == nil {
			g.fail("metadata key %s occurs twice", quote(key))
			break
		}
		seen[key] = struct{}{}
		g.what = key
		v := g.value(ggufKind(g.u32()))
		out = append(out, KV{key, v})
	}
	g.what = ""
	return out
}

// cleanText reports whether s is printable UTF-8 without control characters.
func cleanText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || 0x7f <= r && r < 0xa0 })
}

// value reads one metadata value.
func (g *ggufReader) value(k ggufKind) any {
	if g.err != nil {
		return nil
	}
	switch k {
	case ggufString:
		return g.str("string", maxGGUFString)
	case ggufArray:
		return g.array(ggufKind(g.u32()))
	}
	if k.size() == 0 {
		g.fail("value type %d, allowed are 0 to 12", uint32(k))
		return nil
	}
	return scalar(k, g.take(int(k.size())))
}

// scalar decodes one number or bool.
func scalar(k ggufKind, b []byte) any {
	le := binary.LittleEndian
	switch k {
	case ggufU8:
		return b[0]
	case ggufI8:
		return int8(b[0])
	case ggufU16:
		return le.Uint16(b)
	case ggufI16:
		return int16(le.Uint16(b))
	case ggufU32:
		return le.Uint32(b)
	case ggufI32:
		return int32(le.Uint32(b))
	case ggufF32:
		return math.Float32frombits(le.Uint32(b))
	case ggufBool:
		return b[0] != 0
	case ggufU64:
		return le.Uint64(b)
	case ggufI64:
		return int64(le.Uint64(b))
	}
	return math.Float64frombits(le.Uint64(b))
}

// array reads an array value into a slice of its element type.
func (g *ggufReader) array(k ggufKind) any {
	switch {
	case g.err != nil:
		return nil
	case k == ggufArray:
		g.fail("array of arrays: not allowed in GGUF metadata here")
		return nil
	case k == ggufString:
		n := g.count("array length", 8, maxGGUFArray)
		out := make([]string, 0, n)
		for i := uint64(0); i < n && g.err == nil; i++ {
			out = append(out, g.str("string", maxGGUFString))
		}
		return out
	case k.size() == 0:
		g.fail("array element type %d, allowed are 0 to 12", uint32(k))
		return nil
	}
	n := g.count("array length", uint64(k.size()), maxGGUFArray)
	if g.err != nil {
		return nil
	}
	b := make([]byte, n*uint64(k.size()))
	if _, err := io.ReadFull(g.r, b); err != nil {
		g.fail("array: reading: %v", err)
		return nil
	}
	g.at += int64(len(b))
	return numbers(k, b)
}

// numbers decodes a packed array.
func numbers(k ggufKind, b []byte) any {
	switch k {
	case ggufU8:
		return b
	case ggufI8:
		return decode[int8](k, b)
	case ggufU16:
		return decode[uint16](k, b)
	case ggufI16:
		return decode[int16](k, b)
	case ggufU32:
		return decode[uint32](k, b)
	case ggufI32:
		return decode[int32](k, b)
	case ggufF32:
		return decode[float32](k, b)
	case ggufBool:
		return decode[bool](k, b)
	case ggufU64:
		return decode[uint64](k, b)
	case ggufI64:
		return decode[int64](k, b)
	}
	return decode[float64](k, b)
}

func decode[T any](k ggufKind, b []byte) []T {
	size := int(k.size())
	out := make([]T, len(b)/size)
	for i := range out {
		out[i] = scalar(k, b[i*size:(i+1)*size]).(T)
	}
	return out
}

// alignment is general.alignment, 32 when absent.
func (g *ggufReader) alignment(kv []KV) int64 {
	for _, e := range kv {
		if e.Key != "general.alignment" {
			continue
		}
		v, ok := e.Value.(uint32)
		if !ok || v == 0 || v > maxAlignment || v&(v-1) != 0 {
			g.fail("general.alignment is %v (%T), expected a power of two up to %d as uint32", e.Value, e.Value, maxAlignment)
			return 32
		}
		return int64(v)
	}
	return 32
}

// infos reads the tensor directory; offsets are still relative.
func (g *ggufReader) infos(n uint64) []Tensor {
	if g.err != nil {
		return nil
	}
	out := make([]Tensor, 0, n)
	seen := make(map[string]struct{}, n)
	for i := uint64(0); i < n && g.err == nil; i++ {
		g.what = ""
		name := g.str("tensor name", maxGGUFName)
		if g.err != nil {
			break
		}
		if name == "" || !cleanText(name) || strings.Contains(name, "/../") {
			g.fail("tensor name %s: empty, no UTF-8, with control characters or path steps", quote(name))
			break
		}
		if _, dup := seen[name]; dup {
			g.fail("tensor %s occurs twice", quote(name))
			break
		}
		seen[name] = struct{}{}
		g.what = "tensor " + quote(name)
		out = append(out, g.info(name))
	}
	g.what = ""
	return out
}

func (g *ggufReader) info(name string) Tensor {
	dims := g.u32()
	if dims > 4 {
		g.fail("%d dimensions, allowed are 4", dims)
		return Tensor{}
	}
	shape := make([]int64, dims)
	for i := range shape { // stored fastest first
		d := g.u64()
		if d > math.MaxInt64 {
			g.fail("dimension %d is %d", i, d)
		}
		shape[len(shape)-1-i] = int64(d)
	}
	id := g.u32()
	off := g.u64()
	if g.err != nil {
		return Tensor{}
	}
	t, ok := ggmlByID(id)
	if !ok {
		g.fail("type %d is not one of %s", id, typeNames())
		return Tensor{}
	}
	size, ok := ggmlSize(t, shape)
	if !ok || off > math.MaxInt64 {
		g.fail("shape %v of %s at offset %d: rows are no whole number of blocks of %d, or a size overflows", shape, t.name, off, t.block)
		return Tensor{}
	}
	out := Tensor{Name: name, Shape: shape}
	if out.Type, ok = ggufTypeOf(t); !ok {
		out.Unsupported = t.name
	}
	out.Parts = []Part{{Name: name, DType: t.name, Shape: shape, File: g.s.name, Off: int64(off), Len: size, src: g.s}}
	return out
}

func typeNames() string {
	var names []string
	for _, t := range ggmlTypes {
		names = append(names, t.name)
	}
	return strings.Join(names, " ")
}

// place turns relative offsets into ones of the file and checks that tensors
// lie in it, aligned and apart. llama.cpp also wants them in order and without
// gaps; where that fails there is a warning.
func (g *ggufReader) place(tensors []Tensor, align int64) ([]string, error) {
	base := padded(g.at, align)
	if len(tensors) > 0 && base > g.s.size {
		return nil, corrupt(g.s.path, "the file ends at %d, before its tensor data at %d", g.s.size, base)
	}
	order := make([]*Tensor, len(tensors))
	expect, strict := int64(0), true
	for i := range tensors {
		t := &tensors[i]
		p := &t.Parts[0]
		if p.Off%align != 0 {
			return nil, corrupt(g.s.path, "tensor %s: offset %d is no multiple of the alignment %d", quote(t.Name), p.Off, align)
		}
		if !inside(p.Off, p.Len, g.s.size-base) {
			return nil, corrupt(g.s.path, "tensor %s: %d bytes at offset %d lie outside the %d bytes of data", quote(t.Name), p.Len, p.Off, g.s.size-base)
		}
		strict = strict && p.Off == expect
		expect = padded(p.Off+p.Len, align)
		p.Off += base
		order[i] = t
	}
	slices.SortStableFunc(order, func(a, b *Tensor) int { return int(sign(a.Parts[0].Off - b.Parts[0].Off)) })
	for i := 1; i < len(order); i++ {
		a, b := order[i-1].Parts[0], order[i].Parts[0]
		if a.Off+a.Len > b.Off && b.Len > 0 {
			return nil, corrupt(g.s.path, "tensors %s and %s overlap", quote(a.Name), quote(b.Name))
		}
	}
	if !strict {
		return []string{"tensors are out of order or have gaps between them; llama.cpp refuses such a file"}, nil
	}
	return nil, nil
}

func sign(d int64) int64 {
	switch {
	case d < 0:
		return -1
	case d > 0:
		return 1
	}
	return 0
}

func padded(n, align int64) int64 { return (n + align - 1) / align * align }
