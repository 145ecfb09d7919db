package formats

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

// Adapter is a PEFT adapter folder: adapter_config.json and its tensors.
type Adapter struct {
	Config  []byte // adapter_config.json, checked as all JSON of files is
	File    string // where the tensors lie: adapter_model.safetensors, or adapter_model.bin where that is not there
	Tensors []NamedTensor
}

const (
	adapterConfig  = "adapter_config.json"
	adapterWeights = "adapter_model.safetensors"
	adapterPickle  = "adapter_model.bin"
)

// ReadAdapter reads a PEFT folder.
func ReadAdapter(dir string) (*Adapter, error) {
	config, err := smallFile(filepath.Join(dir, adapterConfig), maxConfig)
	if err != nil {
		return nil, err
	}
	if _, err := parseObject(filepath.Join(dir, adapterConfig), config); err != nil {
		return nil, err
	}
	file := adapterWeights
	tensors, _, err := ReadSafetensors(filepath.Join(dir, file))
	if errors.Is(err, fs.ErrNotExist) {
		if _, e := os.Stat(filepath.Join(dir, adapterPickle)); e == nil {
			file = adapterPickle
			tensors, err = readPickle(filepath.Join(dir, file))
		}
	}
	if err != nil {
		return nil, err
	}
	return &Adapter{Config: config, File: file, Tensors: tensors}, nil
}

// WriteAdapter writes a PEFT folder atomically, with further files (README.md).
func WriteAdapter(dir string, a *Adapter, files map[string][]byte) error {
	if err := checkJSON(adapterConfig, a.Config); err != nil {
		return err
	}
	d, err := atomic.Dir(dir)
	if err != nil {
		return err
	}
	defer d.Abort()
	if err := WriteSafetensors(filepath.Join(d.Temp(), adapterWeights), a.Tensors, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	if err := d.WriteFile(adapterConfig, a.Config); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !plainName(name) || name == adapterConfig || name == adapterWeights {
			return fail.Inputf(dir, "", "file name %s cannot be used in the folder", quote(name))
		}
		if err := d.WriteFile(name, files[name]); err != nil {
			return err
		}
	}
	return d.Commit()
}
