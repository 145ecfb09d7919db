package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// preFamily is what a value of GGUF's tokenizer.ggml.pre means. The first name
// is the one that is written.
type preFamily struct {
	names        []string
	splits       []string // patterns whose matches are isolated, in order
	ignoreMerges bool
	nfc          bool // the family's tokenizer.json normalises; llama.cpp does not
	bos          bool // llama.cpp adds a BOS where the file does not say
	alike        []string
}

// Patterns of families without a hand-written splitter.
const (
	cjkPattern      = `[一-龥぀-ゟ゠-ヿ]+`
	deepseekWords   = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
	deepseekLetters = "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
	casedWord       = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%[1]s|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%[1]s|%[2]s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwen35Pattern   = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	seedPattern     = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+`
	bloomPattern    = ` ?[^(\s|.,!?…。，、।۔،)]+`
)

// preFamilies are the pre-tokenizers of byte-level BPE that llama.cpp knows by
// name and this package splits alike (src/llama-vocab.cpp).
var preFamilies = []preFamily{
	{names: []string{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"}, splits: []string{llama3Pattern}, ignoreMerges: true, bos: true},
	{names: []string{"smaug-bpe", "dbrx", "chatglm-bpe", "glm4"}, splits: []string{llama3Pattern}},
	{names: []string{"qwen2", "deepseek-r1-qwen", "kormo", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"}, splits: []string{qwen2Pattern}, nfc: true},
	{names: []string{"qwen35"}, splits: []string{qwen35Pattern}, nfc: true},
	{names: []string{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"}, splits: []string{digitPattern, gpt2Pattern}},
	{names: []string{"gpt-2", "phi-2", "mpt", "jais", "gigachat", "a.x-4.0", "mellum", "exaone4", "trillion", "granite-docling"}, splits: []string{gpt2Pattern}},
	{names: []string{"olmo", "modern-bert"}, splits: []string{gpt2Pattern}, nfc: true},
	{names: []string{"deepseek-v3", "joyai-llm", "hunyuan-dense"}, splits: []string{digits3, cjkPattern, deepseekWords}},
	{names: []string{"deepseek-llm"}, splits: []string{`[\r\n]`, deepseekLetters, `\s?[!-/:-~！-／：-～‘-‟　-。]+`, `\s+$`, `[一-龥ࠀ-一가-퟿]+`, digitsPattern},
		alike: []string{digitPattern}},
	{names: []string{"deepseek-coder"}, splits: []string{`[\r\n]`, `\s?\p{L}+`, `\s?\p{P}+`, `[一-龥ࠀ-一가-퟿]+`, digitPattern}},
	{names: []string{"tekken"}, splits: []string{fmt.Sprintf(casedWord, "", `\p{N}`)}, ignoreMerges: true, bos: true},
	{names: []string{"gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"}, splits: []string{fmt.Sprintf(casedWord, `(?i:'s|'t|'re|'ve|'m|'ll|'d)?`, digits3)}},
	{names: []string{"seed-coder"}, splits: []string{seedPattern}},
	{names: []string{"bloom", "poro-chat", "gpt3-finnish"}, splits: []string{bloomPattern}},
	{names: []string{"viking"}, splits: []string{bloomPattern, digitPattern}},
	{names: []string{"falcon"}, splits: []string{"[\\p{P}\\$\\+<=>\\^~\\|`]+", gpt2Pattern, `[0-9][0-9][0-9]`}},
	{names: []string{"default"}, splits: []string{`[\p{P}\$\+<=>\^~\|]+`, gpt2Pattern, digitsPattern, `[0-9][0-9][0-9]`}},
}

// familyOf finds a family by any of its names.
func familyOf(name string) (*preFamily, error) {
	var known []string
	for i := range preFamilies {
		if slices.Contains(preFamilies[i].names, name) {
			return &preFamilies[i], nil
		}
		known = append(known, preFamilies[i].names...)
	}
	slices.Sort(known)
	return nil, fmt.Errorf("pre-tokenizer %q is not known; with another one every id could be wrong (known: %s)", clip(name), strings.Join(known, ", "))
}

// preJSON is the family as the pre_tokenizer of tokenizer.json.
func (f *preFamily) preJSON() []byte {
	var parts []string
	n := len(f.splits)
	useRegex := f.splits[n-1] == gpt2Pattern
	for i, s := range f.splits {
		switch {
		case useRegex && i == n-1:
		case s == digitPattern && useRegex:
			parts = append(parts, `{"type":"Digits","individual_digits":true}`)
		default:
			parts = append(parts, `{"type":"Split","pattern":{"Regex":`+quoteJSON(s)+`},"behavior":"Isolated","invert":false}`)
		}
	}
	parts = append(parts, fmt.Sprintf(`{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":%t}`, useRegex))
	if len(parts) == 1 {
		return []byte(parts[0])
	}
	return []byte(`{"type":"Sequence","pretokenizers":[` + strings.Join(parts, ",") + `]}`)
}

// recognise finds the family of a byte-level tokenizer, for writing GGUF.
func (t *Tokenizer) recognise(m *bpe) (*preFamily, error) {
	splits, err := splitPatterns(t.pipe.Pre)
	if err != nil {
		return nil, err
	}
	nfc := len(t.norm) > 0
	if nfc && !t.onlyNFC() {
		return nil, fmt.Errorf("its normalizer has no counterpart in GGUF: %s", clip(string(t.pipe.text[0])))
	}
	for i := range preFamilies {
		f := &preFamilies[i]
		same := slices.Equal(f.splits, splits)
		if n := len(f.splits); !same && f.alike != nil && len(splits) == n {
			same = slices.Equal(f.splits[:n-1], splits[:n-1]) && slices.Contains(f.alike, splits[n-1])
		}
		if same && f.ignoreMerges == m.ignoreMerges && (f.nfc || !nfc) {
			return f, nil
		}
	}
	return nil, fmt.Errorf("its pre-tokenizer (ignore_merges %t, NFC %t) has no name in llama.cpp: %s", m.ignoreMerges, nfc, clip(string(t.pipe.text[1])))
}

func (t *Tokenizer) onlyNFC() bool {
	n := t.pipe.Normalizer
	for n.Type == "Sequence" && len(n.Normalizers) == 1 {
		n = &n.Normalizers[0]
	}
	return n.Type == "NFC"
}

// splitPatterns lists the patterns a pre-tokenizer isolates, in one spelling.
func splitPatterns(c *component) ([]string, error) {
	if c == nil {
		return nil, nil
	}
	switch {
	case c.Type == "Sequence":
		var out []string
		for i := range c.Pretokenizers {
			s, err := splitPatterns(&c.Pretokenizers[i])
			if err != nil {
				return nil, err
			}
			out = append(out, s...)
		}
		return out, nil
	case c.Type == "ByteLevel" && (c.AddPrefixSpace == nil || *c.AddPrefixSpace):
		return nil, fmt.Errorf("add_prefix_space of ByteLevel has no counterpart in GGUF")
	case c.Type == "ByteLevel" && (c.UseRegex == nil || *c.UseRegex):
		return []string{gpt2Pattern}, nil
	case c.Type == "ByteLevel":
		return nil, nil
	case c.Type == "Digits" && c.IndividualDigits:
		return []string{digitPattern}, nil
	case c.Type == "Digits":
		return []string{digitsPattern}, nil
	case c.Type == "Split" && c.Pattern != nil && c.Pattern.Regex != nil &&
		(c.Behavior == "Isolated" && !c.Invert || c.Behavior == "Removed" && c.Invert):
		return []string{canonicalPattern(*c.Pattern.Regex)}, nil
	}
	raw, _ := json.Marshal(c.Type)
	return nil, fmt.Errorf("pre-tokenizer %s has no counterpart in GGUF", raw)
}
