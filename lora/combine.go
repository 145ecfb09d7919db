package lora

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd/model/merge"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/par"
)

// Combination says how adapters are made into one. Names and meanings are those of
// PEFT's add_weighted_adapter.
type Combination struct {
	Method   string  `yaml:"method" doc:"how several adapters are combined" enum:"cat|linear|svd|ties|ties_svd|dare_linear|dare_linear_svd|dare_ties|dare_ties_svd|magnitude_prune|magnitude_prune_svd" default:"cat"`
	Density  float64 `yaml:"density" doc:"share of values kept by ties, dare and magnitude_prune" range:"(0,1]"`
	Majority string  `yaml:"majority_sign_method" doc:"ties: sign of the sum, or of most" enum:"total|frequency" default:"total"`
	Rank     int     `yaml:"svd_rank" doc:"rank of the result of an svd" unset:"the largest of the adapters" range:"[1,65536]"`
}

// Sums reports whether the method adds the changes of the adapters as they are.
func (c Combination) Sums() bool { return c.Method == "" || c.Method == "cat" }

// pruning is what is done to values before they are added up.
type pruning uint8

const (
	pruneNone pruning = iota
	pruneMagnitude
	pruneRandom
)

// parts takes the name of a method apart.
func (c Combination) parts() (prune pruning, vote, svd bool) {
	name, svd := strings.CutSuffix(c.Method, "_svd")
	switch name {
	case "svd":
		svd = true
	case "ties":
		prune, vote = pruneMagnitude, true
	case "dare_linear":
		prune = pruneRandom
	case "dare_ties":
		prune, vote = pruneRandom, true
	case "magnitude_prune":
		prune = pruneMagnitude
	}
	return prune, vote, svd
}

// Check refuses options that do not go together.
func (c Combination) Check() error {
	prune, vote, svd := c.parts()
	switch {
	case prune != pruneNone && c.Density == 0:
		return fail.Usagef("density", "density: 0.5 keeps half of the values", "method %s needs a density", c.Method)
	case prune == pruneNone && c.Density != 0:
		return fail.Usagef("density", "methods with ties, dare and magnitude_prune have one", "method %s has no density", c.Method)
	case !svd && c.Rank != 0:
		return fail.Usagef("svd_rank", "methods with svd have one", "method %s has no svd_rank", c.Method)
	case !vote && c.Majority == "frequency":
		return fail.Usagef("majority_sign_method", "methods with ties have one", "method %s takes no vote", c.Method)
	}
	return nil
}

// pair is the adapter of one matrix, of the expert of a stack.
type pair struct {
	a, b    []float32 // [r, in], [out, r]
	r       int
	scale   float64 // alpha/r
	weight  float64
	adapter int // which of those that are combined
}

// Combine makes one adapter of several, whose scale is 1. linear, ties, dare_* and
// magnitude_prune work on A and B by themselves, each with the root of weight times
// scale: their product is not the sum of the changes. cat is that sum exactly, svd its
// best approximation of a lower rank, and the others ending in _svd work on the changes.
// Random masks depend on seed. Only low-rank parts can be combined; dev counts the
// memory of the changes of a matrix.
func Combine(dev kernels.Backend, adapters []Weighted, c Combination, seed uint64) (*Folder, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	first := adapters[0].Folder
	out := &Folder{Dir: first.Dir, Base: first.Base, task: first.task, tensors: map[string]*stored{}}
	stems := map[string][2]string{} // what names begin with, and the endings of A and B
	for _, w := range adapters {
		if err := w.Folder.plainLoRA("merge the adapters into the base one after another"); err != nil {
			return nil, err
		}
		if err := w.Folder.checkTying(true); err != nil { // what it is for is not known here
			return nil, err
		}
		if err := w.Folder.lowRankOnly(stems); err != nil {
			return nil, err
		}
		if k := w.Folder.Config; len(k.TargetParameters) > 0 && len(k.RankPattern)+len(k.AlphaPattern) > 0 {
			return nil, fail.Inputf(w.Folder.Dir, "merge the adapters into the base with method cat", "target_parameters with rank_pattern or alpha_pattern cannot be combined: which rank is whose depends on the base")
		}
		if b := w.Folder.Notes.BaseHash; b != "" && first.Notes.BaseHash != "" && b != first.Notes.BaseHash {
			return nil, fail.Inputf(w.Folder.Dir, "", "was trained on another base than %s: they cannot be combined", first.Dir)
		}
	}
	out.Notes.BaseHash = first.Notes.BaseHash
	ranks := map[string]int{}
	for _, stem := range slices.Sorted(maps.Keys(stems)) {
		r, err := combineModule(dev, adapters, c, seed, stem, stems[stem], out)
		if err != nil {
			return nil, err
		}
		ranks[stem] = r
	}
	out.Config = combinedConfig(adapters, ranks)
	return out, nil
}

