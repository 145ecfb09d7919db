package train

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

// A checkpoint is one file, checkpoint-NNNNNNNN.state:
//
//	magic, uint64 length of the header, the header (JSON), the parameters and
//	what the optimizer remembers (float32 or bytes, little endian, in the order
//	of the header), SHA-256 of everything before.
//
// It is published by rename, so it is whole or absent; the hash finds what a
// disk did to it later.
const (
	stateMagic  = "tunekit state 2\n"
	stateSuffix = ".state"
	statePrefix = "checkpoint-"
	maxHeader   = 64 << 20
	stateChunk  = 1 << 18 // values moved at once
)

// stateHeader describes a checkpoint.
type stateHeader struct {
	Identity string          `json:"identity"` // of everything that shapes the run
	Step     int             `json:"step"`     // optimizer steps done
	Tensors  []stateField    `json:"tensors"`
	Best     *bestStep       `json:"best,omitempty"`
	Tokens   int64           `json:"tokens"`             // seen so far
	Loss     *float64        `json:"loss"`               // null where it was not finite
	Eval     *bestStep       `json:"eval,omitempty"`     // the last validation
	Schedule *reacted        `json:"schedule,omitempty"` // of one that reacts to validations
	Scaler   *scaler         `json:"scaler,omitempty"`   // with dtype: fp16
	Seen     *running        `json:"seen,omitempty"`     // of a baseline that goes on from step to step
	Entropy  *entropyControl `json:"entropy,omitempty"`  // with use_adaptive_entropy
	Waited   int             `json:"waited,omitempty"`   // validations since the last that was better
}

type stateField struct {
	Name string `json:"name"`
	Len  int    `json:"len"`
	Byte bool   `json:"byte,omitempty"` // values are bytes
}

// size is the number of bytes of a value.
func (f *stateField) size() int {
	if f.Byte {
		return 1
	}
	return 4
}

// bestStep is a validation, such as the best one.
type bestStep struct {
	Step  int     `json:"step"`
	Loss  float64 `json:"loss"`
	Value float64 `json:"value"` // by the metric that chooses the best
}

// bytes is the length of the values in the file.
func (h *stateHeader) bytes() int64 {
	var n int64
	for i := range h.Tensors {
		n += int64(h.Tensors[i].Len) * int64(h.Tensors[i].size())
	}
	return n
}

func statePath(dir string, step int) string {
	return filepath.Join(dir, fmt.Sprintf("%s%08d%s", statePrefix, step, stateSuffix))
}

// writeState publishes a checkpoint in dir. fields yields the values in order.
func writeState(dir string, h *stateHeader, fields func(put func([]byte) error) error) error {
	head, err := json.Marshal(h)
	if err != nil {
		return err
	}
	path := statePath(dir, h.Step)
	size := int64(len(stateMagic)+8+len(head)) + h.bytes() + sha256.Size
	w, err := atomic.CreateSized(path, size)
	if err != nil {
		return err
	}
	defer w.Abort()
	sum := sha256.New()
	out := io.MultiWriter(w, sum)
	put := func(b []byte) error { _, err := out.Write(b); return err }
	if err := put(binary.LittleEndian.AppendUint64([]byte(stateMagic), uint64(len(head)))); err != nil {
		return err
	}
	if err := put(head); err != nil {
		return err
	}
	if err := fields(put); err != nil {
		return err
	}
	if _, err := w.Write(sum.Sum(nil)); err != nil {
		return err
	}
	return w.Commit()
}

// corrupt is the error for a checkpoint that is not what was written.
func corrupt(path, format string, args ...any) error {
	return fail.Inputf(path, "", "damaged checkpoint: %s: %w", fmt.Sprintf(format, args...), formats.ErrCorrupt)
}

// stateFile is a checkpoint being read.
type stateFile struct {
	*stateHeader
	path string
	data int64 // offset of the first value
	size int64
}

// openState reads and checks a checkpoint's header and size.
func openState(path string) (*stateFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	h, n, err := readHeader(f, info.Size())
	if err != nil {
		return nil, corrupt(path, "%v", err)
	}
	s := &stateFile{stateHeader: h, path: path, data: n, size: info.Size()}
	if want := n + h.bytes() + sha256.Size; want != info.Size() {
		return nil, corrupt(path, "%d bytes, expected %d", info.Size(), want)
	}
	return s, nil
}

