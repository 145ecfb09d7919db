package chat

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
)

func builtin(t *testing.T, name string) *Template {
	t.Helper()
	text, ok := Builtin(name)
	if !ok {
		t.Fatalf("no template %s", name)
	}
	tmpl, err := Parse(text, Options{BOS: "<s>", EOS: "</s>"})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return tmpl
}

// TestBuiltins: what each makes of a conversation, and the assistant's part of it.
func TestBuiltins(t *testing.T) {
	chat := Conversation{Messages: []Message{NewMessage("system", "Be kind."), NewMessage("user", "One?"), NewMessage("assistant", "Two."), NewMessage("user", "Three?"), NewMessage("assistant", "Four.")}}
	for name, want := range map[string][2]string{ // the text, without the system message, and what a question ends with
		"chatml":  {"<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nTwo.<|im_end|>\n<|im_start|>user\nThree?<|im_end|>\n<|im_start|>assistant\nFour.<|im_end|>\n", "<|im_start|>assistant\n"},
		"qwen":    {"<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nTwo.<|im_end|>\n<|im_start|>user\nThree?<|im_end|>\n<|im_start|>assistant\nFour.<|im_end|>\n", "<|im_start|>assistant\n"},
		"hermes":  {"<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nTwo.<|im_end|>\n<|im_start|>user\nThree?<|im_end|>\n<|im_start|>assistant\nFour.<|im_end|>\n", "<|im_start|>assistant\n"},
		"llama3":  {"<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nOne?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nTwo.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nThree?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nFour.<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n"},
		"llama2":  {"<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nOne? [/INST] Two. </s><s>[INST] Three? [/INST] Four. </s>", "[/INST]"},
		"mistral": {"<s>[INST] Be kind.\n\nOne? [/INST] Two.</s>[INST] Three? [/INST] Four.</s>", "[/INST]"},
		"gemma":   {"<s><start_of_turn>user\nBe kind.\n\nOne?<end_of_turn>\n<start_of_turn>model\nTwo.<end_of_turn>\n<start_of_turn>user\nThree?<end_of_turn>\n<start_of_turn>model\nFour.<end_of_turn>\n", "<start_of_turn>model\n"},
		"phi":     {"<|system|>\nBe kind.<|end|>\n<|user|>\nOne?<|end|>\n<|assistant|>\nTwo.<|end|>\n<|user|>\nThree?<|end|>\n<|assistant|>\nFour.<|end|>\n", "<|assistant|>\n"},
		"phi4":    {"<|im_start|>system<|im_sep|>Be kind.<|im_end|><|im_start|>user<|im_sep|>One?<|im_end|><|im_start|>assistant<|im_sep|>Two.<|im_end|><|im_start|>user<|im_sep|>Three?<|im_end|><|im_start|>assistant<|im_sep|>Four.<|im_end|>", "<|im_start|>assistant<|im_sep|>"},
		"zephyr":  {"<|system|>\nBe kind.</s>\n<|user|>\nOne?</s>\n<|assistant|>\nTwo.</s>\n<|user|>\nThree?</s>\n<|assistant|>\nFour.</s>\n", "<|assistant|>\n"},
		"vicuna":  {"<s>Be kind. USER: One? ASSISTANT: Two.</s>USER: Three? ASSISTANT: Four.</s>", "ASSISTANT:"},
		"alpaca":  {"<s>Be kind.\n\n### Instruction:\nOne?\n\n### Response:\nTwo.</s>\n\n### Instruction:\nThree?\n\n### Response:\nFour.</s>\n\n", "### Response:\n"},
	} {
		tmpl := builtin(t, name)
		text, spans, err := tmpl.Spans(chat)
		if err != nil || text != want[0] {
			t.Errorf("%s: %q, %v\nwant %q", name, text, err, want[0])
			continue
		}
		if len(spans) != 2 {
			t.Errorf("%s: %d turns", name, len(spans))
			continue
		}
		for i, answer := range []string{"Two.", "Four."} {
			if got := text[spans[i][0]:spans[i][1]]; !strings.HasPrefix(strings.TrimSpace(got), answer) || strings.TrimSpace(got) == answer || strings.Contains(got, "?") {
				t.Errorf("%s: turn %d is %q: want the answer and the token that ends it", name, i, got)
			}
		}
		chat := chat
		chat.Messages = chat.Messages[:2]
		if got, err := tmpl.Render(chat, true); err != nil || !strings.HasSuffix(got, want[1]) || !strings.HasPrefix(text, got) {
			t.Errorf("%s: a question: %q, %v", name, got, err)
		}
	}
	if names := Builtins(); len(names) != 12 {
		t.Errorf("templates without a line here: %v", names)
	}
}

