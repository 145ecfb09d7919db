package train

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// TestSame: runs end where both have said the same text, between whole characters.
func TestSame(t *testing.T) {
	for _, c := range []struct {
		own, its []string
		want     string
	}{
		{[]string{"a", "b"}, []string{"a", "b"}, "[{[0 1] [0 1]} {[1 2] [1 2]}]"},
		{[]string{"Hel", "lo", " you"}, []string{"Hello", " y", "ou"}, "[{[0 2] [0 1]} {[2 3] [1 3]}]"},
		{[]string{"ab", "cd", "e"}, []string{"a", "bc", "d", "e"}, "[{[0 2] [0 3]} {[2 3] [3 4]}]"},
		{[]string{"", "é", "x"}, []string{"é", "x"}, "[{[0 2] [0 1]} {[2 3] [1 2]}]"},
		{[]string{"a", "", "é"}, []string{"aé"}, "[{[0 3] [0 1]}]"},
		{[]string{"a", "b"}, []string{"a", "c"}, "[{[0 1] [0 1]}]"}, // what follows is another text
		{[]string{"a", "b"}, []string{"a"}, "[{[0 1] [0 1]}]"},
		{nil, []string{"a"}, "[]"},
		// a teacher that composes characters: what follows teaches again
		{[]string{"a", "e\u0301", " b", " and then more"}, []string{"a", "\u00e9", " b", " and then more"}, "[{[0 1] [0 1]} {[2 3] [2 3]} {[3 4] [3 4]}]"},
		{[]string{"e", "\u0301", "n", "e\u0301"}, []string{"\u00e9", "n", "\u00e9"}, "[]"}, // too little is alike
		{[]string{"e\u0301", "", "é and so it goes on", "u\u0301", "!"}, []string{"\u00e9", "é and so", " it goes on", "ú", "!"}, "[{[1 3] [1 3]} {[4 5] [4 5]}]"},
	} {
		if got := fmt.Sprint(same(c.own, c.its)); got != c.want {
			t.Errorf("%q and %q: %s, want %s", c.own, c.its, got, c.want)
		}
	}
}

// TestReader: a sample of one tokenizer has its learned text, and the end of an answer,
// in the tokens of another; each group says one text in both.
func TestReader(t *testing.T) {
	own, its := tokensOf(t, "qwen3"), tokensOf(t, "llama2")
	r := Reader{From: own, To: its}
	prompt, answer := "<|im_start|>user\nWie heißt du?<|im_end|>\n<|im_start|>assistant\n", "Ich heiße Günther, wie \U0001F600 — and 12345 words."
	e := data.Example{IDs: own.Encode(prompt, false)}
	n := len(e.IDs)
	e.IDs = append(append(e.IDs, own.Encode(answer, false)...), own.EOS())
	e.Loss = [][2]int32{{int32(n), int32(len(e.IDs))}}
	for _, skip := range []bool{false, true} {
		got, groups, err := r.read(e, skip)
		if err != nil {
			t.Fatal(err)
		}
		if text := its.Decode(got.IDs[1:], false); got.IDs[0] != its.BOS() || text != prompt+" "+answer+"</s>" { // Llama 2's puts a space before each text
			t.Errorf("the teacher reads %q", text)
		}
		said, last := "", int32(n)
		for _, g := range groups {
			a, b := own.Decode(e.IDs[g.own[0]:g.own[1]], true), its.Decode(got.IDs[g.its[0]:g.its[1]], true)
			said += a
			if a != b && " "+b != a || g.own[0] != last {
				t.Errorf("%q beside %q at %d, after %d", a, b, g.own[0], last)
			}
			last = g.own[1]
		}
		if want := int32(len(e.IDs)) - int32(b2f(skip)); said != answer || last != want || len(groups) < 8 {
			t.Errorf("%d groups up to token %d of %d say %q", len(groups), last, want, said)
		}
	}
}

