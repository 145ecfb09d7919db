package stages

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/merge"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// MergeModelsOptions are those of `tune merge-models`.
type MergeModelsOptions struct {
	Config   string // file of mergekit
	Output   string // new folder
	MaxShard int64  // bytes of a file
	Seed     uint64 // of random masks
	Progress func(done, total int64)
	Note     func(string)
}

// MergeModels merges whole models as a configuration of mergekit says. Tokenizer and
// generation settings are those of the base_model, or of the first model, unless the
// configuration says otherwise.
func MergeModels(ctx context.Context, dev kernels.Backend, o MergeModelsOptions) (*merge.Report, error) {
	text, err := formats.TextFile(o.Config)
	if err != nil {
		return nil, err
	}
	c, err := merge.Read(o.Config, text)
	if err != nil {
		return nil, err
	}
	note := noteTo(o.Note)
	m := modelSet{c: c, order: c.References(), open: map[merge.Model]*arch.Source{}, note: note}
	defer m.close()
	for _, path := range m.order {
		if m.open[path], err = openNamed(string(path)); err != nil {
			return nil, err
		}
	}
	mo := merge.Options{Path: o.Output, MaxShard: o.MaxShard, Seed: o.Seed, Progress: o.Progress, Note: note}
	if mo.Files, mo.Vocab, err = m.files(); err != nil {
		return nil, err
	}
	mo.Files["README.md"] = mergedCard(c, m.order, o.Seed, text)
	mo.Files["mergekit_config.yml"] = text
	return merge.Write(ctx, dev, c, m.open, mo)
}

