package stages

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/recipes"
)

// writeModelfile writes an Ollama Modelfile beside the first file. Ollama does not
// run the chat template of the GGUF but a TEMPLATE in Go's syntax; note says where
// the model's cannot be put into it.
func writeModelfile(x *recipes.Env, j *recipes.Job, left *ExportResult) (note string, err error) {
	ref, _ := j.In("model")
	tok, err := TokenizerOf(x.Path(ref))
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "FROM ./%s\n", left.Files[0].Path)
	if tok.ChatTemplate() != "" {
		text, lost, err := ollamaTemplateOf(tok)
		if lost != "" {
			note = "Modelfile: the chat template " + lost + ", which a TEMPLATE cannot: Ollama sends messages as they are"
		}
		if err != nil {
			note = fmt.Sprintf("Modelfile without TEMPLATE: %v; without one Ollama sends the bare prompt", err)
		} else {
			fmt.Fprintf(&b, "TEMPLATE \"\"\"%s\"\"\"\n", text)
		}
	}
	fmt.Fprintf(&b, "PARAMETER num_ctx %d\n", contextOf(filepath.Join(x.Dir(j), left.Files[0].Path))) // Ollama's own is shorter
	for _, id := range tok.EOSIDs() {
		fmt.Fprintf(&b, "PARAMETER stop %q\n", tok.Token(id))
	}
	return note, atomic.WriteFile(filepath.Join(x.Dir(j), "Modelfile"), b.Bytes())
}

// turns are the texts around the messages of a chat template that treats each
// by its role alone.
type turns struct {
	start                string // before a conversation without a system message
	system, afterSystem  string
	user, afterUser      string
	assistant, afterTurn string
	open                 string // what the answer follows
}

// ollamaTemplateOf is a tokenizer's chat template in Go's syntax, and what it does to messages that
// this leaves out (rewrites).
func ollamaTemplateOf(tok *tokenizer.Tokenizer) (text, lost string, err error) {
	jinja, err := chat.FromTokenizer(tok, chat.Options{Now: clock()})
	if err != nil {
		return "", "", err
	}
	bos := ""
	if tok.AddsBOS() {
		bos = tok.Token(tok.BOS()) // Ollama adds it itself
	}
	text, err = ollamaTemplate(jinja, bos)
	if err != nil {
		return "", "", err
	}
	lost = rewrites(jinja)
	later, err := chat.FromTokenizer(tok, chat.Options{Now: clock().AddDate(1, 1, 1)})
	if err != nil {
		return "", "", err
	}
	if dated(jinja, later) {
		lost = strings.TrimPrefix(lost+" and writes today's date", " and ")
	}
	return text, lost, nil
}

// dated reports whether a chat template, here of two days, writes the date: a TEMPLATE has that of one day.
func dated(a, b *chat.Template) bool {
	for _, roles := range []string{"u", "su"} {
		x, errX := a.Render(conversation(roles, "word"), true)
		y, errY := b.Render(conversation(roles, "word"), true)
		if x != y || (errX == nil) != (errY == nil) {
			return true
		}
	}
	return false
}

// rewrites says what a chat template does to the messages themselves, "" for nothing: reasoning
// taken out of earlier answers, white space taken off.
func rewrites(jinja *chat.Template) string {
	var out []string
	for _, c := range []struct{ answer, kept, says string }{
		{"<think>\nreason\n</think>\n\nanswer", "reason", "takes reasoning in <think> out of earlier answers"},
		{"  answer  \n", "  answer  \n", "takes white space off messages"},
	} {
		talk := conversation("uau", "word")
		talk.Messages[1] = chat.NewMessage("assistant", c.answer)
		kept := []string{c.kept}
		if c.answer == c.kept { // of questions and system messages, too
			talk.Messages[0] = chat.NewMessage("user", "  ask  \n")
			talk.Messages = append([]chat.Message{chat.NewMessage("system", "  rule  \n")}, talk.Messages...)
			kept = append(kept, "  ask  \n", "  rule  \n")
		}
		text, err := jinja.Render(talk, true)
		if err != nil || slices.ContainsFunc(kept, func(s string) bool { return !strings.Contains(text, s) }) {
			out = append(out, c.says)
		}
	}
	return strings.Join(out, " and ")
}

