package cli

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/autograd/model/engine"
	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/stages"
)

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
	r, err := requestOf(c)
	if err != nil {
		return err
	}
	path := recipes.OnlyModelIn(c.String("model"))
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
	if len(tok.ChatTemplates()) == 0 {
		return fail.Inputf(path, "tune generate --prompt …", "the model has no chat template")
	}
	tmpl, err := chat.FromTokenizer(tok, chat.Options{Now: time.Now()})
	if err != nil {
		return err
	}
	e, err := engine.New(m.Model, engine.Options{Slots: 1, Room: chatRoom})
	if err != nil {
		return err
	}
	defer e.Close()
	r.Stop = tok.EOSIDs()
	return converse(c, m, tok, tmpl, e, r)
}

// chatRoom is how many tokens a conversation has memory for at first.
const chatRoom = 1024

// converse answers the lines of standard input, each with what was said before.
func converse(c *ucli.Context, m *stages.Loaded, tok *tokenizer.Tokenizer, tmpl *chat.Template, e *engine.Engine, r engine.Request) error {
	var conv chat.Conversation
	if s := c.String("system"); s != "" {
		conv.Messages = append(conv.Messages, chat.NewMessage("system", s))
	}
	begin := len(conv.Messages)
	fmt.Fprintln(c.App.ErrWriter, "an empty line ends; Ctrl-C stops an answer; /reset begins anew")
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, maxLine)
	for {
		fmt.Fprint(c.App.ErrWriter, "> ")
		onInterrupt(c.Context, func() { fmt.Fprintln(c.App.ErrWriter); os.Exit(0) })
		if !in.Scan() || in.Text() == "" {
			return in.Err()
		}
		if in.Text() == "/reset" {
			conv.Messages = conv.Messages[:begin]
			continue
		}
		conv.Messages = append(conv.Messages, chat.NewMessage("user", in.Text()))
		text, err := tmpl.Render(conv, true)
		if err != nil {
			return err
		}
		r.Prompt, r.Text = tok.Encode(text, false), tok.Stream(true)
		if err := m.CheckPrompt(r.Prompt); err != nil {
			noteOn(c)(err.Error() + "; this turn is left out, /reset begins anew")
			conv.Messages = conv.Messages[:len(conv.Messages)-1]
			continue
		}
		a, err := answer(c, e, r)
		if err != nil {
			return err
		}
		fmt.Fprintln(c.App.Writer)
		if a.Stop == engine.StopRoom {
			noteOn(c)("the model's context is full; /reset begins anew")
		}
		conv.Messages = append(conv.Messages, chat.NewMessage("assistant", tok.Decode(a.IDs, true)))
	}
}

// answer shows an answer as it comes, until Ctrl-C at most.
func answer(c *ucli.Context, e *engine.Engine, r engine.Request) (engine.Answer, error) {
	ctx, cancel := context.WithCancel(c.Context)
	defer cancel()
	onInterrupt(c.Context, cancel)
	s := e.Submit(ctx, r)[0]
	for t := range s.Tokens() {
		fmt.Fprint(c.App.Writer, t.Text)
	}
	a, err := s.Answer()
	if err != nil && ctx.Err() != nil && c.Context.Err() == nil {
		a.Stop, err = stopInterrupted, nil
	}
	return a, err
}
