package kerneltest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// offsets are three groups of n rows, the second empty.
func (s *suite) offsets(n int) (kernels.Groups, []int32) {
	at := []int32{0, int32(n / 3), int32(n / 3), int32(n)}
	return kernels.Groups{Offsets: s.ints(at), Count: 3}, at
}

func testRowStats(s *suite) {
	for _, c := range []struct{ rows, cols, run int }{{0, 3, 0}, {1, 1, 1}, {3, 67, 0}, {100, 96, 32}, {5, 4000, 0}, {7, 8, 1}} {
		n, run := c.rows*c.cols, c.run
		if run == 0 {
			run = c.cols
		}
		x, y := s.normal(n, 1), s.normal(n, 1)
		xb, yb := s.up(x), s.up(y)
		for stat := kernels.SumSq; stat <= kernels.SumDiff; stat++ {
			want := make([]float64, n/run)
			if stat == kernels.Max || stat == kernels.Min {
				for i := range want {
					want[i] = x[i*run]
				}
			}
			for i, v := range x {
				switch at := &want[i/run]; stat {
				case kernels.SumSq:
					*at += v * v
				case kernels.SumAbs:
					*at += math.Abs(v)
				case kernels.MaxAbs:
					*at = math.Max(*at, math.Abs(v))
				case kernels.Max:
					*at = math.Max(*at, v)
				case kernels.Min:
					*at = math.Min(*at, v)
				case kernels.SumDiff:
					*at += (v - y[i]) * (v - y[i])
				default:
					*at += v * y[i]
				}
			}
			a := &kernels.RowStatsArgs{Stat: stat, Rows: c.rows, Cols: c.cols, Run: c.run, X: xb}
			if stat >= kernels.SumXY {
				a.Y = yb
			}
			r := []result{{name: fmt.Sprintf("stat %d of %d×%d by %d", stat, c.rows, c.cols, run), n: len(want), want: want, tol: 1e-6}}
			op := func(d []kernels.Dst) { s.b.RowStats(d[0], a) }
			if stat == kernels.SumSq || stat == kernels.SumAbs || stat >= kernels.SumXY {
				s.check(r, op)
				if stat >= kernels.SumXY {
					s.exactSums(a, want)
				}
				continue
			}
			s.once("write", r, []mode{writing}, op)
			far := float32(100)
			if stat == kernels.Min {
				far = -far
			}
			held := s.alloc(dtype.F32, len(want))
			s.b.Fill(held, far)
			s.b.RowStats(kernels.Into(held), a)
			if v := s.get(held); slices.ContainsFunc(v, func(v float32) bool { return v != far }) {
				s.Errorf("stat %d of %g and %v is %v", stat, far, want, v)
			}
		}
	}
}

// exactSums are sums that keep the digits of float64.
func (s *suite) exactSums(a *kernels.RowStatsArgs, want []float64) {
	s.Helper()
	b := s.alloc(dtype.F64, len(want))
	s.b.RowStats(kernels.To(b), a)
	s.b.RowStats(kernels.Into(b), a)
	raw := make([]byte, 8*len(want))
	if err := s.b.Download(raw, b); err != nil {
		s.Fatal(err)
	}
	for i, w := range want {
		if v := math.Float64frombits(binary.LittleEndian.Uint64(raw[8*i:])); math.Abs(v-2*w) > 1e-12*float64(a.Cols) {
			s.Errorf("stat %d, run %d: twice %.15g is %.15g", a.Stat, i, w, v)
		}
	}
}

