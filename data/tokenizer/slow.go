package tokenizer

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
)

// vocabFiles are the vocabularies of folders without tokenizer.json.
var vocabFiles = []string{"vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "tekken.json", "qwen.tiktoken", "vocab.txt"}

// Found tells whether a folder has a tokenizer, also one that cannot be read; file
// returns a file of the folder, nil where there is none.
func Found(file func(name string) ([]byte, error)) bool {
	names := []string{"tokenizer.json", "spiece.model"}
	for _, c := range tokenizerClasses {
		names = append(names, c.file)
	}
	for _, name := range names {
		if b, err := file(name); b != nil || err != nil {
			return true
		}
	}
	return false
}

// tokenizerClass is a tokenizer class of Transformers: what it does that its
// vocabulary file does not say.
type tokenizerClass struct {
	name   string
	models []string // values of model_type in config.json that mean this class, of families with folders that name none
	file   string   // its vocabulary
	read   func(*slow, []byte) error

	// what holds where no file says otherwise; "" is none
	bos, eos, unk, pad string
	addBOS, addEOS     bool
}

var tokenizerClasses = []tokenizerClass{
	{name: "GPT2Tokenizer", models: []string{"gpt2", "gpt_bigcode", "gpt_neo", "opt", "starcoder2"}, file: "vocab.json", read: (*slow).gpt2,
		bos: "<|endoftext|>", eos: "<|endoftext|>", unk: "<|endoftext|>"},
	{name: "CodeGenTokenizer", models: []string{"codegen", "phi"}, file: "vocab.json", read: (*slow).gpt2,
		bos: "<|endoftext|>", eos: "<|endoftext|>", unk: "<|endoftext|>"},
	{name: "Qwen2Tokenizer", models: []string{"qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_vl"}, file: "vocab.json", read: (*slow).qwen2,
		eos: "<|endoftext|>", unk: "<|endoftext|>", pad: "<|endoftext|>"},
	{name: "LlamaTokenizer", models: []string{"llama", "mistral", "mixtral", "phi3"}, file: "tokenizer.model", read: (*slow).llama,
		bos: "<s>", eos: "</s>", unk: "<unk>", addBOS: true},
	{name: "GemmaTokenizer", models: []string{"gemma", "gemma2", "gemma3", "gemma3_text"}, file: "tokenizer.model", read: (*slow).gemma,
		bos: "<bos>", eos: "<eos>", unk: "<unk>", pad: "<pad>", addBOS: true},
	{name: "T5Tokenizer", models: []string{"t5", "mt5", "umt5"}, file: "tokenizer.model", read: (*slow).t5,
		eos: "</s>", unk: "<unk>", pad: "<pad>", addEOS: true},
	{name: genericClass, file: "tokenizer.model", read: (*slow).llama3, bos: "<|begin_of_text|>", eos: "<|end_of_text|>", addBOS: true},
	{name: "MistralCommonBackend", file: "tekken.json", read: (*slow).tekken, bos: "<s>", eos: "</s>", unk: "<unk>", pad: "<pad>", addBOS: true},
	{name: "BertTokenizer", models: []string{"bert", "distilbert", "electra"}, file: "vocab.txt", read: (*slow).bert, unk: "[UNK]", pad: "[PAD]"},
	{name: "QWenTokenizer", models: []string{"qwen"}, file: "qwen.tiktoken", read: (*slow).qwen1, eos: "<|endoftext|>"},
}

// genericClass is the class of folders that need no class of their own; among those
// without tokenizer.json Llama 3 has it.
const genericClass = "PreTrainedTokenizer"

func classNamed(name string) *tokenizerClass {
	for i := range tokenizerClasses {
		if tokenizerClasses[i].name == name {
			return &tokenizerClasses[i]
		}
	}
	return nil
}

func classNames() string {
	var names []string
	for _, c := range tokenizerClasses {
		if c.name != genericClass {
			names = append(names, c.name)
		}
	}
	return strings.Join(names, ", ")
}

// slow makes the tokenizer.json of a folder that has none.
type slow struct {
	class    *tokenizerClass
	files    map[string][]byte
	config   *jinja.Dict // tokenizer_config.json with what special_tokens_map.json and its class add; empty without the files
	t        *Tokenizer
	spm      bool      // the vocabulary is a model of SentencePiece
	spaced   bool      // its class puts a space before each text between two added tokens (legacy)
	pipeline [4]string // in the order of pipelineKeys
}

// convertSlow reads the vocabulary of a folder without tokenizer.json by the
// rules of its tokenizer class. It returns the tokenizer.json and the
// tokenizer_config.json that say the same, and adds the vocabulary's files to more,
// the files beside them.
func convertSlow(r formats.Reader, config []byte, more map[string][]byte) (fast, full []byte, err error) {
	s := &slow{files: more}
	for _, name := range vocabFiles {
		b, err := r.File(name)
		if err != nil {
			return nil, nil, err
		}
		if b != nil {
			s.files[name] = b
		}
	}
	if b := s.files["spiece.model"]; b != nil && s.files["tokenizer.model"] == nil { // T5's name of it
		s.files["tokenizer.model"] = b
	}
	s.t = &Tokenizer{bos: -1, eos: -1, pad: -1, unk: -1, files: maps.Clone(more)}
	if config != nil {
		s.t.files["tokenizer_config.json"] = config
	}
	if s.config, err = s.dict("tokenizer_config.json"); err != nil {
		return nil, nil, err
	}
	special, err := s.dict("special_tokens_map.json")
	if err != nil {
		return nil, nil, err
	}
	own := s.config
	s.config = overlaid(own, special)
	if s.class, err = s.findClass(); err != nil {
		return nil, nil, err
	}
	if err := s.refuse(); err != nil {
		return nil, nil, err
	}
	raw := s.files[s.class.file]
	if raw == nil {
		return nil, nil, badTokenizer(s.class.file, "is missing, and so is tokenizer.json: the tokenizer class %s needs one of them", s.class.name)
	}
	if err := s.class.read(s, raw); err != nil {
		var e *fail.Error
		if errors.As(err, &e) { // about another file
			return nil, nil, err
		}
		return nil, nil, badTokenizer(s.class.file, "%v", err)
	}
	changed := s.fillConfig()
	if err := s.addAll(); err != nil {
		return nil, nil, err
	}
	if s.spaced {
		s.keepWithin()
	} else if err := s.onlyWhole(); err != nil {
		return nil, nil, badTokenizer(s.class.file, "%v", err)
	}
	if s.pipeline[2] == "" {
		if s.pipeline[2], err = s.post(); err != nil {
			return nil, nil, err
		}
	}
	for i, raw := range s.pipeline {
		if raw == "" {
			raw = "null"
		}
		if err := s.t.pipe.set(i, []byte(raw)); err != nil {
			return nil, nil, err
		}
	}
	if fast, err = s.t.hfTokenizer(); err != nil {
		return nil, nil, err
	}
	if changed || s.config != own {
		config = indented(s.config)
	}
	return fast, config, nil
}

// dict is a file's JSON object, an empty one without the file.
func (s *slow) dict(name string) (*jinja.Dict, error) {
	d, err := s.t.dict(name)
	if d == nil {
		d = &jinja.Dict{}
	}
	return d, err
}

// findClass takes the class that a file names, or else that of the model's type.
func (s *slow) findClass() (*tokenizerClass, error) {
	model, err := s.dict("config.json")
	if err != nil {
		return nil, err
	}
	where, name := "tokenizer_config.json", s.config.String("tokenizer_class")
	if name == "" {
		where, name = "config.json", model.String("tokenizer_class")
	}
	kind := model.String("model_type")
	name = strings.TrimSuffix(name, "Fast")
	if (name == "" || name == genericClass) && kind == "llama" && isTiktoken(s.files["tokenizer.model"]) {
		return classNamed(genericClass), nil
	}
	tekken := s.files["tekken.json"] != nil
	if name == "" && tekken {
		name = "MistralCommonBackend"
	}
	if name != "" {
		c := classNamed(name)
		if c == nil || c.name == genericClass {
			return nil, badTokenizer(where, "tokenizer_class %q is not supported without a tokenizer.json (known: %s); AutoTokenizer.from_pretrained(…).save_pretrained(…) of Transformers writes one", clip(name), classNames())
		}
		if tekken && s.files[c.file] == nil {
			c = classNamed("MistralCommonBackend")
		}
		return c, nil
	}
	for i := range tokenizerClasses {
		if kind != "" && slices.Contains(tokenizerClasses[i].models, kind) {
			return &tokenizerClasses[i], nil
		}
	}
	return nil, badTokenizer("tokenizer_config.json", "there is no tokenizer.json, and neither tokenizer_class (known: %s) nor model_type %q of config.json says how to read the vocabulary", classNames(), clip(kind))
}

// refuse names keys of the configuration that change ids and are not supported.
func (s *slow) refuse() error {
	if on, err := s.flag("split_special_tokens", false); on || err != nil {
		return cmp.Or(err, badTokenizer("tokenizer_config.json", "split_special_tokens true is not supported"))
	}
	v, _ := s.config.Get("sp_model_kwargs")
	if d, ok := v.(*jinja.Dict); v != nil && (!ok || d.Len() > 0) {
		return badTokenizer("tokenizer_config.json", "sp_model_kwargs is not empty, which is not supported: it makes ids random or moves them")
	}
	return nil
}

// fillConfig writes into the configuration the special tokens that it leaves to
// the class, and tells whether there were any. Transformers 5.23 makes a model of SentencePiece anew by its class beside a
// tokenizer.json, too: merges in the order of ids, a space before every text, no rules for spaces, no unknown token. The
// class that takes a tokenizer.json as it is stands for it.
func (s *slow) fillConfig() (changed bool) {
	if s.spm {
		s.config.Set("tokenizer_class", "PreTrainedTokenizerFast")
		changed = true
	}
	for _, d := range []struct{ key, content string }{
		{"bos_token", s.class.bos}, {"eos_token", s.class.eos}, {"unk_token", s.class.unk}, {"pad_token", s.class.pad},
	} {
		if _, ok := s.config.Get(d.key); ok {
			continue
		}
		if _, known := s.t.ids[d.content]; known || d.content != "" && s.class.file != "tekken.json" { // that lists all there are
			s.config.Set(d.key, d.content)
			changed = true
		}
	}
	return changed
}

// flag is a boolean of the configuration; absent and null are without.
func (s *slow) flag(key string, without bool) (bool, error) {
	switch v, _ := s.config.Get(key); v := v.(type) {
	case bool:
		return v, nil
	case nil:
		return without, nil
	default:
		return false, badTokenizer("tokenizer_config.json", "%s is %v, want true or false", key, v)
	}
}

// token reads a token given as text or as an object with flags.
func token(v any) (a addedToken, ok bool) {
	switch v := v.(type) {
	case string:
		return addedToken{Content: v}, v != ""
	case *jinja.Dict:
		set := func(key string) bool { b, _ := v.Get(key); f, _ := b.(bool); return f }
		a = addedToken{Content: v.String("content"), SingleWord: set("single_word"), LStrip: set("lstrip"), RStrip: set("rstrip"),
			Normalized: set("normalized"), Special: set("special")}
		if n, _ := v.Get("normalized"); n == nil {
			a.Normalized = !a.Special // as tokenizers' AddedToken has it
		}
		return a, a.Content != ""
	}
	return a, false
}

// addAll enters what the files name beside the vocabulary: added tokens with
// their ids, and special tokens, which get the next id where they have none.
func (s *slow) addAll() error {
	if err := s.addDecoder(); err != nil {
		return err
	}
	named, listed, _ := declaredTokens(s.config)
	for _, a := range append(named, listed...) {
		s.addSpecial(a)
	}
	return nil
}

func (s *slow) addSpecial(a addedToken) {
	t := s.t
	id, ok := t.ids[a.Content]
	if !ok {
		id = int32(len(t.vocab))
		t.vocab, t.ids[a.Content] = append(t.vocab, a.Content), id
	}
	for i := range t.added {
		if t.added[i].ID == id {
			t.added[i].Special, t.added[i].own = t.added[i].Special || a.Special, false
			return
		}
	}
	a.ID = id
	t.added = append(t.added, a)
}

// addDecoder reads added_tokens_decoder, or added_tokens.json of older folders.
func (s *slow) addDecoder() error {
	if v, ok := s.config.Get("added_tokens_decoder"); ok && v != nil {
		d, ok := v.(*jinja.Dict)
		if !ok {
			return badTokenizer("tokenizer_config.json", "added_tokens_decoder is no object")
		}
		for i := range d.Len() {
			key, v := d.At(i)
			id, err := strconv.Atoi(fmt.Sprint(key))
			a, ok := token(v)
			if err != nil || !ok {
				return badTokenizer("tokenizer_config.json", "added_tokens_decoder: %v is no token with an id", clip(fmt.Sprint(key)))
			}
			if err := s.place(int64(id), a); err != nil {
				return badTokenizer("tokenizer_config.json", "added_tokens_decoder: %v", err)
			}
		}
		return nil
	}
	old, err := s.dict("added_tokens.json")
	if err != nil {
		return err
	}
	for i := range old.Len() {
		key, v := old.At(i)
		id, ok := v.(int64)
		content, _ := key.(string)
		if !ok || content == "" {
			return badTokenizer("added_tokens.json", "%q has %v, want an id", clip(content), v)
		}
		if err := s.place(id, addedToken{Content: content, Normalized: !s.namedSpecial(content)}); err != nil {
			return badTokenizer("added_tokens.json", "%v", err)
		}
	}
	return nil
}

// namedSpecial tells whether a special token is spelled so.
func (s *slow) namedSpecial(content string) bool {
	named, listed, _ := declaredTokens(s.config)
	return slices.ContainsFunc(append(named, listed...), func(a addedToken) bool { return a.Content == content })
}

// maxAddedGap is how far beyond the vocabulary an added token's id may lie.
const maxAddedGap = 1 << 16

// place enters a token under the id its file gives.
func (s *slow) place(id int64, a addedToken) error {
	t := s.t
	switch old, ok := t.ids[a.Content]; {
	case id < 0 || id >= int64(len(t.vocab))+maxAddedGap:
		return fmt.Errorf("%q has id %d, far from the vocabulary of %d", clip(a.Content), id, len(t.vocab))
	case len(a.Content) > maxTokenLen:
		return fmt.Errorf("id %d has %d bytes", id, len(a.Content))
	case ok && int64(old) != id:
		return fmt.Errorf("%q has id %d here and %d in %s", clip(a.Content), id, old, s.class.file)
	case id < int64(len(t.vocab)) && t.vocab[id] != "" && t.vocab[id] != a.Content:
		return fmt.Errorf("id %d is %q here and %q in %s", id, clip(a.Content), clip(t.vocab[id]), s.class.file)
	}
	for int64(len(t.vocab)) <= id {
		t.vocab = append(t.vocab, "")
	}
	t.vocab[id], t.ids[a.Content] = a.Content, int32(id)
	a.ID = int32(id)
	t.added = slices.DeleteFunc(t.added, func(b addedToken) bool { return b.ID == a.ID })
	t.added = append(t.added, a)
	return nil
}

// post is the post-processor: the BOS and EOS that the configuration or the class
// puts around a text.
func (s *slow) post() (string, error) {
	before, err := s.around("add_bos_token", "bos_token", s.class.addBOS)
	if err != nil {
		return "", err
	}
	after, err := s.around("add_eos_token", "eos_token", s.class.addEOS)
	return string(s.t.postJSON(before, after)), err
}

// around is the id of a special token where a flag puts it around texts, else -1.
func (s *slow) around(flag, key string, without bool) (int32, error) {
	on, err := s.flag(flag, without)
	v, _ := s.config.Get(key)
	if a, ok := token(v); ok && on {
		return s.t.ids[a.Content], err
	}
	return -1, err
}

// byteBPE reads vocab.json and merges.txt into the model.
func (s *slow) byteBPE(raw []byte) error {
	ids, top, err := readVocab(raw)
	if err != nil {
		return err
	}
	t := s.t
	t.ids = ids
	if err := t.addTokens(top); err != nil {
		return err
	}
	text, ok := s.files["merges.txt"]
	if !ok {
		return fmt.Errorf("there is no merges.txt beside it")
	}
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSuffix(line, "\r")
		if line == "" || i == 0 && strings.HasPrefix(line, "#version") {
			continue
		}
		if _, _, ok := cutMerge(line); !ok {
			return fmt.Errorf("merges.txt, line %d: %q is no pair", i+1, clip(line))
		}
		t.merges = append(t.merges, line)
	}
	m := &bpe{ids: ids, foreign: t.foreign, unk: -1, size: int32(len(t.vocab))}
	t.model = m
	if err := m.index(t.merges); err != nil {
		return fmt.Errorf("merges.txt: %w", err)
	}
	return nil
}

// gpt2 splits by GPT-2's pattern.
func (s *slow) gpt2(raw []byte) error {
	prefix, err := s.flag("add_prefix_space", false)
	if err != nil {
		return err
	}
	s.pipeline[1] = fmt.Sprintf(`{"type":"ByteLevel","add_prefix_space":%t,"trim_offsets":true,"use_regex":true}`, prefix)
	s.pipeline[3] = byteLevelJSON
	return s.byteBPE(raw)
}

// qwen2 composes characters (NFC) and splits by Qwen2's pattern.
func (s *slow) qwen2(raw []byte) error {
	prefix, err := s.flag("add_prefix_space", false)
	if err != nil {
		return err
	}
	s.pipeline = [4]string{`{"type":"NFC"}`, splitBytes(qwen2Pattern, prefix), "", byteLevelJSON}
	return s.byteBPE(raw)
}

// splitBytes is the pre_tokenizer that isolates a pattern's matches and spells them
// in bytes.
func splitBytes(pattern string, prefix bool) string {
	return fmt.Sprintf(`{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":%s},"behavior":"Isolated","invert":false},`+
		`{"type":"ByteLevel","add_prefix_space":%t,"trim_offsets":true,"use_regex":false}]}`, quoteJSON(pattern), prefix)
}
