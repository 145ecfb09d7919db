package stages

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/merge"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/recipes/schema"
)

var mergeModelsKind = recipes.Kind{
	Name: "merge_models", Doc: "one model of several, by a configuration of mergekit",
	New: func() any { return new(MergeModels) }, Left: func() any { return new(MergeModelsResult) },
	Gives: []recipes.RefKind{recipes.ModelRef}, HostOnly: true,
	Resolve: resolveMergeModels, Inputs: mergeModelsInputs,
	Address: func(_ *recipes.Addresser, opts any) any {
		o := opts.(*MergeModels)
		return struct {
			Config string // which the result has beside its weights
			Shard  schema.Size
		}{string(o.Config.text), o.MaxShardSize}
	},
	Makes:  func(any) []recipes.Made { return []recipes.Made{{Dense: true}} },
	Shapes: mergeModelsShapes, Plan: planMergeModels, Run: runMergeModels, View: viewMergeModels,
}

// MergeModels makes one model of several.
type MergeModels struct {
	Config       MergeConfig `yaml:"config" type:"file, or its keys" doc:"of mergekit; models are stages, paths or names of the hub" unset:"required"`
	MaxShardSize schema.Size `yaml:"max_shard_size" doc:"bytes a file" default:"5GB"`
}

// MergeConfig is a configuration of mergekit: a file, or its keys.
type MergeConfig struct {
	Path string     // of the file, "" for keys
	keys *yaml.Node // given in place of a file
	text []byte     // of either; nil: not read, or not to be read
}

// ReadMergeConfig reads a file.
func ReadMergeConfig(path string) (MergeConfig, error) {
	text, err := formats.TextFile(path)
	return MergeConfig{Path: path, text: text}, err
}

// read parses and checks the text. The result belongs to one merge, which changes it.
func (c *MergeConfig) read() (*merge.Config, error) { return merge.Read(c.Path, c.text) }

// SetYAML reads the name of a file, or the keys.
func (c *MergeConfig) SetYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		c.Path = n.Value
		return nil
	}
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("found a list, want a file of mergekit, or its keys")
	}
	left := maxConfigNodes
	c.keys = standalone(n, &left)
	if left < 0 {
		return fmt.Errorf("its aliases stand for more than %d values", maxConfigNodes)
	}
	if err := schema.DecodeWhole(n, new(merge.Config)); err != nil {
		return err
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(c.keys); err != nil {
		return err
	}
	c.text = b.Bytes()
	return e.Close()
}

// maxConfigNodes keeps a few lines of aliases from standing for any number of values.
const maxConfigNodes = 100_000

// standalone is n without what the text around it says: aliases, comments, flow style.
func standalone(n *yaml.Node, left *int) *yaml.Node {
	n = schema.Deref(n)
	out := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value}
	if n.Kind == yaml.ScalarNode {
		out.Style = n.Style
	}
	for _, c := range n.Content {
		if *left--; *left < 0 {
			break
		}
		out.Content = append(out.Content, standalone(c, left))
	}
	return out
}

// MarshalYAML is the form that SetYAML reads.
func (c MergeConfig) MarshalYAML() (any, error) {
	if c.keys != nil {
		return c.keys, nil
	}
	return c.Path, nil
}

// JSONSchema lists the keys, for editors; what they may hold, the program says.
func (MergeConfig) JSONSchema() map[string]any {
	props := map[string]any{}
	for _, k := range schema.Keys(reflect.TypeFor[merge.Config](), "") {
		props[k.Name] = map[string]any{"description": k.Doc}
	}
	props["merge_method"].(map[string]any)["enum"] = merge.Methods()
	return map[string]any{"anyOf": []any{map[string]any{"type": "string"},
		map[string]any{"type": "object", "properties": props, "additionalProperties": false, "patternProperties": map[string]any{"^x-": map[string]any{}}}}}
}

// MergeModelsResult is what a merge_models stage leaves for the report.
type MergeModelsResult struct {
	Method string        `json:"method"`
	Models []merge.Model `json:"models"`
	*merge.Report
}

func resolveMergeModels(opts any, _ recipes.Setting, bad recipes.Bad) {
	schema.Fill(opts)
	switch c := &opts.(*MergeModels).Config; {
	case c.Path == "" && c.keys == nil:
		bad("config", "config: ties.yaml, or the keys of such a file below config", "no configuration")
	case c.text != nil:
		if _, err := c.read(); err != nil {
			bad("config", fail.Hint(err), "%v", err)
		}
	}
}

