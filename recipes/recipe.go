// Package recipes reads a recipe, plans it, and runs its stages into one run
// folder: content-addressed, resumable, with a manifest of every input and
// output. It is the only package that knows all the others.
package recipes

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/quant"
	"github.com/tunekit/tunekit/train"
)

// Recipe is one YAML file.
type Recipe struct {
	Version           int      `yaml:"version" doc:"must be 1"`
	Name              string   `yaml:"name" doc:"name of the run folder" default:"the file's name"`
	BaseModel         string   `yaml:"base_model" doc:"Hugging Face folder, .gguf file or hf://org/name@revision (from the local cache)"`
	Seed              uint64   `yaml:"seed" doc:"seed of every random choice" default:"42"`
	Device            string   `yaml:"device" doc:"where to compute" enum:"auto|cpu|cuda:0" default:"auto"`
	Threads           int      `yaml:"threads" doc:"worker threads; never changes a result" default:"all cores" range:"0..4096"`
	MemoryLimit       Size     `yaml:"memory_limit" doc:"refuse what would need more" default:"0.9 of the available memory"`
	DeviceMemoryLimit Size     `yaml:"device_memory_limit" doc:"the same for the GPU" default:"0.95 of its free memory"`
	FailOn            []string `yaml:"fail_on" doc:"make these an error" enum:"fallback|truncated|dropped|duplicates|unpinned|low_steps"`
	Stages            []Stage  `yaml:"stages" doc:"what to do, in order"`

	path  string
	given map[string]string // paths of the keys that were written, and where
}

// Stage is an id and exactly one kind.
type Stage struct {
	ID       string    `yaml:"id" doc:"folder below the run, and how other stages refer to it" default:"the kind"`
	Ingest   *Ingest   `yaml:"ingest" doc:"rows to tokens"`
	Train    *Train    `yaml:"train" doc:"LoRA, QLoRA or full training"`
	Merge    *Merge    `yaml:"merge" doc:"adapter into weights"`
	Quantize *Quantize `yaml:"quantize" doc:"NF4, GPTQ, AWQ or round-to-nearest folder"`
	Export   *Export   `yaml:"export" doc:"GGUF or safetensors"`
	Eval     *Eval     `yaml:"eval" doc:"perplexity, KL, tasks, speed, gate"`
}

// Ingest turns data files into tokens with a loss mask.
type Ingest struct {
	data.Options `yaml:",inline"`
}

// Train updates weights or adapters.
type Train struct {
	Model        string `yaml:"model" doc:"stage or path to train on" default:"the last dense model above"`
	Data         string `yaml:"data" doc:"ingest stage or file" default:"the only ingest stage"`
	train.Config `yaml:",inline"`
}

// Merge adds an adapter to the weights.
type Merge struct {
	Adapter      string  `yaml:"adapter" doc:"train stage or PEFT folder" default:"the last train stage"`
	Base         string  `yaml:"base" doc:"weights as released, or as held in training" enum:"original|trained" default:"original"`
	MaxKL        float64 `yaml:"max_kl" doc:"largest mean KL between base+adapter and merged" default:"1e-3" range:"0..100"`
	Data         string  `yaml:"data" doc:"text the KL is measured on" default:"the validation part"`
	DType        string  `yaml:"dtype" doc:"stored type" enum:"auto|bf16|f16|f32" default:"that of the base (quantized base: bf16)"`
	MaxShardSize Size    `yaml:"max_shard_size" doc:"bytes a file" default:"5GB"`
	Format       string  `yaml:"format" doc:"file format" enum:"safetensors|gguf" default:"safetensors"`
}

