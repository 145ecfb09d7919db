package cuda

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// LibraryVariable is the environment variable that decides whether large products of
// 16 bits are those of NVIDIA's cuBLASLt: 0 never, 1 always (it is an error when it
// cannot be used), auto or "" where it is there and clearly faster.
const LibraryVariable = "TUNE_CUBLAS"

// library is what large products go to beside our own kernels. Of the device's thread,
// but for what Open sets before anybody else has the device.
type library struct {
	driver.Products        // nil: there is none
	on              bool   // products go there
	why             string // or why not; on: how it was chosen
}

// libraryWorkspace is the bytes that the library works in. They are taken once, of what
// the limit allows: Info.Limit is without them, and so are plans.
const libraryWorkspace = 32 << 20

// A product goes to the library from so many multiplications on.
var leastLibrary = 1 << 27

// probes are the shapes (m, n, k, A and B transposed) by which the library and our own
// kernels are compared: a layer of a 7B model forward, and its two gradients.
var probes = []struct {
	m, n, k int
	ta, tb  bool
}{{2048, 4096, 4096, false, true}, {2048, 4096, 4096, false, false}, {4096, 4096, 2048, true, false}}

// clearlyFaster is how many times as fast as our own kernels the library must be to be
// chosen: what differs less is left as it is, so that noise has little say.
const clearlyFaster = 1.1

// measured holds, by device and library, how many times as fast the library is: it is
// measured once in a process.
var measured sync.Map

// architecture is the set of our own kernels that results depend on.
func (c *CUDA) architecture() string {
	if c.groups.on {
		return fmt.Sprintf("sm_%d%da", c.info.Major, c.info.Minor)
	}
	return fmt.Sprintf("sm_%d%d", c.info.Major, c.info.Minor)
}

// level is that, with the libraries that compute beside them.
func (c *CUDA) level() string {
	level := c.architecture()
	if c.tf32 {
		level += "+tf32"
	}
	level += c.int8.level()
	if c.lib.on {
		level += "+" + c.lib.Version()
	}
	if c.solver.on {
		level += "+" + c.solver.Version()
	}
	return level
}

// versioned is a library with its name and version, and where it lies.
type versioned interface {
	Version() string
	Path() string
}

// alternative is a library that may compute in place of our own kernels.
type alternative struct {
	variable string                    // of the environment, that decides
	prefix   string                    // of its version
	what     string                    // it computes
	install  string                    // what lacks
	open     func() (versioned, error) // what it opened is to be closed also where it is not chosen
	prove    func() error              // that it computes right
	compare  func() (float64, error)   // how many times as fast as our own kernels it is
	close    func() error
}

// choose decides about an alternative: by the environment, by what an earlier run had (its
// level), or by speed; why says by what. One that is not on is closed.
func (c *CUDA) choose(a *alternative, earlier string) (on bool, why string, err error) {
	asked := os.Getenv(a.variable)
	if !slices.Contains([]string{"", "auto", "0", "1"}, asked) {
		return false, "", fail.Usagef("device", "unset it to let the program choose", "%s=%s: known are 0, 1 and auto", a.variable, asked)
	}
	if asked == "auto" {
		asked = ""
	}
	before := strings.Split(earlier, "+")
	bound, with := asked == "" && before[0] == c.architecture(), "" // to go on as the earlier run began
	for _, name := range before[1:] {
		if strings.HasPrefix(name, a.prefix) {
			with = name
		}
	}
	switch {
	case asked == "0":
		return false, a.variable + "=0", nil
	case bound && with == "":
		return false, "this run was begun with our own kernels", nil
	}
	defer c.ResetCounters() // what it takes to choose is nobody's peak
	lib, err := a.open()
	if err == nil {
		err = a.prove()
	}
	other := func(err error) error {
		return fail.Limitf(c.name, "make that version findable (LD_LIBRARY_PATH, CUDA_HOME, VIRTUAL_ENV), or set "+a.variable+" to 0 or 1: what the run has made with it is then made again",
			"this run was begun with %s of %s, and %w", a.what, with, err)
	}
	switch lost := c.lost(); {
	case lost != nil:
		return false, "", lost
	case err != nil && asked == "1":
		return false, "", fail.Limitf(c.name, a.install+" where it is looked for, or unset "+a.variable, "%s=1, but %w", a.variable, err)
	case bound && err != nil:
		return false, "", other(err)
	case bound && with != lib.Version():
		return false, "", other(fmt.Errorf("%s is %s", lib.Path(), lib.Version()))
	case err != nil:
		return false, err.Error(), a.close()
	case asked == "1":
		return true, a.variable + "=1", nil
	case bound:
		return true, "this run was begun with it", nil
	}
	times, err := a.compare()
	switch lost := c.lost(); {
	case lost != nil:
		return false, "", lost
	case err != nil:
		why = fmt.Sprintf("%s could not be compared: %v", lib.Version(), err)
	case times > clearlyFaster:
		return true, fmt.Sprintf("%.2f times as fast as our own kernels; %s=0 turns it off", times, a.variable), nil
	default:
		why = fmt.Sprintf("%s of %s is %.2f times as fast, more than %.1f is needed; %s=1 takes it", lib.Version(), lib.Path(), times, clearlyFaster, a.variable)
	}
	return false, why, a.close()
}