// testQuantize: the bytes are those of package block, as far as decoding shows
// them, and so are rows on their own.
func testQuantize(s *suite) {
	const rows, cols = 11, 256
	types := storageTypes()
	for _, k := range []dtype.Kind{dtype.NF4, dtype.FP4} {
		types = append(types, dtype.Type{Kind: k, Group: 64, Flags: dtype.Nested})
	}
	for _, t := range types {
		if s.lacks(t) || slices.Contains(s.part.Rounds, t.Kind) || slices.Contains(s.part.Rounds, t.Scale) {
			continue
		}
		s.in(t.String(), func(s *suite) {
			x, im := s.normal(rows*cols, 1), s.normal(cols, 1)
			f, w := make([]float32, len(x)), make([]float32, cols)
			for i, v := range im {
				im[i] = v * v
				w[i] = float32(im[i])
			}
			xb, ib := s.up(x), s.up(im)
			for i, v := range x {
				f[i] = float32(v)
			}
			for i, b := range []kernels.Buffer{nil, ib} {
				if b == nil && block.NeedsImportance(t.Kind) {
					continue
				}
				raw := block.New(t, rows, cols)
				if err := block.Encode(raw, f, [][]float32{nil, w}[i]); err != nil {
					s.Fatal(err)
				}
				want := make([]float32, rows*cols)
				block.DecodeAll(want, raw)
				m, y := s.empty(t, rows, cols), s.alloc(dtype.F32, rows*cols)
				if t.Flat() {
					s.quantize(m, xb, b)
				} else {
					s.quantize(m.RowsOf(4, rows-4), s.b.Slice(xb, 4*cols, (rows-4)*cols), b)
					s.quantize(m.RowsOf(0, 4), xb, b)
				}
				s.b.Dequantize(y, m)
				s.close(fmt.Sprintf("importance %v", b != nil), s.get(y), widened(want), 0)
			}
			bad := append([]float64{}, x...)
			bad[3*cols+7] = math.NaN()
			if err := s.b.Quantize(s.empty(t, rows, cols), s.up(bad), ib); t.Quantized() && !errors.Is(err, block.ErrNotFinite) {
				s.Errorf("a value that is no number: %v", err)
			}
		})
	}
}

func widened(x []float32) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = float64(v)
	}
	return out
}

// storageTypes are one type of every kind that weights have.
func storageTypes() (out []dtype.Type) {
	for _, k := range dtype.Kinds() {
		t := dtype.Of(k)
		switch k.Info().Family {
		case dtype.Integer:
			continue
		case dtype.Codebook:
			t.Group = 64
		case dtype.Int:
			t.Group, t.Scale, t.Flags = 32, dtype.F16, dtype.Zero
		case dtype.Micro:
			t.Group, t.Scale = 64, dtype.BF16
		}
		if block.CanEncode(k) {
			out = append(out, t)
		}
	}
	return append(out,
		dtype.Type{Kind: dtype.F4E2M1, Group: 32, Scale: dtype.F8E8M0}, dtype.Type{Kind: dtype.F8E4M3, Group: 32, Scale: dtype.F8E8M0},
		dtype.Type{Kind: dtype.F4E2M1, Group: 16, Scale: dtype.F8E4M3, Flags: dtype.Nested}, dtype.Type{Kind: dtype.F4E2M1, Group: 16, Scale: dtype.F8E4M3, Flags: dtype.Nested | dtype.Inverse})
}

// empty makes a weight without values.
func (s *suite) empty(t dtype.Type, rows, cols int) kernels.Mat {
	s.Helper()
	m, err := s.b.Load(kernels.Weights, t, rows, cols, nil, kernels.Copy)
	if err != nil {
		s.Fatal(err)
	}
	s.bufs = append(s.bufs, m.Buffer)
	return m
}

func (s *suite) quantize(m kernels.Mat, x, importance kernels.Buffer) {
	s.Helper()
	if err := s.b.Quantize(m, x, importance); err != nil {
		s.Fatal(err)
	}
}

func testFakeQuant(s *suite) {
	for _, t := range []dtype.Type{
		{Kind: dtype.Int4, Group: 32, Scale: dtype.F32}, {Kind: dtype.Int4, Group: 128, Scale: dtype.F16, Flags: dtype.Zero},
		{Kind: dtype.Int3, Group: 32, Scale: dtype.BF16, Flags: dtype.Zero}, {Kind: dtype.Int5, Group: 32, Scale: dtype.F16}, {Kind: dtype.Int6, Group: 64, Scale: dtype.F16, Flags: dtype.Zero}, {Kind: dtype.Int8, Group: -1, Scale: dtype.F32}, {Kind: dtype.Int8, Group: -1, Scale: dtype.F32, Flags: dtype.Zero},
		dtype.Of(dtype.F32), {Kind: dtype.F32, Group: 64}, dtype.Of(dtype.F8E4M3), {Kind: dtype.F8E4M3, Group: -1, Scale: dtype.F32}, {Kind: dtype.F8E5M2, Group: 64, Scale: dtype.BF16},
		{Kind: dtype.Int8, Group: dtype.AllRows}, {Kind: dtype.Int4, Group: dtype.AllRows, Flags: dtype.Zero}, {Kind: dtype.F8E4M3, Group: dtype.AllRows},
	} {
		for _, how := range []string{"plain", "scale", "clip", "scale clip", "bf16", "grid"} {
			if how == "grid" && t.Kind == dtype.F32 || t.Group == dtype.AllRows && (strings.Contains(how, "scale") || strings.Contains(how, "clip")) {
				continue
			}
			s.in(t.String()+" "+how, func(s *suite) { s.fakeQuant(t, how) })
		}
	}
}

