package recipes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
)

// Addresser is what a kind may add to a stage's address beside its options.
type Addresser struct {
	Env    map[string]string // what the results depend on besides options and inputs
	hashes *hashes
}

// Hash is the hash of a file's content.
func (a *Addresser) Hash(path string) (Digest, error) { return a.hashes.sum(path) }

// address computes a stage's content address and lists its inputs.
func (x *run) address(j *Job) (*Result, error) {
	res := &Result{Stage: j.ID, Kind: j.Kind.Name, Inputs: map[string]Source{}}
	in := map[string]Digest{}
	for _, i := range j.Inputs {
		var h Digest
		if i.Ref.Stage != "" {
			if h = x.addr[i.Ref.Stage]; i.Ref.Member != "" {
				h += Digest("/" + i.Ref.Member)
			}
		} else {
			var err error
			if h, err = x.contentOf(i.Ref); err != nil {
				return nil, err
			}
			if was, ok := x.inputs[i.Ref.Path]; ok && was != h && i.Ref.Kind != DataRef { // data has splits
				return nil, fail.Inputf(i.Ref.Path, "run the recipe again: the stages that read it before are made anew", "changed while the recipe ran: stage %s would read other content than a stage before it", j.ID)
			}
			x.inputs[i.Ref.Path] = h
		}
		in[i.Name] = h
		res.Inputs[i.Name] = Source{Ref: i.Ref.String(), Why: i.Ref.Why, SHA256: h}
	}
	a := &Addresser{Env: map[string]string{"seed": fmt.Sprint(*x.Seed)}, hashes: x.hashes}
	if !j.Kind.HostOnly {
		a.Env["device"], a.Env["level"], _ = strings.Cut(x.dev.Info().Address, "/")
	}
	res.Address = addressOf(res.Kind, j.Kind.Address(a, j.Options), in, a.Env)
	x.addr[j.ID] = res.Address
	return res, nil
}

// contentOf hashes what a path stands for: a model, a file, a folder or a glob.
func (x *run) contentOf(ref Ref) (Digest, error) {
	path, err := ResolvePath(ref.Path)
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
			if in.Ref.Stage != "" || !x.wanted(j.ID) {
				continue
			}
			path, err := ResolvePath(in.Ref.Path)
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
