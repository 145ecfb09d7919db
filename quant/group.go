package quant

import (
	"fmt"

	"github.com/tunekit/tunekit/formats/fail"
)

// linear is one matrix that is to be quantized.
type linear struct {
	name       string // module path
	rows, cols int
	own        *Override // what it is quantized to; nil: as all others
}

// groupSizes are what group_size: auto chooses from, the largest first.
var groupSizes = []int{128, 64, 32}

// resolveGroup checks an explicit group size, or chooses one that divides the
// rows of every layer. 0 stands for auto, -1 for the whole row.
func resolveGroup(group int, layers []linear, undivided string) (int, error) {
	switch {
	case group == -1:
		return -1, nil
	case group > 0:
		return group, checkGroup(group, layers, undivided)
	case group < 0:
		return 0, fail.Usagef("group_size", "auto, -1 for the whole row, or a positive number", "group_size is %d", group)
	}
	if g := autoGroup(layers); g > 0 {
		return g, nil
	}
	return 0, fail.Usagef("group_size", undivided, "none of 128, 64 and 32 divides the rows of every layer: %s", listUndivided(32, layers))
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

// undivided is what to do where no usual group divides the rows of all layers.
func (m *Method) undivided() string {
	if m.words {
		return "put these layers into ignore: EXL2's groups are whole words of 32 columns"
	}
	return "group_size: -1 makes one group of a row"
}

func checkGroup(group int, layers []linear, undivided string) error {
	if bad := listUndivided(group, layers); bad != "" {
		hint := undivided
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
