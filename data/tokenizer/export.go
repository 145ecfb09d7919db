package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
)

// GGUFKeys are the tokenizer's metadata for a GGUF file, in the order in which
// llama.cpp's converter writes them, the chat template included. A tokenizer
// that llama.cpp could not split alike is an error.
func (t *Tokenizer) GGUFKeys() ([]formats.KV, error) { return t.GGUFKeysFor(len(t.vocab)) }

// GGUFKeysFor is GGUFKeys for a model whose embedding has rows rows: ids from
// the vocabulary's end on become unused tokens [PADn].
func (t *Tokenizer) GGUFKeysFor(rows int) ([]formats.KV, error) {
	if rows < len(t.vocab) {
		return nil, fail.Inputf("tokenizer", "take the tokenizer that belongs to the model",
			"it has %d tokens, the model's embedding only %d rows", len(t.vocab), rows)
	}
	kv, err := t.ggufModel(rows)
	if err != nil {
		return nil, fail.Inputf("tokenizer", "keep this model in the Hugging Face format", "cannot be written to GGUF: %w", err)
	}
	for _, e := range []struct {
		key string
		id  int32
	}{{"bos", t.bos}, {"eos", t.eos}, {"unknown", t.unk}, {"padding", t.pad}} {
		if e.id >= 0 {
			kv = append(kv, formats.KV{Key: ggufTok + e.key + "_token_id", Value: uint32(e.id)})
		}
	}
	more, err := t.ggufEnds()
	if err != nil {
		return nil, fail.Inputf("tokenizer", "keep this model in the Hugging Face format", "cannot be written to GGUF: %w", err)
	}
	kv = append(kv, more...)
	kv = append(kv, formats.KV{Key: ggufTok + "add_bos_token", Value: t.AddsBOS()})
	kv = append(kv, formats.KV{Key: ggufTok + "add_eos_token", Value: t.AddsEOS()})
	return slices.Concat(kv, t.ggufTemplates(), t.sampling), nil
}

// ggufEnds are the keys of ends beside the EOS that llama.cpp does not know by
// their spelling; it has room for two, of a turn and of a message.
func (t *Tokenizer) ggufEnds() ([]formats.KV, error) {
	keys := []string{"eot", "eom"}
	var kv []formats.KV
	for _, id := range t.ends {
		if id == t.eos || slices.Contains(endTokens, t.vocab[id]) && t.kinds[id] != kindNormal {
			continue
		}
		if len(kv) == len(keys) {
			return nil, fmt.Errorf("it ends texts with %d tokens beside the EOS that llama.cpp does not know by name, GGUF has keys for %d (eos_token_id of generation_config.json)", len(kv)+1, len(keys))
		}
		kv = append(kv, formats.KV{Key: ggufTok + keys[len(kv)] + "_token_id", Value: uint32(id)})
	}
	return kv, nil
}

func (t *Tokenizer) ggufModel(rows int) ([]formats.KV, error) {
	if m, ok := t.model.(*wordPiece); ok {
		return t.ggufWords(rows, m)
	}
	if err := t.surroundingsFit(); err != nil {
		return nil, err
	}
	if m, ok := t.model.(*unigram); ok {
		return t.ggufUnigram(rows, m)
	}
	m, ok := t.model.(*bpe)
	if !ok {
		return nil, fmt.Errorf("GGUF has no word for models of whole words (WordLevel)")
	}
	if m.affixed() {
		return nil, fmt.Errorf("GGUF has no word for continuing_subword_prefix %q and end_of_word_suffix %q", clip(m.prefix), clip(m.suffix))
	}
	tokens, types := t.ggufVocab(rows, m.byteLevel)
	vocab := []formats.KV{{Key: ggufTok + "tokens", Value: tokens}}
	kinds := formats.KV{Key: ggufTok + "token_type", Value: types}
	if m.byteLevel {
		pre := t.preName
		if pre == "" {
			f, err := t.recognise(m)
			if err != nil {
				return nil, err
			}
			pre = f.names[0]
		}
		head := []formats.KV{{Key: ggufTok + "model", Value: "gpt2"}, {Key: ggufTok + "pre", Value: pre}}
		merges, err := t.ggufMerges()
		return slices.Concat(head, vocab, []formats.KV{kinds, {Key: ggufTok + "merges", Value: merges}}), err
	}
	prefix, err := t.spmPrefix(m)
	if err != nil {
		return nil, err
	}
	return slices.Concat(
		[]formats.KV{{Key: ggufTok + "model", Value: "llama"}, {Key: ggufTok + "pre", Value: "default"}},
		vocab,
		[]formats.KV{{Key: ggufTok + "scores", Value: t.ggufScores(rows, m)}, kinds, {Key: ggufTok + "add_space_prefix", Value: prefix}},
	), nil
}

