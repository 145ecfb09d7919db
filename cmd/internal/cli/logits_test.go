package cli

import (
	"encoding/binary"
	"github.com/tunekit/tunekit/autograd/model/arch"
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
		{padded{b: 1, t: 3, ids: []int64{0, 9, 5}, pos: []int64{2, 0, 1}, mask: nil}, ""},
		{padded{b: 1, t: 4, ids: []int64{0, 9, 5, -1}, pos: []int64{0, 1, 2, 99}, mask: []int64{1, 1, 1, 0}}, ""},
		{padded{b: 1, t: 2, ids: []int64{0, 10}, pos: nil, mask: nil}, "input_ids[0,1] is 10, the model has 10 tokens"},
		{padded{b: 2, t: 1, ids: []int64{0, 1<<32 + 2}, pos: nil, mask: nil}, "input_ids[1,0] is 4294967298"},
		{padded{b: 1, t: 2, ids: []int64{-1, 1}, pos: nil, mask: nil}, "input_ids[0,0] is -1"},
		{padded{b: 1, t: 2, ids: []int64{1, 1}, pos: []int64{0, -1}, mask: nil}, "position_ids[0,1] is -1"},
		{padded{b: 1, t: 2, ids: []int64{1, 1}, pos: []int64{0, 3}, mask: nil}, "position_ids[0,1] is 3, the model's context has 3"},
		{padded{b: 1, t: 2, ids: []int64{1, 1}, pos: []int64{0, 2_000_000_000}, mask: nil}, "position_ids[0,1] is 2000000000"},
		{padded{b: 1, t: 4, ids: []int64{1, 1, 1, 1}, pos: nil, mask: nil}, "row 0 has 4 tokens, the model's context has 3"},
	} {
		err := c.p.checkIDs("ids", vocab, context)
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
	f.Add(header(`{"input_ids":{"dtype":"I64","shape":[1,1],"data_offsets":[0,8]},"decoder_input_ids":{"dtype":"I64","shape":[1,1],"data_offsets":[0,8]}}`, 1, 0, 0, 0, 0, 0, 0, 0))
	path := filepath.Join(f.TempDir(), "ids.safetensors")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := readIDs(path)
		spec := &arch.Spec{V: 10, MaxPos: 8}
		if err == nil && p.decoder != nil {
			spec.Encoder = 1
		}
		if err != nil || p.check(path, spec) != nil {
			return
		}
		if p.decoder != nil {
			p = p.decoder
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
