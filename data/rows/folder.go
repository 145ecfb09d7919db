package rows

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/tunekit/tunekit/formats/fail"
)

// Files expands a path (file, folder or glob) to the data files in it, in
// order. split, when not empty, keeps those whose name or folder says so
// ("train-00000-of-00002.parquet", "gsm8k-test.arrow", "test/a.jsonl"). Of a
// folder that holds other splits beside train, train is taken where none is
// asked for; of a pattern all are taken. note says so, and is "" otherwise. What `datasets` saved with
// save_to_disk is read by its own list of files, and of a dataset of the hub the files
// that its card lists.
func Files(path, split string) (files []string, note string, err error) {
	root := ""
	in := func(file, split string) bool { return inSplit(root, file, split) }
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.IsDir():
		files, root = []string{path}, filepath.Dir(path)
	case err == nil:
		root = path
		files, in, err = folderFiles(path)
	case strings.ContainsAny(path, "*?["):
		files, err = filepath.Glob(path)
	default:
		return nil, "", missing(path)
	}
	if err != nil {
		return nil, "", FileError(path, err)
	}
	if len(files) == 0 {
		return nil, "", fail.Inputf(path, "data files end in "+rowFormats, "no data file matches")
	}
	slices.Sort(files)
	for _, f := range files {
		if st, err := os.Stat(f); err == nil {
			if err := regular(f, st); err != nil {
				return nil, "", err
			}
		}
	}
	if split == "" {
		if root == path {
			files, note = trainOnly(root, files, in)
		} else if _, several := trainOnly(root, files, in); several != "" { // of a pattern each file was asked for
			note = path + ": files of several splits are all used; split: train takes one"
		}
		return files, note, nil
	}
	all := files
	files = slices.DeleteFunc(slices.Clone(all), func(f string) bool { return !in(f, split) })
	if len(files) == 0 {
		return nil, "", fail.Inputf(path, "split takes files named "+split+"*.parquet or in a folder "+split,
			"none of %d files belongs to split %q (first: %s)", len(all), split, all[0])
	}
	return files, "", nil
}

// regular refuses pipes and devices, which may end never and can be read but once.
func regular(path string, st fs.FileInfo) error {
	if st.IsDir() || st.Mode().IsRegular() {
		return nil
	}
	return fail.Inputf(path, "it is read more than once: write it to a file", "it is no regular file")
}

// splits are the names that data sets give their parts.
var splits = []string{"train", "validation", "valid", "val", "dev", "test", "eval"}

// HeldOut is the split of a folder that a training on its split train
// may be measured on: "" where not all of its files are parts of splits, or only one is.
func HeldOut(path string) string {
	st, err := os.Stat(path)
	if err != nil || !st.IsDir() {
		return ""
	}
	files, in, err := folderFiles(path)
	if err != nil {
		return ""
	}
	if _, note := trainOnly(path, files, in); note == "" {
		return ""
	}
	i := slices.IndexFunc(splits[1:], func(s string) bool {
		return slices.ContainsFunc(files, func(f string) bool { return in(f, s) })
	})
	return splits[1+i]
}

// trainOnly keeps the split train of a folder that has another one, too: a model
// must not learn by accident what it is tested on.
func trainOnly(root string, all []string, in func(file, split string) bool) (files []string, note string) {
	others := ""
	for _, f := range all {
		if in(f, "train") {
			files = append(files, f)
		} else if i := slices.IndexFunc(splits, func(s string) bool { return in(f, s) }); i >= 0 {
			others = splits[i]
		} else {
			return all, "" // its files are no splits
		}
	}
	if len(files) == 0 || others == "" {
		return all, ""
	}
	return files, fmt.Sprintf("%s: %d of %d files are of split train and used; split: %s takes others", root, len(files), len(all), others)
}

// inSplit tells by its name, or a folder below root ("": any), whether a file
// belongs to a split.
func inSplit(root, file, split string) bool {
	dir := filepath.Dir(file)
	if rel, err := filepath.Rel(root, dir); root != "" && err == nil {
		dir = rel
	}
	if slices.Contains(strings.Split(filepath.ToSlash(dir), "/"), split) {
		return true
	}
	base := filepath.Base(file)
	if rest, ok := strings.CutPrefix(base, split); ok && (rest == "" || strings.ContainsAny(rest[:1], "-_.")) {
		return true
	}
	named := words(strings.TrimSuffix(base, filepath.Ext(base)))
	first := slices.IndexFunc(named, func(w string) bool { return w == split || slices.Contains(splits, w) })
	return first >= 0 && named[first] == split
}

// words are the parts of a name between its signs.
func words(name string) []string {
	return strings.FieldsFunc(name, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
}

// Files of data sets that hold no rows.
var (
	datasetFiles = []string{"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "readme.md", "readme.txt", "license.md", "license.txt"}
	cachePrefix  = "cache-" // of what `datasets` keeps beside its files
)

// walkFiles lists the data files below a folder; hidden names are left out, and
// so are those that describe a data set.
func walkFiles(root string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		hidden := p != root && strings.HasPrefix(d.Name(), ".")
		switch {
		case d.IsDir() && hidden:
			return filepath.SkipDir
		case d.IsDir():
			saved, err := savedFiles(p)
			if err != nil || saved == nil {
				return err
			}
			files = append(files, saved...)
			return filepath.SkipDir
		case !hidden && known(p) && !describes(p):
			files = append(files, p)
		}
		return nil
	})
	return files, err
}

// describes reports a file that describes a data set or is derived from one.
func describes(path string) bool {
	name := strings.ToLower(filepath.Base(path))
	if name == "dataset.json" { // of a folder with tokens, as data.SaveArrow writes it
		_, err := os.Stat(filepath.Join(filepath.Dir(path), "train.arrow"))
		return err == nil
	}
	return slices.Contains(datasetFiles, name) || strings.HasPrefix(name, cachePrefix) && filepath.Ext(name) == ".arrow"
}

// savedFiles are the files of a folder that Dataset.save_to_disk wrote, nil for
// any other: state.json lists them.
func savedFiles(dir string) ([]string, error) {
	path := filepath.Join(dir, "state.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil // it is none
	}
	var state struct {
		Data []struct {
			Name string `json:"filename"`
		} `json:"_data_files"`
		Indices []any `json:"_indices_data_files"`
		Index   []any `json:"_indices_files"`
	}
	if err := json.Unmarshal(text, &state); err != nil || len(state.Data) == 0 {
		return nil, nil // of another program
	}
	if len(state.Indices)+len(state.Index) > 0 {
		return nil, fail.Inputf(path, "call flatten_indices() before save_to_disk", "the data set is a selection of rows by a file of indices, which is not read")
	}
	var out []string
	for _, f := range state.Data {
		if f.Name == "" || f.Name != filepath.Base(f.Name) {
			return nil, fail.Inputf(path, "", "_data_files names %q, which is no file of this folder", f.Name)
		}
		out = append(out, filepath.Join(dir, f.Name))
	}
	return out, nil
}
