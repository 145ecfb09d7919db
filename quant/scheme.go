package quant

import (
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Scheme is what weights become, under the name that llm-compressor gives it.
type Scheme struct {
	Name string
	// Weight is their storage type. Group 0 leaves the columns that share a
	// scale to the job, and the type of the scales to the folder's layout.
	Weight dtype.Type
	// Act is what the inputs of the layers are rounded to where the folder is run,
	// token by token; the zero Type: nothing.
	Act dtype.Type
}

var schemes = []Scheme{
	{Name: "W4A16", Weight: dtype.Type{Kind: dtype.Int4}},
	{Name: "W4A16_ASYM", Weight: dtype.Type{Kind: dtype.Int4, Flags: dtype.Zero}},
	{Name: "W8A16", Weight: dtype.Type{Kind: dtype.Int8}},
	{Name: "W8A16_ASYM", Weight: dtype.Type{Kind: dtype.Int8, Flags: dtype.Zero}},
	{Name: "W3A16", Weight: dtype.Type{Kind: dtype.Int3}},
	{Name: "W3A16_ASYM", Weight: dtype.Type{Kind: dtype.Int3, Flags: dtype.Zero}},
	{Name: "W2A16", Weight: dtype.Type{Kind: dtype.Int2}},
	{Name: "W2A16_ASYM", Weight: dtype.Type{Kind: dtype.Int2, Flags: dtype.Zero}},
	{Name: "W5A16", Weight: dtype.Type{Kind: dtype.Int5}},
	{Name: "W6A16", Weight: dtype.Type{Kind: dtype.Int6}},
	{Name: "W8A8", Weight: dtype.Type{Kind: dtype.Int8, Group: -1}, Act: formats.ActInt8},
	{Name: "FP8_DYNAMIC", Weight: dtype.Type{Kind: dtype.F8E4M3, Group: -1}, Act: formats.ActFP8},
	{Name: "FP8_BLOCK", Weight: dtype.Type{Kind: dtype.F8E4M3, Group: block.FloatRows}, Act: formats.ActFP8Block},
	{Name: "NVFP4A16", Weight: dtype.Type{Kind: dtype.F4E2M1, Group: 16, Scale: dtype.F8E4M3, Flags: dtype.Nested | dtype.Inverse}},
	{Name: "MXFP4A16", Weight: dtype.Type{Kind: dtype.F4E2M1, Group: 32, Scale: dtype.F8E8M0}},
	{Name: "NF4", Weight: dtype.Type{Kind: dtype.NF4, Group: 64}},
	{Name: "FP4", Weight: dtype.Type{Kind: dtype.FP4, Group: 64}},
	{Name: "INT8", Weight: dtype.Type{Kind: dtype.Int8, Group: -1}},
	{Name: exl2Mixed, Weight: dtype.Type{Kind: dtype.Int4, Flags: dtype.Perm}}, // widths are chosen later
}

// Schemes lists the names of the schemes, for help and errors.
func Schemes() []string {
	var names []string
	for _, s := range schemes {
		names = append(names, s.Name)
	}
	return names
}

// integerSchemes are integer codes in groups of columns, the usual one first.
func integerSchemes() []string {
	var names []string
	for _, s := range schemes {
		if s.Weight.Group == 0 && s.Name != exl2Mixed && !s.exl2Only() {
			names = append(names, s.Name)
		}
	}
	return names
}

// schemeNamed finds a scheme, ignoring case.
func schemeNamed(name string) (Scheme, error) {
	i := slices.IndexFunc(schemes, func(s Scheme) bool { return strings.EqualFold(s.Name, name) })
	if i < 0 {
		return Scheme{}, fail.Usagef("scheme", "one of "+strings.Join(Schemes(), ", "), "no scheme is called %q", name)
	}
	return schemes[i], nil
}

// exl2Only reports widths that no other layout holds.
func (s Scheme) exl2Only() bool { return s.Weight.Kind == dtype.Int5 || s.Weight.Kind == dtype.Int6 }

// checkFormat refuses a layout that cannot hold the codes of s.
func (s Scheme) checkFormat(format string) error {
	bits := s.Weight.Bits()
	switch {
	case format == formats.FP8 && !block.InTiles(s.Weight):
		return fail.Usagef("format", "use scheme: FP8_BLOCK", "the %s layout holds blocks of 8-bit floats, %s has none", format, s.Name)
	case s.Weight.ScaledFloat() && format != formats.CompressedTensors && format != formats.FP8:
		return fail.Usagef("format", "use format: compressed-tensors", "the %s layout has no floats, %s has", format, s.Name)
	case s.Act != dtype.Type{} && format != formats.CompressedTensors && format != formats.FP8:
		return fail.Usagef("format", "use format: compressed-tensors", "the %s layout has no room for what %s says of activations", format, s.Name)
	case format == formats.EXL2 && s.Weight.Flags&dtype.Zero != 0:
		return fail.Usagef("format", "use format: gptq", "EXL2 has no zero points, %s has", s.Name)
	case format != formats.EXL2 && s.exl2Only():
		return fail.Usagef("format", "use format: exl2", "the %s layout holds 2, 3, 4 or 8 bits a weight, %s has %d", format, s.Name, bits)
	case format == formats.AWQ && bits != 4:
		return fail.Usagef("format", "use format: gptq", "the AWQ layout holds 4 bits a weight, %s has %d", s.Name, bits)
	case format == formats.CompressedTensors && bits < 4:
		return fail.Usagef("format", "use format: gptq", "pack-quantized holds 4 or 8 bits a weight, %s has %d", s.Name, bits)
	}
	return nil
}

// resolveGroup is the columns that share a scale: the scheme's own, 0 where its
// blocks are no columns, or what group asks for. undivided is what to do where no group
// divides the rows of all layers.
func (s Scheme) resolveGroup(group int, layers []linear, undivided string) (int, error) {
	switch own := int(s.Weight.Group); {
	case own == 0:
		return resolveGroup(group, layers, undivided)
	case own > 0 && group != 0 && group != own:
		return 0, fail.Usagef("group_size", "leave it out", "%s has blocks of %d columns, group_size is %d", s.Name, own, group)
	case s.Weight.Flat():
		return 0, nil
	case own > 0:
		return own, nil
	case group != 0 && group != own:
		return 0, fail.Usagef("group_size", "leave it out", "%s has one scale for every row, group_size is %d", s.Name, group)
	default:
		return own, nil
	}
}

// in is the storage type of weights in groups of columns in a layout. keep is
// the type of what stays unquantized: compressed-tensors scales have it, those of fp8 are
// F32, the others' F16.
func (s Scheme) in(format string, group int, keep dtype.Kind) dtype.Type {
	t := s.Weight
	if t.Flat() || t.Scale != dtype.F32 { // it says itself what its scales are
		return t
	}
	t.Group, t.Scale = int32(group), dtype.F16
	switch format {
	case formats.CompressedTensors:
		t.Scale = keep
	case formats.FP8:
		t.Scale = dtype.F32
	}
	return t
}
