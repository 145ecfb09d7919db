package recipes

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
)

// ingestParts opens what an ingest reads: tokenizer and chat template.
func (x *run) ingestParts(j *Job) (data.Options, *tokenizer.Tokenizer, *chat.Template, error) {
	o := j.Stage.Ingest.Options
	ref, _ := j.In("tokenizer")
	tok, src, err := ingestTokenizer(x.pathOf(ref))
	if err != nil {
		return o, nil, nil, err
	}
	defer src.Close()
	o.Context, o.Vocab = src.Spec.MaxPos, src.Spec.V
	o.Datasets, o.ValDatasets = slices.Clone(o.Datasets), slices.Clone(o.ValDatasets) // the recipe keeps its own
	for _, list := range [][]data.Source{o.Datasets, o.ValDatasets} {
		for i := range list {
			if list[i].Path, err = resolvePath(list[i].Path); err != nil {
				return o, nil, nil, err
			}
		}
	}
	tmpl, err := templateOf(tok, o.ChatTemplate)
	return o, tok, tmpl, err
}

// templateOf is the model's own template, a file's, or the text itself; nil
// when the model has none.
func templateOf(tok *tokenizer.Tokenizer, name string) (*chat.Template, error) {
	to := chat.Options{Now: clock()}
	if name == "" || name == "model" {
		if tok == nil || tok.ChatTemplate() == "" {
			return nil, nil
		}
		return chat.FromTokenizer(tok, to)
	}
	where := "chat_template"
	if !inlineTemplate(name) {
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, fail.Inputf(name, "chat_template is model, a file, or the template itself", "%w", err)
		}
		where, name = name, string(raw)
	}
	if tok != nil && tok.BOS() >= 0 {
		to.BOS = tok.Token(tok.BOS())
	}
	if tok != nil && tok.EOS() >= 0 {
		to.EOS = tok.Token(tok.EOS())
	}
	t, err := chat.Parse(name, to)
	if err != nil {
		return nil, fail.Inputf(where, fail.Hint(err), "%w", err)
	}
	return t, nil
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

func runIngest(ctx context.Context, x *run, j *Job, res *Result) error {
	o, tok, tmpl, err := x.ingestParts(j)
	if err != nil {
		return err
	}
	o.Beside = x.stageDir(j.Stage.ID)
	ds, rep, err := data.Ingest(ctx, o, tok, tmpl, x.progress("rows"))
	if err != nil {
		return err
	}
	defer ds.Close()
	res.Ingest = rep
	res.Notes = append(res.Notes, rep.Notes...)
	for name, n := range map[string]int64{"truncated": rep.Truncated, "duplicates": rep.Duplicates, "dropped": total(rep.Dropped)} {
		if err := x.failOn(j, name, n); err != nil {
			return err
		}
	}
	return ds.SaveArrow(o.Beside)
}

func total(m map[string]int64) (n int64) {
	for _, v := range m {
		n += v
	}
	return n
}

// failOn turns a counted event into an error where the recipe says so.
func (x *run) failOn(j *Job, what string, n int64) error {
	if n == 0 {
		return nil
	}
	for _, f := range x.FailOn {
		if f == what {
			return fail.Inputf(x.path+": "+j.Stage.ID, "fail_on lists it", "%d %s", n, what)
		}
	}
	return nil
}

// rowSet is what a data reference stands for, with the keys that shape batches.
type rowSet struct {
	*data.Dataset
	Packing string
	Shuffle bool
}

// dataset loads the rows of a data reference: an ingest stage's, or those of a
// file read with every default and the tokenizer of model.
func (x *run) dataset(ctx context.Context, ref, model Ref) (*rowSet, error) {
	if ref.Stage == "" {
		return x.fileRows(ctx, ref.Path, model)
	}
	s := x.stage(ref.Stage).Ingest
	ds, err := data.LoadArrow(x.stageDir(ref.Stage))
	if err != nil {
		return nil, err
	}
	return &rowSet{ds, s.Packing, s.Shuffle == nil || *s.Shuffle}, nil
}

func (x *run) fileRows(ctx context.Context, path string, model Ref) (*rowSet, error) {
	local, err := resolvePath(path)
	if err != nil {
		return nil, err
	}
	ds, _, _, err := IngestFiles(ctx, x.pathOf(model), data.Options{Datasets: []data.Source{{Path: local}}, Seed: x.Seed, Name: path}, x.progress("rows"))
	if err != nil {
		return nil, err
	}
	return &rowSet{ds, "bfd", true}, nil
}