// plainLoRA refuses adapters that are more than low-rank matrices on their base as it is.
func (f *Folder) plainLoRA(hint string) error {
	switch i := f.Config.InitWeights; {
	case f.Kind != "":
		return fail.Inputf(f.Dir, hint, "is an adapter of kind %s, not LoRA", f.Kind)
	case f.Config.UseDoRA:
		return fail.Inputf(f.Dir, hint, "use_dora: its magnitudes are no low-rank matrices")
	case f.Config.LoRABias:
		return fail.Inputf(f.Dir, hint, "lora_bias: its biases are no low-rank matrices")
	case i.onResidual() || i == InitLoftQ:
		return fail.Inputf(f.Dir, hint, "init_lora_weights %s: the adapter belongs on a changed base", i)
	}
	return nil
}

// endings are those of the names of A and B, of linear maps and of embeddings.
var endings = [][2]string{{".lora_A.weight", ".lora_B.weight"}, {".lora_embedding_A", ".lora_embedding_B"}}

// lowRankOnly collects the stems of the names of a folder's pairs, and refuses what else
// it holds.
func (f *Folder) lowRankOnly(stems map[string][2]string) error {
	for _, name := range slices.Sorted(maps.Keys(f.tensors)) {
		found := false
		for _, end := range endings {
			for i := range end {
				if stem, ok := strings.CutSuffix(name, end[i]); ok {
					if f.tensors[stem+end[1-i]] == nil {
						return f.missing(stem + end[1-i])
					}
					stems[stem], found = end, true
				}
			}
		}
		if !found {
			return fail.Inputf(f.Dir, "merge the adapters into the base one after another", "%s%s: only low-rank matrices can be combined, not what is stored beside them", prefix, name)
		}
	}
	return nil
}

// rankOf is the rank and scale of a module, by its stored path.
func (f *Folder) rankOf(stem string) (r int, scale float64, err error) {
	path := strings.TrimSuffix(stem, ".base_layer")
	for strings.HasSuffix(path, ".base_layer") {
		path = strings.TrimSuffix(path, ".base_layer")
	}
	r, alpha, err := f.Config.rankAlpha(path)
	return r, float64(f.Config.scale(r, alpha)), err
}

