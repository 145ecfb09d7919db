package cli

import (
	"bufio"
	"fmt"
	"os"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/train/eval"
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
	o, err := samplingOf(c)
	if err != nil {
		return err
	}
	path := recipes.OnlyModelIn(c.String("model"))
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
