package train

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

// TestValues: an objective's own values keep names and order in a line of
// metrics.jsonl, and a line without them has no key.
func TestValues(t *testing.T) {
	in := Metrics{Step: 1, Loss: 0.5, Objective: Values{{"rewards/chosen", 1.5}, {"a \"b\"", -2}, {"rewards/accuracies", 0}}}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if want := `"objective":{"rewards/chosen":1.5,"a \"b\"":-2,"rewards/accuracies":0}`; !strings.Contains(string(b), want) {
		t.Errorf("%s, want %s in it", b, want)
	}
	var out Metrics
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	if len(out.Objective) != 3 || out.Objective[1] != in.Objective[1] || out.Objective[2] != in.Objective[2] {
		t.Errorf("%+v", out.Objective)
	}
	if b, err = json.Marshal(Metrics{}); err != nil || strings.Contains(string(b), "objective") {
		t.Errorf("%s %v", b, err)
	}
	for _, bad := range []string{`[1]`, `{"a":"b"}`, `{"a":1`} {
		if err := json.Unmarshal([]byte(bad), new(Values)); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

// TestScore: sums add up name by name, and a mean is over the units.
func TestScore(t *testing.T) {
	var sum Score
	one := Score{Loss: 1, Values: Values{{"a", 2}, {"b", 3}}}
	sum.add(one)
	sum.add(Score{Loss: 3, Values: Values{{"a", 4}, {"b", 0}}})
	if m := sum.mean(4, 0); m.Loss != 1 || m.Values[0] != (Value{"a", 1.5}) || m.Values[1] != (Value{"b", 0.75}) {
		t.Errorf("%+v", m)
	}
	if one.Values[0].V != 2 {
		t.Error("a score that was added has changed")
	}
}

// TestUnknownObjective: the error lists what is known.
func TestUnknownObjective(t *testing.T) {
	_, err := Config{Objective: "ppo"}.Resolve(1)
	if fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), `train.objective: found "ppo"`) || !strings.Contains(fail.Hint(err), "sft") {
		t.Errorf("error %v", err)
	}
}

// TestObjectives: every option of an objective is a key of Config that says its
// default.
func TestObjectives(t *testing.T) {
	c := reflect.TypeFor[Config]()
	var config Config
	keys := config.objectiveKeys()
	for name, kind := range objectives {
		for key, v := range kind.options {
			if keys[key] == nil {
				t.Errorf("%s: no key %s", name, key)
			}
			if doc := tagOf(c, key, "unset"); v == v && !strings.Contains(doc, fmt.Sprintf("%s %g", name, v)) {
				t.Errorf("%s: the default of %s is %g, its tag says %q", name, key, v, doc)
			}
		}
	}
}

// tagOf is a tag of the field that yaml calls key.
func tagOf(t reflect.Type, key, tag string) string {
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); name == key {
			return f.Tag.Get(tag)
		}
	}
	return ""
}

