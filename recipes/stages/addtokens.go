package stages

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/recipes/schema"
	"github.com/tunekit/tunekit/train"
)

var addTokensKind = recipes.Kind{
	Name: "add_tokens", Doc: "new tokens, with rows of embedding and head",
	New: func() any { return new(AddTokens) }, Left: func() any { return new(AddTokensResult) },
	Gives: []recipes.RefKind{recipes.ModelRef}, Replaces: true, HostOnly: true,
	Resolve: func(o any, _ recipes.Setting, bad recipes.Bad) {
		schema.Fill(o)
		if err := o.(*AddTokens).Check(); err != nil {
			bad("", fail.Hint(err), "%v", err)
		}
	},
	Inputs: func(v *recipes.Resolver, o any) ([]recipes.Input, error) {
		model, err := v.Model("model", o.(*AddTokens).Model)
		return []recipes.Input{{Name: "model", Ref: model}}, err
	},
	Address: func(_ *recipes.Addresser, opts any) any {
		o := *opts.(*AddTokens)
		o.Model = ""
		return o
	},
	Makes: func(any) []recipes.Made { return []recipes.Made{{Dense: true}} },
	Held: func(p *recipes.Planner, j *recipes.Job, from *arch.Source, _ string) (map[string]recipes.Held, error) {
		out := typesOf(from, arch.Dense{Path: "x"})
		v, err := rowsAfter(p, j, from)
		if err != nil || v == from.Spec.V {
			return typed(out), err
		}
		for _, t := range tables(from) {
			if t.Type.Quantized() {
				out[t.Name] = dtype.Of(dtype.F32)
			}
		}
		return typed(out), nil
	},
	Grows: rowsAfter, Plan: planAddTokens, Run: runAddTokens, View: viewAddTokens,
}

// AddTokens gives a model new tokens.
type AddTokens struct {
	Model           string      `yaml:"model" doc:"stage or path" unset:"the last dense model above"`
	Tokens          []NewToken  `yaml:"tokens" type:"list of text or {token, like}" doc:"ordinary tokens: parts of the text"`
	SpecialTokens   []NewToken  `yaml:"special_tokens" type:"list of text or {token, like}" doc:"control tokens, which a decoder may leave out of the text"`
	PadToMultipleOf int         `yaml:"pad_to_multiple_of" doc:"rows of embedding and head are rounded up to a multiple of this" default:"1" range:"[1,65536]"`
	MaxShardSize    schema.Size `yaml:"max_shard_size" doc:"bytes a file" default:"5GB"`
}

// NewToken is one of the tokens to add.
type NewToken struct {
	Token string `yaml:"token" doc:"its text"`
	Like  string `yaml:"like,omitempty" doc:"its rows begin as the mean of this text's tokens" unset:"the mean of all tokens"`
}

// SetYAML reads a text, or a mapping.
func (t *NewToken) SetYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		t.Token = n.Value
		return nil
	}
	type plain NewToken
	if err := schema.DecodeNode(n, (*plain)(t)); err != nil {
		return err
	}
	if t.Token == "" {
		return fmt.Errorf("an entry needs token: its text")
	}
	return nil
}

// AddTokensResult is what an add_tokens stage leaves for the report.
type AddTokensResult struct {
	Tokens []AddedToken `json:"tokens"`
	Rows   int          `json:"rows"` // of embedding and head
	Were   int          `json:"rows_before"`
}

// AddedToken is a token that was added.
type AddedToken struct {
	ID      int    `json:"id"`
	Token   string `json:"token"`
	Special bool   `json:"special"`
}

// Check refuses lists that no tokenizer could take.
func (o *AddTokens) Check() error {
	if len(o.Tokens)+len(o.SpecialTokens) == 0 {
		return fail.Usagef("", "tokens: [...] or special_tokens: [...]", "no tokens to add")
	}
	for _, t := range o.all() {
		if strings.TrimSpace(t.Token) != t.Token || t.Token == "" {
			return fail.Usagef("", "write it without them; the text beside it keeps its own", "the token %q is empty or has spaces around it", t.Token)
		}
	}
	return nil
}

// all are the tokens in the order of their ids.
func (o *AddTokens) all() []NewToken { return slices.Concat(o.Tokens, o.SpecialTokens) }

// added are the tokens as a tokenizer takes them.
func (o *AddTokens) added() []tokenizer.Added {
	var out []tokenizer.Added
	for i, t := range o.all() {
		out = append(out, tokenizer.Added{Token: t.Token, Special: i >= len(o.Tokens)})
	}
	return out
}

