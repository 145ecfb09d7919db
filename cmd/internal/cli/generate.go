package cli

import (
	"bufio"
	"fmt"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/train/eval"
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
	o, err := samplingOf(c)
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
	o.Stop = tok.EOSIDs()
	var prompts [][]int32
	add := func(ids []int32, err error) error {
		if err == nil && len(ids) == 0 {
			err = fail.Inputf("prompt", "", "no tokens")
		}
		prompts = append(prompts, ids)
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
	gens, err := eval.Generate(c.Context, m.Model, prompts, o)
	if err != nil {
		return err
	}
	for i, g := range gens {
		line := struct {
			Text   string  `json:"text"`
			IDs    []int32 `json:"ids"`
			Prompt int     `json:"prompt_tokens"`
			New    int     `json:"new_tokens"`
			Stop   string  `json:"stop"`
		}{tok.Decode(g.IDs, true), g.IDs, len(prompts[i]), len(g.IDs), g.Stop}
		if g.End >= 0 {
			line.IDs = append(line.IDs, g.End)
			line.New++
		}
		if line.IDs == nil {
			line.IDs = []int32{}
		}
		if err := writeJSON(c, line); err != nil {
			return err
		}
	}
	return nil
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
		if err != nil {
			return nil // end of input
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
			if tok.ChatTemplate() == "" {
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
