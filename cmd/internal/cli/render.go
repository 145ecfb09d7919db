package cli

import (
	"fmt"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes/stages"
)

func renderCommand() *ucli.Command {
	return &ucli.Command{
		Name: "render", Usage: "conversations through a chat template, a line at a time",
		Description: examples("tune render --model models/M --input chats.jsonl", `tune render --chat-template t.jinja --bos-token '<s>' --eos-token '</s>' --input -`),
		Flags: []ucli.Flag{modelFlag(),
			&ucli.StringFlag{Name: "chat-template", Usage: "template file, or chatml or llama3, instead of the model's"},
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
		if tok, err = stages.TokenizerOf(m); err != nil {
			return err
		}
		o.Special = tok.SpecialTexts()
		own := func(flag, key string, text *string, id int32) {
			if c.IsSet(flag) {
				o.Special[key] = *text // nothing, perhaps
				return
			}
			*text = tok.Token(id)
		}
		own("bos-token", "bos_token", &o.BOS, tok.BOS())
		own("eos-token", "eos_token", &o.EOS, tok.EOS())
	}
	if f := c.String("chat-template"); f != "" {
		text, ok := chat.Builtin(f)
		src = text
		if ok && tok != nil {
			if err := chat.CheckBuiltin(f, tok); err != nil {
				return err
			}
		}
	}
	if f := c.String("chat-template"); f != "" && src == "" {
		raw, err := formats.TextFile(f)
		if err != nil {
			return err
		}
		src = string(raw)
	}
	var tmpl *chat.Template
	var err error
	switch {
	case src != "":
		tmpl, err = chat.Parse(src, o)
	case tok != nil && len(tok.ChatTemplates()) > 0:
		tmpl, err = chat.FromTokenizer(tok, o)
	default:
		err = fail.Usagef("", "--chat-template FILE", "no --chat-template, and the model has none")
	}
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
			ids, err := tok.TryEncode(text, false)
			if err != nil {
				return nil, err
			}
			out.Set("ids", idList(ids))
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
