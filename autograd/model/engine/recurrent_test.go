package engine

import (
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// A conversation with a model that keeps states goes on where it was; another
// ending of it is computed from its first token on, never from a state that has
// seen more.
func TestRecurrentTurns(t *testing.T) {
	for _, name := range []string{"lfm2", "qwen3-5", "mamba2"} {
		src, err := arch.Open(testdir.Shared(t, "golden/arch/"+name))
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		m, err := model.Load(cpu.New(cpu.Options{}), src, model.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		e := open(t, m, Options{Slots: 1, Room: 64})
		ask := func(reused int, prompt ...[]int32) []int32 {
			t.Helper()
			r := Request{Prompt: slices.Concat(prompt...), MaxNew: 6}
			a := answer(t, e.Submit(t.Context(), r)[0])
			if a.Reused != reused {
				t.Errorf("%s: %d tokens were there, want %d", name, a.Reused, reused)
			}
			if want := alone(t, m, r); !slices.Equal(a.IDs, want.IDs) {
				t.Errorf("%s: %v, computed whole %v", name, a.IDs, want.IDs)
			}
			return a.IDs
		}
		first := tokens(1, 20)
		a := ask(0, first)
		ask(20+5, first, a, tokens(2, 7)) // the last token was chosen, but never run
		ask(0, first, a[:3], tokens(3, 9))
		ask(0, first)
	}
}