func (s *suite) fakeQuant(t dtype.Type, how string) {
	const rows, cols = 13, 256
	x := s.normal(rows*cols, 1)
	a := &kernels.FakeQuantArgs{Type: t, Rows: rows, Cols: cols}
	if how == "bf16" {
		a.X = s.half(x)
	} else {
		a.X = s.up(x)
	}
	scale, clip := make([]float64, cols), make([]float64, rows*t.Groups(cols))
	for i := range scale {
		scale[i] = 1
	}
	for i := range clip {
		clip[i] = math.Inf(1)
	}
	if how == "scale" || how == "scale clip" {
		for i := range scale {
			scale[i] = math.Exp(s.rng.NormFloat64() / 2)
		}
		a.ColScale = s.up(scale)
	}
	if how == "clip" || how == "scale clip" {
		for i := range clip {
			clip[i] = 0.5 + s.rng.Float64()
		}
		a.Clip = s.up(clip)
	}
	want := make([]float64, rows*cols)
	group := cols / t.Groups(cols)
	if t.Group == dtype.AllRows {
		clip, group = clip[:1], rows*cols
	}
	if how == "grid" { // which leaves some of the values outside
		a.Grid = kernels.Grid{Scale: 1.0 / 300}
		if t.Kind.Info().Family == dtype.Int {
			a.Grid = kernels.Grid{Scale: 1.75 / float32(int(1)<<(t.Bits()-1)), Zero: -3}
		}
	}
	for g := range clip {
		at := g * group
		if how == "grid" {
			fixed64(want[at:at+group], x[at:at+group], a.Grid, t)
			continue
		}
		scales := scale[at%cols:]
		if group > cols { // which all are 1
			scales = slices.Repeat(scale, rows)
		}
		fake64(want[at:at+group], x[at:at+group], scales, clip[g], t)
	}
	s.check([]result{{name: "y", n: len(want), want: want, tol: 2e-6}}, func(d []kernels.Dst) { s.b.FakeQuant(d[0], a) })
}

// fixed64 rounds one group on a grid that all values have: signed codes of an Int
// type, as ONNX's QuantizeLinear and DequantizeLinear of int8, and a Micro type's
// values times the scale.
func fixed64(dst, x []float64, g kernels.Grid, t dtype.Type) {
	scale, zero := float64(g.Scale), float64(g.Zero)
	for j, v := range x {
		if t.Kind.Info().Family == dtype.Micro {
			dst[j] = micro64(v/scale, t.Kind) * scale
			continue
		}
		top := math.Exp2(float64(t.Bits()-1)) - 1
		q := math.RoundToEven(math.Max(-top-1, math.Min(float64(float32(float32(v)/g.Scale)+g.Zero), top)))
		dst[j] = (q - zero) * scale
	}
}

// micro64 is the value of a small float type that is nearest to v.
func micro64(v float64, k dtype.Kind) float64 {
	mantissa, least, largest := 3.0, -6.0, 448.0
	if k == dtype.F8E5M2 {
		mantissa, least, largest = 2, -14, 57344
	}
	v = float64(float32(v))
	exp := math.Max(math.Floor(math.Log2(math.Abs(v))), least)
	step := math.Exp2(exp - mantissa)
	if v == 0 {
		step = 1
	}
	return math.Max(-largest, math.Min(math.RoundToEven(v/step)*step, largest))
}

// fake64 rounds one group. Its scale is the type's, and what is rounded to a code
// is a float32: the largest magnitude of a symmetric group lies halfway between
// two codes.
func fake64(dst, x, s []float64, clip float64, t dtype.Type) {
	lo, hi := 0.0, 0.0
	for j, v := range x {
		dst[j] = math.Max(-clip, math.Min(float64(float32(v*s[j])), clip))
		lo, hi = math.Min(lo, dst[j]), math.Max(hi, dst[j])
	}
	if t.Kind == dtype.F32 {
		for j := range dst {
			dst[j] /= s[j]
		}
		return
	}
	if t.Kind.Info().Family == dtype.Int {
		sc, z := block.IntGrid(t, float32(lo), float32(hi))
		scale, zero, top := float64(sc), float64(z), float64(int(1)<<t.Bits()-1)
		for j, v := range dst {
			q := math.Max(0, math.Min(math.RoundToEven(float64(float32(v/scale)))+zero, top))
			dst[j] = (q - zero) * scale / s[j]
		}
		return
	}
	scale := float64(block.MicroScale(t, float32(math.Max(hi, -lo))))
	for j, v := range dst {
		dst[j] = micro64(v/scale, t.Kind) * scale / s[j]
	}
}

