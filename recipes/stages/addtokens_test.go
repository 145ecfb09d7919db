package stages

import (
	"context"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestAddTokens: rows of new tokens begin with the mean of all rows, as Transformers has
// it, or with that of a text's; the others stay bit by bit, in the model's own type.
func TestAddTokens(t *testing.T) {
	const base = "../pocket/model"
	dev := cpu.New(cpu.Options{Threads: 1})
	defer dev.Close()
	out := filepath.Join(t.TempDir(), "more")
	left, err := AddTokensTo(context.Background(), dev, AddTokensOptions{Model: base, Output: out,
		Tokens: AddTokens{Tokens: []NewToken{{Token: "quux"}}, SpecialTokens: []NewToken{{Token: "<tool>", Like: "a call"}}, PadToMultipleOf: 32}})
	if err != nil {
		t.Fatal(err)
	}
	was, err := OpenSource(base)
	if err != nil {
		t.Fatal(err)
	}
	defer was.Close()
	is, err := OpenSource(out)
	if err != nil {
		t.Fatal(err)
	}
	defer is.Close()
	v, c := was.Spec.V, was.Spec.C
	if left.Rows != v+32 || is.Spec.V != v+32 || !is.Spec.Tied {
		t.Fatalf("%d rows of %d, tied %v", left.Rows, is.Spec.V, is.Spec.Tied)
	}
	read := func(s *arch.Source) ([]float32, dtype.Type) {
		e := s.At(-1, arch.Embed)
		raw, _, err := s.Read(e)
		if err != nil {
			t.Fatal(err)
		}
		w := make([]float32, raw.Rows*raw.Cols)
		block.DecodeAll(w, raw)
		return w, e.Type
	}
	old, kind := read(was)
	got, now := read(is)
	if kind != now || !slices.Equal(old, got[:len(old)]) {
		t.Errorf("the old rows are %v and were %v, or changed", now, kind)
	}
	tok, err := tokenizer.Open(was.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var all []int32
	for i := range v {
		all = append(all, int32(i))
	}
	call, err := tok.EncodePlain("a call")
	if err != nil {
		t.Fatal(err)
	}
	for row, ids := range map[int][]int32{v: all, v + 1: call, v + 31: all} {
		want := make([]float32, c)
		for k := range want {
			sum := 0.0
			for _, id := range ids {
				sum += float64(old[int(id)*c+k])
			}
			want[k] = float32(sum / float64(len(ids)))
		}
		raw := block.New(kind, 1, c)
		if err := block.Encode(raw, want, nil); err != nil {
			t.Fatal(err)
		}
		block.DecodeAll(want, raw)
		if !slices.Equal(want, got[row*c:(row+1)*c]) {
			t.Errorf("row %d is not the mean of its %d", row, len(ids))
		}
	}
}
