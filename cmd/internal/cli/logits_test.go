package cli

import (
	"strings"
	"testing"
)

// TestPaddedCheck holds ids, positions and lengths to the model, and leaves
// masked places alone.
func TestPaddedCheck(t *testing.T) {
	const vocab, context = 10, 3
	for _, c := range []struct {
		p    padded
		want string
	}{
		{padded{1, 3, []int64{0, 9, 5}, []int64{2, 0, 1}, nil}, ""},
		{padded{1, 4, []int64{0, 9, 5, -1}, []int64{0, 1, 2, 99}, []int64{1, 1, 1, 0}}, ""},
		{padded{1, 2, []int64{0, 10}, nil, nil}, "input_ids[0,1] is 10, the model has 10 tokens"},
		{padded{2, 1, []int64{0, 1<<32 + 2}, nil, nil}, "input_ids[1,0] is 4294967298"},
		{padded{1, 2, []int64{-1, 1}, nil, nil}, "input_ids[0,0] is -1"},
		{padded{1, 2, []int64{1, 1}, []int64{0, -1}, nil}, "position_ids[0,1] is -1"},
		{padded{1, 2, []int64{1, 1}, []int64{0, 3}, nil}, "position_ids[0,1] is 3, the model's context has 3"},
		{padded{1, 2, []int64{1, 1}, []int64{0, 2_000_000_000}, nil}, "position_ids[0,1] is 2000000000"},
		{padded{1, 4, []int64{1, 1, 1, 1}, nil, nil}, "row 0 has 4 tokens, the model's context has 3"},
	} {
		err := c.p.check("ids", vocab, context)
		if got := ""; err != nil {
			got = err.Error()
			if c.want == "" || !strings.Contains(got, c.want) {
				t.Errorf("%+v: %v, want %q", c.p, err, c.want)
			}
		} else if c.want != "" {
			t.Errorf("%+v: no error, want %q", c.p, c.want)
		}
	}
}
