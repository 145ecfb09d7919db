package schema

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Size is a number of bytes: "8GiB", "8Gi" and "8G" are binary, "8GB" decimal.
type Size int64

var sizeUnits = []struct {
	suffix string
	factor float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"T", 1 << 40},
	{"B", 1}, {"", 1},
}

// ParseSize reads a size as recipes and flags write it.
func ParseSize(s string) (Size, error) {
	for _, u := range sizeUnits {
		num, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		f, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
		if err != nil || !(f*u.factor >= 1) || f*u.factor > 1<<62 {
			break
		}
		return Size(f * u.factor), nil
	}
	return 0, fmt.Errorf("found %q, want a size above 0 such as 8GiB or 500MB", s)
}

// SetYAML reads a size.
func (s *Size) SetYAML(n *yaml.Node) (err error) {
	*s, err = ParseSize(n.Value)
	return err
}

// Auto is a whole number, a share of 1, or "auto" (the zero value).
type Auto struct {
	Set   bool
	Value float64
}

// SetYAML reads a number, a percentage or auto.
func (a *Auto) SetYAML(n *yaml.Node) error {
	if n.Value == "auto" {
		*a = Auto{}
		return nil
	}
	v := strings.TrimSuffix(n.Value, "%")
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || quoted(n) {
		return fmt.Errorf("found %q, want a number or auto", n.Value)
	}
	if v != n.Value {
		f /= 100
	}
	*a = Auto{true, f}
	return nil
}

// Names is one name or a list of them.
type Names []string

// SetYAML reads a name or a list.
func (l *Names) SetYAML(n *yaml.Node) error {
	*l = Names{}
	items := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		items = n.Content
	}
	for _, it := range items {
		if it = Deref(it); it.Kind != yaml.ScalarNode {
			return fmt.Errorf("found %s, want a name or a list of names", describe(it))
		}
		*l = append(*l, it.Value)
	}
	return nil
}

// Bound is a limit of a gate: "1%" is relative, 0.01 absolute.
type Bound struct {
	Set      bool
	Value    float64
	Relative bool
}

// ParseBound reads a bound as recipes and flags write it.
func ParseBound(s string) (Bound, error) {
	v := strings.TrimSuffix(s, "%")
	f, err := strconv.ParseFloat(v, 64)
	if err != nil {
		return Bound{}, fmt.Errorf("found %q, want a number, or a percentage such as 1%%", s)
	}
	b := Bound{Set: true, Value: f, Relative: v != s}
	if b.Relative {
		b.Value /= 100
	}
	return b, nil
}

// SetYAML reads a number or a percentage.
func (b *Bound) SetYAML(n *yaml.Node) (err error) {
	*b, err = ParseBound(n.Value)
	return err
}

// String is the size as recipes write it, exactly.
func (s Size) String() string {
	best := strconv.FormatInt(int64(s), 10)
	for _, u := range sizeUnits {
		f := int64(u.factor)
		if f > 1 && strings.HasSuffix(u.suffix, "B") && int64(s)%f == 0 {
			if t := fmt.Sprintf("%d%s", int64(s)/f, u.suffix); len(t) <= len(best) {
				best = t
			}
		}
	}
	return best
}

// String is the form that SetYAML reads.
func (a Auto) String() string {
	if !a.Set {
		return "auto"
	}
	return strconv.FormatFloat(a.Value, 'g', -1, 64)
}

// String is the form that SetYAML reads.
func (b Bound) String() string {
	if b.Relative {
		return strconv.FormatFloat(b.Value*100, 'g', 12, 64) + "%"
	}
	return strconv.FormatFloat(b.Value, 'g', -1, 64)
}
