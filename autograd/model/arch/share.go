package arch

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats"
)

// share lets the last n layers see the keys and values of the last layer before
// them with a window like theirs, or without one as they.
func (s *Spec) share(n int) error {
	own := len(s.Layers) - n
	if n == 0 {
		return nil
	}
	if n < 0 || own <= 0 {
		return fmt.Errorf("%d of %d layers see keys of earlier ones", n, len(s.Layers))
	}
	all := s.attentions()
	lenders := map[int]bool{}
	for _, a := range all[own:] {
		lender := own - 1
		for lender >= 0 && (all[lender].Window > 0) != (a.Window > 0) {
			lender--
		}
		if lender < 0 {
			return fmt.Errorf("no layer before the last %d has a window of %d, whose keys they could see", n, a.Window)
		}
		lenders[lender] = true
	}
	order := slices.Sorted(maps.Keys(lenders))
	for nth, i := range order {
		one, like := make([]bool, len(all)), make([]bool, len(all))
		one[i] = true
		for j := own; j < len(all); j++ {
			like[j] = (all[j].Window > 0) == (all[i].Window > 0)
		}
		s.vary(one, func(a *Attention) { a.Lends = true })
		s.vary(like, func(a *Attention) { a.Borrows = nth + 1 })
	}
	return nil
}

// shared is the number of layers that see the keys and values of others.
func (s *Spec) shared() int {
	n := 0
	for _, a := range s.attentions() {
		if a != nil && a.Borrows > 0 {
			n++
		}
	}
	return n
}

// dropSpare takes what nothing reads out of files: keys and values of layers that see
// those of others.
func (s *Source) dropSpare(files map[string]*formats.Tensor) {
	for i, a := range s.Spec.attentions() {
		if a == nil || a.Borrows == 0 {
			continue
		}
		prefixes := []string{fmt.Sprintf("blk.%d.attn_k", i), fmt.Sprintf("blk.%d.attn_v", i)}
		if s.Reader.Format() != "gguf" {
			own := s.LayerPath(i) + ".self_attn."
			prefixes = []string{own + "k_", own + "v_"}
		}
		maps.DeleteFunc(files, func(name string, _ *formats.Tensor) bool {
			return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
		})
	}
}
