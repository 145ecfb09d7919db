package cpu

import (
	"unsafe"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// workspace is float32 memory for the time of one method. Parts taken from it
// start at multiples of 64 bytes.
type workspace struct {
	dev  *CPU
	buf  *Buf
	rest []float32
}

// workspaceSlack is the floats that rounding parts up may add.
const workspaceSlack = 16 * 8

// workspaceBytes is what workspace(n) counts.
func workspaceBytes(n int) int64 { return 4 * int64(n+workspaceSlack) }

// workspace takes n floats, counted as kernels.Scratch. Over the limit it panics
// with kernels.Failed.
func (c *CPU) workspace(n int) *workspace {
	n += workspaceSlack
	b, err := c.alloc(kernels.Scratch, dtype.Type{}, n, 4*n)
	if err != nil {
		panic(kernels.Failed{Err: err})
	}
	return &workspace{c, b, f32(b)}
}

// take cuts n floats off.
func (s *workspace) take(n int) []float32 {
	p := s.rest[:n:n]
	s.rest = s.rest[roundUp(n, 16):]
	return p
}

func (s *workspace) free() { s.dev.Free(s.buf) }

// area is what one worker needs while it packs and multiplies.
type area struct {
	panel []float32 // a packed panel
	fetch []float32 // rows on their way into a panel
	tile  []float32 // a tile that sticks out of C
	bytes []byte    // tables of the decoding packers
}

const (
	fetchStep  = 256 // k of the rows fetched at a time
	fetchSize  = panelWidth*fetchStep + 64
	tileSize   = 16 * panelWidth
	tableSize  = 256 // floats
	fixedSizes = fetchSize + tileSize + tableSize
)

// areas hands one area to each worker.
type areas struct{ free chan *area }

// areaSize is the scratch that newAreas takes.
func (g *gemm) areaSize(panel int) int {
	return par.Threads() * (roundUp(panel, 16) + fixedSizes + 64)
}

func newAreas(s *workspace, panel int) *areas {
	n := par.Threads()
	a := &areas{make(chan *area, n)}
	for range n {
		a.free <- &area{panel: s.take(panel), fetch: s.take(fetchSize), tile: s.take(tileSize), bytes: bytesOf(s.take(tableSize))}
	}
	return a
}

func (a *areas) get() *area  { return <-a.free }
func (a *areas) put(w *area) { a.free <- w }

// bytesOf views numbers as bytes.
func bytesOf[T float32 | uint16](x []T) []byte {
	var t T
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), int(unsafe.Sizeof(t))*len(x))
}
