package lora

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// Write writes the adapter as a PEFT folder, which appears whole or not at all. made
// says in the model card where it comes from; files go into the folder, too.
func (f *Folder) Write(dir, made string, files map[string][]byte) error {
	file := fileOf(f.Config, f.Base, nil, nil)
	if f.task != "" {
		file.TaskType = &f.task
	}
	conf, err := file.encode()
	if err != nil {
		return err
	}
	a := &formats.Adapter{Config: conf}
	for _, name := range slices.Sorted(maps.Keys(f.tensors)) {
		t := f.tensors[name]
		a.Tensors = append(a.Tensors, formats.NamedTensor{Name: prefix + name, DType: "F32", Shape: t.shape, Data: kernels.Bytes(t.data)})
	}
	notes, err := json.MarshalIndent(f.Notes, "", "  ")
	if err != nil {
		return err
	}
	files = maps.Clone(files)
	if files == nil {
		files = map[string][]byte{}
	}
	files["README.md"] = fmt.Appendf(nil, "---\nbase_model: %s\nbase_model_relation: adapter\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- lora\n---\n\n# LoRA adapter\n\n%s\n", f.Base, made)
	files[notesFile] = append(notes, '\n')
	return formats.WriteAdapter(dir, a, files)
}

// Layers is the number of matrices that the adapter has one for; an adapter of experts
// counts once.
func (f *Folder) Layers() int {
	n := 0
	for name := range f.tensors {
		for _, end := range endings {
			if strings.HasSuffix(name, end[0]) {
				n++
			}
		}
	}
	return n
}
