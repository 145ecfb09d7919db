package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/autograd/model/engine"
	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/stages"
)

func chatCommand() *ucli.Command {
	return &ucli.Command{
		Name: "chat", Usage: "talk to a model",
		Description: examples("tune chat -m runs/quickstart/merged", "tune chat -m models/M --adapter runs/support/adapter --system 'Be brief.'"),
		Flags: modelFlags(append(samplingFlags(" (default: what generation_config.json says, else 0.8 with top-k 40, top-p 0.95 and min-p 0.05)"),
			modelFlag(), adapterFlag(), templateFlag(), &ucli.StringFlag{Name: "system", Usage: "system message"})...),
		Action: runChat,
	}
}

// usualSampling is that of llama.cpp, for a model that does not say its own.
var usualSampling = kernels.SampleRow{Temperature: 0.8, TopK: 40, TopP: 0.95, MinP: 0.05}

func runChat(c *ucli.Context) error {
	if err := required(c, "model"); err != nil {
		return err
	}
	if _, err := requestOf(c, usualSampling); err != nil { // before the model is read
		return err
	}
	path := recipes.OnlyModelIn(c.String("model"))
	m, err := openModel(c, path, "auto")
	if err != nil {
		return err
	}
	defer m.Dev.Close()
	defer m.Close()
	if m.Spec.Encoder > 0 {
		return fail.Usagef("chat", fmt.Sprintf("tune generate --model %s --prompt …", path), "%s reads a prompt by an encoder and answers it: it holds no conversation", path)
	}
	tok, err := m.Tokenizer()
	if err != nil {
		return err
	}
	tmpl, err := templateIn(c, tok, path)
	if err != nil {
		return err
	}
	r, err := chatRequest(c, m)
	if err != nil {
		return err
	}
	r.Stop = tok.EOSIDs()
	e, err := engine.New(m.Model, engine.Options{Slots: 1, Room: chatRoom})
	if err != nil {
		return err
	}
	defer e.Close()
	return converse(c, m, tok, tmpl, e, r)
}

// chatRequest samples as the flags say, then the model, then as is usual.
func chatRequest(c *ucli.Context, m *stages.Loaded) (engine.Request, error) {
	base, given, unused, err := m.Sampling()
	if err != nil {
		return engine.Request{}, err
	}
	if len(unused) > 0 {
		fmt.Fprintf(c.App.ErrWriter, "note: generation_config.json: %s: tokens are not chosen so here\n", strings.Join(unused, ", "))
	}
	if !given {
		base = usualSampling
	}
	return requestOf(c, base)
}

// chatRoom is how many tokens a conversation has memory for at first.
const chatRoom = 1024

const chatHelp = `an empty line, /exit or Ctrl-D ends
/reset         begins anew, with the same system message
/system TEXT   begins anew with this system message; without TEXT: with none
/help          this
a line that ends in \ goes on in the next one; // at its start is one / of the message`

// conversation is a chat in the making.
type conversation struct {
	chat.Conversation
	system string
}

// reset begins anew.
func (v *conversation) reset() {
	v.Messages = nil
	if v.system != "" {
		v.Messages = append(v.Messages, chat.NewMessage("system", v.system))
	}
}

// command obeys a line that begins with a slash and returns what to say; over:
// the chat has ended; known is false for a message that begins so.
func (v *conversation) command(line string) (say string, over, known bool) {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "/help":
		return chatHelp, false, true
	case "/exit", "/quit", "/bye":
		return "", true, true
	case "/reset":
		v.reset()
		return "begun anew", false, true
	case "/system":
		v.system = strings.TrimSpace(rest)
		v.reset()
		if v.system == "" {
			return "begun anew without a system message", false, true
		}
		return "begun anew, system: " + v.system, false, true
	}
	if rest == "" && !strings.Contains(word[1:], "/") {
		return fmt.Sprintf("no command %s; /help lists them, /%s sends it", word, word), false, true
	}
	return "", false, false
}

// converse answers the lines of standard input, each with what was said before.
func converse(c *ucli.Context, m *stages.Loaded, tok *tokenizer.Tokenizer, tmpl *chat.Template, e *engine.Engine, r engine.Request) error {
	v := conversation{system: c.String("system")}
	v.reset()
	fmt.Fprintln(c.App.ErrWriter, "an empty line ends; Ctrl-C stops an answer; /help lists the commands")
	in := newLineReader(os.Stdin, c.App.ErrWriter)
	for {
		onInterrupt(c.Context, func() { fmt.Fprintln(c.App.ErrWriter); os.Exit(0) })
		line, err := in.paragraph("> ")
		if err == io.EOF || err == nil && line == "" {
			return nil
		}
		if err != nil {
			return err
		}
		if rest, ok := strings.CutPrefix(line, "//"); ok {
			line = "/" + rest
		} else if line[0] == '/' {
			say, over, known := v.command(line)
			if over {
				return nil
			}
			if known {
				fmt.Fprintln(c.App.ErrWriter, say)
				continue
			}
		}
		v.Messages = append(v.Messages, chat.NewMessage("user", line))
		if err := reply(c, m, tok, tmpl, e, r, &v); err != nil {
			return err
		}
	}
}

// reply makes the answer to a conversation, shows it as it comes and adds it.
func reply(c *ucli.Context, m *stages.Loaded, tok *tokenizer.Tokenizer, tmpl *chat.Template, e *engine.Engine, r engine.Request, v *conversation) error {
	text, err := tmpl.Render(v.Conversation, true)
	if err != nil {
		return err
	}
	if r.Prompt, err = tok.TryEncode(text, false); err != nil {
		return err
	}
	if err := m.CheckPrompt(r.Prompt); err != nil {
		noteOn(c)(err.Error() + "; this turn is left out, /reset begins anew")
		v.Messages = v.Messages[:len(v.Messages)-1]
		return nil
	}
	r.Text = tok.Stream(true)
	a, err := answer(c, e, r)
	if err != nil {
		return err
	}
	if a.Stop == engine.StopRoom {
		defer noteOn(c)("the model's context is full; /reset begins anew")
	}
	said := tok.Decode(a.IDs, true)
	if a.Stop == engine.StopText {
		said = a.Text
	}
	v.Messages = append(v.Messages, chat.NewMessage("assistant", said))
	if c.Bool("json") {
		ids := slices.Clone(a.IDs)
		if a.End >= 0 {
			ids = append(ids, a.End)
		}
		return writeJSON(c, answerLine(said, ids, len(r.Prompt), a.Stop))
	}
	fmt.Fprintln(c.App.Writer)
	return nil
}

// answer shows an answer as it comes, until Ctrl-C at most.
func answer(c *ucli.Context, e *engine.Engine, r engine.Request) (engine.Answer, error) {
	ctx, cancel := context.WithCancel(c.Context)
	defer cancel()
	onInterrupt(c.Context, cancel)
	s := e.Submit(ctx, r)[0]
	for t := range s.Tokens() {
		if !c.Bool("json") {
			fmt.Fprint(c.App.Writer, t.Text)
		}
	}
	a, err := s.Answer()
	if err != nil && ctx.Err() != nil && c.Context.Err() == nil {
		a.Stop, err = stopInterrupted, nil
	}
	return a, err
}
