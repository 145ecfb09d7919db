package formats

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
)

const (
	maxShards   = 10_000
	indexName   = ".safetensors.index.json"
	pickleIndex = "pytorch_model.bin.index.json"
)

// folder opens a Hugging Face model or adapter folder.
func (a *artifact) folder() error {
	if err := a.readConfig(); err != nil {
		return err
	}
	base, err := a.weights()
	if err != nil {
		return err
	}
	var arrays []array
	if strings.HasSuffix(base, ".index.json") {
		arrays, err = a.sharded(base)
	} else {
		arrays, err = a.shard(base)
	}
	if err != nil {
		return err
	}
	a.tensors, err = a.logical(arrays)
	return err
}

func (a *artifact) readConfig() error {
	path := filepath.Join(a.dir, "config.json")
	b, err := smallFile(path, maxConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	a.config = FiniteJSON([]byte(strings.TrimPrefix(string(b), "\ufeff")))
	_, err = parseObject(path, a.config)
	return err
}

// weights finds the file with the tensors, or the index of several.
func (a *artifact) weights() (string, error) {
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		return "", openError(a.dir, err)
	}
	var tensors, pickles []string
	have := map[string]bool{}
	for _, e := range entries {
		have[e.Name()] = true
		if strings.HasSuffix(e.Name(), ".safetensors") {
			tensors = append(tensors, e.Name())
		} else if isPickle(e.Name()) && !e.IsDir() {
			pickles = append(pickles, e.Name())
		}
	}
	const single, index = "model.safetensors", "model" + indexName
	if have[single] && have[index] {
		return a.oneOf(single, index, have)
	}
	for _, name := range []string{index, single, adapterWeights} {
		if have[name] {
			return name, nil
		}
	}
	switch {
	case len(tensors) == 1:
		return tensors[0], nil
	case len(tensors) > 1:
		return "", unsupported(a.dir, "name one of the files, or add model.safetensors.index.json", "there are %d safetensors files and no index: %s", len(tensors), list(tensors))
	}
	return a.pickles(pickles, have)
}

// pickles finds the weights of a folder that has no safetensors.
func (a *artifact) pickles(names []string, have map[string]bool) (string, error) {
	const single = "pytorch_model.bin"
	if have[single] && have[pickleIndex] {
		return a.oneOf(single, pickleIndex, have)
	}
	for _, name := range []string{pickleIndex, single, adapterPickle} {
		if have[name] {
			return name, nil
		}
	}
	names = slices.DeleteFunc(names, func(name string) bool { // what trainers put beside weights
		stem, _, _ := strings.Cut(name, ".")
		return slices.Contains([]string{"training_args", "optimizer", "scheduler", "scaler"}, stem) || strings.HasPrefix(stem, "rng_state") || strings.HasPrefix(stem, "random_states")
	})
	switch own := slices.IndexFunc(names, func(name string) bool { return strings.HasPrefix(name, "consolidated.") }); {
	case own >= 0:
		return "", unsupported(filepath.Join(a.dir, names[own]), "take the model's folder for Transformers, or convert it with Transformers' convert_llama_weights_to_hf.py",
			"this is the layout of Meta's own program (consolidated.00.pth, params.json), whose names and parts are others; it is not read")
	case len(names) == 1:
		return names[0], nil
	case len(names) > 1:
		return "", unsupported(a.dir, "name one of the files, or add "+pickleIndex, "there are no safetensors, and %d files of PyTorch without an index: %s", len(names), list(names))
	}
	if files, _ := fs.Glob(os.DirFS(a.dir), "*.gguf"); len(files) > 0 {
		return "", fail.Inputf(a.dir, "name one of them: "+filepath.Join(a.dir, files[0]), "this folder holds GGUF files, each a model of its own: %s", list(files))
	}
	return "", fail.Inputf(a.dir, "a model folder holds config.json and model.safetensors (or model.safetensors.index.json), or pytorch_model.bin", "no safetensors file in this folder")
}

// HasWeights reports whether a folder has files of weights, of any name.
func HasWeights(dir string) bool {
	entries, _ := os.ReadDir(dir)
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool { return IsWeights(e.Name()) })
}

// IsWeights reports whether a file's name is one that weights of a folder have.
func IsWeights(name string) bool {
	return strings.HasSuffix(name, ".safetensors") || isPickle(name) && !strings.HasPrefix(name, "training_args")
}