// Quantize writes a quantized folder.
type Quantize struct {
	Model           string  `yaml:"model" doc:"stage or path" default:"the last dense model above"`
	Method          string  `yaml:"method" doc:"how values are chosen" enum:"rtn|gptq|awq|nf4"`
	Scheme          string  `yaml:"scheme" doc:"bits and symmetry" enum:"W4A16|W4A16_ASYM|W8A16|W8A16_ASYM|W3A16|W3A16_ASYM|W2A16|W2A16_ASYM|NF4" default:"gptq, rtn W4A16; awq W4A16_ASYM; nf4 NF4"`
	Format          string  `yaml:"format" doc:"folder layout" enum:"gptq|awq|bitsandbytes|compressed-tensors" default:"the method's own"`
	For             Names   `yaml:"for" doc:"programs that must load it" default:"[transformers, vllm]"`
	GroupSize       Auto    `yaml:"group_size" doc:"columns that share a scale; auto: largest of 128, 64, 32 that divides every row; -1: whole row" default:"auto"`
	ActOrder        string  `yaml:"actorder" doc:"GPTQ column order; group is desc_act, aware orders whole groups" enum:"static|none|group|aware" default:"static"`
	DampPercent     float64 `yaml:"damp_percent" doc:"of the mean Hessian diagonal, raised when needed" default:"0.01" range:"0..1"`
	Calibration     string  `yaml:"calibration" doc:"ingest stage or file" default:"the only ingest stage"`
	Samples         int     `yaml:"samples" doc:"calibration samples" default:"128" range:"1..1000000"`
	MaxLength       int     `yaml:"max_length" doc:"tokens a calibration sample" default:"2048" range:"1..10000000"`
	Ignore          Names   `yaml:"ignore" doc:"modules left as they are: names or re:…" default:"[lm_head]"`
	DoubleQuant     *bool   `yaml:"double_quant" doc:"NF4: quantize the scales too" default:"true"`
	AllowRequantize bool    `yaml:"allow_requantize" doc:"accept a model that is quantized already" default:"false"`
}

// Export writes GGUF or safetensors.
type Export struct {
	Model              string            `yaml:"model" doc:"stage or path" default:"the last dense model above"`
	Format             string            `yaml:"format" doc:"file format" enum:"gguf|safetensors" default:"gguf"`
	Type               Names             `yaml:"type" doc:"one type or a list, one file each" default:"Q4_K_M"`
	Imatrix            string            `yaml:"imatrix" doc:"imatrix file, ingest stage or text file"`
	Samples            int               `yaml:"samples" doc:"samples for the imatrix" default:"64" range:"1..1000000"`
	TensorType         map[string]string `yaml:"tensor_type" doc:"regex on the GGUF name to type"`
	TokenEmbeddingType string            `yaml:"token_embedding_type" doc:"type of the embedding"`
	OutputTensorType   string            `yaml:"output_tensor_type" doc:"type of the head"`
	Pure               bool              `yaml:"pure" doc:"one type for all matrices"`
	AllowRequantize    bool              `yaml:"allow_requantize" doc:"accept a model that is quantized already"`
	For                Names             `yaml:"for" doc:"ollama writes a Modelfile" default:"[]"`
}

// Eval measures models from their own files.
type Eval struct {
	Models       []EvalModel      `yaml:"models" doc:"stages, paths or {name, model, adapter}" default:"all models above"`
	Tasks        Names            `yaml:"tasks" doc:"perplexity, kl, top1, exact_match, speed" default:"[perplexity, kl]"`
	Data         string           `yaml:"data" doc:"ingest stage or file" default:"the validation part"`
	Samples      int              `yaml:"samples" doc:"rows used" default:"all" range:"0..1000000000"`
	Reference    string           `yaml:"reference" doc:"model for kl and top1" default:"what each model was made from"`
	Baseline     string           `yaml:"baseline" doc:"file written by --write-baseline"`
	Context      int              `yaml:"context" doc:"tokens a window" default:"2048, or the model's" range:"2..10000000"`
	Stride       int              `yaml:"stride" doc:"tokens between windows" default:"context" range:"0..10000000"`
	MaxNewTokens int              `yaml:"max_new_tokens" doc:"of a generated answer" default:"256" range:"1..1000000"`
	Temperature  float64          `yaml:"temperature" doc:"0 is greedy" default:"0" range:"0..100"`
	Gate         map[string]Limit `yaml:"gate" doc:"metric to limit" keys:"perplexity|kl|top1|exact_match"`
	Unsure       string           `yaml:"unsure" doc:"what a gate that cannot tell does" enum:"pass|fail" default:"fail"`
}

// EvalModel is one model to measure.
type EvalModel struct {
	Name    string `yaml:"name" doc:"row in the table"`
	Model   string `yaml:"model" doc:"stage or path"`
	Adapter string `yaml:"adapter" doc:"PEFT folder or train stage"`
}