// combineModule combines the adapters of one module and returns the rank of the result.
func combineModule(dev kernels.Backend, adapters []Weighted, c Combination, seed uint64, stem string, end [2]string, out *Folder) (int, error) {
	var list []pair
	rank, experts, rows, cols, all := 0, 0, 0, 0, 0
	for i, w := range adapters {
		f := w.Folder
		r, scale, err := f.rankOf(stem)
		if err != nil {
			return 0, err
		}
		all += r
		rank = max(rank, r)
		ta, tb := f.tensors[stem+end[0]], f.tensors[stem+end[1]]
		if ta == nil {
			continue
		}
		if len(ta.shape) != 2 || len(tb.shape) != 2 || ta.shape[0] != tb.shape[1] || ta.shape[0] == 0 || ta.shape[0]%int64(r) != 0 || ta.shape[0] != int64(r) && !ofParameter(stem, f.Config.TargetParameters) {
			return 0, fail.Inputf(f.Dir, "is adapter_config.json its own?", "%s%s: A is %v and B %v, with rank %d", prefix, stem, ta.shape, tb.shape, r)
		}
		e, n, m := int(ta.shape[0])/r, int(ta.shape[1]), int(tb.shape[0])
		if experts == 0 {
			experts, rows, cols = e, m, n
		}
		if e != experts || n != cols || m != rows {
			return 0, fail.Inputf(f.Dir, "", "%s%s is %d×%d (×%d), in another adapter %d×%d (×%d): they are of different bases", prefix, stem, m, n, e, rows, cols, experts)
		}
		b := tb.data
		if e > 1 {
			b = fromPEFT(b, r, e)
		}
		for x := range e {
			list = append(list, pair{a: ta.data[x*r*n : (x+1)*r*n], b: b[x*m*r : (x+1)*m*r], r: r, scale: scale, weight: w.Weight, adapter: i})
		}
	}
	_, _, svd := c.parts()
	switch {
	case c.Sums():
		rank = all
	case svd:
		rank = cmp.Or(c.Rank, rank)
	default:
		for _, p := range list {
			if p.r != list[0].r {
				return 0, fail.Inputf(out.Dir, "cat and the methods with svd take any ranks", "method %s needs equal ranks: %s%s has %d and %d", c.Method, prefix, stem, list[0].r, p.r)
			}
		}
		rank = list[0].r
	}
	if svd {
		release, err := dev.Host(int64(rows) * int64(cols) * 4 * int64(len(list)/experts+1))
		if err != nil {
			return 0, err
		}
		defer release()
	}
	a, b := make([]float32, experts*rank*cols), make([]float32, experts*rows*rank)
	for x := range experts {
		var own []pair
		for i := x; i < len(list); i += experts {
			own = append(own, list[i])
		}
		words := func(adapter int, what string) func(i int) uint32 {
			return merge.Words(seed, adapter, fmt.Sprintf("%s %d %s", stem, x, what))
		}
		k := kit{dev: dev, c: c, words: words, rows: rows, cols: cols, rank: rank}
		if err := k.combine(own, a[x*rank*cols:(x+1)*rank*cols], b[x*rows*rank:(x+1)*rows*rank]); err != nil {
			return 0, fmt.Errorf("%s: %w", stem, err)
		}
	}
	if experts > 1 {
		b = toPEFT(b, rank, experts)
	}
	out.tensors[stem+end[0]] = &stored{shape: []int64{int64(experts * rank), int64(cols)}, data: a}
	out.tensors[stem+end[1]] = &stored{shape: []int64{int64(rows), int64(experts * rank)}, data: b}
	return rank, nil
}

// kit combines the adapters of one matrix.
type kit struct {
	dev              kernels.Backend
	c                Combination
	words            func(adapter int, what string) func(i int) uint32
	rows, cols, rank int
}

// combine writes A [rank, cols] and B [rows, rank].
func (k *kit) combine(list []pair, a, b []float32) error {
	prune, _, svd := k.c.parts()
	switch {
	case k.c.Sums():
		at := 0
		for _, p := range list {
			for i, v := range p.a {
				a[at*k.cols+i] = float32(v * float32(p.weight*p.scale))
			}
			for i := range k.rows {
				copy(b[i*k.rank+at:], p.b[i*p.r:(i+1)*p.r])
			}
			at += p.r
		}
		return nil
	case svd && prune == pruneNone:
		return k.ofSum(list, a, b)
	case svd:
		return k.ofChanges(list, a, b)
	}
	as, bs, wa, wb := make([][]float32, len(list)), make([][]float32, len(list)), make([]float32, len(list)), make([]float32, len(list))
	for i, p := range list {
		as[i], bs[i] = p.a, p.b
		wb[i] = float32(math.Sqrt(math.Abs(p.weight * p.scale)))
		if wa[i] = wb[i]; p.weight < 0 {
			wa[i] = -wa[i]
		}
	}
	if err := k.mix(a, list, as, wa, "A"); err != nil {
		return err
	}
	return k.mix(b, list, bs, wb, "B")
}

