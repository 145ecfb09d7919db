package stages

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/rows"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
)

// ingestParts opens what an ingest reads: tokenizer and chat template.
func ingestParts(x *recipes.Env, j *recipes.Job) (data.Options, *tokenizer.Tokenizer, *chat.Template, error) {
	o := j.Options.(*Ingest).Options
	ref, _ := j.In("tokenizer")
	tok, src, err := ingestTokenizer(x.Path(ref))
	if err != nil {
		return o, nil, nil, err
	}
	defer src.Close()
	o.ForModel(src.Spec.Trained(), src.Spec.V, src.Spec.Encoder > 0)
	o.Datasets, o.ValDatasets, o.DecontaminateAgainst = slices.Clone(o.Datasets), slices.Clone(o.ValDatasets), slices.Clone(o.DecontaminateAgainst) // the recipe keeps its own
	for _, list := range [][]data.Source{o.Datasets, o.ValDatasets, o.DecontaminateAgainst} {
		for i := range list {
			if list[i].Path, err = recipes.ResolvePath(list[i].Path); err != nil {
				return o, nil, nil, err
			}
		}
	}
	o.KeepParts()
	tmpl, err := templateOf(tok, o.ChatTemplate)
	return o, tok, tmpl, err
}

// templateOf is ChatTemplate with the clock of a run.
func templateOf(tok *tokenizer.Tokenizer, name string) (*chat.Template, error) {
	return ChatTemplate(tok, name, clock())
}

// ChatTemplate is the model's own template, one of the program by its name, a
// file's, or the text itself; nil when the model has none. now is what it sees of the clock.
func ChatTemplate(tok *tokenizer.Tokenizer, name string, now time.Time) (*chat.Template, error) {
	to := chat.Options{Now: now}
	if name == "" || name == "model" {
		if tok == nil || len(tok.ChatTemplates()) == 0 {
			return nil, nil
		}
		return chat.FromTokenizer(tok, to)
	}
	where := name
	text, err := TemplateText(name)
	if err != nil {
		return nil, err
	}
	if inlineTemplate(name) {
		where = "chat_template"
	}
	if builtin, ok := chat.Builtin(name); ok {
		text = builtin
		if tok != nil {
			if err := chat.CheckBuiltin(name, tok); err != nil {
				return nil, err
			}
		}
	}
	if tok != nil {
		to.Special, to.Ends = tok.SpecialTexts(), tok.EOSTexts()
	}
	if tok != nil && tok.BOS() >= 0 {
		to.BOS = tok.Token(tok.BOS())
	}
	if tok != nil && tok.EOS() >= 0 {
		to.EOS = tok.Token(tok.EOS())
	}
	t, err := chat.Parse(text, to)
	if err != nil {
		return nil, fail.Inputf(where, fail.Hint(err), "%w", err)
	}
	return t, nil
}

// TemplateText is a chat template without its file: the name of one in the program
// or the text stay, a file's name becomes what it holds.
func TemplateText(name string) (string, error) {
	if !fileTemplate(name) {
		return name, nil
	}
	raw, err := formats.TextFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		hint := "a file, the template itself, or one of " + strings.Join(chat.Builtins(), ", ")
		return "", fail.Inputf(name, fail.Near(name, chat.Builtins(), hint), "no such file")
	}
	return string(raw), err
}

// fileTemplate tells the name of a file from the other ways to give a template.
func fileTemplate(s string) bool {
	_, builtin := chat.Builtin(s)
	return s != "" && s != "model" && !builtin && !inlineTemplate(s)
}

// inlineTemplate tells a template from the name of a file that holds one.
func inlineTemplate(s string) bool { return strings.ContainsAny(s, "{\n") }

// clock is what templates that print the date see: SOURCE_DATE_EPOCH, else a
// fixed day, so that the same rows give the same tokens tomorrow.
func clock() time.Time {
	var sec int64
	if _, err := fmt.Sscan(os.Getenv("SOURCE_DATE_EPOCH"), &sec); err == nil {
		return time.Unix(sec, 0).UTC()
	}
	return time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
}

// rowSet is what a data reference stands for, with the keys that shape batches.
type rowSet struct {
	*data.Dataset
	Packing string
	Shuffle bool
}

// dataset loads the rows of a data reference: an ingest stage's, those of a folder
// that tune ingest wrote, or those of a file read with every default and the
// tokenizer of model. beside is where such an ingest keeps what memory has no room for.
func dataset(ctx context.Context, x *recipes.Env, ref, model recipes.Ref, beside string) (*rowSet, error) {
	if ref.Stage == "" {
		return pathRows(ctx, x, ref.Path, model, beside)
	}
	j := x.Job(ref.Stage)
	s := j.Options.(*Ingest)
	ds, err := data.LoadArrow(x.Dir(j))
	if err != nil {
		return nil, err
	}
	return &rowSet{ds, s.Packing, s.Shuffle == nil || *s.Shuffle}, nil
}

func pathRows(ctx context.Context, x *recipes.Env, path string, model recipes.Ref, beside string) (*rowSet, error) {
	local, err := recipes.ResolvePath(path)
	if err != nil {
		return nil, err
	}
	if data.IsCache(local) {
		ds, err := loadFor(local, x.Path(model))
		if err != nil {
			return nil, err
		}
		return &rowSet{ds, defaultPacking, true}, nil
	}
	o := fileOptions(local, path, x.Seed())
	o.Beside = beside
	ds, _, _, err := IngestFiles(ctx, x.Path(model), o, x.Progress("rows"))
	if err != nil {
		return nil, err
	}
	return &rowSet{ds, defaultPacking, true}, nil
}

