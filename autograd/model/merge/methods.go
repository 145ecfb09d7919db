package merge

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
)

// method is one way to combine the tensors of one name.
type method struct {
	name string
	all  []parameter // one value for a tensor
	each []parameter // one for every model's tensor
	base need
	// few and most are how many models there are beside the base; 0: any number.
	few, most int
	merge     func(t *tensor) ([]float32, error)
}

// parameter is one that a method has.
type parameter struct {
	name     string
	value    float64 // where it is not given
	required bool
	lo, hi   float64 // what it may be
}

// need says what base_model is to a method.
type need uint8

const (
	alike    need = iota // one of the models
	optional             // apart from the others, where there is one
	required             // apart from the others
)

const inf = 1e30

var (
	weight    = parameter{name: "weight", required: true, lo: -inf, hi: inf}
	normalize = parameter{name: "normalize", value: 1, lo: 0, hi: 1}
	epsilon   = parameter{name: "epsilon", value: 1e-5, hi: inf}
	int8Mask  = parameter{name: "int8_mask", hi: 1} // the type of masks in memory, which changes no result
)

// methods is the table of merge methods. A new one is a line here and a function.
var methods = []method{
	{name: "linear", all: []parameter{normalize}, each: []parameter{weight}, merge: linear},
	{name: "slerp", all: []parameter{{name: "t", required: true, lo: -inf, hi: inf}}, base: required, few: 1, most: 1, merge: slerp},
	{name: "nuslerp", all: []parameter{{name: "nuslerp_row_wise", hi: 1}, {name: "nuslerp_flatten", value: 1, hi: 1}}, each: []parameter{weight},
		base: optional, few: 2, most: 2, merge: nuslerp},
	{name: "multislerp", all: []parameter{{name: "normalize_weights", value: 1, hi: 1}, {name: "eps", value: 1e-8, hi: 1}}, each: []parameter{weight},
		base: optional, merge: multislerp},
	{name: "karcher", all: []parameter{{name: "max_iter", value: 10, lo: 1, hi: 1e6}, {name: "tol", value: 1e-5, hi: 1}},
		each: []parameter{{name: "weight", value: 1, hi: inf}}, merge: karcher},
	{name: "model_stock", all: []parameter{{name: "filter_wise", hi: 1}}, base: required, few: 2, merge: modelStock},
	{name: "sce", all: []parameter{int8Mask, {name: "select_topk", value: 1, hi: 1}}, base: required, merge: sce},
	{name: "nearswap", all: []parameter{{name: "t", required: true, lo: 0, hi: inf}}, base: required, few: 1, most: 1, merge: nearswap},
	{name: "arcee_fusion", base: required, few: 1, most: 1, merge: arceeFusion},
	{name: "ram", all: []parameter{epsilon}, base: required, merge: ram},
	{name: "ramplus_tl", all: []parameter{{name: "r", value: 0.1, lo: -inf, hi: inf}, {name: "alpha", value: 0.2, hi: inf}, epsilon}, base: required, merge: ram},
	{name: "passthrough", each: []parameter{{name: "scale", value: 1, lo: -inf, hi: inf}}, few: 1, most: 1, merge: passthrough},

	taskVectors("task_arithmetic", vectors{}, 0, 0),
	taskVectors("ties", vectors{prune: largest, consensus: true}, 1, 0),
	taskVectors("dare_linear", vectors{prune: random}, 0, 1),
	taskVectors("dare_ties", vectors{prune: random, consensus: true}, 0, 1),
	taskVectors("breadcrumbs", vectors{prune: middle}, 0, 0, parameter{name: "gamma", value: 0.01, hi: 1}),
	taskVectors("breadcrumbs_ties", vectors{prune: middle, consensus: true}, 0, 0, parameter{name: "gamma", value: 0.01, hi: 1}),
	taskVectors("della", vectors{prune: ranked, consensus: true}, 1, 1, parameter{name: "epsilon", value: 0.15, hi: 1}),
	taskVectors("della_linear", vectors{prune: ranked}, 0, 1, parameter{name: "epsilon", value: 0.15, hi: 1}),
}

// taskVectors is the row of a method of task arithmetic with its defaults of
// normalize and rescale.
func taskVectors(name string, v vectors, norm, rescale float64, more ...parameter) method {
	n := normalize
	n.value = norm
	return method{name: name, base: required, merge: v.merge,
		all:  []parameter{int8Mask, n, {name: "rescale", value: rescale, hi: 1}, {name: "lambda", value: 1, lo: -inf, hi: inf}},
		each: append([]parameter{weight, {name: "density", value: 1, hi: 1}}, more...)}
}

// Methods lists the names of the methods.
func Methods() []string {
	var out []string
	for i := range methods {
		out = append(out, methods[i].name)
	}
	return out
}

func methodOf(name string) *method {
	for i := range methods {
		if methods[i].name == name {
			return &methods[i]
		}
	}
	return nil
}

// knows refuses parameters that the method does not have, or not for one model.
func (m *method) knows(p Parameters, place string, ofModel bool) error {
	var names []string
	for _, x := range m.each {
		names = append(names, x.name)
	}
	for _, x := range m.all {
		if ofModel && p[x.name] != nil {
			return fail.Usagef("", "give it under parameters, for all models", "%s: %s is no parameter of one model", place, x.name)
		}
		if !ofModel {
			names = append(names, x.name)
		}
	}
	for _, name := range sortedNames(p) {
		if !slices.Contains(names, name) {
			hint := "it has " + strings.Join(names, ", ")
			if len(names) == 0 {
				hint = "it has none here"
			}
			return fail.Usagef("", hint, "%s: %s has no parameter %s", place, m.name, name)
		}
	}
	return nil
}

// accepts refuses numbers of models that the method has no meaning for; others are
// those beside the base.
func (m *method) accepts(base bool, others int) error {
	switch {
	case m.base == required && !base:
		return fail.Usagef("", "name it as base_model", "merge_method %s needs a base_model", m.name)
	case others < m.few || m.most > 0 && others > m.most:
		want := fmt.Sprint(m.few)
		if m.most == 0 {
			want += " or more"
		}
		return fail.Usagef("", "", "merge_method %s merges %s models beside base_model, found %d", m.name, want, others)
	}
	return nil
}

func sortedNames(p Parameters) []string { return slices.Sorted(maps.Keys(p)) }
