package train

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// FuzzStateHeader: any bytes are read or refused, and no size in them is
// believed that the file could not have.
func FuzzStateHeader(f *testing.F) {
	head := func(text string) []byte {
		b := binary.LittleEndian.AppendUint64([]byte(stateMagic), uint64(len(text)))
		return append(b, text...)
	}
	f.Add(head(`{"identity":"x","step":3,"tensors":[{"name":"a","len":4}],"moments":["m","v"],"tokens":1,"loss":1}`))
	f.Add(head(`{"step":-1}`))
	f.Add(head(`{"tensors":[{"name":"a","len":4611686018427387904}]}`))
	f.Add([]byte(stateMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, n, err := readHeader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		if n > int64(len(data)) || h.bytes() < 0 {
			t.Fatalf("header ends at %d of %d, %d values", n, len(data), h.bytes())
		}
	})
}

// FuzzMetrics: cutting a log keeps whole lines of the steps asked for.
func FuzzMetrics(f *testing.F) {
	f.Add([]byte("{\"step\":1,\"loss\":2}\n{\"step\":2,\"loss\":1}\n{\"st"), 1)
	f.Add([]byte("\n\nnull\n[]\n"), 0)
	f.Fuzz(func(t *testing.T, data []byte, step int) {
		l := &metricsLog{tail: map[int]line{}}
		keep := l.cut(data, step, step)
		if len(keep) > 0 && keep[len(keep)-1] != '\n' {
			t.Fatal("a torn line was kept")
		}
		again := &metricsLog{tail: map[int]line{}}
		if !bytes.Equal(again.cut(keep, step, step), keep) || len(again.tail) > 0 {
			t.Fatal("cutting twice changes the log")
		}
	})
}