// oneOf chooses between a single file and an index. Other programs do not agree
// on which of two whole sets counts, so that both there is an error; an index
// without any of its files is left over, and one that names the single file is
// of one set.
func (a *artifact) oneOf(single, index string, have map[string]bool) (string, error) {
	of, _, err := readIndex(filepath.Join(a.dir, index))
	if err != nil {
		return "", err
	}
	var shards []string
	for _, file := range of {
		if file == single {
			return index, nil
		}
		if have[file] && !slices.Contains(shards, file) {
			shards = append(shards, file)
		}
	}
	if len(shards) == 0 {
		return single, nil
	}
	slices.Sort(shards)
	return "", unsupported(a.dir, "remove the one that is out of date", "two sets of weights: %s, and %s with %s", single, index, list(shards))
}

// list names at most 20.
func list(names []string) string {
	if len(names) > 20 {
		return strings.Join(names[:20], ", ") + fmt.Sprintf(" and %d more", len(names)-20)
	}
	return strings.Join(names, ", ")
}

// shard opens one file of the folder.
func (a *artifact) shard(name string) ([]array, error) {
	s, err := a.add(filepath.Join(a.dir, name))
	if err != nil {
		return nil, err
	}
	if isPickle(name) {
		arrays, skipped, err := pytorch(s)
		a.warnings = append(a.warnings, skipped...)
		return arrays, err
	}
	arrays, meta, err := safetensors(s)
	a.meta = append(a.meta, meta...)
	if a.kv == nil {
		a.kv = meta
	}
	return arrays, err
}

// sharded opens the files an index names and checks that both agree.
func (a *artifact) sharded(index string) ([]array, error) {
	path := filepath.Join(a.dir, index)
	of, total, err := readIndex(path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, f := range of {
		files = append(files, f)
	}
	slices.Sort(files)
	files = slices.Compact(files)
	if len(files) > maxShards {
		return nil, tooBig(path, "weight_map names %d files, allowed are %d", len(files), maxShards)
	}
	if err := a.missing(path, files); err != nil {
		return nil, err
	}
	var all []array
	seen := map[string]string{}
	var bytes int64
	for _, f := range files {
		arrays, err := a.shard(f)
		if err != nil {
			return nil, err
		}
		for i := range arrays {
			name := arrays[i].name
			if other, dup := seen[name]; dup {
				return nil, corrupt(path, "tensor %s lies in %s and in %s", quote(name), other, f)
			}
			seen[name] = f
			if want, ok := of[name]; !ok {
				return nil, corrupt(path, "%s holds tensor %s, which weight_map does not list", f, quote(name))
			} else if want != f {
				return nil, corrupt(path, "weight_map puts tensor %s in %s, it lies in %s", quote(name), want, f)
			}
		}
		bytes += storageBytes(arrays)
		all = append(all, arrays...)
	}
	if len(seen) != len(of) {
		for _, name := range slices.Sorted(maps.Keys(of)) {
			if _, ok := seen[name]; !ok {
				return nil, corrupt(path, "weight_map puts tensor %s in %s, which has none of this name", quote(name), of[name])
			}
		}
	}
	if total >= 0 && total != bytes {
		a.warnings = append(a.warnings, fmt.Sprintf("%s: metadata.total_size is %d, the tensors take %d bytes", index, total, bytes))
	}
	return all, nil
}

// missing reports the files of an index that are not there.
func (a *artifact) missing(index string, files []string) error {
	var gone []string
	for _, f := range files {
		if _, err := os.Stat(filepath.Join(a.dir, f)); errors.Is(err, fs.ErrNotExist) {
			gone = append(gone, f)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return corrupt(index, "%d of %d files are missing: %s", len(gone), len(files), list(gone))
}

// readIndex returns the file of every tensor and metadata.total_size, -1 when
// absent.
func readIndex(path string) (map[string]string, int64, error) {
	b, err := smallFile(path, maxSmall)
	if err != nil {
		return nil, 0, err
	}
	p := newJSON(path, string(b))
	var of map[string]string
	total := int64(-1)
	err = p.object(func(key string) error {
		switch key {
		case "weight_map":
			of = map[string]string{}
			return p.object(func(tensor string) error {
				file, err := p.str()
				if err == nil && !plainName(file) {
					err = corrupt(path, "weight_map puts tensor %s in %s, which is no plain file name", quote(tensor), quote(file))
				}
				of[tensor] = file
				return err
			})
		case "metadata":
			return p.object(func(k string) error {
				v, err := p.value()
				if n, ok := sizeOf(v); ok && k == "total_size" {
					total = n
				}
				return err
			})
		}
		return p.skip()
	})
	if err == nil {
		err = p.end()
	}
	if err == nil && of == nil {
		err = corrupt(path, "it has no weight_map")
	}
	return of, total, err
}
