package quant

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// scheme is a width and a symmetry under the name that llm-compressor gives it.
type scheme struct {
	name string
	bits int
	sym  bool
}

var schemes = []scheme{
	{"W4A16", 4, true},
	{"W4A16_ASYM", 4, false},
	{"W8A16", 8, true},
	{"W8A16_ASYM", 8, false},
	{"W3A16", 3, true},
	{"W3A16_ASYM", 3, false},
	{"W2A16", 2, true},
	{"W2A16_ASYM", 2, false},
	{"NF4", 4, true},
}

// Schemes lists the names of the schemes, for help and errors.
func Schemes() []string {
	var names []string
	for _, s := range schemes {
		names = append(names, s.name)
	}
	return names
}

// method says what a way of quantizing folders needs and may be combined with.
type method struct {
	name       string
	calibrated bool
	scheme     string   // when none is given
	schemes    []string // nil: all but NF4
	formats    []string // the first is its own
}

var methods = []method{
	{"rtn", false, "W4A16", nil, []string{formats.GPTQ, formats.CompressedTensors, formats.AWQ}},
	{"gptq", true, "W4A16", nil, []string{formats.GPTQ, formats.CompressedTensors}},
	{"awq", true, "W4A16_ASYM", []string{"W4A16_ASYM", "W4A16"}, []string{formats.AWQ, formats.CompressedTensors}},
	{"nf4", false, "NF4", []string{"NF4"}, []string{formats.Bitsandbytes}},
}

// FolderMethods lists the names of the methods, for help and errors.
func FolderMethods() []string {
	var names []string
	for _, m := range methods {
		names = append(names, m.name)
	}
	return names
}

// Calibrated reports whether a method needs calibration text.
func Calibrated(name string) bool {
	m, err := methodNamed(name)
	return err == nil && m.calibrated
}

func methodNamed(name string) (*method, error) {
	i := slices.IndexFunc(methods, func(m method) bool { return m.name == name })
	if i < 0 {
		return nil, fail.Usagef("method", "one of "+strings.Join(FolderMethods(), ", "), "no way of quantizing folders is called %q", name)
	}
	return &methods[i], nil
}

// schemeFor finds a scheme that m can make.
func (m *method) schemeFor(name string) (scheme, error) {
	if name == "" {
		name = m.scheme
	}
	i := slices.IndexFunc(schemes, func(s scheme) bool { return strings.EqualFold(s.name, name) })
	if i < 0 {
		return scheme{}, fail.Usagef("scheme", "one of "+strings.Join(Schemes(), ", "), "no scheme is called %q", name)
	}
	s := schemes[i]
	ok := m.schemes
	if ok == nil {
		ok = slices.DeleteFunc(Schemes(), func(n string) bool { return n == "NF4" })
	}
	if !slices.Contains(ok, s.name) {
		return s, fail.Usagef("scheme", m.name+" makes "+strings.Join(ok, ", "), "%s cannot make %s", m.name, s.name)
	}
	return s, nil
}

// formatFor finds a layout that m can be stored in.
func (m *method) formatFor(name string, s scheme) (string, error) {
	if name == "" {
		return m.formats[0], nil
	}
	if !slices.Contains(m.formats, name) {
		return name, fail.Usagef("format", m.name+" is stored as "+strings.Join(m.formats, " or "), "%s cannot be stored in the format %q", m.name, name)
	}
	switch {
	case name == formats.AWQ && s.bits != 4:
		return name, fail.Usagef("format", "use format: gptq", "the AWQ layout holds 4 bits a weight, %s has %d", s.name, s.bits)
	case name == formats.CompressedTensors && s.bits < 4:
		return name, fail.Usagef("format", "use format: gptq", "pack-quantized holds 4 or 8 bits a weight, %s has %d", s.name, s.bits)
	}
	return name, nil
}

var intKinds = map[int]dtype.Kind{2: dtype.Int2, 3: dtype.Int3, 4: dtype.Int4, 8: dtype.Int8}

// intType is the storage type of a scheme's weights. keep is the type of what
// stays unquantized: compressed-tensors scales have it, the others' are F16.
func (s scheme) intType(format string, group int, perm bool, keep dtype.Kind) dtype.Type {
	t := dtype.Type{Kind: intKinds[s.bits], Group: int32(group), Scale: dtype.F16}
	if format == formats.CompressedTensors {
		t.Scale = keep
	}
	if !s.sym {
		t.Flags |= dtype.Zero
	}
	if perm {
		t.Flags |= dtype.Perm
	}
	return t
}

// linear is one matrix that is to be quantized.
type linear struct {
	name       string // module path
	rows, cols int
}

// groupSizes are what group_size: auto chooses from, the largest first.
var groupSizes = []int{128, 64, 32}

// resolveGroup checks an explicit group size, or chooses one that divides the
// rows of every layer. 0 stands for auto, -1 for the whole row.
func resolveGroup(group int, layers []linear) (int, error) {
	switch {
	case group == -1:
		return -1, nil
	case group > 0:
		return group, checkGroup(group, layers)
	case group < 0:
		return 0, fail.Usagef("group_size", "auto, -1 for the whole row, or a positive number", "group_size is %d", group)
	}
	if g := autoGroup(layers); g > 0 {
		return g, nil
	}
	return 0, fail.Usagef("group_size", "group_size: -1 makes one group of a row", "none of 128, 64 and 32 divides the rows of every layer: %s", listUndivided(32, layers))
}

// autoGroup is the largest usual group that divides all rows, 0 for none.
func autoGroup(layers []linear) int {
	for _, g := range groupSizes {
		if listUndivided(g, layers) == "" {
			return g
		}
	}
	return 0
}

func checkGroup(group int, layers []linear) error {
	if bad := listUndivided(group, layers); bad != "" {
		hint := "group_size: -1 makes one group of a row"
		if g := autoGroup(layers); g > 0 {
			hint = fmt.Sprintf("group_size: auto takes %d", g)
		}
		return fail.Usagef("group_size", hint, "group_size %d does not divide %s", group, bad)
	}
	return nil
}

// listUndivided names the first few layers whose rows a group does not divide.
func listUndivided(group int, layers []linear) string {
	var bad []linear
	for _, l := range layers {
		if l.cols%group != 0 {
			bad = append(bad, l)
		}
	}
	if len(bad) == 0 {
		return ""
	}
	s := fmt.Sprintf("%d columns (%s", bad[0].cols, bad[0].name)
	for _, l := range bad[1:min(len(bad), 3)] {
		s += ", " + l.name
	}
	if len(bad) > 3 {
		s += fmt.Sprintf(" and %d more", len(bad)-3)
	}
	return s + ")"
}
