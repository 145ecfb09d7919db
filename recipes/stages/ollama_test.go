package stages

import (
	"strings"
	"testing"
	"text/template"

	"github.com/tunekit/tunekit/data/chat"
)

// TestOllamaTemplate: a template that puts text around each message becomes
// one of Ollama's that renders alike, and others say why they do not.
func TestOllamaTemplate(t *testing.T) {
	const (
		chatml  = `{% for m in messages %}<|im_start|>{{ m.role }}` + "\n" + `{{ m.content }}<|im_end|>` + "\n" + `{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant` + "\n" + `{% endif %}`
		usual   = `{% if messages[0].role != 'system' %}<|im_start|>system` + "\n" + `Be kind.<|im_end|>` + "\n" + `{% endif %}` + chatml
		headers = `{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}</s>{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}`
		braces  = `{% for m in messages %}{{ '{{' + m.role + '}}' + m.content }};{% endfor %}{% if add_generation_prompt %}{{ '{{assistant}}' }}{% endif %}`
	)
	for name, src := range map[string]string{"chatml": chatml, "default system": usual, "headers": headers, "braces": braces} {
		jinja, err := chat.Parse(src, chat.Options{BOS: "<s>"})
		if err != nil {
			t.Fatal(err)
		}
		text, err := ollamaTemplate(jinja, "<s>")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c := conversation("suau", "other")
		want, err := jinja.Render(c, true)
		if err != nil {
			t.Fatal(err)
		}
		got, err := runOllama(template.Must(template.New("").Parse(text)), c)
		if err != nil || got != strings.TrimPrefix(want, "<s>") {
			t.Errorf("%s renders %q, %v; want %q", name, got, err, want)
		}
	}
	for src, word := range map[string]string{
		`{% for m in messages %}{% if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}`:                                         "system",
		`{% for m in messages %}<{{ m.role }} {{ loop.index }}>{{ m.content }}{% endfor %}`:                                                              "by its role alone",
		`{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.content == 'Beta, 2 message 0.' %}!{% endif %};{% endfor %}`:                        "more than put text",
		`{% for m in messages %}"""{{ m.role }}: {{ m.content }};{% endfor %}`:                                                                           `"""`,
		`{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}<{{ m.role }}>{{ m.content }};{% endfor %}`: "no system here",
	} {
		jinja, err := chat.Parse(src, chat.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if text, err := ollamaTemplate(jinja, ""); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: error %v does not say %q; template %q", src, err, word, text)
		}
	}
}

// TestOllamaRewrites: what a chat template does to messages and a TEMPLATE cannot is said.
func TestOllamaRewrites(t *testing.T) {
	const tail = `{% if add_generation_prompt %}<assistant>{% endif %}`
	for src, want := range map[string]string{
		`{% for m in messages %}<{{ m.role }}>{{ m.content }};{% endfor %}`:                                             "",
		`{% for m in messages %}<{{ m.role }}>{{ m.content | trim }};{% endfor %}`:                                      "takes white space off messages",
		`{% for m in messages %}<{{ m.role }}>{{ m.content | trim if m.role == 'system' else m.content }};{% endfor %}`: "takes white space off messages",
		`{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>\n\n')[-1] }};{% endfor %}`:                   "takes reasoning in <think> out of earlier answers",
		`{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] | trim }};{% endfor %}`: "takes reasoning in <think> out of earlier answers and " +
			"takes white space off messages",
	} {
		jinja, err := chat.Parse(src+tail, chat.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ollamaTemplate(jinja, ""); err != nil {
			t.Error(err)
		}
		if got := rewrites(jinja); got != want {
			t.Errorf("%s: %q, want %q", src, got, want)
		}
	}
}

// TestOllamaDated: a template that writes the date is told from one that does not.
func TestOllamaDated(t *testing.T) {
	const turns = `{% for m in messages %}<{{ m.role }}>{{ m.content }};{% endfor %}`
	for src, want := range map[string]bool{
		turns: false,
		`Today: {{ strftime_now('%d %b %Y') }};` + turns:                                            true,
		`{% if messages[0].role != 'system' %}<system>{{ strftime_now('%Y') }};{% endif %}` + turns: true,
	} {
		var days [2]*chat.Template
		for i := range days {
			var err error
			if days[i], err = chat.Parse(src, chat.Options{Now: clock().AddDate(i, i, i)}); err != nil {
				t.Fatal(err)
			}
		}
		if got := dated(days[0], days[1]); got != want {
			t.Errorf("%s: %v, want %v", src, got, want)
		}
	}
}
