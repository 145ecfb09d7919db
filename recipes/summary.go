package recipes

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/recipes/report"
)

// report writes what the run left so far: report.html, summary.md,
// summary.json, manifest.json. It is called after every run, also after one
// that ended in an error, whose error it returns. The summary is nil where no
// stage has come to an end.
func (x *run) report(took time.Duration, err error) (*report.Summary, error) {
	s := x.summary(took, err)
	if len(x.done) == 0 && err != nil {
		return nil, err
	}
	if werr := x.writeReports(s); err == nil {
		err = werr
	}
	return s, err
}

func (x *run) writeReports(s *report.Summary) error {
	raw, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	manifest, err := x.manifest()
	if err != nil {
		return err
	}
	if s.Details.Recipe, s.Details.Defaults, err = x.Full(); err != nil {
		return err
	}
	page, err := s.HTML()
	if err != nil {
		return err
	}
	files := map[string][]byte{"summary.md": []byte(s.Markdown()), "summary.json": append(raw, '\n'), "manifest.json": manifest, "report.html": page}
	for _, sec := range s.Sections {
		for name, data := range sec.Files {
			if err := atomic.MkdirAll(filepath.Dir(filepath.Join(s.Dir, name))); err != nil {
				return err
			}
			if err := atomic.Extend(filepath.Join(s.Dir, name), data); err != nil { // who watches it sees it grow
				return err
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := atomic.WriteFile(filepath.Join(s.Dir, name), files[name]); err != nil {
			return err
		}
	}
	return nil
}

// summary collects what the run has so far.
func (x *run) summary(took time.Duration, err error) *report.Summary {
	s := &report.Summary{Name: x.Name, Dir: string(x.dir), Seconds: took.Seconds(), Hash: string(x.runHash())}
	complete := true
	for _, j := range x.jobs {
		line := report.StageLine{Stage: j.ID, Kind: j.Kind.Name, State: "not run"}
		res := x.done[j.ID]
		if res != nil {
			line.State, line.Seconds, line.Peak, line.Notes = "done", res.Seconds, res.Peak, res.Notes
			if res.Cached {
				line.State = "unchanged"
			}
			for _, f := range res.Outputs {
				line.Bytes += f.Bytes
			}
		} else {
			complete = false
		}
		s.Stages = append(s.Stages, line)
		sec := report.Section{Stage: j.ID}
		if j.Kind.View != nil {
			j.Kind.View(x.env, j, res, &sec)
		}
		s.Sections = append(s.Sections, sec)
	}
	if err != nil && x.at < len(x.jobs) {
		s.Stages[x.at].State = "failed"
		s.Err = err.Error()
	}
	s.Tables = report.Tables(x.baseRow(), s.Sections, weigh)
	s.Verdict = verdict(s, complete, err)
	collect(s)
	s.Details = x.details(err)
	return s
}

func verdict(s *report.Summary, complete bool, err error) string {
	var e *fail.Error
	switch {
	case err == nil && complete:
		return "done"
	case err == nil:
		return "incomplete"
	case errors.As(err, &e) && e.Kind == fail.Interrupted:
		return "interrupted"
	case errors.As(err, &e) && e.Kind == fail.Gate:
		if slices.ContainsFunc(s.Sections, func(sec report.Section) bool { return sec.Failed }) {
			return "gate failed"
		}
		return "gate cannot tell"
	}
	return "error"
}

// collect takes the facts, the next commands and the tables of the stages: the
// last model to talk to first, then what the recipe asks for.
func collect(s *report.Summary) {
	try, on := "", ""
	for _, sec := range s.Sections {
		for _, f := range sec.Facts {
			if !slices.Contains(s.Facts, f) { // several stages measure on the same rows
				s.Facts = append(s.Facts, f)
			}
		}
		s.Next = append(s.Next, sec.Next...)
		s.Grids = append(s.Grids, sec.Grids...)
		if sec.Try != "" {
			try, on = sec.Try, sec.TryOn
		}
	}
	slices.SortStableFunc(s.Next, func(a, b report.Command) int {
		switch {
		case a.Asked == b.Asked:
			return 0
		case a.Asked:
			return -1
		}
		return 1
	})
	if try != "" {
		line := "tune chat -m " + report.Shell(try)
		if on != "" {
			line = fmt.Sprintf("tune chat -m %s --adapter %s", report.Shell(on), report.Shell(try))
		}
		s.Next = slices.Insert(s.Next, 0, report.Command{For: "try", Line: line})
	}
}

// details are what only report.html shows.
func (x *run) details(err error) report.Details {
	d := report.Details{Hint: fail.Hint(err), Version: Version, Device: x.dev.Info().Name, Kernels: x.dev.Info().Level, Seed: *x.Seed, Licence: x.licence()}
	for _, j := range x.jobs {
		res := x.done[j.ID]
		if res == nil {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(res.Inputs)) {
			in := res.Inputs[name]
			d.Inputs = append(d.Inputs, report.Input{Stage: j.ID, Name: name, Ref: in.Ref, Why: in.Why, Hash: string(in.SHA256)})
		}
		for _, f := range res.Outputs {
			d.Outputs = append(d.Outputs, report.Output{Name: j.ID + "/" + f.Path, Bytes: f.Bytes, Hash: string(f.SHA256)})
		}
	}
	return d
}

// baseRow is the base model in the table, nil where there is none.
func (x *run) baseRow() *report.Row {
	if x.BaseModel == "" {
		return nil
	}
	return &report.Row{Model: "base", Path: x.BaseModel}
}

// weigh fills in size and bits a weight from the files' headers.
func weigh(r *report.Row) {
	path, err := ResolvePath(r.Path)
	if err != nil {
		return
	}
	f, err := formats.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	var held, weights int64
	r.Bytes = 0
	for _, t := range f.Tensors() {
		r.Bytes += t.Stored()
		if t.Unsupported == "" {
			size := int64(dtype.Size(t.Type, t.Rows(), t.Cols()))
			if !t.Type.Quantized() { // floats may be codes in the file
				size = t.Stored()
			}
			held += size
			weights += t.Elements()
		}
	}
	if !r.Adapter && weights > 0 {
		r.Bits = 8 * float64(held) / float64(weights)
	}
}

// licence is what the base says about itself: general.license of a GGUF, or
// the front matter of a folder's README.md.
func (x *run) licence() string {
	if x.BaseModel == "" {
		return ""
	}
	path, err := ResolvePath(x.BaseModel)
	if err != nil {
		return ""
	}
	r, err := formats.Open(path)
	if err != nil {
		return ""
	}
	defer r.Close()
	return LicenceOf(r)
}

// LicenceOf is what a model says about its licence, "" where it says nothing.
func LicenceOf(r formats.Reader) string {
	for _, kv := range r.KV() {
		if s, ok := kv.Value.(string); ok && (kv.Key == "general.license" || kv.Key == "general.license.name") {
			return s
		}
	}
	readme, err := r.File("README.md")
	if err != nil {
		return ""
	}
	return frontMatter(string(readme), "license")
}

// frontMatter reads one plain key of a model card's YAML header.
func frontMatter(card, key string) string {
	rest, ok := strings.CutPrefix(card, "---\n")
	if !ok {
		return ""
	}
	head, _, ok := strings.Cut(rest, "\n---")
	if !ok {
		return ""
	}
	for line := range strings.SplitSeq(head, "\n") {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.Trim(strings.TrimSpace(v), `"'`)
		}
	}
	return ""
}
