package train

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"path/filepath"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
)

// Reference holds the log-probabilities of a job's samples under a model that
// need not be in memory while another is trained: files of one float32 for each
// token, mapped.
type Reference struct{ parts map[part]*referenceFile }

// part is a set of samples: those trained on or held back, with their own answers
// or, for baselines, with those to other prompts.
type part struct{ val, other bool }

func (p part) String() string {
	name := "train"
	if p.val {
		name = "val"
	}
	if p.other {
		name += "-mismatched"
	}
	return name
}

// NeedsReference reports whether c compares with a reference that is none of the
// model in training without its adapter: it trains all weights.
func (c Config) NeedsReference() bool {
	return c.Adapter == "none" && c.ReadsReference() && !c.SyncRefModel
}

// ReadsReference reports whether c, which is resolved, compares with a reference.
func (c Config) ReadsReference() bool {
	kind := objectives[c.Objective]
	return kind.make(c).Reads() >= ReadsReference || kind.penalty && *c.Beta > 0
}

// MakeReference finds in dir, or computes and leaves there, the log-probabilities
// of j's samples under m, which address says the content of. Of j it takes the
// data and what shapes them; its model is not looked at.
func MakeReference(ctx context.Context, dir, address string, m *model.Model, j Job) (*Reference, error) {
	if err := atomic.MkdirAll(dir); err != nil {
		return nil, err
	}
	out := &Reference{parts: map[part]*referenceFile{}}
	others := false
	if f := objectives[j.Config.Objective].baseline; f != nil {
		others = f(j.Config) == mismatched
	}
	for _, p := range []part{{}, {other: true}, {val: true}, {val: true, other: true}} {
		ex := j.Train
		if p.val {
			ex = j.Val
		}
		if ex.Len() == 0 || p.other && !others {
			continue
		}
		f, err := j.makePart(ctx, dir, address, m, p, ex)
		if err != nil {
			return nil, err
		}
		out.parts[p] = f
	}
	return out, nil
}

// makePart is MakeReference for one part, of ex.
func (j *Job) makePart(ctx context.Context, dir, address string, m *model.Model, p part, ex data.Examples) (*referenceFile, error) {
	bf16 := j.Config.usesBF16(m.Dev)
	info := m.Dev.Info()
	h := sha256.New()
	if err := json.NewEncoder(h).Encode([]any{address, p.String(), bf16, info.Name, info.Level, j.MaxLength}); err != nil {
		return nil, err
	}
	for i := range ex.Len() {
		h.Write(binary.LittleEndian.AppendUint64(nil, ex.ID(i)))
	}
	want := h.Sum(nil)
	path := filepath.Join(dir, fmt.Sprintf("reference-%s-%s.logp", p, hex.EncodeToString(want[:6])))
	if f, err := openReference(path, want); err == nil {
		return f, nil
	}
	if j.Log != nil {
		j.Log(fmt.Sprintf("log-probabilities of %d samples (%s) under the reference, once before training", ex.Len(), p))
	}
	if err := writeReference(path, want, ex.Len(), func(put func([]float32) error) error {
		return j.logProbsOf(ctx, m, p, ex, bf16, put)
	}); err != nil {
		return nil, memory(err)
	}
	return openReference(path, want)
}

// referenceTokens is how many tokens are packed into one pass over a reference, which
// reads all of its weights: enough to work at speed where these come from disk.
const referenceTokens = 4096

// logProbsOf puts the log-probabilities of each sample of a part, in order.
func (j *Job) logProbsOf(ctx context.Context, m *model.Model, p part, ex data.Examples, bf16 bool, put func([]float32) error) error {
	var some []data.Example
	var numbers []int32
	tokens := 0
	flush := func() error {
		if len(some) == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		b := data.NewBatch(some, numbers)
		logp, err := logProbs(m, &b, false, !p.val && !p.other, bf16, 1)
		for s := range some {
			if err == nil {
				err = put(logp[b.Seq[s]:b.Seq[s+1]])
			}
		}
		some, numbers, tokens = nil, nil, 0
		return err
	}
	for k := range ex.Len() {
		e, err := ex.At(k)
		if err == nil && p.other {
			e, err = mismatchOf(ex, k, j.MaxLength)
		}
		if err != nil {
			return err
		}
		if tokens > 0 && tokens+len(e.IDs) > max(referenceTokens, j.MaxLength) {
			if err := flush(); err != nil {
				return err
			}
		}
		some, numbers, tokens = append(some, e), append(numbers, int32(k)), tokens+len(e.IDs)
	}
	return flush()
}

