package rows

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Limits on what an Arrow IPC file may claim.
const (
	maxArrowMeta   = 16 << 20
	maxArrowFields = 10_000
	maxArrowDepth  = 64
	maxArrowBatch  = 1 << 30 // bytes of a record batch, decompressed
	freeArrowRows  = 1 << 20 // rows a batch may have whatever its size
)

// checkArrow walks the messages of an IPC stream of size bytes at offset start
// of r, before the library takes memory for what they claim, and gives each the
// batches. The layout is https://arrow.apache.org/docs/format/Columnar.html,
// section IPC.
func checkArrow(r io.ReaderAt, start, size int64, each func(recordBatch) error) error {
	at, views := start, 0
	for n := 0; ; n++ {
		meta, body, err := readMessage(r, &at, size)
		if err == nil && meta == nil && n == 0 {
			err = errors.New("no schema")
		}
		if err == nil && meta == nil {
			return nil
		}
		if err == nil {
			err = checkMessage(r, meta, at, body, n == 0, &views, each)
		}
		if err != nil {
			return fmt.Errorf("Arrow message %d: %w", n, err)
		}
		at += body
	}
}

// readMessage reads the metadata of the message at *at and moves it to the
// body; nil at the end of the stream.
func readMessage(r io.ReaderAt, at *int64, size int64) (meta flat, body int64, err error) {
	var head [8]byte
	if *at == size {
		return nil, 0, nil
	}
	if _, err := r.ReadAt(head[:], *at); err != nil {
		return nil, 0, errors.New("cut off")
	}
	if binary.LittleEndian.Uint32(head[:]) != 0xffffffff {
		return nil, 0, errors.New("no continuation marker (not Arrow IPC, or written before 2019)")
	}
	n := int64(int32(binary.LittleEndian.Uint32(head[4:])))
	if n == 0 {
		return nil, 0, nil
	}
	*at += 8
	if n < 8 || n > maxArrowMeta || n > size-*at {
		return nil, 0, fmt.Errorf("claims %d bytes of metadata", n)
	}
	meta = make(flat, n)
	if _, err := r.ReadAt(meta, *at); err != nil {
		return nil, 0, err
	}
	*at += n
	root, ok := meta.root()
	body = meta.int64(root, 3, 0)
	if !ok || body < 0 || body > size-*at || body%8 != 0 {
		return nil, 0, fmt.Errorf("claims %d bytes of body", body)
	}
	return meta, body, nil
}

// checkMessage checks a Message (1 header type, 2 header, 3 body length):
// 1 schema first, then 2 dictionary and 3 record batches. views is the number of
// columns of views in the schema.
func checkMessage(r io.ReaderAt, m flat, at, body int64, first bool, views *int, each func(recordBatch) error) error {
	root, _ := m.root()
	kind := m.byte(root, 1)
	header, ok := m.table(root, 2)
	if !ok {
		return errors.New("has no header")
	}
	if first != (kind == 1) {
		return fmt.Errorf("is of kind %d, out of place", kind)
	}
	switch kind {
	case 1:
		if m.int16(header, 0) != 0 {
			return errors.New("big-endian data is not supported")
		}
		f := fieldCount{left: maxArrowFields}
		err := errors.Join(m.checkFields(header, 1, 0, &f), m.checkVector(header, 2))
		*views = f.views
		return err
	case 2: // DictionaryBatch: 1 data
		if header, ok = m.table(header, 1); !ok {
			return errors.New("dictionary without data")
		}
	case 3:
	default:
		return fmt.Errorf("is of kind %d", kind)
	}
	if kind == 2 {
		views = new(int) // dictionaries hold none
	}
	b, err := checkBatch(r, m, header, at, body, *views)
	if err != nil {
		return err
	}
	b.dictionary = kind == 2
	return each(b)
}

// fieldCount counts the fields of a schema.
type fieldCount struct {
	left       int // how many more there may be
	views      int // columns of views, whose buffers a batch counts
	dictionary int // depth below a field whose values lie in a dictionary
}

