package tokenizer

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// qwenFiles parses the tokenizer of Qwen3 with another configuration.
func qwenFiles(t *testing.T, config string, more map[string][]byte) *Tokenizer {
	t.Helper()
	tok, err := parseHF(testdir.ReadFile(t, testdir.Shared(t, "tokenizer-json/qwen3/tokenizer.json")), []byte(config), more)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// Named templates survive every way: through GGUF, through new Hugging Face files
// and where they replace others.
func TestNamedTemplates(t *testing.T) {
	want := []NamedTemplate{{DefaultTemplate, "D"}, {ToolTemplate, "T"}}
	tok := qwenFiles(t, `{"chat_template":[{"name":"default","template":"D"},{"name":"tool_use","template":"T"}]}`, nil)
	if got := tok.ChatTemplates(); !slices.Equal(got, want) || tok.ChatTemplate() != "D" {
		t.Fatal(got)
	}
	kv, err := tok.GGUFKeys()
	if err != nil {
		t.Fatal(err)
	}
	back, err := FromGGUF(kv)
	if err != nil || !slices.Equal(back.ChatTemplates(), want) {
		t.Fatal(back.ChatTemplates(), err)
	}
	files, err := back.HFFiles()
	if err != nil {
		t.Fatal(err)
	}
	if again := qwenFiles(t, string(files["tokenizer_config.json"]), nil); !slices.Equal(again.ChatTemplates(), want) {
		t.Error(again.ChatTemplates())
	}
	other := qwenFiles(t, `{"chat_template":"C","x":1}`, map[string][]byte{"chat_template.jinja": []byte("J")})
	if other.ChatTemplate() != "J" {
		t.Fatal(other.ChatTemplates())
	}
	hash := other.Hash()
	other.SetChatTemplates(want)
	files, err = other.HFFiles()
	if _, left := files["chat_template.jinja"]; err != nil || left || !strings.Contains(string(files["tokenizer_config.json"]), `"x": 1`) {
		t.Error(files, err)
	}
	if again := qwenFiles(t, string(files["tokenizer_config.json"]), nil); !slices.Equal(again.ChatTemplates(), want) || other.Hash() != hash {
		t.Error(again.ChatTemplates())
	}
}

// Ends beside the EOS go through GGUF: those that llama.cpp does not know by name as
// eot and eom, and no more of them than there are keys.
func TestEndsInGGUF(t *testing.T) {
	ends := func(list string) (*Tokenizer, error) {
		tok := qwenFiles(t, `{"eos_token":"<|im_end|>"}`, map[string][]byte{"generation_config.json": []byte(`{"eos_token_id":` + list + `}`)})
		kv, err := tok.GGUFKeys()
		if err != nil {
			return tok, err
		}
		back, err := FromGGUF(kv)
		if err == nil && !slices.Equal(back.EOSIDs(), tok.EOSIDs()) {
			t.Errorf("%s: %v, from GGUF %v", list, tok.EOSIDs(), back.EOSIDs())
		}
		return tok, err
	}
	for _, list := range []string{"151645", "[151645, 846]", "[846, 847, 151645]"} {
		if _, err := ends(list); err != nil {
			t.Error(err)
		}
	}
	if tok, err := ends("[846, 847, 848]"); err == nil || !strings.Contains(err.Error(), "eos_token_id") {
		t.Errorf("%v: %v", tok.EOSIDs(), err)
	}
}

// Ends of another type than Transformers takes would be no ends: they are refused, by
// file. Numbers beyond the vocabulary and -1 are not: published models have them.
func TestEndsOfAnotherType(t *testing.T) {
	files := func(list string) error {
		tok := qwenFiles(t, `{}`, nil)
		tok.files = map[string][]byte{"generation_config.json": []byte(`{"eos_token_id":` + list + `}`)}
		_, err := tok.endsFromConfig()
		return err
	}
	for _, list := range []string{"1", "[1, 2]", "[]", "null", "-1", "999999999", "[1, null]"} {
		if err := files(list); err != nil {
			t.Errorf("%s: %v", list, err)
		}
	}
	for _, list := range []string{`"</s>"`, "2.5", "1e300", "true", "{}", "[[2]]", `[2, "x"]`} {
		if err := files(list); err == nil || !strings.Contains(err.Error(), "generation_config.json: eos_token_id says") {
			t.Errorf("%s: %v", list, err)
		}
	}
}

// Infinite numbers, as Python writes them into config.json of models with scans
// (golden/arch/mamba2/config_hub.json), are no damage to the tokenizer beside it.
func TestInfiniteConfig(t *testing.T) {
	tok := qwenFiles(t, `{}`, nil)
	tok.files = map[string][]byte{"config.json": []byte(`{"time_step_limit": [0.0, Infinity], "x": -Infinity, "eos_token_id": 2}`)}
	if ends, err := tok.endsFromConfig(); err != nil || !slices.Equal(ends, []int32{2}) {
		t.Error(ends, err)
	}
}

// Further templates as Transformers saves them, a file each, are read, written on where
// the folder is copied, and special tokens have the names that templates know.
func TestAdditionalTemplates(t *testing.T) {
	dir := t.TempDir() + "/m [1]"
	if err := os.MkdirAll(dir+"/additional_chat_templates", 0o777); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"tokenizer.json":                             string(testdir.ReadFile(t, testdir.Shared(t, "tokenizer-json/qwen3/tokenizer.json"))),
		"tokenizer_config.json":                      `{"eos_token":"<|im_end|>","pad_token":{"content":"<|endoftext|>"},"extra_special_tokens":{"image_token":"<|image_pad|>"}}`,
		"special_tokens_map.json":                    `{"pad_token":"<|im_end|>","unk_token":"<|im_start|>"}`,
		"chat_template.jinja":                        "D",
		"additional_chat_templates/tool_use.jinja":   "T",
		"additional_chat_templates/not a template.x": "X",
		"config.json":                                `{}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want := []NamedTemplate{{DefaultTemplate, "D"}, {ToolTemplate, "T"}}
	tok, err := Open(onDisk{dir: dir})
	if err != nil || !slices.Equal(tok.ChatTemplates(), want) {
		t.Fatalf("%v, %v", tok, err)
	}
	files, err := tok.HFFiles()
	if again := qwenFiles(t, string(files["tokenizer_config.json"]), nil); err != nil || !slices.Equal(again.ChatTemplates(), want) {
		t.Errorf("%v, %v", again.ChatTemplates(), err)
	}
	texts := map[string]string{"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<|im_start|>", "image_token": "<|image_pad|>"}
	if got := tok.SpecialTexts(); !maps.Equal(got, texts) {
		t.Errorf("special tokens %v, want %v", got, texts)
	}
}

// onDisk is a Hugging Face folder.
type onDisk struct {
	formats.Reader
	dir string
}

func (f onDisk) Path() string   { return f.dir }
func (f onDisk) Format() string { return "hf" }
func (f onDisk) File(name string) ([]byte, error) {
	return formats.SideFile(filepath.Join(f.dir, name))
}
