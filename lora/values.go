package lora

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"go.yaml.in/yaml/v4"
)

// PatternEntry is one line of rank_pattern or alpha_pattern.
type PatternEntry struct {
	Key   string
	Value float64
}

// Pattern is an ordered map from a module (the end of its path, or a regular
// expression for it) to a number. The first entry that matches counts.
type Pattern []PatternEntry

// JSONSchema is a mapping from modules to numbers.
func (Pattern) JSONSchema() map[string]any {
	return map[string]any{"type": "object", "additionalProperties": map[string]any{"type": "number"}}
}

// UnmarshalYAML reads a mapping and keeps its order.
func (p *Pattern) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("want a map from module to number")
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		e := PatternEntry{Key: n.Content[i].Value}
		if err := n.Content[i+1].Decode(&e.Value); err != nil {
			return err
		}
		*p = append(*p, e)
	}
	return nil
}

// MarshalYAML writes the mapping in order.
func (p Pattern) MarshalYAML() (any, error) {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, e := range p {
		var k, v yaml.Node
		if err := k.Encode(e.Key); err != nil {
			return nil, err
		}
		if err := v.Encode(e.Value); err != nil {
			return nil, err
		}
		n.Content = append(n.Content, &k, &v)
	}
	return n, nil
}

// MarshalJSON writes an object in order.
func (p Pattern) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, e := range p {
		if i > 0 {
			b.WriteByte(',')
		}
		k, err := json.Marshal(e.Key)
		if err != nil {
			return nil, err
		}
		v, err := json.Marshal(e.Value)
		if err != nil {
			return nil, err
		}
		b.Write(k)
		b.WriteByte(':')
		b.Write(v)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// UnmarshalJSON reads an object and keeps its order.
func (p *Pattern) UnmarshalJSON(data []byte) error {
	*p = nil
	if string(data) == "null" {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("a map from module to number is needed")
	}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return err
		}
		e := PatternEntry{Key: k.(string)}
		if err := d.Decode(&e.Value); err != nil {
			return err
		}
		*p = append(*p, e)
	}
	_, err := d.Token()
	return err
}

// Strings is a list that may be written as one string.
type Strings []string

// JSONSchema is a string or a list.
func (Strings) JSONSchema() map[string]any { return oneOrMoreSchema("string") }

// UnmarshalYAML accepts a string or a list.
func (s *Strings) UnmarshalYAML(n *yaml.Node) error { return oneOrMore((*[]string)(s), n) }

// UnmarshalJSON accepts a string, a list or null.
func (s *Strings) UnmarshalJSON(b []byte) error { return oneOrMoreJSON((*[]string)(s), b) }

// Ints is a list that may be written as one number.
type Ints []int

// JSONSchema is a whole number or a list.
func (Ints) JSONSchema() map[string]any { return oneOrMoreSchema("integer") }

// UnmarshalYAML accepts a number or a list.
func (s *Ints) UnmarshalYAML(n *yaml.Node) error { return oneOrMore((*[]int)(s), n) }

// UnmarshalJSON accepts a number, a list or null.
func (s *Ints) UnmarshalJSON(b []byte) error { return oneOrMoreJSON((*[]int)(s), b) }

func oneOrMoreSchema(kind string) map[string]any {
	one := map[string]any{"type": kind}
	return map[string]any{"anyOf": []any{one, map[string]any{"type": "array", "items": one}}}
}

func oneOrMore[T any](dst *[]T, n *yaml.Node) error {
	if n.Kind == yaml.SequenceNode {
		return n.Decode(dst)
	}
	var one T
	if err := n.Decode(&one); err != nil {
		return err
	}
	*dst = []T{one}
	return nil
}

func oneOrMoreJSON[T any](dst *[]T, b []byte) error {
	*dst = nil
	if string(b) == "null" {
		return nil
	}
	if len(b) > 0 && b[0] == '[' {
		return json.Unmarshal(b, dst)
	}
	var one T
	if err := json.Unmarshal(b, &one); err != nil {
		return err
	}
	*dst = []T{one}
	return nil
}

// Init is init_lora_weights: true, false or the name of a method.
type Init string

// JSONSchema lists those that an adapter can start with.
func (Init) JSONSchema() map[string]any {
	names := []any{true, false, string(InitKaiming), string(InitNonZero), string(InitGaussian), string(InitOrthogonal), string(InitPiSSA), string(InitOLoRA), string(InitLoftQ), string(InitEVA), string(InitCorDA), string(InitLoRAGA)}
	return map[string]any{"anyOf": []any{map[string]any{"enum": names}, map[string]any{"type": "string", "pattern": "^" + string(pissaRounds) + "[0-9]+$"}}}
}

// UnmarshalYAML accepts a bool or a string.
func (i *Init) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("want true, false or a name")
	}
	*i = Init(n.Value)
	return nil
}

// UnmarshalJSON accepts a bool or a string.
func (i *Init) UnmarshalJSON(b []byte) error {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	switch v.(type) {
	case bool, string:
		*i = Init(fmt.Sprint(v))
		return nil
	}
	return fmt.Errorf("true, false or a name is needed")
}

// MarshalJSON writes true and false as such.
func (i Init) MarshalJSON() ([]byte, error) {
	if i == InitKaiming || i == InitNonZero {
		return []byte(i), nil
	}
	return json.Marshal(string(i))
}

// TokenIndices maps an embedding's name to the rows that are trained; "" is the
// embedding of tokens, by whatever name: a list alone.
type TokenIndices map[string][]int

// JSONSchema is a list of rows, or one for each embedding.
func (TokenIndices) JSONSchema() map[string]any {
	rows := map[string]any{"type": "array", "items": map[string]any{"type": "integer"}}
	return map[string]any{"anyOf": []any{rows, map[string]any{"type": "object", "additionalProperties": rows}}}
}

// UnmarshalYAML accepts a list or a map.
func (t *TokenIndices) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode {
		return n.Decode((*map[string][]int)(t))
	}
	var rows []int
	if err := n.Decode(&rows); err != nil {
		return err
	}
	*t = TokenIndices{"": rows}
	return nil
}

// UnmarshalJSON accepts a list, a map or null.
func (t *TokenIndices) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '[' {
		return json.Unmarshal(b, (*map[string][]int)(t))
	}
	var rows []int
	if err := json.Unmarshal(b, &rows); err != nil {
		return err
	}
	*t = TokenIndices{"": rows}
	return nil
}

// MarshalJSON writes the form it was given in.
func (t TokenIndices) MarshalJSON() ([]byte, error) {
	if rows, ok := t[""]; ok && len(t) == 1 {
		return json.Marshal(rows)
	}
	return json.Marshal(map[string][]int(t))
}

func sorted(s []string) []string {
	out := slices.Clone(s)
	slices.Sort(out)
	return out
}