// ofSum is the best approximation of the sum of the changes.
func (k *kit) ofSum(list []pair, a, b []float32) error {
	all := 0
	for _, p := range list {
		all += p.r
	}
	bb, aa := make([]float32, k.rows*all), make([]float32, 0, all*k.cols)
	at := 0
	for _, p := range list {
		for _, v := range p.a {
			aa = append(aa, float32(v*float32(p.weight*p.scale)))
		}
		for i := range k.rows {
			copy(bb[i*all+at:], p.b[i*p.r:(i+1)*p.r])
		}
		at += p.r
	}
	return k.approximate(a, b, func(w kernels.Buffer) error { return k.product(w, bb, aa, all, 1) })
}

// approximate writes B = U·S and A = Vᵀ of the best approximation of rank k.rank of the
// matrix [rows, cols] that fill makes on the device; what that has no rank for is 0.
func (k *kit) approximate(a, b []float32, fill func(w kernels.Buffer) error) error {
	return k.dev.Run(func() error {
		w, err := scratch(k.dev, k.rows*k.cols)
		if err != nil {
			return err
		}
		defer k.dev.Free(w)
		if err := fill(w); err != nil {
			return err
		}
		u, s, v, err := leading(k.dev, w, k.rows, k.cols, k.rank, svdSteps)
		if err != nil {
			return err
		}
		n := len(s) // at most the smaller side
		for i := range n {
			for r := range k.rows {
				b[r*k.rank+i] = float32(float64(u[r*n+i]) * s[i])
			}
			for c := range k.cols {
				a[i*k.cols+c] = v[c*n+i]
			}
		}
		return nil
	})
}

// product writes scale·b·a to w on the device.
func (k *kit) product(w kernels.Buffer, b, a []float32, r int, scale float32) error {
	bb, err := scratch(k.dev, len(b))
	if err != nil {
		return err
	}
	defer k.dev.Free(bb)
	ab, err := scratch(k.dev, len(a))
	if err != nil {
		return err
	}
	defer k.dev.Free(ab)
	k.dev.Upload(bb, kernels.Bytes(b))
	k.dev.Upload(ab, kernels.Bytes(a))
	k.dev.Gemm(kernels.To(w), &kernels.GemmArgs{A: bb, B: ab, M: k.rows, N: k.cols, K: r, Alpha: scale})
	return nil
}

// ofChanges combines the changes scale·B·A, and approximates the result.
func (k *kit) ofChanges(list []pair, a, b []float32) error {
	changes, ws := make([][]float32, len(list)), make([]float32, len(list))
	for i, p := range list {
		changes[i], ws[i] = make([]float32, k.rows*k.cols), float32(p.weight)
		err := k.dev.Run(func() error {
			w, err := scratch(k.dev, k.rows*k.cols)
			if err != nil {
				return err
			}
			defer k.dev.Free(w)
			if err := k.product(w, p.b, p.a, p.r, float32(p.scale)); err != nil {
				return err
			}
			return k.dev.Download(kernels.Bytes(changes[i]), w)
		})
		if err != nil {
			return err
		}
	}
	mixed := make([]float32, k.rows*k.cols)
	if err := k.mix(mixed, list, changes, ws, ""); err != nil {
		return err
	}
	return k.approximate(a, b, func(w kernels.Buffer) error {
		k.dev.Upload(w, kernels.Bytes(mixed))
		return nil
	})
}

// mix writes Σ w·v, of pruned values and, with a vote, of those whose sign has the
// majority, divided by how many these are.
func (k *kit) mix(dst []float32, list []pair, values [][]float32, ws []float32, what string) error {
	prune, vote, _ := k.c.parts()
	density := k.c.Density
	if prune != pruneNone && density < 1 {
		for i := range values {
			v := slices.Clone(values[i])
			keep := make([]bool, len(v))
			if prune == pruneMagnitude {
				n := int(density * float64(len(v)))
				if n == 0 {
					return fail.Usagef("density", "raise it", "density %g keeps none of %d values", density, len(v))
				}
				merge.Largest(v, n, keep)
			} else {
				word := k.words(list[i].adapter, what)
				for j := range v {
					keep[j] = float64(word(j)) < density*(1<<32)
					v[j] /= float32(density)
				}
			}
			for j := range v {
				if !keep[j] {
					v[j] = 0
				}
			}
			values[i] = v
		}
	}
	par.For(len(dst), 1<<14, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			if vote {
				dst[i] = k.elected(values, ws, i)
				continue
			}
			s := float32(0)
			for j := range values {
				s += float32(values[j][i] * ws[j])
			}
			dst[i] = s
		}
	})
	return nil
}

