package stages

import (
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"path/filepath"
	"time"
)

// wandbDir holds offline runs of W&B: `wandb sync runs/NAME/wandb/offline-run-…` sends one.
const wandbDir = "wandb"

// wandbFiles are a training as an offline run: a log of records in the form of LevelDB's
// (blocks of 32 KiB) after W&B's own seven bytes, each record a protobuf message Record of
// wandb_internal.proto.
func wandbFiles(t *tracked) map[string][]byte {
	id := t.id[:8]
	began := time.Unix(int64(t.began), 0).UTC()
	name := "offline-run-" + began.Format("20060102_150405") + "-" + id
	// It keeps its name, and with it its time, where it was written before.
	if old, _ := filepath.Glob(filepath.Join(globbed(filepath.Join(t.dir, wandbDir)), "offline-run-*-"+id)); len(old) > 0 {
		name = filepath.Base(old[0])
	}
	log := newWandbLog()
	log.add(21, lengthDelimited(nil, 1, lengthDelimited(lengthDelimited(nil, 1, []byte("tunekit")), 2, nil))) // header: version_info
	log.add(17, wandbRun(t, id, began))
	last := map[string]json.RawMessage{}
	var order []string
	for i, p := range t.points {
		var items []byte
		put := func(key string, v any) {
			raw, err := json.Marshal(v)
			if err != nil {
				return
			}
			items = lengthDelimited(items, 1, wandbItem(key, raw))
			if last[key] == nil {
				order = append(order, key)
			}
			last[key] = raw
		}
		for _, v := range p.values {
			put(v.tag, v.value)
		}
		put("trainer/global_step", p.step)
		put("_timestamp", p.at)
		put("_runtime", p.at-t.began)
		put("_step", i)
		step := binary.AppendUvarint(field(nil, 1, 0), uint64(i))
		log.add(2, lengthDelimited(items, 2, step)) // history
	}
	file := filepath.Join(wandbDir, name, "run-"+id+".wandb")
	if t.live {
		return map[string][]byte{file: log.out}
	}
	var summary []byte
	for _, key := range order {
		summary = lengthDelimited(summary, 1, wandbItem(key, last[key]))
	}
	log.add(3, summary)
	code := 0
	if !t.ended {
		code = 75
	}
	exit := binary.AppendUvarint(field(nil, 1, 0), uint64(code))
	log.add(18, binary.AppendUvarint(field(exit, 2, 0), uint64(max(0, t.points[len(t.points)-1].at-t.began))))
	log.add(22, nil) // footer
	return map[string][]byte{file: log.out}
}

// globbed is a path whose own characters are no pattern.
func globbed(path string) string {
	var out []rune
	for _, r := range path {
		if r == '*' || r == '?' || r == '[' || r == '\\' {
			out = append(out, '\\')
		}
		out = append(out, r)
	}
	return string(out)
}

// wandbRun is a RunRecord: run_id 1, project 3, config 4, display_name 8, start_time 17.
func wandbRun(t *tracked, id string, began time.Time) []byte {
	b := lengthDelimited(nil, 1, []byte(id))
	b = lengthDelimited(b, 3, []byte(t.run))
	var config []byte
	for _, p := range t.params {
		raw := json.RawMessage(p[1])
		if !json.Valid(raw) {
			raw, _ = json.Marshal(p[1]) // text always can be
		}
		config = lengthDelimited(config, 1, wandbItem(p[0], raw))
	}
	b = lengthDelimited(b, 4, config)
	b = lengthDelimited(b, 8, []byte(t.stage))
	return lengthDelimited(b, 17, binary.AppendUvarint(field(nil, 1, 0), uint64(began.Unix())))
}

// wandbItem is a ConfigItem, HistoryItem or SummaryItem: key 1, value_json 16.
func wandbItem(key string, raw []byte) []byte {
	return lengthDelimited(lengthDelimited(nil, 1, []byte(key)), 16, raw)
}

const (
	wandbBlock  = 32768
	wandbHeader = 7 // of a piece: CRC-32 of its kind and data, length, kind
)

// wandbLog is a file of records.
type wandbLog struct {
	out []byte
	num uint64
}

func newWandbLog() *wandbLog { return &wandbLog{out: []byte{':', 'W', '&', 'B', 0xe1, 0xbe, 0}} }

// add writes a Record: num 1, and the field that says its kind.
func (l *wandbLog) add(kind int, data []byte) {
	l.num++
	l.write(lengthDelimited(binary.AppendUvarint(field(nil, 1, 0), l.num), kind, data))
}

// write cuts a record into pieces that no end of a block parts: 1 is a whole one, 2 the
// first, 3 one between, 4 the last.
func (l *wandbLog) write(data []byte) {
	for first := true; first || len(data) > 0; first = false {
		left := wandbBlock - len(l.out)%wandbBlock
		if left < wandbHeader {
			l.out = append(l.out, make([]byte, left)...)
			left = wandbBlock
		}
		n := min(len(data), left-wandbHeader)
		kind := byte(3)
		switch whole := n == len(data); {
		case first && whole:
			kind = 1
		case first:
			kind = 2
		case whole:
			kind = 4
		}
		piece := data[:n]
		sum := crc32.Update(crc32.ChecksumIEEE([]byte{kind}), crc32.IEEETable, piece)
		l.out = binary.LittleEndian.AppendUint32(l.out, sum)
		l.out = binary.LittleEndian.AppendUint16(l.out, uint16(n))
		l.out = append(append(l.out, kind), piece...)
		data = data[n:]
	}
}
