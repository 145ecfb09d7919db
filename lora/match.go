package lora

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dlclark/regexp2/v2"

	"github.com/tunekit/tunekit/formats/fail"
)

// Module is what matching needs to know about a layer that could take an adapter.
type Module struct {
	Path  string // Hugging Face module path: model.layers.0.self_attn.q_proj
	Param string // set for a parameter of the module, which target_parameters chooses: gate_up_proj
	Kind  Kind
	Head  bool // the output layer; all-linear leaves it out
	Bias  bool // it has a bias
	index int
}

// name is what patterns see.
func (m Module) name() string {
	if m.Param == "" {
		return m.Path
	}
	return m.Path + "." + m.Param
}

// storedPaths are the paths under which PEFT keeps the adapters of chosen: a
// module's, or of parameters of one module, which it wraps one after another,
// those of the wrappers: the last one is outermost.
func storedPaths(chosen []Module) []string {
	out := make([]string, len(chosen))
	for i, m := range chosen {
		out[i] = m.Path
		for _, n := range chosen[i+1:] {
			if m.Param != "" && n.Path == m.Path {
				out[i] += ".base_layer"
			}
		}
	}
	return out
}

// Kind is what a module is.
type Kind uint8

// The kinds of module.
const (
	LinearModule Kind = iota
	EmbeddingModule
	OtherModule // can be saved, not adapted
)

// Match returns the modules that c gives an adapter, in the order of mods. A
// name, pattern or layer that matches nothing is an error (PEFT ignores most of
// these). See peft/tuners/tuners_utils.py, check_target_module_exists.
func Match(c Config, mods []Module) ([]Module, error) {
	m, err := newMatcher(c)
	if err != nil {
		return nil, err
	}
	var out []Module
	for _, mod := range mods {
		ok, err := m.target(mod)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, mod)
		}
	}
	if err := m.unmatched(mods); err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, fail.Usagef("lora.target_modules", "modules are called "+examples(mods), "target_modules %s matches no module", c.TargetModules)
	}
	return out, m.patterns(out)
}

type matcher struct {
	c               Config
	target_, except *regexp2.Regexp
	used            map[string]bool // names of target_modules and exclude_modules that matched
	layers          map[int]bool    // layers that matched
}

func newMatcher(c Config) (*matcher, error) {
	m := &matcher{c: c, used: map[string]bool{}, layers: map[int]bool{}}
	var err error
	if m.target_, err = compile("lora.target_modules", c.TargetModules.Regex); err != nil {
		return nil, err
	}
	m.except, err = compile("lora.exclude_modules", c.ExcludeModules.Regex)
	return m, err
}

// compile makes a regular expression that must match from end to end. Python's
// syntax; a backtracking limit in time guards against patterns that explode.
func compile(where, expr string) (*regexp2.Regexp, error) {
	if expr == "" {
		return nil, nil
	}
	re, err := regexp2.Compile(`\A(?:`+expr+`)\z`, regexp2.OptionMaxBacktrackingStackSize(1<<20))
	if err != nil {
		return nil, fail.Usagef(where, "a list of names needs brackets: [q_proj, v_proj]", "%q is no regular expression: %w", expr, err)
	}
	re.MatchTimeout = 2 * time.Second
	return re, nil
}

// target says whether mod gets an adapter.
func (m *matcher) target(mod Module) (bool, error) {
	if mod.Kind == OtherModule {
		return false, nil
	}
	if mod.Param != "" {
		return m.parameter(mod), nil
	}
	if out, err := m.listed("exclude_modules", m.c.ExcludeModules, m.except, mod); out || err != nil {
		return false, err
	}
	if m.c.TargetModules.All && (mod.Kind != LinearModule || mod.Head) {
		return false, nil
	}
	in, err := m.listed("target_modules", m.c.TargetModules, m.target_, mod)
	if !in || err != nil {
		return false, err
	}
	// PEFT applies layers_to_transform to suffixes, not to whole paths or expressions.
	whole := m.c.TargetModules.Regex != "" || slices.Contains(m.c.TargetModules.Names, mod.Path)
	if len(m.c.Layers) == 0 || whole {
		return true, nil
	}
	n, ok := layerOf(mod.Path, m.c.LayersPattern)
	if !ok || !slices.Contains(m.c.Layers, n) {
		return false, nil
	}
	m.layers[n] = true
	return true, nil
}