// GGUFNote says in what the tokenizer of a GGUF with these keys differs, where that
// is one of the ways that every program of its kind lives with; "" for nothing.
func (t *Tokenizer) GGUFNote() string {
	var notes []string
	m, isBPE := t.model.(*bpe)
	_, isUnigram := t.model.(*unigram)
	if isUnigram || isBPE && !m.byteLevel {
		if t.rewritten("x", true) != t.rewritten("x", false) {
			notes = append(notes, "a space goes before the beginning of a text only (legacy: false), and of a GGUF before what follows a special token, too: llama.cpp has one flag for both")
		}
		if t.rewritten("x", true) == "▁x" && t.rewritten(" x", true) == "▁x" && t.rewritten("x ", true) == "▁x▁" {
			notes = append(notes, "no space goes before a text that begins with one, and of a GGUF one does, too")
		}
		for _, a := range t.added {
			if a.Normalized && t.rewritten("x", true) == "▁x" && t.rewritten(a.Content, true) == a.Content {
				notes = append(notes, fmt.Sprintf("no space goes behind user-defined pieces (%q is one) and one before a text that begins with one, and of a GGUF the other way round", clip(a.Content)))
				break
			}
		}
	}
	if isUnigram {
		if rules, err := t.precompiled(); err == nil && rules != nil {
			notes = append(notes, "compiled rules (precompiled_charsmap) drop combining marks behind a character that they replace where both are short (under 6 bytes), as Hugging Face's library does, and of a GGUF llama.cpp keeps them")
		}
	}
	if i := slices.IndexFunc(t.added, func(a addedToken) bool { return a.LStrip || a.RStrip }); i >= 0 {
		notes = append(notes, fmt.Sprintf("the spaces beside added tokens that take them in (lstrip, rstrip; %q is one) stay tokens of their own in a GGUF, which has no key for it; llama.cpp does as here for models that are called phi-3", clip(t.added[i].Content)))
	}
	return strings.Join(notes, "; ")
}

// surroundingsFit checks that what is put around a text can be said by
// add_bos_token and add_eos_token, and that no added token needs more than its
// text.
func (t *Tokenizer) surroundingsFit() error {
	if len(t.before) > 1 || len(t.before) == 1 && !t.AddsBOS() || len(t.after) > 1 || len(t.after) == 1 && !t.AddsEOS() {
		return fmt.Errorf("its post-processor adds more than BOS and EOS (%v before, %v after)", t.before, t.after)
	}
	for _, a := range t.added {
		if a.SingleWord {
			return fmt.Errorf("added token %q is matched as a single word only", clip(a.Content))
		}
	}
	return nil
}

// ggufVocab spells the tokens as llama.cpp expects them.
func (t *Tokenizer) ggufVocab(rows int, byteLevel bool) (tokens []string, types []int32) {
	tokens, types = make([]string, rows), make([]int32, rows)
	for i := range rows {
		if i >= len(t.vocab) || t.vocab[i] == "" {
			tokens[i], types[i] = fmt.Sprintf("[PAD%d]", i), int32(kindUnused)
			continue
		}
		tokens[i], types[i] = t.vocab[i], int32(t.kinds[i])
		if t.kinds[i] == kindUser && !byteLevel {
			tokens[i] = strings.ReplaceAll(tokens[i], "▁", " ")
		}
	}
	return tokens, types
}

// ggufMerges are the merges as "a b".
func (t *Tokenizer) ggufMerges() ([]string, error) {
	out := make([]string, len(t.merges))
	for i, s := range t.merges {
		a, b, _ := cutMerge(s)
		if strings.Contains(a, " ") || strings.Contains(b, " ") {
			return nil, fmt.Errorf("merge %d, %q + %q, holds a space", i, clip(a), clip(b))
		}
		out[i] = a + " " + b
	}
	return out, nil
}

