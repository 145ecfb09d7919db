package data

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/rows"
	"github.com/tunekit/tunekit/formats/fail"
)

// TemplateValue is the value of a variable of the chat template, as JSON: a truth
// value, a number, a text, a list or a mapping.
type TemplateValue string

// UnmarshalYAML takes any value that JSON has.
func (v *TemplateValue) UnmarshalYAML(n *yaml.Node) error {
	var x any
	if err := n.Decode(&x); err != nil {
		return err
	}
	b, err := json.Marshal(x)
	if err != nil {
		return fmt.Errorf("line %d: a value that JSON has is needed: %v", n.Line, err)
	}
	*v = TemplateValue(b)
	return nil
}

// MarshalYAML is the value that was read.
func (v TemplateValue) MarshalYAML() (any, error) {
	var x any
	err := json.Unmarshal([]byte(v), &x)
	return x, err
}

// JSONSchema says that any value is one.
func (TemplateValue) JSONSchema() map[string]any { return map[string]any{} }

// ourVars are the variables that a conversation itself gives a template.
var ourVars = []string{"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}

// checkTemplateKwargs refuses variables that are not to be set.
func (o *Options) checkTemplateKwargs() error {
	for _, name := range slices.Sorted(maps.Keys(o.TemplateKwargs)) {
		if slices.Contains(ourVars, name) {
			return fail.Usagef(o.Name, "rows and the tokenizer say it", "chat_template_kwargs: %s is not to be set", name)
		}
	}
	return nil
}

// templateKwargs are the variables that o sets for all rows.
func (o *Options) templateKwargs() map[string]any {
	out := map[string]any{}
	for name, v := range o.TemplateKwargs {
		x, err := jinja.ParseJSON([]byte(v))
		if err != nil {
			panic(err) // it was JSON when it was read
		}
		out[name] = x
	}
	return out
}

// templateVars is the column chat_template_kwargs: further variables of the chat
// template, as TRL and servers take them, which go before those of all rows.
func templateVars(row *jinja.Dict) (map[string]any, error) {
	const name = "chat_template_kwargs"
	v, _ := row.Get(name)
	if v == nil {
		return nil, nil
	}
	if s, ok := v.(string); ok { // for columns that hold one kind of value
		parsed, err := rows.ParseJSON([]byte(s))
		if err != nil {
			return nil, bad(name, "%v", err)
		}
		v = parsed
	}
	d, ok := v.(*jinja.Dict)
	if !ok {
		return nil, bad(name, "is %s, not an object", rows.KindOf(v))
	}
	out := map[string]any{}
	for i := range d.Len() {
		k, v := d.At(i)
		key := fmt.Sprint(k)
		if slices.Contains(ourVars, key) {
			return nil, bad(name, "%s is not for a row to set", key)
		}
		out[key] = v
	}
	return out, nil
}
