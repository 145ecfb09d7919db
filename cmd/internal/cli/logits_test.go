package cli

import (
	"encoding/binary"
	"github.com/tunekit/tunekit/formats/fail"
	"os"
	"path/filepath"
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

// FuzzIDs: ids of any file are refused, or fit the model they are given to.
func FuzzIDs(f *testing.F) {
	header := func(s string, data ...byte) []byte {
		return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(s))), s...), data...)
	}
	f.Add(header(`{"input_ids":{"dtype":"I64","shape":[1,2],"data_offsets":[0,16]}}`, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0))
	f.Add(header(`{"attention_mask":{"dtype":"I64","shape":[1,1],"data_offsets":[8,16]},"input_ids":{"dtype":"I64","shape":[1,1],"data_offsets":[0,8]}}`, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
	f.Add(header(`{"input_ids":{"dtype":"I64","shape":[4611686018427387904,0],"data_offsets":[0,0]},"position_ids":{"dtype":"I64","shape":[0,0],"data_offsets":[0,0]}}`))
	path := filepath.Join(f.TempDir(), "ids.safetensors")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := readIDs(path)
		if err != nil || p.check(path, 10, 8) != nil {
			return
		}
		in, at := p.pack()
		for i, id := range in.IDs {
			if id < 0 || id >= 10 || in.Pos[i] < 0 || in.Pos[i] >= 8 || at[i] >= p.b*p.t {
				t.Fatalf("id %d at position %d, place %d of %d", id, in.Pos[i], at[i], p.b*p.t)
			}
		}
	})
}

// FuzzColumns: --columns is a mapping or a usage error.
func FuzzColumns(f *testing.F) {
	for _, s := range []string{"{messages: conv, role: from}", "a: &x b\nc: *x", "{<<: [{a: b}]}", "[a]", "{a: {b: c}}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := parseColumns(s); err != nil && fail.Code(err) != int(fail.Usage) {
			t.Errorf("%q: %v", s, err)
		}
	})
}
