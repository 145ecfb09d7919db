package cli

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
)

// made is what is remembered of an output of a batch in the user's cache, where the
// output has no room for it: what it was made of, and which files it was then.
type made struct {
	Output  string         `json:"output"`
	Address recipes.Digest `json:"address"`
	Stamp   string         `json:"stamp"` // names, sizes and times of its files
}

// besideResults are flags that change no byte of an output.
var besideResults = []string{"verbose", "model", "output", "force", "shard", "summary", "device", "threads", "memory-limit", "json", "quiet"}

// remembering is the jobs of a batch, of which those that were done before with the same
// flags on the same models and files are left out. An output that is there and was made
// otherwise, or has changed since, is an error of the job itself.
func remembering(c *ucli.Context, many bool, one func(task) (*outcome, error)) func(task) (*outcome, error) {
	if !many || c.Bool("dry-run") {
		return one
	}
	return func(t task) (*outcome, error) {
		var address recipes.Digest
		var err error
		record := recordOf(t.Output)
		if _, there := os.Lstat(madeAt(c, t.Output)); there == nil && !c.Bool("force") {
			var old made
			raw, rerr := os.ReadFile(record)
			if rerr == nil && json.Unmarshal(raw, &old) == nil && old.Stamp == stampOf(madeAt(c, t.Output)) {
				if address, err = addressOfTask(c, t); err != nil {
					return nil, err
				}
				if old.Address == address {
					fmt.Fprintln(c.App.ErrWriter, t.Output+": done already")
					return nil, nil
				}
				return nil, fail.Usagef(t.Output, "--force replaces it", "already exists, made of another model, with other options, kernels or another version")
			}
		}
		o, err := one(t)
		if err != nil {
			return o, err
		}
		if address, err = addressOfTask(c, t); err != nil {
			return o, err
		}
		raw, err := json.Marshal(made{t.Output, address, stampOf(madeAt(c, t.Output))})
		if err != nil {
			return o, err
		}
		// Without it the next batch only says that the output exists.
		if err := atomic.MkdirAll(filepath.Dir(record)); err == nil {
			_ = atomic.WriteFile(record, raw)
		}
		return o, nil
	}
}

// addressOfTask is what an output is made of: the command with its flags, the model,
// the files that other flags name, and the kernels.
func addressOfTask(c *ucli.Context, t task) (recipes.Digest, error) {
	dev, err := openDevice(c)
	if err != nil {
		return "", err
	}
	defer dev.Close()
	in, env := map[string]string{"model": t.Model}, map[string]string{"name": nameOf(t.Model)}
	for _, f := range c.Command.Flags {
		name := f.Names()[0]
		switch {
		case !c.IsSet(name) || slices.Contains(besideResults, name):
		case slices.Contains(inputFlags, name):
			in[name] = c.String(name)
		case name == "chat-template":
			if env[name], err = templateText(c); err != nil {
				return "", err
			}
		default:
			env[name] = fmt.Sprint(c.Value(name))
		}
	}
	kind := &recipes.Kind{Name: c.Command.Name, Address: func(*recipes.Addresser, any) any { return nil }}
	return recipes.JobAddress(kind, nil, in, dev.Info().Address, env)
}

// recordOf is the file that remembers an output.
func recordOf(output string) string {
	root, err := os.UserCacheDir()
	if err != nil {
		root = os.TempDir()
	}
	return filepath.Join(root, "tunekit", "made", fmt.Sprintf("%.12x.json", sha256.Sum256([]byte(realPath(output)))))
}

// madeAt is where an output lies that a command was asked for: of a GGUF in parts the first part.
func madeAt(c *ucli.Context, output string) string {
	if !c.Bool("keep-split") && !c.IsSet("split-max-size") {
		return output
	}
	prefix := strings.TrimSuffix(output, ".gguf")
	entries, _ := os.ReadDir(filepath.Dir(output))
	for _, e := range entries {
		p := filepath.Join(filepath.Dir(output), e.Name())
		if of, i, _, ok := formats.SplitOf(p); ok && i == 0 && of == filepath.Clean(prefix) {
			return p
		}
	}
	return formats.SplitPath(prefix, 0, 1)
}

// stampOf tells whether an output was touched since: names, sizes and times of what is
// at a path; "" where it cannot be read.
func stampOf(path string) string {
	h := sha256.New()
	for _, part := range formats.Parts(path)[1:] {
		fmt.Fprintln(h, stampOf(part))
	}
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := os.Stat(p)
		if err == nil {
			rel, _ := filepath.Rel(path, p)
			fmt.Fprintln(h, rel, st.Size(), st.ModTime().UnixNano())
		}
		return err
	})
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}
