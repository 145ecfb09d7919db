package merge

import (
	"math"
	"slices"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// vectors is arithmetic with the differences of models to their base (Ilharco et al.
// 2022, arXiv:2212.04089): each is pruned, times its weight; with consensus a value
// counts where its sign is that of the sum (TIES: Yadav et al. 2023,
// arXiv:2306.01708), and a sum of exactly 0 counts as above.
type vectors struct {
	// prune marks the values of model i's difference d that stay; nil: all do.
	prune     func(t *tensor, p part, keep []bool) error
	consensus bool
}

// merge is base + λ·Σ w·d, with normalize divided by the sum of the weights that
// count.
func (v vectors) merge(t *tensor) ([]float32, error) {
	if len(t.in) == 0 {
		return t.base, nil
	}
	t.subtract()
	if v.prune != nil {
		keep := make([]bool, len(t.base))
		for _, p := range t.in {
			if p.each["density"] >= 1 {
				continue
			}
			if err := v.prune(t, p, keep); err != nil {
				return nil, err
			}
			cut(p.w, keep, t.on("rescale"))
		}
	}
	ws, total := t.weights(), float32(0)
	for _, w := range ws {
		total += w
	}
	if max(total, -total) < 1e-8 {
		total = 1
	}
	divide, lambda := t.on("normalize"), float32(t.all["lambda"])
	each(len(t.base), func(i int) {
		mixed, divisor := float32(0), total
		if v.consensus {
			mixed, divisor = t.agreed(i, ws)
		} else {
			for j, p := range t.in {
				mixed += float32(ws[j] * p.w[i])
			}
		}
		if divide {
			mixed /= divisor
		}
		t.base[i] += float32(mixed * lambda)
	})
	return t.base, nil
}

// agreed sums the weighted values at i whose sign is that of the sum of all, and
// their weights (1 where these are nothing).
func (t *tensor) agreed(i int, ws []float32) (mixed, divisor float32) {
	all := float32(0)
	for j, p := range t.in {
		all += float32(ws[j] * p.w[i])
	}
	for j, p := range t.in {
		if x := float32(ws[j] * p.w[i]); x > 0 && all >= 0 || x < 0 && all < 0 {
			mixed += x
			divisor += ws[j]
		}
	}
	if divisor == 0 {
		divisor = 1
	}
	return mixed, divisor
}

// cut sets what is not kept to 0. With rescale the sum of magnitudes stays what it
// was: mergekit's meaning, where the papers divide by the density.
func cut(d []float32, keep []bool, rescale bool) {
	magnitudes := func() float64 { return sum(len(d), func(i int) float64 { return math.Abs(float64(d[i])) }) }
	before := 0.0
	if rescale {
		before = magnitudes()
	}
	each(len(d), func(i int) {
		if !keep[i] {
			d[i] = 0
		}
	})
	if !rescale {
		return
	}
	after := magnitudes()
	if before < 1e-7 || after < 1e-7 {
		return
	}
	f := float32(before / after)
	each(len(d), func(i int) { d[i] *= f })
}

// largest keeps the share density of the largest magnitudes: one at least, unless the
// density is 0.
func largest(t *tensor, p part, keep []bool) error {
	k := int(p.each["density"] * float64(len(p.w)))
	if p.each["density"] > 0 {
		k = max(k, 1)
	}
	Largest(p.w, k, keep)
	return nil
}

// Largest marks the k values of w with the largest magnitudes; of equal ones the first.
func Largest(w []float32, k int, keep []bool) {
	if k <= 0 {
		clear(keep)
		return
	}
	bound, below := ranked32(w, len(w)-k)
	ties := k - (len(w) - below) // how many of those at the bound are too many, below 0
	for _, x := range w {
		if magnitude(x) == bound {
			ties++
		}
	}
	for i, x := range w {
		m := magnitude(x)
		if keep[i] = m > bound; m == bound && ties > 0 {
			keep[i] = true
			ties--
		}
	}
}

// middle keeps the share density that is left when the share gamma of the largest
// magnitudes and then the smallest are taken away (Davari and Belilovsky 2023,
// arXiv:2312.06795).
func middle(t *tensor, p part, keep []bool) error {
	n := len(p.w)
	top := int(p.each["gamma"] * float64(n))
	bottom := n - int(p.each["density"]*float64(n)) - top
	if bottom < 0 {
		top, bottom = top+bottom, 0
	}
	clear(keep)
	lo, hi := bottom, n-top
	if lo >= hi {
		return nil
	}
	least, under := ranked32(p.w, lo)
	most, beneath := ranked32(p.w, hi-1)
	for i, x := range p.w { // of equal ones the first are the smaller
		switch m := magnitude(x); {
		case m == least:
			keep[i] = under >= lo && under < hi
			under++
		case m == most:
			keep[i] = beneath < hi
			beneath++
		default:
			keep[i] = m > least && m < most
		}
	}
	return nil
}

// magnitude is |x| as bits, in the order of values.
func magnitude(x float32) uint32 { return math.Float32bits(x) &^ (1 << 31) }

// ranked32 is the magnitude of which rank values of w are smaller or stand before
// it, and how many are smaller.
func ranked32(w []float32, rank int) (bits uint32, below int) {
	for _, shift := range []uint{16, 0} {
		count := make([]int, 1<<16)
		for _, x := range w {
			if m := magnitude(x); shift == 16 || m>>16 == bits>>16 {
				count[m>>shift&0xffff]++
			}
		}
		for i, n := range count {
			if below+n > rank {
				bits |= uint32(i) << shift
				break
			}
			below += n
		}
	}
	return bits, below
}

// random keeps a value with probability density (DARE: Yu et al. 2023,
// arXiv:2311.03099).
func random(t *tensor, p part, keep []bool) error {
	word := t.words(p)
	bound := share(p.each["density"])
	each(len(keep), func(i int) { keep[i] = uint64(word(i)) < bound })
	return nil
}

// ranked keeps a value with a probability that grows with the rank of its magnitude
// in its row, from density-epsilon to density+epsilon (DELLA: Deep et al. 2024,
// arXiv:2406.11617).
func ranked(t *tensor, p part, keep []bool) error {
	density, eps := p.each["density"], p.each["epsilon"]
	if density <= 0 {
		clear(keep)
		return nil
	}
	if density+eps >= 1 || density-eps <= 0 {
		return fail.Usagef("", "choose an epsilon that keeps both between 0 and 1", "%s: density %g ± epsilon %g leaves (0, 1)", p.model, density, eps)
	}
	word := t.words(p)
	order := make([]int, t.cols)
	for r := range t.rows {
		row := p.w[r*t.cols : (r+1)*t.cols]
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(a, b int) int { return int(magnitude(row[a])) - int(magnitude(row[b])) })
		for rank, i := range order {
			prob := density
			if t.cols > 1 {
				prob += eps * (2*float64(rank)/float64(t.cols-1) - 1)
			}
			keep[r*t.cols+i] = uint64(word(r*t.cols+i)) < share(prob)
		}
	}
	return nil
}

// share is a probability as a bound of 32-bit words.
func share(p float64) uint64 { return uint64(p * (1 << 32)) }

// words are random words of one model's tensor, by place.
func (t *tensor) words(p part) func(i int) uint32 {
	return Words(t.seed, p.index, t.name)
}

// Words are uniform random words by place, for a seed, the number of a model and
// the name of a tensor.
func Words(seed uint64, model int, name string) func(i int) uint32 {
	h := uint64(14695981039346656037) // FNV-1a
	for _, b := range []byte(name) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	d := kernels.Drop{Seed: seed, Site: uint32(model)}
	row := d.DropRow(int64(h))
	return func(i int) uint32 { return kernels.DropWord(row, i) }
}
