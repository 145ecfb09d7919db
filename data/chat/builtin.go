package chat

import (
	"embed"
	"strings"

	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
)

// The chat templates of model families, for a base that has none.
//
//go:embed builtin/*.jinja
var builtinFiles embed.FS

// builtins are their names, with the tokens that each needs; one without tokens of
// its own ends turns with the tokenizer's EOS.
var builtins = []struct {
	name   string
	tokens []string
}{
	{"chatml", []string{"<|im_start|>", "<|im_end|>"}},
	{"qwen", []string{"<|im_start|>", "<|im_end|>"}},
	{"hermes", []string{"<|im_start|>", "<|im_end|>"}},
	{"llama3", []string{"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}},
	{"llama2", nil},
	{"mistral", nil},
	{"gemma", []string{"<start_of_turn>", "<end_of_turn>"}},
	{"phi", []string{"<|user|>", "<|assistant|>", "<|end|>"}},
	{"phi4", []string{"<|im_start|>", "<|im_sep|>", "<|im_end|>"}},
	{"zephyr", nil},
	{"vicuna", nil},
	{"alpaca", nil},
}

// Builtins lists the names of the templates in the program.
func Builtins() []string {
	var names []string
	for _, b := range builtins {
		names = append(names, b.name)
	}
	return names
}

// Builtin is the text of a template in the program; false for a name that none has.
func Builtin(name string) (text string, ok bool) {
	for _, b := range builtins {
		if b.name == name {
			raw, err := builtinFiles.ReadFile("builtin/" + name + ".jinja")
			return strings.TrimSuffix(string(raw), "\n"), err == nil
		}
	}
	return "", false
}

// CheckBuiltin refuses a template of the program that a tokenizer cannot spell: its
// marks would be text in pieces, and no token would end a turn.
func CheckBuiltin(name string, tok *tokenizer.Tokenizer) error {
	for _, b := range builtins {
		if b.name != name {
			continue
		}
		for _, t := range b.tokens {
			if _, ok := tok.ID(t); !ok {
				return fail.Inputf("chat_template", "alpaca and vicuna need no tokens of their own; or take a base whose tokenizer has them", "%s needs the token %s, which the tokenizer does not have", name, t)
			}
		}
		if b.tokens == nil && tok.EOS() < 0 {
			return fail.Inputf("chat_template", "chatml, llama3 and gemma bring a token that ends a turn", "%s ends turns with the EOS token, and the tokenizer has none", name)
		}
	}
	return nil
}
