package report

import (
	"strings"
	"testing"
)

func TestNumbers(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{Sig(0.000171, 3), "0.000171"}, {Sig(9.813, 3), "9.81"}, {Sig(2.1e-5, 2), "2.1e-5"}, {Sig(123456, 3), "123456"},
		{plusMinus(&Measured{Value: 9.8123, StdErr: 0.1234}, 3), "9.81 ±0.12"}, {plusMinus(&Measured{Value: 4}, 3), "4.00"},
		{Duration(3.21), "3.2 s"}, {Duration(140), "2 min"}, {Duration(8340), "2 h 19 min"}, {Shell("a b"), "'a b'"}, {Shell("a/b-1.gguf"), "a/b-1.gguf"},
		{Short(2e-4), "2e-4"}, {Short(0.1 + 0.2), "0.3"}, {Short(1e-5), "1e-5"}, {Short(0.0015), "0.0015"}, {Short(1.5e-12), "1.5e-12"}, {Short(3), "3"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

// TestLabels: the ticks of an axis have the digits that tell them apart, and no more.
func TestLabels(t *testing.T) {
	for _, c := range []struct {
		lo, hi float64
		want   string
	}{
		{0, 2.1, "0 0.5 1.0 1.5 2.0"}, {0, 1.02, "0 0.25 0.50 0.75 1.00"}, {0, 104, "0 25 50 75 100"}, {-0.41, 0.02, "-0.4 -0.3 -0.2 -0.1 0"}, {0.49, 0.71, "0.50 0.55 0.60 0.65 0.70"},
		{0, 1.05e-5, "0 0.25e-5 0.50e-5 0.75e-5 1.00e-5"}, {0, 0.0021, "0 0.0005 0.0010 0.0015 0.0020"}, {0, 21000, "0 5k 10k 15k 20k"}, {0, 9100, "0 2000 4000 6000 8000"},
		{0, 3.2e6, "0 1M 2M 3M"}, {9.9995, 10.0005, "9.99950 9.99975 10.00000 10.00025 10.00050"},
	} {
		chart := Chart{}
		if got := strings.Join(chart.labels(ticks(c.lo, c.hi, 5)), " "); got != c.want {
			t.Errorf("%g to %g: %s, want %s", c.lo, c.hi, got, c.want)
		}
	}
}
