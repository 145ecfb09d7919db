package rows

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
)

// readAll returns the rows of r as JSON and the bad rows as "number: reason".
func readAll(r Reader) (rows, bad []string, err error) {
	for {
		row, n, err := r.Next()
		var b *RowError
		switch {
		case err == io.EOF:
			return rows, bad, nil
		case errors.As(err, &b):
			bad = append(bad, fmt.Sprintf("%d: %s", n, b.Error()))
		case err != nil:
			return rows, bad, err
		default:
			j, err := json.Marshal(row)
			if err != nil { // NaN
				j = fmt.Append(nil, row)
			}
			rows = append(rows, string(j))
		}
	}
}

func mustRead(t *testing.T, path string) []string {
	t.Helper()
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rows, bad, err := readAll(r)
	if err != nil || len(bad) > 0 {
		t.Fatalf("%s: %v, bad rows %v", path, err, bad)
	}
	return rows
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestParquetChat: 704 rows in 14 files of DuckDB, seven codecs and two page
// versions, equal the rows as JSON lines.
func TestParquetChat(t *testing.T) {
	dir := testdir.Shared(t, "parquet-chat")
	want := mustRead(t, filepath.Join(dir, "expected.jsonl"))
	if len(want) != 704 {
		t.Fatalf("%d expected rows", len(want))
	}
	files, _, err := Files(filepath.Join(dir, "duckdb-messages-*.parquet"), "")
	if err != nil || len(files) != 14 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		got := mustRead(t, f)
		if len(got) != len(want) {
			t.Errorf("%s: %d rows", f, len(got))
			continue
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%s row %d:\n got %s\nwant %s", f, i+1, got[i], want[i])
				break
			}
		}
	}
}

// unreadable are the files of parquet-testing that are an error, by a part of
// the message; all others read whole.
var unreadable = map[string]string{
	"bad_data/ARROW-GH-41317.parquet":              "thrift",
	"bad_data/ARROW-GH-41321.parquet":              "page claims -4 values",
	"bad_data/ARROW-GH-45185.parquet":              "levels do not fit",
	"bad_data/ARROW-GH-47662.parquet":              "105 nulls and may have none",
	"bad_data/ARROW-RS-GH-6229-DICTHEADER.parquet": "claims 25 values in bytes",
	"bad_data/ARROW-RS-GH-6229-LEVELS.parquet":     "pages hold 21 values",
	"bad_data/PARQUET-1481.parquet":                "levels do not fit",
	// Broken on purpose, beside the good ones.
	"data/datapage_v1-corrupt-checksum.parquet":           "crc32 checksum mismatch",
	"data/rle-dict-uncompressed-corrupt-checksum.parquet": "crc32 checksum mismatch",
	"data/nation.dict-malformed.parquet":                  "cut off",
	// Over our limits.
	"data/large_string_map.brotli.parquet": "page of 1073741828 bytes",
	// What parquet-go v0.25.1 or we do not support.
	"data/column_chunk_key_value_metadata.parquet":   "missing required field",
	"data/datapage_v2_empty_datapage.snappy.parquet": "corrupt input",
}

func TestParquetTesting(t *testing.T) {
	dir := testdir.Shared(t, "parquet-testing")
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.parquet"))
	if err != nil || len(files) < 70 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		name, _ := filepath.Rel(dir, f)
		var rows []string
		r, err := Open(f)
		if err == nil {
			rows, _, err = readAll(r)
			if err == nil && int64(len(rows)) != r.Total() {
				t.Errorf("%s: %d rows, total says %d", name, len(rows), r.Total())
			}
			r.Close()
		}
		want := unreadable[filepath.ToSlash(name)]
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: error %v, want one with %q", name, err, want)
		case want != "" && fail.Code(err) != int(fail.Input):
			t.Errorf("%s: exit code %d", name, fail.Code(err))
		}
	}
}

