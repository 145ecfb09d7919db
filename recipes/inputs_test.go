package recipes_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/stages"
)

// whole uses every kind, and every default reference.
const whole = `
  - ingest: {datasets: [{path: d.jsonl}]}
  - {id: nf4, quantize: {method: nf4}}
  - train: {model: nf4, adapter: lora}
  - merge: {}
  - {id: awq, quantize: {method: awq}}
  - export: {type: [Q8_0, F16], imatrix: ingest}
  - eval: {models: [awq, {name: q8, model: export/Q8_0}, {name: on, adapter: train}]}
  - bench: {}
`

// TestInputs: what each kind reads, how it was found, and what is refused.
func TestInputs(t *testing.T) {
	read := func(text string) ([]*recipes.Job, error) {
		r, err := stages.All.Parse("r.yaml", []byte("version: 1\nbase_model: base\nstages:"+text), nil)
		must(t, err)
		return r.Resolve()
	}
	jobs, err := read(whole)
	must(t, err)
	var got []string
	for _, j := range jobs {
		for _, in := range j.Inputs {
			got = append(got, fmt.Sprintf("%s %s = %s (%s)", j.ID, in.Name, in.Ref, in.Ref.Why))
		}
	}
	want := `ingest tokenizer = base (base_model)
ingest datasets[0] = d.jsonl (given)
nf4 model = base (base_model)
train model = nf4 (given)
train data = ingest (the only ingest stage)
merge adapter = train (the last train stage)
merge trained = nf4 (what train was trained on)
merge model = base (what nf4 was made from)
merge data = ingest (the only ingest stage)
awq model = merge (the last dense model above)
awq calibration = ingest (the only ingest stage)
export model = merge (the last dense model above)
export imatrix = ingest (given)
eval models[awq] = awq (given)
eval references[awq] = merge (what awq was made from)
eval models[q8] = export/Q8_0 (given)
eval references[q8] = merge (what export was made from)
eval models[on] = merge (the last dense model above)
eval adapters[on] = train (given)
eval data = ingest (the only ingest stage)
bench models[base] = base (given)
bench models[nf4] = nf4 (given)
bench models[merge] = merge (given)
bench models[awq] = awq (given)
bench models[export/Q8_0] = export/Q8_0 (given)
bench models[export/F16] = export/F16 (given)`
	if text := strings.Join(got, "\n"); text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	for text, want := range map[string]string{
		"\n  - train: {}": "train.data: no data",
		"\n  - {id: a, ingest: {datasets: [{path: x}]}}\n  - {id: b, ingest: {datasets: [{path: x}]}}\n  - train: {}": "several ingest stages: a, b",
		"\n  - ingest: {datasets: [{path: x}]}\n  - train: {model: ingest}":                                           "stage ingest is a ingest stage, want add_tokens or train or merge or merge_models or quantize or export",
		"\n  - export: {type: [Q8_0, F16]}\n  - quantize: {method: nf4, model: export}":                               "stage export writes Q8_0, F16",
		"\n  - {id: q, quantize: {method: nf4}}\n  - export: {model: q/x}":                                            `stage q has one output, not "x"`,
		"\n  - {id: q, quantize: {method: nf4, model: late}}\n  - {id: late, quantize: {method: nf4}}":                "stage late stands below",
		"\n  - ingest: {datasets: [{path: x}]}\n  - train: {adapter: none}\n  - merge: {}":                            "no train stage above makes an adapter",
	} {
		if _, err := read(text); fail.Code(err) != 2 || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
}

// TestModelChangesDuringRun: stages of one run never read two versions of a
// model.
func TestModelChangesDuringRun(t *testing.T) {
	dir := tinyModel(t)
	p, err := tinyRecipe(t, dir).Prepare(recipes.RunOptions{Dir: dir})
	must(t, err)
	_, err = p.Addresses()
	must(t, err)
	model := filepath.Join(dir, "model", "generation_config.json")
	must(t, os.WriteFile(model, []byte("{}"), 0o644))
	if _, err = p.Addresses(); fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), "changed while the recipe ran") {
		t.Errorf("%v", err)
	}
}

// TestAddresses: what a stage is called, where its inputs lie and how often it
// saves changes no address; every option that changes results does.
func TestAddresses(t *testing.T) {
	dir := tinyModel(t)
	addresses := func(sets ...string) []recipes.Digest {
		t.Helper()
		r := tinyRecipe(t, dir, sets...)
		p, err := r.Prepare(recipes.RunOptions{Dir: dir})
		must(t, err)
		out, err := p.Addresses()
		must(t, err)
		return out
	}
	base := addresses()
	for set, first := range map[string]int{ // the first stage whose address changes; -1: none
		"train.save_steps=3": -1, "train.save_total_limit=7": -1, "threads=1": -1, "memory_limit=3GiB": -1, "fail_on=[dropped]": -1, "name=other": -1,
		"ingest.max_length=128": 0, "ingest.packing=none": 0, "seed=7": 0, "train.lora.r=2": 1, "train.max_steps=5": 1, "merge.max_kl=0.5": 2,
		"merge.dtype=f32": 2, "export.pure=true": 3, "eval.samples=3": 4, "eval.gate.kl.max=4": 4, "eval.baseline=b.json": 4,
	} {
		got, at := addresses(set), -1
		for i := range got {
			if got[i] != base[i] {
				at = i
				break
			}
		}
		if at != first {
			t.Errorf("%s: the first address to change is that of stage %d, want %d", set, at, first)
		}
	}
}