// spmPrefix checks that a SentencePiece-style tokenizer writes ▁ for spaces and
// nothing else, and tells whether it also puts one before the text.
func (t *Tokenizer) spmPrefix(m *bpe) (bool, error) {
	if !m.byteFallback {
		return false, fmt.Errorf("BPE over characters without byte_fallback is not supported")
	}
	const probe = "a  b\tc\nÅ\u0041\u030aﬁ  "
	want := strings.ReplaceAll(probe, " ", "▁")
	switch t.rewritten(probe, true) {
	case want:
		return false, nil
	case "▁" + want:
		return true, nil // also where that is so before a text only: see GGUFNote
	}
	return false, fmt.Errorf("its normalizer does more than writing ▁ for spaces: %s", clip(string(t.pipe.text[0])))
}

// ggufScores are the scores llama.cpp merges by. Where the tokenizer has merges
// instead, a token's score is minus the place of the first merge that makes it:
// the same merges come first. (llama.cpp's converter writes -1000 everywhere in
// this case, which gives other ids.)
func (t *Tokenizer) ggufScores(rows int, m *bpe) []float32 {
	out := make([]float32, rows)
	if t.scores != nil {
		copy(out, t.scores)
	} else {
		t.mergeScores(out, m)
	}
	for i := len(t.vocab); i < rows; i++ {
		out[i] = -1e6
	}
	return out
}

func (t *Tokenizer) mergeScores(out []float32, m *bpe) {
	done := make([]bool, len(t.vocab))
	for rank, s := range t.merges {
		a, b, _ := cutMerge(s)
		if id := m.ids[a+b]; !done[id] {
			done[id] = true
			out[id] = -float32(rank)
		}
	}
	for i := range t.vocab {
		if !done[i] && t.kinds[i] == kindNormal {
			out[i] = -float32(len(t.merges))
		}
	}
}

// HFFiles are the files of a Hugging Face folder that hold the tokenizer:
// those it came from, unchanged, or for a tokenizer from GGUF new ones that
// Transformers' AutoTokenizer loads to the same ids. config.json is not among
// them.
func (t *Tokenizer) HFFiles() (map[string][]byte, error) {
	if t.files != nil {
		out := map[string][]byte{}
		for name, b := range t.files {
			if name != "config.json" {
				out[name] = b
			}
		}
		return out, nil
	}
	tok, err := t.hfTokenizer()
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		"tokenizer.json":          tok,
		"tokenizer_config.json":   t.hfConfig(),
		"special_tokens_map.json": t.hfSpecialMap(),
		"generation_config.json":  t.hfGeneration(),
	}, nil
}

func (t *Tokenizer) hfTokenizer() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n\"added_tokens\":[")
	for i, a := range t.sortedAdded() {
		fmt.Fprintf(&b, "%s\n{\"id\":%d,\"content\":%s,\"single_word\":%t,\"lstrip\":%t,\"rstrip\":%t,\"normalized\":%t,\"special\":%t}",
			comma(i), a.ID, quoteJSON(a.Content), a.SingleWord, a.LStrip, a.RStrip, a.Normalized, a.Special)
	}
	b.WriteString("\n]")
	for i, key := range pipelineKeys {
		fmt.Fprintf(&b, ",\n\"%s\":%s", key, t.pipe.text[i])
	}
	b.WriteString(",\n\"model\":")
	switch m := t.model.(type) {
	case *unigram:
		t.hfUnigram(&b, m)
	case *wordPiece:
		t.hfWordPiece(&b, m)
	case *bpe:
		if err := t.hfBPE(&b, m); err != nil {
			return nil, fail.Inputf("tokenizer", "", "cannot be written to tokenizer.json: %w", err)
		}
	default:
		return nil, fail.Inputf("tokenizer", "", "cannot be written to tokenizer.json: its model is a %T", m)
	}
	b.WriteString("}\n")
	return b.Bytes(), nil
}

// hfUnigram writes a model whose first tokens are those with scores.
func (t *Tokenizer) hfUnigram(b *bytes.Buffer, m *unigram) {
	fmt.Fprintf(b, "{\"type\":\"Unigram\",\"unk_id\":%d,\"byte_fallback\":%t,\n\"vocab\":[", m.unk, m.byteFallback)
	for i, score := range m.scores {
		fmt.Fprintf(b, "%s\n[%s,%v]", comma(i), quoteJSON(t.vocab[i]), score)
	}
	b.WriteString("\n]}")
}

