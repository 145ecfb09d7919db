package chat

import (
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// chatml writes what Qwen2.5's template does, and llama3 what Llama 3's does around
// the turns, for rows with a system turn, tools, calls and their answers.
func TestTemplatesByName(t *testing.T) {
	qwen, err := Parse(string(testdir.ReadFile(t, filepath.Join(testdir.Shared(t, "chat-templates"), "Qwen-Qwen2.5-7B-Instruct.jinja"))), Options{})
	if err != nil {
		t.Fatal(err)
	}
	ours, err := Parse(Named("chatml"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	const system, user = `{"role": "system", "content": "Be <brief>."}`, `{"role": "user", "content": "Weather & time?"}`
	const calls = `{"role": "assistant", "content": "Looking.", "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm", "days": 2}}}, {"function": {"name": "time", "arguments": {}}}]},
		{"role": "tool", "content": "12 °C"}, {"role": "tool", "content": "noon"}, {"role": "assistant", "content": "Mild, noon."}`
	const silent = `{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "time", "arguments": {}}}]}, {"role": "tool", "content": "noon"}`
	const tools = `[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]`
	for _, c := range [][2]string{{system + "," + user, ""}, {system + "," + user + `,{"role": "assistant", "content": "12"}`, ""}, {system + "," + user + "," + calls, tools}, {system + "," + user + "," + silent, tools}} {
		conv := conversation(t, c[0], c[1])
		for _, prompt := range []bool{false, true} {
			want, err := qwen.Render(conv, prompt)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := ours.Render(conv, prompt); err != nil || got != want {
				t.Errorf("%v\n%s\nwant\n%s", err, got, want)
			}
		}
	}
	if got, err := ours.Render(conversation(t, user, ""), true); err != nil || got != "<|im_start|>user\nWeather & time?<|im_end|>\n<|im_start|>assistant\n" {
		t.Errorf("without a system turn: %q, %v", got, err)
	}
	llama, err := Parse(Named("llama3"), Options{BOS: "<|begin_of_text|>"})
	if err != nil {
		t.Fatal(err)
	}
	const want = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe <brief>.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWeather & time?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
	if got, err := llama.Render(conversation(t, system+","+user, ""), true); err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	if Named("nosuch") != "" {
		t.Error("a template of a name that there is not")
	}
}

// conversation reads messages and tools from JSON.
func conversation(t *testing.T, messages, tools string) Conversation {
	t.Helper()
	var conv Conversation
	list, err := jinja.ParseJSON([]byte("[" + messages + "]"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list.([]any) {
		conv.Messages = append(conv.Messages, Message{m.(*jinja.Dict)})
	}
	if tools != "" {
		v, err := jinja.ParseJSON([]byte(tools))
		if err != nil {
			t.Fatal(err)
		}
		conv.Tools = v
	}
	return conv
}
