package data

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"sort"
	"sync/atomic"

	"github.com/apache/arrow/go/v15/arrow"

	"github.com/tunekit/tunekit/data/rows"
	"github.com/tunekit/tunekit/formats"
)

// table is one Arrow file of the cache as a source: where the record batches lie
// is held, all of the samples is read from the mapped file.
type table struct {
	file    *formats.Mapped
	path    string
	info    *cacheInfo
	width   int // bytes of a token
	batches []rows.ArrowBatch
	firsts  []int // sample of each batch
	n       int   // samples

	broken atomic.Pointer[error] // of a page that could not be had
}

// The columns of a table by their place in rows.ArrowBatch: Lengths and the
// buffer of values (of a list: where each begins).
var (
	colID     = place{0, 1}
	colIDs    = place{1, 3}
	colTokens = place{2, 5} // of input_ids
	colLoss   = place{3, 7}
	colRanges = place{4, 9} // of loss
	colFile   = place{5, 11}
	colRow    = place{6, 13}
	colGroup  = place{7, 15}
	colMark   = place{8, 17}
)

type place struct{ node, buffer int }

// The column of rows, of prompts, which have no groups and no marks: where each
// begins, and their bytes.
var (
	colJSON  = place{7, 15}
	colBytes = place{7, 16}
)

// openTable maps a file of n samples and makes its index.
func openTable(path string, info *cacheInfo, n int) (*table, error) {
	file, err := formats.OpenMapped(path)
	if err != nil {
		return nil, err
	}
	return newTable(file, path, info, n)
}

// newTable makes the index of a file of n samples.
func newTable(file *formats.Mapped, path string, info *cacheInfo, n int) (*table, error) {
	t := &table{file: file, path: path, info: info, width: 4, n: n}
	if info.schema().Field(1).Type.(*arrow.ListType).Elem().ID() == arrow.UINT16 {
		t.width = 2
	}
	return t, file.Read(func(b []byte) (err error) {
		defer func() {
			if r := recover(); r != nil { // the Arrow library on a damaged schema
				err = corrupt(path, "%v", r)
			}
		}()
		if err := t.index(b, n); err != nil {
			return corrupt(path, "%v", err)
		}
		return nil
	})
}