func (t *Tokenizer) hfBPE(b *bytes.Buffer, m *bpe) error {
	merges, err := t.hfMerges()
	if err != nil {
		return err
	}
	unk := "null"
	if m.unk >= 0 {
		unk = quoteJSON(t.vocab[m.unk])
	}
	fmt.Fprintf(b, "{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":%s,\"continuing_subword_prefix\":%s,\"end_of_word_suffix\":%s,"+
		"\"fuse_unk\":%t,\"byte_fallback\":%t,\"ignore_merges\":%t,", unk, orNull(m.prefix), orNull(m.suffix), m.fuseUnk, m.byteFallback, m.ignoreMerges)
	t.hfVocab(b)
	b.WriteString(",\n\"merges\":[")
	for i, s := range merges {
		x, y, _ := cutMerge(s)
		fmt.Fprintf(b, "%s\n%s", comma(i), quoteJSON(x+" "+y))
	}
	b.WriteString("\n]}")
	return nil
}

// orNull is s as JSON, null where it is empty.
func orNull(s string) string {
	if s == "" {
		return "null"
	}
	return quoteJSON(s)
}

func (t *Tokenizer) sortedAdded() []addedToken {
	added := slices.Clone(t.added)
	sortByID(added)
	return added
}

// hfMerges are the merges, made from the scores where there are none.
func (t *Tokenizer) hfMerges() ([]string, error) {
	if t.scores == nil {
		return t.merges, nil
	}
	none := func(string) int32 { return -1 }
	var out []string
	for _, p := range t.scorePairs(none) {
		a, b := t.vocab[p.a], t.vocab[p.b]
		if strings.Contains(a+b, " ") {
			continue // a user-defined token, found in the text before merging
		}
		out = append(out, a+"\x00"+b)
	}
	return out, nil
}

// hfSpecial are the roles of special tokens and their ids, in the order in
// which they are written.
func (t *Tokenizer) hfSpecial() *jinja.Dict {
	d := &jinja.Dict{}
	for _, e := range []struct {
		key string
		id  int32
	}{{"bos_token", t.bos}, {"eos_token", t.eos}, {"pad_token", t.pad}, {"unk_token", t.unk}} {
		if e.id >= 0 {
			d.Set(e.key, t.vocab[e.id])
		}
	}
	return d
}

func (t *Tokenizer) hfConfig() []byte {
	d := &jinja.Dict{}
	d.Set("tokenizer_class", "PreTrainedTokenizerFast")
	d.Set("add_bos_token", t.AddsBOS())
	d.Set("add_eos_token", t.AddsEOS())
	s := t.hfSpecial()
	for i := range s.Len() {
		d.Set(s.At(i))
	}
	d.Set("clean_up_tokenization_spaces", false)
	d.Set("added_tokens_decoder", t.hfAddedDecoder())
	if t.templates != nil {
		d.Set("chat_template", t.templateJSON())
	}
	return indented(d)
}

func (t *Tokenizer) hfAddedDecoder() *jinja.Dict {
	d := &jinja.Dict{}
	for _, a := range t.sortedAdded() {
		d.Set(fmt.Sprint(a.ID), jinja.NewDict("content", a.Content, "lstrip", a.LStrip, "normalized", a.Normalized,
			"rstrip", a.RStrip, "single_word", a.SingleWord, "special", a.Special))
	}
	return d
}

func (t *Tokenizer) hfSpecialMap() []byte { return indented(t.hfSpecial()) }

func (t *Tokenizer) hfGeneration() []byte {
	d := &jinja.Dict{}
	if t.bos >= 0 {
		d.Set("bos_token_id", int64(t.bos))
	}
	var ends []any
	for _, id := range t.ends {
		ends = append(ends, int64(id))
	}
	switch len(ends) {
	case 0:
	case 1:
		d.Set("eos_token_id", ends[0])
	default:
		d.Set("eos_token_id", ends)
	}
	if t.pad >= 0 {
		d.Set("pad_token_id", int64(t.pad))
	}
	t.hfSampling(d)
	return indented(d)
}

// indented is d as JSON, two spaces an indent, nothing escaped for HTML.
func indented(d *jinja.Dict) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(d); err != nil {
		panic(err) // strings, ids and flags always encode
	}
	return b.Bytes()
}