// readHeader reads the head of a checkpoint of size bytes and returns it with
// the offset of what follows. Nothing is allocated before it was checked.
func readHeader(r io.Reader, size int64) (*stateHeader, int64, error) {
	head := make([]byte, len(stateMagic)+8)
	if _, err := io.ReadFull(r, head); err != nil || string(head[:len(stateMagic)]) != stateMagic {
		return nil, 0, errors.New("not a checkpoint of this program")
	}
	n := binary.LittleEndian.Uint64(head[len(stateMagic):])
	if n > maxHeader || int64(n) > size {
		return nil, 0, fmt.Errorf("header of %d bytes", n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, 0, fmt.Errorf("header: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	h := new(stateHeader)
	if err := d.Decode(h); err != nil {
		return nil, 0, fmt.Errorf("header: %w", err)
	}
	if h.Step < 0 {
		return nil, 0, fmt.Errorf("step %d", h.Step)
	}
	for _, t := range h.Tensors {
		if t.Len < 0 || int64(t.Len) > size/int64(t.size()) {
			return nil, 0, fmt.Errorf("%s has %d values", t.Name, t.Len)
		}
	}
	return h, int64(len(head)) + int64(n), nil
}

// verify checks the hash of the whole file.
func (s *stateFile) verify() error {
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.CopyN(sum, f, s.size-sha256.Size); err != nil {
		return corrupt(s.path, "%v", err)
	}
	want := make([]byte, sha256.Size)
	if _, err := io.ReadFull(f, want); err != nil {
		return corrupt(s.path, "%v", err)
	}
	if !bytes.Equal(sum.Sum(nil), want) {
		return corrupt(s.path, "its SHA-256 is not the one stored")
	}
	return nil
}

// read hands the values to take in pieces, off values into a tensor. Call verify
// first.
func (s *stateFile) read(take func(tensor, off int, data []byte) error) error {
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(s.data, io.SeekStart); err != nil {
		return err
	}
	buf := make([]byte, 4*stateChunk)
	for i := range s.Tensors {
		t := &s.Tensors[i]
		for off := 0; off < t.Len; off += stateChunk {
			b := buf[:t.size()*min(stateChunk, t.Len-off)]
			if _, err := io.ReadFull(f, b); err != nil {
				return corrupt(s.path, "%v", err)
			}
			if err := take(i, off, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// listStates returns the steps that dir has checkpoints of, newest first. The
// order is by the step in the name, never by time.
func listStates(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var steps []int
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), stateSuffix)
		if !ok || !strings.HasPrefix(name, statePrefix) {
			continue
		}
		n, err := strconv.Atoi(strings.TrimPrefix(name, statePrefix))
		if err == nil && n >= 0 {
			steps = append(steps, n)
		}
	}
	slices.Sort(steps)
	slices.Reverse(steps)
	return steps, nil
}

// newest finds the newest whole checkpoint of the run identity in dir, nil when
// there is none. Damaged ones are reported through warn and passed over; one of
// another run is an error.
func newest(dir, identity string, warn func(string)) (*stateFile, error) {
	steps, err := listStates(dir)
	if err != nil {
		return nil, err
	}
	for i, step := range steps {
		s, err := openState(statePath(dir, step))
		if err == nil {
			err = s.verify()
		}
		if err == nil && s.Step != step {
			err = corrupt(s.path, "it says step %d", s.Step)
		}
		if err != nil {
			warn(fmt.Sprintf("%v; going back to the one before (%d left)", err, len(steps)-i-1))
			continue
		}
		if s.Identity != identity {
			return nil, fail.Inputf(dir, "choose another folder, or remove this one to start anew",
				"holds the state of another run (its inputs or options were different)")
		}
		return s, nil
	}
	if len(steps) > 0 {
		return nil, fail.Inputf(dir, "remove the folder to start anew", "none of %d checkpoints can be read: %w", len(steps), formats.ErrCorrupt)
	}
	return nil, nil
}

// rotate removes old checkpoints so that limit are left, never the newest one
// nor the step keep (-1: none).
func rotate(dir string, limit, keep int) error {
	steps, err := listStates(dir)
	if err != nil {
		return err
	}
	left := len(steps)
	for i := len(steps) - 1; i > 0 && left > max(limit, 1); i-- {
		if steps[i] == keep {
			continue
		}
		if err := os.Remove(statePath(dir, steps[i])); err != nil {
			return err
		}
		left--
	}
	return nil
}
