package judge

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/formats/fail"
)

// Schema is a JSON Schema as JSON text.
type Schema string

// UnmarshalYAML accepts the schema as a mapping, or its JSON text.
func (s *Schema) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*s = Schema(n.Value)
		return nil
	}
	var v any
	if err := n.Decode(&v); err != nil {
		return err
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	*s = Schema(text)
	return nil
}

// JSONSchema says so.
func (Schema) JSONSchema() map[string]any {
	return map[string]any{"type": []string{"object", "string"}}
}

// compile reads the schema; what it refers to must be within it.
func (s Schema) compile(where string) (*jsonschema.Schema, error) {
	hint := "a JSON Schema, drafts 4 to 2020-12; $ref within it only"
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(s)))
	if err != nil {
		return nil, fail.Usagef(where, hint, "%w", err)
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(nothing{})
	if err := c.AddResource("tunekit:schema", doc); err != nil {
		return nil, fail.Usagef(where, hint, "%w", err)
	}
	schema, err := c.Compile("tunekit:schema")
	if err != nil {
		return nil, fail.Usagef(where, hint, "%w", err)
	}
	return schema, nil
}

// nothing loads no other schema.
type nothing struct{}

// Load refuses.
func (nothing) Load(url string) (any, error) { return nil, fmt.Errorf("%s is not read", url) }

// missing is the error of a column that a row does not have.
func missing(name string, have []string) error {
	slices.Sort(have)
	hint := "the row has " + strings.Join(have, ", ")
	if len(have) == 0 {
		hint = "ingest the rows with type: prompt, which keeps their columns"
	}
	return fail.Inputf("train.rewards", hint, "a row has no column %q", name)
}
