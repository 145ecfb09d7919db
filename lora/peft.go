package lora

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/fail"
)

// configFile is adapter_config.json as PEFT writes it. Keys in alphabetical
// order, as there.
type configFile struct {
	AlphaPattern     Pattern      `json:"alpha_pattern"`
	BaseModel        string       `json:"base_model_name_or_path"`
	Bias             string       `json:"bias"`
	ExcludeModules   Targets      `json:"exclude_modules"`
	FanInFanOut      bool         `json:"fan_in_fan_out"`
	InferenceMode    bool         `json:"inference_mode"`
	InitWeights      Init         `json:"init_lora_weights"`
	LayersPattern    Strings      `json:"layers_pattern"`
	Layers           Ints         `json:"layers_to_transform"`
	LoftQ            *LoftQ       `json:"loftq_config"`
	Alpha            float64      `json:"lora_alpha"`
	LoRABias         bool         `json:"lora_bias"`
	Dropout          float64      `json:"lora_dropout"`
	ModulesToSave    Strings      `json:"modules_to_save"`
	PeftType         string       `json:"peft_type"`
	R                int          `json:"r"`
	RankPattern      Pattern      `json:"rank_pattern"`
	Revision         *string      `json:"revision"`
	TargetModules    Targets      `json:"target_modules"`
	TargetParameters Strings      `json:"target_parameters"`
	TaskType         *string      `json:"task_type"`
	TokenIndices     TokenIndices `json:"trainable_token_indices"`
	UseDoRA          bool         `json:"use_dora"`
	UseRSLoRA        bool         `json:"use_rslora"`
}

// harmless are keys of PEFT that change nothing in a trained adapter.
var harmless = []string{"auto_mapping", "corda_config", "eva_config", "lora_ga_config", "megatron_config", "megatron_core", "peft_version", "qalora_group_size"}

// tying is a key of PEFT that has what is trained of an embedding hold for a tied head,
// too: whole copies and LoRA. Rows of trainable_token_indices are the head's without it.
const tying = "ensure_weight_tying"

// isTable reports whether PEFT takes a module of modules_to_save for one that may be tied
// (EMBEDDING_LAYER_NAMES): of others ensure_weight_tying has nothing follow.
func isTable(name string) bool {
	name = name[strings.LastIndexByte(name, '.')+1:]
	return name == arch.UsualEmbed || name == arch.UsualHead
}

