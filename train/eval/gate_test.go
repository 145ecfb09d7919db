package eval

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

func series(n int, f func(i int) float64, log bool) Series {
	s := Series{Log: log}
	for i := range n {
		s.Sum, s.Weight = append(s.Sum, 10*f(i)), append(s.Weight, 10)
	}
	return s
}

func TestJudge(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	hard := make([]float64, 200)
	for i := range hard {
		hard[i] = 1 + rng.Float64()
	}
	base := series(200, func(i int) float64 { return hard[i] }, true)
	worse := func(by, noise float64) Series {
		return series(200, func(i int) float64 { return hard[i] + by + noise*rng.NormFloat64() }, true)
	}
	one := Limit{Kind: "max_increase", Value: 0.01, Relative: true}
	for _, c := range []struct {
		name string
		now  Series
		base *Series
		l    Limit
		want Verdict
	}{
		{"equal", base, &base, one, Pass},
		// The samples differ by 0.3 nats among themselves; pairing cancels that.
		{"1.5 % worse", worse(0.015, 0.01), &base, one, Failed},
		{"0.5 % worse", worse(0.005, 0.01), &base, one, Pass},
		{"noise hides it", worse(0.010, 0.2), &base, one, Unsure},
		{"better", worse(-0.1, 0.01), &base, one, Pass},
		{"absolute", worse(0.015, 0.001), &base, Limit{Kind: "max_increase", Value: 0.01}, Failed},
		{"max", base, nil, Limit{Kind: "max", Value: 9}, Pass},
		{"max broken", base, nil, Limit{Kind: "max", Value: 2}, Failed},
		{"min", series(50, func(int) float64 { return 0.95 }, false), nil, Limit{Kind: "min", Value: 0.9}, Pass},
		{"min broken", series(50, func(int) float64 { return 0.85 }, false), nil, Limit{Kind: "min", Value: 0.9}, Failed},
	} {
		got, err := Judge(c.now, c.base, c.l)
		if err != nil || got.Verdict != c.want {
			t.Errorf("%s: %+v, %v; want %s", c.name, got, err, c.want)
		}
		if (got.Verdict == Unsure) != (got.Needed > 0) {
			t.Errorf("%s: %d samples needed with verdict %s", c.name, got.Needed, got.Verdict)
		}
	}
	em := func(p float64) Series {
		return series(400, func(i int) float64 { return float64(b2i(float64(i) < p*400)) }, false)
	}
	b := em(0.95)
	for p, want := range map[float64]Verdict{0.95: Pass, 0.80: Failed, 0.94: Pass, 0.932: Unsure} {
		got, _ := Judge(em(p), &b, Limit{Kind: "max_decrease", Value: 0.02})
		if got.Verdict != want {
			t.Errorf("exact match %g: %+v, want %s", p, got, want)
		}
	}
	if _, err := Judge(base, nil, one); err == nil {
		t.Error("an increase without a baseline was judged")
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestBaseline(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b", "x.json")
	want := Baseline{Data: "d", Task: "t", Models: map[string]map[string]Series{"m": {"perplexity": series(3, func(i int) float64 { return float64(i) }, true)}}}
	if err := WriteBaseline(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadBaseline(path, "d", "t")
	if err != nil || math.Abs(got.Models["m"]["perplexity"].Value()-math.E) > 1e-12 {
		t.Fatalf("%+v, %v", got, err)
	}
	for code, f := range map[int]func() error{
		3: func() error { _, err := ReadBaseline(path, "other", "t"); return err },
		2: func() error { _, err := ReadBaseline(path+"x", "d", "t"); return err },
	} {
		if err := f(); fail.Code(err) != code {
			t.Errorf("exit %d, want %d: %v", fail.Code(err), code, err)
		}
	}
	if _, err := ReadBaseline(path, "d", "other"); fail.Code(err) != 3 {
		t.Error(err)
	}
}

// Interval and bound are said in the unit of the limit: of a perplexity no logarithms,
// of a change in percent shares of the baseline.
func TestCheckUnits(t *testing.T) {
	series := func(log bool, v ...float64) Series {
		s := Series{Log: log}
		for _, x := range v {
			if log {
				x = math.Log(x)
			}
			s.Sum, s.Weight = append(s.Sum, x), append(s.Weight, 1)
		}
		return s
	}
	for _, c := range []struct {
		now, base Series
		limit     Limit
		middle    float64 // of an interval of no width
	}{
		{series(true, 2.2, 2.2), Series{}, Limit{Kind: "max", Value: 3}, 2.2},
		{series(true, 2.2, 2.2), Series{}, Limit{Kind: "min", Value: 2}, 2.2},
		{series(true, 2.2, 4.4), series(true, 2, 4), Limit{Kind: "max_increase", Value: 0.2, Relative: true}, 0.1},
		{series(true, 2.2, 2.2), series(true, 2, 2), Limit{Kind: "max_increase", Value: 0.3}, 0.2},
		{series(true, 1.8, 1.8), series(true, 2, 2), Limit{Kind: "max_decrease", Value: 0.3}, 0.2},
		{series(false, 0.5, 0.5), Series{}, Limit{Kind: "min", Value: 0.4}, 0.5},
		{series(false, 0.4, 0.4), series(false, 0.5, 0.5), Limit{Kind: "max_decrease", Value: 0.3, Relative: true}, 0.2},
		{series(false, 0.4, 0.4), series(false, 0.5, 0.5), Limit{Kind: "max_decrease", Value: 0.2}, 0.1},
	} {
		got, err := Judge(c.now, &c.base, c.limit)
		if err != nil || got.Verdict != Pass || math.Abs(got.Low-c.middle) > 1e-9 || math.Abs(got.High-c.middle) > 1e-9 || got.Bound != c.limit.Value {
			t.Errorf("%v: %+v, %v; want %g", c.limit, got, err, c.middle)
		}
	}
	wide, err := Judge(series(true, 2, 3), nil, Limit{Kind: "min", Value: 1})
	if err != nil || !(wide.Low < wide.Value && wide.Value < wide.High && wide.Low > 0) {
		t.Errorf("%+v, %v", wide, err)
	}
}

func TestFilter(t *testing.T) {
	sum, err := NewFilter(`#### (-?[0-9.,]+)`)
	if err != nil {
		t.Fatal(err)
	}
	plain, _ := NewFilter("")
	word, _ := NewFilter(`yes|no`)
	for _, c := range []struct {
		f         Filter
		got, want string
		same      bool
	}{
		{sum, "first 5, so #### 1000.", "#### 1,000", true}, {sum, "#### 5", "other words #### 5.0", true}, {sum, "#### 5 #### 6", "#### 6", false},
		{sum, "5", "#### 5", false}, {sum, "#### 5", "5", false}, {sum, "#### -5", "#### 5", false},
		{plain, " a \n", "a", true}, {plain, "1,000", "1000", false}, {word, "I say yes", "yes", true}, {word, "no and yes", "yes", false},
	} {
		if c.f.Same(c.got, c.want) != c.same {
			t.Errorf("%q for %q: want %v", c.got, c.want, c.same)
		}
	}
}

// TestPerplexityOf: a loss that no exponential can hold still gives a number.
func TestPerplexityOf(t *testing.T) {
	for loss, want := range map[float64]float64{0: 1, 1: math.E, 710: math.MaxFloat64, math.Inf(1): math.MaxFloat64} {
		if got := PerplexityOf(loss); got != want {
			t.Errorf("%v: %v, want %v", loss, got, want)
		}
	}
}

// FuzzBaseline: any baseline is refused or judged.
func FuzzBaseline(f *testing.F) {
	f.Add([]byte(`{"version":1,"data":"d","task":"t","models":{"m":{"kl":{"sum":[1,2],"weight":[1,1]}}}}`))
	f.Add([]byte(`{"version":1,"data":"d","task":"t","models":{"m":{"kl":{"sum":[1e308,-1e308],"weight":[0,-1],"log":true}}}}`))
	path := filepath.Join(f.TempDir(), "b.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		base, err := ReadBaseline(path, "d", "t")
		if err != nil {
			return
		}
		for _, series := range base.Models {
			for _, s := range series {
				for _, now := range []Series{s, {Sum: []float64{1, 2}, Weight: []float64{1, 1}}} {
					for _, kind := range []string{"max", "min", "max_increase", "max_decrease"} {
						_, _ = Judge(now, &s, Limit{Kind: kind, Value: 0.01, Relative: true})
					}
				}
			}
		}
	})
}
