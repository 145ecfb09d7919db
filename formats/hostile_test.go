package formats

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tunekit/tunekit/formats/fail"
)

// gb builds GGUF bytes, right or wrong.
type gb struct{ b []byte }

func (g *gb) u32(v uint32) *gb  { g.b = binary.LittleEndian.AppendUint32(g.b, v); return g }
func (g *gb) u64(v uint64) *gb  { g.b = binary.LittleEndian.AppendUint64(g.b, v); return g }
func (g *gb) raw(s string) *gb  { g.b = append(g.b, s...); return g }
func (g *gb) str(s string) *gb  { return g.u64(uint64(len(s))).raw(s) }
func (g *gb) zeros(n int) *gb   { g.b = append(g.b, make([]byte, n)...); return g }
func (g *gb) pad(align int) *gb { return g.zeros((align - len(g.b)%align) % align) }
func (g *gb) kv(key string) *gb { return g.str(key) }
func (g *gb) kv32(key string, v uint32) *gb {
	return g.str(key).u32(uint32(ggufU32)).u32(v)
}

func newGGUF(tensors, kvs uint64) *gb { return new(gb).raw("GGUF").u32(3).u64(tensors).u64(kvs) }

func (g *gb) tensor(name string, typ uint32, off uint64, dims ...uint64) *gb {
	g.str(name).u32(uint32(len(dims)))
	for _, d := range dims {
		g.u64(d)
	}
	return g.u32(typ).u64(off)
}

// open writes b and opens it within the bounds every refusal keeps: one second,
// and memory in proportion to the file.
func openBytes(t *testing.T, name string, b []byte) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	r, err := Open(path)
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(8<<20+16*len(b)); got > limit {
		t.Errorf("%d bytes were allocated for a file of %d", got, len(b))
	}
	if err == nil {
		r.Close()
	}
	return err
}

