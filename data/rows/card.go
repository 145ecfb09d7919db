package rows

import (
	"bytes"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/formats/fail"
)

// cardConfig is one of the configurations that the card (README.md) of a dataset of
// the hub lists: patterns of files below its folder, or below one in it, in one of several
// forms, by split. Without patterns all files there are meant.
type cardConfig struct {
	Name    string    `yaml:"config_name"`
	Default bool      `yaml:"default"`
	Dir     string    `yaml:"data_dir"`
	Files   yaml.Node `yaml:"data_files"`
}

// pattern is one of the patterns of a configuration, and the split that its files are of.
type pattern struct{ split, glob string }

// maxCard is how much of a card is read.
const maxCard = 1 << 20

// readCard returns the configurations of the card of a folder; none where it has no
// card, or one that lists no files.
func readCard(root string) []cardConfig {
	f, err := os.Open(filepath.Join(root, "README.md"))
	if err != nil {
		return nil
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxCard))
	if err != nil {
		return nil
	}
	head, ok := bytes.CutPrefix(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), []byte("---\n"))
	end := bytes.Index(head, []byte("\n---"))
	if !ok || end < 0 {
		return nil
	}
	var card struct {
		Configs []cardConfig `yaml:"configs"`
	}
	if err := yaml.Unmarshal(head[:end+1], &card); err != nil {
		return nil
	}
	return card.Configs
}

// patterns lists those of a configuration, none where they have another form than "a.csv",
// [a.csv, b.csv], [{split: train, path: a.csv}] or {train: a.csv}.
func (c *cardConfig) patterns() []pattern {
	list := []pattern{{"", "**"}}
	if c.Files.Kind != 0 && c.Files.Tag != "!!null" {
		list = c.listed()
	}
	for i := range list {
		list[i].glob = path.Join(c.Dir, list[i].glob)
	}
	return list
}

// listed are the patterns of data_files.
func (c *cardConfig) listed() (out []pattern) {
	texts := func(n *yaml.Node) []string {
		var one string
		var list []string
		if n.Kind == 0 {
			return nil
		}
		if n.Decode(&one) == nil {
			return []string{one}
		}
		_ = n.Decode(&list) // another form has none
		return list
	}
	switch c.Files.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(c.Files.Content); i += 2 {
			for _, g := range texts(c.Files.Content[i+1]) {
				out = append(out, pattern{c.Files.Content[i].Value, g})
			}
		}
		return out
	case yaml.SequenceNode:
		for _, n := range c.Files.Content {
			var entry struct {
				Split string    `yaml:"split"`
				Path  yaml.Node `yaml:"path"`
			}
			if n.Kind != yaml.MappingNode {
				out = append(out, pattern{"", n.Value})
			} else if n.Decode(&entry) == nil {
				for _, g := range texts(&entry.Path) {
					out = append(out, pattern{entry.Split, g})
				}
			}
		}
		return out
	case yaml.ScalarNode:
		return []pattern{{"", c.Files.Value}}
	}
	return nil
}

// folderFiles lists the data files of a folder, those of one configuration where a card
// says so, and tells which of them are of a split.
func folderFiles(root string) (files []string, in func(file, split string) bool, err error) {
	if files, err = walkFiles(root); err != nil {
		return nil, nil, err
	}
	in = func(file, split string) bool { return inSplit(root, file, split) }
	configs := readCard(root)
	if len(configs) == 0 {
		return files, in, nil
	}
	at := slices.IndexFunc(configs, func(c cardConfig) bool { return c.Default || c.Name == "default" })
	if at < 0 && len(configs) > 1 {
		var names, globs []string
		for _, c := range configs {
			for _, p := range c.patterns() {
				globs = append(globs, filepath.Join(root, p.glob))
			}
			names = append(names, c.Name)
		}
		globs = append(globs, root)
		return nil, nil, fail.Inputf(root, "name the files of one: "+globs[0], "README.md lists the configurations %s and no default: their rows do not belong together", strings.Join(names, ", "))
	}
	config := configs[max(at, 0)]
	list := config.patterns()
	if len(list) == 0 {
		return nil, nil, fail.Inputf(root, "name its files: "+filepath.Join(root, "*.parquet"), "README.md: data_files of configuration %q is no pattern, list of patterns, or list of splits with their paths", config.Name)
	}
	splitOf := map[string]string{}
	for _, p := range list {
		if len(words(p.split)) == 0 {
			p.split = ""
		}
		for _, f := range files {
			if rel, err := filepath.Rel(root, f); err == nil && matches(p.glob, filepath.ToSlash(rel)) {
				splitOf[f] = p.split
			}
		}
	}
	files = slices.DeleteFunc(files, func(f string) bool { _, ok := splitOf[f]; return !ok })
	return files, func(file, split string) bool {
		if s := splitOf[file]; s != "" {
			return s == split || words(s)[0] == split // train_sft is of train
		}
		return inSplit(filepath.Join(root, config.Dir), file, split)
	}, nil
}

// matches tells whether a path with slashes fits a pattern, in which ** stands for any
// number of folders.
func matches(glob, name string) bool {
	parts := strings.Split(name, "/")
	fits := make([]bool, len(parts)+1) // the pattern so far fits the first so many parts
	fits[0] = true
	for _, g := range strings.Split(path.Clean(glob), "/") {
		next := make([]bool, len(fits))
		for i, fit := range fits {
			switch {
			case g == "**":
				next[i] = fit || i > 0 && next[i-1]
			case fit && i < len(parts):
				ok, err := path.Match(g, parts[i])
				next[i+1] = ok && err == nil
			}
		}
		fits = next
	}
	return fits[len(parts)]
}
