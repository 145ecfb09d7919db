package lora

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes/schema"
)

// general are keys of PEFT's file that say nothing about the adapter's arithmetic.
var general = []string{"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type"}

// parseKind reads an adapter_config.json of another type than LoRA.
func parseKind(where string, all map[string]any, f *Folder) error {
	typ, _ := all["peft_type"].(string)
	for _, name := range KindNames() {
		if strings.EqualFold(typ, kinds[name].peft) {
			f.Kind = name
		}
	}
	if f.Kind == "" {
		return fail.Inputf(where, "known are LORA and "+strings.ToUpper(strings.Join(KindNames(), ", ")), "peft_type is %q", typ)
	}
	if all["target_modules"] == nil {
		return fail.Inputf(where, "", "target_modules is missing")
	}
	row := kinds[f.Kind]
	var k Kinds
	o := row.at(&k)
	schema.Fill(o)
	known, err := keysOf(o)
	if err != nil {
		return err
	}
	own := map[string]any{}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		v := all[key]
		usual, fixed := row.always[key]
		number, isNumber := v.(float64)
		switch {
		case v == nil || slices.Contains(general, key):
		case key == "init_weights" && v == false: // how it began
		case known[key]:
			own[key] = v
		case strings.HasSuffix(key, "_dropout") && isNumber: // of training alone
			if number != 0 {
				f.dropout = fmt.Sprintf("%s %g", key, number)
			}
		case key == "init_weights" || key == "init_ia3_weights": // how it began
		case fixed && fmt.Sprint(v) == fmt.Sprint(usual) || neutral(v):
		default:
			return fail.Inputf(where, "merge the adapter in PEFT, or train without this option", "%s: %v is not supported", key, v)
		}
	}
	b, err := json.Marshal(own)
	if err == nil {
		err = json.Unmarshal(b, o)
	}
	if k, ok := o.(readsLess); ok {
		k.unread()
	}
	if err == nil {
		err = schema.Check("", o)
	}
	if err == nil {
		err = o.resolve("")
	}
	if err != nil {
		return fail.Inputf(where, "", "%w", err)
	}
	f.Base, _ = all["base_model_name_or_path"].(string)
	f.Options, f.Config = o, targeting(o)
	return nil
}

// keysOf are the keys that o has in PEFT's file.
func keysOf(o Options) (map[string]bool, error) {
	b, err := json.Marshal(o)
	m := map[string]json.RawMessage{}
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	out := map[string]bool{}
	for k := range m {
		out[k] = true
	}
	return out, err
}

// paths are the modules that have a variant.
func (ad *Adapter) paths() []string {
	var out []string
	for _, l := range ad.adapted {
		out = append(out, l.path)
	}
	return out
}

// task is what PEFT calls the use of the model.
func (ad *Adapter) task() string {
	switch s := &ad.model.Spec; {
	case s.Reward:
		return "SEQ_CLS"
	case s.Encoder > 0:
		return "SEQ_2_SEQ_LM"
	}
	return "CAUSAL_LM"
}

// kindFile is adapter_config.json of an adapter that is no LoRA, as PEFT writes it:
// keys in alphabetical order.
func (ad *Adapter) kindFile(base string, chosen []string) ([]byte, error) {
	m := map[string]json.RawMessage{}
	put := func(v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		return json.Unmarshal(b, &m)
	}
	row := kinds[ad.Kind]
	own := map[string]any{
		"auto_mapping": nil, "base_model_name_or_path": base, "inference_mode": true, "peft_type": row.peft, "revision": nil, "task_type": ad.task(),
		"target_modules": explicit(ad.Config, chosen, ad.Modules),
	}
	if k, ok := ad.Options.(forPEFT); ok {
		if err := k.forPEFT(own, chosen); err != nil {
			return nil, err
		}
	}
	for _, v := range []any{row.always, ad.Options, own} {
		if err := put(v); err != nil {
			return nil, err
		}
	}
	out, err := json.MarshalIndent(m, "", "  ")
	return append(out, '\n'), err
}
