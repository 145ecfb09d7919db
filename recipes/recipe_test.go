package recipes_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/schema"
	"github.com/tunekit/tunekit/recipes/stages"
)

const good = `version: 1
base_model: models/x.gguf
x-common: &c {max_length: 128}
stages:
  - ingest: {<<: *c, datasets: [{path: "data/*.parquet"}], val_set_size: 5%}
  - train: {adapter: qlora, learning_rate: 2e-4, lora: {r: 8}, eval_steps: 0.1}
  - merge:
  - id: g
    quantize: {method: gptq, group_size: 64}
  - export: {type: [Q8_0, Q4_K_M]}
  - id: check
    eval: {models: [merge, {name: n, model: g}], gate: {perplexity: {max_increase: 1%}}}
`

func TestParse(t *testing.T) {
	r, err := stages.All.Parse("support.yaml", []byte(good), []string{"train.lora.r=4", "seed=7", "merge.dtype=f32", `train.lora.target_modules=[q_proj,v_proj]`})
	if err != nil {
		t.Fatal(err)
	}
	if r.Name != "support" || *r.Seed != 7 || r.Stages[0].Options.(*stages.Ingest).MaxLength != 128 || r.Stages[0].Options.(*stages.Ingest).ValSetSize != "5%" {
		t.Errorf("top: %+v, ingest %+v", r, r.Stages[0].Options.(*stages.Ingest))
	}
	tr := r.Stages[1].Options.(*stages.Train)
	if tr.LoRA.R != 4 || *tr.LearningRate != 2e-4 || len(tr.LoRA.TargetModules.Names) != 2 || *tr.Seed != 7 || tr.EvalSteps.Share != 0.1 {
		t.Errorf("train: %+v", tr)
	}
	if m := r.Stages[2].Options.(*stages.Merge); m.DType != "f32" || m.MaxShardSize != 5e9 {
		t.Errorf("merge: %+v", m)
	}
	if l := r.Stages[5].Options.(*stages.Eval).Gate["perplexity"].MaxIncrease; !l.Relative || l.Value != 0.01 {
		t.Errorf("gate: %+v", l)
	}
	if m := r.Stages[5].Options.(*stages.Eval).Models; m[0].Model != "merge" || m[1].Name != "n" {
		t.Errorf("models: %+v", m)
	}
}

// A kind without options is a stage, with and without overrides.
func TestBareStage(t *testing.T) {
	for _, sets := range [][]string{nil, {"seed=1"}} {
		r, err := stages.All.Parse("r.yaml", []byte("version: 1\nbase_model: m\nstages:\n  - export:\n"), sets)
		if err != nil || r.Stages[0].Kind.Name != "export" {
			t.Errorf("overrides %v: %v", sets, err)
		}
	}
}

// Every problem is reported at once, with place, caret and hint.
func TestProblems(t *testing.T) {
	src := `version: 1
name: a
naem: b
stages:
  - ingest:
      cutoff_len: 1024
      datasets: [{path: x}]
      overflow: truncat
      shuffle: no
  - train: {learning_rate: 1_000, warmup_steps: 3, warmup_ratio: 0.1, lora: {dropout: 1.5}}
  - id: train
    eval: {}
    merge: {}
`
	_, err := stages.All.Parse("r.yaml", []byte(src), []string{"nosuch.key=1", "ingest.max_length=many"})
	var p schema.Problems
	if !errors.As(err, &p) {
		t.Fatalf("error %v", err)
	}
	if fail.Code(err) != 2 {
		t.Errorf("exit code %d", fail.Code(err))
	}
	for _, want := range []string{
		"r.yaml:3:1: unknown key naem", "did you mean name?",
		"r.yaml:6:7: ingest: unknown key cutoff_len (LLaMA-Factory)", "here it is max_length",
		`found "truncat"`, "did you mean truncate?",
		`found "no", want true or false`,
		`found "1_000", want a number`,
		"want less than 1", "warmup_ratio and warmup_steps",
		"exactly one kind, found 2",
		"--set #1: nosuch.key", `--set #2`, `found "many"`,
		"    6 |       cutoff_len: 1024\n      |       ^",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in:\n%v", want, err)
		}
	}
}