// defaultPacking is how rows are laid out that no ingest stage says it of.
const defaultPacking = "bfd"

// fileOptions are those of an ingest of a file that a stage names as its data.
func fileOptions(local, name string, seed uint64) data.Options {
	return data.Options{Datasets: []data.Source{{Path: local}}, Seed: seed, Name: name}
}

// loadFor opens a folder that tune ingest wrote, for a model.
func loadFor(dir, model string) (*data.Dataset, error) {
	tok, src, err := ingestTokenizer(model)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	return data.LoadFor(dir, tok, src.Spec.V)
}

// IngestFiles is `tune ingest`: an ingest outside a recipe, with the tokenizer
// and template of a model.
func IngestFiles(ctx context.Context, model string, o data.Options, progress func(done, total int64)) (*data.Dataset, *data.Report, *tokenizer.Tokenizer, error) {
	tok, src, err := ingestTokenizer(model)
	if err != nil {
		return nil, nil, nil, err
	}
	defer src.Close()
	o.ForModel(src.Spec.Trained(), src.Spec.V, src.Spec.Encoder > 0)
	tmpl, err := templateOf(tok, o.ChatTemplate)
	if err != nil {
		return nil, nil, tok, err
	}
	ds, rep, err := data.Ingest(ctx, o, tok, tmpl, progress)
	return ds, rep, tok, err
}

// EvalFile reads a file for an evaluation: plain text as ids, anything else as
// rows, which need tok's chat template when they are conversations. What memory has no
// room for lies in files without a name beside a path, "" for the folder of temporary
// files. Of a plain text the first tokens are read, most of them; 0: all. note is told what was chosen of a folder.
func EvalFile(ctx context.Context, file data.Source, beside string, tok *tokenizer.Tokenizer, context int, spec *arch.Spec, most int, note func(string)) (examples data.Examples, text []int32, err error) {
	path := file.Path
	if isText(file) {
		ids, err := readText(path, tok, most, mostText)
		if err == nil {
			err = checkRows(path, tok, ids, spec.V)
		}
		return examples, ids, err
	}
	tmpl, err := templateOf(tok, file.Template)
	if err != nil {
		return examples, nil, err
	}
	no := false
	o := data.Options{Datasets: []data.Source{file}, ValSetSize: "0", Shuffle: &no, MaxLength: context, Overflow: "truncate", Name: "eval",
		Beside: cmp.Or(beside, filepath.Join(os.TempDir(), "tokens"))}
	o.ForModel(spec.Trained(), spec.V, spec.Encoder > 0)
	ds, rep, err := data.Ingest(ctx, o, tok, tmpl, nil)
	if err != nil {
		return examples, nil, err
	}
	for _, n := range rep.Notes {
		note(n)
	}
	return ds.Train.Firsts(), nil, nil
}

// Answered refuses plain text for a model with an encoder, which answers prompts.
func Answered(spec *arch.Spec, path string, text []int32) error {
	if spec.Encoder == 0 || len(text) == 0 {
		return nil
	}
	return fail.Inputf(path, "give rows of prompt and completion (JSONL, CSV, Parquet)", "a plain text has no prompts and answers: the model reads a prompt by an encoder and answers it")
}

// isText reports whether a file is one text: by its ending, where nothing says that
// it has columns.
func isText(file data.Source) bool {
	if file.Type != "" && file.Type != "auto" || len(file.Columns) > 0 {
		return false
	}
	ext, _ := rows.Format(file.Path)
	st, err := os.Stat(file.Path)
	return (ext == ".txt" || ext == ".md" || ext == "" || ext == ".raw") && err == nil && !st.IsDir()
}

// mostText is the bytes of the largest text that is measured whole.
const mostText = 256 << 20

// readText is a file of text as tokens: its first ones where most are asked for, for which
// no more of the file is read than it takes, or all of them (0). It reads limit bytes at
// most.
func readText(path string, tok *tokenizer.Tokenizer, most int, limit int64) ([]int32, error) {
	t, err := rows.OpenText(path)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	var text strings.Builder
	for room := 8*min(int64(most), limit) + 1<<16; ; room *= 2 { // most texts have fewer bytes a token
		if most <= 0 {
			room = limit
		}
		room = min(room, limit)
		if _, err := io.CopyN(&text, t, room+1-int64(text.Len())); err != nil && err != io.EOF {
			return nil, rows.FileError(path, err)
		}
		whole := int64(text.Len()) <= room
		if !whole && most <= 0 {
			return nil, fail.Limitf(path, "measure the first of it (samples), or give rows (JSONL, Parquet)", "holds more than %s of text", humanize.IBytes(uint64(limit)))
		}
		ids, err := tok.TryEncode(text.String(), true)
		if err != nil || whole {
			return ids, err
		}
		if sure := len(ids) - len(ids)/16; sure >= most { // a text that is cut ends in other tokens
			return slices.Clone(ids[:most]), nil
		}
		if room == limit {
			return nil, fail.Limitf(path, "ask for fewer samples, or give rows (JSONL, Parquet)", "%s of its text are %d tokens, %d are asked for", humanize.IBytes(uint64(limit)), len(ids), most)
		}
	}
}
