package rows

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/parquet-go/parquet-go/encoding"
	"github.com/parquet-go/parquet-go/encoding/plain"
	"github.com/parquet-go/parquet-go/format"
)

// Three encodings of the format are read here: of booleans in runs, parquet-go takes a run to be
// of whole bytes, of bytes in streams it knows only floats, and of plain values it does not say how
// many a page held. The page headers that it sees
// name them by numbers of our own (of one byte in the header, like the format's).
const (
	ownShift  = 32
	ownPlain  = ownShift + int64(format.Plain)
	ownRuns   = ownShift + int64(format.RLE)
	ownStream = ownShift + int64(format.ByteStreamSplit)
)

// registerEncodings makes them known to parquet-go.
var registerEncodings = sync.OnceFunc(func() {
	parquet.RegisterEncoding(&plainPage{})
	parquet.RegisterEncoding(runs{})
	parquet.RegisterEncoding(streams{})
})

// ownEncoding replaces the encoding of a data page's header by the number it has here.
func ownEncoding(h thrift) {
	for _, of := range [...][2]int16{{5, 2}, {8, 4}} { // the encoding in the headers of data pages
		if d := h.sub(of[0]); d != nil {
			switch e := d.num(of[1]); e {
			case int64(format.Plain), int64(format.RLE), int64(format.ByteStreamSplit):
				d[of[1]] = e + ownShift
			}
		}
	}
}

// plainValues tells whether a page's values are PLAIN, its own or those of its dictionary (2 and 8
// are the encodings of places in one).
func plainValues(h thrift) bool {
	for _, of := range [...][2]int16{{5, 2}, {8, 4}} {
		d := h.sub(of[0])
		if e := d.num(of[1]); d != nil && e != int64(format.Plain) && e != 2 && e != int64(format.RLEDictionary) {
			return false
		}
	}
	return true
}

// plainPage is PLAIN: one value behind the other.
type plainPage struct{ standard }

type standard = plain.Encoding

func (*plainPage) Encoding() format.Encoding { return format.Encoding(ownPlain) }

// DecodeByteArray gives all texts of a page, each behind its length of 4 bytes; what offsets could
// hold is what it holds, so that texts that a page has too many are seen.
func (*plainPage) DecodeByteArray(dst, src []byte, offsets []uint32) ([]byte, []uint32, error) {
	dst, offsets = dst[:0], offsets[:0]
	for len(src) > 0 {
		if len(src) < 4 || uint64(binary.LittleEndian.Uint32(src)) > uint64(len(src)-4) {
			return dst, offsets, fmt.Errorf("texts: %w", io.ErrUnexpectedEOF)
		}
		n := binary.LittleEndian.Uint32(src)
		offsets = append(offsets, uint32(len(dst)))
		dst, src = append(dst, src[4:4+n]...), src[4+n:]
	}
	return slices.Clip(dst), slices.Clip(append(offsets, uint32(len(dst)))), nil
}

// DecodeInt96 leaves out bytes that are no whole value, which fastparquet writes behind the last.
func (*plainPage) DecodeInt96(dst []deprecated.Int96, src []byte) ([]deprecated.Int96, error) {
	return new(standard).DecodeInt96(dst, src[:len(src)/12*12])
}

// runs is RLE of booleans: a length of 4 bytes, then runs, each headed by a number: twice
// how often the next byte's value comes, or one more than twice the bytes of 8 values each.
type runs struct{ encoding.NotSupported }

func (runs) String() string            { return "RLE" }
func (runs) Encoding() format.Encoding { return format.Encoding(ownRuns) }

// DecodeBoolean gives a bit for each value. Like all decoders here it gives no memory behind
// what it read: of a page that claims more values than it holds parquet-go would take them there.
func (runs) DecodeBoolean(dst, src []byte) ([]byte, error) {
	dst = dst[:0]
	if len(src) == 0 { // a page of nulls
		return slices.Clip(dst), nil
	}
	if len(src) < 4 || uint64(binary.LittleEndian.Uint32(src)) > uint64(len(src)-4) {
		return dst, fmt.Errorf("runs of booleans: %w", io.ErrUnexpectedEOF)
	}
	src = src[4 : 4+binary.LittleEndian.Uint32(src)]
	bits := 0
	put := func(bit byte) {
		if bits%8 == 0 {
			dst = append(dst, 0)
		}
		dst[bits/8] |= bit << (bits % 8)
		bits++
	}
	for len(src) > 0 {
		u, n := binary.Uvarint(src)
		if n <= 0 || n == len(src) {
			return dst, fmt.Errorf("runs of booleans: %w", io.ErrUnexpectedEOF)
		}
		src = src[n:]
		packed := u&1 != 0
		if u >>= 1; u > maxPageValues || packed && u > uint64(len(src)) {
			return dst, fmt.Errorf("a run of %d booleans is too long", u)
		}
		values := int(u)
		if packed {
			values *= 8
		}
		if bits+values > maxPageValues+8 {
			return dst, fmt.Errorf("a page of more than %d booleans", maxPageValues)
		}
		if !packed {
			for range u {
				put(src[0] & 1)
			}
			src = src[1:]
			continue
		}
		for _, b := range src[:u] {
			for k := range 8 {
				put(b >> k & 1)
			}
		}
		src = src[u:]
	}
	return slices.Clip(dst), nil
}

// streams is BYTE_STREAM_SPLIT: the first bytes of all values, then the second ones, and so on.
type streams struct{ encoding.NotSupported }

func (streams) String() string            { return "BYTE_STREAM_SPLIT" }
func (streams) Encoding() format.Encoding { return format.Encoding(ownStream) }

// joined puts the bytes of each value of a size side by side.
func joined(src []byte, size int) ([]byte, error) {
	if size < 1 || len(src)%size != 0 {
		return nil, fmt.Errorf("byte streams of %d bytes are none of values of %d", len(src), size)
	}
	out, n := make([]byte, len(src)), len(src)/size
	for i := range out {
		out[i] = src[i%size*n+i/size]
	}
	return out, nil
}

// unstreamed are the values of streams of so many bytes each.
func unstreamed[T any](dst []T, src []byte, size int, value func(b []byte) T) ([]T, error) {
	b, err := joined(src, size)
	for dst = dst[:0]; len(b) > 0; b = b[size:] {
		dst = append(dst, value(b))
	}
	return slices.Clip(dst), err
}

func (streams) DecodeInt32(dst []int32, src []byte) ([]int32, error) {
	return unstreamed(dst, src, 4, func(b []byte) int32 { return int32(binary.LittleEndian.Uint32(b)) })
}

func (streams) DecodeInt64(dst []int64, src []byte) ([]int64, error) {
	return unstreamed(dst, src, 8, func(b []byte) int64 { return int64(binary.LittleEndian.Uint64(b)) })
}

func (streams) DecodeFloat(dst []float32, src []byte) ([]float32, error) {
	return unstreamed(dst, src, 4, func(b []byte) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(b)) })
}

func (streams) DecodeDouble(dst []float64, src []byte) ([]float64, error) {
	return unstreamed(dst, src, 8, func(b []byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(b)) })
}

func (streams) DecodeFixedLenByteArray(dst, src []byte, size int) ([]byte, error) {
	b, err := joined(src, size)
	return slices.Clip(append(dst[:0], b...)), err
}
