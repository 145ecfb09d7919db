package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
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

func idList(ids []int32) []any {
	out := make([]any, len(ids))
	for i, id := range ids {
		out[i] = int64(id)
	}
	return out
}

func tokenizeCommand() *ucli.Command {
	return &ucli.Command{
		Name: "tokenize", Usage: "text to token ids and back, a line at a time",
		Description: examples(`echo '{"text": "Hello"}' | tune tokenize --model models/M --input -`,
			`echo '{"ids": [1, 2]}' | tune tokenize --model models/M --input - --decode`),
		Flags: []ucli.Flag{modelFlag(),
			&ucli.StringFlag{Name: "input", Value: "-", Usage: `{"text": …} a line, or {"ids": […]} with --decode; - is standard input`},
			&ucli.BoolFlag{Name: "decode", Usage: "ids to text"},
			&ucli.BoolFlag{Name: "no-special-tokens", Usage: "without what the tokenizer adds around a text; when decoding, leave special tokens out"}},
		Action: func(c *ucli.Context) error {
			if err := required(c, "model"); err != nil {
				return err
			}
			tok, err := recipes.TokenizerOf(c.String("model"))
			if err != nil {
				return err
			}
			bare := c.Bool("no-special-tokens")
			return eachLine(c, c.String("input"), func(d *jinja.Dict) (*jinja.Dict, error) {
				if c.Bool("decode") {
					ids, err := idsOf(d)
					if err != nil {
						return nil, err
					}
					d.Set("text", tok.Decode(ids, bare))
					return d, nil
				}
				text, _ := d.Get("text")
				s, ok := text.(string)
				if !ok {
					return nil, fail.Inputf("text", `{"text": "…"}`, "found %s", jsonText(text))
				}
				ids, err := tok.TryEncode(s, !bare)
				if err != nil {
					return nil, err
				}
				d.Set("ids", idList(ids))
				return d, nil
			})
		},
	}
}

func idsOf(d *jinja.Dict) ([]int32, error) {
	v, _ := d.Get("ids")
	list, ok := v.([]any)
	if !ok {
		return nil, fail.Inputf("ids", `{"ids": [1, 2]}`, "found %s", jsonText(v))
	}
	out := make([]int32, len(list))
	for i, x := range list {
		n, ok := x.(int64)
		if !ok || n < 0 || n > 1<<30 {
			return nil, fail.Inputf("ids", "", "found %s, want token ids", jsonText(x))
		}
		out[i] = int32(n)
	}
	return out, nil
}

func renderCommand() *ucli.Command {
	return &ucli.Command{
		Name: "render", Usage: "conversations through a chat template, a line at a time",
		Description: examples("tune render --model models/M --input chats.jsonl", `tune render --chat-template t.jinja --bos-token '<s>' --eos-token '</s>' --input -`),
		Flags: []ucli.Flag{modelFlag(),
			&ucli.StringFlag{Name: "chat-template", Usage: "template file, instead of the model's"},
			&ucli.StringFlag{Name: "bos-token"}, &ucli.StringFlag{Name: "eos-token"},
			&ucli.StringFlag{Name: "now", Usage: "clock for strftime_now, RFC 3339 (default: the real one)"},
			&ucli.StringFlag{Name: "input", Value: "-", Usage: `{"messages": […], "tools": …, "add_generation_prompt": true, …} a line`}},
		Action: runRender,
	}
}

func runRender(c *ucli.Context) error {
	o := chat.Options{BOS: c.String("bos-token"), EOS: c.String("eos-token"), Now: time.Now()}
	if s := c.String("now"); s != "" {
		var err error
		if o.Now, err = time.Parse(time.RFC3339, s); err != nil {
			return usagef(c, "--now: %v", err)
		}
	}
	var tok *tokenizer.Tokenizer
	src := ""
	if m := c.String("model"); m != "" {
		var err error
		if tok, err = recipes.TokenizerOf(m); err != nil {
			return err
		}
		src = tok.ChatTemplate()
		if !c.IsSet("bos-token") && tok.BOS() >= 0 {
			o.BOS = tok.Token(tok.BOS())
		}
		if !c.IsSet("eos-token") && tok.EOS() >= 0 {
			o.EOS = tok.Token(tok.EOS())
		}
	}
	if f := c.String("chat-template"); f != "" {
		raw, err := os.ReadFile(f)
		if err != nil {
			return fail.Inputf(f, "", "%w", err)
		}
		src = string(raw)
	}
	if src == "" {
		return fail.Usagef("", "--chat-template FILE", "no --chat-template, and the model has none")
	}
	tmpl, err := chat.Parse(src, o)
	if err != nil {
		return err
	}
	return eachLine(c, c.String("input"), func(d *jinja.Dict) (*jinja.Dict, error) {
		out := jinja.NewDict()
		text, err := renderLine(tmpl, d)
		if err != nil {
			out.Set("error", err.Error())
			return out, nil
		}
		out.Set("text", text)
		if tok != nil {
			out.Set("ids", idList(tok.Encode(text, false)))
		}
		return out, nil
	})
}

// renderLine takes a conversation from a line's fields; those it does not know
// are template variables.
func renderLine(t *chat.Template, d *jinja.Dict) (string, error) {
	conv := chat.Conversation{Extra: map[string]any{}}
	gen := false
	for i := range d.Len() {
		k, v := d.At(i)
		switch k {
		case "messages":
			list, ok := v.([]any)
			if !ok {
				return "", fail.Inputf("messages", "", "found %s, want a list", jsonText(v))
			}
			for _, x := range list {
				m, ok := x.(*jinja.Dict)
				if !ok {
					return "", fail.Inputf("messages", "", "found %s, want objects", jsonText(x))
				}
				conv.Messages = append(conv.Messages, chat.Message{Dict: m})
			}
		case "tools":
			conv.Tools = v
		case "add_generation_prompt":
			gen, _ = v.(bool)
		default:
			conv.Extra[fmt.Sprint(k)] = v
		}
	}
	return t.Render(conv, gen)
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
