package tokenizer

import (
	"slices"
	"strings"
	"testing"

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