// read returns the log-probabilities [N] of b's samples, which are of part p.
func (r *Reference) read(b *data.Batch, p part) ([]float32, error) {
	out := make([]float32, len(b.IDs))
	for s, k := range b.Sample {
		if err := r.parts[p].read(int(k), out[b.Seq[s]:b.Seq[s+1]]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// A reference file is
//
//	magic, the values (float32, little endian), where each sample's begin and the
//	last end (uint64, in values), the number of samples (uint64), the address (32
//	bytes), SHA-256 of everything before.
const referenceMagic = "tunekit reference 1\n"

// referenceFile is one, mapped.
type referenceFile struct {
	path  string
	file  *formats.Mapped
	n     int   // samples
	index int64 // offset of where they begin
}

// writeReference publishes a file of n samples whose values write puts in order.
func writeReference(path string, address []byte, n int, write func(put func([]float32) error) error) error {
	w, err := atomic.Create(path)
	if err != nil {
		return err
	}
	defer w.Abort()
	sum := sha256.New()
	out := io.MultiWriter(w, sum)
	if _, err := io.WriteString(out, referenceMagic); err != nil {
		return err
	}
	starts, at := make([]byte, 8, 8*(n+1)), uint64(0)
	err = write(func(v []float32) error {
		at += uint64(len(v))
		starts = binary.LittleEndian.AppendUint64(starts, at)
		_, err := out.Write(kernels.Bytes(v))
		return err
	})
	if err != nil {
		return err
	}
	for _, b := range [][]byte{starts, binary.LittleEndian.AppendUint64(nil, uint64(n)), address} {
		if _, err := out.Write(b); err != nil {
			return err
		}
	}
	if _, err := w.Write(sum.Sum(nil)); err != nil {
		return err
	}
	return w.Commit()
}

// openReference maps a file and checks it whole.
func openReference(path string, address []byte) (*referenceFile, error) {
	file, err := formats.OpenMapped(path)
	if err != nil {
		return nil, err
	}
	f := &referenceFile{path: path, file: file}
	return f, file.Read(func(b []byte) error {
		const tail = 8 + 2*sha256.Size
		if len(b) < len(referenceMagic)+8+tail || string(b[:len(referenceMagic)]) != referenceMagic {
			return corrupt(path, "no file of log-probabilities")
		}
		body := b[:len(b)-sha256.Size]
		if sum := sha256.Sum256(body); !bytes.Equal(sum[:], b[len(body):]) || !bytes.Equal(body[len(body)-sha256.Size:], address) {
			return corrupt(path, "its SHA-256 or its address is another")
		}
		n := binary.LittleEndian.Uint64(b[len(b)-tail:])
		if n > uint64(len(b)/8) {
			return corrupt(path, "%d samples", n)
		}
		f.n = int(n)
		f.index = int64(len(b)) - tail - 8*int64(n+1)
		if f.index < int64(len(referenceMagic)) {
			return corrupt(path, "%d samples", n)
		}
		return nil
	})
}

// read fills v with the values of sample k.
func (f *referenceFile) read(k int, v []float32) error {
	if f == nil || k < 0 || k >= f.n {
		return fmt.Errorf("train: the reference has no sample %d", k)
	}
	return f.file.Read(func(b []byte) error {
		lo, hi := binary.LittleEndian.Uint64(b[f.index+8*int64(k):]), binary.LittleEndian.Uint64(b[f.index+8*int64(k+1):])
		values := b[len(referenceMagic):f.index]
		if lo > hi || hi > uint64(len(values)/4) || hi-lo != uint64(len(v)) || hi > math.MaxInt64/4 {
			return corrupt(f.path, "sample %d has values %d to %d, %d tokens are wanted", k, lo, hi, len(v))
		}
		block.GetF32(v, values[4*lo:4*hi])
		return nil
	})
}
