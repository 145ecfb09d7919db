package tokenizer

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
)

// rankedBPE builds byte-level BPE of tokens given as bytes in the order in which they
// are made; the first has the id offset. A word that is a token is never cut.
func (s *slow) rankedBPE(tokens []string, offset int) error {
	if err := affordable(tokens); err != nil {
		return err
	}
	t := s.t
	ranks := make(map[string]int, len(tokens))
	for i, tok := range tokens {
		if old, ok := ranks[tok]; ok {
			return fmt.Errorf("token %q has ranks %d and %d", clip(tok), old, i)
		}
		ranks[tok] = i
	}
	spelled := make([]string, len(tokens))
	for i, tok := range tokens {
		spelled[i] = byteSpelling(tok)
		if old, ok := t.ids[spelled[i]]; ok {
			return fmt.Errorf("token %q has rank %d and is the special token %d", clip(tok), i, old)
		}
	}
	for i, s := range spelled {
		t.ids[s] = int32(offset + i)
	}
	for _, tok := range tokens {
		var pairs [][2]int
		for cut := 1; cut < len(tok); cut++ {
			a, okA := ranks[tok[:cut]]
			b, okB := ranks[tok[cut:]]
			if okA && okB {
				pairs = append(pairs, [2]int{a, b})
			}
		}
		slices.SortFunc(pairs, func(x, y [2]int) int { return cmp.Or(cmp.Compare(x[0], y[0]), cmp.Compare(x[1], y[1])) })
		for _, p := range pairs {
			t.merges = append(t.merges, spelled[p[0]]+" "+spelled[p[1]])
		}
	}
	if err := t.addTokens(int32(offset + len(tokens) - 1)); err != nil {
		return err
	}
	t.model = &bpe{ids: t.ids, foreign: t.foreign, unk: -1, ignoreMerges: true, size: int32(len(t.vocab))}
	return nil
}

// maxCuts bounds the bytes that are looked at to find how tokens are made of two: the
// sum of the squares of their lengths. Published vocabularies need 2²⁵.
const maxCuts = 1 << 32

func affordable(tokens []string) error {
	cuts := 0
	for i, s := range tokens {
		if len(s) > maxTokenLen {
			return fmt.Errorf("token %d has %d bytes", i, len(s))
		}
		if cuts += len(s) * len(s); cuts > maxCuts {
			return fmt.Errorf("its tokens are too long (%d bytes in token %d): finding what they are made of would take more than %d steps", len(s), i, maxCuts)
		}
	}
	return nil
}

// byteSpelling writes bytes as byte-level vocabularies do.
func byteSpelling(s string) string {
	out := make([]rune, len(s))
	for i := range len(s) {
		out[i] = byteRune[s[i]]
	}
	return string(out)
}

// tekkenFile is what a tekken.json holds.
type tekkenFile struct {
	Config struct {
		Pattern     string `json:"pattern"`
		VocabSize   *int   `json:"default_vocab_size"`
		NumSpecials *int   `json:"default_num_special_tokens"`
	} `json:"config"`
	Vocab []struct {
		Rank  int    `json:"rank"`
		Bytes []byte `json:"token_bytes"`
	} `json:"vocab"`
	Specials []struct {
		Rank int    `json:"rank"`
		Text string `json:"token_str"`
	} `json:"special_tokens"`
}

// maxSpecials bounds the special tokens of a tekken.json; published ones have 1000.
const maxSpecials = 1 << 16

