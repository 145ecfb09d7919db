package data

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/tunekit/tunekit/data/corpus"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/par"
)

// BenchmarkParquetToTokens turns a Parquet file into a folder of tokens and, in
// the same iteration, tokenizes its rows alone, so that the two can be compared:
// of-tokenizing is the share of the tokenizer's speed that the whole keeps.
func BenchmarkParquetToTokens(b *testing.B) {
	model, err := formats.Open(filepath.Join(testdir.Shared(b, "llama.cpp-vocab"), "ggml-vocab-gpt-2.gguf"))
	if err != nil {
		b.Fatal(err)
	}
	defer model.Close()
	tok, err := tokenizer.Open(model)
	if err != nil {
		b.Fatal(err)
	}
	type row struct {
		Text string `parquet:"text,zstd"`
	}
	var rows []row
	size := 0
	for i := 0; size < 32<<20; i++ {
		var doc []string
		for k := range 8 {
			doc = append(doc, corpus.Text(1, 8*i+k))
		}
		rows = append(rows, row{strings.Join(doc, "\n")})
		size += len(rows[i].Text)
	}
	dir := b.TempDir()
	path := filepath.Join(dir, "text.parquet")
	if err := parquet.WriteFile(path, rows); err != nil {
		b.Fatal(err)
	}
	var alone, whole time.Duration
	for i := 0; b.Loop(); i++ {
		began := time.Now()
		par.For(len(rows), 8, func(lo, hi int) {
			for _, r := range rows[lo:hi] {
				tok.Encode(r.Text, true)
			}
		})
		alone += time.Since(began)
		began = time.Now()
		o := Options{Datasets: []Source{{Path: path}}, MaxLength: 2048, Overflow: "split", ValSetSize: "0"}
		d, _, err := Ingest(context.Background(), o, tok, nil, nil)
		if err != nil {
			b.Fatal(err)
		}
		out := filepath.Join(dir, fmt.Sprint(i))
		if err := d.SaveArrow(out); err != nil {
			b.Fatal(err)
		}
		whole += time.Since(began)
		if err := os.RemoveAll(out); err != nil {
			b.Fatal(err)
		}
	}
	mb := float64(size) * float64(b.N) / 1e6
	b.ReportMetric(mb/whole.Seconds(), "MB/s")
	b.ReportMetric(mb/alone.Seconds(), "tokenizing-MB/s")
	b.ReportMetric(alone.Seconds()/whole.Seconds(), "of-tokenizing")
}
