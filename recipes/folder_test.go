package recipes_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/stages"
)

// TestUnrecorded: a run killed between a stage's artifact and its record goes on
// to the same bytes, whatever kind the stage is.
func TestUnrecorded(t *testing.T) {
	dir := tinyModel(t)
	r, err := stages.All.Parse("un.yaml", fmt.Appendf(nil, `version: 1
base_model: %[1]s/model
stages:
  - ingest: {datasets: [{path: %[1]s/train.jsonl}], max_length: 192, val_set_size: 20}
  - {id: nf4, quantize: {method: nf4}}
  - {id: plain, export: {format: safetensors, type: F16}}
  - {id: plains, export: {format: safetensors, type: [F16, F32]}}
  - {id: gguf, export: {type: [Q8_0, F16]}}
  - {id: check, eval: {models: [nf4, plain], tasks: [perplexity], samples: 2, context: 192}}
`, dir), nil)
	must(t, err)
	runs := filepath.Join(dir, "runs")
	manifest := func() string {
		t.Helper()
		s, err := r.Run(t.Context(), recipes.RunOptions{Dir: runs})
		must(t, err)
		raw, err := os.ReadFile(filepath.Join(s.Dir, "manifest.json"))
		must(t, err)
		return string(raw)
	}
	want := manifest()
	for _, id := range []string{"ingest", "nf4", "plain", "plains", "gguf", "check"} {
		record := filepath.Join(runs, "un", ".state", id+".json")
		raw, err := os.ReadFile(record)
		must(t, err)
		var res recipes.Result
		must(t, json.Unmarshal(raw, &res))
		raw, err = json.Marshal(&recipes.Result{Stage: id, Kind: res.Kind, Address: res.Address}) // begun, not finished
		must(t, err)
		must(t, os.WriteFile(record, raw, 0o644))
		if got := manifest(); got != want {
			t.Errorf("%s: the manifest differs:\n%s\n%s", id, got, want)
		}
	}
}

// TestCleanStaysInside: a run folder from someone else names no path outside of it.
func TestCleanStaysInside(t *testing.T) {
	runs := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(runs, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(runs, name), []byte(text), 0o644))
	}
	for _, name := range []string{"...json", "..json", ".json", "a.json", "b.json", "a.part.json", "manifest.json.json", "timing.json"} {
		write("evil/.state/"+name, "{}")
	}
	write("other", "kept")
	write("evil/a/file", "")
	write("evil/a.part/file", "")
	write("evil/manifest.json", "")
	must(t, recipes.Clean(filepath.Join(runs, "evil"), []string{"b"}, func(string) {}))
	for _, name := range []string{"other", "evil/.state/...json", "evil/.state/timing.json", "evil/a.part/file", "evil/manifest.json"} {
		if !exists(filepath.Join(runs, name)) {
			t.Errorf("%s is gone", name)
		}
	}
	for _, name := range []string{"evil/a", "evil/.state/a.json"} {
		if exists(filepath.Join(runs, name)) {
			t.Errorf("%s is still there", name)
		}
	}
	write("records/b.json", "{}") // of another program
	must(t, os.Mkdir(filepath.Join(runs, "linked"), 0o755))
	must(t, os.Symlink("../records", filepath.Join(runs, "linked", ".state")))
	if err := recipes.Clean(filepath.Join(runs, "linked"), []string{"x"}, func(string) {}); fail.Code(err) != 2 {
		t.Errorf("a linked folder of records: %v", err)
	}
	if !exists(filepath.Join(runs, "records", "b.json")) || exists(filepath.Join(runs, "records", "lock")) {
		t.Error("a link was followed")
	}
}

