package stages

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/recipes"
)

// templateFile is where an adapter's folder has the chat template it was trained
// with, as Transformers saves it.
const templateFile = "chat_template.jinja"

// servedTokenizer is the tokenizer of a model with adapters: its own, or that of an
// adapter that added tokens, with the chat templates of the last adapter whose folder
// has some, since what was trained is what must be served. note is told which were taken and why.
func servedTokenizer(src *arch.Source, adapters []string, note func(string)) (*tokenizer.Tokenizer, error) {
	tok, err := tokenizer.Open(src.Reader)
	if err != nil {
		return nil, err
	}
	for _, dir := range adapters {
		own, list, err := adapterTokenizer(dir)
		if err != nil {
			return nil, err
		}
		if own != nil && own.Size() > tok.Size() {
			tok = own
			note(fmt.Sprintf("the tokenizer is that of %s, which has added tokens", dir))
		}
		if len(list) > 0 && !slices.Equal(list, tok.ChatTemplates()) {
			tok.SetChatTemplates(list)
			note(fmt.Sprintf("the chat template is that of %s, which differs from the base's", dir))
		}
	}
	return tok, nil
}

// adapterTokenizer is the tokenizer in an adapter's folder, nil where there is none, and
// the chat templates there.
func adapterTokenizer(dir string) (tok *tokenizer.Tokenizer, templates []tokenizer.NamedTemplate, err error) {
	if lora.IsGGUF(dir) {
		return nil, nil, nil
	}
	if exists(filepath.Join(dir, "tokenizer.json")) {
		if tok, err = tokenizer.Open(tokenizerFolder{dir: dir}); err != nil {
			return nil, nil, err
		}
		templates = tok.ChatTemplates()
	}
	raw, err := formats.SideFile(filepath.Join(dir, templateFile))
	if raw != nil {
		templates = []tokenizer.NamedTemplate{{Name: tokenizer.DefaultTemplate, Text: string(raw)}}
	}
	return tok, templates, err
}

// trainedTemplate is the chat template that the rows of a training stage were written
// with where it is not the model's own.
func trainedTemplate(x *recipes.Env, j *recipes.Job, src *arch.Source) (*chat.Template, error) {
	ref, _ := j.In("data")
	name := ""
	if ref.Stage == "" {
		local, err := recipes.ResolvePath(ref.Path)
		if err != nil {
			return nil, err
		}
		if data.IsCache(local) {
			ds, err := data.LoadArrow(local)
			if err != nil {
				return nil, err
			}
			name = ds.Template
		}
	} else if o, ok := x.Job(ref.Stage).Options.(*Ingest); ok {
		name = o.ChatTemplate
	}
	if name == "" || name == "model" || !hasTokenizer(src) {
		return nil, nil
	}
	tok, err := tokenizer.Open(src.Reader)
	if err != nil {
		return nil, err
	}
	t, err := templateOf(tok, name)
	if err != nil || t.Source() == tok.ChatTemplate() {
		return nil, err
	}
	return t, nil
}

// keepTemplate writes the template that was trained with into the folder of an adapter.
func keepTemplate(dir string, t *chat.Template) error {
	if t == nil {
		return nil
	}
	return atomic.WriteFile(filepath.Join(dir, templateFile), []byte(t.Source()))
}

// trainedFiles are the servedFiles of a model that was trained whole with a template,
// or with its own where t is nil.
func trainedFiles(src *arch.Source, t *chat.Template) (map[string][]byte, error) {
	if !hasTokenizer(src) {
		return baseFiles(src)
	}
	tok, err := tokenizer.Open(src.Reader)
	if err != nil {
		return nil, err
	}
	if t != nil {
		tok.SetChatTemplates([]tokenizer.NamedTemplate{{Name: tokenizer.DefaultTemplate, Text: t.Source()}})
	}
	return servedFiles(src, tok)
}

// servedFiles are baseFiles with the tokenizer that is served, and with a
// generation_config.json that stops where its chat template ends a turn: the programs
// that read the folder know no other ends.
func servedFiles(src *arch.Source, tok *tokenizer.Tokenizer) (map[string][]byte, error) {
	if src.Spec.Reward {
		src.SetPad(rewardPad(tok))
	}
	out, err := baseFiles(src)
	if err != nil || tok == nil {
		return out, err
	}
	files, err := tok.HFFiles()
	if err != nil {
		return nil, err
	}
	delete(files, "generation_config.json")
	for _, name := range []string{templateFile, "chat_template.json"} {
		delete(out, name) // unless it is among files
	}
	maps.Copy(out, files)
	return out, addEnds(out, src, tok)
}

// rewardPad is a token to pad a reward model's texts with, none that ends one; -1 where
// there is none.
func rewardPad(tok *tokenizer.Tokenizer) int32 {
	if tok == nil {
		return -1
	}
	for _, id := range []int32{tok.PAD(), tok.UNK()} {
		if id >= 0 && id != tok.EOS() && !slices.Contains(tok.EOSIDs(), id) {
			return id
		}
	}
	return -1
}

// addEnds adds to eos_token_id the ends of a turn that a chat template writes.
func addEnds(files map[string][]byte, src *arch.Source, tok *tokenizer.Tokenizer) error {
	const name = "generation_config.json"
	d := &jinja.Dict{}
	if raw, ok := files[name]; ok {
		v, err := jinja.ParseJSON(raw)
		if d, ok = v.(*jinja.Dict); err != nil || !ok {
			return fail.Inputf(filepath.Join(src.Reader.Path(), name), "", "is no JSON object")
		}
	}
	v, given := d.Get("eos_token_id")
	list, isList := v.([]any)
	if !isList && given && v != nil {
		list = []any{v}
	}
	if list == nil && tok.EOS() >= 0 {
		list = []any{int64(tok.EOS())}
	}
	n := len(list)
	for _, id := range tok.EOSIDs() {
		written := slices.ContainsFunc(tok.ChatTemplates(), func(t tokenizer.NamedTemplate) bool { return strings.Contains(t.Text, tok.Token(id)) })
		if written && !slices.Contains(list, any(int64(id))) {
			list = append(list, int64(id))
		}
	}
	if len(list) == n {
		return nil
	}
	d.Set("eos_token_id", list)
	raw, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	files[name] = append(raw, '\n')
	return nil
}