// ollamaTemplate is a chat template in Go's syntax, for conversations of a system
// message, questions and answers, without bos. It is found by rendering some, and
// it is an error where it does not render others alike.
func ollamaTemplate(jinja *chat.Template, bos string) (string, error) {
	w, err := findTurns(jinja)
	if err != nil {
		return "", err
	}
	text := w.text(bos)
	if strings.Contains(text, `"""`) {
		return "", errors.New(`the chat template writes """, which ends a text of a Modelfile`)
	}
	t, err := template.New("").Parse(text)
	if err != nil {
		return "", err
	}
	for _, roles := range []string{"u", "su", "uau", "suau", "uauau"} {
		for _, words := range []string{"alpha", "Beta, 2"} {
			c := conversation(roles, words)
			want, err := jinja.Render(c, true)
			if err != nil {
				return "", fmt.Errorf("the chat template refuses a conversation: %w", err)
			}
			got, err := runOllama(t, c)
			if err != nil || bos+got != want && got != want {
				return "", errors.New("the chat template does more than put text around each message")
			}
		}
	}
	return text, nil
}

var roleNames = map[rune]string{'s': "system", 'u': "user", 'a': "assistant"}

// conversation has a message for each letter of roles, with contents of its own.
func conversation(roles, word string) (c chat.Conversation) {
	for i, r := range roles {
		c.Messages = append(c.Messages, chat.NewMessage(roleNames[r], content(word, i)))
	}
	return c
}

func content(word string, i int) string { return fmt.Sprintf("%s message %d.", word, i) }

// findTurns reads the texts around messages off what a template renders.
func findTurns(t *chat.Template) (w turns, err error) {
	// pieces are the texts around the contents of a conversation.
	pieces := func(roles string, open bool) (out []string) {
		if err != nil {
			return make([]string, len(roles)+1)
		}
		text, e := t.Render(conversation(roles, "word"), open)
		for i := range roles {
			before, after, ok := strings.Cut(text, content("word", i))
			if e == nil && !ok {
				e = fmt.Errorf("the chat template leaves out the text of a %s message", roleNames[rune(roles[i])])
			}
			out, text = append(out, before), after
		}
		err = e
		return append(out, text)
	}
	less := func(all, part string, prefix bool) string {
		rest, ok := strings.CutSuffix(all, part)
		if prefix {
			rest, ok = strings.CutPrefix(all, part)
		}
		if err == nil && !ok {
			err = errors.New("the chat template does not treat each message by its role alone")
		}
		return rest
	}
	w.afterUser = pieces("u", false)[1]
	w.open = less(pieces("u", true)[1], w.afterUser, true)
	w.afterTurn = pieces("ua", false)[2]
	three := pieces("uau", false)
	w.assistant = less(three[1], w.afterUser, true)
	w.user = less(three[2], w.afterTurn, true)
	w.start = less(three[0], w.user, false)
	two := pieces("su", false)
	w.system, w.afterSystem = two[0], less(two[1], w.user, false)
	return w, err
}

// text is the template in Go's syntax, with what Ollama gives it: .System, and
// .Messages with .Role and .Content. A bos that Ollama adds is left out.
func (w *turns) text(bos string) string {
	lit := func(s string) string {
		if strings.Contains(s, "{{") || strings.Contains(s, "}}") {
			return fmt.Sprintf("{{ %q }}", s)
		}
		return s
	}
	first := func(s string) string { return lit(strings.TrimPrefix(s, bos)) }
	return "{{ if .System }}" + first(w.system) + "{{ .System }}" + lit(w.afterSystem) + "{{ else }}" + first(w.start) + "{{ end }}" +
		"{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}" +
		`{{ if eq .Role "user" }}` + lit(w.user) + "{{ .Content }}" + lit(w.afterUser) +
		`{{ else if eq .Role "assistant" }}` + lit(w.assistant) + "{{ .Content }}{{ if not $last }}" + lit(w.afterTurn) + "{{ end }}{{ end }}" +
		`{{ if and $last (ne .Role "assistant") }}` + lit(w.open) + "{{ end }}{{ end }}"
}

// runOllama renders a conversation as Ollama does.
func runOllama(t *template.Template, c chat.Conversation) (string, error) {
	type message struct{ Role, Content string }
	var in struct {
		System   string
		Messages []message
	}
	for _, m := range c.Messages {
		text, _ := m.Content()
		if m.Role() == "system" {
			in.System = text
		}
		in.Messages = append(in.Messages, message{m.Role(), text})
	}
	var b bytes.Buffer
	err := t.Execute(&b, in)
	return b.String(), err
}
