package schema

import (
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// program is one that has configuration files of its own, known by any of the
// keys they begin with.
type program struct {
	name  string
	keys  string   // marks: a pattern of a whole top-level key
	hint  string   // what to do with such a file
	parts []string // its top-level sections whose keys have a name here; nil: its top level
	model string   // its word for base_model, where that is another key of a recipe
	whole bool     // the hint is all that can be said of it
}

// Ordered: the first that a file fits is named.
var programs = []program{
	{name: "the config.json of a model", keys: "architectures", whole: true, hint: "tune inspect FOLDER shows the model; a recipe names its folder: base_model"},
	{name: "the configuration of a PEFT adapter", keys: "peft_type", whole: true, hint: "a recipe goes on from such a folder with train: {lora: {init_from: FOLDER}}"},
	{name: "a configuration of mergekit", keys: "merge_method", whole: true, hint: "tune merge-models reads it as it is; so does a stage merge_models: {config: FILE}"},
	{name: "a recipe of llm-compressor", keys: ".*_(stage|modifiers)", whole: true, hint: "here GPTQModifier is quantize: {method: gptq}, AWQModifier awq, SmoothQuantModifier smoothquant and QuantizationModifier rtn, each with a scheme such as W4A16; targets, ignore and num_calibration_samples are overrides, ignore and samples"},
	{name: "a task of lm-eval", keys: "doc_to_text|doc_to_target|output_type", whole: true, hint: "not supported: a stage eval measures perplexity, kl and exact_match on your own rows (tune help recipe.eval)"},
	{name: "a configuration of DeepSpeed", keys: "zero_optimization", whole: true, hint: "not supported: one process trains; offload_optimizer and activation_offloading of train keep memory low"},
	{name: "a configuration of Accelerate", keys: "compute_environment|distributed_type", whole: true, hint: "not supported: one process trains; device, threads and memory_limit are keys of a recipe"},
	{name: "a configuration of torchtune", keys: "checkpointer|metric_logger", parts: []string{"model", "optimizer", "lr_scheduler", "dataset"}},
	{name: "a configuration of unsloth", keys: "training", model: "model", parts: []string{"data", "training", "lora", "logging"}},
	{name: "a configuration of ms-swift", keys: "tuner_type|train_type|rlhf_type", model: "model"},
	{name: "a configuration of LLaMA-Factory", keys: "finetuning_type|cutoff_len|lora_rank|pref_beta|template|export_dir"},
	{name: "a configuration of axolotl", keys: "sequence_len|sample_packing|rl|datasets|lora_model_dir|base_model_config", parts: []string{"datasets", "test_datasets"}},
	{name: "a configuration of TRL or Transformers", keys: "model_name_or_path|dataset_name|per_device_train_batch_size|num_train_epochs"},
}

// ForeignFile notes the problems of a configuration of another program: which it
// is, and for every key with a value what it is called here. It returns false for
// what is, or may become, a recipe.
func (d *Decoder) ForeignFile(root *yaml.Node) (foreign bool) {
	if root.Kind != yaml.MappingNode {
		return false
	}
	problems, merged := len(d.Problems), d.merged
	keys, vals := d.Pairs(root, "")
	defer func() {
		if !foreign { // it is read again, as a recipe
			d.Problems, d.merged = d.Problems[:problems], merged
		}
	}()
	for _, k := range keys {
		if k.Value == "stages" || k.Value == "version" {
			return false
		}
	}
	for _, p := range programs {
		mark := regexp.MustCompile("^(" + p.keys + ")$")
		for _, k := range keys {
			if mark.MatchString(k.Value) {
				d.Problems = nil // of keys given twice
				d.foreignFile(root, keys, vals, p)
				return true
			}
		}
	}
	return false
}

func (d *Decoder) foreignFile(root *yaml.Node, keys, vals []*yaml.Node, p program) {
	hint := p.hint
	if !p.whole {
		hint = "tune init writes a recipe, which begins with version: 1 and has stages; what the keys are called there:"
	}
	d.Bad(root, "", hint, "this is %s, not a recipe of this program", p.name)
	d.Problems[0].Source = "" // the file is what is wrong, not its first line
	if !p.whole {
		said := map[string]bool{}
		for i, k := range keys {
			if k.Value == p.model && Deref(vals[i]).Kind == yaml.ScalarNode {
				said[k.Value] = true
				d.answer(k, k.Value, d.withHome("here it is base_model"))
			}
		}
		d.foreignKeys(keys, vals, "", p.parts, said)
	}
}

// foreignKeys answers keys in a line each, once however often they stand; those of
// the sections named in parts, too.
func (d *Decoder) foreignKeys(keys, vals []*yaml.Node, path string, parts []string, said map[string]bool) {
	for i, k := range keys {
		v, at := Deref(vals[i]), Join(path, k.Value)
		if IsNull(v) {
			continue // templates of other programs are full of them
		}
		if slices.Contains(parts, k.Value) && (v.Kind == yaml.MappingNode || v.Kind == yaml.SequenceNode) {
			items := []*yaml.Node{v}
			if v.Kind == yaml.SequenceNode {
				items = v.Content
			}
			for _, it := range items {
				if it = Deref(it); it.Kind == yaml.MappingNode {
					ks, vs := d.Pairs(it, at)
					d.foreignKeys(ks, vs, at, nil, said)
				}
			}
			continue
		}
		if said[at] {
			continue
		}
		said[at] = true
		d.answer(k, at, d.nameHere(k.Value, path))
	}
}

// answer is a problem of one line.
func (d *Decoder) answer(k *yaml.Node, at, text string) {
	d.Bad(k, "", "", "%s: %s", at, text)
	d.Problems[len(d.Problems)-1].Source = ""
}

// nameHere says what a key of another program is called in a recipe.
func (d *Decoder) nameHere(key, section string) string {
	if _, hint, ok := Foreign(key); ok {
		return d.withHome(hint)
	}
	homes := d.Homes[key]
	switch {
	case strings.HasSuffix(section, "datasets"): // path, type and name are keys of other sections, too
		for _, h := range homes {
			if h == "ingest.datasets" || h == "ingest" {
				return "the same, a key of " + h
			}
		}
		return "not supported"
	case len(homes) == 0:
		return "not supported"
	}
	return "the same, a key of " + homeOf(homes)
}

// withHome adds to a hint "here it is KEY…" which sections have the key.
func (d *Decoder) withHome(hint string) string {
	key, ok := strings.CutPrefix(hint, "here it is ")
	if !ok {
		return hint
	}
	if end := strings.IndexAny(key, ":, "); end >= 0 {
		key = key[:end]
	}
	if homes := d.Homes[key]; len(homes) > 0 {
		hint += ", a key of " + homeOf(homes)
	}
	return hint
}

// homeOf names the sections that have a key: where trainings and rows are set up
// if one of these is among many.
func homeOf(sections []string) string {
	if len(sections) > maxHomes {
		for _, s := range []string{"train", "ingest", "quantize"} {
			if slices.Contains(sections, s) {
				return s
			}
		}
		sections = sections[:maxHomes]
	}
	return strings.Join(sections, ", ")
}
