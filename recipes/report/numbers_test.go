package report

import "testing"

func TestNumbers(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{Sig(0.000171, 3), "0.000171"}, {Sig(9.813, 3), "9.81"}, {Sig(2.1e-5, 2), "2.1e-5"}, {Sig(123456, 3), "123456"},
		{plusMinus(&Measured{Value: 9.8123, StdErr: 0.1234}, 3), "9.81 ±0.12"}, {plusMinus(&Measured{Value: 4}, 3), "4.00"},
		{Duration(3.21), "3.2 s"}, {Duration(140), "2 min"}, {Duration(8340), "2 h 19 min"}, {Shell("a b"), "'a b'"}, {Shell("a/b-1.gguf"), "a/b-1.gguf"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}