// tekken reads a tekken.json of Mistral: special tokens first, those without a name
// as <SPECIAL_n>, then byte-level BPE cut to the vocabulary's size.
func (s *slow) tekken(raw []byte) error {
	var f tekkenFile
	if len(raw) > maxTokenizerFile {
		return fmt.Errorf("%d bytes are more than %d", len(raw), maxTokenizerFile)
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return err
	}
	if f.Config.Pattern == "" {
		return fmt.Errorf("config.pattern is missing")
	}
	if f.Specials == nil {
		return fmt.Errorf("special_tokens is missing: versions without it had different ones for the same ids, take tokenizer.json of the model")
	}
	n := len(f.Specials)
	if f.Config.NumSpecials != nil {
		n = *f.Config.NumSpecials
	}
	if n < len(f.Specials) || n > maxSpecials {
		return fmt.Errorf("config.default_num_special_tokens is %d, special_tokens has %d", n, len(f.Specials))
	}
	t := s.t
	t.ids = make(map[string]int32, n+len(f.Vocab))
	names := make([]string, n)
	for _, x := range f.Specials {
		if x.Rank < 0 || x.Rank >= len(f.Specials) || names[x.Rank] != "" || x.Text == "" {
			return fmt.Errorf("special_tokens: %q has rank %d, want each of 0 to %d once", clip(x.Text), x.Rank, len(f.Specials)-1)
		}
		names[x.Rank] = x.Text
	}
	for i, name := range names {
		if name == "" {
			name = fmt.Sprintf("<SPECIAL_%d>", i)
		}
		if old, ok := t.ids[name]; ok {
			return fmt.Errorf("special_tokens: %q has ranks %d and %d", clip(name), old, i)
		}
		t.ids[name] = int32(i)
		t.added = append(t.added, addedToken{ID: int32(i), Content: name, Special: true})
	}
	if f.Config.VocabSize != nil {
		keep := *f.Config.VocabSize - n
		if keep < 0 {
			return fmt.Errorf("config.default_vocab_size %d is less than the %d special tokens", *f.Config.VocabSize, n)
		}
		f.Vocab = f.Vocab[:min(keep, len(f.Vocab))]
	}
	tokens := make([]string, len(f.Vocab))
	for i, x := range f.Vocab {
		if x.Rank != i || len(x.Bytes) == 0 {
			return fmt.Errorf("vocab: entry %d has rank %d and %d bytes", i, x.Rank, len(x.Bytes))
		}
		tokens[i] = string(x.Bytes)
	}
	s.pipeline = [4]string{"", splitBytes(f.Config.Pattern, false), "", byteLevelJSON}
	return s.rankedBPE(tokens, n)
}

// tiktokenRanks reads lines of a token in base64 and its rank, in order of rank.
func tiktokenRanks(raw []byte) ([]string, error) {
	var tokens []string
	for i, line := range bytes.Split(raw, []byte("\n")) {
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 {
			continue
		}
		b64, rank, _ := bytes.Cut(line, []byte(" "))
		tok, err := base64.StdEncoding.DecodeString(string(b64))
		if err != nil || len(tok) == 0 {
			return nil, fmt.Errorf("line %d: %q is no token in base64", i+1, clip(string(b64)))
		}
		if n, err := strconv.Atoi(string(rank)); err != nil || n != len(tokens) {
			return nil, fmt.Errorf("line %d: the rank is %q, want %d", i+1, clip(string(rank)), len(tokens))
		}
		tokens = append(tokens, string(tok))
	}
	return tokens, nil
}

// isTiktoken tells whether a file begins with a line of a tiktoken file.
func isTiktoken(raw []byte) bool {
	line, _, _ := bytes.Cut(raw[:min(len(raw), 1<<10)], []byte("\n"))
	tokens, err := tiktokenRanks(line)
	return err == nil && len(tokens) == 1
}

// llama3 reads Llama 3's tokenizer.model, a tiktoken file. Its special tokens are in
// the configuration alone.
func (s *slow) llama3(raw []byte) error {
	v, _ := s.config.Get("added_tokens_decoder")
	if v == nil && s.files["added_tokens.json"] == nil {
		return fmt.Errorf("is a tiktoken file, which has no special tokens, and neither added_tokens_decoder of tokenizer_config.json nor added_tokens.json names them")
	}
	return s.tiktoken(raw, llama3Pattern)
}

// qwen1 reads qwen.tiktoken. Its special tokens are those of the class.
func (s *slow) qwen1(raw []byte) error {
	s.pipeline[0] = `{"type":"NFC"}`
	if err := s.tiktoken(raw, qwen2Pattern); err != nil {
		return err
	}
	names := []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
	for i := range 205 {
		names = append(names, fmt.Sprintf("<|extra_%d|>", i))
	}
	for _, name := range names {
		s.addSpecial(addedToken{Content: name, Special: true})
	}
	return nil
}

func (s *slow) tiktoken(raw []byte, pattern string) error {
	tokens, err := tiktokenRanks(raw)
	if err != nil {
		return err
	}
	if len(tokens) == 0 {
		return fmt.Errorf("it has no tokens")
	}
	s.pipeline[1], s.pipeline[3] = splitBytes(pattern, false), byteLevelJSON
	s.t.ids = make(map[string]int32, len(tokens))
	return s.rankedBPE(tokens, 0)
}
