package cli

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/train/eval"
)

func samplingFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.IntFlag{Name: "max-new-tokens", Value: 256, Usage: "tokens of an answer"},
		&ucli.Float64Flag{Name: "temperature", Usage: "0 is greedy"},
		&ucli.IntFlag{Name: "top-k", Usage: "0: off"},
		&ucli.Float64Flag{Name: "top-p", Usage: "0: off"},
		&ucli.Float64Flag{Name: "min-p", Usage: "0: off"},
		&ucli.Float64Flag{Name: "repetition-penalty", Usage: "0: off"},
		&ucli.Uint64Flag{Name: "seed", Value: 42},
	}
}

func samplingOf(c *ucli.Context) (eval.GenerateOptions, error) {
	o := eval.GenerateOptions{MaxNew: c.Int("max-new-tokens"), Sampling: eval.Sampling{
		Temperature: c.Float64("temperature"), TopK: c.Int("top-k"), TopP: c.Float64("top-p"), MinP: c.Float64("min-p"),
		RepetitionPenalty: c.Float64("repetition-penalty"), Seed: c.Uint64("seed"),
	}}
	if o.MaxNew < 1 || o.Temperature < 0 || o.TopK < 0 || o.TopP < 0 || o.TopP > 1 || o.MinP < 0 || o.MinP > 1 || o.RepetitionPenalty < 0 {
		return o, usagef(c, "a sampling value is out of range")
	}
	return o, nil
}

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

func chatCommand() *ucli.Command {
	return &ucli.Command{
		Name: "chat", Usage: "talk to a model",
		Description: examples("tune chat -m runs/quickstart/merged", "tune chat -m models/M --adapter runs/support/adapter"),
		Flags:       modelFlags(append(samplingFlags(), modelFlag(), adapterFlag(), &ucli.StringFlag{Name: "system", Usage: "system message"})...),
		Action:      runChat,
	}
}

func runChat(c *ucli.Context) error {
	if err := required(c, "model"); err != nil {
		return err
	}
	o, err := samplingOf(c)
	if err != nil {
		return err
	}
	path, err := recipes.OnlyModelIn(c.String("model"))
	if err != nil {
		return err
	}
	m, err := openModel(c, path, "auto")
	if err != nil {
		return err
	}
	defer m.Dev.Close()
	defer m.Close()
	tok, err := m.Tokenizer()
	if err != nil {
		return err
	}
	if tok.ChatTemplate() == "" {
		return fail.Inputf(path, "tune generate --prompt …", "the model has no chat template")
	}
	tmpl, err := chat.FromTokenizer(tok, chat.Options{Now: time.Now()})
	if err != nil {
		return err
	}
	o.Stop = tok.EOSIDs()
	var conv chat.Conversation
	if s := c.String("system"); s != "" {
		conv.Messages = append(conv.Messages, chat.NewMessage("system", s))
	}
	fmt.Fprintln(c.App.ErrWriter, "an empty line ends; /reset begins anew")
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, maxLine)
	for {
		fmt.Fprint(c.App.ErrWriter, "> ")
		if !in.Scan() || in.Text() == "" {
			return in.Err()
		}
		if in.Text() == "/reset" {
			conv.Messages = conv.Messages[:0]
			continue
		}
		conv.Messages = append(conv.Messages, chat.NewMessage("user", in.Text()))
		text, err := tmpl.Render(conv, true)
		if err != nil {
			return err
		}
		stream := tok.Stream(true)
		o.Token = func(_ int, id int32) { fmt.Fprint(c.App.Writer, stream.Push(id)) }
		gens, err := eval.Generate(c.Context, m.Model, [][]int32{tok.Encode(text, false)}, o)
		if err != nil {
			return err
		}
		fmt.Fprintln(c.App.Writer, stream.Flush())
		conv.Messages = append(conv.Messages, chat.NewMessage("assistant", tok.Decode(gens[0].IDs, true)))
	}
}