// mergeModelsInputs are the models, in the order of mergedNames, and the file.
func mergeModelsInputs(v *recipes.Resolver, opts any) ([]recipes.Input, error) {
	o := opts.(*MergeModels)
	var err error
	if o.Config.text == nil {
		if o.Config, err = ReadMergeConfig(o.Config.Path); err != nil {
			return nil, err
		}
	}
	c, err := o.Config.read()
	if err != nil {
		return nil, err
	}
	var in []recipes.Input
	for i, name := range mergedNames(c) {
		ref, err := v.Given(recipes.ModelRef, "config", string(name))
		if err != nil {
			return nil, err
		}
		if s := v.Find(ref.Stage); s == nil {
			ref.Path = namedPath(name)
		} else if slices.ContainsFunc(s.Kind.Makes(s.Options), func(m recipes.Made) bool { return m.Adapter && m.Member == ref.Member }) {
			return nil, v.Usagef("config", "name a merge stage of it, which writes it into its base", "stage %s makes an adapter, not a model", name)
		}
		key := "model" // whose config.json and tokenizer the result has
		if i > 0 {
			key = fmt.Sprintf("models[%d]", i)
		}
		in = append(in, recipes.Input{Name: key, Ref: ref})
	}
	if c.ChatTemplate != "auto" && fileTemplate(c.ChatTemplate) {
		in = append(in, recipes.Input{Name: "chat_template", Ref: recipes.Ref{Kind: recipes.TemplateRef, Path: c.ChatTemplate, Why: "given"}})
	}
	if o.Config.Path != "" {
		in = append(in, recipes.Input{Name: "config", Ref: recipes.Ref{Kind: recipes.ConfigRef, Path: o.Config.Path, Why: "given"}})
	}
	return in, nil
}

// mergedNames are the models that a merge reads, that of the tokenizer, too.
func mergedNames(c *merge.Config) []merge.Model {
	out := c.References()
	if from := tokenizerModel(c); from != "" && !slices.Contains(out, from) {
		out = append(out, from)
	}
	return out
}

// mergedRefs are the models of a stage by their names in its configuration.
func mergedRefs(j *recipes.Job, c *merge.Config) map[merge.Model]recipes.Ref {
	out := map[merge.Model]recipes.Ref{}
	for i, name := range mergedNames(c) {
		out[name] = j.Inputs[i].Ref
	}
	return out
}

// plannedSet are the models of a stage in shapes, and its configuration: its own to change.
// The caller closes it.
func plannedSet(p *recipes.Planner, j *recipes.Job) (*modelSet, error) {
	c, err := j.Options.(*MergeModels).Config.read()
	if err != nil {
		return nil, err
	}
	m, refs := newModelSet(c, noteTo(nil)), mergedRefs(j, c)
	m.tokenizer = func(name merge.Model) (*tokenizer.Tokenizer, error) { return tokenizerBehind(p, refs[name]) }
	for _, name := range m.order {
		src, err := p.Source(refs[name])
		if err == nil && name == m.order[0] { // a ghost has tensors alone
			err = merge.Whole(name, src)
		}
		if err == nil {
			src, err = recipes.NewGhost(src, src.Reader.Path(), func(t *arch.Tensor) recipes.Held { return recipes.Held{Type: t.Type} })
		}
		if err != nil {
			m.close()
			return nil, err
		}
		m.open[name] = src
	}
	return m, nil
}

// mergeModelsPlan is what the stage will write.
func mergeModelsPlan(p *recipes.Planner, j *recipes.Job) (*merge.Planned, error) {
	return recipes.Once(p, "merge of "+j.ID, func() (*merge.Planned, error) {
		m, err := plannedSet(p, j)
		if err != nil {
			return nil, err
		}
		defer m.close()
		tok, vocab, err := m.tokens()
		if name := m.c.ChatTemplate; err == nil && name != "" && name != "auto" {
			if tok == nil {
				tok, err = m.tokenizer(m.order[0])
			}
			if err == nil {
				_, err = namedTemplate(tok, name)
			}
		}
		if err != nil {
			return nil, err
		}
		will, err := merge.Plan(m.c, m.open, vocab)
		if err != nil && fail.Code(err) == int(fail.Usage) {
			err = fail.Usagef(p.Env.Where(j)+".config", fail.Hint(err), "%w", err)
		}
		return will, err
	})
}

