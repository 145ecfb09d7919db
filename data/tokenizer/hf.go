package tokenizer

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/formats/fail"
)

// Bounds on what a tokenizer file may hold.
const (
	maxTokenizerFile = 256 << 20
	maxTokenLen      = 1 << 20
	maxConfigFile    = 64 << 20
)

// ErrFormat is wrapped by every error about a damaged or unsupported
// tokenizer file.
var ErrFormat = errors.New("bad tokenizer")

func badTokenizer(where, format string, args ...any) error {
	return &fail.Error{
		Kind: fail.Input, Where: where, Msg: fmt.Sprintf(format, args...), Err: ErrFormat,
		Hint: "take the tokenizer files from where the model was published",
	}
}

// Parse reads a Hugging Face tokenizer.json and, where there is one,
// tokenizer_config.json (config may be nil). A part of it that shapes ids and
// that this package does not know is an error that names it, never ignored.
// Both are kept by reference and must not change.
func Parse(json, config []byte) (*Tokenizer, error) {
	return parseHF(json, config, nil)
}

func parseHF(data, config []byte, more map[string][]byte) (*Tokenizer, error) {
	if len(data) > maxTokenizerFile {
		return nil, badTokenizer("tokenizer.json", "%d bytes are more than %d", len(data), maxTokenizerFile)
	}
	t := &Tokenizer{bos: -1, eos: -1, pad: -1, unk: -1, files: map[string][]byte{"tokenizer.json": data}}
	for name, b := range more {
		t.files[name] = b
	}
	if config != nil {
		t.files["tokenizer_config.json"] = config
		var err error
		if t.config, err = parseConfig(config); err != nil {
			return nil, badTokenizer("tokenizer_config.json", "%v", err)
		}
	}
	special, err := t.dict("special_tokens_map.json")
	if err != nil {
		return nil, err
	}
	t.words = overlaid(t.config, special)
	h := &hfFile{}
	if err := h.read(t, data); err != nil {
		return nil, badTokenizer("tokenizer.json", "%v", err)
	}
	if config != nil {
		t.templates = templatesOf(t.config)
	}
	if err := t.readSpecial(special); err != nil {
		return nil, err
	}
	if err := t.readMore(); err != nil {
		return nil, err
	}
	t.guessSpecial()
	if err := t.finish(); err != nil {
		return nil, badTokenizer("tokenizer.json", "%v", err)
	}
	t.bosFromTemplate()
	return t, nil
}

// hfFile holds the raw parts of tokenizer.json.
type hfFile struct {
	model    []byte
	added    []byte
	pipeline [4][]byte

	modelType, unk, prefix, suffix      string
	hasPrefix                           bool // it may be "" on purpose
	vocab, merges                       []byte
	byteFallback, fuseUnk, ignoreMerges bool
	unkID                               int32
	longest                             int // model.max_input_chars_per_word; 0: absent
}

