package quant

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/recipes/schema"
)

// Method is a way of quantizing folders: one file that fills it in, and one
// line in methods. It has up to two parts, which jobs may combine with those of
// other methods: a search, which moves scales between the float layers of a
// block before any of them is rounded, and the rounding of one matrix.
type Method struct {
	Name    string     // on the command line, in recipes and reports
	Title   string     // a line of help
	Schemes []string   // that it makes; the first is taken when none is asked for
	Formats []string   // layouts that can hold its folders; the first is its own
	Options func() any // a new struct for its options, whose tags say all of them; nil: none

	// storage is the type of the quantized weights where options change it, and
	// refuses options that do not go with each other; nil: t.
	storage func(o any, format string, t dtype.Type) (dtype.Type, error)
	// check refuses what the plan, otherwise complete, would make; nil: nothing.
	check func(src *arch.Source, p *FolderPlan) error
	// meta is what the folder's configuration says of the rounding; nil: nothing.
	meta func(o any) map[string]any

	words   bool  // a row is never one group: groups are of 32 columns or a multiple
	needs   needs // what rounding must know of a layer's inputs
	inOrder bool  // a block's layers are rounded one after another, each for the inputs that the ones before it, rounded, make
	round   func(l *layer) (*matrixResult, error)

	searches needs                             // what the search must know
	search   func(r *blockRun, g *group) error // sets the group's scales; nil: none

	// mix chooses the types of the weights from the text, before any is rounded;
	// nil: the plan's own stay. With plan set it only counts memory.
	mix func(ctx context.Context, dev kernels.Backend, src *arch.Source, p *FolderPlan, calibration [][]int32, plan bool) error

	// work and searchWork are the floating-point operations of both parts for a
	// group of layers with in inputs and out outputs in all, on tokens tokens of
	// calibration text; nil: none worth counting.
	work, searchWork func(tokens, in, out float64) float64
}

// methods is what there is, in the order of help and errors.
var methods = []*Method{&rtnMethod, &gptqMethod, &awqMethod, &nf4Method, &int8Method, &hqqMethod, &smoothMethod, &exl2Method}

// needs are statistics of a layer's inputs over the calibration text.
type needs uint8

const (
	needHessian needs = 1 << iota // XᵀX
	needColumns                   // Σ|x| of each column
	needPeaks                     // max|x| of each column
	needInputs                    // the inputs themselves, where a part of a block judges the scales
	needNothing needs = 0
)

// Methods lists the methods.
func Methods() []*Method { return slices.Clone(methods) }

// FolderMethods lists the names of the methods, for help and errors.
func FolderMethods() []string {
	var names []string
	for _, m := range methods {
		names = append(names, m.Name)
	}
	return names
}

// SearchMethods lists the names of those whose search may go before another
// method's rounding.
func SearchMethods() []string {
	var names []string
	for _, m := range methods {
		if m.search != nil {
			names = append(names, m.Name)
		}
	}
	return names
}

// MethodNamed finds a method.
func MethodNamed(name string) (*Method, error) {
	i := slices.IndexFunc(methods, func(m *Method) bool { return m.Name == name })
	if i < 0 {
		return nil, fail.Usagef("method", "one of "+strings.Join(FolderMethods(), ", "), "no way of quantizing folders is called %q", name)
	}
	return methods[i], nil
}

// MethodFor is the only method that makes a scheme, nil when several do or none.
func MethodFor(scheme string) *Method {
	var only *Method
	for _, m := range methods {
		if slices.Contains(m.Schemes, scheme) {
			if only != nil {
				return nil
			}
			only = m
		}
	}
	return only
}

// Calibrated reports whether the method needs calibration text.
func (m *Method) Calibrated() bool { return m.needs != needNothing || m.search != nil }

// schemeFor finds a scheme that m can make.
func (m *Method) schemeFor(name string) (Scheme, error) {
	if name == "" {
		name = m.Schemes[0]
	}
	s, err := schemeNamed(name)
	if err == nil && !slices.Contains(m.Schemes, s.Name) {
		err = fail.Usagef("scheme", m.Name+" makes "+strings.Join(m.Schemes, ", "), "%s cannot make %s", m.Name, s.Name)
	}
	return s, err
}

// DefaultFormat is the first of the method's layouts that can hold a scheme.
func (m *Method) DefaultFormat(scheme string) string {
	s, err := schemeNamed(scheme)
	for _, f := range m.Formats {
		if err == nil && s.checkFormat(f) == nil {
			return f
		}
	}
	return m.Formats[0]
}

// formatFor finds a layout that m can be stored in.
func (m *Method) formatFor(name string, s Scheme) (string, error) {
	if name == "" {
		return m.DefaultFormat(s.Name), nil
	}
	if !slices.Contains(m.Formats, name) {
		return name, fail.Usagef("format", m.Name+" is stored as "+strings.Join(m.Formats, " or "), "%s cannot be stored in the format %q", m.Name, name)
	}
	return name, s.checkFormat(name)
}

// optionsOf are a job's options for m: a copy of what is given, what is not set
// filled from the tags.
func (m *Method) optionsOf(given any) (any, error) {
	var o any
	if m.Options != nil {
		o = m.Options()
	}
	if given != nil {
		if want, got := fmt.Sprintf("%T", o), fmt.Sprintf("%T", given); want != got {
			return nil, fail.Usagef("method", "", "%s takes options of the type %s, found %s", m.Name, want, got)
		}
		reflect.ValueOf(o).Elem().Set(reflect.ValueOf(given).Elem())
	}
	if o == nil {
		return nil, nil
	}
	schema.Fill(o)
	return o, schema.Check(m.Name, o)
}