// TestHostileGGUF is the catalogue of bad GGUF files; names follow llama.cpp's
// tests and the advisories against it.
func TestHostileGGUF(t *testing.T) {
	const max = 1<<64 - 1
	f32 := func(off uint64, dims ...uint64) *gb {
		return newGGUF(1, 0).tensor("t", 0, off, dims...).pad(32).zeros(64)
	}
	for name, c := range map[string]struct {
		g    *gb
		want string
	}{
		"magic only":                  {new(gb).raw("GGUF"), "ends within"},
		"bad magic":                   {new(gb).raw("FUGG").u32(3).u64(0).u64(0), "no GGUF"},
		"version 0":                   {new(gb).raw("GGUF").u32(0).u64(0).u64(0), "found 0"},
		"version 1":                   {new(gb).raw("GGUF").u32(1).u64(0).u64(0), "found 1"},
		"version 4":                   {new(gb).raw("GGUF").u32(4).u64(0).u64(0), "found 4"},
		"big endian":                  {new(gb).raw("GGUF").u32(0x03000000).u64(0).u64(0), "big-endian"},
		"tensor count 2^63":           {newGGUF(1<<63, 0), "tensor count"},
		"tensor count -1":             {newGGUF(max, 0), "tensor count"},
		"tensor count past the file":  {newGGUF(3, 0).zeros(48), "tensor count"},
		"kv count 2^63":               {newGGUF(0, 1<<63), "metadata count"},
		"kv count -1":                 {newGGUF(0, max), "metadata count"},
		"key length -1":               {newGGUF(0, 1).u64(max).zeros(64), "key length"},
		"key length 65536":            {newGGUF(0, 1).u64(65536).zeros(70000), "key length"},
		"string of 1 GiB":             {newGGUF(0, 1).kv("k").u32(8).u64(1 << 30).zeros(100), "string length"},
		"string one past the end":     {newGGUF(0, 1).kv("k").u32(8).u64(11).zeros(10), "string length"},
		"array one past the end":      {newGGUF(0, 1).kv("k").u32(9).u32(0).u64(11).zeros(10), "array length"},
		"array size wraps":            {newGGUF(0, 1).kv("k").u32(9).u32(10).u64(1 << 61).zeros(10), "array length"},
		"array of 2^63 strings":       {newGGUF(0, 1).kv("k").u32(9).u32(8).u64(1 << 63), "array length"},
		"array of arrays":             {newGGUF(0, 1).kv("k").u32(9).u32(9).u64(1).zeros(32), "array of arrays"},
		"array of unknown type":       {newGGUF(0, 1).kv("k").u32(9).u32(13).u64(1).zeros(32), "element type 13"},
		"value of unknown type":       {newGGUF(0, 1).kv("k").u32(13).u64(1).zeros(32), "value type 13"},
		"duplicate key":               {newGGUF(0, 2).kv32("k", 1).kv32("k", 1), "occurs twice"},
		"empty key":                   {newGGUF(0, 1).kv32("", 1), "empty"},
		"key with NUL":                {newGGUF(0, 1).kv32("a\x00b", 1), "control characters"},
		"key with escape":             {newGGUF(0, 1).kv32("a\x1b[31m", 1), "control characters"},
		"key without UTF-8":           {newGGUF(0, 1).kv32("a\xff", 1), "UTF-8"},
		"alignment 0":                 {newGGUF(0, 1).kv32("general.alignment", 0), "alignment"},
		"alignment 13":                {newGGUF(0, 1).kv32("general.alignment", 13), "alignment"},
		"alignment 2^30":              {newGGUF(0, 1).kv32("general.alignment", 1<<30), "alignment"},
		"alignment 2^31":              {newGGUF(0, 1).kv32("general.alignment", 1<<31), "alignment"},
		"alignment as int32":          {newGGUF(0, 1).kv("general.alignment").u32(5).u32(32), "alignment"},
		"alignment as string":         {newGGUF(0, 1).kv("general.alignment").u32(8).str("32"), "alignment"},
		"alignment as array":          {newGGUF(0, 1).kv("general.alignment").u32(9).u32(4).u64(1).u32(32), "alignment"},
		"five dimensions":             {f32(0, 1, 1, 1, 1, 1), "5 dimensions"},
		"nine dimensions":             {f32(0, 1, 1, 1, 1, 1, 1, 1, 1, 1), "9 dimensions"},
		"2^32-1 dimensions":           {newGGUF(1, 0).str("t").u32(1<<32 - 1).zeros(64), "dimensions"},
		"negative dimension":          {f32(0, max), "dimension 0"},
		"shape product wraps":         {f32(0, 1<<33, 1<<33), "overflows"},
		"shape product above 2^63":    {f32(0, 1<<62, 3), "overflows"},
		"byte size wraps":             {f32(0, 1<<61, 2), "overflows"},
		"exabyte tensor":              {f32(0, 1<<40, 1<<20), "lie outside"},
		"dimension zero after a wrap": {f32(0, 1<<62, 1<<62, 0), "overflows"},
		"offset past the file":        {f32(64, 16), "lie outside"},
		"offset near 2^64":            {f32(max-31, 16), "overflows"},
		"offset near 2^63":            {f32(1<<63-32, 16), "lie outside"},
		"offset misaligned":           {f32(8, 4), "multiple of the alignment"},
		"size past the file":          {f32(0, 17), "lie outside"},
		"type -1":                     {newGGUF(1, 0).tensor("t", 1<<32-1, 0, 32).pad(32).zeros(64), "is not one of"},
		"removed type 4":              {newGGUF(1, 0).tensor("t", 4, 0, 32).pad(32).zeros(64), "is not one of"},
		"removed type 5":              {newGGUF(1, 0).tensor("t", 5, 0, 32).pad(32).zeros(64), "is not one of"},
		"type 43":                     {newGGUF(1, 0).tensor("t", 43, 0, 32).pad(32).zeros(64), "is not one of"},
		"type 2^31":                   {newGGUF(1, 0).tensor("t", 1<<31, 0, 32).pad(32).zeros(64), "is not one of"},
		"Q4_K row of 255":             {newGGUF(1, 0).tensor("t", 12, 0, 255).pad(32).zeros(256), "blocks of 256"},
		"Q8_0 scalar":                 {newGGUF(1, 0).tensor("t", 8, 0).pad(32).zeros(256), "blocks of 32"},
		"sum of sizes wraps":          {newGGUF(2, 0).tensor("a", 24, 0, 0x7FFFFFFFFFFFFFC0).tensor("b", 24, 0x7FFFFFFFFFFFFFC0, 0x7FFFFFFFFFFFFFC0).pad(32).zeros(64), "lie outside"},
		"overlap":                     {newGGUF(2, 0).tensor("a", 0, 0, 16).tensor("b", 0, 32, 8).pad(32).zeros(64), "overlap"},
		"same place":                  {newGGUF(2, 0).tensor("a", 0, 0, 16).tensor("b", 0, 0, 16).pad(32).zeros(64), "overlap"},
		"duplicate name":              {newGGUF(2, 0).tensor("a", 0, 0, 8).tensor("a", 0, 32, 8).pad(32).zeros(64), "occurs twice"},
		"name of 64 bytes":            {newGGUF(1, 0).tensor(strings.Repeat("x", 64), 0, 0, 8).pad(32).zeros(64), "name length"},
		"empty name":                  {newGGUF(1, 0).tensor("", 0, 0, 8).pad(32).zeros(64), "empty"},
		"name with path":              {newGGUF(1, 0).tensor("a/../b", 0, 0, 8).pad(32).zeros(64), "path steps"},
		"name with newline":           {newGGUF(1, 0).tensor("a\nb", 0, 0, 8).pad(32).zeros(64), "control characters"},
		"no data at all":              {newGGUF(1, 0).tensor("t", 0, 0, 8), "the file ends at"},
		"split file":                  {newGGUF(0, 1).kv("split.count").u32(uint32(ggufU16)).raw("\x02\x00"), "2 parts"},
		"pickle inside":               {new(gb).raw("\x80\x02}q\x00."), "no GGUF"},
	} {
		t.Run(name, func(t *testing.T) { rejects(t, openBytes(t, "x.gguf", c.g.b), c.want) })
	}
}