// index finds the batches and checks the numbers of tokens.
func (t *table) index(b []byte, n int) error {
	schema, batches, err := rows.ArrowLayout(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	if !schema.Equal(t.info.schema()) {
		return fmt.Errorf("columns are %v", schema.Fields())
	}
	total := 0
	for _, batch := range batches {
		if err := t.checkBatch(batch); err != nil {
			return err
		}
		t.firsts = append(t.firsts, total)
		total += int(batch.Lengths[0])
	}
	if total != n {
		return fmt.Errorf("%d samples, dataset.json says %d", total, n)
	}
	t.batches = batches
	for k, batch := range batches {
		for i := range int(batch.Lengths[0]) {
			lo, hi, err := span(b, batch, colIDs, colTokens, i)
			if err == nil && hi-lo > int64(t.info.MaxLength) {
				err = fmt.Errorf("%d tokens, dataset.json says at most %d", hi-lo, t.info.MaxLength)
			}
			if err != nil {
				return fmt.Errorf("sample %d: %v", t.firsts[k]+i, err)
			}
		}
	}
	return nil
}

// checkBatch checks that the buffers are as long as the columns say.
func (t *table) checkBatch(batch rows.ArrowBatch) error {
	columns := []place{colID, colIDs, colTokens, colLoss, colRanges, colFile, colRow, colGroup, colMark}
	widths := []int64{8, 4, int64(t.width), 4, 4, 4, 8, 4, 4}
	switch {
	case !t.info.Groups:
		columns = columns[:len(columns)-2]
	case !t.info.Marks:
		columns = columns[:len(columns)-1]
	}
	last := columns[len(columns)-1]
	if t.info.Rows {
		last = colBytes
	}
	if len(batch.Lengths) != last.node+1 || len(batch.Buffers) != last.buffer+1 {
		return fmt.Errorf("a batch has %d columns in %d buffers", len(batch.Lengths), len(batch.Buffers))
	}
	if t.info.Rows {
		if n := batch.Lengths[colJSON.node]; n != batch.Lengths[0] || n > 0 && n >= batch.Buffers[colJSON.buffer][1]/4 {
			return fmt.Errorf("%d rows as JSON in %d bytes for %d samples", n, batch.Buffers[colJSON.buffer][1], batch.Lengths[0])
		}
	}
	for i, c := range columns {
		n := batch.Lengths[c.node]
		if c != colTokens && c != colRanges && n != batch.Lengths[0] {
			return fmt.Errorf("columns of %d and %d rows", batch.Lengths[0], n)
		}
		if (c == colIDs || c == colLoss) && n > 0 {
			n++
		}
		if size := batch.Buffers[c.buffer][1]; n > size/widths[i] {
			return fmt.Errorf("%d values of %d bytes in %d bytes", n, widths[i], size)
		}
	}
	return nil
}

func number32(b []byte, batch rows.ArrowBatch, c place, i int) uint32 {
	return binary.LittleEndian.Uint32(b[batch.Buffers[c.buffer][0]+4*int64(i):])
}

func number64(b []byte, batch rows.ArrowBatch, c place, i int) uint64 {
	return binary.LittleEndian.Uint64(b[batch.Buffers[c.buffer][0]+8*int64(i):])
}

// span is where list i lies in its elements.
func span(b []byte, batch rows.ArrowBatch, list, elements place, i int) (lo, hi int64, err error) {
	lo, hi = int64(int32(number32(b, batch, list, i))), int64(int32(number32(b, batch, list, i+1)))
	if n := batch.Lengths[elements.node]; lo < 0 || hi < lo || hi > n {
		return 0, 0, fmt.Errorf("list from %d to %d of %d", lo, hi, n)
	}
	return lo, hi, nil
}

func (t *table) count() int { return t.n }

// place is the batch of sample i, and its row there.
func (t *table) place(i int) (batch *rows.ArrowBatch, row int) {
	k := sort.SearchInts(t.firsts, i+1) - 1
	return &t.batches[k], i - t.firsts[k]
}

// look reads from the index. A page that cannot be had any more makes every later
// read an error.
func (t *table) look(f func(b []byte) error) {
	if err := t.file.Read(f); err != nil {
		t.broken.Store(&err)
	}
}

func (t *table) id(i int) (id uint64) {
	batch, row := t.place(i)
	t.look(func(b []byte) error {
		id = number64(b, *batch, colID, row)
		return nil
	})
	return id
}

func (t *table) mark(i int) (mark float32) {
	if !t.info.Marks {
		return 0
	}
	batch, row := t.place(i)
	t.look(func(b []byte) error {
		mark = math.Float32frombits(number32(b, *batch, colMark, row))
		return nil
	})
	return mark
}

func (t *table) size(i int) (tokens int, group uint32) {
	batch, row := t.place(i)
	t.look(func(b []byte) error {
		lo, hi, err := span(b, *batch, colIDs, colTokens, row)
		tokens = int(hi - lo)
		if t.info.Groups {
			group = number32(b, *batch, colGroup, row)
		}
		if err != nil {
			return corrupt(t.path, "sample %d: %v", i, err)
		}
		return nil
	})
	return tokens, group
}

func (t *table) read(i int) (e Example, err error) {
	if broken := t.broken.Load(); broken != nil {
		return e, *broken
	}
	err = t.file.Read(func(b []byte) error {
		e, err = t.sample(b, i)
		if err == nil {
			err = t.check(&e)
		}
		if err != nil {
			return corrupt(t.path, "sample %d: %v", i, err)
		}
		return nil
	})
	return e, err
}

// sample copies sample i.
func (t *table) sample(b []byte, i int) (e Example, err error) {
	at, i := t.place(i)
	batch := *at
	e.ID = number64(b, batch, colID, i)
	if t.info.Groups {
		e.Group = number32(b, batch, colGroup, i)
	}
	if t.info.Marks {
		e.Mark = math.Float32frombits(number32(b, batch, colMark, i))
	}
	file := int(int32(number32(b, batch, colFile, i)))
	if file < 0 || file >= len(t.info.Files) {
		return e, fmt.Errorf("file %d", file)
	}
	e.From = RowRef{t.info.Files[file], int64(number64(b, batch, colRow, i))}
	lo, hi, err := span(b, batch, colIDs, colTokens, i)
	if err != nil {
		return e, err
	}
	tokens := b[batch.Buffers[colTokens.buffer][0]:]
	e.IDs = make([]int32, hi-lo)
	for at := range e.IDs {
		if t.width == 2 {
			e.IDs[at] = int32(binary.LittleEndian.Uint16(tokens[2*(lo+int64(at)):]))
		} else {
			e.IDs[at] = int32(binary.LittleEndian.Uint32(tokens[4*(lo+int64(at)):]))
		}
	}
	if lo, hi, err = span(b, batch, colLoss, colRanges, i); err == nil && (hi-lo)%2 != 0 {
		err = fmt.Errorf("%d numbers of ranges", hi-lo)
	}
	for at := int(lo); at < int(hi) && err == nil; at += 2 {
		e.Loss = append(e.Loss, [2]int32{int32(number32(b, batch, colRanges, at)), int32(number32(b, batch, colRanges, at+1))})
	}
	if t.info.Rows && err == nil {
		e.Row, err = t.rowText(b, batch, i)
	}
	return e, err
}

// rowText is the row of sample i of a batch.
func (t *table) rowText(b []byte, batch rows.ArrowBatch, i int) (string, error) {
	lo, hi := int64(int32(number32(b, batch, colJSON, i))), int64(int32(number32(b, batch, colJSON, i+1)))
	if size := batch.Buffers[colBytes.buffer][1]; lo < 0 || hi < lo || hi > size {
		return "", fmt.Errorf("row from byte %d to %d of %d", lo, hi, size)
	}
	from := batch.Buffers[colBytes.buffer][0]
	return string(b[from+lo : from+hi]), nil
}

// check holds a sample to the vocabulary, its length and its hash.
func (t *table) check(e *Example) error {
	for _, id := range e.IDs {
		if id < 0 || t.info.Vocab > 0 && int(id) >= t.info.Vocab {
			return fmt.Errorf("token %d of a vocabulary of %d", id, t.info.Vocab)
		}
	}
	end := int32(-1)
	for _, r := range e.Loss {
		if r[0] <= end || r[0] >= r[1] || int(r[1]) > len(e.IDs) {
			return fmt.Errorf("range %d–%d", r[0], r[1])
		}
		end = r[1]
	}
	if e.Mark-e.Mark != 0 {
		return fmt.Errorf("mark %v", e.Mark)
	}
	if contentID(e.IDs, e.Loss) != e.ID {
		return fmt.Errorf("content does not fit its hash")
	}
	return nil
}