func (h *hfFile) read(t *Tokenizer, data []byte) error {
	s := &jsonScan{data: data}
	err := s.object(func(key string) error {
		raw, err := s.skip(1)
		switch key {
		case "model":
			h.model = raw
		case "added_tokens":
			h.added = raw
		}
		for i, k := range pipelineKeys {
			if k == key {
				h.pipeline[i] = raw
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	if s.peek() != 0 {
		return s.errorf("text after the end")
	}
	if h.model == nil {
		return fmt.Errorf("field model is missing: not a tokenizer.json")
	}
	if err := h.readModel(); err != nil {
		return fmt.Errorf("model: %w", err)
	}
	return h.build(t)
}

func (h *hfFile) readModel() error {
	s := &jsonScan{data: h.model}
	h.unkID, h.prefix = -1, ""
	return s.object(func(key string) error {
		raw, err := s.skip(2)
		if err != nil {
			return err
		}
		switch key {
		case "type":
			return unmarshal(key, raw, &h.modelType)
		case "vocab":
			h.vocab = raw
		case "merges":
			h.merges = raw
		case "unk_token":
			return unmarshal(key, raw, &h.unk)
		case "unk_id":
			if string(raw) != "null" {
				return unmarshal(key, raw, &h.unkID)
			}
		case "continuing_subword_prefix":
			h.hasPrefix = true
			return unmarshal(key, raw, &h.prefix)
		case "end_of_word_suffix":
			return unmarshal(key, raw, &h.suffix)
		case "max_input_chars_per_word":
			return unmarshal(key, raw, &h.longest)
		case "byte_fallback":
			return unmarshal(key, raw, &h.byteFallback)
		case "fuse_unk":
			return unmarshal(key, raw, &h.fuseUnk)
		case "ignore_merges":
			return unmarshal(key, raw, &h.ignoreMerges)
		case "dropout":
			var p float64
			if err := unmarshal(key, raw, &p); err != nil || p != 0 {
				return fmt.Errorf("dropout %s: ids would be random; set it to null", clip(string(raw)))
			}
		}
		return nil
	})
}

func unmarshal(key string, raw []byte, v any) error {
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

func (h *hfFile) build(t *Tokenizer) error {
	for i, raw := range h.pipeline {
		if raw == nil {
			raw = []byte("null")
		}
		if err := t.pipe.set(i, raw); err != nil {
			return err
		}
	}
	if h.added != nil {
		if err := unmarshal("added_tokens", h.added, &t.added); err != nil {
			return err
		}
	}
	if h.modelType == "" && h.merges != nil {
		h.modelType = "BPE"
	}
	if h.modelType == "" && h.longest != 0 {
		h.modelType = "WordPiece"
	}
	if h.modelType == "WordPiece" {
		h.unk, h.longest = cmp.Or(h.unk, wordUnknown), cmp.Or(h.longest, wordLongest)
		if !h.hasPrefix {
			h.prefix = wordPrefix
		}
		return h.buildWordPiece(t)
	}
	switch h.modelType {
	case "BPE":
		return h.buildBPE(t)
	case "Unigram":
		return h.buildUnigram(t)
	case "WordLevel":
		return h.buildWordLevel(t)
	}
	return fmt.Errorf("model: type %q is not supported (known: BPE, Unigram, WordLevel, WordPiece)", clip(h.modelType))
}

func (h *hfFile) buildBPE(t *Tokenizer) error {
	ids, top, err := readVocab(h.vocab)
	if err != nil {
		return fmt.Errorf("model.vocab: %w", err)
	}
	t.ids = ids
	inModel := len(ids)
	if err := t.addTokens(top); err != nil {
		return err
	}
	m := &bpe{ids: ids, foreign: t.foreign, byteFallback: h.byteFallback, ignoreMerges: h.ignoreMerges, fuseUnk: h.fuseUnk, prefix: h.prefix, suffix: h.suffix, unk: -1, size: int32(len(t.vocab))}
	if h.unk != "" {
		id, ok := ids[h.unk]
		if !ok {
			return fmt.Errorf("model.unk_token %q is not in the vocabulary of %d tokens", clip(h.unk), inModel)
		}
		m.unk, t.unk = id, id
	}
	t.model = m
	if err := h.readMerges(t, m); err != nil {
		return fmt.Errorf("model.merges: %w", err)
	}
	t.setKinds(m.byteFallback)
	m.skip = t.skip
	return nil
}

// readVocab reads {"token": id, …}; top is the largest id.
func readVocab(raw []byte) (ids map[string]int32, top int32, err error) {
	if raw == nil {
		return nil, -1, fmt.Errorf("is missing")
	}
	s := &jsonScan{data: raw}
	ids = make(map[string]int32, len(raw)/24)
	top = -1
	err = s.list('{', '}', func() error {
		key, err := s.str()
		if err != nil {
			return err
		}
		if len(key) > maxTokenLen {
			return s.errorf("a token of %d bytes", len(key))
		}
		token := string(key)
		if err := s.expect(':'); err != nil {
			return err
		}
		id, err := s.id()
		if err != nil {
			return err
		}
		if old, ok := ids[token]; ok {
			return s.errorf("token %q has ids %d and %d", clip(token), old, id)
		}
		ids[token] = id
		top = max(top, id)
		return nil
	})
	return ids, top, err
}

// addTokens enters the added tokens and lays the vocabulary out by id.
func (t *Tokenizer) addTokens(top int32) error {
	if err := t.numbered(); err != nil {
		return err
	}
	if err := t.declared(top); err != nil {
		return err
	}
	t.foreign = map[int32]bool{}
	for _, a := range t.added {
		switch old, ok := t.ids[a.Content]; {
		case a.Content == "":
			return fmt.Errorf("added_tokens: id %d is empty", a.ID)
		case len(a.Content) > maxTokenLen:
			return fmt.Errorf("added_tokens: id %d has %d bytes", a.ID, len(a.Content))
		case a.ID < 0:
			return fmt.Errorf("added_tokens: %q has id %d", clip(a.Content), a.ID)
		case ok && old != a.ID:
			return fmt.Errorf("added_tokens: %q has id %d here and %d in the vocabulary", clip(a.Content), a.ID, old)
		}
		if _, ok := t.ids[a.Content]; !ok {
			t.ids[a.Content], t.foreign[a.ID] = a.ID, true
		}
		top = max(top, a.ID)
	}
	if int64(top) >= 2*int64(len(t.ids))+1<<16 {
		return fmt.Errorf("id %d is far beyond the %d tokens there are", top, len(t.ids))
	}
	t.vocab = make([]string, top+1)
	taken := make([]bool, top+1)
	for token, id := range t.ids {
		if taken[id] {
			return fmt.Errorf("id %d belongs to %q and to another token", id, clip(token))
		}
		taken[id] = true
		t.vocab[id] = token
	}
	return nil
}

// numbered refuses added tokens of tokenizer.json with other ids than Hugging Face's library gives them,
// which does not read those: the next ones behind as many as the model has tokens.
func (t *Tokenizer) numbered() error {
	size, more := int32(len(t.ids)), map[string]int32{}
	next := size
	for _, a := range t.added {
		if a.Content == "" {
			continue
		}
		id, ok := t.ids[a.Content]
		if !ok {
			if id, ok = more[a.Content]; !ok {
				id = next
			}
			if more[a.Content] = id; a.ID != id {
				return fmt.Errorf("added_tokens: %q has id %d here, and %d for Hugging Face's library, which numbers them behind the %d tokens of the model", clip(a.Content), a.ID, id, size)
			}
		}
		next = max(next, id+1)
	}
	return nil
}

// setKinds gives each id its GGUF token type.
func (t *Tokenizer) setKinds(byteFallback bool) {
	t.kinds = make([]tokenKind, len(t.vocab))
	t.skip = make([]bool, len(t.vocab))
	for i, s := range t.vocab {
		t.kinds[i] = kindNormal
		if _, ok := byteToken(s); ok && byteFallback {
			t.kinds[i] = kindByte
		} else if s == "" {
			t.kinds[i] = kindUnused
		}
	}
	for _, a := range t.added {
		t.skip[a.ID] = a.Special
		t.kinds[a.ID] = kindUser
		if a.Special || looksSpecial(a.Content) {
			t.kinds[a.ID] = kindControl
		}
	}
	if t.unk >= 0 && byteFallback {
		t.kinds[t.unk] = kindUnknown
	}
}

// looksSpecial tells whether an added token is a control token whatever its
// file says, as llama.cpp's converter decides.
func looksSpecial(s string) bool {
	switch {
	case s == "<pad>" || s == "<mask>" || s == "<2mass>" || s == "[@BOS@]":
		return true
	case strings.HasPrefix(s, "<|") && strings.HasSuffix(s, "|>"):
		return true
	case strings.HasPrefix(s, "<｜") && strings.HasSuffix(s, "｜>"):
		return true
	}
	return strings.HasPrefix(s, "<unused")
}

// readMerges reads ["a b", …] or [["a","b"], …].
func (h *hfFile) readMerges(t *Tokenizer, m *bpe) error {
	if h.merges == nil {
		return fmt.Errorf("is missing")
	}
	s := &jsonScan{data: h.merges}
	t.merges = make([]string, 0, len(h.merges)/12)
	err := s.array(func() error {
		var pair string
		if s.peek() != '[' {
			b, err := s.str()
			if err != nil {
				return err
			}
			pair = string(b)
		} else {
			var parts []string
			err := s.array(func() error { b, err := s.str(); parts = append(parts, string(b)); return err })
			if err != nil {
				return err
			}
			if len(parts) != 2 {
				return s.errorf("merge %d has %d parts", len(t.merges), len(parts))
			}
			pair = parts[0] + "\x00" + parts[1]
		}
		t.merges = append(t.merges, pair)
		return nil
	})
	if err != nil {
		return err
	}
	return m.index(t.merges)
}

// cutMerge splits a merge at its NUL, or where it has none at its space.
func cutMerge(s string) (a, b string, ok bool) {
	if a, b, ok = strings.Cut(s, "\x00"); ok {
		return a, b, a != "" && b != ""
	}
	if len(s) < 3 {
		return "", "", false
	}
	i := strings.IndexByte(s[1:], ' ') + 1
	if i < 1 || i+1 >= len(s) || strings.IndexByte(s[i+1:], ' ') >= 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// index builds the merge table.
func (m *bpe) index(merges []string) error {
	m.merges = newMergeTable(len(merges))
	var joined []byte
	for rank, s := range merges {
		a, b, ok := cutMerge(s)
		if !ok {
			return fmt.Errorf("merge %d, %q, is no pair", rank, clip(s))
		}
		if len(b) < len(m.prefix) {
			return fmt.Errorf("merge %d, %q: its second part is shorter than continuing_subword_prefix %q", rank, clip(s), clip(m.prefix))
		}
		joined = append(append(joined[:0], a...), b[len(m.prefix):]...)
		ia, oka := m.ids[a]
		ib, okb := m.ids[b]
		ij, okj := m.ids[string(joined)]
		if !oka || !okb || !okj {
			missing := string(joined)
			if !oka {
				missing = a
			} else if !okb {
				missing = b
			}
			return fmt.Errorf("merge %d, %q: token %q is not in the vocabulary", rank, clip(s), clip(missing))
		}
		m.merges.put(ia, ib, merge{int32(rank), ij})
	}
	return nil
}

// parseConfig reads tokenizer_config.json.
func parseConfig(config []byte) (*jinja.Dict, error) {
	if len(config) > maxConfigFile {
		return nil, fmt.Errorf("%d bytes are more than %d", len(config), maxConfigFile)
	}
	v, err := jinja.ParseJSON(config)
	if err != nil {
		return nil, err
	}
	c, ok := v.(*jinja.Dict)
	if !ok {
		return nil, fmt.Errorf("is no JSON object")
	}
	if v, _ := c.Get("split_special_tokens"); v == true {
		return nil, fmt.Errorf("split_special_tokens: true, which makes ordinary text of the special tokens that chat templates write, is not supported; set it to false")
	}
	return c, nil
}

// readSpecial takes the special tokens from t.words, which special_tokens_map.json may have written over. A
// padding or unknown token that the vocabulary lacks is none; a missing BOS or EOS is an error.
func (t *Tokenizer) readSpecial(special *jinja.Dict) error {
	for _, e := range []struct {
		key  string
		id   *int32
		none bool // where the vocabulary lacks it
	}{{"bos_token", &t.bos, false}, {"eos_token", &t.eos, false}, {"pad_token", &t.pad, true}, {"unk_token", &t.unk, true}} {
		if known, err := t.specialID(t.words, e.key, e.id); err != nil && (known || !e.none) {
			where := "tokenizer_config.json"
			if v, _ := special.Get(e.key); v != nil && t.words != t.config {
				where = "special_tokens_map.json"
			}
			return badTokenizer(where, "%v", err)
		}
	}
	return nil
}

// specialID finds the id of a special token given as text or as an object; known is false where the vocabulary lacks it.
func (t *Tokenizer) specialID(c *jinja.Dict, key string, id *int32) (known bool, err error) {
	given, _ := c.Get(key)
	v := given
	if d, ok := v.(*jinja.Dict); ok {
		v, _ = d.Get("content")
	}
	s, ok := v.(string)
	switch {
	case !ok && given != nil && given != false:
		return true, fmt.Errorf("%s has no text: the text of a token, or an object whose content it is, is expected", key)
	case s == "":
		return true, nil
	}
	n, ok := t.ids[s]
	if !ok {
		return false, fmt.Errorf("%s %q is not in the vocabulary of %d tokens", key, clip(s), len(t.ids))
	}
	*id = n
	return true, nil
}
