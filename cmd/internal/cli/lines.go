package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/formats/fail"
)

// maxLine is the longest input line, 256 MiB.
const maxLine = 256 << 20

// eachLine calls f with every line of a JSONL file, parsed in order of keys,
// and writes what f returns as a line of JSON.
func eachLine(c *ucli.Context, path string, f func(d *jinja.Dict) (*jinja.Dict, error)) error {
	r, err := openInput(path)
	if err != nil {
		return err
	}
	defer r.Close()
	w := bufio.NewWriterSize(c.App.Writer, 1<<16)
	defer w.Flush()
	br := bufio.NewReaderSize(r, 1<<20)
	for n := 1; ; n++ {
		line, err := readLine(br)
		if err == io.EOF {
			return w.Flush()
		}
		if err != nil {
			return fail.Inputf(path, "", "line %d: %w", n, err)
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		v, err := jinja.ParseJSON(line)
		if err != nil {
			return fail.Inputf(path, "one JSON object a line", "line %d: %w", n, err)
		}
		d, ok := v.(*jinja.Dict)
		if !ok {
			return fail.Inputf(path, "one JSON object a line", "line %d: found %.40s", n, line)
		}
		out, err := f(d)
		if err != nil {
			return fail.Inputf(path, fail.Hint(err), "line %d: %w", n, err)
		}
		if _, err := w.WriteString(jsonText(out) + "\n"); err != nil {
			return err
		}
	}
}

func readLine(br *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := br.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return nil, bufio.ErrTooLong
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if err == io.EOF && len(line) > 0 {
			err = nil
		}
		return line, err
	}
}

// jsonText is v on one line, for output and messages.
func jsonText(v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Sprint(v)
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

// writeJSON prints one object a line.
func writeJSON(c *ucli.Context, v any) error {
	e := json.NewEncoder(c.App.Writer)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