// TestParquetNested checks single values of files that other programs describe.
func TestParquetNested(t *testing.T) {
	dir := testdir.Shared(t, "parquet-testing/data")
	for _, c := range []struct {
		file string
		row  int
		want string
	}{
		{"list_columns.parquet", 0, `{"int64_list":[1,2,3],"utf8_list":["abc","efg","hij"]}`},
		{"list_columns.parquet", 1, `{"int64_list":[null,1],"utf8_list":null}`},
		{"list_columns.parquet", 2, `{"int64_list":[4],"utf8_list":["efg",null,"hij","xyz"]}`},
		{"old_list_structure.parquet", 0, `{"a":[[1,2],[3,4]]}`},
		{"null_list.parquet", 0, `{"emptylist":[]}`},
		{"nested_lists.snappy.parquet", 0, `{"a":[[["a","b"],["c"]],[null,["d"]]],"b":1}`},
		{"nullable.impala.parquet", 0, `{"id":1,"int_array":[1,2,3],"int_array_Array":[[1,2],[3,4]],"int_map":{"k1":1,"k2":100},"int_Map_Array":[{"k1":1}],` +
			`"nested_struct":{"A":1,"b":[1],"C":{"d":[[{"E":10,"F":"aaa"},{"E":-10,"F":"bbb"}],[{"E":11,"F":"c"}]]},"g":{"foo":{"H":{"i":[1.1]}}}}}`},
		{"repeated_no_annotation.parquet", 3, `{"id":4,"phoneNumbers":{"phone":[{"number":5555555555,"kind":null}]}}`},
		{"fixed_length_decimal.parquet", 23, `{"value":"24.00"}`},
		{"int96_from_spark.parquet", 0, `{"a":"2024-01-01 20:34:56.123456"}`},
	} {
		if got := mustRead(t, filepath.Join(dir, c.file))[c.row]; got != c.want {
			t.Errorf("%s row %d:\n got %s\nwant %s", c.file, c.row+1, got, c.want)
		}
	}
}

func TestEncryptedParquet(t *testing.T) {
	path := filepath.Join(testdir.Shared(t, "parquet-testing/data"), "encrypt_columns_and_footer.parquet.encrypted")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(write(t, "x.parquet", string(b)))
	if err == nil || !strings.Contains(err.Error(), "encrypted") {
		t.Errorf("error %v", err)
	}
}

type flatRow struct {
	Prompt string   `parquet:"prompt"`
	Tags   []string `parquet:"tags,list"`
	Count  *int64   `parquet:"count"`
}

func flatFile(t testing.TB, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := parquet.NewGenericWriter[flatRow](&b, parquet.Compression(&parquet.Snappy), parquet.MaxRowsPerRowGroup(10))
	for i := range n {
		k := int64(i)
		row := flatRow{Prompt: fmt.Sprintf("p%d", i), Tags: make([]string, i%3)}
		if i%2 == 0 {
			row.Count = &k
		}
		if _, err := w.Write([]flatRow{row}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestParquetTruncated cuts a file at every length and flips every byte: an
// error or rows, never a crash, and never more rows than the file has.
func TestParquetTruncated(t *testing.T) {
	file := flatFile(t, 25)
	if rows, err := scanParquet(file); err != nil || rows != 25 {
		t.Fatalf("whole file: %d rows, %v", rows, err)
	}
	for n := range len(file) {
		if _, err := scanParquet(file[:n]); err == nil {
			t.Errorf("cut to %d of %d bytes: no error", n, len(file))
		}
	}
	for i := range file {
		bad := bytes.Clone(file)
		bad[i] ^= []byte{1, 0x80, 0xff}[i%3]
		if rows, err := scanParquet(bad); err == nil && rows != 25 {
			t.Errorf("byte %d flipped: %d rows", i, rows)
		}
	}
}

// scanParquet reads a file from memory as Open would.
func scanParquet(b []byte) (n int, err error) {
	defer recoverTo("x.parquet", &err)
	p, err := parquetFrom(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return 0, err
	}
	defer p.Close()
	rows, bad, err := readAll(p)
	return len(rows) + len(bad), err
}

func FuzzParquet(f *testing.F) {
	f.Add(flatFile(f, 25))
	f.Add([]byte("PAR1\x15\x00\x00\x01\x00\x00\x00PAR1"))
	addSeeds(f, ".parquet")
	f.Fuzz(func(t *testing.T, b []byte) {
		scanParquet(b)
	})
}

// arrowFile writes a table with the given writer: text, a list of structs, a
// dictionary and nulls.
func arrowFile(t testing.TB, stream bool, opts ...ipc.Option) []byte {
	t.Helper()
	message := arrow.StructOf(arrow.Field{Name: "role", Type: arrow.BinaryTypes.String}, arrow.Field{Name: "content", Type: arrow.BinaryTypes.LargeString, Nullable: true})
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "text", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "messages", Type: arrow.ListOf(message), Nullable: true},
		{Name: "kind", Type: &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}},
		{Name: "score", Type: arrow.PrimitiveTypes.Float32},
	}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	for _, row := range arrowWant {
		if err := b.UnmarshalJSON([]byte(row)); err != nil {
			t.Fatal(err)
		}
	}
	rec := b.NewRecord()
	defer rec.Release()
	return writeArrow(t, rec, stream, append(opts, ipc.WithSchema(schema)))
}

