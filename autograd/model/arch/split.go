package arch

import "fmt"

// Split says what keeps n devices from sharing the matrices of the model evenly, as
// tensor parallelism does: heads, and rows of feed-forward parts, go to one device
// whole; keys may be copied where there are fewer heads of them. "": nothing. group is
// the largest of 128, 64 and 32 columns that are together on one device in the matrices
// whose columns are shared out, 0 for none: quantized groups must not be cut.
func (s *Spec) Split(n int) (why string, group int) {
	group = 128
	columns := func(cols int) {
		for group >= 32 && cols/n%group != 0 {
			group /= 2
		}
		if group < 32 {
			group = 0
		}
	}
	check := func(what string, have int) {
		if why == "" && have%n != 0 {
			why = fmt.Sprintf("%d %s", have, what)
		}
		columns(have)
	}
	for _, l := range s.Layers {
		if a, ok := bodyOf[*Attention](l); ok {
			if why == "" && a.H%n != 0 {
				why = fmt.Sprintf("%d heads", a.H)
			}
			if why == "" && a.Borrows == 0 && a.K%n != 0 && n%a.K != 0 {
				why = fmt.Sprintf("%d key heads", a.K)
			}
			columns(a.H * a.D)
		}
		if a, ok := bodyOf[*MLA](l); ok {
			if why == "" && a.H%n != 0 {
				why = fmt.Sprintf("%d heads", a.H)
			}
			columns(a.H * a.V)
		}
		if f, ok := bodyOf[*MLP](l); ok {
			check("feed-forward rows", f.F)
		}
		if e, ok := bodyOf[*MoE](l); ok {
			check("feed-forward rows of an expert", e.F)
			if e.Shared > 0 {
				check("feed-forward rows of the shared expert", e.Shared)
			}
		}
	}
	return why, group
}
