package recipes

import (
	"bytes"
	"encoding/json"
)

// Result is what a finished stage leaves beside its artifact; reports are made
// from these.
type Result struct {
	Stage   string            `json:"stage"`
	Kind    string            `json:"kind"`
	Address Digest            `json:"address"`
	Inputs  map[string]Source `json:"inputs"`
	Outputs []FileHash        `json:"outputs"` // nil: begun and not finished
	Notes   []string          `json:"notes,omitempty"`
	Seconds float64           `json:"-"` // kept in timing.json: a manifest has no times
	Peak    int64             `json:"-"`
	Cached  bool              `json:"-"`

	Left any `json:"-"` // what Kind.Left returned, filled by Run; in JSON under the kind's name
}

// Source is one resolved input with the hash of its content.
type Source struct {
	Ref    string `json:"ref"`
	Why    string `json:"why"`
	SHA256 Digest `json:"sha256"` // of a path's content, or the address of the stage
}

// MarshalJSON writes what the stage left under its kind's name.
func (r *Result) MarshalJSON() ([]byte, error) {
	type plain Result
	raw, err := json.Marshal((*plain)(r))
	if err != nil || r.Left == nil {
		return raw, err
	}
	key, err := json.Marshal(r.Kind)
	if err != nil {
		return nil, err
	}
	left, err := json.Marshal(r.Left)
	if err != nil {
		return nil, err
	}
	return bytes.Join([][]byte{raw[:len(raw)-1], []byte(","), key, []byte(":"), left, []byte("}")}, nil), nil
}

// readResult reads a result of a kind.
func readResult(raw []byte, k *Kind) (*Result, error) {
	type plain Result
	var r plain
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, err
	}
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(raw, &parts); err != nil {
		return nil, err
	}
	if left, ok := parts[k.Name]; ok && k.Left != nil {
		r.Left = k.Left()
		if err := json.Unmarshal(left, r.Left); err != nil {
			return nil, err
		}
	}
	return (*Result)(&r), nil
}
