package stages

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"

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

// tensorboardFile is the event file of a train stage, whose metrics lie at path.
func tensorboardFile(path, id string, steps []train.Metrics, evals []train.EvalMetrics) map[string][]byte {
	st, err := os.Stat(path)
	if err != nil {
		return nil
	}
	took := 0.0
	for _, m := range steps {
		took += m.StepSeconds
	}
	name := filepath.Join(tensorboardDir, id, "events.out.tfevents.0000000000.tunekit")
	return map[string][]byte{name: tensorboard(float64(st.ModTime().Unix())-took, steps, evals)}
}