// rows is how many an embedding has that had v, and a tokenizer of n tokens afterwards.
func (o *AddTokens) rows(v, n int) int {
	m := max(o.PadToMultipleOf, 1)
	v = max(v, n)
	return (v + m - 1) / m * m
}

// AddTokensOptions are those of AddTokensTo.
type AddTokensOptions struct {
	Model    string // path or reference
	Output   string // new folder
	Tokens   AddTokens
	Progress func(done, total int64)
	Note     func(string)
}

// AddTokensTo writes the model with more tokens. Their rows of the embedding and of the head begin
// with the mean of all rows, or of those of a text that says what a token means; rows that
// the model had beyond its tokenizer's tokens are used first.
func AddTokensTo(ctx context.Context, dev kernels.Backend, o AddTokensOptions) (*AddTokensResult, error) {
	src, err := OpenSource(o.Model)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	if !hasTokenizer(src) {
		return nil, fail.Inputf(o.Model, "tokens are added to a tokenizer", "the model has none")
	}
	tok, err := tokenizer.Open(src.Reader)
	if err != nil {
		return nil, err
	}
	more, err := tok.With(o.Tokens.added())
	if err != nil {
		return nil, err
	}
	out := &AddTokensResult{Were: src.Spec.V, Rows: o.Tokens.rows(src.Spec.V, more.Size())}
	for i, a := range o.Tokens.added() {
		out.Tokens = append(out.Tokens, AddedToken{ID: tok.Size() + i, Token: a.Token, Special: a.Special})
	}
	release, err := dev.Host(addTokensMemory(src, out.Rows) + tokenizer.Memory(src.Reader))
	if err != nil {
		return nil, err
	}
	defer release()
	e := firstRows{first: tok.Size(), rows: map[string][]float32{}}
	for _, t := range tables(src) {
		if e.rows[t.Name], err = begin(src, t, tok, o.Tokens.all()); err != nil {
			return nil, err
		}
	}
	if err := src.Grow(out.Rows); err != nil {
		return nil, err
	}
	note := noteTo(o.Note)
	if text := src.CarriedNote(false); text != "" {
		note(text)
	}
	if t := src.LinearType(); t.Quantized() {
		note(fmt.Sprintf("the model's %v weights are written as bf16", t))
	}
	files, err := servedFiles(src, more)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"added_tokens.json", "tekken.json"} { // which do not know the new ones
		delete(files, name)
	}
	d := arch.Dense{Path: o.Output, MaxShard: int64(o.Tokens.MaxShardSize), Files: files, Progress: o.Progress}
	return out, d.Write(ctx, dev, src, &e)
}

// tables are the matrices of a model with a row for each token.
func tables(src *arch.Source) (out []*arch.Tensor) {
	for _, role := range []arch.Role{arch.Embed, arch.Head} {
		if t := src.At(-1, role); t != nil && t.Rows == src.Spec.V {
			out = append(out, t)
		}
	}
	return out
}

// addTokensMemory is what AddTokensTo takes beside copying: the tables as they grow.
func addTokensMemory(src *arch.Source, rows int) (n int64) {
	if rows > src.Spec.V {
		for _, t := range tables(src) {
			n += 4 * int64(rows) * int64(t.Cols)
		}
	}
	return n
}

// begin returns the first rows of the new tokens in a table: the mean of all its rows, as
// Transformers has it (mean_resizing), without its noise of 1e-9 of their covariance, or
// that of the tokens of a text.
func begin(src *arch.Source, t *arch.Tensor, tok *tokenizer.Tokenizer, list []NewToken) ([]float32, error) {
	raw, _, err := src.Read(t)
	if err != nil {
		return nil, err
	}
	defer src.Forget(t)
	c := t.Cols
	mean := make([]float64, c)
	step := arch.ChunkRows(c)
	w := make([]float32, min(step, t.Rows)*c)
	for r := 0; r < t.Rows; r += step {
		w := w[:min(step, t.Rows-r)*c]
		block.DecodeRows(w, raw, r)
		for i, x := range w {
			mean[i%c] += float64(x)
		}
	}
	out := make([]float32, len(list)*c)
	for i, n := range list {
		sum, of := mean, float64(t.Rows)
		if n.Like != "" {
			ids, err := tok.EncodePlain(n.Like)
			if err != nil {
				return nil, fail.Usagef("", "describe it in words that the tokenizer can spell", "%q is like %q: %w", n.Token, n.Like, err)
			}
			sum, of = make([]float64, c), float64(len(ids))
			if len(ids) == 0 {
				return nil, fail.Usagef("", "describe it in words", "%q is like a text without tokens", n.Token)
			}
			for _, id := range ids {
				if err := checkRows("like", tok, []int32{id}, t.Rows); err != nil {
					return nil, err
				}
				block.DecodeRows(w[:c], raw, int(id))
				for k, x := range w[:c] {
					sum[k] += float64(x)
				}
			}
		}
		for k := range c {
			out[i*c+k] = float32(sum[k] / of)
		}
	}
	return out, nil
}

