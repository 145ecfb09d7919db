// Package judge says how good answers are: by an answer column, by their form,
// or by a program of the user.
package judge

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/tunekit/tunekit/formats/fail"
)

// Config is one reward of a recipe: one of the keys that say what for, with its
// settings.
type Config struct {
	Exact      string   `yaml:"exact,omitempty" doc:"column whose text the answer must be, without spaces around it"`
	Numeric    string   `yaml:"numeric,omitempty" doc:"column whose last number must be the last of the answer"`
	Regex      string   `yaml:"regex,omitempty" doc:"pattern that the answer must have, Go's syntax"`
	JSONSchema Schema   `yaml:"json_schema,omitempty" type:"mapping" doc:"JSON Schema that the answer, a JSON text, must keep; {} for any JSON"`
	Tags       []string `yaml:"tags,omitempty" doc:"names of tags in which all of the answer stands, in this order: [think, answer]"`
	Length     *Length  `yaml:"length,omitempty" doc:"how many tokens the answer may have"`
	Command    string   `yaml:"command,omitempty" doc:"shell command: reads answers as JSON lines, writes a number or null for each"`

	Pattern string   `yaml:"pattern,omitempty" doc:"of exact and numeric: the first group of its last match in the answer is compared, 0 without one"`
	Timeout float64  `yaml:"timeout,omitempty" doc:"of command: seconds for the answers of a step" unset:"60" range:"(0,86400]"`
	Name    string   `yaml:"name,omitempty" doc:"how curves call it" unset:"its kind"`
	Weight  *float64 `yaml:"weight,omitempty" doc:"factor in the sum of all rewards" unset:"1.0" range:"[-1000000,1000000]"`
}

// Length is a range of tokens: 1 within, 0 outside.
type Length struct {
	Min int `yaml:"min,omitempty" doc:"least" unset:"0" range:"[1,1000000]"`
	Max int `yaml:"max,omitempty" doc:"most" unset:"no limit" range:"[1,1000000]"`
}

// Answer is an answer to a row's prompt.
type Answer struct {
	Text string         // without special tokens
	IDs  []int32        // its tokens, with the one that ended it
	Row  map[string]any // the row, as encoding/json reads it, numbers as json.Number
}

// Func gives rewards.
type Func struct {
	Name   string
	Weight float64

	score func(ctx context.Context, answers []Answer) ([]float64, error)
}

// Score returns the reward of each answer, NaN where there is none to give. An
// error names the row's column or the user's program.
func (f *Func) Score(ctx context.Context, answers []Answer) ([]float64, error) {
	return f.score(ctx, answers)
}

// kind is the key of c that says what is rewarded; "" unless it is one.
func (c Config) kind() string {
	kind := ""
	for name, given := range map[string]bool{"exact": c.Exact != "", "numeric": c.Numeric != "", "regex": c.Regex != "", "json_schema": c.JSONSchema != "",
		"tags": len(c.Tags) > 0, "length": c.Length != nil, "command": c.Command != ""} {
		switch {
		case given && kind != "":
			return ""
		case given:
			kind = name
		}
	}
	return kind
}

// Resolve fills in what is not given.
func (c Config) Resolve() Config {
	if c.Name == "" {
		c.Name = c.kind()
	}
	if c.Weight == nil {
		one := 1.0
		c.Weight = &one
	}
	if c.Timeout == 0 && c.Command != "" {
		c.Timeout = 60
	}
	return c
}

// Check refuses what cannot be; where is its place in messages.
func (c Config) Check(where string) error {
	_, err := c.New(where)
	return err
}

// New makes the function that a resolved c describes.
func (c Config) New(where string) (*Func, error) {
	f := &Func{Name: c.Name}
	kind := c.kind()
	if kind == "" {
		return nil, fail.Usagef(where, "rewards: [{numeric: answer}, {tags: [think, answer], weight: 0.5}]", "a reward is one of exact, numeric, regex, json_schema, tags, length and command")
	}
	if c.Pattern != "" && kind != "exact" && kind != "numeric" {
		return nil, fail.Usagef(where+".pattern", "leave it out", "pattern belongs to exact and numeric, not %s", kind)
	}
	if c.Timeout != 0 && kind != "command" {
		return nil, fail.Usagef(where+".timeout", "leave it out", "timeout belongs to command, not %s", kind)
	}
	if c.Weight != nil {
		f.Weight = *c.Weight
	}
	pattern, err := compile(where+".pattern", c.Pattern)
	if err != nil {
		return nil, err
	}
	if pattern != nil && pattern.NumSubexp() == 0 {
		return nil, fail.Usagef(where+".pattern", `put what is compared in brackets: "#### (.*)"`, "pattern %q has no group", c.Pattern)
	}
	var one func(a Answer) (float64, error)
	switch kind {
	case "exact":
		one = func(a Answer) (float64, error) { return exact(a, c.Exact, pattern) }
	case "numeric":
		one = func(a Answer) (float64, error) { return numeric(a, c.Numeric, pattern) }
	case "regex":
		re, err := compile(where+".regex", c.Regex)
		if err != nil {
			return nil, err
		}
		one = func(a Answer) (float64, error) { return truth(re.MatchString(a.Text)), nil }
	case "json_schema":
		schema, err := c.JSONSchema.compile(where + ".json_schema")
		if err != nil {
			return nil, err
		}
		one = func(a Answer) (float64, error) { return keeps(schema, a.Text), nil }
	case "tags":
		re, err := tagPattern(where+".tags", c.Tags)
		if err != nil {
			return nil, err
		}
		one = func(a Answer) (float64, error) { return tagged(re, c.Tags, a.Text), nil }
	case "length":
		if c.Length.Max > 0 && c.Length.Max < c.Length.Min || c.Length.Max == 0 && c.Length.Min == 0 {
			return nil, fail.Usagef(where+".length", "length: {min: 10, max: 200}", "no length is outside of min %d and max %d, or none within", c.Length.Min, c.Length.Max)
		}
		one = func(a Answer) (float64, error) {
			return truth(len(a.IDs) >= c.Length.Min && (c.Length.Max == 0 || len(a.IDs) <= c.Length.Max)), nil
		}
	case "command":
		f.score = func(ctx context.Context, answers []Answer) ([]float64, error) {
			return runCommand(ctx, c.Command, c.Timeout, answers)
		}
		return f, nil
	}
	f.score = func(_ context.Context, answers []Answer) ([]float64, error) {
		out := make([]float64, len(answers))
		for i, a := range answers {
			v, err := one(a)
			if err != nil {
				return nil, err
			}
			out[i] = v
		}
		return out, nil
	}
	return f, nil
}