// chooseLibrary decides about the library. Of a limit that is set it takes its workspace.
func (c *CUDA) chooseLibrary(earlier string) (err error) {
	c.lib.on, c.lib.why, err = c.choose(&alternative{
		variable: LibraryVariable, prefix: "cublasLt-", what: "products", install: "install cuBLASLt (nvidia-cublas of pip, or CUDA's toolkit)",
		open:  func() (versioned, error) { err := c.openLibrary(); return c.lib.Products, err },
		prove: c.proveLibrary, compare: c.compareLibrary, close: c.closeLibrary,
	}, earlier)
	return err
}

// openLibrary loads the library with its workspace.
func (c *CUDA) openLibrary() error {
	if c.limit <= libraryWorkspace {
		return fmt.Errorf("cuBLASLt works in %d bytes, and the device's limit is %d", libraryWorkspace, c.limit)
	}
	err := c.wait(func(d driver.Driver) error {
		m, ok := d.(driver.Multiplier)
		if !ok {
			return fmt.Errorf("%s has no library of products", c.info.Name)
		}
		p, err := d.Alloc(libraryWorkspace)
		if err != nil {
			return fmt.Errorf("cuBLASLt has no room to work in: %w", err)
		}
		lib, err := m.Products(p, libraryWorkspace)
		if err != nil {
			return errors.Join(err, d.Free(p))
		}
		c.lib.Products, c.workspace = lib, p
		return nil
	})
	if err == nil {
		c.limit -= libraryWorkspace
	}
	return err
}

// closeLibrary gives the library back, if there is one.
func (c *CUDA) closeLibrary() error {
	if c.lib.Products == nil {
		return nil
	}
	err := c.wait(func(d driver.Driver) error {
		return errors.Join(d.Sync(), c.lib.Close(), d.Free(c.workspace))
	})
	c.lib.Products, c.lib.on, c.workspace = nil, false, 0
	c.limit += libraryWorkspace
	if err != nil {
		return c.explain("the library of products cannot be given back", err)
	}
	return nil
}

// describeLibrary says what computes large products.
func (c *CUDA) describeLibrary() string {
	if c.lib.on {
		return fmt.Sprintf("large products by %s of %s (%s)", c.lib.Version(), c.lib.Path(), c.lib.why)
	}
	return "all products by our own kernels (" + c.lib.why + ")"
}

// forLibrary says whether a product of parts is one for the library. It depends on
// shapes alone, as addresses in a buffer do.
func (c *CUDA) forLibrary(g *gemmArgs, parts int, kind dtype.Kind) bool {
	return c.lib.on && kind != dtype.F32 && (g.c.typ == elementTypes[dtype.F32] || g.c.typ == elementTypes[kind]) && parts == 1 && g.group == 0 && g.bias.p == 0 && g.n%8 == 0 && g.c.p%16 == 0 &&
		(g.drop.key == 0 || g.drop.where != dropOut) &&
		(g.k2 == 0 || g.c.typ == elementTypes[dtype.F32]) && // or the first sum would be rounded before the second is added
		int(g.m)*int(g.n)*int(g.k) >= leastLibrary
}