// checkFields counts Fields (4 dictionary, 5 children) so that neither depth nor
// shared offsets can make a small file large.
func (m flat) checkFields(table, slot, depth int, f *fieldCount) error {
	vec, n, err := m.vector(table, slot)
	if err == nil && depth > maxArrowDepth {
		err = fmt.Errorf("fields are nested deeper than %d", maxArrowDepth)
	}
	if err != nil {
		return err
	}
	for i := range n {
		if f.left--; f.left < 0 {
			return fmt.Errorf("more than %d fields", maxArrowFields)
		}
		field, ok := m.follow(vec + 4*i)
		if !ok {
			return errors.New("field outside its message")
		}
		kind := m.byte(field, 2)
		if kind == 0 || kind == arrowUnion || kind == arrowRunEnd {
			return fmt.Errorf("field of type %d is not supported", kind)
		}
		inside := f.dictionary
		if m.has(field, 4) {
			f.dictionary++
		}
		if kind == arrowBinaryView || kind == arrowTextView {
			if f.views++; f.dictionary > 0 {
				return errors.New("a dictionary of views is not supported")
			}
		}
		if err := errors.Join(m.checkFields(field, 5, depth+1, f), m.checkVector(field, 6)); err != nil {
			return err
		}
		f.dictionary = inside
	}
	return nil
}

// Types of Schema.fbs: two that rows do not have, and views.
const arrowUnion, arrowRunEnd, arrowBinaryView, arrowTextView = 14, 22, 23, 24

// checkVector checks the length of a list that we do not read (metadata).
func (m flat) checkVector(table, slot int) error {
	_, _, err := m.vector(table, slot)
	return err
}

// recordBatch is the metadata of a record batch or dictionary.
type recordBatch struct {
	meta                   flat
	body                   int64 // where it begins in the file
	rows                   int64
	nodes, buffers         pairs
	compressed, dictionary bool
}

// pairs are n structs of two int64 at a position of a message.
type pairs struct{ at, n int }

// node returns the values and nulls of column i, a list's elements being the
// next column.
func (b recordBatch) node(i int) (length, nulls int64) {
	return b.meta.i64(b.nodes.at + 16*i), b.meta.i64(b.nodes.at + 16*i + 8)
}

// buffer is where a buffer lies in the body.
func (b recordBatch) buffer(i int) (offset, length int64) {
	return b.meta.i64(b.buffers.at + 16*i), b.meta.i64(b.buffers.at + 16*i + 8)
}

// checkBatch checks a RecordBatch: 0 length, 1 nodes (length, nulls), 2 buffers
// (offset, length), 3 compression, 4 buffers of each of the columns of views.
func checkBatch(r io.ReaderAt, m flat, batch int, at, body int64, views int) (recordBatch, error) {
	b := recordBatch{meta: m, body: at, rows: m.int64(batch, 0, 0)}
	if b.rows < 0 || b.rows > max(8*body, freeArrowRows) {
		return b, fmt.Errorf("claims %d rows in %d bytes", b.rows, body)
	}
	var err error
	if b.nodes.at, b.nodes.n, err = m.vector(batch, 1); err != nil {
		return b, err
	}
	for i := range b.nodes.n {
		if length, nulls := b.node(i); length < 0 || nulls < 0 || nulls > length || length > max(8*body, freeArrowRows) {
			return b, fmt.Errorf("column node %d claims %d values, %d nulls", i, length, nulls)
		}
	}
	if b.compressed = m.has(batch, 3); b.compressed {
		if _, ok := m.table(batch, 3); !ok {
			return b, errors.New("its compression lies outside its message")
		}
	}
	if err := m.checkCounts(batch, 4, views); err != nil {
		return b, err
	}
	if b.buffers.at, b.buffers.n, err = m.vector(batch, 2); err != nil {
		return b, err
	}
	total := body
	for i := range b.buffers.n {
		offset, length := b.buffer(i)
		if offset < 0 || length < 0 || offset > body || length > body-offset {
			return b, fmt.Errorf("buffer %d lies outside the body", i)
		}
		if b.compressed && length >= 8 {
			var head [8]byte
			if _, err := r.ReadAt(head[:], at+offset); err != nil {
				return b, err
			}
			raw := int64(binary.LittleEndian.Uint64(head[:]))
			if raw < -1 || raw > maxArrowBatch {
				return b, fmt.Errorf("buffer %d claims %d bytes decompressed", i, raw)
			}
			if total += raw; total > maxArrowBatch {
				return b, fmt.Errorf("a batch of more than %d bytes", int64(maxArrowBatch))
			}
		}
	}
	return b, nil
}