// TestBuiltinsAsPublished: they render as the templates that models of the family
// came with, tools and their answers, too.
func TestBuiltinsAsPublished(t *testing.T) {
	seen := map[string]int{}
	for line := range strings.Lines(string(testdir.ReadFile(t, filepath.Join(testdir.Shared(t, "chat-templates"), "renderings.jsonl")))) {
		v, err := jinja.ParseJSON([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		d := v.(*jinja.Dict)
		name := map[string]string{"Qwen-Qwen2.5-7B-Instruct.jinja": "qwen", "google-gemma-2-2b-it.jinja": "gemma", "microsoft-Phi-3.5-mini-instruct.jinja": "phi"}[d.String("template")]
		want, rendered := d.Get("rendered")
		prompt, _ := d.Get("add_generation_prompt")
		if name == "" || !rendered || name == "phi" && prompt == false { // Phi's then ends the text with the EOS, too
			continue
		}
		var c Conversation
		list, _ := d.Get("messages")
		for _, m := range list.([]any) {
			c.Messages = append(c.Messages, Message{m.(*jinja.Dict)})
		}
		c.Tools, _ = d.Get("tools")
		text, _ := Builtin(name)
		tmpl, err := Parse(text, Options{BOS: d.String("bos_token"), EOS: d.String("eos_token")})
		if err != nil {
			t.Fatal(err)
		}
		got, err := tmpl.Render(c, prompt == true)
		if c.Tools != nil && name == "phi" {
			continue // Phi's leaves tools out
		}
		if err != nil || got != want {
			t.Errorf("%s, %s: %q, %v\nwant %q", name, d.String("conversation"), got, err, want)
		}
		seen[name]++
	}
	for _, name := range []string{"qwen", "gemma", "phi"} {
		if seen[name] == 0 {
			t.Errorf("no rendering of %s", name)
		}
	}
	t.Log(seen)
}

// TestCheckBuiltin: a template whose marks the tokenizer would cut to pieces is
// refused.
func TestCheckBuiltin(t *testing.T) {
	raw, err := json.Marshal(map[string]any{"model": map[string]any{"type": "BPE", "vocab": map[string]int{"a": 0, "<|im_start|>": 1, "<|im_end|>": 2, "</s>": 3}, "merges": []string{}},
		"added_tokens": []any{map[string]any{"id": 1, "content": "<|im_start|>", "special": true}, map[string]any{"id": 2, "content": "<|im_end|>", "special": true}, map[string]any{"id": 3, "content": "</s>", "special": true}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		config, name string
		ok           bool
	}{{`{"eos_token": "</s>"}`, "chatml", true}, {`{"eos_token": "</s>"}`, "llama3", false}, {`{"eos_token": "</s>"}`, "alpaca", true}, {`{}`, "alpaca", false}, {`{}`, "qwen", true}} {
		tok, err := tokenizer.Parse(raw, []byte(c.config))
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckBuiltin(c.name, tok); (err == nil) != c.ok || err != nil && fail.Code(err) != 3 {
			t.Errorf("%s with %s: %v", c.name, c.config, err)
		}
	}
}
