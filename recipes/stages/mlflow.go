package stages

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// mlflowDir is a file store of MLflow: `mlflow ui --backend-store-uri runs/NAME/mlruns`.
const mlflowDir = "mlruns"

// mlflowParam is the longest value of a parameter that MLflow takes.
const mlflowParam = 6000

// mlflowFiles are a training as a run of MLflow's FileStore: an experiment for the recipe
// with a folder for the run, in it meta.yaml, a file for each metric (lines of time in
// milliseconds, value, step), for each parameter, and for each tag.
func mlflowFiles(t *tracked) map[string][]byte {
	const experiment = "1"
	root, err := filepath.Abs(filepath.Join(t.dir, mlflowDir))
	if err != nil {
		return nil
	}
	uri := func(parts ...string) string {
		u := url.URL{Scheme: "file", Path: filepath.ToSlash(filepath.Join(append([]string{root}, parts...)...))}
		return u.String()
	}
	ms := func(at float64) int64 { return int64(1000 * at) }
	end := t.points[len(t.points)-1].at
	status := 5 // killed: it can go on
	var ended any = ms(end)
	switch {
	case t.live:
		status, ended = 1, nil // running
	case t.ended:
		status = 3 // finished
	}
	text := func(v any) []byte {
		raw, err := yaml.Marshal(v)
		if err != nil {
			return nil
		}
		return raw
	}
	dir := filepath.Join(mlflowDir, experiment, t.id)
	out := map[string][]byte{
		filepath.Join(mlflowDir, experiment, "meta.yaml"): text(map[string]any{
			"artifact_location": uri(experiment), "creation_time": ms(t.began), "experiment_id": experiment,
			"last_update_time": ms(end), "lifecycle_stage": "active", "name": t.run}),
		filepath.Join(dir, "meta.yaml"): text(map[string]any{
			"artifact_uri": uri(experiment, t.id, "artifacts"), "end_time": ended, "entry_point_name": "", "experiment_id": experiment,
			"lifecycle_stage": "active", "run_id": t.id, "run_name": t.stage, "source_name": "", "source_type": 4, "source_version": "",
			"start_time": ms(t.began), "status": status, "tags": []string{}, "user_id": ""}),
		filepath.Join(dir, "tags", "mlflow.runName"):       []byte(t.stage),
		filepath.Join(dir, "tags", "mlflow.source.type"):   []byte("LOCAL"),
		filepath.Join(dir, "tags", "mlflow.source.name"):   []byte("tunekit"),
		filepath.Join(dir, "artifacts", "metrics.jsonl"):   t.raw,
		filepath.Join(dir, "params", "tunekit.run_folder"): []byte(filepath.Base(t.dir)),
	}
	for _, p := range t.params {
		out[filepath.Join(dir, "params", filepath.FromSlash(p[0]))] = []byte(strings.ToValidUTF8(p[1][:min(len(p[1]), mlflowParam)], ""))
	}
	lines := map[string]*strings.Builder{}
	metrics := names{clean: trackedName}
	for _, p := range t.points {
		for _, v := range p.values {
			name := metrics.of(v.tag)
			if lines[name] == nil {
				lines[name] = &strings.Builder{}
			}
			fmt.Fprintf(lines[name], "%d %s %d\n", ms(p.at), strconv.FormatFloat(v.value, 'g', -1, 64), p.step)
		}
	}
	for name, b := range lines {
		out[filepath.Join(dir, "metrics", filepath.FromSlash(name))] = []byte(b.String())
	}
	return out
}