func compile(where, pattern string) (*regexp.Regexp, error) {
	if pattern == "" {
		return nil, nil
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fail.Usagef(where, "Go's syntax: no look-around, no back references", "%w", err)
	}
	return re, nil
}

func truth(ok bool) float64 {
	if ok {
		return 1
	}
	return 0
}

// column is the text of a row's column.
func column(a Answer, name string) (string, error) {
	switch v := a.Row[name].(type) {
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case bool:
		return strconv.FormatBool(v), nil
	case nil:
		var have []string
		for k := range a.Row {
			have = append(have, k)
		}
		return "", missing(name, have)
	default:
		return "", fail.Inputf("train.rewards", "text or a number is needed", "column %q of a row is %T", name, v)
	}
}

// taken is what is compared of an answer: all, or of a pattern the first group of
// its last match.
func taken(text string, pattern *regexp.Regexp) (string, bool) {
	if pattern == nil {
		return text, true
	}
	all := pattern.FindAllStringSubmatch(text, -1)
	if len(all) == 0 {
		return "", false
	}
	return all[len(all)-1][1], true
}

func exact(a Answer, name string, pattern *regexp.Regexp) (float64, error) {
	want, err := column(a, name)
	if err != nil {
		return 0, err
	}
	got, ok := taken(a.Text, pattern)
	return truth(ok && strings.TrimSpace(got) == strings.TrimSpace(want)), nil
}

// number is a number in a text, with commas between thousands.
var number = regexp.MustCompile(`-?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][-+]?\d+)?`)

// lastNumber is the last number of a text.
func lastNumber(text string) (float64, bool) {
	all := number.FindAllString(text, -1)
	for i := len(all) - 1; i >= 0; i-- {
		if v, err := strconv.ParseFloat(strings.ReplaceAll(all[i], ",", ""), 64); err == nil {
			return v, true
		}
	}
	return 0, false
}

func numeric(a Answer, name string, pattern *regexp.Regexp) (float64, error) {
	text, err := column(a, name)
	if err != nil {
		return 0, err
	}
	want, ok := lastNumber(text)
	if !ok {
		return 0, fail.Inputf("train.rewards", "numeric compares numbers, exact texts", "column %q of a row has no number: %.80q", name, text)
	}
	given, ok := taken(a.Text, pattern)
	if !ok {
		return 0, nil
	}
	got, ok := lastNumber(given)
	return truth(ok && math.Abs(got-want) <= 1e-6*max(1, math.Abs(want))), nil
}

// tagName is what a tag may be called.
var tagName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

// tagPattern matches texts that stand in tags, in order, with nothing but space
// around them.
func tagPattern(where string, tags []string) (*regexp.Regexp, error) {
	var s strings.Builder
	s.WriteString(`(?s)^\s*`)
	for _, t := range tags {
		if !tagName.MatchString(t) {
			return nil, fail.Usagef(where, "tags: [think, answer]", "%q is no name of a tag", t)
		}
		fmt.Fprintf(&s, `<%s>.*</%s>\s*`, regexp.QuoteMeta(t), regexp.QuoteMeta(t))
	}
	s.WriteString(`$`)
	return regexp.Compile(s.String())
}

// tagged is 1 for a text that stands in the tags, each of which it has once.
func tagged(re *regexp.Regexp, tags []string, text string) float64 {
	for _, t := range tags {
		if strings.Count(text, "<"+t+">") != 1 || strings.Count(text, "</"+t+">") != 1 {
			return 0
		}
	}
	return truth(re.MatchString(text))
}

// keeps is 1 for a JSON text that keeps a schema.
func keeps(schema *jsonschema.Schema, text string) float64 {
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	return truth(err == nil && schema.Validate(v) == nil)
}