// multiply queues a product of operands in 16 bits by the library; own starts our own
// kernel, for shapes that the library has nothing for.
func (c *CUDA) multiply(g *gemmArgs, p *mmaArgs, kind dtype.Kind, own task) {
	out := kind
	if g.c.typ == elementTypes[dtype.F32] {
		out = dtype.F32
	}
	list := []driver.Product{{A: p.a, B: p.b, C: g.c.p, Kind: kind, Out: out, TA: g.ta != 0, TB: g.tb != 0, M: int(g.m), N: int(g.n), K: int(g.k),
		LDA: int(p.lda), LDB: int(p.ldb), LDC: int(g.n), Alpha: g.alpha, Beta: float32(g.c.add)}}
	if g.k2 > 0 {
		second := list[0]
		second.A, second.B, second.K, second.LDA, second.LDB, second.Alpha, second.Beta = p.a2, p.b2, int(g.k2), int(p.lda2), int(p.ldb2), 1, 1
		list = append(list, second)
	}
	c.queue <- task{run: func(d driver.Driver) {
		c.attempt("a product of "+c.lib.Version()+" ("+LibraryVariable+"=0 computes without it)", func() error {
			err := c.lib.Multiply(list)
			if errors.Is(err, driver.ErrNoProduct) {
				c.start(d, own)
				return nil
			}
			return err
		})
	}}
}

// proveLibrary is proveProducts of the library.
func (c *CUDA) proveLibrary() error {
	return c.proveProducts(fmt.Sprintf("%s of %s", c.lib.Version(), c.lib.Path()), 24, 40, 56, func(p driver.Product) error {
		return c.wait(func(driver.Driver) error { return c.lib.Multiply([]driver.Product{p}) })
	})
}

// proveProducts multiplies small numbers, whose sums are exact in any order, in all orientations and types, and returns an
// error unless each is what it must be.
func (c *CUDA) proveProducts(who string, m, n, k int, multiply func(driver.Product) error) error {
	lda, ldb := roundUp(max(m, k), 8)+8, roundUp(max(n, k), 8)+16
	small := func(i int) float32 { return float32(i*i%7%3 - 1) }
	bits := func(t dtype.Kind, v float32) []byte {
		switch t {
		case dtype.BF16:
			b := block.BF16(v)
			return []byte{byte(b), byte(b >> 8)}
		case dtype.F16:
			b := block.F16(v)
			return []byte{byte(b), byte(b >> 8)}
		}
		b := math.Float32bits(v)
		return []byte{byte(b), byte(b >> 8), byte(b >> 16), byte(b >> 24)}
	}
	var bufs []kernels.Buffer
	defer func() {
		for _, b := range bufs {
			c.Free(b)
		}
	}()
	fill := func(t dtype.Kind, values []float32) (driver.Ptr, error) {
		b, err := c.Alloc(kernels.Scratch, dtype.Of(t), len(values))
		if err != nil {
			return 0, err
		}
		bufs = append(bufs, b)
		var raw []byte
		for _, v := range values {
			raw = append(raw, bits(t, v)...)
		}
		c.Upload(b, raw)
		return ptr(b), nil
	}
	a, b, before := make([]float32, max(m, k)*lda), make([]float32, max(n, k)*ldb), make([]float32, m*n)
	for i := range a {
		a[i] = small(i)
	}
	for i := range b {
		b[i] = small(i + 3)
	}
	for i := range before {
		before[i] = float32(i%11 - 5)
	}
	for _, kind := range []dtype.Kind{dtype.BF16, dtype.F16} {
		for i := range 8 {
			p := driver.Product{Kind: kind, Out: dtype.F32, TA: i&1 != 0, TB: i&2 != 0, M: m, N: n, K: k, LDA: lda, LDB: ldb, LDC: n, Alpha: 2, Beta: float32(i & 1)}
			if i&4 != 0 {
				p.Out = kind
			}
			var err error
			if p.A, err = fill(kind, a); err != nil {
				return err
			}
			if p.B, err = fill(kind, b); err != nil {
				return err
			}
			if p.C, err = fill(p.Out, before); err != nil {
				return err
			}
			if err := multiply(p); err != nil {
				return err
			}
			size := p.Out.Info().Bytes
			got := make([]byte, m*n*size)
			if err := c.Download(got, bufs[len(bufs)-1]); err != nil {
				return err
			}
			ra, ca, rb, cb := lda, 1, ldb, 1 // from row to row, and along it
			if p.TA {
				ra, ca = 1, lda
			}
			if p.TB {
				rb, cb = 1, ldb
			}
			for j := range m * n {
				row, col, sum := j/n, j%n, float32(0)
				for x := range k {
					sum += a[row*ra+x*ca] * b[x*rb+col*cb]
				}
				want := bits(p.Out, p.Alpha*sum+p.Beta*before[j])
				if have := got[j*size : (j+1)*size]; string(have) != string(want) {
					return fmt.Errorf("%s computes wrong: element %d,%d of %v has the bytes %x, not %x", who, row, col, &p, have, want)
				}
			}
			for range 3 {
				c.Free(bufs[len(bufs)-1])
				bufs = bufs[:len(bufs)-1]
			}
		}
	}
	return nil
}

