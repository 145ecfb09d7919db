package engine

import (
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// golden is the model of a reference case.
func golden(t *testing.T, name string) *model.Model {
	t.Helper()
	src, err := arch.Open(testdir.Shared(t, "golden/arch/"+name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	m, err := model.Load(cpu.New(cpu.Options{}), src, model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// A conversation with a model that keeps states goes on where it was; another
// ending of it is computed from its first token on, never from a state that has
// seen more.
func TestRecurrentTurns(t *testing.T) {
	for _, name := range []string{"lfm2", "qwen3-5", "mamba2"} {
		m := golden(t, name)
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

// What a prompt leaves in a cache of another kind is shared, or computed again, rightly.
func TestOnePromptOfKinds(t *testing.T) {
	for name, shares := range map[string]bool{"gemma3": true, "deepseek2": true, "deepseek32": true, "phi3-longrope": true, "gemma3n": true, "lfm2": false, "qwen3-5": false, "deepseek4": false, "t5": false} {
		t.Run(name, func(t *testing.T) {
			m := golden(t, name)
			for _, n := range []int{2, 21, m.Spec.Turn(), m.Spec.Turn() + 1, m.Spec.Turn() + 2} {
				if n < 2 {
					continue
				}
				r := Request{Prompt: tokens(1, n), MaxNew: 6}
				want := alone(t, m, r)
				reused := 0
				for i, s := range open(t, m, Options{Slots: 3, Max: n + 8}).Submit(t.Context(), r, r, r) {
					a := answer(t, s)
					if reused += a.Reused; !slices.Equal(a.IDs, want.IDs) {
						t.Errorf("prompt of %d, request %d: %v, alone %v", n, i, a.IDs, want.IDs)
					}
				}
				if (reused == 2*(n-1)) != (shares && n-1 != m.Spec.Turn()) {
					t.Errorf("prompt of %d: %d tokens taken from another", n, reused)
				}
			}
		})
	}
}
