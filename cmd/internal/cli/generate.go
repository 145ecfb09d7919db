package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/autograd/model/engine"
	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/recipes/stages"
)

func generateCommand() *ucli.Command {
	return &ucli.Command{
		Name: "generate", Usage: "continue prompts or answer conversations",
		Description: examples(`tune generate --model models/M --prompt "The capital of France is" --max-new-tokens 8`,
			`tune generate --model models/M --chat --prompt "Name a river." --stream --temperature 0.8`,
			"tune generate --model models/M --adapter runs/support/adapter --input prompts.jsonl > answers.jsonl"),
		Flags: modelFlags(append(samplingFlags(""), modelFlag(), adapterFlag(),
			&ucli.StringFlag{Name: "prompt", Usage: "one prompt, as it is"},
			&ucli.BoolFlag{Name: "chat", Usage: "--prompt is a message, and goes through the chat template"},
			&ucli.StringFlag{Name: "system", Usage: "system message before it"},
			templateFlag(),
			&ucli.BoolFlag{Name: "stream", Usage: "the text of one answer as it comes, instead of JSON"},
			&ucli.StringFlag{Name: "input", Usage: `{"prompt": …} or {"messages": …} a line; - is standard input`})...),
		Action: runGenerate,
	}
}

// templateFlag takes the place of a model's own chat template.
func templateFlag() ucli.Flag {
	return &ucli.StringFlag{Name: "chat-template", Usage: "model, a name (chatml, llama3, gemma …), a file, or the template itself", Value: "model"}
}

// prompt is a request with what is said of it beside the answer.
type prompt struct {
	engine.Request
	rest *jinja.Dict // fields of its row; nil: none
}

func runGenerate(c *ucli.Context) error {
	if err := required(c, "model"); err != nil {
		return err
	}
	if c.IsSet("prompt") == c.IsSet("input") {
		return usagef(c, "give --prompt or --input")
	}
	for _, name := range []string{"chat", "system", "stream"} {
		if c.IsSet(name) && !c.IsSet("prompt") {
			return usagef(c, "--%s goes with --prompt; rows of --input have messages", name)
		}
	}
	r, err := requestOf(c, kernels.SampleRow{})
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
	var list []prompt
	if c.IsSet("prompt") {
		if r.Prompt, err = onePrompt(c, tok); err == nil {
			list, err = []prompt{{Request: r}}, m.CheckPrompt(r.Prompt)
		}
	} else {
		list, err = readPrompts(c, m, tok, r)
	}
	if err != nil {
		return err
	}
	return answers(c, m, tok, list)
}

// stopInterrupted is why an answer ended that Ctrl-C cut short.
const stopInterrupted = "interrupted"

// answers makes the answers of prompts.
func answers(c *ucli.Context, m *stages.Loaded, tok *tokenizer.Tokenizer, list []prompt) error {
	requests := make([]engine.Request, len(list))
	for i := range list {
		requests[i] = list[i].Request
		requests[i].Sampling.Stream = uint64(i)
		if len(requests[i].StopTexts) > 0 || c.Bool("stream") {
			requests[i].Text = tok.Stream(true)
		}
	}
	if err := m.Room(c.Context, requests); err != nil {
		return err
	}
	savesNow(c.Context) // the answers that are there
	e, streams, err := engine.Start(c.Context, m.Model, requests)
	if err != nil {
		return err
	}
	defer e.Close()
	return writeAnswers(c, tok, list, streams)
}

