package recipes_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/schema"
	"github.com/tunekit/tunekit/recipes/stages"
)

// TestPlanText is the screen of a plan, times and machine left out.
func TestPlanText(t *testing.T) {
	dir := tinyModel(t)
	p, err := tinyRecipe(t, dir).Plan(t.Context(), recipes.RunOptions{Dir: filepath.Join(dir, "runs"), MemoryLimit: 1 << 30})
	must(t, err)
	p.Machine, p.DiskFree = "", 1e12
	for i := range p.Stages {
		if p.Stages[i].Seconds <= 0 {
			t.Errorf("%s takes no time", p.Stages[i].Stage)
		}
		p.Stages[i].Seconds = 0
	}
	p.Seconds = 0
	var b bytes.Buffer
	p.Print(&b, false)
	got := strings.ReplaceAll(b.String(), dir, "DIR")
	want := `stage does time peak disk note
ingest 120 rows → 5,785 tokens, 26 × 192 MEM 28 kB val 20 rows; 0 over 192 (longest 97)
train QLoRA r4 α32 lr 2e-4, 6 steps × 768 tokens MEM 361 kB 8,192 of 106,816 trainable (7.67 %)
merge → bf16 safetensors MEM 214 kB
export Q8_0 8.57, F16 16.05 bits a weight MEM 4.5 MB
eval perplexity, kl, exact_match, speed of 4 models MEM 66 kB 20 rows, 964 tokens each model
`
	// Memory is a matter of the engine's buffers, and is held by the next test.
	mem, gaps := regexp.MustCompile(`[0-9.]+ [KM]iB`), regexp.MustCompile(` +`)
	if screen := gaps.ReplaceAllString(mem.ReplaceAllString(got, "MEM"), " "); !strings.HasPrefix(screen, want) {
		t.Errorf("got\n%s\nwant\n%s", screen, want)
	}
	for _, line := range []string{
		"cached: none", "of 1.0 GiB", "train reads model = DIR/model (base_model); data = ingest (the only ingest stage)",
		"merge reads adapter = train (the last train stage)", "export reads model = merge (the last dense model above)",
	} {
		if !strings.Contains(got, line) {
			t.Errorf("no %q in\n%s", line, got)
		}
	}
	if raw, err := json.Marshal(p); err != nil || !bytes.Contains(raw, []byte(`"does":"QLoRA r4`)) {
		t.Errorf("JSON %s, error %v", raw, err)
	}
}

// TestPlanReadsHeaders: the plan of a recipe that never ran reads no input through.
func TestPlanReadsHeaders(t *testing.T) {
	dir := tinyModel(t)
	p, err := tinyRecipe(t, dir).Prepare(recipes.RunOptions{Dir: filepath.Join(dir, "runs")})
	must(t, err)
	must(t, p.WalkWithDisk(t.Context(), 1<<40))
	if n := p.Hashed(); n != 0 {
		t.Errorf("%d files were read through", n)
	}
	if _, err := p.Addresses(); err != nil || p.Hashed() == 0 {
		t.Errorf("addresses without content: %v", err)
	}
}

// TestPlanIsExact: memory counted without weights is what the run takes, and
// counts from the sample are those of the ingest.
func TestPlanIsExact(t *testing.T) {
	dir := tinyModel(t)
	opt := recipes.RunOptions{Dir: filepath.Join(dir, "runs"), Only: []string{"ingest"}}
	before, err := tinyRecipe(t, dir).Plan(t.Context(), recipes.RunOptions{Dir: opt.Dir})
	must(t, err)
	s, err := tinyRecipe(t, dir).Run(t.Context(), opt)
	must(t, err)
	var rep data.Report
	state(t, s.Dir, "ingest", &rep)
	for _, want := range []string{fmt.Sprintf("%d rows", rep.Rows), "5,785 tokens"} {
		if !strings.Contains(before.Stages[0].Does, want) {
			t.Errorf("plan says %q, ingest %d rows, %d tokens", before.Stages[0].Does, rep.Rows, rep.TrainTokens+rep.ValTokens)
		}
	}
	p, err := tinyRecipe(t, dir).Plan(t.Context(), recipes.RunOptions{Dir: opt.Dir})
	must(t, err)
	if !p.Stages[0].Cached || p.Stages[1].Cached {
		t.Errorf("cached: %+v", p.Stages[:2])
	}
	x, err := tinyRecipe(t, dir).Prepare(recipes.RunOptions{Dir: opt.Dir, Only: []string{"train"}})
	must(t, err)
	must(t, x.Execute(t.Context()))
	if now := x.Peak().Now; kernels.Total(now) > 0 { // the next stage begins with this device
		t.Errorf("the stage left %v in use", now)
	}
	took := x.Peak().Peak
	for i, n := range took {
		if k := kernels.Purpose(i); k != kernels.Scratch && p.Stages[1].Memory[k.String()] != n { // a backend's own scratch is its own affair
			t.Errorf("%v: the run took %d bytes, the plan said %d", k, n, p.Stages[1].Memory[k.String()])
		}
	}
}

