package data

import (
	"slices"
	"testing"
)

func TestShortNames(t *testing.T) {
	for _, c := range []struct{ in, want []string }{
		{nil, nil},
		{[]string{"/home/a/d/train.jsonl"}, []string{"train.jsonl"}},
		{[]string{"/d/a/x.jsonl", "/d/b/x.jsonl", "/d/b/y.jsonl"}, []string{"a/x.jsonl", "b/x.jsonl", "y.jsonl"}},
		{[]string{"x", "/x", "/a/x"}, []string{"x", "/x", "a/x"}},
		{[]string{"a/x", "b/x"}, []string{"a/x", "b/x"}},
	} {
		if got := ShortNames(c.in); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.in, got, c.want)
		}
	}
}