// firstRows puts rows into tables, from the row first on.
type firstRows struct {
	first int
	rows  map[string][]float32
}

// Touches reports whether it is a table with new rows.
func (e *firstRows) Touches(t *arch.Tensor) bool { return e.rows[t.Name] != nil }

// Apply puts the new rows among those from row0 on.
func (e *firstRows) Apply(t *arch.Tensor, row0 int, w []float32) error {
	rows, at := e.rows[t.Name], (e.first-row0)*t.Cols
	if at < 0 {
		rows, at = rows[min(-at, len(rows)):], 0
	}
	if at < len(w) {
		copy(w[at:], rows)
	}
	return nil
}

// tokenizerBehind is the tokenizer of a model, made or not.
func tokenizerBehind(p *recipes.Planner, ref recipes.Ref) (*tokenizer.Tokenizer, error) {
	return recipes.Once(p, "tokenizer of "+ref.Key(), func() (*tokenizer.Tokenizer, error) {
		if ref.Stage == "" || p.Done(p.Env.Job(ref.Stage)) != nil {
			return TokenizerOf(p.Env.Path(ref))
		}
		j := p.Env.Job(ref.Stage)
		if _, ok := j.Options.(*MergeModels); ok {
			m, err := plannedSet(p, j)
			if err != nil {
				return nil, err
			}
			defer m.close()
			if tok, _, err := m.tokens(); tok != nil || err != nil {
				return tok, err
			}
		}
		in, _ := j.In("model")
		tok, err := tokenizerBehind(p, in)
		if o, ok := j.Options.(*AddTokens); ok && err == nil {
			tok, err = tok.With(o.added())
		}
		return tok, err
	})
}

// tokensBehind is the number of its tokens.
func tokensBehind(p *recipes.Planner, ref recipes.Ref) (int, error) {
	tok, err := tokenizerBehind(p, ref)
	if err != nil {
		return 0, err
	}
	return tok.Size(), nil
}

// rowsAfter is the vocabulary of the model that j makes.
func rowsAfter(p *recipes.Planner, j *recipes.Job, from *arch.Source) (int, error) {
	in, _ := j.In("model")
	n, err := tokensBehind(p, in)
	o := j.Options.(*AddTokens)
	return o.rows(from.Spec.V, n+len(o.all())), err
}

func planAddTokens(p *recipes.Planner, j *recipes.Job, s *recipes.StagePlan) error {
	o := j.Options.(*AddTokens)
	in, _ := j.In("model")
	from, err := p.Source(in)
	if err != nil {
		return err
	}
	tok, err := tokenizerBehind(p, in)
	if err == nil {
		_, err = tok.With(o.added())
	}
	if err != nil {
		return err
	}
	n := tok.Size()
	made, err := p.Source(recipes.Ref{Kind: recipes.ModelRef, Stage: j.ID})
	if err != nil {
		return err
	}
	s.Disk = heldBytes(made)
	s.Seconds = float64(s.Disk) / 3e8
	s.Does = fmt.Sprintf("%d tokens from id %s on, %s → %s rows", len(o.all()), humanize.Comma(int64(n)), humanize.Comma(int64(from.Spec.V)), humanize.Comma(int64(made.Spec.V)))
	d := arch.Dense{Path: "x"}
	countHost(s, addTokensMemory(from, made.Spec.V)+arch.CopyMemory(made, d.Plan(made), nil)+tokenizer.Memory(from.Reader))
	return nil
}

func runAddTokens(ctx context.Context, x *recipes.Env, j *recipes.Job, res *recipes.Result) error {
	in, _ := j.In("model")
	left, err := AddTokensTo(ctx, x.Device(), AddTokensOptions{Model: x.Path(in), Output: x.Dir(j), Tokens: *j.Options.(*AddTokens),
		Progress: x.Progress("bytes"), Note: func(s string) { res.Notes = append(res.Notes, s) }})
	if err != nil {
		return err
	}
	res.Left = left
	return nil
}