func writeArrow(t testing.TB, rec arrow.Record, stream bool, opts []ipc.Option) []byte {
	t.Helper()
	if stream {
		var out bytes.Buffer
		w := ipc.NewWriter(&out, opts...)
		if err := errors.Join(w.Write(rec), w.Write(rec), w.Close()); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	f, err := os.CreateTemp(t.TempDir(), "*.arrow")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := ipc.NewFileWriter(f, opts...)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Write(rec), w.Write(rec), w.Close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var arrowWant = []string{
	`{"text":"a","messages":[{"role":"user","content":"q"},{"role":"assistant","content":null}],"kind":"x","score":1.5}`,
	`{"text":null,"messages":[],"kind":"y","score":0}`,
	`{"text":"c","messages":null,"kind":"x","score":-2}`,
}

func TestArrow(t *testing.T) {
	want := strings.Join(append(append([]string{}, arrowWant...), arrowWant...), "\n")
	for name, b := range map[string][]byte{
		"file": arrowFile(t, false), "stream": arrowFile(t, true),
		"zstd": arrowFile(t, false, ipc.WithZstd()), "lz4": arrowFile(t, true, ipc.WithLZ4()),
	} {
		path := write(t, "a.arrow", string(b))
		r, err := Open(path)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		rows, bad, err := readAll(r)
		if err != nil || len(bad) > 0 || strings.Join(rows, "\n") != want || r.Total() != 6 {
			t.Errorf("%s: %v %v, total %d, rows\n%s", name, err, bad, r.Total(), strings.Join(rows, "\n"))
		}
		r.Close()
	}
}

// TestArrowLayout finds the values of a plain column where it says, and refuses
// what cannot be read in place.
func TestArrowLayout(t *testing.T) {
	schema := arrow.NewSchema([]arrow.Field{{Name: "n", Type: arrow.PrimitiveTypes.Int32}, {Name: "of", Type: arrow.ListOfNonNullable(arrow.PrimitiveTypes.Uint16)}}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	for _, row := range []string{`{"n":7,"of":[1,2,3]}`, `{"n":-8,"of":[]}`, `{"n":9,"of":[60000]}`} {
		if err := b.UnmarshalJSON([]byte(row)); err != nil {
			t.Fatal(err)
		}
	}
	rec := b.NewRecord()
	defer rec.Release()
	for _, stream := range []bool{false, true} {
		file := writeArrow(t, rec, stream, []ipc.Option{ipc.WithSchema(schema)})
		got, batches, err := ArrowLayout(bytes.NewReader(file), int64(len(file)))
		if err != nil || !got.Equal(schema) || len(batches) != 2 {
			t.Fatalf("%v, %d batches (%v)", got, len(batches), err)
		}
		for _, at := range batches {
			if !slices.Equal(at.Lengths, []int64{3, 3, 4}) || len(at.Buffers) != 6 {
				t.Fatalf("columns of %v in %d buffers", at.Lengths, len(at.Buffers))
			}
			for buffer, want := range map[int]string{1: "\a\x00\x00\x00\xf8\xff\xff\xff\t\x00\x00\x00", 3: "\x00\x00\x00\x00\x03\x00\x00\x00\x03\x00\x00\x00\x04\x00\x00\x00", 5: "\x01\x00\x02\x00\x03\x00\x60\xea"} {
				if lies := string(file[at.Buffers[buffer][0]:][:len(want)]); lies != want || at.Buffers[buffer][1] < int64(len(want)) {
					t.Errorf("buffer %d is %q, want %q", buffer, lies, want)
				}
			}
		}
	}
	for want, file := range map[string][]byte{
		"compressed":    writeArrow(t, rec, true, []ipc.Option{ipc.WithSchema(schema), ipc.WithZstd()}),
		"dictionary":    arrowFile(t, true),
		"not Arrow IPC": []byte("PAR1PAR1PAR1PAR1"),
		"column node":   nullArrow(t),
	} {
		if _, _, err := ArrowLayout(bytes.NewReader(file), int64(len(file))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// nullArrow is a table with a null.
func nullArrow(t *testing.T) []byte {
	schema := arrow.NewSchema([]arrow.Field{{Name: "n", Type: arrow.PrimitiveTypes.Int32, Nullable: true}}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	if err := b.UnmarshalJSON([]byte(`{"n":null}`)); err != nil {
		t.Fatal(err)
	}
	rec := b.NewRecord()
	defer rec.Release()
	return writeArrow(t, rec, true, []ipc.Option{ipc.WithSchema(schema)})
}

func scanArrow(b []byte) (n int, err error) {
	defer recoverTo("x.arrow", &err)
	r, err := arrowFrom(bytes.NewReader(b), int64(len(b)), func(recordBatch) error { return nil })
	if err != nil {
		return 0, err
	}
	defer r.Release()
	rows, bad, err := readAll(&arrowRows{r: r})
	return len(rows) + len(bad), err
}

func TestArrowDamaged(t *testing.T) {
	for _, file := range [][]byte{arrowFile(t, true), arrowFile(t, true, ipc.WithZstd())} {
		errs := 0
		for i := range file {
			bad := bytes.Clone(file)
			bad[i] ^= []byte{1, 0x80, 0xff}[i%3]
			if _, err := scanArrow(bad); err != nil {
				errs++
			}
		}
		if errs < len(file)/3 {
			t.Errorf("only %d of %d damaged files are errors", errs, len(file))
		}
		for n := range len(file) {
			scanArrow(file[:n]) // a cut between messages is a shorter stream
		}
	}
}

func FuzzArrow(f *testing.F) {
	f.Add(arrowFile(f, true))
	f.Add(arrowFile(f, true, ipc.WithLZ4()))
	addSeeds(f, ".arrow")
	f.Fuzz(func(t *testing.T, b []byte) {
		scanArrow(b)
	})
}

func TestJSONL(t *testing.T) {
	good := "\xef\xbb\xbf{\"a\":1}\r\n\n  {\"a\":\"\\ud83d\\ude00\",\"b\":{\"z\":1,\"y\":2.5}}\n{\"a\":null}"
	if got := strings.Join(mustRead(t, write(t, "a.jsonl", good)), " "); got != `{"a":1} {"a":"😀","b":{"z":1,"y":2.5}} {"a":null}` {
		t.Errorf("got %s", got)
	}
	for line, want := range map[string]string{
		`{"a":1,"a":2}`: "occurs twice",
		`{"x":{"a":1,"b":{"a":2}},"y":[{"k":1,"k":2}]}`: `key "k" occurs twice`,
		`{"a":"\ud800x"}`:            "surrogate",
		`{"a":"\udc00"}`:             "surrogate",
		`{"a":1e400}`:                "out of range",
		`{"a":1} {"b":2}`:            "more than one value",
		`[1]`:                        "not a list",
		`{"a":`:                      "not JSON",
		"{\"a\":\"\x00\"}":           "not JSON",
		"{\"a\":\"\xff\"}":           "UTF-8",
		strings.Repeat(`{"a":`, 300): "nested",
	} {
		r, err := Open(write(t, "a.jsonl", "{\"ok\":1}\n"+line+"\n{\"ok\":2}\n"))
		if err != nil {
			t.Fatal(err)
		}
		rows, bad, err := readAll(r)
		r.Close()
		if err != nil || len(rows) != 2 || len(bad) != 1 || !strings.HasPrefix(bad[0], "2: ") || !strings.Contains(bad[0], want) {
			t.Errorf("%.60s: rows %v, bad %v, want %q (%v)", line, rows, bad, want, err)
		}
	}
	if v, err := parseRow([]byte(`{"a":"\\ud800","b":"\\\\u"}`)); err != nil || v.String("a") != `\ud800` {
		t.Errorf("an escaped backslash before u is no escape: %v %v", v, err)
	}
}

func TestLongLine(t *testing.T) {
	j := newJSONL(io.MultiReader(strings.NewReader(`{"a":"`), io.LimitReader(blankReader{}, maxLine), strings.NewReader("\"}\n{\"a\":1}\n")), io.NopCloser(nil))
	rows, bad, err := readAll(j)
	if err != nil || len(rows) != 1 || len(bad) != 1 || !strings.Contains(bad[0], "longer than 64 MiB") {
		t.Errorf("rows %v, bad %v, %v", rows, bad, err)
	}
}

type blankReader struct{}

func (blankReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func FuzzJSONL(f *testing.F) {
	f.Add([]byte("{\"a\":1}\n{\"messages\":[{\"role\":\"user\",\"content\":\"\\u00e9\"}]}\n"))
	f.Add([]byte("{\"a\":\"\\ud800\"}\n{\"a\":1,\"a\":2}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		rows, _, err := readAll(newJSONL(bytes.NewReader(b), io.NopCloser(nil)))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows { // what is read is JSON and reads again as itself
			d, err := parseRow([]byte(r))
			if err != nil {
				t.Fatalf("%s: %v", r, err)
			}
			again, err := json.Marshal(d)
			if err != nil || string(again) != r {
				t.Fatalf("%s reads again as %s (%v)", r, again, err)
			}
		}
	})
}

func TestJSONAndCSV(t *testing.T) {
	for _, c := range []struct{ name, content, want string }{
		{"a.json", `[{"a":1},{"a":[2]}]`, `{"a":1} {"a":[2]}`},
		{"a.json", "{\n \"a\":1\n}", `{"a":1}`},
		{"a.json", "{\"a\":1}\n{\"a\":2}\n", `{"a":1} {"a":2}`},
		{"a.csv", "\xef\xbb\xbfq,a\r\n\"x, y\",\"two\nlines\"\n,\"\"\"\"\n", `{"q":"x, y","a":"two\nlines"} {"q":"","a":"\""}`},
		{"a.tsv", "q\ta\nx, y\tz\n", `{"q":"x, y","a":"z"}`},
		{"a.txt", "one\ntwo", `{"text":"one\ntwo"}`},
	} {
		if got := strings.Join(mustRead(t, write(t, c.name, c.content)), " "); got != c.want {
			t.Errorf("%s %q:\n got %s\nwant %s", c.name, c.content, got, c.want)
		}
	}
}

func TestBadFiles(t *testing.T) {
	for _, c := range []struct{ name, content, want string }{
		{"a.xlsx", "", "unknown kind of data file"},
		{"a.parquet", "", "no Parquet file"},
		{"a.parquet", "PAR1 and then something else", "no PAR1"},
		{"a.json", `"x"`, "the file holds text"},
		{"a.json", `[1`, "not JSON"},
		{"a.csv", "", "empty file"},
		{"a.csv", "a,a\n", "occurs twice"},
		{"a.csv", strings.Repeat("c,", 10_000) + "d\n", "names 10001 columns (at most 10000)"},
		{"a.arrow", "ARROW1\x00\x00garbage garbage", "no footer"},
		{"a.arrow", "x", "too short"},
		{"a.txt", "\xff\xfeh\x00", "UTF-16"},
	} {
		path := write(t, c.name, c.content)
		_, err := Open(path)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) || fail.Code(err) != int(fail.Input) {
			t.Errorf("%s %q: %v (code %d), want %q", c.name, c.content, err, fail.Code(err), c.want)
		}
	}
	r, err := Open(write(t, "b.csv", "a,b\n1\n1,2\n"))
	if err != nil {
		t.Fatal(err)
	}
	rows, bad, err := readAll(r)
	if err != nil || len(rows) != 1 || len(bad) != 1 || !strings.HasPrefix(bad[0], "2: 1 fields") {
		t.Errorf("rows %v, bad %v, %v", rows, bad, err)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"train-00000.parquet", "test.jsonl", "test/x.json", "notes.pdf", ".hidden.jsonl", "testing.csv"} {
		p := filepath.Join(dir, f)
		os.MkdirAll(filepath.Dir(p), 0o777)
		if err := os.WriteFile(p, nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ path, split, want string }{
		{"", "", "test.jsonl test/x.json testing.csv train-00000.parquet"},
		{"", "train", "train-00000.parquet"},
		{"", "test", "test.jsonl test/x.json"},
		{"t*.*", "", "test.jsonl testing.csv train-00000.parquet"},
		{"notes.pdf", "", "notes.pdf"},
	} {
		files, _, err := Files(filepath.Join(dir, c.path), c.split)
		for i := range files {
			files[i], _ = filepath.Rel(dir, files[i])
		}
		if got := filepath.ToSlash(strings.Join(files, " ")); err != nil || got != c.want {
			t.Errorf("%q split %q: %s, %v", c.path, c.split, got, err)
		}
	}
	for path, want := range map[string]string{"nothing": "no such file", "z*.parquet": "no data file"} {
		if _, _, err := Files(filepath.Join(dir, path), ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, _, err := Files(dir, "validation"); err == nil || !strings.Contains(err.Error(), "none of 4 files") {
		t.Errorf("split: %v", err)
	}
}

// TestRealFiles counts the rows of what other projects ship.
func TestRealFiles(t *testing.T) {
	for name, want := range map[string]int{
		"llama-factory/alpaca_en_demo.json": 999, "llama-factory/glaive_toolcall_en_demo.json": 300,
		"llama-factory/dpo_en_demo.json": 300, "llama-factory/kto_en_demo.json": 300, "llama-factory/c4_demo.jsonl": 300,
		"llama-factory/wiki_demo.txt": 1, "gsm8k/train.jsonl": 7473, "gsm8k/test.jsonl": 1319,
	} {
		if got := len(mustRead(t, testdir.Shared(t, name))); got != want {
			t.Errorf("%s: %d rows, want %d", name, got, want)
		}
	}
}

// TestBombs: a page that holds more than it claims is refused after reading
// one byte more than that, whatever the codec.
func TestBombs(t *testing.T) {
	plain := make([]byte, 1<<20)
	for id, codec := range map[int64]compress.Codec{1: &parquet.Snappy, 2: &parquet.Gzip, 4: &parquet.Brotli, 6: &parquet.Zstd, 7: &parquet.Lz4Raw} {
		packed, err := codec.Encode(nil, plain)
		if err != nil {
			t.Fatal(err)
		}
		for raw, want := range map[int64]bool{1 << 20: true, 1<<20 - 1: false, 100: false, 1<<20 + 1: false} {
			r := &io.LimitedReader{R: bytes.NewReader(packed), N: int64(len(packed))}
			if err := checkCompressed(r, id, raw); (err == nil) != want {
				t.Errorf("%s: a page of %d bytes that claims %d: %v", codec, len(plain), raw, err)
			}
		}
		r := &io.LimitedReader{R: bytes.NewReader(packed), N: int64(len(packed) / 2)}
		if err := checkCompressed(r, id, 1<<20); err == nil && id != 1 { // Snappy's length comes first
			t.Errorf("%s: half a page is no error", codec)
		}
	}
	for _, h := range []thrift{
		{1: int64(0), 2: int64(1) << 31, 3: int64(10)}, {1: int64(0), 2: int64(-1), 3: int64(10)},
		{1: int64(0), 2: int64(17 << 20), 3: int64(10)}, {1: int64(0), 2: int64(10), 3: int64(10)},
		{1: int64(0), 2: int64(10), 3: int64(10), 5: thrift{1: int64(1) << 62}},
		{1: int64(3), 2: int64(10), 3: int64(10), 8: thrift{1: int64(5), 2: int64(6)}},
		{1: int64(3), 2: int64(10), 3: int64(10), 8: thrift{1: int64(5), 5: int64(9), 6: int64(9)}},
	} {
		if _, err := checkPageHeader(h); err == nil {
			t.Errorf("page header %v is no error", h)
		}
	}
}

// TestRetiredLZ4: the files of parquet-testing that hold the same rows in the frames of Hadoop, as one
// block, and in LZ4_RAW; several frames become one block.
func TestRetiredLZ4(t *testing.T) {
	dir := testdir.Shared(t, "parquet-testing")
	for _, same := range [][]string{{"lz4_raw_compressed", "hadoop_lz4_compressed", "non_hadoop_lz4_compressed"}, {"lz4_raw_compressed_larger", "hadoop_lz4_compressed_larger"}} {
		want := mustRead(t, filepath.Join(dir, "data", same[0]+".parquet"))
		for _, name := range same[1:] {
			if got := mustRead(t, filepath.Join(dir, "data", name+".parquet")); !slices.Equal(got, want) {
				t.Errorf("%s: %d rows, %d of %s, or others", name, len(got), len(want), same[0])
			}
		}
	}
	for _, blocks := range [][][]byte{{{0x10}, {0x10, 'a'}}, {{0xf0, 255}, {0x10, 'a'}}, {{0x10, 'a', 1}, {0x10, 'a'}}, {{0x1f, 'a', 1, 0, 255}, {0x10, 'a'}}} {
		if got, err := oneBlock(blocks); err == nil {
			t.Errorf("%x: %x", blocks, got)
		}
	}
}

// TestFastparquet: fastparquet 2026.9.0 wrote both files. In one (has_nulls=False, times='int96',
// compression='LZ4') zeros stand behind the values of a page; in the other (has_nulls='infer') levels stand
// in front of those of a column that has none: pyarrow 26 reads its texts x, naïve as "\x06\x01", x.
func TestFastparquet(t *testing.T) {
	got := mustRead(t, "testdata/fastparquet.parquet")
	want := []string{`{"text":"x","at":"2024-05-03 03:04:05"}`, `{"text":"naïve","at":"2024-05-04 00:00:00"}`, `{"text":"","at":"1969-12-31 23:59:59"}`}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	r, err := Open("testdata/levels.parquet")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if rows, _, err := readAll(r); err == nil || !strings.Contains(err.Error(), "claims 3 texts and holds more (fastparquet") || len(rows) > 0 {
		t.Errorf("%q, %v", rows, err)
	}
}

// TestHostile: small files (pyarrow 26 wrote them; some have one byte changed) that
// once took all memory or all time. nulls: levels of more values than there are.
// lz4: a page header that can be read in two ways. buffers, view: counts outside
// of their lists. The others are sound and unfold: lists of null, lists and
// dictionaries said once and used many times.
func TestHostile(t *testing.T) {
	for name, want := range map[string]int{"nulls.parquet": 3, "lz4.parquet": 0, "onelist.parquet": 4, "manylists.parquet": 4,
		"buffers.arrow": 3, "view.arrow": 3, "dictlist.arrow": 4, "dictstr.arrow": 4, "listview.arrow": 4} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, err := Open(filepath.Join("testdata/hostile", name))
		if err == nil {
			for err == nil {
				_, _, err = r.Next()
			}
			r.Close()
		}
		runtime.ReadMemStats(&after)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		if fail.Code(err) != want {
			t.Errorf("%s: %v, want exit code %d", name, err, want)
		}
		if took := int64(after.TotalAlloc-before.TotalAlloc) >> 20; took > 800 {
			t.Errorf("%s: %d MiB were taken", name, took)
		}
	}
}

// TestHostileBytes: the same files with any byte changed are rows or an error.
func TestHostileBytes(t *testing.T) {
	for name, scan := range map[string]func([]byte) (int, error){"nulls.parquet": scanParquet, "lz4.parquet": scanParquet, "buffers.arrow": scanArrow, "view.arrow": scanArrow} {
		file, err := os.ReadFile(filepath.Join("testdata/hostile", name))
		if err != nil {
			t.Fatal(err)
		}
		for i := range file {
			for _, x := range []byte{1, 2, 4, 8, 16, 32, 64, 128, 255} {
				bad := bytes.Clone(file)
				bad[i] ^= x
				scan(bad)
			}
		}
	}
}

// TestNoNumbers: what Python writes for numbers that JSON has not is null, in lines, in an
// array and in an object; in a text it stays.
func TestNoNumbers(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"lines.jsonl": "{\"a\": NaN, \"t\": \"NaN\"}\n{\"a\": [-Infinity, 1], \"t\": \"Infinity\"}\n",
		"array.json":  `[{"a": NaN, "t": "NaN"}, {"a": [-Infinity, 1], "t": "Infinity"}]`,
		"lines.json":  "{\"a\": NaN, \"t\": \"NaN\"}\n{\"a\": [Infinity, 1], \"t\": \"Infinity\"}\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		if got, want := fmt.Sprint(mustRead(t, path)), `[{"a":null,"t":"NaN"} {"a":[null,1],"t":"Infinity"}]`; got != want {
			t.Errorf("%s: %s, expected %s", name, got, want)
		}
	}
}