// elected is one value of TIES (Yadav et al. 2023, arXiv:2306.01708): signs are counted
// before weights, and a draw is above.
func (k *kit) elected(values [][]float32, ws []float32, i int) float32 {
	total := float32(0)
	for _, v := range values {
		switch x := v[i]; {
		case k.c.Majority != "frequency":
			total += x
		case x > 0:
			total++
		case x < 0:
			total--
		}
	}
	s, n := float32(0), float32(0)
	for j, v := range values {
		if x := v[i]; x > 0 && total >= 0 || x < 0 && total < 0 {
			s += float32(x * ws[j])
			n++
		}
	}
	return s / max(n, 1)
}

// combinedConfig is the configuration of an adapter with these ranks and scale 1. It
// names the modules that have one.
func combinedConfig(adapters []Weighted, ranks map[string]int) Config {
	first := adapters[0].Folder.Config
	c := Config{Bias: "none", InitWeights: InitKaiming, TargetModules: first.TargetModules, ExcludeModules: first.ExcludeModules,
		Layers: first.Layers, LayersPattern: first.LayersPattern, TargetParameters: first.TargetParameters}
	same := !first.TargetModules.All
	names := first.TargetModules.Names
	for _, w := range adapters[1:] {
		o := w.Folder.Config
		same = same && (len(first.TargetModules.Names) > 0 && len(o.TargetModules.Names) > 0 || first.TargetModules.same(o.TargetModules)) && first.ExcludeModules.same(o.ExcludeModules) &&
			slices.Equal(first.Layers, o.Layers) && slices.Equal(first.LayersPattern, o.LayersPattern)
		for _, n := range o.TargetModules.Names {
			if !slices.Contains(names, n) {
				names = append(slices.Clone(names), n)
			}
		}
		for _, p := range o.TargetParameters {
			if !slices.Contains(c.TargetParameters, p) {
				c.TargetParameters = append(slices.Clone(c.TargetParameters), p)
			}
		}
	}
	stems := slices.Sorted(maps.Keys(ranks))
	if same && len(names) > 0 {
		c.TargetModules = Targets{Names: sorted(names)}
	} else if !same {
		c.ExcludeModules, c.Layers, c.LayersPattern = Targets{}, nil, nil
		c.TargetModules = Targets{Names: stems}
		if len(c.TargetParameters) > 0 { // these are not modules
			c.TargetModules.Names = slices.DeleteFunc(slices.Clone(stems), func(s string) bool { return ofParameter(s, c.TargetParameters) })
		}
	}
	count := map[int]int{}
	for _, r := range ranks {
		count[r]++
	}
	for _, r := range slices.Sorted(maps.Keys(count)) {
		if count[r] > count[c.R] {
			c.R = r
		}
	}
	c.Alpha = float64(c.R)
	for _, s := range stems {
		if r := ranks[s]; r != c.R {
			c.RankPattern = append(c.RankPattern, PatternEntry{s, float64(r)})
			c.AlphaPattern = append(c.AlphaPattern, PatternEntry{s, float64(r)})
		}
	}
	return c
}

// ofParameter reports whether the adapter stored under stem is that of a parameter of
// the module, by the names of target_parameters.
func ofParameter(stem string, parameters []string) bool {
	path := stem
	for strings.HasSuffix(path, ".base_layer") {
		path = strings.TrimSuffix(path, ".base_layer")
	}
	return slices.ContainsFunc(parameters, func(p string) bool {
		dot := strings.LastIndexByte(p, '.')
		return dot > 0 && (path == p[:dot] || strings.HasSuffix(path, "."+p[:dot]))
	})
}
