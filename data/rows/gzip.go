package rows

import (
	"bufio"
	"compress/gzip"
	"io"
)

// gzipReader reads the members of a gzip file (RFC 1952) one after the other. Zeros
// behind a member, with which blocks are filled up, are passed over, as Python's library
// does.
type gzipReader struct {
	r   *bufio.Reader
	z   *gzip.Reader
	end error // io.EOF, or what was wrong: reading again gives the same
}

func newGzip(r io.Reader) (*gzipReader, error) {
	b := bufio.NewReaderSize(r, 1<<16)
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return &gzipReader{r: b, z: z}, nil
}

// Read is that of io.Reader.
func (g *gzipReader) Read(p []byte) (int, error) {
	for g.end == nil {
		n, err := g.z.Read(p)
		if err == io.EOF {
			err = g.next()
		}
		g.end = err
		if n > 0 || len(p) == 0 {
			return n, g.end
		}
	}
	return 0, g.end
}

// next begins the next member; io.EOF after the last.
func (g *gzipReader) next() error {
	for {
		b, err := g.r.ReadByte()
		if err != nil {
			return err
		}
		if b != 0 {
			break
		}
	}
	if err := g.r.UnreadByte(); err != nil {
		return err
	}
	err := g.z.Reset(g.r)
	g.z.Multistream(false)
	return err
}