func mergeModelsShapes(p *recipes.Planner, j *recipes.Job) (*arch.Source, error) {
	will, err := mergeModelsPlan(p, j)
	if err != nil {
		return nil, err
	}
	return will.Model(j.ID)
}

func planMergeModels(p *recipes.Planner, j *recipes.Job, s *recipes.StagePlan) error {
	will, err := mergeModelsPlan(p, j)
	if err != nil {
		return err
	}
	c, err := j.Options.(*MergeModels).Config.read()
	if err != nil {
		return err
	}
	n := len(c.References())
	s.Disk = will.Bytes
	s.Seconds = float64(n+1) * float64(s.Disk) / 3e8
	s.Does = fmt.Sprintf("%s of %d models, %d layers", c.Method, n, will.Layers)
	for _, note := range will.Notes {
		s.Note("%s", note)
	}
	countHost(s, will.Memory)
	return nil
}

func runMergeModels(ctx context.Context, x *recipes.Env, j *recipes.Job, res *recipes.Result) error {
	o := j.Options.(*MergeModels)
	c, err := o.Config.read()
	if err != nil {
		return err
	}
	refs := mergedRefs(j, c)
	left, err := MergeModelsTo(ctx, x.Device(), MergeModelsOptions{Config: o.Config, Path: func(m merge.Model) string { return x.Path(refs[m]) },
		Output: x.Dir(j), MaxShard: int64(o.MaxShardSize), Seed: x.Seed(), Progress: x.Progress("bytes"), Note: func(s string) { res.Notes = append(res.Notes, s) }})
	if err != nil {
		return err
	}
	res.Left = left
	return nil
}

func viewMergeModels(x *recipes.Env, j *recipes.Job, res *recipes.Result, s *report.Section) {
	if res == nil {
		return
	}
	left, dir := res.Left.(*MergeModelsResult), x.Dir(j)
	var names []string
	for _, m := range left.Models {
		names = append(names, string(m))
	}
	s.Models = append(s.Models, report.Row{Model: j.ID, Path: dir})
	s.Facts = append(s.Facts, fmt.Sprintf("%s: %s of %s; %d layers, %s", j.ID, left.Method, strings.Join(names, ", "), left.Layers, humanize.Bytes(uint64(left.Bytes))))
	s.Next = append(s.Next, report.Command{For: "vLLM", Line: fmt.Sprintf("vllm serve %s --served-model-name %s", report.Shell(dir), report.Shell(x.Name()))})
	s.Try = dir
}

// MergeModelsOptions are what `tune merge-models` and a merge_models stage share.
type MergeModelsOptions struct {
	Config   MergeConfig
	Path     func(merge.Model) string // where a model lies; nil: where the configuration says
	Output   string                   // new folder
	MaxShard int64                    // bytes of a file
	Seed     uint64                   // of random masks
	Progress func(done, total int64)
	Note     func(string)
}

// MergeModelsTo merges whole models as a configuration of mergekit says. Tokenizer and
// generation settings are those of the base_model, or of the first model, unless the
// configuration says otherwise.
func MergeModelsTo(ctx context.Context, dev kernels.Backend, o MergeModelsOptions) (*MergeModelsResult, error) {
	c, err := o.Config.read()
	if err != nil {
		return nil, err
	}
	path := o.Path
	if path == nil {
		path = namedPath
	}
	m := newModelSet(c, noteTo(o.Note))
	defer m.close()
	for _, name := range m.order {
		if m.open[name], err = OpenSource(path(name)); err != nil {
			return nil, err
		}
	}
	m.tokenizer = func(name merge.Model) (*tokenizer.Tokenizer, error) {
		if src := m.open[name]; src != nil {
			return tokenizer.Open(src.Reader)
		}
		return TokenizerOf(path(name))
	}
	mo := merge.Options{Path: o.Output, MaxShard: o.MaxShard, Seed: o.Seed, Progress: o.Progress, Note: m.note}
	if mo.Files, mo.Vocab, err = m.files(path); err != nil {
		return nil, err
	}
	mo.Files["README.md"] = mergedCard(c, m.order, o.Seed, o.Config.text)
	mo.Files["mergekit_config.yml"] = o.Config.text
	rep, err := merge.Write(ctx, dev, c, m.open, mo)
	return &MergeModelsResult{Method: c.Method, Models: m.order, Report: rep}, err
}

