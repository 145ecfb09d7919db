package formats

import "testing"

// What Python writes for infinite numbers becomes JSON; text stays text.
func TestFiniteJSON(t *testing.T) {
	for in, want := range map[string]string{
		`{"a": [0.0, Infinity], "b": -Infinity}`:  `{"a": [0.0, {"__float__": "Infinity"}], "b": {"__float__": "-Infinity"}}`,
		`[Infinity, -1, "Infinity \" -Infinity"]`: `[{"__float__": "Infinity"}, -1, "Infinity \" -Infinity"]`,
		`{"I": NaN}`: `{"I": NaN}`,
	} {
		if got := string(FiniteJSON([]byte(in))); got != want {
			t.Errorf("%s becomes %s, want %s", in, got, want)
		}
	}
}

// Numbers that JSON has not become null; text and other words stay.
func TestNullJSON(t *testing.T) {
	for in, want := range map[string]string{
		`{"NaN": NaN, "b": [Infinity,-Infinity, "NaN \" NaN"]}`: `{"NaN": null, "b": [null,null, "NaN \" NaN"]}`,
		`{"a": 1, "I": "N", "c": -1}`:                           `{"a": 1, "I": "N", "c": -1}`,
		`NaNa`:                                                  `nulla`, // which is no JSON either
		`-Inf`:                                                  `-Inf`,
	} {
		if got := string(NullJSON([]byte(in))); got != want {
			t.Errorf("%s becomes %s, want %s", in, got, want)
		}
	}
}
