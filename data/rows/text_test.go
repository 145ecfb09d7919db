package rows

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	"github.com/ulikunitz/xz"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/formats/fail"
)

// TestCompressed: what the compressing programs write holds the same rows, in one
// stream, in several and in blocks (testdata/packed/gen.sh).
func TestCompressed(t *testing.T) {
	want := mustRead(t, "testdata/packed/rows.jsonl")
	files, err := filepath.Glob("testdata/packed/*.jsonl.*")
	if err != nil || len(files) != 10 || len(want) != 40 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, path := range files {
		if strings.Contains(path, "filter") {
			if _, err := read(path); err == nil || !strings.Contains(err.Error(), "filters before LZMA2") {
				t.Errorf("%s: %v", path, err)
			}
			continue
		}
		if got := mustRead(t, path); !slices.Equal(got, want) {
			t.Errorf("%s: %d rows", path, len(got))
		}
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		half := filepath.Join(t.TempDir(), filepath.Base(path))
		for n := 1; n < len(whole)-1; n += 7 {
			if err := os.WriteFile(half, whole[:n], 0o644); err != nil {
				t.Fatal(err)
			}
			if rows, err := read(half); fail.Code(err) != int(fail.Input) && len(rows) != 20 { // the end of a first stream is an end
				t.Errorf("%s cut at %d of %d: %d rows, %v", path, n, len(whole), len(rows), err)
			}
		}
	}
	if got, want := Ext("a/B.JSONL.GZ"), ".jsonl.gz"; got != want {
		t.Errorf("ending %s, want %s", got, want)
	}
}

// TestReadPastTheEnd: a compressed file that was read to its end stays there, which
// tables shorter than a buffer need.
func TestReadPastTheEnd(t *testing.T) {
	files, err := filepath.Glob("testdata/packed/*.jsonl.*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		r, err := OpenText(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(r); err == nil {
			if n, err := r.Read(make([]byte, 9)); n != 0 || err != io.EOF {
				t.Errorf("%s: %d bytes after the end, %v", path, n, err)
			}
		}
		r.Close()
	}
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, "prompt,completion\nq,\"a, b\"\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "small.csv.xz")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if rows, err := read(path); err != nil || len(rows) != 1 {
		t.Errorf("%d rows, %v", len(rows), err)
	}
}

// TestGzipPadding: zeros behind a member of a gzip file are no data, and no other bytes
// are passed over. Python 3's gzip.decompress says the same of each.
func TestGzipPadding(t *testing.T) {
	member := func(text string) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		fmt.Fprint(w, text)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	one, two, zeros := member(`{"a": 1}`+"\n"), member(`{"a": 2}`+"\n"), strings.Repeat("\x00", 100_000)
	path := filepath.Join(t.TempDir(), "a.jsonl.gz")
	for _, c := range []struct {
		text string
		rows int // -1: an error
	}{
		{one, 1}, {one + "\x00", 1}, {one + zeros, 1}, {one + zeros + two, 2}, {one + two + zeros, 2}, {one + member("") + zeros + two, 2},
		{zeros + one, -1}, {one + "x", -1}, {one + zeros + "x", -1}, {one + zeros + two[:len(two)-1], -1}, {one + zeros + two[:5], -1}, {one + "\x1f", -1},
	} {
		if err := os.WriteFile(path, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		rows, err := read(path)
		if c.rows < 0 && fail.Code(err) != int(fail.Input) || c.rows >= 0 && (err != nil || len(rows) != c.rows) {
			t.Errorf("%d bytes: %d rows, %v, want %d", len(c.text), len(rows), err, c.rows)
		}
	}
}

// read is all rows of a file.
func read(path string) (rows []any, err error) {
	r, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	for {
		row, _, err := r.Next()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return rows, err
		}
		rows = append(rows, row)
	}
}