// hubName is the name of a model on the hub, as mergekit's files have it.
var hubName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9._/-]+)?$`)

// namedPath is a model's path or reference; the hub's name for it stands for what is in
// the local cache.
func namedPath(m merge.Model) string {
	name := string(m)
	path, _, _ := strings.Cut(name, "@")
	if !exists(name) && !exists(filepath.Dir(path)) && hubName.MatchString(name) {
		name = "hf://" + name
	}
	return name
}

// modelSet are the open models of a merge.
type modelSet struct {
	c         *merge.Config
	order     []merge.Model
	open      map[merge.Model]*arch.Source
	tokenizer func(merge.Model) (*tokenizer.Tokenizer, error)
	note      func(string)
}

func newModelSet(c *merge.Config, note func(string)) *modelSet {
	return &modelSet{c: c, order: c.References(), open: map[merge.Model]*arch.Source{}, note: note}
}

func (m *modelSet) close() {
	for _, s := range m.open {
		if s != nil {
			s.Close()
		}
	}
}

// source is where the tokens of the result come from, "" where they stay as they are.
func source(c *merge.Config) merge.Source {
	switch asked := c.Tokenizer; {
	case c.TokenizerSource != "":
		return c.TokenizerSource
	case asked.Source != "":
		return asked.Source
	case len(asked.Tokens) > 0 || asked.Multiple != 0:
		return "union"
	}
	return ""
}

// tokenizerModel is the model whose tokens the result has, "" where they are not one model's
// by its name.
func tokenizerModel(c *merge.Config) merge.Model {
	switch from := source(c); from {
	case "base", "union":
		return ""
	default:
		return merge.Model(from)
	}
}

// tokens are the tokenizer of the result and what its tokens make of the tables, both nil
// where tables stay row by row.
func (m *modelSet) tokens() (tok *tokenizer.Tokenizer, vocab *merge.Vocabulary, err error) {
	from := source(m.c)
	if from == "" {
		return nil, nil, nil
	}
	toks := map[merge.Model]*tokenizer.Tokenizer{}
	for _, name := range m.order {
		if toks[name], err = m.tokenizer(name); err != nil {
			return nil, nil, err
		}
	}
	switch from {
	case "base":
		tok = toks[m.order[0]]
	case "union":
		tok, err = m.union(toks)
	default:
		tok, err = m.tokenizer(merge.Model(from))
	}
	if err == nil {
		vocab, err = m.vocabulary(tok, toks)
	}
	return tok, vocab, err
}

// files are what lies beside the weights: the tokenizer, and what its tokens make of
// the tables, nil where these stay row by row.
func (m *modelSet) files(path func(merge.Model) string) (map[string][]byte, *merge.Vocabulary, error) {
	from := m.open[m.order[0]]
	tok, vocab, err := m.tokens()
	if err == nil && vocab == nil && (m.c.ChatTemplate != "" || hasTokenizer(from)) {
		tok, err = tokenizer.Open(from.Reader)
	}
	if err == nil {
		err = m.setTemplate(tok)
	}
	if err != nil {
		return nil, nil, err
	}
	if name := tokenizerModel(m.c); name != "" {
		if from = m.open[name]; from == nil {
			if from, err = OpenSource(path(name)); err != nil {
				return nil, nil, err
			}
			defer from.Close()
		}
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
	} else {
		var err error
		if text, err = namedTemplate(tok, name); err != nil {
			return err
		}
	}
	tok.SetChatTemplates([]tokenizer.NamedTemplate{{Name: tokenizer.DefaultTemplate, Text: text}})
	return nil
}

// namedTemplate is a template that tok can spell: the text itself, a file's, or one of the
// program's.
func namedTemplate(tok *tokenizer.Tokenizer, name string) (string, error) {
	if name == "model" {
		return "", fail.Usagef("chat_template", "leave it out to keep the template of the model whose tokenizer is taken", "model is no template of a merge")
	}
	t, err := templateOf(tok, name)
	if err != nil {
		return "", fail.Usagef("chat_template", "auto, a Jinja template, or one of those that tune ingest knows", "%w", err)
	}
	return t.Source(), nil
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