// TestObjectiveOptions: an option of another objective or loss, an unknown loss and
// numbers that a loss cannot work with are refused by name.
func TestObjectiveOptions(t *testing.T) {
	for text, words := range map[string]string{
		"{objective: dpo, loss_type: kto}":                                                                      `objective: dpo has no loss_type "kto"`,
		"{objective: kto, loss_type: [kto, apo_zero_unpaired]}":                                                 "one loss_type at a time, 2 are given",
		"{objective: orpo, loss_type: sigmoid}":                                                                 `has one loss, loss_type is "sigmoid"`,
		"{loss_type: sigmoid}":                                                                                  `objective: sft has no loss_type "sigmoid"`,
		"{loss_type: dft, label_smoothing_factor: 0.1}":                                                         "loss_type: dft weighs the given tokens alone",
		"{objective: kto, use_weighting: true}":                                                                 "use_weighting belongs to objective: dpo, not kto",
		"{objective: dpo, loss_type: aot, use_weighting: true}":                                                 "use_weighting weighs pairs",
		"{objective: dpo, cpo_alpha: 0.5}":                                                                      "cpo_alpha belongs to objective: cpo, simpo, not dpo",
		"{objective: dpo, label_smoothing: 0.1}":                                                                "label_smoothing belongs to loss_type: robust, exo_pair, aot, aot_unpaired, not sigmoid",
		"{objective: dpo, loss_type: robust, label_smoothing: 0.5}":                                             "needs a label_smoothing below 0.5",
		"{objective: dpo, loss_type: exo_pair}":                                                                 "needs a label_smoothing between 0 and 1, found 0",
		"{objective: dpo, loss_type: ipo, beta: 0}":                                                             "divides by it",
		"{objective: dpo, loss_weights: [1, 2]}":                                                                "loss_weights has 2 numbers for 1 losses",
		"{objective: cpo, loss_weights: [1]}":                                                                   "loss_weights belongs to objective: dpo, not cpo",
		"{objective: cpo, loss_type: alphapo, cpo_alpha: 0.5}":                                                  "cpo_alpha belongs to loss_type: sigmoid, hinge, ipo, simpo, not alphapo",
		"{objective: cpo, loss_type: ipo, beta: 0}":                                                             "divides by it",
		"{objective: cpo, simpo_gamma: 1}":                                                                      "simpo_gamma belongs to loss_type: simpo, alphapo, not sigmoid",
		"{objective: kto, f_divergence_type: reverse_kl}":                                                       "f_divergence_type belongs to objective: dpo, not kto",
		"{objective: dpo, f_divergence_type: x}":                                                                `found "x"`,
		"{objective: dpo, f_alpha_divergence_coef: 2}":                                                          "belongs to f_divergence_type: alpha_divergence",
		"{objective: grpo, rewards: [{regex: a}], loss_type: vespo, vllm_importance_sampling_correction: true}": "vllm_importance_sampling_mode: sequence_mask is one already",
		"{objective: dpo, beta: -1}":                                                                            "beta",
	} {
		if _, err := parse(t, text).Resolve(1); fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want %q", text, err, words)
		}
	}
	for _, text := range []string{"{objective: dpo, loss_type: [sigmoid, bco_pair, sft], loss_weights: [0.8, 0.2, 1]}", "{objective: dpo, ld_alpha: 0, beta: 0}",
		"{objective: cpo, loss_type: alphapo, alpha: 0.25}", "{objective: simpo}", "{objective: dpo, f_divergence_type: alpha_divergence, f_alpha_divergence_coef: 1}"} {
		c, err := parse(t, text).Resolve(1)
		if err == nil {
			_, err = c.Resolve(1) // what was resolved stays as it is
		}
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestSmoothedTraining: with label smoothing the loss is another than the loss of the targets,
// which is measured beside it and whose exponential is the perplexity.
func TestSmoothedTraining(t *testing.T) {
	j := smallJob(t, t.TempDir())
	j.Config.LabelSmoothingFactor, j.Config.MaxSteps, j.Config.EvalSteps = 0.2, 2, Every{Steps: 2}
	losses(t, j)
	steps, evals, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
	if err != nil || len(steps) != 2 || len(evals) != 1 {
		t.Fatalf("%d steps, %d validations, %v", len(steps), len(evals), err)
	}
	nll, ok := evals[0].Objective.Get(nllLoss)
	if !ok || math.Abs(evals[0].Perplexity-math.Exp(nll)) > 1e-9*evals[0].Perplexity || !(evals[0].Loss > nll) {
		t.Errorf("%+v", evals[0])
	}
	if v, ok := steps[0].Objective.Get(nllLoss); !ok || !(steps[0].Loss > v) {
		t.Errorf("%+v", steps[0])
	}
	if _, err := parse(t, "{objective: dpo, label_smoothing_factor: 0.1}").Resolve(1); err == nil || !strings.Contains(err.Error(), "belongs to objective: sft") {
		t.Errorf("of dpo: %v", err)
	}
}
