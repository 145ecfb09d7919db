package stages

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// A merged model is served with the template that lies in the adapter's folder, as a
// folder and as GGUF, and its folder stops where that template ends a turn.
func TestServedTemplate(t *testing.T) {
	base := filepath.Join("..", "pocket", "model")
	src, err := arch.Open(base)
	must(t, err)
	defer src.Close()
	dir := t.TempDir()
	var notes []string
	note := func(s string) { notes = append(notes, s) }
	tok, err := servedTokenizer(src, []string{dir}, note)
	if err != nil || len(notes) != 0 {
		t.Fatal(notes, err)
	}
	own := tok.ChatTemplate()
	const other = "{% for m in messages %}[{{ m.role }}] {{ m.content }}<|end|>{% endfor %}"
	must(t, os.WriteFile(filepath.Join(dir, templateFile), []byte(other), 0o666))
	tok, err = servedTokenizer(src, []string{dir}, note)
	if err != nil || len(notes) != 1 || !strings.Contains(notes[0], "chat template") || tok.ChatTemplate() != other || own == other {
		t.Fatal(notes, err)
	}
	files, err := servedFiles(src, tok)
	must(t, err)
	again, err := tokenizer.Parse(files["tokenizer.json"], files["tokenizer_config.json"])
	if err != nil || again.ChatTemplate() != other || files[templateFile] != nil {
		t.Errorf("%q, %v", again.ChatTemplate(), err)
	}
	kv, err := tok.GGUFKeysFor(src.Spec.V)
	must(t, err)
	if back, err := tokenizer.FromGGUF(kv); err != nil || back.ChatTemplate() != other {
		t.Error(err)
	}
}

// A generation_config.json that does not know the end of a turn learns it, and says
// the rest as before.
func TestEndsOfTurns(t *testing.T) {
	src, err := arch.Open(filepath.Join("..", "pocket", "model"))
	must(t, err)
	defer src.Close()
	tok, err := tokenizer.Open(src.Reader)
	must(t, err)
	for in, want := range map[string]string{
		`{"eos_token_id":0,"top_k":4}`: "[0 2]", `{"eos_token_id":[0,2]}`: "[0 2]", `{"eos_token_id":2}`: "2", `{"top_k":4}`: "<nil>",
	} {
		files := map[string][]byte{"generation_config.json": []byte(in)}
		must(t, addEnds(files, src, tok))
		var got map[string]any
		must(t, json.Unmarshal(files["generation_config.json"], &got))
		if s := fmt.Sprint(got["eos_token_id"]); s != want || strings.Contains(in, "top_k") && got["top_k"] != 4.0 {
			t.Errorf("%s: %v", in, got)
		}
	}
}

// A GGUF without a vocabulary is of no use: the merge is refused before it begins.
func TestNoVocabularyNoGGUF(t *testing.T) {
	base, out := t.TempDir(), filepath.Join(t.TempDir(), "m.gguf")
	for _, name := range []string{"config.json", "model.safetensors"} {
		must(t, os.WriteFile(filepath.Join(base, name), testdir.ReadFile(t, filepath.Join("..", "pocket", "model", name)), 0o666))
	}
	_, err := MergeModel(context.Background(), cpu.New(cpu.Options{}), MergeOptions{Model: base, Output: out})
	if err == nil || !strings.Contains(err.Error(), "tokenizer.json") || exists(out) {
		t.Error(err)
	}
}