// testSample holds what can be said of a token without a reference of the same
// random numbers: greedy ones are exact, drawn ones have their frequencies and
// come from what the filters leave, and a row depends on nothing but itself.
func testSample(s *suite) {
	const v = 50
	logits := s.normal(v, 2)
	logits[7], logits[31] = 9, 9 // the same: the lower id is taken
	many := func(r kernels.SampleRow, n int) []int32 {
		rows, all := make([]kernels.SampleRow, n), make([]float64, 0, n*v)
		for i := range rows {
			rows[i] = r
			rows[i].Step = uint64(i)
			all = append(all, logits...)
		}
		ids := s.alloc(dtype.I32, n)
		s.b.Sample(ids, &kernels.SampleArgs{V: v, Logits: s.up(all), Rows: rows})
		return s.getInts(ids)
	}
	for _, r := range []kernels.SampleRow{{}, {TopK: 3, TopP: 0.5, Seed: 9}, {RepetitionPenalty: 1.5}} {
		if id := many(r, 1)[0]; id != 7 {
			s.Errorf("greedy %+v: token %d", r, id)
		}
	}
	if id := many(kernels.SampleRow{RepetitionPenalty: 5, Seen: []int32{7, 7, 3, 31}}, 1)[0]; id == 7 || id == 31 {
		s.Errorf("token %d in spite of its penalty", id)
	}
	for _, bad := range []float64{math.NaN(), math.Inf(1)} {
		keep := logits[20]
		logits[20] = bad
		for _, r := range []kernels.SampleRow{{}, {Temperature: 1}, {TopK: 3, TopP: 0.5, Temperature: 0.7}, {RepetitionPenalty: 1.5}} {
			if id := many(r, 1)[0]; id != -1 {
				s.Errorf("%+v with a logit of %v: token %d", r, bad, id)
			}
		}
		logits[20] = keep
	}
	logits[31] = 8
	n := 4000
	if s.large(n * v) {
		n = 70
	}
	for _, r := range []kernels.SampleRow{{Temperature: 1}, {Temperature: 0.7, TopK: 5}, {Temperature: 2, TopP: 0.8}, {Temperature: 3, MinP: 0.2}} {
		want := sample64(r, logits)
		count := make([]float64, v)
		got := many(r, n)
		for _, id := range got {
			count[id]++
		}
		for i, p := range want {
			if p == 0 && count[i] > 0 || math.Abs(count[i]/float64(n)-p) > 5*math.Sqrt(p*(1-p)/float64(n))+1e-9 {
				s.Errorf("%+v: token %d was drawn %v times of %d, its probability is %.4f", r, i, count[i], n, p)
			}
		}
		if !slices.Equal(many(r, n), got) {
			s.Errorf("%+v: other tokens when asked again", r)
		}
		if r.Seed = 1; slices.Equal(many(r, n), got) {
			s.Errorf("%+v: the tokens of another seed", r)
		}
	}
	alone, company := many(kernels.SampleRow{Temperature: 1}, 1), many(kernels.SampleRow{Temperature: 1}, 3)
	if alone[0] != company[0] {
		s.Errorf("token %d alone, %d in company", alone[0], company[0])
	}
}

// sample64 are the probabilities that a row's filters leave.
func sample64(r kernels.SampleRow, logits []float64) []float64 {
	type token struct {
		id int
		p  float64
	}
	var all []token
	sum := 0.0
	for i, l := range logits {
		all = append(all, token{i, math.Exp(l / r.Temperature)})
		sum += all[i].p
	}
	slices.SortFunc(all, func(a, b token) int { return int(math.Copysign(1, b.p-a.p)) })
	keep, reached := len(all), 0.0
	for i := range all {
		all[i].p /= sum
		if r.TopP > 0 && reached < r.TopP {
			keep = i + 1
		}
		reached += all[i].p
		if r.MinP > 0 && all[i].p >= r.MinP*all[0].p {
			keep = i + 1
		}
	}
	if r.TopK > 0 {
		keep = r.TopK
	}
	out, left := make([]float64, len(logits)), 0.0
	for _, t := range all[:keep] {
		left += t.p
	}
	for _, t := range all[:keep] {
		out[t.id] = t.p / left
	}
	return out
}
