package data

import (
	"testing"

	"github.com/tunekit/tunekit/data/chat"
)

// Reasoning is learned, shown or left out, wherever a row has it and the template
// writes it.
func TestReasoning(t *testing.T) {
	tok := sharedTokenizer(t, "qwen3")
	const inField = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
	const channel = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.thinking %}analysis {{ m.thinking }} final {% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
	row := func(answer string) string {
		return `{"messages":[{"role":"user","content":"q"},{"role":"assistant",` + answer + `}]}`
	}
	for _, c := range []struct{ template, row, keep, mask, drop string }{
		{inField, row(`"reasoning_content":"because it is","content":"yes"`), "<think>\nbecause it is\n</think>\n\nyes<|im_end|>", "\n\nyes<|im_end|>", "yes<|im_end|>"},
		{inField, row(`"content":"<think>because</think>\n\nyes"`), "<think>because</think>\n\nyes<|im_end|>", "\n\nyes<|im_end|>", "yes<|im_end|>"},
		{inField, row(`"content":"because</think>yes <think>no</think> so"`), "because</think>yes <think>no</think> so<|im_end|>", "yes | so<|im_end|>", "yes so<|im_end|>"},
		{channel, row(`"thinking":"because","content":"yes"`), "analysis because final yes<|im_end|>", "analysis| final yes<|im_end|>", "yes<|im_end|>"},
		{inField, row(`"content":"yes"`), "yes<|im_end|>", "yes<|im_end|>", "yes<|im_end|>"},
	} {
		tmpl, err := chat.Parse(c.template, chat.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for how, want := range map[string]string{"": c.keep, "keep": c.keep, "mask": c.mask, "drop": c.drop} {
			_, e, err := chatRow(t, c.row, Options{Datasets: []Source{{Path: "x"}}, Reasoning: how}, tmpl)
			if err != nil {
				t.Fatalf("%s: %v", c.row, err)
			}
			if got := supervisedText(tok, e); got != want {
				t.Errorf("%s, %q: learns %q, want %q", c.row, how, got, want)
			}
		}
	}
}
