package rows

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"testing"

	"github.com/parquet-go/parquet-go"
	wire "github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

// pageHeader is a data page's header in the compact protocol, whose statistics
// hold a largest value of n bytes, no smallest one, and is_max_value_exact.
func pageHeader(n int) []byte {
	h := []byte{0x15, 0x00, 0x15, 0x14, 0x15, 0x14} // type, sizes of 10
	h = append(h, 0x2c, 0x15, 0x0a, 0x15, 0x00, 0x15, 0x06, 0x15, 0x06)
	h = append(h, 0x1c, 0x36, 0x00, 0x28)
	h = binary.AppendUvarint(h, uint64(n))
	h = append(h, bytes.Repeat([]byte("x"), n)...)
	return append(h, 0x21, 0x00, 0x00, 0x00)
}

// The library misreads such headers, and reads them when they are written again,
// in pieces of any size. pyarrow 26 writes them for text longer than 4 kB.
func TestPlainHeader(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 4, 100, 120, 121, 122, 123, 124, 125, 126, 127, 128, 130, 4000, 16370, 16375, 16376, 16377, 16378, 16379, 16380, 16385, 70000} {
		file := append(bytes.Repeat([]byte{7}, 11), pageHeader(n)...)
		r := &thriftReader{r: bytes.NewReader(file[11:]), left: maxPageHeader, nodes: 100}
		h, err := r.structure(0)
		if err != nil || h.sub(5).num(1) != 5 {
			t.Fatalf("%d: %v %v", n, h, err)
		}
		plain, err := plainHeader(h, r.read)
		if err != nil {
			t.Fatal(err)
		}
		view := &hidden{ReaderAt: bytes.NewReader(file)}
		view.patch(patch{11, plain})
		view.done()
		for _, step := range []int{1, 3, 1 << 20} {
			var got []byte
			for off := 0; off < len(file); off += step {
				part := make([]byte, min(step, len(file)-off))
				if k, err := view.ReadAt(part, int64(off)); k != len(part) || err != nil && err != io.EOF {
					t.Fatal(k, err)
				}
				got = append(got, part...)
			}
			var h format.PageHeader
			if err := wire.Unmarshal(new(wire.CompactProtocol), got[11:], &h); err != nil || h.DataPageHeader == nil || h.DataPageHeader.NumValues != 5 {
				t.Fatalf("%d bytes in steps of %d: %v %+v", n, step, err, h)
			}
		}
	}
}

// Whatever room a header leaves, what is written in its place ends where it ended,
// and reads as the same header.
func TestPlainHeaderRoom(t *testing.T) {
	h := thrift{1: int64(3), 2: int64(70000), 3: int64(1234), 8: thrift{1: int64(9), 2: int64(0), 3: int64(9), 4: int64(8), 5: int64(2), 6: int64(0), 7: false}}
	least, _, err := pageShape.encode(nil, h)
	if err != nil {
		t.Fatal(err)
	}
	for room := range 40000 {
		if room > 300 && room < 16300 || room > 16500 && room < 39990 {
			continue
		}
		n := len(least) + room + 1
		plain, err := plainHeader(h, int64(n))
		if err != nil {
			t.Fatal(err)
		}
		whole := append(plain, bytes.Repeat([]byte{0xaa}, n-1-len(plain))...)
		whole = append(whole, 0, 1, 2, 3)
		r := &thriftReader{r: bytes.NewReader(whole), left: maxPageHeader, nodes: 100}
		back, err := r.structure(0)
		if err != nil || r.read != int64(n) || checkSame(back, h) != "" {
			t.Fatalf("room for %d: %v, %d of %d bytes, %s", room, err, r.read, n, checkSame(back, h))
		}
		in := bytes.NewReader(whole)
		var p format.PageHeader
		err = wire.NewDecoder(new(wire.CompactProtocol).NewReader(bufio.NewReader(in))).Decode(&p)
		if v2 := p.DataPageHeaderV2; err != nil || p.UncompressedPageSize != 70000 || p.CompressedPageSize != 1234 || v2 == nil || v2.NumValues != 9 || v2.IsCompressed == nil || *v2.IsCompressed {
			t.Fatalf("room for %d: %v %+v", room, err, p)
		}
	}
	if _, err := plainHeader(h, int64(len(least))); err == nil {
		t.Error("a header without room")
	}
	if _, err := plainHeader(thrift{2: int64(1) << 40}, 100); err == nil {
		t.Error("a number of 64 bits where there are 32")
	}
}

// checkSame says how back differs from h, unknown fields aside.
func checkSame(back, h thrift) string {
	for id, v := range h {
		if s, ok := v.(thrift); ok {
			if d := checkSame(back.sub(id), s); d != "" {
				return d
			}
		} else if back[id] != v {
			return fmt.Sprintf("field %d is %v, want %v", id, back[id], v)
		}
	}
	return ""
}

// A column of nulls only has the logical type UNKNOWN in files of pyarrow, which
// the library cannot read.
func TestNullColumn(t *testing.T) {
	var b bytes.Buffer
	w := parquet.NewGenericWriter[struct {
		Text  string
		Extra *int32 `parquet:",optional"`
	}](&b)
	if _, err := w.Write(make([]struct {
		Text  string
		Extra *int32 `parquet:",optional"`
	}, 3)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	file := b.Bytes()
	n := len(file) - 8 - int(binary.LittleEndian.Uint32(file[len(file)-8:]))
	var meta format.FileMetaData
	if err := wire.Unmarshal(new(wire.CompactProtocol), file[n:len(file)-8], &meta); err != nil {
		t.Fatal(err)
	}
	last := &meta.Schema[len(meta.Schema)-1]
	last.ConvertedType, last.LogicalType = nil, &format.LogicalType{Unknown: new(format.NullType)}
	footer, err := wire.Marshal(new(wire.CompactProtocol), &meta)
	if err != nil {
		t.Fatal(err)
	}
	file = append(append(file[:n:n], footer...), "\x00\x00\x00\x00PAR1"...)
	binary.LittleEndian.PutUint32(file[len(file)-8:], uint32(len(footer)))
	p, err := parquetFrom(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		row, _, err := p.Next()
		if err != nil {
			t.Fatal(err)
		}
		if v, ok := row.Get("Extra"); v != nil || !ok {
			t.Fatalf("%v %v", v, ok)
		}
	}
	if _, _, err := p.Next(); err != io.EOF {
		t.Fatal(err)
	}
}