// compare is how many times as fast as other what are, by the times of products with either: use takes one (0: other).
func (c *CUDA) compare(what string, use func(i int)) (float64, error) {
	return c.measure(what, func() (times [2]float64, err error) {
		for _, s := range probes {
			best, err := c.race(s.m, s.n, s.k, s.ta, s.tb, use)
			if err != nil {
				return times, err
			}
			times[0] += best[0]
			times[1] += best[1]
		}
		return times, nil
	})
}

// measure is the first of two times by the second, once in a process.
func (c *CUDA) measure(what string, race func() ([2]float64, error)) (float64, error) {
	key := c.info.Name + "\n" + what
	if known, ok := measured.Load(key); ok {
		return known.(float64), nil
	}
	times, err := race()
	if err != nil {
		return 0, err
	}
	if times[0] <= 0 || times[1] <= 0 {
		return 0, errors.New("the device has no clock")
	}
	ratio := times[0] / times[1]
	measured.Store(key, ratio)
	return ratio, nil
}

// compareLibrary is how many times as fast as our own kernels the library is.
func (c *CUDA) compareLibrary() (float64, error) {
	defer func(on bool) { c.lib.on = on }(c.lib.on)
	own := c.level()
	return c.compare(own+"\n"+c.lib.Version(), func(i int) { c.lib.on = i == 1 })
}

// race is the least times of a product with either, in turns.
func (c *CUDA) race(m, n, k int, ta, tb bool, use func(i int)) (best [2]float64, err error) {
	var bufs [3]kernels.Buffer
	defer func() {
		for _, b := range bufs {
			c.Free(b)
		}
	}()
	for i, s := range []struct {
		kind dtype.Kind
		n    int
	}{{dtype.BF16, m * k}, {dtype.BF16, k * n}, {dtype.F32, m * n}} {
		b, err := c.Alloc(kernels.Scratch, dtype.Of(s.kind), s.n)
		if err != nil {
			return best, err
		}
		c.Fill(b, 0.5)
		bufs[i] = b
	}
	return c.turns(use, func() {
		c.Gemm(kernels.To(bufs[2]), &kernels.GemmArgs{A: bufs[0], B: bufs[1], M: m, N: n, K: k, TA: ta, TB: tb, Alpha: 1})
	})
}

// turns is the least times of run with either of two that use takes.
func (c *CUDA) turns(use func(i int), run func()) (best [2]float64, err error) {
	const turns = 6 // the first loads the code
	for turn := range turns {
		for i := range best {
			use(i)
			ms, err := c.elapsed(1, run)
			if err != nil {
				return best, err
			}
			if turn == 1 || turn > 1 && ms < best[i] {
				best[i] = ms
			}
		}
	}
	return best, nil
}

// elapsed is the milliseconds that n times run take, in the order of the stream.
func (c *CUDA) elapsed(n int, run func()) (float64, error) {
	var a, b driver.Event
	if err := c.wait(func(d driver.Driver) (err error) { a, err = d.Record(); return err }); err != nil {
		return 0, err
	}
	err := c.Run(func() error {
		for range n {
			run()
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	var ms float32
	err = c.wait(func(d driver.Driver) (err error) {
		if b, err = d.Record(); err != nil {
			return err
		}
		if ms, err = d.Elapsed(a, b); err != nil {
			return err
		}
		if err = d.Release(a); err != nil {
			return err
		}
		return d.Release(b)
	})
	return float64(ms), err
}