// parameter says whether target_parameters chooses mod.
func (m *matcher) parameter(mod Module) bool {
	found := false
	for _, name := range m.c.TargetParameters {
		if mod.name() == name || strings.HasSuffix(mod.name(), "."+name) {
			m.used["target_parameters "+name] = true
			found = true
		}
	}
	return found
}

// listed says whether t chooses mod, and notes which name did.
func (m *matcher) listed(key string, t Targets, re *regexp2.Regexp, mod Module) (bool, error) {
	if re != nil {
		ok, err := re.MatchString(mod.Path)
		if err != nil {
			return false, fail.Usagef("lora."+key, "make the expression simpler", "matching %q against %s: %w", t.Regex, mod.Path, err)
		}
		return ok, nil
	}
	found := t.All
	for _, name := range t.Names {
		if mod.Path == name || strings.HasSuffix(mod.Path, "."+name) {
			m.used[key+" "+name] = true
			found = true
		}
	}
	return found, nil
}

// unmatched reports the first name or layer that chose nothing.
func (m *matcher) unmatched(mods []Module) error {
	for _, l := range []struct {
		key string
		t   Targets
	}{{"target_modules", m.c.TargetModules}, {"exclude_modules", m.c.ExcludeModules}, {"target_parameters", Targets{Names: m.c.TargetParameters}}} {
		for _, name := range l.t.Names {
			if !m.used[l.key+" "+name] {
				return fail.Usagef("lora."+l.key, "modules are called "+examples(mods), "%s: %q matches no module", l.key, name)
			}
		}
	}
	if m.c.TargetModules.Regex != "" {
		return nil
	}
	for _, n := range m.c.Layers {
		if !m.layers[n] {
			return fail.Usagef("lora.layers_to_transform", "layers are numbered from 0", "layers_to_transform: layer %d has no chosen module", n)
		}
	}
	return nil
}

// patterns checks that every entry of rank_pattern and alpha_pattern is the
// one that counts for at least one module.
func (m *matcher) patterns(chosen []Module) error {
	for _, l := range []struct {
		key string
		p   Pattern
	}{{"rank_pattern", m.c.RankPattern}, {"alpha_pattern", m.c.AlphaPattern}} {
		used := map[int]bool{}
		for _, mod := range chosen {
			i, err := l.p.find(mod.name())
			if err != nil {
				return err
			}
			used[i] = true
		}
		for i, e := range l.p {
			if !used[i] {
				return fail.Usagef("lora."+l.key, "modules are called "+examples(chosen), "%s: %q matches no module with an adapter", l.key, e.Key)
			}
		}
	}
	return nil
}

// Get returns the value of the first entry whose key matches path: a regular
// expression for its last parts (peft.utils.other.get_pattern_key).
func (p Pattern) Get(path string) (float64, bool, error) {
	i, err := p.find(path)
	if i < 0 || err != nil {
		return 0, false, err
	}
	return p[i].Value, true, nil
}

func (p Pattern) find(path string) (int, error) {
	for i, e := range p {
		re, err := compile("lora.rank_pattern", `(.*\.)?(`+e.Key+`)`)
		if err != nil {
			return -1, err
		}
		ok, err := re.MatchString(path)
		if err != nil {
			return -1, fail.Usagef("lora.rank_pattern", "make the expression simpler", "matching %q against %s: %w", e.Key, path, err)
		}
		if ok {
			return i, nil
		}
	}
	return -1, nil
}

// layerOf finds the number of the layer a module belongs to: the number after
// the last component that has one, or after one of names.
func layerOf(path string, names []string) (int, bool) {
	parts := strings.Split(path, ".")
	for i := len(parts) - 2; i >= 2; i-- {
		n, err := strconv.Atoi(parts[i])
		if err == nil && n >= 0 && (len(names) == 0 || slices.Contains(names, parts[i-1])) {
			return n, true
		}
	}
	return 0, false
}

// examples names a few modules for a hint.
func examples(mods []Module) string {
	var names []string
	for _, m := range mods {
		last := m.name()[strings.LastIndexByte(m.name(), '.')+1:]
		if m.Kind != OtherModule && !slices.Contains(names, last) {
			names = append(names, last)
		}
	}
	if len(names) > 12 {
		names = append(names[:12], "…")
	}
	if len(mods) == 0 {
		return "nothing: the model has none"
	}
	return fmt.Sprintf("%s; a whole one is %s", strings.Join(names, ", "), mods[0].Path)
}
