package stages

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"testing"

	"github.com/tunekit/tunekit/train"
)

// The check value of CRC-32C (RFC 3720, B.4: "123456789" is e3069283), and its
// mask by hand: ((e3069283 >> 15) | (e3069283 << 17)) = 2507c60d, + a282ead8.
func TestMaskedCRC(t *testing.T) {
	if got, want := maskedCRC([]byte("123456789")), uint32(0x2507c60d+0xa282ead8); got != want {
		t.Errorf("got %08x, want %08x", got, want)
	}
}

// The bytes that TensorFlow writes for the first record of an event file at
// time 0, by the definition of protobuf; checksums from the test above.
func TestFirstRecord(t *testing.T) {
	rec := only(t, tensorboardFiles(&tracked{}))
	data, err := hex.DecodeString("090000000000000000" + "1a0d" + hex.EncodeToString([]byte("brain.Event:2")))
	must(t, err)
	if n := binary.LittleEndian.Uint64(rec); int(n) != len(data) || !bytes.Equal(rec[12:12+n], data) {
		t.Errorf("record %x, want data %x", rec, data)
	}
	if len(rec) != 16+len(data) || binary.LittleEndian.Uint32(rec[8:]) != maskedCRC(rec[:8]) || binary.LittleEndian.Uint32(rec[len(rec)-4:]) != maskedCRC(data) {
		t.Errorf("checksums of %x", rec)
	}
}

func TestTensorboardOrder(t *testing.T) {
	out := only(t, tensorboardFiles(&tracked{points: pointsOf(100, []train.Metrics{{Step: 1, Loss: 2}, {Step: 2, Loss: 1}}, []train.EvalMetrics{{Step: 1, Loss: 3}, {Step: 2, Loss: 4}})}))
	var steps []byte
	for len(out) > 0 {
		n := binary.LittleEndian.Uint64(out)
		data := out[12 : 12+n]
		if len(data) > 10 && data[9] == 0x10 {
			steps = append(steps, data[10])
			if bytes.Contains(data, []byte("eval/loss")) {
				steps = append(steps, 'e')
			}
		}
		out = out[16+n:]
	}
	if want := []byte{1, 1, 'e', 2, 2, 'e'}; !bytes.Equal(steps, want) {
		t.Errorf("events %v, want %v", steps, want)
	}
}

// only is the one file of files.
func only(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	for _, raw := range files {
		if len(files) == 1 {
			return raw
		}
	}
	t.Fatalf("%d files", len(files))
	return nil
}