// TestOneDocument: nothing of a recipe's file is left out without a word, and a
// file that never ends is refused.
func TestOneDocument(t *testing.T) {
	const head = "version: 1\nname: a\nstages: [{ingest: {datasets: [{path: x}]}}, {train: {}}]\nbase_model: m\n"
	for text, want := range map[string]string{head: "", head + "...\n": "", "---\n" + head: "", head + "---\nversion: 1\n": "r.yaml:5: a second document", head + "---\n}{": "not YAML",
		strings.Replace(head, "train: {}", "train: {learning_rate: 0}", 1): "want more than 0"} {
		if _, err := stages.All.Parse("r.yaml", []byte(text), nil); fmt.Sprint(err) != "<nil>" && want == "" || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	path := filepath.Join(t.TempDir(), "r.yaml")
	f, err := os.Create(path)
	must(t, err)
	must(t, errors.Join(f.Truncate(1<<40), f.Close()))
	if _, err := stages.All.Open(path, nil); fail.Code(err) != 2 || !strings.Contains(err.Error(), "longer than 16777216 bytes") {
		t.Errorf("a file of a terabyte: %v", err)
	}
}

// The schema is JSON and knows every key the decoder knows.
func TestSchema(t *testing.T) {
	var s map[string]any
	if err := json.Unmarshal(stages.All.Schema(), &s); err != nil {
		t.Fatal(err)
	}
	props := s["properties"].(map[string]any)
	for _, k := range stages.All.Keys("") {
		if props[k.Name] == nil {
			t.Errorf("schema lacks %s", k.Name)
		}
	}
	for _, section := range append([]string{""}, stages.All.Sections()...) {
		for _, k := range stages.All.Keys(section) {
			if k.Doc == "" {
				t.Errorf("%s.%s has no doc", section, k.Name)
			}
		}
		if len(stages.All.Keys(section)) == 0 {
			t.Errorf("no keys in section %q", section)
		}
	}
	if stages.All.Keys("train.nosuch") != nil {
		t.Error("keys of a section that does not exist")
	}
	for _, section := range append([]string{""}, stages.All.Sections()...) {
		for _, own := range stages.All.Keys(section) {
			if _, _, ok := schema.Foreign(own.Name); ok && section+"."+own.Name != "train.optim_args.rank" && section+"."+own.Name != "quantize.bits" { // of lora, and of other methods, it is foreign
				t.Errorf("%s is called foreign but is a key of %q", own.Name, section)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good), "train.lora.r=4")
	f.Add([]byte("stages: [{train: }]"), "train.x.y={a: [1]}")
	f.Add([]byte("x-a: &a {max_length: 1}\nx-b: &b {<<: [*a, *a], max_length: 2}\nstages:\n- ingest: {<<: *b}\n"), "ingest.<<={a: 1}")
	f.Fuzz(func(t *testing.T, data []byte, set string) {
		r, err := stages.All.Parse("f.yaml", data, []string{set})
		if (r == nil) == (err == nil) {
			t.Fatalf("recipe %v, error %v", r, err)
		}
	})
}

// TestTags: every default of every struct of options can be read, is allowed by
// its own tag, and is written once: in the tag.
func TestTags(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			walk(typ.Elem())
			return
		case reflect.Struct:
		default:
			return
		}
		if seen[typ] {
			return
		}
		seen[typ] = true
		v := reflect.New(typ)
		schema.Fill(v.Interface())
		if err := schema.Check(typ.String(), v.Interface()); err != nil {
			t.Error(err)
		}
		for name, f := range schema.Fields(typ) {
			if kind := f.Type.Kind(); kind >= reflect.Int && kind <= reflect.Float64 && f.Tag.Get("default") != "0" && name != "version" {
				if err := schema.Set(v.Interface(), name, "0"); err == nil {
					t.Errorf("%v.%s: 0 is allowed and would be taken for a key that is not given; the tag's range must exclude it, or the field be a pointer", typ, name)
				}
			}
			words := strings.Fields(f.Tag.Get("unset"))
			if f.Tag.Get("doc") == "" || len(words) == 1 && f.Tag.Get("enum") != "" && strings.Contains(f.Tag.Get("enum"), words[0]) {
				t.Errorf("%v.%s: tags %q", typ, name, f.Tag)
			}
			walk(f.Type)
		}
	}
	walk(reflect.TypeFor[recipes.Recipe]())
	for _, k := range stages.All {
		walk(reflect.TypeOf(k.New()))
	}
	if len(seen) < 10 {
		t.Errorf("only %d structs were looked at", len(seen))
	}
}

