package recipes

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/train/eval"
)

// VocabOf is the number of rows of a model's embedding.
func VocabOf(path string) (int, error) {
	local, err := resolvePath(path)
	if err != nil {
		return 0, err
	}
	src, err := arch.Open(local)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	return src.Spec.V, nil
}

// IngestFiles is `tune ingest`: an ingest outside a recipe, with the tokenizer
// and template of a model.
func IngestFiles(ctx context.Context, model string, o data.Options, progress func(done, total int64)) (*data.Dataset, *data.Report, *tokenizer.Tokenizer, error) {
	tok, src, err := ingestTokenizer(model)
	if err != nil {
		return nil, nil, nil, err
	}
	defer src.Close()
	o.Context, o.Vocab = src.Spec.MaxPos, src.Spec.V
	tmpl, err := templateOf(tok, o.ChatTemplate)
	if err != nil {
		return nil, nil, tok, err
	}
	ds, rep, err := data.Ingest(ctx, o, tok, tmpl, progress)
	return ds, rep, tok, err
}

// ParseColumns reads --columns, a YAML mapping.
func ParseColumns(s string) (map[string]string, error) {
	if s == "" {
		return nil, nil
	}
	m := map[string]string{}
	if err := yaml.Unmarshal([]byte(s), &m); err != nil {
		return nil, fail.Usagef("--columns", "{messages: conv, role: from, content: value}", "%w", err)
	}
	return m, nil
}

// WriteLines writes values as JSON lines.
func WriteLines[T any](path string, values []T) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	for _, v := range values {
		if err := e.Encode(v); err != nil {
			return err
		}
	}
	return atomic.WriteFile(path, b.Bytes())
}

// ParseGate reads METRIC.KIND=VALUE, e.g. perplexity.max_increase=1%.
func ParseGate(s string) (Gate, error) {
	key, val, ok := strings.Cut(s, "=")
	metric, kind, ok2 := strings.Cut(key, ".")
	var b Bound
	err := b.setYAML(&yaml.Node{Kind: yaml.ScalarNode, Value: val})
	known := map[string]bool{"max": true, "min": true, "max_increase": true, "max_decrease": true}
	if !ok || !ok2 || err != nil || !known[kind] {
		return Gate{}, fail.Usagef("--gate", "perplexity.max_increase=1%, exact_match.min=0.9", "found %q", s)
	}
	return Gate{metric, eval.Limit{Kind: kind, Value: b.Value, Relative: b.Relative}}, nil
}

// WeightBytes is the size of a model's weight files, a folder's or one file's.
func WeightBytes(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	if !st.IsDir() {
		return st.Size()
	}
	var n int64
	for _, pattern := range []string{"*.safetensors", "*.gguf"} {
		files, _ := filepath.Glob(filepath.Join(path, pattern))
		for _, f := range files {
			if st, err := os.Stat(f); err == nil {
				n += st.Size()
			}
		}
	}
	return n
}

// AppendEval adds an evaluation to a file: Markdown, JSON lines or JUnit XML
// by its name.
func AppendEval(path string, r *EvalResult) error {
	var text []byte
	switch filepath.Ext(path) {
	case ".xml":
		raw, err := JUnit("eval", r)
		if err != nil {
			return err
		}
		return atomic.WriteFile(path, raw)
	case ".json", ".jsonl":
		raw, err := json.Marshal(r)
		if err != nil {
			return err
		}
		text = append(raw, '\n')
	case ".md", "":
		text = evalMarkdown(r)
	default:
		return fail.Usagef("--summary", ".md, .json or .xml", "found %s", path)
	}
	old, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return fail.Limitf(path, "", "%w", err)
	}
	return atomic.WriteFile(path, append(old, text...))
}

// evalMarkdown is the metrics as a table.
func evalMarkdown(r *EvalResult) []byte {
	var b bytes.Buffer
	b.WriteString("| model | metric | value | ± | n |\n|---|---|---|---|---|\n")
	for _, m := range r.Metrics {
		fmt.Fprintf(&b, "| %s | %s | %.5g | %.2g | %d |\n", m.Model, m.Metric, m.Value, m.StdErr, m.N)
	}
	for _, c := range r.Checks {
		fmt.Fprintf(&b, "\n%s: %s %s, limit %s: **%s**\n", c.Model, c.Metric, fmt.Sprintf("%.5g", c.Value), c.Limit, c.Verdict)
	}
	return b.Bytes()
}
