// Package jinja renders chat templates: the part of Jinja that Hugging Face's
// transformers offers to them, with Python's semantics for values, strings and
// JSON, and limits on work, depth and output so that a hostile template ends
// in an error and never in a hang.
//
// Nothing a template can say reaches a file, the network, the environment or
// the clock: the time comes from Options.Now.
package jinja

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/big"
	"sort"
	"strconv"
	"strings"
)

// Dict is a dictionary that keeps the order in which keys were first set, as
// Python's does. The zero Dict is empty and ready to use.
type Dict struct {
	keys []any
	at   map[any]int
	vals []any
}

// NewDict returns a dictionary of the given key, value, key, value, …
func NewDict(pairs ...any) *Dict {
	d := &Dict{}
	for i := 0; i+1 < len(pairs); i += 2 {
		d.Set(pairs[i], pairs[i+1])
	}
	return d
}

// Len is the number of keys.
func (d *Dict) Len() int {
	if d == nil {
		return 0
	}
	return len(d.keys)
}

// Get returns the value of key (a string, int64, BigInt, float64 or bool).
func (d *Dict) Get(key any) (any, bool) {
	if d == nil {
		return nil, false
	}
	i, ok := d.at[foldKey(key)]
	if !ok {
		return nil, false
	}
	return d.vals[i], true
}

// String returns the value of key when it is a string, else "".
func (d *Dict) String(key string) string {
	v, _ := d.Get(key)
	s, _ := v.(string)
	return s
}

// Set gives key a value; a new key goes to the end. Keys are strings, ints,
// floats, bools or nil; others panic.
func (d *Dict) Set(key, value any) {
	k := foldKey(key)
	if i, ok := d.at[k]; ok {
		d.vals[i] = value
		return
	}
	if d.at == nil {
		d.at = map[any]int{}
	}
	d.at[k] = len(d.keys)
	d.keys = append(d.keys, key)
	d.vals = append(d.vals, value)
}

// Delete removes key if it is there.
func (d *Dict) Delete(key any) {
	k := foldKey(key)
	i, ok := d.at[k]
	if !ok {
		return
	}
	delete(d.at, k)
	d.keys = append(d.keys[:i:i], d.keys[i+1:]...)
	d.vals = append(d.vals[:i:i], d.vals[i+1:]...)
	for j := i; j < len(d.keys); j++ {
		d.at[foldKey(d.keys[j])] = j
	}
}

// At returns the i-th key and value in order.
func (d *Dict) At(i int) (key, value any) { return d.keys[i], d.vals[i] }

// Clone returns a copy that shares the values.
func (d *Dict) Clone() *Dict {
	c := &Dict{}
	for i := range d.Len() {
		c.Set(d.keys[i], d.vals[i])
	}
	return c
}

// foldKey maps equal Python keys (1, 1.0, True) to one Go key.
func foldKey(key any) any {
	switch k := key.(type) {
	case nil:
		return nil
	case string:
		return k
	case bool:
		if k {
			return int64(1)
		}
		return int64(0)
	case int:
		return int64(k)
	case int64:
		return k
	case float64:
		switch {
		case k-k != 0 || k != math.Trunc(k):
			return k
		case -1<<63 <= k && k < 1<<63:
			return int64(k)
		}
		n, _ := new(big.Float).SetFloat64(k).Int(nil)
		return BigInt(n.String())
	case BigInt:
		return k
	}
	panic(fmt.Sprintf("jinja: %T is no dictionary key", key))
}

// MarshalJSON writes the dictionary in order.
func (d *Dict) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i := range d.Len() {
		if i > 0 {
			b.WriteByte(',')
		}
		k, err := encodeJSON(fmt.Sprint(d.keys[i]))
		if err != nil {
			return nil, err
		}
		v, err := encodeJSON(d.vals[i])
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

// encodeJSON is json.Marshal without the escapes for HTML.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// maxJSONDepth bounds the nesting of ParseJSON.
const maxJSONDepth = 128

// ParseJSON reads one JSON value, keeping the order of object keys: objects
// become *Dict, arrays []any, whole numbers int64 or BigInt, other numbers float64,
// null nil. Anything after the value is an error.
func ParseJSON(data []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := parseJSON(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("JSON: more than one value (offset %d)", dec.InputOffset())
	}
	return v, nil
}

func parseJSON(dec *json.Decoder, depth int) (any, error) {
	if depth > maxJSONDepth {
		return nil, fmt.Errorf("JSON: nested deeper than %d", maxJSONDepth)
	}
	tok, err := dec.Token()
	if err == io.EOF {
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	switch t := tok.(type) {
	case json.Delim:
		if t == '{' {
			return parseObject(dec, depth)
		}
		return parseArray(dec, depth)
	case json.Number:
		return number(string(t))
	}
	return tok, nil
}

// BigInt is a whole number that does not fit 64 bits: its digits, behind a minus where it is
// negative. Templates print and compare it, and cannot calculate with it.
type BigInt string

// MarshalJSON writes the digits.
func (n BigInt) MarshalJSON() ([]byte, error) { return []byte(n), nil }

// value is the number itself.
func (n BigInt) value() *big.Int {
	v, _ := new(big.Int).SetString(string(n), 10)
	return v
}

// Float is about the number, infinite where no float64 is.
func (n BigInt) Float() float64 {
	f, _ := strconv.ParseFloat(string(n), 64)
	return f
}

// maxDigits bounds whole numbers, as Python does.
const maxDigits = 4300

func number(s string) (any, error) {
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return i, nil
	}
	if digits := strings.TrimPrefix(s, "-"); len(digits) <= maxDigits && strings.Trim(digits, "0123456789") == "" {
		return BigInt(s), nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return nil, fmt.Errorf("JSON: number %s is out of range", s)
	}
	return f, nil
}

func parseObject(dec *json.Decoder, depth int) (any, error) {
	d := &Dict{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, err
		}
		v, err := parseJSON(dec, depth+1)
		if err != nil {
			return nil, err
		}
		d.Set(tok.(string), v)
	}
	_, err := dec.Token()
	return d, err
}

func parseArray(dec *json.Decoder, depth int) (any, error) {
	list := []any{}
	for dec.More() {
		v, err := parseJSON(dec, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := dec.Token()
	return list, err
}

// sortedKeys returns the keys of a Go map in order.
func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
