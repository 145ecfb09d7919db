package rows

import (
	"compress/bzip2"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/tunekit/tunekit/formats/fail"
)

// maxWindow is how far back a compressed file may refer, which is memory that
// reading it takes: what zstd --long and xz -9 write.
const maxWindow = 128 << 20

// codecs read compressed files of text by their last ending.
var codecs = map[string]func(r io.Reader) (io.Reader, func(), error){
	".gz": func(r io.Reader) (io.Reader, func(), error) {
		z, err := newGzip(r)
		return z, func() {}, err
	},
	".bz2": func(r io.Reader) (io.Reader, func(), error) { return bzip2.NewReader(r), func() {}, nil },
	".zst": func(r io.Reader) (io.Reader, func(), error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	},
	".xz": func(r io.Reader) (io.Reader, func(), error) {
		z, err := newXZ(r)
		return z, func() {}, err
	},
}

// Ext is the ending of a data file in lower case, by which its format is known:
// both where it is compressed (.jsonl.gz).
func Ext(path string) string {
	name := strings.ToLower(filepath.Base(path))
	ext := filepath.Ext(name)
	if codecs[ext] != nil {
		return filepath.Ext(strings.TrimSuffix(name, ext)) + ext
	}
	return ext
}

// Format is Ext without a compression, and that.
func Format(path string) (ext, codec string) {
	ext = Ext(path)
	if c := filepath.Ext(ext); codecs[c] != nil {
		return strings.TrimSuffix(ext, c), c
	}
	return ext, ""
}

// Text is a file of text while it is read, decompressed where its ending says so.
type Text struct {
	path string
	f    *os.File
	r    io.Reader
	end  func()
	size int64 // of the file

	out, allowed int64 // bytes read so far and, of a compressed file, that may be
}

// OpenText opens a file of text.
func OpenText(path string) (*Text, error) {
	st, err := os.Stat(path)
	if err == nil {
		err = regular(path, st) // before it is opened: a pipe waits for a writer
	}
	if err != nil {
		return nil, FileError(path, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, FileError(path, err)
	}
	t := &Text{path: path, f: f, r: f, end: func() {}, size: st.Size()}
	if _, codec := Format(path); codec != "" {
		t.allowed = max(freeGrowth, maxGrowth*t.size)
		if t.r, t.end, err = codecs[codec](f); err != nil {
			f.Close()
			return nil, FileError(path, fmt.Errorf("not %s: %w", codec, err))
		}
	}
	return t, nil
}

// Read is that of io.Reader, of the text.
func (t *Text) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if t.out += int64(n); t.allowed > 0 && t.out > t.allowed {
		return 0, fail.Limitf(t.path, "decompress it, if it is meant", "holds more than %d MiB, %d times its size", t.allowed>>20, t.out/max(t.size, 1))
	}
	return n, err
}

// Share is about how much of the file was read.
func (t *Text) Share() float64 {
	at, err := t.f.Seek(0, io.SeekCurrent)
	if err != nil || t.size == 0 {
		return 1
	}
	return min(1, float64(at)/float64(t.size))
}

// Close ends reading.
func (t *Text) Close() error {
	t.end()
	return t.f.Close()
}

// limited reads the rest of a text of at most limit bytes.
func (t *Text) limited(limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(t, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fail.Limitf(t.path, "split the file, or write its rows as JSONL or Parquet", "larger than %d MiB", limit>>20)
	}
	return b, err
}
