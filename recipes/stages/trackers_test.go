package stages

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/train"
)

// trackedTraining is a training of so many steps with a validation of a quarter of a
// second after the first and another at the end.
func trackedTraining(dir string, steps int) *tracked {
	var ms []train.Metrics
	for i := range steps {
		ms = append(ms, train.Metrics{Step: i + 1, Loss: 2 - 0.001*float64(i), GradNorm: 1, StepSeconds: 0.5,
			Sources: []train.SourceLoss{{Source: "data/a.jsonl", Loss: 1, Count: 2}}})
	}
	t := &tracked{run: "r", stage: "train", dir: dir, id: "0123456789abcdef0123456789abcdef", began: 1700000000, ended: true,
		params: [][2]string{{"lora.r", "8"}, {"optimizer", "adamw"}}, raw: []byte("{}\n")}
	t.points = pointsOf(t.began, ms, []train.EvalMetrics{{Step: 1, Loss: 4, Seconds: 0.25}, {Step: steps, Seconds: 0.25, Loss: 3, Perplexity: 20, Tasks: train.Values{{Name: "exact_match", V: 0.5}}}})
	return t
}

// TestMLflowFiles: the layout of MLflow's file store, as its FileStore (3.17.2) writes it.
func TestMLflowFiles(t *testing.T) {
	files := mlflowFiles(trackedTraining(t.TempDir(), 2))
	run := "mlruns/1/0123456789abcdef0123456789abcdef/"
	for name, want := range map[string]string{
		run + "metrics/train/loss":              "1700000000500 2 1\n1700000001250 1.999 2\n",
		run + "metrics/eval/loss":               "1700000000750 4 1\n1700000001500 3 2\n",
		run + "metrics/eval/exact_match":        "1700000001500 0.5 2\n",
		run + "metrics/train/data/data_a.jsonl": "1700000000500 1 1\n1700000001250 1 2\n",
		run + "params/lora.r":                   "8",
		run + "tags/mlflow.runName":             "train",
	} {
		if got := string(files[filepath.FromSlash(name)]); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	meta := string(files[filepath.FromSlash(run+"meta.yaml")])
	for _, want := range []string{"status: 3\n", "run_id: 0123456789abcdef0123456789abcdef\n", "start_time: 1700000000000\n", "artifact_uri: file:///", `experiment_id: "1"`} {
		if !strings.Contains(meta, want) {
			t.Errorf("meta.yaml has no %q:\n%s", want, meta)
		}
	}
}

// TestTrackedName: no name of a metric leaves the folder, and each is one that MLflow takes.
func TestTrackedName(t *testing.T) {
	for name, want := range map[string]string{"train/loss": "train/loss", "rewards/../mean": "rewards/__/mean", "a//b": "a/_/b", "x:y*z é": "x_y_z é", "..": "__", "训练.jsonl": "训练.jsonl", "٣\u200b\xff": "٣__"} {
		if got := trackedName(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestSeriesApart: no two series come together in one, whatever they are called.
func TestSeriesApart(t *testing.T) {
	tr := trackedTraining(t.TempDir(), 1)
	losses := func(names ...string) (out []train.SourceLoss) {
		for i, n := range names {
			out = append(out, train.SourceLoss{Source: n, Loss: float64(i + 1), Count: 1})
		}
		return out
	}
	tr.points = pointsOf(0, []train.Metrics{{Step: 1, Sources: losses("训练.jsonl", "测试.jsonl", "a/b", "a_b", "a:b", "a_b_2")}},
		[]train.EvalMetrics{{Step: 1, Sources: losses("a_b", "a/b")}})
	files := mlflowFiles(tr)
	for name, want := range map[string]string{"train/data/训练.jsonl": "0 1 1\n", "train/data/测试.jsonl": "0 2 1\n", "train/data/a_b": "0 3 1\n", "train/data/a_b_2": "0 4 1\n",
		"train/data/a_b_3": "0 5 1\n", "train/data/a_b_2_2": "0 6 1\n", "eval/data/a_b_2": "0 1 1\n", "eval/data/a_b": "0 2 1\n"} {
		if got := string(files[filepath.FromSlash("mlruns/1/"+tr.id+"/metrics/"+name)]); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	tags := map[string]bool{}
	for _, v := range tr.points[0].values {
		if tags[v.tag] {
			t.Errorf("%s is there twice", v.tag)
		}
		tags[v.tag] = true
	}
}

// TestTrackedID: what changes no result leaves a training the same one.
func TestTrackedID(t *testing.T) {
	o := Train{Model: "/a", Config: train.Config{}}
	o.LoRA.R = 8
	first := train.Metrics{Loss: 2, GradNorm: 1, Tokens: 10}
	id := trackedID("r", "train", &o, first)
	if len(id) != 32 {
		t.Fatal(id)
	}
	for name, c := range map[string]struct {
		change func(o *Train)
		same   bool
	}{
		"save_steps":            {func(o *Train) { o.SaveSteps.Steps = 10 }, true},
		"save_total_limit":      {func(o *Train) { o.SaveTotalLimit = 5 }, true},
		"offload_optimizer":     {func(o *Train) { o.OffloadOptimizer = "disk" }, true},
		"activation_offloading": {func(o *Train) { o.ActivationOffloading = "disk" }, true},
		"report_to":             {func(o *Train) { o.ReportTo = []string{"all"} }, true},
		"model":                 {func(o *Train) { o.Model = "/moved" }, true},
		"lora.r":                {func(o *Train) { o.LoRA.R = 16 }, false},
	} {
		other := o
		c.change(&other)
		if got := trackedID("r", "train", &other, first) == id; got != c.same {
			t.Errorf("%s: the same %v, want %v", name, got, c.same)
		}
	}
	if first.Loss = 3; trackedID("r", "train", &o, first) == id {
		t.Error("another loss, the same training")
	}
}

// TestTrackersKnown: what report_to takes is what is written.
func TestTrackersKnown(t *testing.T) {
	known := slices.Sorted(slices.Values(train.Tracking{ReportTo: []string{"all"}}.Trackers()))
	if written := slices.Sorted(maps.Keys(trackers)); !slices.Equal(known, written) {
		t.Errorf("report_to knows %v, written are %v", known, written)
	}
}

// readWandb reads an offline run back: the payloads of its records. A checksum covers the
// kind of a piece and its data, and no piece crosses a block of 32 KiB.
func readWandb(t *testing.T, raw []byte) (out [][]byte) {
	t.Helper()
	if !bytes.HasPrefix(raw, []byte(":W&B\xe1\xbe\x00")) {
		t.Fatalf("begins with %q", raw[:7])
	}
	var record []byte
	inside := false
	for at := 7; at < len(raw); {
		if left := 32768 - at%32768; left < 7 {
			at += left
			continue
		}
		n, kind := int(binary.LittleEndian.Uint16(raw[at+4:])), raw[at+6]
		data := raw[at+7 : at+7+n]
		if at/32768 != (at+6+n)/32768 {
			t.Fatalf("the piece at %d crosses a block", at)
		}
		if sum := crc32.ChecksumIEEE(append([]byte{kind}, data...)); sum != binary.LittleEndian.Uint32(raw[at:]) {
			t.Fatalf("checksum at %d", at)
		}
		if (kind == 1 || kind == 2) == inside {
			t.Fatalf("piece of kind %d at %d after %d bytes", kind, at, len(record))
		}
		record, inside = append(record, data...), kind == 2 || kind == 3
		if !inside {
			out, record = append(out, record), nil
		}
		at += 7 + n
	}
	return out
}

// TestWandbFiles: every record comes back whole, over the ends of blocks too, and a run
// written again keeps its folder.
func TestWandbFiles(t *testing.T) {
	tr := trackedTraining(t.TempDir(), 500)
	files := wandbFiles(tr)
	name := filepath.FromSlash("wandb/offline-run-20231114_221320-01234567/run-01234567.wandb")
	raw, ok := files[name]
	if !ok || len(files) != 1 {
		t.Fatalf("files %v", len(files))
	}
	records := readWandb(t, raw)
	if len(records) != 2+502+3 || len(raw) < 3*32768 {
		t.Errorf("%d records in %d bytes", len(records), len(raw))
	}
	for i, r := range records {
		if num, n := binary.Uvarint(r[1:]); r[0] != 0x08 || n <= 0 || num != uint64(i+1) {
			t.Errorf("record %d has number %d", i, num)
		}
	}
	if !bytes.Contains(records[1], []byte("optimizer")) || !bytes.Contains(records[1], []byte(`"adamw"`)) || !bytes.Contains(records[2], []byte("train/loss")) {
		t.Error("config or history is missing")
	}
	var l wandbLog
	for n := 0; n < 3*32768; n += 4093 { // every place in a block where a record may begin
		l = *newWandbLog()
		l.write(bytes.Repeat([]byte{1}, n))
		l.write(bytes.Repeat([]byte{2}, 32768-14-n%32768))
		l.write([]byte("end"))
		if got := readWandb(t, l.out); len(got) != 3 || len(got[0]) != n || string(got[2]) != "end" {
			t.Fatalf("%d bytes: %d records", n, len(got))
		}
	}
}

// TestTrackersLive: while a training runs files only grow, so that a program that has one
// open reads on; the end of it is what is written in one go.
func TestTrackersLive(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"tensorboard", "mlflow", "wandb"} {
		whole := trackers[name](trackedTraining(dir, 40))
		path := filepath.Join(dir, name)
		var open *os.File
		for _, steps := range []int{1, 2, 17, 40} {
			tr := trackedTraining(dir, 40)
			tr.live, tr.ended = true, false
			tr.points = tr.points[:min(len(tr.points), steps)]
			for file, raw := range trackers[name](tr) {
				if strings.HasSuffix(file, ".yaml") || strings.HasSuffix(file, ".jsonl") {
					continue // written whole
				}
				if !bytes.HasPrefix(whole[file], raw) {
					t.Fatalf("%s after %d points is no beginning of %s", file, steps, name)
				}
				if strings.Contains(file, "events") || strings.HasSuffix(file, ".wandb") || strings.HasSuffix(file, "grad_norm") {
					if err := atomic.Extend(path, raw); err != nil {
						t.Fatal(err)
					}
					if open == nil {
						var err error
						if open, err = os.Open(path); err != nil {
							t.Fatal(err)
						}
						defer open.Close()
					}
					if err := atomic.Extend(path, raw); err != nil { // nothing new
						t.Fatal(err)
					}
					if seen, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", open.Fd())); err == nil && !bytes.Equal(seen, raw) {
						t.Errorf("%s: who has it open sees %d of %d bytes", file, len(seen), len(raw))
					}
				}
			}
		}
	}
	tr := trackedTraining(dir, 3)
	tr.live, tr.ended = true, false
	meta := string(mlflowFiles(tr)[filepath.FromSlash("mlruns/1/0123456789abcdef0123456789abcdef/meta.yaml")])
	if !strings.Contains(meta, "status: 1\n") || !strings.Contains(meta, "end_time: null\n") {
		t.Errorf("a run that goes on: %s", meta)
	}
	path := filepath.Join(dir, "other")
	for _, text := range []string{"abc", "abcdef", "ab", "xyz"} { // shorter and other ones replace
		if err := atomic.Extend(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("%q, want %q, %v", got, text, err)
		}
	}
}