// askingRecipe is a training on the tiny model's own answers, to prompts of a few tokens
// where max_length allows many.
func askingRecipe(t testing.TB, dir string, sets ...string) *recipes.Recipe {
	t.Helper()
	var rows strings.Builder
	for i := range 12 {
		fmt.Fprintf(&rows, "{\"prompt\": \"What is %[1]d and %[1]d?\", \"completion\": \"%[1]d\"}\n", i)
	}
	must(t, os.WriteFile(filepath.Join(dir, "prompts.jsonl"), []byte(rows.String()), 0o644))
	r, err := stages.All.Parse("asking.yaml", fmt.Appendf(nil, `version: 1
base_model: %[1]s/model
stages:
  - ingest: {datasets: [{path: %[1]s/prompts.jsonl, type: prompt}], max_length: 224, val_set_size: 2}
  - train: {objective: grpo, rewards: [{exact: completion}], num_generations: 2, max_completion_length: 24, max_steps: 2, micro_batch_size: 4, gradient_accumulation_steps: 1, dtype: f32, lora: {r: 4}}
`, dir), sets)
	must(t, err)
	return r
}

// TestPlanCountsAnswers: the plan of a training on the model's own answers is the memory
// that the run takes, with answers in work, those of a step that several learn from
// and probabilities of before; before the rows are there and after.
func TestPlanCountsAnswers(t *testing.T) {
	for name, sets := range map[string][]string{
		"one step of answers":     nil,
		"several":                 {"train.steps_per_generation=2", "train.num_iterations=2"},
		"held against the base":   {"train.beta=0.1"},
		"several micro-batches":   {"train.micro_batch_size=2", "train.gradient_accumulation_steps=2", "train.num_generations=4"},
		"answers are most of all": {"train.max_completion_length=128", "train.num_generations=8", "train.micro_batch_size=8"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tinyModel(t)
			opt := recipes.RunOptions{Dir: filepath.Join(dir, "runs")}
			before, err := askingRecipe(t, dir, sets...).Plan(t.Context(), opt)
			must(t, err)
			s, err := askingRecipe(t, dir, sets...).Run(t.Context(), opt)
			must(t, err)
			var took int64
			for _, st := range s.Stages {
				if st.Stage == "train" {
					took = st.Peak
				}
			}
			if plan := before.Stages[1].Peak; plan < took*9/10 || plan > took*11/10 {
				t.Errorf("the run took %d bytes, the plan said %d", took, plan)
			}
		})
	}
}

// TestRefusalLooksAtRows: a run is refused by the rows that there are, as its plan is,
// not by rows of max_length.
func TestRefusalLooksAtRows(t *testing.T) {
	dir := tinyModel(t)
	opt := recipes.RunOptions{Dir: filepath.Join(dir, "runs")}
	free, err := askingRecipe(t, dir).Plan(t.Context(), opt)
	must(t, err)
	opt.MemoryLimit = cpu.Program + free.Stages[1].Peak/8
	_, planned := askingRecipe(t, dir).Plan(t.Context(), opt)
	_, ran := askingRecipe(t, dir).Run(t.Context(), opt)
	if fail.Code(planned) != 4 || fmt.Sprint(planned) != fmt.Sprint(ran) {
		t.Errorf("the plan is refused with %v, the run with %v", planned, ran)
	}
	opt.MemoryLimit = cpu.Program + free.Stages[1].Peak
	_, err = askingRecipe(t, dir).Run(t.Context(), opt)
	must(t, err)
}

// TestRefusal: a step that does not fit is refused before work, with changes
// that do fit and the least limit that does.
func TestRefusal(t *testing.T) {
	dir := tinyModel(t)
	sets := []string{"train.micro_batch_size=8", "train.gradient_accumulation_steps=1"}
	opt := recipes.RunOptions{Dir: filepath.Join(dir, "runs"), MemoryLimit: cpu.Program + 2500<<10}
	_, err := tinyRecipe(t, dir, sets...).Plan(t.Context(), opt)
	if fail.Code(err) != 4 || !regexp.MustCompile(`train needs, with checkpointing, .* limit is 42 MiB \(the program itself 40 MiB, activations `).MatchString(fmt.Sprint(err)) {
		t.Fatalf("error %v", err)
	}
	out := regexp.MustCompile(`micro_batch_size: (\d+), gradient_accumulation_steps: (\d+) →`).FindStringSubmatch(fail.Hint(err))
	if out == nil {
		t.Fatalf("hint %q", fail.Hint(err))
	}
	if _, err := tinyRecipe(t, dir, sets...).Run(t.Context(), opt); fail.Code(err) != 4 || exists(filepath.Join(opt.Dir, "tiny", "ingest")) {
		t.Errorf("the run began all the same, error %v", err)
	}
	least := regexp.MustCompile(`memory_limit: (\d+)MiB`).FindStringSubmatch(fail.Hint(err))
	if least == nil {
		t.Fatalf("hint %q", fail.Hint(err))
	}
	opt.Only = []string{"ingest", "train"}
	_, err = tinyRecipe(t, dir, append(sets, "name=least", "memory_limit="+least[1]+"MiB")...).Run(t.Context(), recipes.RunOptions{Dir: opt.Dir, Only: opt.Only})
	must(t, err)
	_, err = tinyRecipe(t, dir, "train.micro_batch_size="+out[1], "train.gradient_accumulation_steps="+out[2]).Run(t.Context(), opt)
	must(t, err)
}