// checkCounts checks the list of int64 that says how many buffers of its own each
// column of views has: the library makes room for them before it looks, and reads
// a count for each column whatever the length of the list.
func (m flat) checkCounts(batch, slot, views int) error {
	at, n, err := m.vector(batch, slot)
	_, buffers, err2 := m.vector(batch, 2)
	if err = errors.Join(err, err2); err == nil && m.has(batch, slot) && n < views {
		err = fmt.Errorf("counts the buffers of %d columns of views, there are %d", n, views)
	}
	for i := 0; i < n && err == nil; i++ {
		if c := m.i64(at + 8*i); c < 0 || c > int64(buffers) {
			err = fmt.Errorf("column %d of views claims %d buffers of %d", i, c, buffers)
		}
	}
	return err
}

// flat is a FlatBuffers message; every access is checked, and what lies
// outside reads as absent. https://flatbuffers.dev/internals
type flat []byte

func (m flat) u32(at int) (int, bool) {
	if at < 0 || at > len(m)-4 {
		return 0, false
	}
	return int(binary.LittleEndian.Uint32(m[at:])), true
}

func (m flat) i64(at int) int64 {
	if at < 0 || at > len(m)-8 {
		return -1
	}
	return int64(binary.LittleEndian.Uint64(m[at:]))
}

// follow goes along the offset that stands at a position.
func (m flat) follow(at int) (int, bool) {
	off, ok := m.u32(at)
	to := at + off
	return to, ok && off > 0 && to <= len(m)-4
}

func (m flat) root() (int, bool) { return m.follow(0) }

// field is the position of a table's field; false when it is absent.
func (m flat) field(table, slot int) (int, bool) {
	back, ok := m.u32(table)
	vtable := table - int(int32(back))
	if !ok || vtable < 0 || vtable > len(m)-4 {
		return 0, false
	}
	size := int(binary.LittleEndian.Uint16(m[vtable:]))
	entry := vtable + 4 + 2*slot
	if 4+2*slot >= size || entry > len(m)-2 {
		return 0, false
	}
	off := int(binary.LittleEndian.Uint16(m[entry:]))
	return table + off, off > 0 && table+off < len(m)
}

// has tells whether a table says that it has a field, wherever that lies.
func (m flat) has(table, slot int) bool {
	back, ok := m.u32(table)
	vtable := table - int(int32(back))
	if !ok || vtable < 0 || vtable > len(m)-4 {
		return false
	}
	entry := vtable + 4 + 2*slot
	return 4+2*slot < int(binary.LittleEndian.Uint16(m[vtable:])) && (entry > len(m)-2 || binary.LittleEndian.Uint16(m[entry:]) != 0)
}

func (m flat) byte(table, slot int) byte {
	if at, ok := m.field(table, slot); ok {
		return m[at]
	}
	return 0
}

func (m flat) int16(table, slot int) int16 {
	if at, ok := m.field(table, slot); ok && at <= len(m)-2 {
		return int16(binary.LittleEndian.Uint16(m[at:]))
	}
	return 0
}

func (m flat) int64(table, slot int, absent int64) int64 {
	if at, ok := m.field(table, slot); ok {
		return m.i64(at)
	}
	return absent
}

func (m flat) table(table, slot int) (int, bool) {
	at, ok := m.field(table, slot)
	if !ok {
		return 0, false
	}
	return m.follow(at)
}

// vector is the position of the first element and the number of elements, none
// when the field is absent; every element takes at least 4 bytes.
func (m flat) vector(table, slot int) (at, n int, err error) {
	if !m.has(table, slot) {
		return 0, 0, nil
	}
	at, ok := m.table(table, slot)
	if ok {
		n, ok = m.u32(at)
	}
	if !ok || n > (len(m)-at-4)/4 {
		return 0, 0, errors.New("a list lies outside its message")
	}
	return at + 4, n, nil
}
