package cli

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/autograd/model/engine"
	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
)

func generateCommand() *ucli.Command {
	return &ucli.Command{
		Name: "generate", Usage: "continue prompts or answer conversations",
		Description: examples(`tune generate --model models/M --prompt "The capital of France is" --max-new-tokens 8`,
			"tune generate --model models/M --adapter runs/support/adapter --input prompts.jsonl > answers.jsonl"),
		Flags: modelFlags(append(samplingFlags(), modelFlag(), adapterFlag(),
			&ucli.StringFlag{Name: "prompt", Usage: "one prompt, as it is"},
			&ucli.StringFlag{Name: "input", Usage: `{"prompt": …} or {"messages": …} a line; - is standard input`})...),
		Action: runGenerate,
	}
}

func runGenerate(c *ucli.Context) error {
	if err := required(c, "model"); err != nil {
		return err
	}
	if c.IsSet("prompt") == c.IsSet("input") {
		return usagef(c, "give --prompt or --input")
	}
	r, err := requestOf(c)
	if err != nil {
		return err
	}
	m, err := openModel(c, c.String("model"), "auto")
	if err != nil {
		return err
	}
	defer m.Dev.Close()
	defer m.Close()
	tok, err := m.Tokenizer()
	if err != nil {
		return err
	}
	r.Stop = tok.EOSIDs()
	var requests []engine.Request
	add := func(ids []int32, err error) error {
		if err == nil && len(ids) == 0 {
			err = fail.Inputf("prompt", "", "no tokens")
		}
		if err == nil {
			err = m.CheckPrompt(ids)
		}
		r.Prompt, r.Sampling.Stream = ids, uint64(len(requests))
		requests = append(requests, r)
		return err
	}
	if c.IsSet("prompt") {
		err = add(tok.TryEncode(c.String("prompt"), true))
	} else {
		err = readPrompts(c, tok, add)
	}
	if err != nil {
		return err
	}
	e, streams, err := engine.Start(c.Context, m.Model, requests)
	if err != nil {
		return err
	}
	defer e.Close()
	return writeAnswers(c, tok, requests, streams)
}

// stopInterrupted is why an answer ended that Ctrl-C cut short.
const stopInterrupted = "interrupted"

// writeAnswers writes the answers in the order of their prompts, each when it is
// there; after an interrupt, what there is of those in the making.
func writeAnswers(c *ucli.Context, tok *tokenizer.Tokenizer, requests []engine.Request, streams []*engine.Stream) error {
	unit := "answers"
	if len(streams) == 1 {
		unit = "tokens"
	}
	progress, clear := bar(c, "generate", unit)
	defer clear()
	for i, s := range streams {
		n := int64(0)
		for range s.Tokens() {
			if n++; len(streams) == 1 {
				progress(n, int64(requests[i].MaxNew))
			}
		}
		a, err := s.Answer()
		if err != nil && (c.Context.Err() == nil || len(a.IDs) == 0) {
			return err
		}
		if err != nil {
			a.Stop = stopInterrupted
		}
		clear()
		if err := writeAnswer(c, tok, len(requests[i].Prompt), a); err != nil {
			return err
		}
		if len(streams) > 1 {
			progress(int64(i+1), int64(len(streams)))
		}
	}
	return c.Context.Err()
}

// writeAnswer writes a line of JSON; its ids hold the one that stopped the answer.
func writeAnswer(c *ucli.Context, tok *tokenizer.Tokenizer, prompt int, a engine.Answer) error {
	ids := append([]int32{}, a.IDs...)
	if a.End >= 0 {
		ids = append(ids, a.End)
	}
	return writeJSON(c, struct {
		Text   string  `json:"text"`
		IDs    []int32 `json:"ids"`
		Prompt int     `json:"prompt_tokens"`
		New    int     `json:"new_tokens"`
		Stop   string  `json:"stop"`
	}{tok.Decode(a.IDs, true), ids, prompt, len(ids), a.Stop})
}

// readPrompts turns every line of --input into ids: text as the tokenizer
// takes it, conversations through the chat template.
func readPrompts(c *ucli.Context, tok *tokenizer.Tokenizer, add func([]int32, error) error) error {
	var tmpl *chat.Template
	r, err := openInput(c.String("input"))
	if err != nil {
		return err
	}
	defer r.Close()
	br := bufio.NewReaderSize(r, 1<<20)
	for n := 1; ; n++ {
		line, err := readLine(br)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fail.Inputf(fmt.Sprintf("%s line %d", c.String("input"), n), "", "%w", err)
		}
		if strings.TrimSpace(string(line)) == "" {
			continue
		}
		where := fmt.Sprintf("%s line %d", c.String("input"), n)
		v, err := jinja.ParseJSON(line)
		d, ok := v.(*jinja.Dict)
		if err != nil || !ok {
			return fail.Inputf(where, `{"prompt": "…"} or {"messages": […]}`, "not a JSON object: %.60s", line)
		}
		if _, ok := d.Get("messages"); !ok {
			p, ok := d.Get("prompt")
			text, isText := p.(string)
			if !ok || !isText {
				return fail.Inputf(where, `{"prompt": "…"} or {"messages": […]}`, "no prompt and no messages")
			}
			if err := add(tok.TryEncode(text, true)); err != nil {
				return fail.Inputf(where, "", "%w", err)
			}
			continue
		}
		if tmpl == nil {
			if len(tok.ChatTemplates()) == 0 {
				return fail.Inputf(where, "use prompts", "the model has no chat template for messages")
			}
			if tmpl, err = chat.FromTokenizer(tok, chat.Options{Now: time.Now()}); err != nil {
				return err
			}
		}
		d.Set("add_generation_prompt", true)
		text, err := renderLine(tmpl, d)
		if err != nil {
			return fail.Inputf(where, "", "%w", err)
		}
		if err := add(tok.TryEncode(text, false)); err != nil {
			return fail.Inputf(where, "", "%w", err)
		}
	}
}
