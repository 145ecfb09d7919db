package rows

import (
	"errors"
	"fmt"
	"io"
)

// This file reads Thrift's compact protocol into plain values, so that what a
// Parquet file claims can be checked before a library takes memory for it.
// https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md

// thrift is a struct: field id → bool, int64, float64, []byte, []any, thrift.
type thrift map[int16]any

// num returns an integer field, or 0.
func (t thrift) num(id int16) int64 { n, _ := t[id].(int64); return n }

// has tells whether a field is present.
func (t thrift) has(id int16) bool { _, ok := t[id]; return ok }

// sub returns a struct field, or nil.
func (t thrift) sub(id int16) thrift { s, _ := t[id].(thrift); return s }

// list returns a list field, or nil.
func (t thrift) list(id int16) []any { l, _ := t[id].([]any); return l }

// text returns a string field, or "".
func (t thrift) text(id int16) string { b, _ := t[id].([]byte); return string(b) }

// thriftReader reads at most left bytes and nodes values.
type thriftReader struct {
	r     io.ByteReader
	left  int64
	nodes int
	read  int64                                 // bytes so far
	isOdd func(depth int, id int64, v any) bool // tells which values parquet-go misreads
	odd   []byteRange                           // their contents
}

// byteRange is a range of bytes.
type byteRange struct{ from, to int64 }

var errThrift = errors.New("damaged header")

func (t *thriftReader) byte() (byte, error) {
	if t.left <= 0 {
		return 0, fmt.Errorf("%w: longer than allowed", errThrift)
	}
	t.left--
	t.read++
	b, err := t.r.ReadByte()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

func (t *thriftReader) uvarint() (uint64, error) {
	var v uint64
	for shift := 0; shift < 70; shift += 7 {
		b, err := t.byte()
		if err != nil {
			return 0, err
		}
		v |= uint64(b&0x7f) << min(shift, 63)
		if b < 0x80 {
			return v, nil
		}
	}
	return 0, fmt.Errorf("%w: number too long", errThrift)
}

func (t *thriftReader) varint() (int64, error) {
	u, err := t.uvarint()
	return int64(u>>1) ^ -int64(u&1), err
}

// count reads a number of things of which each takes at least a byte.
func (t *thriftReader) count() (int, error) {
	n, err := t.uvarint()
	if err == nil && n > uint64(t.left) {
		err = fmt.Errorf("%w: counts %d things in %d bytes", errThrift, n, t.left)
	}
	return int(n), err
}

const maxThriftDepth = 24

func (t *thriftReader) structure(depth int) (thrift, error) {
	if depth > maxThriftDepth {
		return nil, fmt.Errorf("%w: nested too deep", errThrift)
	}
	out := thrift{}
	id := int64(0)
	for {
		b, err := t.byte()
		if err != nil {
			return nil, err
		}
		if b == 0 {
			return out, nil
		}
		if d := int64(b >> 4); d != 0 {
			id += d
		} else if id, err = t.varint(); err != nil {
			return nil, err
		}
		if id < 0 || id > 0x7fff {
			return nil, fmt.Errorf("%w: field %d", errThrift, id)
		}
		kind := b & 15
		if kind == 1 || kind == 2 {
			out[int16(id)] = kind == 1
			continue
		}
		from := t.read
		if out[int16(id)], err = t.value(kind, depth); err != nil {
			return nil, err
		}
		if t.isOdd != nil && t.isOdd(depth, id, out[int16(id)]) {
			t.odd = append(t.odd, byteRange{from, t.read})
		}
	}
}

func (t *thriftReader) value(kind byte, depth int) (any, error) {
	if t.nodes--; t.nodes < 0 {
		return nil, fmt.Errorf("%w: too many values", errThrift)
	}
	switch kind {
	case 1, 2, 3: // booleans in lists, bytes
		b, err := t.byte()
		return int64(int8(b)), err
	case 4, 5, 6:
		return t.varint()
	case 7:
		for range 8 {
			if _, err := t.byte(); err != nil {
				return nil, err
			}
		}
		return 0.0, nil // no header we read holds one
	case 8:
		return t.bytes()
	case 9, 10:
		return t.listOf(depth)
	case 12:
		return t.structure(depth + 1)
	}
	return nil, fmt.Errorf("%w: value of kind %d", errThrift, kind)
}

func (t *thriftReader) bytes() ([]byte, error) {
	n, err := t.count()
	if err != nil {
		return nil, err
	}
	out := make([]byte, n)
	for i := range out {
		if out[i], err = t.byte(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (t *thriftReader) listOf(depth int) ([]any, error) {
	b, err := t.byte()
	if err != nil {
		return nil, err
	}
	n := int(b >> 4)
	if n == 15 {
		if n, err = t.count(); err != nil {
			return nil, err
		}
	}
	if n > t.nodes {
		return nil, fmt.Errorf("%w: too many values", errThrift)
	}
	var out []any
	for range n {
		v, err := t.value(b&15, depth)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}