// Limit is one gate.
type Limit struct {
	Max         Bound `yaml:"max" doc:"largest value"`
	Min         Bound `yaml:"min" doc:"smallest value"`
	MaxIncrease Bound `yaml:"max_increase" doc:"over the baseline: 1% relative, 0.01 absolute"`
	MaxDecrease Bound `yaml:"max_decrease" doc:"under the baseline"`
}

func (m *EvalModel) setYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		m.Model = n.Value
		return nil
	}
	type plain EvalModel
	d := decoder{}
	d.decodeStruct(n, reflect.ValueOf((*plain)(m)).Elem(), "")
	if len(d.problems) > 0 {
		return fmt.Errorf("%s", d.problems[0].Msg)
	}
	if m.Model == "" && m.Adapter == "" {
		return fmt.Errorf("a model needs model or adapter")
	}
	return nil
}

// Load reads and checks a recipe file. Every problem is reported at once.
func Load(path string, sets []string) (*Recipe, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		abs, _ := filepath.Abs(path)
		return nil, fail.Usagef(path, "paths are relative to the working directory; tune init --list shows the embedded recipes", "no such recipe (tried %s): %w", abs, err)
	}
	return Parse(path, data, sets)
}

// Parse is Load for a recipe in memory; name is shown in messages.
func Parse(name string, data []byte, sets []string) (*Recipe, error) {
	d := &decoder{place: name, lines: strings.Split(string(data), "\n"), placeOf: map[*yaml.Node]string{}, given: map[string]string{}}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fail.Usagef(name, "", "not YAML: %w", err)
	}
	if len(doc.Content) == 0 {
		return nil, fail.Usagef(name, "a recipe begins with version: 1", "the recipe is empty")
	}
	root := deref(doc.Content[0])
	eachStage(root, func(string, *yaml.Node) {}) // "- merge:" alone is a stage with every default
	for i, s := range sets {
		d.applySet(root, s, fmt.Sprintf("--set #%d", i+1))
	}
	r := &Recipe{path: name, given: d.given}
	d.decodeStruct(root, reflect.ValueOf(r).Elem(), "")
	d.check(root, r)
	if len(d.problems) > 0 {
		return nil, d.problems
	}
	r.defaults()
	return r, nil
}

var idRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// check holds what types cannot say.
func (d *decoder) check(root *yaml.Node, r *Recipe) {
	at := func(key string) *yaml.Node {
		ks, vs := d.pairs(root, "")
		for i, k := range ks {
			if k.Value == key {
				return deref(vs[i])
			}
		}
		return root
	}
	if r.Version != 1 {
		d.bad(at("version"), "version", "write version: 1", "this program reads version 1, found %d", r.Version)
	}
	if len(r.Stages) == 0 {
		d.bad(at("stages"), "stages", "", "no stages")
	}
	list := at("stages")
	seen := map[string]bool{}
	top := fieldsOf(reflect.TypeFor[Recipe]())
	for i := range r.Stages {
		n := list
		if i < len(list.Content) {
			n = deref(list.Content[i])
		}
		d.checkStage(n, &r.Stages[i], seen, top)
	}
}

func (d *decoder) checkStage(n *yaml.Node, s *Stage, seen map[string]bool, top map[string]reflect.StructField) {
	kinds := s.Kinds()
	if len(kinds) != 1 {
		d.bad(n, s.ID, "ingest, train, merge, quantize, export or eval", "a stage has an id and exactly one kind, found %d", len(kinds))
		return
	}
	if s.ID == "" {
		s.ID = kinds[0]
	}
	if !idRE.MatchString(s.ID) {
		d.bad(n, s.ID, "letters, digits, dot, dash and underscore", "%q cannot be a folder name", s.ID)
	}
	if _, ok := top[s.ID]; ok {
		d.bad(n, s.ID, "choose another id: --set would mean the recipe's key", "id %s is a key of the recipe", s.ID)
	}
	if seen[s.ID] {
		d.bad(n, s.ID, "give each an id of its own", "two stages are called %s", s.ID)
	}
	seen[s.ID] = true
	d.required(n, s)
	if t := s.Train; t != nil {
		if _, err := t.Resolve(42); err != nil {
			d.bad(n, s.ID, fail.Hint(err), "%v", err)
		}
	}
}

