package data

import (
	"encoding/json"
	"strings"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/formats/fail"
)

// convertPromptOnly makes a sample of a prompt that the model answers itself: text
// as it is, messages, an instruction, which is what a user says, or a conversation
// up to the last answer in it. The row stays beside it as JSON, for whoever
// judges the answer, with the prompt, and that last answer as completion.
func convertPromptOnly(c columns, row *jinja.Dict, hasTemplate bool) (sample, error) {
	kept := row.Clone()
	s := sample{}
	prompt := c.get(row, "prompt")
	if prompt == nil && c.name(row, "instruction") == "" {
		messages, answer, err := c.asked(row)
		if err != nil {
			return s, err
		}
		prompt = messages
		setNew(kept, "completion", answer)
	}
	switch v := prompt.(type) {
	case []chat.Message:
		var err error
		if s.chat, err = c.conversation(row, v); err != nil {
			return s, err
		}
	case nil:
		instruction, err := c.text(row, "instruction", false)
		if err != nil {
			return s, err
		}
		if strings.TrimSpace(instruction) == "" {
			return s, bad(c.name(row, "instruction"), "is empty")
		}
		input, err := c.text(row, "input", true)
		if err != nil {
			return s, err
		}
		if c.has(row, "history") {
			return s, bad(c.name(row, "history"), "is not read in rows of type prompt; messages are")
		}
		prompt = instruction
		if !hasTemplate {
			s.plain, s.prompt = true, alpaca(instruction, input)
			break
		}
		if input != "" {
			instruction += "\n" + input
			prompt = instruction
		}
		if s.chat, err = c.conversation(row, []chat.Message{chat.NewMessage("user", instruction)}); err != nil {
			return s, err
		}
	case string:
		if v == "" {
			return s, bad(c.name(row, "prompt"), "is empty")
		}
		s.plain, s.prompt = true, v
	default:
		messages, err := c.messages(c.name(row, "prompt"), v)
		if err != nil {
			return s, err
		}
		if messages[len(messages)-1].Role() == "assistant" {
			return s, bad(c.name(row, "prompt"), "ends with what the assistant says: there is nothing to answer")
		}
		if s.chat, err = c.conversation(row, messages); err != nil {
			return s, err
		}
	}
	setNew(kept, "prompt", prompt)
	text, err := json.Marshal(kept)
	if err != nil {
		return s, bad("", "cannot be kept: %v", err)
	}
	s.row = string(text)
	return s, nil
}

// setNew adds a column that a row does not have.
func setNew(row *jinja.Dict, name string, v any) {
	if _, ok := row.Get(name); !ok {
		row.Set(name, v)
	}
}

// asked is a conversation up to the answer that ends it, and that answer.
func (c columns) asked(row *jinja.Dict) (before []chat.Message, answer string, err error) {
	name := c.name(row, "messages")
	all, err := c.messages(name, c.get(row, "messages"))
	if err != nil {
		return nil, "", err
	}
	last := all[len(all)-1]
	if len(all) < 2 || last.Role() != "assistant" {
		return nil, "", bad(name, "does not end with what the assistant answers; a column prompt holds messages to be answered")
	}
	answer, _ = last.Content()
	return all[:len(all)-1], answer, nil
}

// checkPromptOnly refuses what does not go with rows of prompts.
func (in *ingest) checkPromptOnly(f input) error {
	switch {
	case in.o.Overflow == "split" || in.o.Overflow == "truncate":
		return fail.Usagef(in.o.Name, "overflow: drop", "overflow: %s would cut the prompts in %s, which are to be answered", in.o.Overflow, f.path)
	case in.kept.n > 0 && !in.kept.info.Rows:
		return fail.Usagef(in.o.Name, "an ingest stage of its own", "%s holds prompts, rows before it are learned from as they are", f.path)
	}
	in.kept.info.Rows, in.kept.info.Groups, in.kept.info.Marks = true, false, false // prompts stand alone
	return nil
}

// ask tokenizes a prompt up to where the answer begins, as at inference.
func (e *encoding) ask(s *sample) (encoded, error) {
	if s.plain {
		ids, err := e.head(s.prompt)
		if e.encoder { // which reads a whole text, its end too
			ids, err = e.tok.TryEncode(s.prompt, true)
		}
		if err != nil {
			return encoded{}, bad("", "%v", err)
		}
		return encoded{ids: ids, row: s.row}, e.checkBOS(ids)
	}
	c, err := e.conversation(s.chat)
	if err != nil {
		return encoded{}, err
	}
	text, err := e.tmpl.Render(*c, true)
	if err != nil {
		return encoded{}, templateError(err)
	}
	if said := lastText(c); !strings.Contains(text, said) {
		return encoded{}, bad("", "the template does not write the last message")
	}
	ids, _, note, err := e.cut(text, c, nil)
	if err != nil {
		return encoded{}, bad("", "%v", err)
	}
	return encoded{ids: ids, note: note, row: s.row}, e.checkChatBOS(text, ids)
}

// lastText is what the last message says, without space around it.
func lastText(c *chat.Conversation) string {
	text, _ := c.Messages[len(c.Messages)-1].Content()
	return strings.TrimSpace(text)
}

// Asks tells whether the samples are prompts alone, which a model answers itself.
func (x Examples) Asks() (bool, error) {
	if x.Len() == 0 {
		return false, nil
	}
	e, err := x.At(0)
	return e.Row != "", err
}