// TestReaderWithinCharacters: a token that has a space and the first byte of a character
// behind it says neither alone, so that a run ends where the character does.
func TestReaderWithinCharacters(t *testing.T) {
	parse := func(merges string) *tokenizer.Tokenizer {
		tok, err := tokenizer.Parse([]byte(`{"added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":false},"post_processor":null,"decoder":{"type":"ByteLevel"},
			"model":{"type":"BPE","vocab":{"a":0,"b":1,"Ġ":2,"ä":3,"¸":4,"Ń":5,"Ġä":6,"aĠä":7},"merges":[`+merges+`]}}`), nil)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	bytes, merged, longer := parse(""), parse(`"Ġ ä"`), parse(`"Ġ ä","a Ġä"`)
	for _, c := range []struct {
		own, its *tokenizer.Tokenizer
		want     string
	}{ // a, space, three bytes of 中, b
		{bytes, bytes, "[{[0 1] [0 1]} {[1 2] [1 2]} {[2 5] [2 5]} {[5 6] [5 6]}]"},
		{bytes, merged, "[{[0 1] [0 1]} {[1 5] [1 4]} {[5 6] [4 5]}]"},
		{merged, bytes, "[{[0 1] [0 1]} {[1 4] [1 5]} {[4 5] [5 6]}]"},
		{merged, merged, "[{[0 1] [0 1]} {[1 4] [1 4]} {[4 5] [4 5]}]"},
		{longer, merged, "[{[0 3] [0 4]} {[3 4] [4 5]}]"},
	} {
		own, its := c.own.Pieces(c.own.Encode("a 中b", false)), c.its.Pieces(c.its.Encode("a 中b", false))
		if got := fmt.Sprint(same(own, its)); got != c.want {
			t.Errorf("%q and %q: %s, want %s", own, its, got, c.want)
		}
	}
}

// TestReaderOfWords: a tokenizer whose decoder looks at a token's place says what each token
// completes, the last one too.
func TestReaderOfWords(t *testing.T) {
	for _, decoder := range []string{`{"type":"WordPiece","prefix":"##","cleanup":false}`, `null`, `{"type":"CTC"}`} {
		own, err := tokenizer.Parse([]byte(`{"added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"WhitespaceSplit"},"post_processor":null,"decoder":`+decoder+
			`,"model":{"type":"WordLevel","unk_token":"?","vocab":{"?":0,"the":1,"cat":2,"sat":3}}}`), nil)
		if err != nil {
			t.Fatal(err)
		}
		its := tokensOf(t, "qwen3")
		e := data.Example{IDs: []int32{1, 2, 3, 1, 2}, Loss: [][2]int32{{1, 5}}}
		got, groups, err := Reader{From: own, To: its}.read(e, false)
		if err != nil {
			t.Fatal(err)
		}
		said := ""
		for _, g := range groups {
			a, b := own.Pieces(e.IDs[1:])[g.own[0]-1:g.own[1]-1], its.Decode(got.IDs[g.its[0]:g.its[1]], false)
			if said += b; strings.Join(a, "") != b {
				t.Errorf("%s: %q beside %q", decoder, a, b)
			}
		}
		if want := own.Decode(e.IDs[1:], false); said != want || groups[len(groups)-1].own[1] != 5 {
			t.Errorf("%s: %d groups say %q, want %q", decoder, len(groups), said, want)
		}
	}
}

func tokensOf(t *testing.T, name string) *tokenizer.Tokenizer {
	t.Helper()
	dir := filepath.Join(testdir.Shared(t, "tokenizer-json"), name)
	config, _ := os.ReadFile(filepath.Join(dir, "tokenizer_config.json"))
	tok, err := tokenizer.Parse(testdir.ReadFile(t, filepath.Join(dir, "tokenizer.json")), config)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// TestULDStep: a step's loss is the sum of its parts, and that of cross entropy alone is
// the objective sft's, gradients included.
func TestULDStep(t *testing.T) {
	step := func(u ULD) Metrics {
		u.UseULD = true
		_, m := firstStep(t, goldenTeacher(t, Config{ULD: u}, 3))
		return m
	}
	ranks, cross := step(ULD{}), step(ULD{CrossEntropyWeight: ptr(1.0), DistillationWeight: ptr(0.0)})
	both := step(ULD{CrossEntropyWeight: ptr(0.5), DistillationWeight: ptr(2.0)})
	if !(ranks.Loss > 0.01) || math.Abs(both.Loss-2*ranks.Loss-0.5*cross.Loss) > 1e-5 {
		t.Errorf("loss %v of %v and %v", both.Loss, ranks.Loss, cross.Loss)
	}
	j := goldenTeacher(t, Config{}, 3)
	j.Config.Objective, j.Config.Beta, j.Config.Temperature, j.Config.Lmbda, j.Teacher = "sft", nil, nil, nil, nil
	_, sft := firstStep(t, j)
	if math.Abs(sft.Loss-cross.Loss) > 1e-5 || math.Abs(sft.GradNorm/cross.GradNorm-1) > 1e-5 {
		t.Errorf("cross entropy %v with norm %v, sft has %v and %v", cross.Loss, cross.GradNorm, sft.Loss, sft.GradNorm)
	}
}

// TestULDRefused: keys that belong to use_uld_loss, and what it has no use for.
func TestULDRefused(t *testing.T) {
	for text, want := range map[string]string{
		"{objective: distill, uld_crossentropy_weight: 1}":         "uld_crossentropy_weight belongs to use_uld_loss",
		"{use_uld_loss: true}":                                     "use_uld_loss belongs to objective: distill, not sft",
		"{objective: distill, use_uld_loss: true, beta: 0.1}":      "beta chooses a divergence of equal tokens",
		"{objective: distill, use_uld_loss: true, loss_top_k: 4}":  "compares all ranks",
		"{objective: distill, use_uld_loss: true, seq_kd: true}":   "seq_kd has the teacher write answers",
		"{objective: distill, use_uld_loss: true, temperature: 2}": "temperature is of answers that are written",
	} {
		if _, err := parse(t, text).Resolve(1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