// TestOddGGUF are files that look strange and are right.
func TestOddGGUF(t *testing.T) {
	for name, g := range map[string]*gb{
		"nothing":            newGGUF(0, 0),
		"version 2":          new(gb).raw("GGUF").u32(2).u64(0).u64(0),
		"dimension 0":        newGGUF(1, 0).tensor("t", 0, 0, 32, 0).pad(32),
		"scalar":             newGGUF(1, 0).tensor("t", 0, 0).pad(32).zeros(4),
		"unread type":        newGGUF(1, 0).tensor("t", 16, 0, 256).pad(32).zeros(66),
		"alignment 64":       newGGUF(1, 1).kv32("general.alignment", 64).tensor("t", 0, 0, 4).pad(64).zeros(16),
		"value to the end":   newGGUF(0, 1).kv("k").u32(8).u64(10).zeros(10),
		"unpadded last":      newGGUF(1, 0).tensor("t", 0, 0, 1).pad(32).zeros(4),
		"string without utf": newGGUF(0, 1).kv("k").u32(8).str("\xff\xfe"),
	} {
		if err := openBytes(t, "x.gguf", g.b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	path := filepath.Join(t.TempDir(), "gap.gguf")
	g := newGGUF(2, 0).tensor("a", 0, 64, 8).tensor("b", 0, 0, 8).pad(32).zeros(96)
	if err := os.WriteFile(path, g.b, 0o666); err != nil {
		t.Fatal(err)
	}
	if w := mustOpen(t, path).Warnings(); len(w) != 1 || !strings.Contains(w[0], "llama.cpp refuses") {
		t.Errorf("out of order: %q", w)
	}
	rejects(t, Verify(path), "llama.cpp refuses")
}

// TestTruncatedGGUF cuts a file at every byte.
func TestTruncatedGGUF(t *testing.T) {
	b := must(os.ReadFile(ggufWith(t, nil, 1)))
	for n := range b {
		if err := openBytes(t, "x.gguf", b[:n]); err == nil && n < len(b)-28 { // 28: 68 bytes of data are padded to 96
			t.Errorf("%d of %d bytes were accepted", n, len(b))
		}
	}
}

// st builds safetensors bytes.
func st(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, data)...)
}

