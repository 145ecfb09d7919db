package formats

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/tunekit/tunekit/formats/fail"
)

// A header file is the beginning of a file of weights, as far as its header goes, and a
// trailer that says what the rest is: the reference it was fetched from, the length of
// that text (u32), the size of the whole file (u64), and headerMagic. It is read as the
// whole file would be, until a tensor's values are asked for.
const (
	headerMagic   = "tunekit header\r\n"
	headerTrailer = 4 + 8 + int64(len(headerMagic))
	maxReference  = 1024
)

// ErrHeaderOnly is wrapped by errors about values that a header file does not hold.
var ErrHeaderOnly = errors.New("only the header of this file was fetched")

// HeaderFile makes the header file of a file of weights (safetensors or GGUF) of size
// bytes, of which head is the beginning and ref the reference on the hub. Where head is
// too short, file is nil and need, which is more than len(head), says how many bytes to
// try next.
func HeaderFile(name string, head []byte, size int64, ref string) (file []byte, need int64, err error) {
	s := &source{name: name, path: name, r: bytes.NewReader(head), size: size, missing: size - int64(len(head))}
	end, err := headerEnd(s)
	switch {
	case err == nil && end <= int64(len(head)):
		file = append(append([]byte{}, head[:end]...), ref...)
		file = binary.LittleEndian.AppendUint32(file, uint32(len(ref)))
		file = binary.LittleEndian.AppendUint64(file, uint64(size))
		return append(file, headerMagic...), end, nil
	case err == nil:
		return nil, end, nil
	case s.missing == 0 || int64(len(head)) > maxHeader:
		return nil, 0, err
	}
	return nil, min(size, max(2*int64(len(head)), 1<<20)), nil
}

// headerEnd is where the header of s ends, as far as the beginning of s tells.
func headerEnd(s *source) (int64, error) {
	magic, err := s.read(0, min(8, s.size))
	if err != nil {
		return 0, err
	}
	if string(magic[:min(4, len(magic))]) == "GGUF" {
		g := openGGUF(s)
		tensors, kvs := g.header()
		g.kvs(kvs)
		g.infos(tensors)
		return g.at, g.err
	}
	n, err := stLength(s)
	return 8 + n, err
}

// beheaded looks for the trailer of a header file, and takes s for the whole file then.
func (s *source) beheaded() error {
	if s.size < headerTrailer {
		return nil
	}
	t, err := s.read(s.size-headerTrailer, headerTrailer)
	if err != nil || string(t[12:]) != headerMagic {
		return err
	}
	ref, whole := int64(binary.LittleEndian.Uint32(t)), int64(binary.LittleEndian.Uint64(t[4:]))
	held := s.size - headerTrailer - ref
	if ref > maxReference || held < 0 || whole < held {
		return corrupt(s.path, "it ends as a header file does, but states a reference of %d bytes and a file of %d", ref, uint64(whole))
	}
	name, err := s.read(held, ref)
	s.of, s.size, s.missing = string(name), whole, whole-held
	return err
}

// absent is the error for what a header file does not hold; nil of other files.
func (s *source) absent() error {
	if s.missing == 0 {
		return nil
	}
	return fail.Inputf(s.path, "tune pull "+s.of+" fetches it whole", "%w", ErrHeaderOnly)
}