// writeAnswers writes each answer as soon as those before it are there; after an
// interrupt, what there is of those in the making.
func writeAnswers(c *ucli.Context, tok *tokenizer.Tokenizer, list []prompt, streams []*engine.Stream) error {
	unit := "answers"
	if len(list) == 1 {
		unit = "tokens"
	}
	progress, clear := bar(c, "generate", unit)
	defer clear()
	for i, s := range streams {
		n := int64(0)
		for t := range s.Tokens() {
			if n++; c.Bool("stream") {
				fmt.Fprint(c.App.Writer, t.Text)
			} else if len(list) == 1 {
				progress(n, int64(list[i].MaxNew))
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
		if c.Bool("stream") {
			fmt.Fprintln(c.App.Writer)
			continue
		}
		if err := writeAnswer(c, tok, &list[i], a); err != nil {
			return err
		}
		if len(list) > 1 {
			progress(int64(i+1), int64(len(list)))
		}
	}
	return c.Context.Err()
}

// writeAnswer writes a line of JSON: the answer, then what its row had beside the
// prompt. Its ids hold the one that stopped it.
func writeAnswer(c *ucli.Context, tok *tokenizer.Tokenizer, p *prompt, a engine.Answer) error {
	ids := slices.Clone(a.IDs)
	if a.End >= 0 {
		ids = append(ids, a.End)
	}
	text := tok.Decode(a.IDs, true)
	if a.Stop == engine.StopText {
		text = a.Text
	}
	out := answerLine(text, ids, len(p.Prompt), a.Stop)
	for i := range p.rest.Len() {
		k, v := p.rest.At(i)
		if _, ours := out.Get(k); !ours {
			out.Set(k, v)
		}
	}
	return writeJSON(c, out)
}

// answerLine is an answer as scripts read it.
func answerLine(text string, ids []int32, prompt int, stop string) *jinja.Dict {
	return jinja.NewDict("text", text, "ids", idList(ids), "prompt_tokens", int64(prompt), "new_tokens", int64(len(ids)), "stop", stop)
}

// templateIn is the chat template that --chat-template names.
func templateIn(c *ucli.Context, tok *tokenizer.Tokenizer, where string) (*chat.Template, error) {
	tmpl, err := stages.ChatTemplate(tok, c.String("chat-template"), time.Now())
	if err == nil && tmpl == nil {
		err = fail.Inputf(where, "give one with --chat-template, or use prompts as they are: tune generate --prompt …", "the model has no chat template")
	}
	return tmpl, err
}

// onePrompt is --prompt as ids: as it is, or a message of a conversation.
func onePrompt(c *ucli.Context, tok *tokenizer.Tokenizer) ([]int32, error) {
	if !c.Bool("chat") && !c.IsSet("system") {
		if c.IsSet("chat-template") {
			return nil, usagef(c, "--chat-template goes with --chat, or with messages of --input")
		}
		return encoded(tok.TryEncode(c.String("prompt"), true))
	}
	tmpl, err := templateIn(c, tok, c.String("model"))
	if err != nil {
		return nil, err
	}
	var conv chat.Conversation
	if s := c.String("system"); s != "" {
		conv.Messages = append(conv.Messages, chat.NewMessage("system", s))
	}
	conv.Messages = append(conv.Messages, chat.NewMessage("user", c.String("prompt")))
	text, err := tmpl.Render(conv, true)
	if err != nil {
		return nil, err
	}
	return encoded(tok.TryEncode(text, false))
}

// encoded refuses a prompt without tokens.
func encoded(ids []int32, err error) ([]int32, error) {
	if err == nil && len(ids) == 0 {
		err = fail.Inputf("prompt", "", "no tokens")
	}
	return ids, err
}

const promptRow = `{"prompt": "…"} or {"messages": […]}`

// readPrompts turns every line of --input into a request like r: text as the
// tokenizer takes it, conversations through the chat template.
func readPrompts(c *ucli.Context, m *stages.Loaded, tok *tokenizer.Tokenizer, r engine.Request) ([]prompt, error) {
	in, err := openInput(c.String("input"))
	if err != nil {
		return nil, err
	}
	defer in.Close()
	rows := promptRows{c: c, tok: tok}
	var out []prompt
	br := bufio.NewReaderSize(in, 1<<20)
	for n := 1; ; n++ {
		line, err := readLine(br)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		where := fmt.Sprintf("%s line %d", c.String("input"), n)
		if err != nil {
			return nil, fail.Inputf(where, "", "%w", err)
		}
		if strings.TrimSpace(string(line)) == "" {
			continue
		}
		v, err := jinja.ParseJSON(line)
		d, ok := v.(*jinja.Dict)
		if err != nil || !ok {
			return nil, fail.Inputf(where, promptRow, "not a JSON object: %.60s", line)
		}
		p, err := rows.read(d, r)
		if err == nil {
			err = m.CheckPrompt(p.Prompt)
		}
		if err != nil {
			return nil, fail.Inputf(where, fail.Hint(err), "%w", err)
		}
		out = append(out, p)
	}
}

// promptRows reads rows of --input.
type promptRows struct {
	c    *ucli.Context
	tok  *tokenizer.Tokenizer
	tmpl *chat.Template // when a row needed it
}

func (p *promptRows) read(d *jinja.Dict, r engine.Request) (prompt, error) {
	r, rest, err := rowRequest(d, r)
	if err != nil {
		return prompt{}, err
	}
	if _, ok := d.Get("messages"); !ok {
		v, ok := d.Get("prompt")
		text, isText := v.(string)
		switch {
		case !ok:
			return prompt{}, fail.Inputf("", promptRow, "no prompt and no messages")
		case !isText:
			return prompt{}, fail.Inputf("", promptRow, "prompt: found %s, want a text", jsonText(v))
		}
		rest.Delete("prompt")
		r.Prompt, err = encoded(p.tok.TryEncode(text, true))
		return prompt{r, rest}, err
	}
	if p.tmpl == nil {
		if p.tmpl, err = templateIn(p.c, p.tok, p.c.String("model")); err != nil {
			return prompt{}, err
		}
	}
	conversation := rest.Clone()
	conversation.Set("add_generation_prompt", true)
	text, err := renderLine(p.tmpl, conversation)
	if err != nil {
		return prompt{}, err
	}
	for _, key := range []string{"messages", "tools", "add_generation_prompt"} {
		rest.Delete(key)
	}
	r.Prompt, err = encoded(p.tok.TryEncode(text, false))
	return prompt{r, rest}, err
}
