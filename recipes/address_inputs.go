package recipes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/tunekit/tunekit/data/rows"
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
	if ref.Kind == DataRef && !exists(path) { // rows are read in the same order: a name before a pattern
		if files, err := filepath.Glob(path); err == nil && len(files) > 0 {
			return x.hashes.glob(path, files)
		}
	}
	h, err := x.hashes.tree(path)
	if err != nil {
		return "", x.missing(path, "", ref.Kind, err)
	}
	if st, err := os.Stat(path); err == nil && !st.IsDir() && ref.Kind == DataRef {
		h = addressOf("file", rows.Ext(path), map[string]Digest{"": h}, nil) // the ending is the format
	}
	return h, nil
}

// glob hashes files by their names below the pattern's fixed part: splits
// and formats go by them, and so does the order of rows.
func (h *hashes) glob(pattern string, files []string) (Digest, error) {
	root := filepath.Dir(pattern)
	for strings.ContainsAny(root, "*?[\\") {
		root = filepath.Dir(root)
	}
	all := map[string]Digest{}
	for _, f := range files {
		sum, err := h.tree(f)
		if err != nil {
			return "", fail.Inputf(f, "", "%w", err)
		}
		name, err := filepath.Rel(root, f)
		if err != nil {
			return "", fail.Inputf(f, "", "%w", err)
		}
		all[filepath.ToSlash(name)] = sum
	}
	return addressOf("glob", nil, all, nil), nil
}

// ContentHash is the hash of what is at a path or reference, outside a run.
func ContentHash(path string) (Digest, error) {
	local, err := ResolvePath(path)
	if err != nil {
		return "", err
	}
	h := &hashes{Seen: map[string]seenFile{}}
	sum, err := h.tree(local)
	if errors.Is(err, fs.ErrNotExist) {
		if files, _ := filepath.Glob(local); len(files) > 0 {
			return h.glob(local, files)
		}
	}
	if err != nil {
		return "", fail.Inputf(path, "", "%w", err)
	}
	return sum, nil
}

// JobAddress is the address of what a command does as a stage of kind would: the
// options, the content of its inputs (paths by name), the device, and env for what
// a stage would say elsewhere.
func JobAddress(kind *Kind, opts any, inputs map[string]string, device string, env map[string]string) (Digest, error) {
	a := &Addresser{Env: env, hashes: &hashes{Seen: map[string]seenFile{}}}
	a.Env["device"], a.Env["level"], _ = strings.Cut(device, "/")
	in := map[string]Digest{}
	for name, path := range inputs {
		var err error
		if in[name], err = ContentHash(path); err != nil {
			return "", err
		}
	}
	return addressOf(kind.Name, kind.Address(a, opts), in, a.Env), nil
}

// missing says where a file was looked for; key is what names it, "" where that is
// not known.
func (x *run) missing(path, key string, kind RefKind, err error) error {
	abs, aerr := filepath.Abs(path)
	if aerr != nil {
		abs = path
	}
	text := fmt.Sprintf("no such file (tried %s)", abs)
	if key != "" {
		text += fmt.Sprintf(", which %s: %s names", x.path, key)
	}
	hint := x.besideHint(path, kind)
	if !errors.Is(err, fs.ErrNotExist) {
		return fail.Inputf(path, hint, "%s: %w", text, errors.Unwrap(err))
	}
	return fail.Inputf(path, hint, "%s", text)
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
				key := j.ID + "." + in.Name
				if in.Ref.Why == baseModel {
					key = baseModel
				}
				return x.missing(path, key, in.Ref.Kind, err)
			}
		}
	}
	return nil
}

// besideHint notices a file that lies beside the recipe instead.
func (x *run) besideHint(path string, kind RefKind) string {
	p := filepath.Join(filepath.Dir(x.path), path)
	if _, err := os.Stat(p); err == nil && !filepath.IsAbs(path) {
		return "it lies beside the recipe: paths are relative to the working directory, write " + p
	}
	switch {
	case strings.Contains(path, "$"):
		return "variables are not put in: write the path out, or give it by --set"
	case hubName.MatchString(path) && kind == DataRef:
		return "paths are relative to the working directory; data sets of a hub are not fetched: download its Parquet files and name their folder"
	case hubName.MatchString(path):
		return fmt.Sprintf("paths are relative to the working directory; a model of the hub is hf://%[1]s, after tune pull hf://%[1]s", path)
	}
	return "paths are relative to the working directory"
}

// hubName is what a repository of the hub is called: org/name.
var hubName = regexp.MustCompile(`^[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w-]*(\.\d[\w-]*)*$`)
