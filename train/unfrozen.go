package train

import (
	"regexp"

	"github.com/dlclark/regexp2/v2"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/formats/fail"
)

// rowRange is how axolotl chooses some rows of a parameter.
var rowRange = regexp.MustCompile(`\[\d*:\d*\]$`)

// unfrozen returns the parameters whose names begin as one of patterns says, in
// their order; all without a pattern. One that matches nothing is an error.
func unfrozen(all []*autograd.Param, patterns []string) ([]*autograd.Param, error) {
	if len(patterns) == 0 {
		return all, nil
	}
	chosen := map[*autograd.Param]bool{}
	for _, text := range patterns {
		if rowRange.MatchString(text) {
			return nil, fail.Usagef("train.unfrozen_parameters", "train the whole matrix", "%q: rows of a parameter are not supported", text)
		}
		re, err := regexp2.Compile(`\A(?:`+text+`)`, regexp2.OptionMaxBacktrackingStackSize(1<<20))
		if err != nil {
			return nil, fail.Usagef("train.unfrozen_parameters", "a dot is any character, \\. a dot", "%q is no regular expression: %w", text, err)
		}
		found := false
		for _, p := range all {
			ok, err := re.MatchString(p.Name)
			if err != nil {
				return nil, fail.Usagef("train.unfrozen_parameters", "make the expression simpler", "matching %q against %s: %w", text, p.Name, err)
			}
			if ok {
				chosen[p], found = true, true
			}
		}
		if !found {
			return nil, fail.Usagef("train.unfrozen_parameters", "names are like "+all[len(all)/2].Name, "%q matches no parameter", text)
		}
	}
	var out []*autograd.Param
	for _, p := range all {
		if chosen[p] {
			out = append(out, p)
		}
	}
	return out, nil
}