// TestHostileSafetensors is the catalogue of bad safetensors files.
func TestHostileSafetensors(t *testing.T) {
	length := func(n uint64, rest int) []byte {
		return append(binary.LittleEndian.AppendUint64(nil, n), make([]byte, rest)...)
	}
	one := func(v string) []byte { return st(`{"a":`+v+`}`, 4) }
	deep := strings.Repeat("[", 10000)
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"empty":                    {nil, "too few"},
		"seven bytes":              {make([]byte, 7), "too few"},
		"length 0":                 {length(0, 0), "too few for {}"},
		"length 2^64-1":            {length(1<<64-1, 10), "only 10 bytes follow"},
		"length past the file":     {length(11, 10), "only 10 bytes follow"},
		"header above the limit":   {length(100_000_001, 100_000_001), "allowed are 100000000"},
		"no UTF-8":                 {st("{\"\xff\":1}", 0), "UTF-8"},
		"no JSON":                  {st("hello", 0), "expected '{'"},
		"array":                    {st("[]", 0), "expected '{'"},
		"deep":                     {st(`{"__metadata__":`+deep, 0), "expected '{'"},
		"deep value":               {st(`{"a":{"x":`+deep, 0), "nested deeper"},
		"second object":            {st("{}{}", 0), "follow the value"},
		"NUL padding":              {st("{}\x00\x00", 0), "follow the value"},
		"duplicate tensor":         {st(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), "occurs twice"},
		"duplicate by escape":      {st(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0061":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), "occurs twice"},
		"duplicate dtype":          {one(`{"dtype":"F32","dtype":"U8","shape":[1],"data_offsets":[0,4]}`), "occurs twice"},
		"duplicate offsets":        {one(`{"dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4]}`), "occurs twice"},
		"duplicate metadata":       {st(`{"__metadata__":{"a":"b","a":"c"}}`, 0), "occurs twice"},
		"offsets reversed":         {one(`{"dtype":"F32","shape":[1],"data_offsets":[4,0]}`), "lie outside"},
		"offset negative":          {one(`{"dtype":"F32","shape":[1],"data_offsets":[-1,4]}`), "no size"},
		"offset float":             {one(`{"dtype":"F32","shape":[1],"data_offsets":[0,4.0]}`), "no size"},
		"offset with exponent":     {one(`{"dtype":"F32","shape":[1],"data_offsets":[0,4e0]}`), "no size"},
		"offset a string":          {one(`{"dtype":"F32","shape":[1],"data_offsets":[0,"4"]}`), "no valid number"},
		"three offsets":            {one(`{"dtype":"F32","shape":[1],"data_offsets":[0,2,4]}`), "more than 2"},
		"one offset":               {one(`{"dtype":"F32","shape":[1],"data_offsets":[0]}`), "has 1 items"},
		"offset 2^64":              {one(`{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551616]}`), "no size"},
		"offset past the file":     {one(`{"dtype":"F32","shape":[2],"data_offsets":[0,8]}`), "lie outside"},
		"offset 2^63-1":            {one(`{"dtype":"F32","shape":[1],"data_offsets":[9223372036854775803,9223372036854775807]}`), "lie outside"},
		"hole":                     {st(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}`, 3), "a hole"},
		"leading junk":             {st(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), "a hole"},
		"overlap":                  {st(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3), "an overlap"},
		"trailing zip":             {append(one(`{"dtype":"F32","shape":[1],"data_offsets":[0,4]}`), "PK\x03\x04"...), "4 bytes follow the last tensor"},
		"no tensors but data":      {st(`{}`, 8), "8 bytes follow"},
		"cut by one":               {st(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 3), "lie outside"},
		"shape product wraps":      {one(`{"dtype":"U8","shape":[2,9223372036854775807,2],"data_offsets":[0,4]}`), "overflows"},
		"shape above 2^63":         {one(`{"dtype":"U8","shape":[2,18446744073709551614],"data_offsets":[0,4]}`), "no size"},
		"byte size wraps":          {one(`{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}`), "does not take"},
		"size mismatch":            {one(`{"dtype":"F32","shape":[2],"data_offsets":[0,4]}`), "does not take"},
		"unknown dtype":            {one(`{"dtype":"F128","shape":[1],"data_offsets":[0,4]}`), "unknown dtype"},
		"odd F4":                   {st(`{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}`, 2), "does not take"},
		"shape missing":            {one(`{"dtype":"F32","data_offsets":[0,4]}`), "needs dtype"},
		"tensor is a number":       {one(`4`), "expected '{'"},
		"33 dimensions":            {one(`{"dtype":"F32","shape":[` + strings.Repeat("1,", 32) + `1],"data_offsets":[0,4]}`), "more than 32"},
		"metadata with a number":   {st(`{"__metadata__":{"a":1}}`, 0), `expected '"'`},
		"metadata nested":          {st(`{"__metadata__":{"a":{}}}`, 0), `expected '"'`},
		"half a surrogate":         {st(`{"\ud800":1}`, 0), "surrogate"},
		"control character":        {st("{\"a\nb\":1}", 0), "control character"},
		"leading zero":             {one(`{"dtype":"F32","shape":[01],"data_offsets":[0,4]}`), "no valid number"},
		"zip":                      {[]byte("PK\x03\x04\x14\x00\x00\x00\x08\x00"), "zip archive"},
		"pickle":                   {[]byte("\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00"), "pickle"},
		"git lfs pointer":          {[]byte("version https://git-lfs.github.com/spec/v1\n"), "Git LFS"},
		"dtype in lower case keys": {one(`{"Dtype":"F32","Shape":[1],"Data_offsets":[0,4]}`), "needs dtype"},
	} {
		t.Run(name, func(t *testing.T) { rejects(t, openBytes(t, "x.safetensors", c.b), c.want) })
	}
}

// TestOddSafetensors are files that look strange and are right.
func TestOddSafetensors(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":          st(`{}`, 0),
		"padded":           st(`{}      `, 0),
		"leading space":    st(" \t\r\n{}", 0),
		"trailing tab":     st("{}\t\r", 0),
		"metadata only":    st(`{"__metadata__":{"format":"pt"}}`, 0),
		"scalar":           st(`{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}`, 4),
		"dimension 0":      st(`{"a":{"dtype":"F32","shape":[0,5],"data_offsets":[0,0]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1),
		"names by case":    st(`{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"W":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2),
		"out of order":     st(`{"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},"v":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 2),
		"further keys":     st(`{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":[{"y":null}]}}`, 1),
		"unread dtypes":    st(`{"a":{"dtype":"U16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"F4","shape":[4],"data_offsets":[2,4]},"c":{"dtype":"F8_E8M0","shape":[1],"data_offsets":[4,5]}}`, 5),
		"escapes in names": st(`{"\u00e4\ud83d\ude00\n":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1),
	} {
		if err := openBytes(t, "x.safetensors", b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTruncatedSafetensors cuts a file at every byte.
func TestTruncatedSafetensors(t *testing.T) {
	b := st(`{"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8)
	if err := openBytes(t, "x.safetensors", b); err != nil {
		t.Fatal(err)
	}
	for n := range b {
		rejects(t, openBytes(t, "x.safetensors", b[:n]), "")
	}
}

// TestManyTensors opens large headers in time that grows with their size.
func TestManyTensors(t *testing.T) {
	const n = 200_000
	var h strings.Builder
	h.WriteString("{")
	g := newGGUF(n, 0)
	for i := range n {
		if i > 0 {
			h.WriteString(",")
		}
		fmt.Fprintf(&h, `"t%d":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}`, i, i, i+1)
		g.tensor(fmt.Sprint("t", i), 24, uint64(i)*32, 1)
	}
	h.WriteString("}")
	if err := openBytes(t, "x.safetensors", st(h.String(), n)); err != nil {
		t.Error(err)
	}
	if err := openBytes(t, "x.gguf", g.pad(32).zeros(n*32).b); err != nil {
		t.Error(err)
	}
	same := strings.Repeat(`"%d":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},`, 1)
	h.Reset()
	h.WriteString("{")
	for i := range n {
		fmt.Fprintf(&h, same, i)
	}
	rejects(t, openBytes(t, "x.safetensors", st(strings.TrimSuffix(h.String(), ",")+"}", 1)), "overlap")
}

// TestFarOffsets reads from a sparse file of 5 GiB, where 32 bits do not reach.
func TestFarOffsets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "far.safetensors")
	const far = int64(5 << 30)
	header := fmt.Sprintf(`{"big":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]},"x":{"dtype":"F32","shape":[2],"data_offsets":[%d,%d]}}`, far, far, far, far+8)
	f := must(os.Create(path))
	defer f.Close()
	b := st(header, 0)
	_, err1 := f.Write(b)
	_, err2 := f.WriteAt([]byte("ABCDEFGH"), int64(len(b))+far)
	if err1 != nil || err2 != nil {
		t.Skipf("no sparse file of 5 GiB here: %v %v", err1, err2)
	}
	r := mustOpen(t, path)
	x := find(t, r, "x")
	if got := must(r.Read(x)); string(got) != "ABCDEFGH" {
		t.Errorf("read %q", got)
	}
	if got, ok := r.Map(x); ok && string(got) != "ABCDEFGH" {
		t.Errorf("mapped %q", got)
	}
	if got := must(r.ReadRows(find(t, r, "big"), 0, 0)); len(got) != 0 {
		t.Error("rows")
	}
}

// TestShrunkFile cuts a file while it is open.
func TestShrunkFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := os.WriteFile(path, st(`{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}`, 16), 0o666); err != nil {
		t.Fatal(err)
	}
	r := mustOpen(t, path)
	if err := os.Truncate(path, 70); err != nil {
		t.Fatal(err)
	}
	_, err := r.Read(&r.Tensors()[0])
	rejects(t, err, "became shorter")
	_, err = Inspect(path, true)
	rejects(t, err, "lie outside")
}

// TestHostileIndex is the catalogue of bad shard indexes.
func TestHostileIndex(t *testing.T) {
	tensor := func(names ...string) []NamedTensor {
		var out []NamedTensor
		for _, n := range names {
			out = append(out, NamedTensor{n, "U8", []int64{1}, []byte{1}})
		}
		return out
	}
	write := func(dir, index string, a, b []NamedTensor) {
		if err := os.WriteFile(filepath.Join(dir, "model.safetensors.index.json"), []byte(index), 0o666); err != nil {
			t.Fatal(err)
		}
		for name, ts := range map[string][]NamedTensor{"a.safetensors": a, "b.safetensors": b} {
			if err := WriteSafetensors(filepath.Join(dir, name), ts, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	for index, want := range map[string]string{
		`{"weight_map":{"x":"../../etc/passwd"}}`:                        "no plain file name",
		`{"weight_map":{"x":"/etc/passwd"}}`:                             "no plain file name",
		`{"weight_map":{"x":"a\\..\\b"}}`:                                "no plain file name",
		`{"weight_map":{"x":"C:x"}}`:                                     "no plain file name",
		`{"weight_map":{"x":"\\\\h\\s"}}`:                                "no plain file name",
		`{"weight_map":{"x":"a\u0000b"}}`:                                "no plain file name",
		`{"weight_map":{"x":""}}`:                                        "no plain file name",
		`{"weight_map":{"x":"a.safetensors","y":"a.safetensors"}}`:       "none of this name",
		`{"weight_map":{"x":"b.safetensors"}}`:                           "which weight_map does not list",
		`{"weight_map":{"x":"b.safetensors","y":"a.safetensors"}}`:       "weight_map puts tensor",
		`{"weight_map":{"x":"gone.safetensors","y":"away.safetensors"}}`: "2 of 2 files are missing: away.safetensors, gone.safetensors",
		`{"weight_map":{"x":1}}`:                                         `expected '"'`,
		`{"weight_map":{"x":"a.safetensors","x":"a.safetensors"}}`:       "occurs twice",
		`{"metadata":{}}`:                                                "no weight_map",
		`{}x`:                                                            "follow the value",
		``:                                                               "expected",
	} {
		dir := t.TempDir()
		write(dir, index, tensor("x"), tensor("y"))
		_, err := Open(dir)
		rejects(t, err, want)
	}
	dir := t.TempDir()
	write(dir, `{"metadata":{"total_size":3},"weight_map":{"x":"a.safetensors","y":"b.safetensors"}}`, tensor("x"), tensor("y"))
	if w := mustOpen(t, dir).Warnings(); len(w) != 1 || !strings.Contains(w[0], "total_size") {
		t.Errorf("total_size: %q", w)
	}
	write(dir, `{"weight_map":{"x":"a.safetensors","y":"b.safetensors"}}`, tensor("x"), tensor("x", "y"))
	_, err := Open(dir)
	rejects(t, err, "lies in a.safetensors and in b.safetensors")
	var many strings.Builder
	many.WriteString(`{"weight_map":{"x":"a.safetensors"`)
	for i := range maxShards {
		fmt.Fprintf(&many, `,"t%d":"s%d.safetensors"`, i, i)
	}
	write(dir, many.String()+"}}", tensor("x"), nil)
	_, err = Open(dir)
	rejects(t, err, "allowed are 10000")
}

// TestHostileFolder are folders and configurations that cannot be read.
func TestHostileFolder(t *testing.T) {
	file := func(name, text string) map[string]string { return map[string]string{name: text} }
	weights := string(st(`{"q.qweight":{"dtype":"I32","shape":[4,32],"data_offsets":[0,512]},"q.qzeros":{"dtype":"I32","shape":[1,4],"data_offsets":[512,528]},"q.scales":{"dtype":"F16","shape":[1,32],"data_offsets":[528,592]}}`, 592))
	config := func(q string) map[string]string {
		return map[string]string{"model.safetensors": weights, "config.json": `{"quantization_config":` + q + `}`}
	}
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"empty":               {nil, "no safetensors file"},
		"pickle":              {file("pytorch_model.bin", "PK\x03\x04"), "zip archive is damaged"},
		"two files":           {map[string]string{"a.safetensors": weights, "b.safetensors": weights}, "no index"},
		"config twice":        {map[string]string{"model.safetensors": weights, "config.json": `{"a":1,"a":1}`}, "occurs twice"},
		"config deep":         {map[string]string{"model.safetensors": weights, "config.json": strings.Repeat(`{"a":`, 10000)}, "nested deeper"},
		"config comment":      {map[string]string{"model.safetensors": weights, "config.json": `{} // x`}, "follow the value"},
		"config comma":        {map[string]string{"model.safetensors": weights, "config.json": `{"a":1,}`}, "expected"},
		"config array":        {map[string]string{"model.safetensors": weights, "config.json": `[]`}, "expected a JSON object"},
		"config NaN":          {map[string]string{"model.safetensors": weights, "config.json": `{"a":NaN}`}, "no valid number"},
		"no quant config":     {map[string]string{"model.safetensors": weights, "config.json": `{}`}, "quantization_config is missing"},
		"quant config array":  {config(`[]`), "expected an object"},
		"unknown method":      {config(`{"quant_method":"vptq"}`), `quant_method is "vptq", whose weights are not read`},
		"torchao, no weight":  {config(`{"quant_method":"torchao"}`), `__metadata__ of the safetensors names no weight of torchao`},
		"packed, hqq":         {config(`{"quant_method":"hqq"}`), `quant_method is "hqq"`},
		"aqlm":                {config(`{"quant_method":"aqlm"}`), `quant_method is "aqlm"`},
		"5 bits":              {config(`{"quant_method":"gptq","bits":5,"group_size":32}`), "columns of 5 bits"},
		"0 bits":              {config(`{"quant_method":"gptq","bits":0,"group_size":32}`), "columns of 0 bits"},
		"bits a string":       {config(`{"quant_method":"gptq","bits":"4","group_size":32}`), "expected a whole number"},
		"group 0":             {config(`{"quant_method":"gptq","bits":4,"group_size":0}`), "group_size is 0"},
		"group -2":            {config(`{"quant_method":"gptq","bits":4,"group_size":-2}`), "group_size is -2"},
		"group 16":            {config(`{"quant_method":"gptq","bits":4,"group_size":16}`), "does not fit group_size 16"},
		"gemv":                {config(`{"quant_method":"awq","bits":4,"group_size":4,"version":"gemv"}`), "gemv"},
		"awq by GPTQModel":    {config(`{"quant_method":"awq","bits":4,"group_size":4,"checkpoint_format":"gemv_fast"}`), "gemv_fast"},
		"marlin":              {config(`{"quant_method":"gptq","bits":4,"group_size":32,"checkpoint_format":"marlin"}`), "checkpoint_format"},
		"marlin, by AutoGPTQ": {config(`{"quant_method":"gptq","bits":4,"group_size":32,"is_marlin_format":true}`), "is_marlin_format"},
		"two formats":         {config(`{"quant_method":"gptq","bits":4,"group_size":32,"sym":false,"format":"gptq","checkpoint_format":"gptq_v2"}`), `checkpoint_format is "gptq_v2" and format is "gptq"`},
		"sym a string":        {config(`{"quant_method":"gptq","bits":4,"group_size":32,"sym":"false"}`), "quantization_config.sym is a string, expected true or false"},
		"sym by module":       {config(`{"quant_method":"gptq","bits":4,"group_size":32,"dynamic":{"q":{"sym":1}}}`), "quantization_config.sym of q is a number"},
		"dynamic a list":      {config(`{"quant_method":"gptq","bits":4,"group_size":32,"dynamic":["q"]}`), "dynamic is an array"},
		"format a list":       {config(`{"quant_method":"gptq","bits":4,"group_size":32,"checkpoint_format":["gptq_v2"]}`), "checkpoint_format is an array, expected a text"},
		"method a number":     {config(`{"quant_method":5,"bits":4,"group_size":32}`), "quant_method is a number"},
		"groups a list":       {config(`{"quant_method":"compressed-tensors","config_groups":[]}`), "config_groups is an array"},
		"transforms":          {config(`{"quant_method":"compressed-tensors","transform_config":{"config_groups":{"R1":{"type":"hadamard"}}}}`), "transform_config"},
		"awq shape":           {config(`{"quant_method":"awq","bits":4,"group_size":4}`), "expected [1 256]"},
	} {
		dir := t.TempDir()
		for name, text := range c.files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		_, err := Open(dir)
		if err == nil {
			t.Errorf("%s was accepted", name)
		}
		rejects(t, err, c.want)
	}
	// Configurations of whole folders that contradict their arrays.
	for _, c := range []struct{ dir, old, new, want string }{
		{"golden/quant/awq-4b-g128-gemm", `"group_size": 128`, `"group_size": 129`, "group_size 129 does not divide"},
		{"golden/quant/awq-4b-g128-gemm", `"zero_point": true`, `"zero_point": "false"`, "zero_point is a string"},
		{"golden/quant/ct-w4a16-g128-asym-rtn", `"num_bits": 4`, `"num_bits": 8`, "which is not what codes of [8] bits take"},
		{"golden/quant/ct-w4a16-g128-asym-rtn", `"group_size": 128`, `"group_size": 64`, "weight_scale"},
		{"golden/quant/ct-w4a16-g128-asym-rtn", `"weights": {`, `"weights": 5, "x": {`, "weights is a number, expected an object or null"},
	} {
		files := sharedFiles(t, c.dir, "config.json")
		config := string(must(os.ReadFile(files[0])))
		dir := t.TempDir()
		if !strings.Contains(config, c.old) {
			t.Fatalf("%s: no %s", c.dir, c.old)
		}
		os.WriteFile(filepath.Join(dir, "config.json"), []byte(strings.Replace(config, c.old, c.new, 1)), 0o666)
		os.WriteFile(filepath.Join(dir, "model.safetensors"), must(os.ReadFile(filepath.Join(filepath.Dir(files[0]), "model.safetensors"))), 0o666)
		_, err := Open(dir)
		rejects(t, err, c.want)
	}
	_, err := Open(filepath.Join(t.TempDir(), "nothing"))
	rejects(t, err, "cannot open it")
	bin := filepath.Join(t.TempDir(), "model.bin")
	os.WriteFile(bin, []byte("\x80\x02"), 0o666)
	_, err = Open(bin)
	rejects(t, err, "no checkpoint of PyTorch")
}

// TestBadQuantizedParts removes or reshapes one array of a quantized weight.
func TestBadQuantizedParts(t *testing.T) {
	for _, c := range []struct{ dir, part string }{
		{"golden/quant/gptq-4b-g128-sym", ".qzeros"}, {"golden/quant/gptq-4b-g128-sym", ".scales"}, {"golden/quant/awq-4b-g128-gemm", ".qzeros"},
		{"golden/quant/ct-w4a16-g128-asym-rtn", ".weight_scale"}, {"golden/quant/ct-w4a16-g128-asym-rtn", ".weight_shape"},
		{"golden/quant/ct-w4a16-g128-asym-rtn", ".weight_packed"}, {"golden/quant/ct-nvfp4", ".weight_global_scale"},
		{"golden/blocks/bnb_model/nf4_double", ".absmax"}, {"golden/blocks/bnb_model/nf4_double", ".quant_map"}, {"golden/blocks/bnb_model/nf4_double", ".nested_absmax"},
	} {
		files := sharedFiles(t, c.dir, "model.safetensors")
		tensors, _, err := ReadSafetensors(files[0])
		if err != nil {
			t.Fatal(err)
		}
		config := must(os.ReadFile(filepath.Join(filepath.Dir(files[0]), "config.json")))
		for i, ten := range tensors {
			if !strings.HasSuffix(ten.Name, c.part) {
				continue
			}
			dir := t.TempDir()
			os.WriteFile(filepath.Join(dir, "config.json"), config, 0o666)
			changed := append([]NamedTensor{}, tensors...)
			changed[i].Shape = append([]int64{1, 1}, ten.Shape...)
			if err := WriteSafetensors(filepath.Join(dir, "model.safetensors"), changed, nil); err != nil {
				t.Fatal(err)
			}
			_, err := Open(dir)
			rejects(t, err, "")
			changed = append(append([]NamedTensor{}, tensors[:i]...), tensors[i+1:]...)
			if err := WriteSafetensors(filepath.Join(dir, "model.safetensors"), changed, nil); err != nil {
				t.Fatal(err)
			}
			_, err = Open(dir)
			rejects(t, err, "")
			break
		}
	}
}

// Configurations are read up to 16 MiB, vocabularies up to 256.
func TestSideFileLimits(t *testing.T) {
	dir := t.TempDir()
	for name, want := range map[string]int{"tokenizer_config.json": 4, "generation_config.json": 4, "special_tokens_map.json": 4, "tokenizer.json": 0} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 17<<20); err != nil {
			t.Fatal(err)
		}
		if b, err := SideFile(path); fail.Code(err) != want || err == nil && len(b) != 17<<20 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
}
