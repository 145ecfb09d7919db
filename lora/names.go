package lora

import (
	"regexp"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
)

// wrappers are modules that training puts around others. They stay in the names
// of a state that was saved while they were there.
var wrappers = []string{"_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module."}

// adapterName finds the name of the adapter in the name of a tensor of PEFT's
// model in memory, where several adapters can lie side by side. PEFT leaves it
// out when it saves.
var adapterName = regexp.MustCompile(`^(.*\.(?:lora_A|lora_B|modules_to_save))\.([^.]+)(\.(?:weight|bias))$`)

// magnitudeName is the same for the magnitudes of DoRA, which have been a
// parameter and a module.
var magnitudeName = regexp.MustCompile(`^(.*\.lora_magnitude_vector)(?:\.([^.]+?))??(?:\.weight)?$`)

// ownName is the same for adapters of embeddings and the tensors of the kinds that
// are not LoRA, which are
// parameters of the layer itself or of a module in it.
var ownName = func() *regexp.Regexp {
	names := []string{"lora_embedding_[AB]"}
	for _, kind := range KindNames() {
		names = append(names, kinds[kind].stored)
	}
	return regexp.MustCompile(`^(.*\.(?:` + strings.Join(names, "|") + `))\.([^.]+?)(\.weight)?$`)
}()

// sharedName are projections that belong to no layer.
var sharedName = regexp.MustCompile(`^base_model\.(vera_[AB])(?:\.([^.]+))?$`)

// plainName is the name under which PEFT saves a tensor, without its prefix, of
// any of the names that it has in training; adapter is the name of the adapter
// it belongs to, "" where the tensor's has none.
func plainName(where, stored string) (name, adapter string, err error) {
	name = strings.TrimPrefix(stored, "module.")
	for _, w := range wrappers {
		name = strings.ReplaceAll(name, w, "")
	}
	if m := sharedName.FindStringSubmatch(name); m != nil {
		return m[1], m[2], nil
	}
	name, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return "", "", fail.Inputf(where, "", "tensor %s: PEFT's names begin with %s", stored, prefix)
	}
	if m := adapterName.FindStringSubmatch(name); m != nil {
		name, adapter = m[1]+m[3], m[2]
	} else if m := ownName.FindStringSubmatch(name); m != nil && m[2] != "weight" {
		name, adapter = m[1]+m[3], m[2]
	} else if m := magnitudeName.FindStringSubmatch(name); m != nil {
		name, adapter = m[1], m[2]
	}
	return strings.Replace(name, ".modules_to_save.", ".", 1), adapter, nil
}
