package tokenizer

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/formats"
)

// NamedTemplate is one of the chat templates of a tokenizer.
type NamedTemplate struct{ Name, Text string }

// The names that Transformers gives a meaning: the template of conversations, and
// that of conversations with tools.
const (
	DefaultTemplate = "default"
	ToolTemplate    = "tool_use"
)

// ChatTemplate is the template called default, which is that of a tokenizer with one
// template, or "".
func (t *Tokenizer) ChatTemplate() string {
	for _, n := range t.templates {
		if n.Name == DefaultTemplate {
			return n.Text
		}
	}
	return ""
}

// ChatTemplates are the templates that came with the tokenizer, in the order of
// their file. The caller owns the slice.
func (t *Tokenizer) ChatTemplates() []NamedTemplate { return slices.Clone(t.templates) }

// setDefault makes src the template called default.
func (t *Tokenizer) setDefault(src string) {
	t.templates = slices.DeleteFunc(t.templates, func(n NamedTemplate) bool { return n.Name == DefaultTemplate })
	t.templates = slices.Insert(t.templates, 0, NamedTemplate{DefaultTemplate, src})
}

// SetChatTemplates replaces the templates, in what HFFiles and GGUFKeys write, too.
// It is for the owner of a tokenizer that no one else uses yet.
func (t *Tokenizer) SetChatTemplates(list []NamedTemplate) {
	t.templates = slices.Clone(list)
	if t.files == nil {
		return
	}
	t.files = maps.Clone(t.files)
	delete(t.files, "chat_template.json")
	delete(t.files, "chat_template.jinja")
	if t.config == nil {
		t.config = &jinja.Dict{}
	}
	t.config = t.config.Clone()
	t.config.Set("chat_template", t.templateJSON())
	t.files["tokenizer_config.json"] = indented(t.config)
}

// additionalTemplates is the folder in which Transformers keeps the chat templates that are not the default.
const additionalTemplates = "additional_chat_templates"

// maxTemplates is how many chat templates a folder may hold.
const maxTemplates = 100

// readAdditional reads the further chat templates of a Hugging Face folder, each a file by its name. They are
// written on in tokenizer_config.json.
func (t *Tokenizer) readAdditional(dir string) error {
	paths, err := filepath.Glob(filepath.Join(globQuoted(dir), additionalTemplates, "*.jinja"))
	if err != nil || len(paths) == 0 {
		return err
	}
	if len(paths) > maxTemplates {
		return badTokenizer(additionalTemplates, "holds %d templates, at most %d are read", len(paths), maxTemplates)
	}
	list := slices.Clone(t.templates)
	for _, path := range paths {
		raw, err := formats.SideFile(path)
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(filepath.Base(path), ".jinja")
		list = slices.DeleteFunc(list, func(n NamedTemplate) bool { return n.Name == name })
		list = append(list, NamedTemplate{name, string(raw)})
	}
	t.SetChatTemplates(list)
	return nil
}

// globQuoted is a path that matches itself.
func globQuoted(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// templateJSON is the value of chat_template in tokenizer_config.json: a text, or a
// list of named ones.
func (t *Tokenizer) templateJSON() any {
	if len(t.templates) == 1 && t.templates[0].Name == DefaultTemplate {
		return t.templates[0].Text
	}
	var list []any
	for _, n := range t.templates {
		list = append(list, jinja.NewDict("name", n.Name, "template", n.Text))
	}
	return list
}

// templatesOf are the chat templates of a tokenizer_config.json: a text, or a list of
// named ones.
func templatesOf(c *jinja.Dict) []NamedTemplate {
	v, _ := c.Get("chat_template")
	if s, ok := v.(string); ok && s != "" {
		return []NamedTemplate{{DefaultTemplate, s}}
	}
	list, _ := v.([]any)
	var out []NamedTemplate
	for _, e := range list {
		if d, ok := e.(*jinja.Dict); ok && d.String("template") != "" {
			out = append(out, NamedTemplate{d.String("name"), d.String("template")})
		}
	}
	return out
}

const ggufTemplate = "tokenizer.chat_template"

// ggufTemplates are the keys of the templates: the default one, a key for each of
// the others and their names.
func (t *Tokenizer) ggufTemplates() []formats.KV {
	var kv []formats.KV
	var names []string
	for _, n := range t.templates {
		if n.Name == DefaultTemplate {
			kv = append(kv, formats.KV{Key: ggufTemplate, Value: n.Text})
			continue
		}
		names = append(names, n.Name)
		kv = append(kv, formats.KV{Key: ggufTemplate + "." + n.Name, Value: n.Text})
	}
	if names != nil {
		kv = append(kv, formats.KV{Key: ggufTemplate + "s", Value: names})
	}
	return kv
}

// readTemplates reads what ggufTemplates writes, in the order of the keys.
func (g *ggufKeys) readTemplates(kv []formats.KV) []NamedTemplate {
	var out []NamedTemplate
	for _, e := range kv {
		name, ok := strings.CutPrefix(e.Key, ggufTemplate+".")
		if e.Key == ggufTemplate {
			name, ok = DefaultTemplate, true
		}
		if !ok {
			continue
		}
		if s := g.str(e.Key); s != "" {
			out = append(out, NamedTemplate{name, s})
		}
	}
	return out
}