// hubName is the name of a model on the hub, as mergekit's files have it.
var hubName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9._/-]+)?$`)

// openNamed opens a model by path, reference, or the hub's name for it, which stands
// for what is in the local cache.
func openNamed(name string) (*arch.Source, error) {
	path, _, _ := strings.Cut(name, "@")
	if !exists(name) && !exists(filepath.Dir(path)) && hubName.MatchString(name) {
		name = "hf://" + name
	}
	return OpenSource(name)
}

// modelSet are the open models of a merge.
type modelSet struct {
	c     *merge.Config
	order []merge.Model
	open  map[merge.Model]*arch.Source
	note  func(string)
}

func (m *modelSet) close() {
	for _, s := range m.open {
		if s != nil {
			s.Close()
		}
	}
}

// files are what lies beside the weights: the tokenizer, and what its tokens make of
// the tables, nil where these stay row by row.
func (m *modelSet) files() (map[string][]byte, *merge.Vocabulary, error) {
	donor := m.open[m.order[0]]
	source, asked := m.c.TokenizerSource, m.c.Tokenizer
	if source == "" && asked.Source != "" {
		source = asked.Source
	}
	if source == "" && (len(asked.Tokens) > 0 || asked.Multiple != 0) {
		source = "union"
	}
	if source == "" {
		var tok *tokenizer.Tokenizer
		if m.c.ChatTemplate != "" || hasTokenizer(donor) {
			var err error
			if tok, err = tokenizer.Open(donor.Reader); err != nil {
				return nil, nil, err
			}
		}
		if err := m.setTemplate(tok); err != nil {
			return nil, nil, err
		}
		files, err := servedFiles(donor, tok)
		return files, nil, err
	}
	toks := map[merge.Model]*tokenizer.Tokenizer{}
	var err error
	for _, path := range m.order {
		if toks[path], err = tokenizer.Open(m.open[path].Reader); err != nil {
			return nil, nil, err
		}
	}
	from, tok := donor, toks[m.order[0]]
	switch source {
	case "base":
	case "union":
		if tok, err = m.union(toks); err != nil {
			return nil, nil, err
		}
	default:
		path := merge.Model(source)
		if from = m.open[path]; from == nil {
			src, err := openNamed(string(source))
			if err != nil {
				return nil, nil, err
			}
			defer src.Close()
			from = src
		}
		if tok, err = tokenizer.Open(from.Reader); err != nil {
			return nil, nil, err
		}
	}
	vocab, err := m.vocabulary(tok, toks)
	if err != nil {
		return nil, nil, err
	}
	if err := m.setTemplate(tok); err != nil {
		return nil, nil, err
	}
	files, err := servedFiles(from, tok)
	return files, vocab, err
}

// vocabulary maps the tokens of the result to rows of the models.
func (m *modelSet) vocabulary(tok *tokenizer.Tokenizer, toks map[merge.Model]*tokenizer.Tokenizer) (*merge.Vocabulary, error) {
	var lists [][]string
	var rows []int
	for _, path := range m.order {
		lists, rows = append(lists, tokensOf(toks[path])), append(rows, m.open[path].Spec.V)
	}
	v, err := merge.NewVocabulary(tokensOf(tok), m.order, lists, rows, m.c.Tokenizer)
	if err != nil {
		return nil, err
	}
	if text := v.Unknown(); text != "" {
		m.note(text)
	}
	return v, nil
}

// tokensOf lists a tokenizer's tokens by id.
func tokensOf(tok *tokenizer.Tokenizer) []string {
	out := make([]string, tok.Size())
	for i := range out {
		out[i] = tok.Token(int32(i))
	}
	return out
}

// union is the base's tokenizer with the tokens added that only other models have.
func (m *modelSet) union(toks map[merge.Model]*tokenizer.Tokenizer) (*tokenizer.Tokenizer, error) {
	base := toks[m.order[0]]
	rows := m.open[m.order[0]].Spec.V
	if base.Size() > rows {
		return nil, fail.Inputf(string(m.order[0]), "tokenizer_source: base keeps its tokens as they are", "its tokenizer has %d tokens, its embedding %d rows", base.Size(), rows)
	}
	known := map[string]bool{}
	for _, token := range tokensOf(base) {
		known[token] = true
	}
	var more []tokenizer.Added
	for _, path := range m.order[1:] {
		tok := toks[path]
		for id, token := range tokensOf(tok) {
			if id < m.open[path].Spec.V && token != "" && !known[token] {
				known[token] = true
				more = append(more, tokenizer.Added{Token: token, Special: tok.Special(int32(id))})
			}
		}
	}
	if len(more) == 0 {
		return base, nil
	}
	m.note(fmt.Sprintf("the tokenizer is that of %s with %d added tokens of other models", m.order[0], len(more)))
	return base.With(more)
}

// setTemplate gives the tokenizer the chat template that the configuration asks for.
func (m *modelSet) setTemplate(tok *tokenizer.Tokenizer) error {
	name := m.c.ChatTemplate
	if name == "" {
		return nil
	}
	text := name
	if name == "auto" {
		var err error
		if text, err = m.commonTemplate(); err != nil || text == "" {
			return err
		}
	} else if !inlineTemplate(name) {
		t, err := templateOf(tok, name)
		if err != nil {
			return fail.Usagef("chat_template", "auto, a Jinja template, or one of those that tune ingest knows", "%w", err)
		}
		text = t.Source()
	}
	tok.SetChatTemplates([]tokenizer.NamedTemplate{{Name: tokenizer.DefaultTemplate, Text: text}})
	return nil
}

// commonTemplate is the template that most of the models have; of equally many the
// first.
func (m *modelSet) commonTemplate() (string, error) {
	var texts []string
	for _, path := range m.order {
		if !hasTokenizer(m.open[path]) {
			continue
		}
		tok, err := tokenizer.Open(m.open[path].Reader)
		if err != nil {
			return "", err
		}
		if t := strings.TrimSpace(tok.ChatTemplate()); t != "" {
			texts = append(texts, t)
		}
	}
	best, most := "", 0
	for i, t := range texts {
		if slices.Index(texts, t) < i {
			continue
		}
		n := 0
		for _, u := range texts {
			if u == t {
				n++
			}
		}
		if n > most {
			best, most = t, n
		}
	}
	return best, nil
}

// mergedCard is the model card: what was merged, and how.
func mergedCard(c *merge.Config, order []merge.Model, seed uint64, text []byte) []byte {
	var b strings.Builder
	b.WriteString("---\nbase_model:\n")
	for _, m := range order {
		fmt.Fprintf(&b, "- %s\n", m)
	}
	fmt.Fprintf(&b, "base_model_relation: merge\ntags:\n- merge\n---\n\n# Merge of %d models\n\nMethod: %s. Seed of random masks: %d.\n\n```yaml\n%s\n```\n", len(order), c.Method, seed, strings.TrimSpace(string(text)))
	return []byte(b.String())
}