// TestValuesAreChecked: a value that its stage would refuse is refused before any
// stage runs.
func TestValuesAreChecked(t *testing.T) {
	for set, want := range map[string]string{
		"g.for=[foo]": `"foo"`, "export.for=[lmstudio]": `"lmstudio"`, "export.type=Q9_K": "Q9_K", "export.token_embedding_type=Q9": "Q9",
		"export.tensor_type={a: Q9_K}": "Q9_K", "check.tasks=[exactmatch]": "did you mean exact_match?", "ingest.val_set_size=banana": "banana",
		"ingest.val_set_size=-1": "-1", "merge.max_shard_size=0": "above 0", "memory_limit=0": "above 0", "train.max_steps=0": "at least 1",
	} {
		_, err := stages.All.Parse("r.yaml", []byte(good), []string{set})
		if fail.Code(err) != 2 || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v does not say %s", set, err, want)
		}
	}
	for _, set := range []string{"seed=0", "merge.max_kl=0", "export.for=[ollama]", "export.type=q4_k_m", "ingest.val_set_size=0"} {
		if _, err := stages.All.Parse("r.yaml", []byte(good), []string{set}); err != nil {
			t.Errorf("%s: %v", set, err)
		}
	}
}

// TestMergeKeys: merge keys that lead back to themselves, or stand for more keys
// than anyone could have written, are a problem of the recipe.
func TestMergeKeys(t *testing.T) {
	bomb := "version: 1\nx-0: &a0 {max_length: 64}\n"
	for i := 1; i < 12; i++ {
		bomb += fmt.Sprintf("x-%d: &a%d {<<: [%s]}\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	for text, want := range map[string]string{
		"version: 1\nx-a: &a {k: 1, <<: &b {j: 2, <<: *a}}\nstages:\n  - ingest: {<<: *a}\n": "a mapping merges itself",
		"version: 1\nx-a: &a {k: 1, <<: *a}\nstages:\n  - ingest: {<<: *a}\n":                "a mapping merges itself",
		bomb + "stages:\n  - ingest: {<<: *a11}\n":                                           "stand for more than 100000 keys",
	} {
		_, err := stages.All.Parse("r.yaml", []byte(text), nil)
		if fail.Code(err) != 2 || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%s: %v", text, err)
		}
		if n := strings.Count(fmt.Sprint(err), want); n > 2 {
			t.Errorf("said %d times", n)
		}
	}
	r, err := stages.All.Parse("r.yaml", []byte("version: 1\nbase_model: m\nx-a: &a {max_length: 64}\nx-b: &b {<<: *a, overflow: drop}\nstages:\n  - ingest: {<<: [*b, *a], datasets: [{path: d}]}\n"), nil)
	if err != nil || r.Stages[0].Options.(*stages.Ingest).MaxLength != 64 || r.Stages[0].Options.(*stages.Ingest).Overflow != "drop" {
		t.Errorf("merged twice: %v", err)
	}
}
