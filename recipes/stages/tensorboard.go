package stages

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"path/filepath"
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
func field(dst []byte, number, wire int) []byte {
	return binary.AppendUvarint(dst, uint64(number<<3|wire))
}

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

// tensorboardFiles are an event file with the curves of a training.
func tensorboardFiles(t *tracked) map[string][]byte {
	out := appendRecord(nil, event(t.began, 0, "brain.Event:2", nil))
	for _, p := range t.points {
		out = appendRecord(out, event(p.at, p.step, "", p.values))
	}
	return map[string][]byte{filepath.Join(tensorboardDir, t.stage, "events.out.tfevents.0000000000.tunekit"): out}
}
