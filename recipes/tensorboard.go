package recipes

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/train"
)

// tensorboardDir is where event files lie in a run folder, one folder a train
// stage.
const tensorboardDir = "tensorboard"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maskedCRC is TensorFlow's checksum of a record: a CRC-32C, rotated and
// moved so that a checksum of data with checksums in it stays useful
// (tensorflow/core/lib/hash/crc32c.h).
func maskedCRC(b []byte) uint32 {
	c := crc32.Checksum(b, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

// appendRecord adds one TFRecord: length, its checksum, data, its checksum.
func appendRecord(dst, data []byte) []byte {
	n := binary.LittleEndian.AppendUint64(nil, uint64(len(data)))
	dst = append(dst, n...)
	dst = binary.LittleEndian.AppendUint32(dst, maskedCRC(n))
	dst = append(dst, data...)
	return binary.LittleEndian.AppendUint32(dst, maskedCRC(data))
}

// scalarValue is one number of an event.
type scalarValue struct {
	tag   string
	value float64
}

// field writes a protobuf key: the number of a field and its wire type.
func field(dst []byte, number, wire int) []byte { return append(dst, byte(number<<3|wire)) }

func lengthDelimited(dst []byte, number int, data []byte) []byte {
	dst = binary.AppendUvarint(field(dst, number, 2), uint64(len(data)))
	return append(dst, data...)
}

// event is a tensorflow.Event: wall_time 1, step 2, file_version 3 or summary
// 5 with values of tag 1 and simple_value 2 (tensorflow/core/util/event.proto).
func event(wall float64, step int, version string, values []scalarValue) []byte {
	b := binary.LittleEndian.AppendUint64(field(nil, 1, 1), math.Float64bits(wall))
	if step != 0 {
		b = binary.AppendUvarint(field(b, 2, 0), uint64(step))
	}
	if version != "" {
		return lengthDelimited(b, 3, []byte(version))
	}
	var summary []byte
	for _, v := range values {
		val := lengthDelimited(nil, 1, []byte(v.tag))
		val = binary.LittleEndian.AppendUint32(field(val, 2, 5), math.Float32bits(float32(v.value)))
		summary = lengthDelimited(summary, 1, val)
	}
	return lengthDelimited(b, 5, summary)
}

// tensorboard is an event file with the curves of one training, which began at
// the Unix time began.
func tensorboard(began float64, steps []train.Metrics, evals []train.EvalMetrics) []byte {
	out := appendRecord(nil, event(began, 0, "brain.Event:2", nil))
	at := began
	for _, m := range steps {
		at += m.StepSeconds
		for len(evals) > 0 && evals[0].Step < m.Step {
			out = appendRecord(out, evalEvent(at, evals[0]))
			evals = evals[1:]
		}
		values := []scalarValue{
			{"train/loss", m.Loss}, {"train/learning_rate", m.LearningRate}, {"train/grad_norm", m.GradNorm},
			{"train/tokens_per_second", m.TokensPerSecond}, {"train/memory_bytes", float64(m.MemoryBytes)}, {"train/epoch", m.Epoch}}
		out = appendRecord(out, event(at, m.Step, "", append(values, scalars("train/", m.Objective)...)))
	}
	for _, e := range evals {
		out = appendRecord(out, evalEvent(at, e))
	}
	return out
}

func evalEvent(at float64, e train.EvalMetrics) []byte {
	values := []scalarValue{{"eval/loss", e.Loss}}
	if e.Perplexity > 0 {
		values = append(values, scalarValue{"eval/perplexity", e.Perplexity})
	}
	return event(at, e.Step, "", append(values, scalars("eval/", e.Objective)...))
}

// scalars are an objective's own values, with their names below prefix.
func scalars(prefix string, values train.Values) []scalarValue {
	var out []scalarValue
	for _, v := range values {
		out = append(out, scalarValue{prefix + v.Name, v.V})
	}
	return out
}

// writeTensorboard writes the events of every train stage that has metrics.
func (x *run) writeTensorboard() error {
	for _, j := range x.jobs {
		if j.Stage.Train == nil {
			continue
		}
		path := x.metricsPath(j.Stage.ID)
		st, err := os.Stat(path)
		if err != nil {
			continue
		}
		steps, evals, err := train.ReadMetrics(path)
		if err != nil || len(steps) == 0 {
			continue
		}
		took := 0.0
		for _, m := range steps {
			took += m.StepSeconds
		}
		dir := filepath.Join(x.dir, tensorboardDir, j.Stage.ID)
		if err := atomic.MkdirAll(dir); err != nil {
			return err
		}
		began := float64(st.ModTime().Unix()) - took
		if err := atomic.WriteFile(filepath.Join(dir, "events.out.tfevents.0000000000.tunekit"), tensorboard(began, steps, evals)); err != nil {
			return err
		}
	}
	return nil
}

// metricsPath is where the log of a train stage lies, finished or not.
func (x *run) metricsPath(id string) string {
	path := filepath.Join(x.stageDir(id), train.MetricsFile)
	if !exists(path) {
		path = filepath.Join(x.workDir(id), train.MetricsFile)
	}
	return path
}
