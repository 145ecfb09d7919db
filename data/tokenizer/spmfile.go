package tokenizer

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"
)

// spmFile is what a tokenizer.model of SentencePiece says (its
// sentencepiece_model.proto), with the defaults of that schema.
type spmFile struct {
	pieces []spmPiece

	model        uint64 // spmUnigram or spmBPE are known here
	suffix       bool   // white space ends a word instead of beginning it
	byteFallback bool

	normalizer   string // its name
	charsmap     []byte // precompiled rules; nil: none
	dummyPrefix  bool   // a space goes before a text
	removeSpaces bool   // spaces around a text and all but one of a run are dropped
	escape       bool   // ▁ for spaces
	denormalizer int    // bytes of rules for decoded text
}

const (
	spmUnigram = 1
	spmBPE     = 2
)

// spmPiece is one token; kind has the numbers of GGUF's token types.
type spmPiece struct {
	text  string
	score float32
	kind  tokenKind
}

// protoField is one field of a protobuf message: a number, or bytes.
type protoField struct {
	number uint64
	wire   uint64
	value  uint64
	bytes  []byte
}

// Wire types of protobuf.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// protoFields calls f at every field of a message.
func protoFields(b []byte, f func(protoField) error) error {
	for size := len(b); len(b) > 0; {
		at := size - len(b)
		key, n := binary.Uvarint(b)
		if n <= 0 {
			return fmt.Errorf("byte %d: the field's number is cut off", at)
		}
		b = b[n:]
		p := protoField{number: key >> 3, wire: key & 7}
		switch p.wire {
		case wireVarint:
			p.value, n = binary.Uvarint(b)
		case wireFixed64:
			if n = 8; len(b) >= n {
				p.value = binary.LittleEndian.Uint64(b)
			}
		case wireFixed32:
			if n = 4; len(b) >= n {
				p.value = uint64(binary.LittleEndian.Uint32(b))
			}
		case wireBytes:
			var size uint64
			size, n = binary.Uvarint(b)
			if n > 0 && size <= uint64(len(b)-n) {
				p.bytes = b[n : n+int(size)]
				n += int(size)
			} else {
				n = -1
			}
		default:
			return fmt.Errorf("byte %d: field %d has wire type %d, which is none of protobuf's", at, p.number, p.wire)
		}
		if n <= 0 || n > len(b) {
			return fmt.Errorf("byte %d: field %d is cut off", at, p.number)
		}
		b = b[n:]
		if err := f(p); err != nil {
			return err
		}
	}
	return nil
}

// parseSPM reads a tokenizer.model.
func parseSPM(raw []byte) (*spmFile, error) {
	if len(raw) > maxTokenizerFile {
		return nil, fmt.Errorf("%d bytes are more than %d", len(raw), maxTokenizerFile)
	}
	f := &spmFile{model: spmUnigram, dummyPrefix: true, removeSpaces: true, escape: true}
	err := protoFields(raw, func(p protoField) error {
		if p.number >= 1 && p.number <= 5 && p.wire != wireBytes {
			return fmt.Errorf("field %d is no message: not a model of SentencePiece", p.number)
		}
		switch p.number {
		case 1:
			return f.piece(p.bytes)
		case 2:
			return protoFields(p.bytes, f.trainer)
		case 3:
			return protoFields(p.bytes, f.normalize)
		case 5:
			return protoFields(p.bytes, func(p protoField) error {
				if p.number == 2 {
					f.denormalizer = len(p.bytes)
				}
				return nil
			})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(f.pieces) == 0 {
		return nil, fmt.Errorf("it has no pieces: not a model of SentencePiece")
	}
	return f, nil
}

func (f *spmFile) piece(b []byte) error {
	p := spmPiece{kind: kindNormal}
	id := len(f.pieces)
	err := protoFields(b, func(x protoField) error {
		switch x.number {
		case 1:
			p.text = string(x.bytes)
		case 2:
			p.score = math.Float32frombits(uint32(x.value))
		case 3:
			if x.value < uint64(kindNormal) || x.value > uint64(kindByte) {
				return fmt.Errorf("piece %d has type %d, known are 1 to 6", id, x.value)
			}
			p.kind = tokenKind(x.value)
		}
		return nil
	})
	_, isByte := byteToken(p.text)
	switch {
	case err != nil:
		return err
	case p.text == "" || len(p.text) > maxTokenLen || !utf8.ValidString(p.text):
		return fmt.Errorf("piece %d, %q, is no text", id, clip(p.text))
	case math.IsNaN(float64(p.score)) || math.IsInf(float64(p.score), 0):
		return fmt.Errorf("piece %d, %q, has score %g", id, clip(p.text), p.score)
	case p.kind == kindByte && !isByte:
		return fmt.Errorf("piece %d stands for a byte and is %q, want <0x00> to <0xFF>", id, clip(p.text))
	case p.kind == kindUnused:
		return fmt.Errorf("piece %d, %q, is of type UNUSED, which is not supported", id, clip(p.text))
	}
	f.pieces = append(f.pieces, p)
	return nil
}

func (f *spmFile) trainer(p protoField) error {
	switch p.number {
	case 3:
		f.model = p.value
	case 24:
		f.suffix = p.value != 0
	case 35:
		f.byteFallback = p.value != 0
	}
	return nil
}

func (f *spmFile) normalize(p protoField) error {
	switch p.number {
	case 1:
		f.normalizer = string(p.bytes)
	case 2:
		f.charsmap = p.bytes
	case 3:
		f.dummyPrefix = p.value != 0
	case 4:
		f.removeSpaces = p.value != 0
	case 5:
		f.escape = p.value != 0
	}
	return nil
}

// supported refuses by name what the pipeline of a tokenizer has no part for.
func (f *spmFile) supported() error {
	switch {
	case f.model != spmUnigram && f.model != spmBPE:
		return fmt.Errorf("trainer_spec.model_type is %d, supported are 1 (unigram) and 2 (BPE)", f.model)
	case f.suffix:
		return fmt.Errorf("trainer_spec.treat_whitespace_as_suffix is not supported")
	case !f.escape:
		return fmt.Errorf("normalizer_spec.escape_whitespaces false is not supported")
	case f.denormalizer > 0:
		return fmt.Errorf("denormalizer_spec has a precompiled_charsmap of %d bytes, which is not supported", f.denormalizer)
	}
	return nil
}
