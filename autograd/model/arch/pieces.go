package arch

import (
	"fmt"
	"math"
	"slices"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Piece is a tensor of a file: some rows of a tensor in memory, changed in ways
// that can be undone. From memory to file, rows are chosen, put in pairs and
// transposed, columns are put in another order, and values are changed. Of a
// vector the elements are the rows.
type Piece struct {
	Name string
	Rows Rows
	Then []Rows // further rows, behind those of Rows
	// Columns are runs of columns in the order of the file, all of them; nil: as
	// in memory.
	Columns []Rows
	// Pairs is the number of equal parts whose halves alternate in the file:
	// rows i and i+n/2 of a part of n rows are neighbours there. GGUF stores the
	// heads of rotated queries and keys so, gpt-oss the gate and up rows of an
	// expert. 0: none.
	Pairs int
	// Parts are the numbers of rows of the parts that every run of rows as long as
	// their sum is made of in memory. The file holds the first parts of all runs,
	// then the second, and so on: a fused projection by heads, which GGUF has by
	// kind. nil: none; it excludes Rows and Pairs.
	Parts []int
	// Transpose: every run of rows [Count, cols] is stored as [cols, Count].
	Transpose bool
	AddOne    bool // the file holds 1 more (norms of Gemma in GGUF)
	NegExp    bool // the file holds -exp of the value (rates of decay in GGUF)
	// Factors are of the rows in order, which the file holds multiplied; nil: none.
	Factors []Factor
	// Slab is set where a GGUF has several matrices of one shape in one tensor, of
	// which this is one.
	Slab Slab
	// Shape in the file; nil: [Count, cols], with the number of runs in front
	// where there are several.
	Shape []int64
}

// Slab is the place of a matrix among those that share a tensor of a file, by their
// names in memory, in order.
type Slab struct {
	At  int
	All []string
}

// of is its part of the tensor's bytes.
func (s Slab) of(data []byte) []byte {
	if len(s.All) == 0 {
		return data
	}
	n := len(data) / len(s.All)
	return data[s.At*n : (s.At+1)*n]
}

// last reports whether no other matrix of the tensor follows.
func (s Slab) last() bool { return s.At >= len(s.All)-1 }

// Factor is one after another of By on each of Rows rows.
type Factor struct {
	Rows int
	By   []float32
}

// factors are by on n rows; nothing where none of them changes a value.
func factors(n int, by ...float32) []Factor {
	by = slices.DeleteFunc(by, func(f float32) bool { return f == 0 || f == 1 })
	return []Factor{{n, by}}
}

// Rows are Times runs of Count rows of a tensor in memory, one run every Step
// rows from Start on. The zero value stands for all rows.
type Rows struct{ Start, Count, Step, Times int }

// of is r with the zero value made explicit, for a tensor of n rows.
func (r Rows) of(n int) Rows {
	if r == (Rows{}) {
		return Rows{0, n, n, 1}
	}
	r.Times = max(r.Times, 1)
	return r
}

// storedAs are the pieces of r's tensor as a file holds them in type t: what is quantized is
// stored as the matrices of linear maps, [out, in], also where the plain weight is
// transposed. A stack that is one matrix in plain files keeps that form.
func storedAs(r *Rule, pieces []Piece, t dtype.Type) []Piece {
	turned := func(p Piece) bool { return p.Transpose && (p.Rows == (Rows{}) || p.Shape == nil) }
	if !t.Quantized() || !slices.ContainsFunc(pieces, turned) {
		return pieces
	}
	pieces = slices.Clone(pieces)
	for i := range pieces {
		p := &pieces[i]
		if !turned(*p) {
			continue
		}
		p.Transpose = false
		p.Shape = p.fileShape(r)
		if rows, _ := r.units(); p.Rows == (Rows{0, p.Rows.Count, p.Rows.Count, p.Rows.Times}) && p.Rows.len() == rows {
			p.Rows = Rows{} // all, in their order
		}
	}
	return pieces
}

// whole reports whether the file holds the tensor as it lies in memory.
func (p *Piece) whole() bool {
	return p.alone() && p.Slab.All == nil
}

// alone is whole for the matrix itself.
func (p *Piece) alone() bool {
	return p.Rows == (Rows{}) && p.Pairs == 0 && p.Parts == nil && !p.changesValues()
}

// changesValues reports whether more than the order of rows differs, which only
// plain types allow.
func (p *Piece) changesValues() bool {
	return p.Transpose || p.AddOne || p.NegExp || p.Columns != nil || p.Factors != nil
}

// size is the number of rows of the tensor that the piece holds.
func (p *Piece) size(rows int) int {
	r := p.Rows.of(rows)
	n := r.Count * r.Times
	for _, r := range p.Then {
		n += r.len()
	}
	return n
}

// len is the number of rows of r.
func (r Rows) len() int { return r.Count * max(r.Times, 1) }

// at is where row i of r lies in its tensor.
func (r Rows) at(i int) int { return r.Start + i/r.Count*r.Step + i%r.Count }

// fileShape is the piece's shape in its file.
func (p *Piece) fileShape(r *Rule) []int64 {
	if p.Shape != nil {
		return p.Shape
	}
	rows, cols := r.units()
	run := p.Rows.of(rows)
	shape := []int64{int64(run.Count), int64(cols)}
	if p.Then != nil {
		run.Times = 1
		shape[0] = int64(p.size(rows))
	}
	switch {
	case r.Vector:
		shape = shape[:1]
	case p.Transpose:
		shape[0], shape[1] = shape[1], shape[0]
	}
	if run.Times > 1 {
		shape = append([]int64{int64(run.Times)}, shape...)
	}
	if n := len(p.Slab.All); n > 0 {
		shape = append([]int64{int64(n)}, shape...)
	}
	return shape
}

// row is where row i of the piece, in the order of the file and not transposed,
// lies in a tensor of n rows.
func (p *Piece) row(i, n int) int {
	if p.Parts != nil {
		return p.dealt(i, n)
	}
	r := p.Rows.of(n)
	if p.Pairs > 0 {
		part := r.Count * r.Times / p.Pairs
		first := i / part * part
		i -= first
		i = first + i/2 + i%2*(part/2)
	}
	if p.Then == nil || i < r.len() {
		return r.at(i)
	}
	i -= r.len()
	for _, r := range p.Then {
		if i < r.len() {
			return r.at(i)
		}
		i -= r.len()
	}
	panic(fmt.Sprintf("arch: %s has no row %d more", p.Name, i))
}

// order puts what belongs to the columns of a tensor, such as their importance,
// into the order that the file has them in. Without another order it is x itself.
func (p *Piece) order(x []float32) []float32 {
	if p.Columns == nil {
		return x
	}
	out := make([]float32, 0, len(x))
	for _, r := range p.Columns {
		for i := range r.len() {
			out = append(out, x[r.at(i)])
		}
	}
	return out
}

// columns moves the columns of rows of cols values between the orders of memory
// and file.
func (p *Piece) columns(x []float32, cols int, back bool) {
	if p.Columns == nil {
		return
	}
	at := make([]float32, cols) // where each column of the file is in memory
	for i := range at {
		at[i] = float32(i)
	}
	at = p.order(at)
	row := make([]float32, cols)
	for from := 0; from < len(x); from += cols {
		copy(row, x[from:from+cols])
		for f, m := range at {
			if back {
				x[from+int(m)] = row[f]
			} else {
				x[from+f] = row[int(m)]
			}
		}
	}
}

// dealt is row for Parts.
func (p *Piece) dealt(i, n int) int {
	run := 0
	for _, size := range p.Parts {
		run += size
	}
	runs, first := n/run, 0
	for _, size := range p.Parts {
		if i < runs*size {
			return i/size*run + first + i%size
		}
		i -= runs * size
		first += size
	}
	panic("arch: a row behind the last part")
}

// rowBytes is the length of one row in each plane of a type; ok says that rows
// can be taken out and put together, which is not so where blocks run over
// several rows or rows share what decodes them.
func rowBytes(t dtype.Type, cols int) (n [dtype.NumPlanes]int, ok bool) {
	const many = 1 << 20 // so many that a started block or a shared table shows
	if !dtype.Fits(t, cols) {
		return n, false
	}
	one, all := dtype.Planes(t, 1, cols), dtype.Planes(t, many, cols)
	for i := range one {
		n[i] = one[i].Len
		if all[i].Len != many*one[i].Len {
			return n, false
		}
	}
	return n, true
}

// Movable reports whether rows of so many columns can be put in another order as they are stored.
func Movable(t dtype.Type, cols int) bool {
	_, ok := rowBytes(t, cols)
	return ok
}

// canStore reports why the pieces of r cannot be stored as t.
func canStore(r *Rule, pieces []Piece, t dtype.Type) error {
	_, cols := r.units()
	_, cut := rowBytes(t, cols)
	for i := range pieces {
		p := &pieces[i]
		switch {
		case p.changesValues() && t.Quantized():
			return fmt.Errorf("%s is stored transposed, shifted or with its columns in another order, which %v does not allow; leave it unquantized", p.Name, t)
		case !p.whole() && !cut:
			return fmt.Errorf("%s holds rows of %s in another place or order: rows of %v cannot be reordered; choose another type", p.Name, r.Name, t)
		}
	}
	return nil
}

// memoryType is the type a tensor has in memory whose pieces have types: theirs,
// or F32 where they differ or cannot be put together as they are.
func memoryType(r *Rule, pieces []Piece, types []dtype.Type) dtype.Type {
	if slices.ContainsFunc(types, func(t dtype.Type) bool { return t != types[0] }) || canStore(r, pieces, types[0]) != nil {
		return dtype.Of(dtype.F32)
	}
	return types[0]
}

// asUnits is m as pieces count: a vector as a column.
func asUnits(r *Rule, m block.Raw) block.Raw {
	if r.Vector {
		m.Rows, m.Cols = m.Cols, 1
	}
	return m
}

// gather puts a piece as it lies in its file into its place in mem.
func (p *Piece) gather(r *Rule, mem, file block.Raw) error {
	rows, cols := r.units()
	file.Rows, file.Cols = p.size(rows), cols
	if p.changesValues() || file.Type != mem.Type {
		x := make([]float32, file.Rows*file.Cols)
		if run := p.Rows.of(rows); p.Transpose {
			file.Rows, file.Cols = cols*run.Times, run.Count
		}
		if err := decodeStored(x, file); err != nil {
			return err
		}
		if p.Transpose {
			x = transposed(x, p.Rows.of(rows), cols, true)
		}
		p.columns(x, cols, true)
		p.multiply(x, cols, true)
		if p.AddOne {
			addAll(x, -1)
		}
		if err := p.logs(x); err != nil {
			return err
		}
		var err error
		if file, err = encodeAs(mem.Type, p.size(rows), cols, x); err != nil {
			return err
		}
	}
	return moveRows(asUnits(r, mem), file, p, false)
}

// scatter takes a piece, as its file holds it, out of mem.
func (p *Piece) scatter(r *Rule, mem block.Raw) (block.Raw, error) {
	if p.alone() {
		return mem, nil
	}
	rows, cols := r.units()
	file := block.New(mem.Type, p.size(rows), cols)
	if err := moveRows(asUnits(r, mem), file, p, true); err != nil || !p.changesValues() {
		return file, err
	}
	x := make([]float32, file.Rows*cols)
	if err := decodeStored(x, file); err != nil {
		return file, err
	}
	if p.AddOne {
		addAll(x, 1)
	}
	p.multiply(x, cols, false)
	if p.NegExp {
		for i, v := range x {
			x[i] = float32(-math.Exp(float64(v)))
		}
	}
	p.columns(x, cols, false)
	if p.Transpose {
		x = transposed(x, p.Rows.of(rows), cols, false)
	}
	return encodeAs(mem.Type, file.Rows, cols, x)
}

// moveRows copies the rows of a piece between its place in mem and file, which
// have one type.
func moveRows(mem, file block.Raw, p *Piece, out bool) error {
	size, ok := rowBytes(mem.Type, mem.Cols)
	if !ok {
		return fmt.Errorf("%s: rows of %v cannot be reordered", p.Name, mem.Type)
	}
	for plane, n := range size {
		if n == 0 {
			continue
		}
		m, f := mem.Plane(plane), file.Plane(plane)
		if out {
			for i := range file.Rows {
				copy(f[i*n:(i+1)*n], m[p.row(i, mem.Rows)*n:])
			}
			continue
		}
		for i := range file.Rows {
			at := p.row(i, mem.Rows) * n
			copy(m[at:at+n], f[i*n:])
		}
	}
	return nil
}

// transposed swaps rows and columns of each run: from the file's [cols, count]
// to [count, cols] where back is set, else the other way.
func transposed(x []float32, r Rows, cols int, back bool) []float32 {
	out := make([]float32, len(x))
	for t := range r.Times {
		run := t * r.Count * cols
		for i := range r.Count {
			for c := range cols {
				mem, file := run+i*cols+c, run+c*r.Count+i
				if back {
					out[mem] = x[file]
				} else {
					out[file] = x[mem]
				}
			}
		}
	}
	return out
}

// multiply applies the factors to rows of cols values, each rounded; back: divides.
func (p *Piece) multiply(x []float32, cols int, back bool) {
	for _, f := range p.Factors {
		rows := x[:f.Rows*cols]
		x = x[f.Rows*cols:]
		for _, by := range f.By {
			if back {
				by = 1 / by
			}
			for i := range rows {
				rows[i] *= by
			}
		}
	}
}

// logs undoes NegExp.
func (p *Piece) logs(x []float32) error {
	for i, v := range x {
		if !p.NegExp {
			break
		}
		if !(v < 0) {
			return fmt.Errorf("%s: value %d is %g, a rate of decay is below 0", p.Name, i, v)
		}
		x[i] = float32(math.Log(-float64(v)))
	}
	return nil
}

func addAll(x []float32, d float32) {
	for i := range x {
		x[i] += d
	}
}

func decodeStored(x []float32, m block.Raw) error {
	if err := m.Check(); err != nil {
		return err
	}
	block.DecodeAll(x, m)
	return nil
}

func encodeAs(t dtype.Type, rows, cols int, x []float32) (block.Raw, error) {
	m := block.New(t, rows, cols)
	return m, block.Encode(m, x, nil)
}

// checkShape reports that a file's tensor is not of the piece's shape.
func (p *Piece) checkShape(r *Rule, t *formats.Tensor) error {
	want, short := p.fileShape(r), p.fileShape(r)
	for len(short) > len(t.Shape) && short[0] == 1 { // as ggml writes it again
		short = short[1:]
	}
	if !slices.Equal(t.Shape, short) {
		return fmt.Errorf("tensor %s is %v, want %v", t.Name, t.Shape, want)
	}
	return nil
}