func TestDiskRefusal(t *testing.T) {
	dir := tinyModel(t)
	x, err := tinyRecipe(t, dir).Prepare(recipes.RunOptions{Dir: filepath.Join(dir, "runs")})
	must(t, err)
	if err := x.WalkWithDisk(t.Context(), recipes.DiskSlack+1000); fail.Code(err) != 4 || !strings.Contains(err.Error(), "of disk") || !strings.Contains(err.Error(), "export 4.5 MB") {
		t.Errorf("error %v", err)
	}
	must(t, x.WalkWithDisk(t.Context(), 1<<40))
}

// TestPlanRefusesOptions: what a quantizer cannot do with this model is said
// before work.
func TestPlanRefusesOptions(t *testing.T) {
	dir := tinyModel(t)
	r, err := stages.All.Parse("q.yaml", fmt.Appendf(nil, "version: 1\nbase_model: %[1]s/model\nstages:\n  - ingest: {datasets: [{path: %[1]s/train.jsonl}]}\n  - quantize: {method: gptq, group_size: 48}\n", dir), nil)
	must(t, err)
	if _, err = r.Run(t.Context(), recipes.RunOptions{Dir: dir}); fail.Code(err) != 2 || !strings.Contains(err.Error(), "48") {
		t.Errorf("error %v", err)
	}
}

// TestFullRunsToTheSameHash: the resolved recipe has the addresses of the one
// it came from.
func TestFullRunsToTheSameHash(t *testing.T) {
	dir := tinyModel(t)
	addresses := func(r *recipes.Recipe) []recipes.Digest {
		x, err := r.Prepare(recipes.RunOptions{Dir: filepath.Join(dir, "runs")})
		must(t, err)
		out, err := x.Addresses()
		must(t, err)
		return out
	}
	short := tinyRecipe(t, dir, "train.warmup_ratio=0.1", "eval.gate.perplexity.max=1e6")
	a := addresses(short)
	full, defaults, err := short.Full()
	must(t, err)
	long, err := stages.All.Parse("other.yaml", []byte(full), nil)
	var p schema.Problems
	if errors.As(err, &p) {
		t.Fatalf("%v\nin\n%s", err, full)
	}
	must(t, err)
	if b := addresses(long); fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("addresses %v, of the resolved recipe %v\n%s", a, b, full)
	}
	why := map[string]string{}
	for _, d := range defaults {
		why[d.Key] = d.Value + ": " + d.Why
	}
	for key, want := range map[string]string{
		"train.model": dir + "/model: base_model", "train.lora.alpha": "32: default", "train.warmup_ratio": "0.1: --set #1", "merge.max_kl": "0.001: default",
	} {
		if why[key] != want {
			t.Errorf("%s is %q, want %q", key, why[key], want)
		}
	}
	if _, ok := why["train.adapter"]; ok {
		t.Error("a given value is listed as a default")
	}
}

// TestPlanAdapterGGUF: an adapter that no GGUF can hold is refused before it is trained.
func TestPlanAdapterGGUF(t *testing.T) {
	dir := tinyModel(t)
	for set, want := range map[string]string{"train.lora.use_dora=false": "", "train.lora.use_dora=true": "use_dora", "train.adapter=loha": "kind loha"} {
		r, err := stages.All.Parse("tiny.yaml", fmt.Appendf(nil, `version: 1
base_model: %[1]s/model
stages:
  - ingest: {datasets: [{path: %[1]s/train.jsonl}], max_length: 192}
  - train: {max_steps: 6, dtype: f32}
  - export: {adapter: train, type: F16}
`, dir), []string{set})
		must(t, err)
		if _, err = r.Plan(t.Context(), recipes.RunOptions{Dir: filepath.Join(dir, "runs")}); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", set, err, want)
		}
	}
}

// TestPlanRoundsInputs: products of a model that is not there yet round their inputs where
// those of the finished one will.
func TestPlanRoundsInputs(t *testing.T) {
	dir := tinyModel(t)
	r, err := stages.All.Parse("tiny.yaml", fmt.Appendf(nil, `version: 1
base_model: %s/model
stages:
  - quantize: {method: rtn, scheme: W8A8, format: compressed-tensors, for: [transformers]}
`, dir), nil)
	must(t, err)
	opt := recipes.RunOptions{Dir: filepath.Join(dir, "runs")}
	x, err := r.Prepare(opt)
	must(t, err)
	planned, err := x.Rounded(t.Context(), "quantize")
	must(t, err)
	_, err = r.Run(t.Context(), opt)
	must(t, err)
	x, err = r.Prepare(opt)
	must(t, err)
	must(t, x.Execute(t.Context())) // finds it made
	made, err := x.Rounded(t.Context(), "quantize")
	must(t, err)
	if len(made) != 14 || !maps.Equal(planned, made) {
		t.Errorf("planned %v, made %v", planned, made)
	}
}
