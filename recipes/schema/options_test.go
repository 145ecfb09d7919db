package schema

import (
	"math"
	"strings"
	"testing"
)

type inner struct {
	Depth int `yaml:"depth" default:"3" range:"[1,9]"`
}

type sample struct {
	Word   string   `yaml:"word" default:"b" enum:"a|b"`
	Share  float64  `yaml:"share" default:"0.25" range:"[0,1)"`
	Rate   *float64 `yaml:"rate" default:"0" range:"(-1,1]"`
	Count  int      `yaml:"count" default:"7" range:"[1,10]"`
	List   Names    `yaml:"list" default:"[x, y]"`
	Limit  Size     `yaml:"limit" default:"5GB"`
	Later  string   `yaml:"later" unset:"depends"`
	Nested inner    `yaml:"nested"`
}

// TestFill: what is given stays, what is not gets the tag's default.
func TestFill(t *testing.T) {
	one := 1.0
	s := sample{Word: "a", Rate: &one}
	Fill(&s)
	if s.Word != "a" || *s.Rate != 1 || s.Share != 0.25 || s.Count != 7 || strings.Join(s.List, "") != "xy" || s.Limit != 5e9 || s.Later != "" || s.Nested.Depth != 0 {
		t.Errorf("filled %+v", s)
	}
	s = sample{}
	if Fill(&s); s.Rate == nil || *s.Rate != 0 {
		t.Errorf("a default of zero is not set: %v", s.Rate)
	}
}

// TestCheck: both ends of a range, open and closed, and words that are not known.
func TestCheck(t *testing.T) {
	rate := func(v float64) *float64 { return &v }
	for _, c := range []struct {
		s    sample
		want string // "": allowed
	}{
		{sample{}, ""}, {sample{Count: 10, Share: 0.999, Rate: rate(1)}, ""}, {sample{Rate: rate(0)}, ""},
		{sample{Count: 11}, "at.count: found 11, want at most 10"}, {sample{Count: -1}, "at.count: found -1, want at least 1"},
		{sample{Share: 1}, "at.share: found 1, want less than 1"}, {sample{Rate: rate(-1)}, "at.rate: found -1, want more than -1"},
		{sample{Word: "c"}, `at.word: found "c"`},
	} {
		err := Check("at", &c.s)
		if (err == nil) != (c.want == "") || err != nil && err.Error() != c.want {
			t.Errorf("%+v: error %v, want %q", c.s, err, c.want)
		}
	}
	if Check("at", &sample{Share: math.NaN()}) == nil {
		t.Error("not a number is in the range")
	}
}
