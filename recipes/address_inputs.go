package recipes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/train"
)

// address computes a stage's content address and lists its inputs.
func (x *run) address(j *Job) (*Result, error) {
	res := &Result{Stage: j.Stage.ID, Kind: j.Stage.Kind(), Inputs: map[string]Source{}}
	in := map[string]digest{}
	for _, i := range j.Inputs {
		var h digest
		if i.Ref.Stage != "" {
			if h = x.addr[i.Ref.Stage]; i.Ref.Member != "" {
				h += digest("/" + i.Ref.Member)
			}
		} else {
			var err error
			if h, err = x.contentOf(i.Ref); err != nil {
				return nil, err
			}
		}
		in[i.Name] = h
		res.Inputs[i.Name] = Source{Ref: i.Ref.String(), Why: i.Ref.Why, SHA256: h}
	}
	env := map[string]string{}
	if k := j.Stage.Kind(); k != "ingest" {
		env["device"], env["level"], _ = strings.Cut(x.dev.Info().Address, "/")
	}
	env["seed"] = fmt.Sprint(x.Seed)
	switch s := j.Stage; {
	case s.Ingest != nil:
		env["clock"] = fmt.Sprint(clock().Unix())
	case s.Eval != nil && s.Eval.Baseline != "": // not an input: it may not be there yet
		h, err := x.hashes.sum(s.Eval.Baseline)
		env["baseline"] = fmt.Sprint(h, err == nil)
	}
	res.Address = addressOf(res.Kind, hashed(j.Stage), in, env)
	x.addr[j.Stage.ID] = res.Address
	return res, nil
}

// contentOf hashes what a path stands for: a model, a file, a folder or a glob.
func (x *run) contentOf(ref Ref) (digest, error) {
	path, err := resolvePath(ref.Path)
	if err != nil {
		return "", err
	}
	if ref.Kind == DataRef {
		files, err := filepath.Glob(path)
		if err == nil && len(files) > 0 && !(len(files) == 1 && files[0] == path) {
			var all []string
			for _, f := range files {
				h, err := x.hashes.tree(f)
				if err != nil {
					return "", fail.Inputf(f, "", "%w", err)
				}
				all = append(all, string(h))
			}
			return addressOf("glob", all, nil, nil), nil
		}
	}
	h, err := x.hashes.tree(path)
	if err != nil {
		return "", x.missing(path, err)
	}
	return h, nil
}

func (x *run) missing(path string, err error) error {
	abs, aerr := filepath.Abs(path)
	if aerr != nil {
		abs = path
	}
	return fail.Inputf(path, x.besideHint(path), "no such file (tried %s): %w", abs, errors.Unwrap(err))
}

// present checks that the files and folders which stages name are there.
func (x *run) present() error {
	for _, j := range x.jobs {
		for _, in := range j.Inputs {
			if in.Ref.Stage != "" || !x.wanted(j.Stage.ID) {
				continue
			}
			path, err := resolvePath(in.Ref.Path)
			if err != nil {
				return err
			}
			if files, err := filepath.Glob(path); err == nil && len(files) > 0 && in.Ref.Kind == DataRef {
				continue
			}
			if _, err := os.Stat(path); err != nil {
				return x.missing(path, err)
			}
		}
	}
	return nil
}

// besideHint notices a file that lies beside the recipe instead.
func (x *run) besideHint(path string) string {
	p := filepath.Join(filepath.Dir(x.path), path)
	if _, err := os.Stat(p); err == nil && !filepath.IsAbs(path) {
		return "it lies beside the recipe: paths are relative to the working directory (-C " + filepath.Dir(x.path) + ")"
	}
	return "paths are relative to the working directory"
}

// hashed is the part of a stage's options that belongs to its address: not the
// names of inputs, whose content is hashed instead, and not checkpoint rhythm.
func hashed(s *Stage) any {
	switch {
	case s.Ingest != nil:
		o := *s.Ingest
		o.Tokenizer = ""
		if !inlineTemplate(o.ChatTemplate) && o.ChatTemplate != "model" {
			o.ChatTemplate = ""
		}
		o.Datasets, o.ValDatasets = withoutPaths(o.Datasets), withoutPaths(o.ValDatasets)
		return o
	case s.Train != nil:
		o := *s.Train
		o.Model, o.Data, o.LoRA.InitFrom = "", "", ""
		o.SaveSteps, o.SaveTotalLimit = train.Every{}, 0
		return o
	case s.Merge != nil:
		o := *s.Merge
		o.Adapter, o.Data = "", ""
		return o
	case s.Quantize != nil:
		o := *s.Quantize
		o.Model, o.Calibration = "", ""
		return o
	case s.Export != nil:
		o := *s.Export
		o.Model, o.Imatrix = "", fmt.Sprint(o.Imatrix != "")
		return o
	default:
		o := *s.Eval
		o.Models, o.Data, o.Reference, o.Baseline = nil, "", "", ""
		return o
	}
}

func withoutPaths(in []data.Source) []data.Source {
	out := slices.Clone(in)
	for i := range out {
		out[i].Path = ""
	}
	return out
}