// TestFolderNames: names and ids that would put a folder elsewhere, or where a run
// keeps something else, are refused at once.
func TestFolderNames(t *testing.T) {
	parse := func(file, name, ids string) error {
		text := "version: 1\n"
		if name != "" {
			text += "name: " + name + "\n"
		}
		_, err := stages.All.Parse(file, []byte(text+"base_model: m\nstages:\n"+ids), nil)
		return err
	}
	stage := func(id string) string { return fmt.Sprintf("  - {id: %q, export: {}}\n", id) }
	for _, name := range []string{"../../x", "..", ".", ".hidden", "a/b", `a\b`, `"a\tb"`, "a.part", "a.tmp-0123456789ab", strings.Repeat("n", 300)} {
		if err := parse("r.yaml", name, stage("x")); fail.Code(err) != 2 || !strings.Contains(err.Error(), "name ") {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if err := parse(".yaml", "", stage("x")); fail.Code(err) != 2 || !strings.Contains(err.Error(), `the file's name, the run's where it has none, ""`) || strings.Count(err.Error(), "name: ") != 2 {
		t.Errorf("a file without a name: %v", err)
	}
	for _, id := range []string{"..", "a/b", "a.part", "a.aside-0123456789ab", "report.html", "Manifest.json", "summary.md", "summary.json", "tensorboard", "hashes", "timing", strings.Repeat("n", 300)} {
		if err := parse("r.yaml", "", stage(id)); fail.Code(err) != 2 || !strings.Contains(err.Error(), "id ") {
			t.Errorf("id %q: %v", id, err)
		}
	}
	for _, name := range []string{"v1.2", "Mein Modell", "模型", "a..b"} {
		if err := parse("r.yaml", name, stage("v1.2_b-c")); err != nil {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

// TestDataAddresses: the address is of the very files that are read, with what
// their names mean.
func TestDataAddresses(t *testing.T) {
	dir := tinyModel(t)
	text, err := os.ReadFile(filepath.Join(dir, "train.jsonl"))
	must(t, err)
	other := bytes.Replace(text, []byte("user"), []byte("system"), 1)
	write := func(name string, text []byte) {
		t.Helper()
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), text, 0o644))
	}
	address := func(path, split string) recipes.Digest {
		t.Helper()
		r, err := stages.All.Parse("r.yaml", fmt.Appendf(nil, "version: 1\nbase_model: %s/model\nstages:\n  - ingest: {datasets: [{path: %q, split: %q}]}\n", dir, filepath.Join(dir, path), split), nil)
		must(t, err)
		p, err := r.Prepare(recipes.RunOptions{Dir: filepath.Join(dir, "runs")})
		must(t, err)
		all, err := p.Addresses()
		must(t, err)
		return all[0]
	}
	write("data[1].jsonl", text)
	write("data1.jsonl", text)
	was := address("data[1].jsonl", "")
	write("data[1].jsonl", other)
	if address("data[1].jsonl", "") == was {
		t.Error("an edited file whose name looks like a pattern is not noticed")
	}
	if was != address("data1.jsonl", "") {
		t.Error("the name of a file is in the address")
	}
	write("data1.txt", text)
	if was == address("data1.txt", "") {
		t.Error("another format of the same bytes has the same address")
	}

	write("sp/a/train-x.jsonl", text)
	write("sp/b/test-x.jsonl", other)
	was = address("sp/*/*.jsonl", "train")
	write("moved/sp/a/train-x.jsonl", text)
	write("moved/sp/b/test-x.jsonl", other)
	if was != address("moved/sp/*/*.jsonl", "train") {
		t.Error("where files lie is in the address")
	}
	must(t, os.Rename(filepath.Join(dir, "sp/a/train-x.jsonl"), filepath.Join(dir, "sp/a/test-x.jsonl")))
	must(t, os.Rename(filepath.Join(dir, "sp/b/test-x.jsonl"), filepath.Join(dir, "sp/b/train-x.jsonl")))
	if was == address("sp/*/*.jsonl", "train") {
		t.Error("files renamed into another split are not noticed")
	}
}

// TestHashIsOfContent: data and model in another folder give the same hash of the
// run, and no artifact says where they lay.
func TestHashIsOfContent(t *testing.T) {
	var hash [2]string
	for i := range hash {
		dir := tinyModel(t)
		s, err := tinyRecipe(t, dir).Run(t.Context(), recipes.RunOptions{Dir: filepath.Join(dir, "runs"), Only: []string{"ingest"}})
		must(t, err)
		hash[i] = s.Hash
		raw, err := os.ReadFile(filepath.Join(s.Dir, "ingest", "dataset.json"))
		must(t, err)
		if bytes.Contains(raw, []byte(dir)) || !bytes.Contains(raw, []byte(`"train.jsonl"`)) {
			t.Errorf("dataset.json: %s", raw)
		}
	}
	if hash[0] != hash[1] {
		t.Errorf("hashes %v", hash)
	}
}