// parseConfig reads an adapter_config.json of LoRA, with all its keys. A key that changes the arithmetic
// in a way this package lacks is an error that names it.
func parseConfig(where string, data []byte, all map[string]any) (*configFile, error) {
	f := &configFile{R: 8, Alpha: 8, Bias: "none", InitWeights: InitKaiming} // LoraConfig's own defaults, not those of a recipe
	if err := json.Unmarshal(data, f); err != nil {
		return nil, fail.Inputf(where, "", "%w", err)
	}
	known, err := fieldNames()
	if err != nil {
		return nil, err
	}
	for _, k := range []string{"r", "lora_alpha", "bias"} {
		if v, ok := all[k]; ok && v == nil {
			return nil, fail.Inputf(where, "give it a value, or leave it out for PEFT's default", "%s is null", k)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if known[k] || slices.Contains(harmless, k) || neutral(all[k]) || k == tying && !slices.ContainsFunc(f.ModulesToSave, isTable) {
			continue
		}
		return nil, fail.Inputf(where, "merge the adapter in PEFT, or train without this option", "%s: %v is not supported", k, all[k])
	}
	return f, f.supported(where)
}

// fieldNames are the keys configFile has.
func fieldNames() (map[string]bool, error) {
	b, err := json.Marshal(configFile{InitWeights: InitKaiming})
	m := map[string]any{}
	err = errors.Join(err, json.Unmarshal(b, &m))
	out := map[string]bool{}
	for k := range m {
		out[k] = true
	}
	return out, err
}

// neutral reports whether a value switches nothing on.
func neutral(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// supported names what the file asks for that this package cannot do.
func (f *configFile) supported(where string) error {
	if f.R < 1 {
		return fail.Inputf(where, "", "r is %d", f.R)
	}
	switch f.InitWeights {
	case InitKaiming, InitNonZero, InitGaussian, InitOrthogonal, InitPiSSA, InitOLoRA, InitEVA, initMiCA:
		return nil
	case InitLoftQ:
		if q := f.LoftQ; q != nil && (q.Bits != 0 && q.Bits != 4 || q.Iter < 0 || q.Iter > 100) {
			return fail.Inputf(where, "loftq_bits: 4 and a loftq_iter from 1 to 100 can be read", "loftq_config: %d bits, %d iterations: the adapter belongs on weights that cannot be made here", q.Bits, q.Iter)
		}
		return nil
	}
	return fail.Inputf(where, "save it in PEFT with path_initial_model_for_weight_conversion, which makes it fit the original base",
		"init_lora_weights %q: the adapter belongs on a changed base, not on the original one", string(f.InitWeights))
}

// config is the file as a Config.
func (f *configFile) config() Config {
	init := InitKaiming
	if f.InitWeights == InitPiSSA || f.InitWeights == InitOLoRA || f.InitWeights == InitLoftQ { // which say what the adapter belongs on
		init = f.InitWeights
	}
	var q *LoftQ
	if init == InitLoftQ && f.LoftQ != nil && *f.LoftQ != (LoftQ{}) {
		q = f.LoftQ
	}
	return Config{
		R: f.R, Alpha: f.Alpha, Dropout: f.Dropout, LoftQ: q,
		TargetModules: f.TargetModules, TargetParameters: f.TargetParameters, ExcludeModules: f.ExcludeModules,
		RankPattern: f.RankPattern, AlphaPattern: f.AlphaPattern,
		Layers: f.Layers, LayersPattern: f.LayersPattern, ModulesToSave: f.ModulesToSave,
		Bias: f.Bias, LoRABias: f.LoRABias, UseRSLoRA: f.UseRSLoRA, UseDoRA: f.UseDoRA, InitWeights: init, TrainableTokenIndices: f.TokenIndices,
	}
}

// fileOf is a Config as a file for an adapter of base, with chosen modules out
// of all.
func fileOf(c Config, base string, chosen []string, all []Module) *configFile {
	task, init := "CAUSAL_LM", InitKaiming
	quantized := &LoftQ{}
	if c.InitWeights == InitLoftQ {
		init, quantized = InitLoftQ, &LoftQ{Bits: 4, Iter: c.turns()}
	}
	return &configFile{
		BaseModel: base, PeftType: "LORA", TaskType: &task, InferenceMode: true, InitWeights: init, LoftQ: quantized, TokenIndices: c.TrainableTokenIndices,
		R: c.R, Alpha: c.Alpha, Dropout: c.Dropout, Bias: c.Bias, LoRABias: c.LoRABias, UseRSLoRA: c.UseRSLoRA, UseDoRA: c.UseDoRA,
		TargetModules: explicit(c, chosen, all), TargetParameters: c.TargetParameters, ExcludeModules: c.ExcludeModules,
		RankPattern: c.RankPattern, AlphaPattern: c.AlphaPattern,
		Layers: c.Layers, LayersPattern: c.LayersPattern, ModulesToSave: c.ModulesToSave,
	}
}

// explicit replaces all-linear by names, as PEFT does: the last parts of the
// chosen paths where these choose the same modules, else whole paths.
func explicit(c Config, chosen []string, all []Module) Targets {
	if !c.TargetModules.All {
		return c.TargetModules
	}
	var names []string
	for _, p := range chosen {
		last := p[strings.LastIndexByte(p, '.')+1:]
		if !slices.Contains(names, last) {
			names = append(names, last)
		}
	}
	c.TargetModules, c.TargetParameters = Targets{Names: sorted(names)}, nil
	again, err := Match(c, all)
	same := err == nil && slices.EqualFunc(again, chosen, func(m Module, p string) bool { return m.Path == p })
	if !same {
		return Targets{Names: chosen}
	}
	return c.TargetModules
}

// encode is the file's text.
func (f *configFile) encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(f)
	return b.Bytes(), err
}

// UnmarshalJSON reads null, a string or a list.
func (t *Targets) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var s string
		err := json.Unmarshal(b, &s)
		*t = parseTargets(s)
		return err
	}
	return json.Unmarshal(b, &t.Names)
}

// MarshalJSON writes null, a string or a list.
func (t Targets) MarshalJSON() ([]byte, error) {
	switch {
	case t.Empty():
		return []byte("null"), nil
	case t.All || t.Regex != "":
		return json.Marshal(t.String())
	}
	return json.Marshal(t.Names)
}
