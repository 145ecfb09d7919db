package rows

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// TestEncodings: files of testdata/make_encodings.py hold what that says.
func TestEncodings(t *testing.T) {
	for _, path := range []string{"testdata/encodings.parquet", "testdata/encodings.arrow"} {
		r, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for i := range int64(40) {
			row, _, err := r.Next()
			if err != nil {
				t.Fatalf("%s, row %d: %v", path, i, err)
			}
			var runs any = i < 11 || i%3 == 0
			if i%13 == 5 {
				runs = nil
			}
			for name, want := range map[string]any{
				"runs": runs, "sure": i%19 < 10, "none": nil, "small": i*100_003 - 7, "large": i << 40, "double": float64(i) / 8, "half": float64(i) / 4,
				"most": jinja.BigInt(fmt.Sprint(uint64(1<<64-1) - uint64(i))), "fixed": string([]byte{byte(i), 255, 0}),
			} {
				got, ok := row.Get(name)
				if b, isBytes := got.([]byte); isBytes {
					got = string(b)
				}
				if got != want || !ok && want != nil {
					t.Errorf("%s, row %d, %s: %v, want %v", path, i, name, got, want)
				}
			}
		}
		if _, _, err := r.Next(); err != io.EOF {
			t.Errorf("%s ends with %v", path, err)
		}
	}
}

// Each column of that file is there twice, plain and in streams of bytes.
func TestStreams(t *testing.T) {
	r, err := Open(filepath.Join(testdir.Shared(t, "parquet-testing/data"), "byte_stream_split_extended.gzip.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for n := 0; ; n++ {
		row, _, err := r.Next()
		if err == io.EOF && n == 200 {
			return
		}
		if err != nil {
			t.Fatal(n, err)
		}
		for _, name := range []string{"float16", "float", "double", "int32", "int64", "flba5", "decimal"} {
			a, _ := row.Get(name + "_plain")
			b, _ := row.Get(name + "_byte_stream_split")
			if a == nil || !reflect.DeepEqual(a, b) {
				t.Fatalf("row %d, %s: %v, %v", n, name, a, b)
			}
		}
	}
}

// TestShortRuns: a page of fewer booleans than its header says is refused, and not filled
// from memory that held another page.
func TestShortRuns(t *testing.T) {
	good, err := os.ReadFile("testdata/encodings.parquet")
	if err != nil {
		t.Fatal(err)
	}
	const pair = "\x06\x00\x00\x00\x14\x01\x12\x00\x08\x01" // of "sure": 10, 9 and 4
	path := filepath.Join(t.TempDir(), "a.parquet")
	for short, ok := range map[string]bool{pair: true, strings.Replace(pair, "\x12", "\x02", 1): false} {
		if err := os.WriteFile(path, bytes.Replace(good, []byte(pair), []byte(short), 1), 0o666); err != nil {
			t.Fatal(err)
		}
		r, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		row, _, err := r.Next()
		r.Close()
		if ok != (err == nil) {
			t.Errorf("runs %q: %v, %v", short, row, err)
		}
	}
	bits, err := runs{}.DecodeBoolean(make([]byte, 64), []byte("\x02\x00\x00\x00\x06\x01"))
	split, err2 := streams{}.DecodeFixedLenByteArray(make([]byte, 64), []byte("abcd"), 2)
	if err != nil || err2 != nil || cap(bits) != 1 || string(bits) != "\x07" || cap(split) != 4 || string(split) != "acbd" {
		t.Errorf("%q of %d, %q of %d, %v, %v", bits, cap(bits), split, cap(split), err, err2)
	}
}

// FuzzRuns: runs of any bytes are refused, or are booleans of a page.
func FuzzRuns(f *testing.F) {
	f.Add([]byte("\x04\x00\x00\x00\x06\x01\x03\x55"))
	f.Add([]byte("\x06\x00\x00\x00\xfe\xff\xff\xff\x0f\x01"))
	f.Add(append(binary.AppendUvarint([]byte("\x0a\x00\x00\x00"), 2*maxPageValues), 1, 3<<1|1, 0, 0, 0)) // groups of 8 behind as many as there may be
	f.Fuzz(func(t *testing.T, src []byte) {
		bits, err := runs{}.DecodeBoolean(nil, src)
		if len(bits) > maxPageValues/8+2 {
			t.Errorf("%d bytes of bits, %v", len(bits), err)
		}
		for size := range 5 {
			if out, err := joined(src, size); err == nil && len(out) != len(src) {
				t.Errorf("%d bytes of %d", len(out), len(src))
			}
		}
	})
}

// TestCSVFaults: behind a row with a stray quote rows are read as if it were not there.
func TestCSVFaults(t *testing.T) {
	const good = "\"x\r\ny\",z\r\nq,\"\"\"\r\n\"\r\n"
	for _, fault := range []string{"5\" pipe,1", "\"5\" pipe,1", "1,a\"b\",\"c", "1,\"a\"b\"", "\"a\r\nb\"c,1", "\"a\"\r,1", "1,\"a\"\"b\"\" c\"x"} {
		path := filepath.Join(t.TempDir(), "a.csv")
		if err := os.WriteFile(path, []byte("a,b\r\n"+fault+"\r\n"+good+fault+"\r\n"+good), 0o666); err != nil {
			t.Fatal(err)
		}
		r, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"", "x\r\ny|z", "q|\"\r\n", "", "x\r\ny|z", "q|\"\r\n"} {
			row, line, err := r.Next()
			var bad *RowError
			if want == "" && !errors.As(err, &bad) || want != "" && (err != nil || row.String("a")+"|"+row.String("b") != want) {
				t.Errorf("%q, line %d: %v, %v, want %q", fault, line, row, err, want)
			}
		}
		r.Close()
	}
}

// Line breaks in a value of CSV stay as they are; those that end rows may be either.
func TestCSVReturns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.csv")
	if err := os.WriteFile(path, []byte("a,\"b\r\n\"\r\n\"x\r\ny\",\"\r\"\"\r\n\"\r\nc\xff,d\r\n1,2\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, want := range []string{"x\r\ny|\r\"\r\n", "", "1|2"} {
		row, _, err := r.Next()
		if want == "" {
			var bad *RowError
			if !errors.As(err, &bad) || bad.Reason != "not UTF-8" {
				t.Errorf("%v, %v", row, err)
			}
			continue
		}
		if got := row.String("a") + "|" + row.String("b\r\n"); got != want {
			t.Errorf("%q, want %q (%v)", got, want, err)
		}
	}
}