func viewAddTokens(x *recipes.Env, j *recipes.Job, res *recipes.Result, s *report.Section) {
	if res == nil {
		return
	}
	left := res.Left.(*AddTokensResult)
	var names []string
	for _, t := range left.Tokens {
		names = append(names, fmt.Sprintf("%s (%d)", t.Token, t.ID))
	}
	s.Models = append(s.Models, report.Row{Model: j.ID, Path: x.Dir(j)})
	s.Facts = append(s.Facts, fmt.Sprintf("%s: %s; %s → %s rows", j.ID, strings.Join(names, ", "), humanize.Comma(int64(left.Were)), humanize.Comma(int64(left.Rows))))
}

// addedBefore is the last stage that gave the model of j new tokens, nil where none did. A merge has taken in what was learned of them.
func addedBefore(x *recipes.Env, j *recipes.Job) *recipes.Job {
	for {
		in, ok := j.In("model")
		if !ok || in.Stage == "" {
			return nil
		}
		j = x.Job(in.Stage)
		if j.Kind == &addTokensKind {
			return j
		}
		if j.Kind != &quantizeKind {
			return nil
		}
	}
}

// learnNew has a new adapter of c learn the rows of tokens that stages above j added to
// src, where c does not say how: without that they would stay what they began as. first is
// the id of the first one of a stage.
func learnNew(c train.Config, x *recipes.Env, j *recipes.Job, src *arch.Source, first func(added *recipes.Job) (int, error)) (train.Config, error) {
	added := addedBefore(x, j)
	if from, _ := c.Init(); added == nil || *from != "" || c.Adapter == "none" {
		return c, nil
	}
	embed, head := src.At(-1, arch.Embed).Path(), src.HeadPath()
	if c.Adapter != "lora" && c.Adapter != "qlora" {
		k, err := c.Kinds.Of(string(c.Adapter))
		if err != nil {
			return c, err
		}
		if saved := lora.Saved(k); !saved.Saves(embed) || !src.Spec.Tied && !saved.Saves(head) {
			err = fail.Usagef("train."+string(c.Adapter)+".modules_to_save", fmt.Sprintf("modules_to_save: [%s, %s], or adapter: lora, which learns their rows alone", embed, head),
				"stage %s added tokens, and adapter: %s would not learn them", added.ID, c.Adapter)
		}
		return c, err
	}
	said := len(c.LoRA.TrainableTokenIndices) > 0 || c.LoRA.Saves(embed)
	apart := !src.Spec.Tied && !c.Reward() && !c.LoRA.Saves(head) // the head of a reward has no rows of tokens, and is trained anyway
	if said && !apart {
		return c, nil
	}
	var ids []int
	for a := added; a != nil; a = addedBefore(x, a) {
		n, err := first(a)
		if err != nil {
			return c, err
		}
		for i := range a.Options.(*AddTokens).all() {
			ids = append(ids, n+i)
		}
	}
	slices.Sort(ids)
	rows := lora.TokenIndices{}
	if maps.Copy(rows, c.LoRA.TrainableTokenIndices); !said {
		rows[""] = ids
	}
	switch {
	case !apart || c.LoRA.HasRows(head):
	case src.BiasAt(-1, arch.Head) != nil: // which has no rows of tokens in PEFT
		c.LoRA.ModulesToSave = append(slices.Clone(c.LoRA.ModulesToSave), head)
	default:
		if list := rows[""]; list != nil { // beside another name the embedding has its own
			rows[embed] = list
			delete(rows, "")
		}
		rows[head] = ids
	}
	c.LoRA.TrainableTokenIndices = rows
	return c, nil
}

// firstAdded is the id of the first token that a stage added, which has run.
func firstAdded(x *recipes.Env, added *recipes.Job) (int, error) {
	tok, err := TokenizerOf(x.Dir(added))
	if err != nil {
		return 0, err
	}
	return tok.Size() - len(added.Options.(*AddTokens).all()), nil
}

// firstPlanned is firstAdded of a stage that may not have run.
func firstPlanned(p *recipes.Planner) func(*recipes.Job) (int, error) {
	return func(added *recipes.Job) (int, error) {
		in, _ := added.In("model")
		return tokensBehind(p, in)
	}
}