// required reports fields tagged required that are empty.
func (d *decoder) required(n *yaml.Node, s *Stage) {
	switch {
	case s.Ingest != nil:
		if len(s.Ingest.Datasets) == 0 {
			d.bad(n, s.ID+".datasets", "datasets: [{path: data/train.parquet}]", "no data sets")
		}
		for _, ds := range slices.Concat(s.Ingest.Datasets, s.Ingest.ValDatasets) {
			if ds.Path == "" {
				d.bad(n, s.ID+".datasets", "", "a data set has no path")
			}
		}
	case s.Quantize != nil:
		if s.Quantize.Method == "" && quant.MethodFor(s.Quantize.Scheme) == nil {
			names := quant.FolderMethods()
			d.bad(n, s.ID+".method", strings.Join(names[:len(names)-1], ", ")+" or "+names[len(names)-1], "no method")
		}
	}
}

// Kinds lists the kinds a stage has; a valid stage has one.
func (s *Stage) Kinds() []string {
	var out []string
	v := reflect.ValueOf(*s)
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			out = append(out, v.Type().Field(i).Tag.Get("yaml"))
		}
	}
	return out
}

// Kind is the stage's only kind.
func (s *Stage) Kind() string { return s.Kinds()[0] }

// applySet writes one --set into the tree.
func (d *decoder) applySet(root *yaml.Node, set, place string) {
	key, val, ok := strings.Cut(set, "=")
	here := &yaml.Node{}
	d.placeOf[here] = place
	if !ok {
		d.bad(here, "", "--set ID.key=VALUE", "found %q without =", set)
		return
	}
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(val), &doc); err != nil {
		d.bad(here, key, "", "value is not YAML: %v", err)
		return
	}
	v := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "", Style: yaml.DoubleQuotedStyle}
	if len(doc.Content) > 0 {
		v = doc.Content[0]
	}
	d.mark(v, place)
	parts := strings.Split(key, ".")
	at := root
	if _, isTop := fieldsOf(reflect.TypeFor[Recipe]())[parts[0]]; !isTop {
		if at = d.stageNode(root, parts[0]); at == nil {
			d.bad(here, key, "stages: "+strings.Join(stageIDs(root), ", "), "no stage and no top-level key %q", parts[0])
			return
		}
		parts = parts[1:]
	}
	if len(parts) == 0 {
		d.bad(here, key, "--set ID.key=VALUE", "no key after the stage")
		return
	}
	for _, p := range parts[:len(parts)-1] {
		at = d.child(at, p, place)
	}
	d.put(at, parts[len(parts)-1], v, place)
}

func (d *decoder) mark(n *yaml.Node, place string) {
	d.placeOf[n] = place
	for _, c := range n.Content {
		d.mark(c, place)
	}
}

func stageIDs(root *yaml.Node) []string {
	var out []string
	eachStage(root, func(id string, _ *yaml.Node) { out = append(out, id) })
	return out
}

// eachStage calls f with the id and the options node of every stage.
func eachStage(root *yaml.Node, f func(id string, opts *yaml.Node)) {
	kinds := fieldsOf(reflect.TypeFor[Stage]())
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value != "stages" {
			continue
		}
		for _, st := range deref(root.Content[i+1]).Content {
			st = deref(st)
			id, opts := "", (*yaml.Node)(nil)
			for j := 0; j+1 < len(st.Content); j += 2 {
				k := st.Content[j].Value
				if k == "id" {
					id = st.Content[j+1].Value
				} else if _, ok := kinds[k]; ok {
					if opts = deref(st.Content[j+1]); id == "" {
						id = k
					}
					if isNull(opts) {
						opts.Kind, opts.Tag, opts.Value = yaml.MappingNode, "!!map", ""
					}
				}
			}
			if opts != nil {
				f(id, opts)
			}
		}
	}
}

func (d *decoder) stageNode(root *yaml.Node, id string) (found *yaml.Node) {
	eachStage(root, func(have string, opts *yaml.Node) {
		if have == id {
			found = opts
		}
	})
	return found
}

// child finds or makes the mapping at key.
func (d *decoder) child(n *yaml.Node, key, place string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return deref(n.Content[i+1])
		}
	}
	v := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	d.put(n, key, v, place)
	return v
}

func (d *decoder) put(n *yaml.Node, key string, v *yaml.Node, place string) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content[i+1] = v
			return
		}
	}
	k := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}
	d.mark(k, place)
	d.placeOf[v] = place
	n.Content = append(n.Content, k, v)
}