// TestCompressedBombs: a file that says little and holds much, and one that asks for a large
// dictionary, end in an error and not in all memory.
func TestCompressedBombs(t *testing.T) {
	bomb := filepath.Join(t.TempDir(), "bomb.jsonl.zst")
	f, err := os.Create(bomb)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(f, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	lines := []byte(strings.Repeat("\n", 1<<20))
	for range 300 {
		if _, err := z.Write(lines); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := read(bomb); fail.Code(err) != int(fail.Limit) {
		t.Errorf("300 MiB of line ends: %v", err)
	}

	b, err := os.ReadFile("testdata/packed/rows.jsonl.xz")
	if err != nil {
		t.Fatal(err)
	}
	header := b[12 : 12+4*(int(b[12])+1)]
	at := slices.Index(header, 0x21) // LZMA2, one byte of properties: the dictionary
	if at < 0 || header[at+1] != 1 {
		t.Fatalf("block header %x", header)
	}
	for size, want := range map[byte]string{40: "dictionary of 4096 MiB", 31: "dictionary of 192 MiB", 41: "other than LZMA2"} {
		header[at+2] = size
		binary.LittleEndian.PutUint32(header[len(header)-4:], crc32.ChecksumIEEE(header[:len(header)-4]))
		path := filepath.Join(t.TempDir(), "large.jsonl.xz")
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := read(path); fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), want) {
			t.Errorf("dictionary %d: %v, want %q", size, err, want)
		}
	}
}

// FuzzCompressed: any bytes under any of the endings are rows or an error.
func FuzzCompressed(f *testing.F) {
	files, err := filepath.Glob("testdata/packed/*.jsonl.*")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		for ext := range codecs {
			path := filepath.Join(dir, "a.jsonl"+ext)
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
			var bad *RowError
			if _, err := read(path); err != nil && fail.Code(err) != int(fail.Input) && fail.Code(err) != int(fail.Limit) && !errors.As(err, &bad) {
				t.Errorf("%s: %v", ext, err)
			}
		}
	})
}

// TestDelimiter: what parts the fields of a table is what parts its first line.
func TestDelimiter(t *testing.T) {
	for text, want := range map[string]rune{
		"a,b\n1,2\n": ',', "a;b\n1;2\n": ';', "a\tb\n1\t2": '\t', "a|b": '|', "a\nb,c;d\n": ',', "": ',',
		"a;b;c\n1,5;2,5;3\n": ';', "a,b;c\n1,2;3\n": ',', "x,y;z\n1;2,3,4": ';', "\"a;b\",c\n1,2\n": ',', "a b;\"c,d\"\n1;2": ';',
		"q,a\nwhat, then, is,it\n": ',', "a;x|b;y\n1;2|3\n": '|', "a;b|c\n1;2|3\n": 0,
	} {
		got, err := delimiter([]byte(text))
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
}

// TestRepeatedRow: a column that says one text for sixteen million rows, in a file of
// some kilobytes, ends in an error before its rows take much memory.
func TestRepeatedRow(t *testing.T) {
	type row struct {
		Text string `parquet:"text,dict"`
	}
	path := filepath.Join(t.TempDir(), "rle16m.parquet")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := parquet.NewGenericWriter[row](f, parquet.PageBufferSize(1<<30), parquet.Compression(&parquet.Zstd))
	rows := slices.Repeat([]row{{"hello world"}}, 1<<18)
	for range 1 << 24 / len(rows) {
		if _, err := w.Write(rows); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n := 0
	for ; err == nil; n++ {
		_, _, err = r.Next()
	}
	if fail.Code(err) != int(fail.Limit) || n < 1_000_000 || n > 10_000_000 {
		t.Errorf("%d rows, then %v", n, err)
	}
}

// TestJSONRows: an array is read a row at a time: one that is bad is no other's, and
// one of millions of values is refused before they are made.
func TestJSONRows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.json")
	many := strings.Repeat("[],", 1<<22) + "1"
	for text, want := range map[string]string{
		`[{"a":1}, {"a":1,"a":2}, 3, {"a":2}]`: "1 bad bad 2",
		`[]`:                                   "",
		` [ {"a":1} ] `:                        "1",
		`[{"a":1},{"a":"\ud800"}]`:             "1 bad",
		`[{"a":1},{"a":[` + many + `]}]`:       "1 bad",
		`[{"a":1},{"a":2]`:                     "not JSON: invalid character",
		`[{"a":1},{"a":2}`:                     "not JSON: unexpected EOF",
		`[{"a":1},`:                            "not JSON: ",
		`[{"a":1}] [2]`:                        "not JSON: more than one value",
		`[{"a":1} {"a":2}]`:                    "not JSON: ",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		var got []string
		r, err := Open(path)
		for err == nil {
			var row *jinja.Dict
			var bad *RowError
			if row, _, err = r.Next(); errors.As(err, &bad) {
				got, err = append(got, "bad"), nil
			} else if err == nil {
				a, _ := row.Get("a")
				got = append(got, fmt.Sprint(a))
			}
		}
		if text := strings.Join(got, " "); errors.Is(err, io.EOF) && text != want || !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %q, %v, want %q", text, got, err, want)
		}
	}
}
