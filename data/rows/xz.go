package rows

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// xzReader reads the .xz format (version 1.2.1 of its description): streams of
// blocks, each an LZMA2 sequence with a check, then an index. The container is read
// here so that the dictionary a block asks for is known before it is made.
type xzReader struct {
	r     *countedReader
	check byte          // kind, of the stream
	block *lzma.Reader2 // nil: between blocks
	sum   hash.Hash     // of the block; nil: none
	end   error         // io.EOF, or what was wrong: reading again gives the same
}

// countedReader counts the bytes of a stream: its parts end at multiples of four.
type countedReader struct {
	*bufio.Reader
	n int64
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

func (c *countedReader) ReadByte() (byte, error) {
	b, err := c.Reader.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

var (
	xzMagic  = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
	errXZ    = errors.New("not xz, or damaged")
	crc64XZ  = crc64.MakeTable(crc64.ECMA)
	xzChecks = map[byte]func() hash.Hash{
		0:  nil,
		1:  func() hash.Hash { return crc32.NewIEEE() },
		4:  func() hash.Hash { return crc64.New(crc64XZ) },
		10: sha256.New,
	}
)

func newXZ(r io.Reader) (*xzReader, error) {
	x := &xzReader{r: &countedReader{Reader: bufio.NewReaderSize(r, 1<<16)}}
	return x, x.stream()
}

// part reads n bytes.
func (x *xzReader) part(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(x.r, b); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return b, nil
}

// stream reads the header of a stream.
func (x *xzReader) stream() error {
	b, err := x.part(12)
	if err != nil {
		return err
	}
	if !bytes.Equal(b[:6], xzMagic) || b[6] != 0 || crc32.ChecksumIEEE(b[6:8]) != binary.LittleEndian.Uint32(b[8:]) {
		return errXZ
	}
	x.check = b[7]
	if _, ok := xzChecks[x.check]; !ok {
		return fmt.Errorf("xz: a check of kind %d is not known", x.check)
	}
	return nil
}

// Read is that of io.Reader.
func (x *xzReader) Read(p []byte) (n int, err error) {
	if x.end != nil {
		return 0, x.end
	}
	n, x.end = x.read(p)
	return n, x.end
}

func (x *xzReader) read(p []byte) (int, error) {
	for len(p) > 0 {
		if x.block == nil {
			if err := x.next(); err != nil {
				return 0, err
			}
			continue
		}
		n, err := x.block.Read(p)
		if x.sum != nil {
			x.sum.Write(p[:n])
		}
		if err == io.EOF {
			err = x.endBlock()
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, nil
}

// next begins the next block, of this stream or a later one; io.EOF after the last.
func (x *xzReader) next() error {
	for {
		size, err := x.r.ReadByte()
		if err != nil {
			return io.ErrUnexpectedEOF
		}
		if size != 0 {
			return x.header(size)
		}
		if err := x.index(); err != nil {
			return err
		}
		for { // zeros may stand between streams
			if b, err := x.r.Peek(1); err != nil {
				return err
			} else if b[0] != 0 {
				break
			}
			if b, err := x.part(4); err != nil || !bytes.Equal(b, make([]byte, 4)) {
				return errXZ
			}
		}
		if err := x.stream(); err != nil {
			return err
		}
	}
}

// header reads that of a block, of which size says the length.
func (x *xzReader) header(size byte) error {
	rest, err := x.part(4*int(size) + 3)
	if err != nil {
		return err
	}
	b := append([]byte{size}, rest...)
	body, sum := b[:len(b)-4], b[len(b)-4:]
	if crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(sum) {
		return errXZ
	}
	flags, body := body[1], body[2:]
	const lzma2 = 0x21 // id of the only filter that is read
	if flags&0x3f != 0 {
		return errors.New("xz: filters before LZMA2 are not read")
	}
	for _, has := range []byte{0x40, 0x80} { // the sizes of the block
		if flags&has != 0 {
			_, n := binary.Uvarint(body)
			if n <= 0 {
				return errXZ
			}
			body = body[n:]
		}
	}
	if len(body) < 3 || body[0] != lzma2 || body[1] != 1 || body[2] > 40 {
		return errors.New("xz: a filter other than LZMA2")
	}
	dict := int64(2|body[2]&1) << (body[2]/2 + 11) // bytes
	if dict > maxWindow {
		return fmt.Errorf("xz: its dictionary of %d MiB is larger than %d", dict>>20, maxWindow>>20)
	}
	if x.block, err = (lzma.Reader2Config{DictCap: int(dict)}).NewReader2(x.r); err != nil {
		return err
	}
	x.sum = nil
	if sum := xzChecks[x.check]; sum != nil {
		x.sum = sum()
	}
	return nil
}

// endBlock reads what follows the data of a block and compares its check.
func (x *xzReader) endBlock() error {
	if !x.block.EOS() {
		return io.ErrUnexpectedEOF
	}
	x.block = nil
	if _, err := x.part(int(-x.r.n & 3)); err != nil {
		return err
	}
	if x.sum == nil {
		return nil
	}
	want, err := x.part(x.sum.Size())
	if err != nil {
		return err
	}
	got := x.sum.Sum(nil)
	if x.check != 10 { // the numbers are little-endian in the file
		for i, j := 0, len(got)-1; i < j; i, j = i+1, j-1 {
			got[i], got[j] = got[j], got[i]
		}
	}
	if !bytes.Equal(got, want) {
		return errors.New("xz: the check of a block does not fit: damaged")
	}
	return nil
}

// index passes over the index and the end of a stream. What it says of the blocks
// was seen in them.
func (x *xzReader) index() error {
	records, err := binary.ReadUvarint(x.r)
	if err != nil {
		return errXZ
	}
	for range records {
		for range 2 {
			if _, err := binary.ReadUvarint(x.r); err != nil {
				return errXZ
			}
		}
	}
	end, err := x.part(int(-x.r.n&3) + 4 + 12) // padding, a checksum, the footer
	if err != nil {
		return err
	}
	if !bytes.HasSuffix(end, []byte("YZ")) {
		return errXZ
	}
	return nil
}
