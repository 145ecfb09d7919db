package quant

import (
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Override gives the modules that match a scheme of their own.
type Override struct {
	Pattern string // a module name, the last parts of one, or re:regexp
	Scheme  string // of the job's method
	Group   int    // columns that share a scale; 0: as in the rest of the folder; -1: the whole row
}

// parseOverride reads PATTERN=SCHEME or PATTERN=SCHEME/GROUP.
func parseOverride(s string) (Override, error) {
	bad := fail.Usagef("overrides", "for example re:.*[.]mlp[.]=W8A16 or re:.*[.]0[.]=W4A16/32", "%q is not of the form PATTERN=SCHEME or PATTERN=SCHEME/GROUP", s)
	i := strings.LastIndexByte(s, '=')
	if i <= 0 {
		return Override{}, bad
	}
	o := Override{Pattern: s[:i], Scheme: s[i+1:]}
	name, group, ok := strings.Cut(o.Scheme, "/")
	if !ok {
		return o, nil
	}
	n, err := strconv.Atoi(group)
	if err != nil || n == 0 || n < -1 {
		return o, bad
	}
	o.Scheme, o.Group = name, n
	return o, nil
}

// ParseOverrides reads a list, in which the first match counts.
func ParseOverrides(list []string) ([]Override, error) {
	var out []Override
	for _, s := range list {
		o, err := parseOverride(s)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

// types chooses the storage type of every layer: the scheme's, or that of the
// override it matches.
func (p *FolderPlan) types(s Scheme, layers []linear) error {
	var err error
	if p.Type, err = p.typeIn(s, p.Group); err != nil {
		return err
	}
	for _, l := range layers {
		t, act := p.Type, s.Act
		if o := l.own; o != nil {
			own, err := p.method.schemeFor(o.Scheme)
			if err != nil {
				return err
			}
			if own.Name == exl2Mixed {
				return fail.Usagef("overrides", "a scheme of one width, such as W8A16", "%s does not say how many bits %s has", own.Name, l.name)
			}
			p.own[l.name] = true
			if err := own.checkFormat(p.Format); err != nil {
				return err
			}
			group := o.Group
			if group == 0 && own.Weight.Group == 0 {
				group = p.Group
			}
			if group, err = own.resolveGroup(group, []linear{l}, p.method.undivided()); err != nil {
				return err
			}
			act = own.Act
			if t, err = p.typeIn(own, group); err != nil {
				return err
			}
		}
		if t != p.Type && (p.Format == formats.AWQ || p.Format == formats.Bitsandbytes || p.Format == formats.FP8) {
			return fail.Usagef("overrides", "format: gptq or compressed-tensors", "%s would be %v and the others %v: the configuration of a folder in the format %s has room for one type", l.name, t, p.Type, p.Format)
		}
		p.Types[l.name], p.cut[l.name] = t, block.InTiles(t) && l.rows%block.FloatRows != 0
		if act != (dtype.Type{}) {
			p.Acts[l.name] = act
		}
	}
	return nil
}

// typeIn is a scheme's storage type under the job's options.
func (p *FolderPlan) typeIn(s Scheme, group int) (dtype.Type, error) {
	t := s.in(p.Format, group, p.keep)
	if p.method.storage == nil {
		return t, nil
	}
	return p.method.storage(p.options, p.Format, t)
}
