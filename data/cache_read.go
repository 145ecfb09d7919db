package data

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sort"

	"github.com/apache/arrow/go/v15/arrow"

	"github.com/tunekit/tunekit/data/rows"
	"github.com/tunekit/tunekit/formats"
)

// table is one Arrow file of the cache as a source: an index in memory, the
// samples in the mapped file.
type table struct {
	file    *formats.Mapped
	path    string
	info    *cacheInfo
	width   int // bytes of a token
	batches []rows.ArrowBatch
	firsts  []int // sample of each batch

	tokens []int32  // of each sample
	ids    []uint64 // of each sample
	groups []uint32 // of each sample; nil without groups
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
)

type place struct{ node, buffer int }

// openTable maps a file of n samples and makes its index.
func openTable(path string, info *cacheInfo, n int) (*table, error) {
	file, err := formats.OpenMapped(path)
	if err != nil {
		return nil, err
	}
	t := &table{file: file, path: path, info: info, width: 4}
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

// index finds the batches and reads the numbers of tokens, IDs and groups.
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
	t.batches, t.tokens, t.ids = batches, make([]int32, 0, n), make([]uint64, 0, n)
	for _, batch := range batches {
		for i := range int(batch.Lengths[0]) {
			lo, hi, err := span(b, batch, colIDs, colTokens, i)
			if err == nil && hi-lo > int64(t.info.MaxLength) {
				err = fmt.Errorf("%d tokens, dataset.json says at most %d", hi-lo, t.info.MaxLength)
			}
			if err != nil {
				return fmt.Errorf("sample %d: %v", len(t.tokens), err)
			}
			t.tokens = append(t.tokens, int32(hi-lo))
			t.ids = append(t.ids, number64(b, batch, colID, i))
			if t.info.Groups {
				t.groups = append(t.groups, number32(b, batch, colGroup, i))
			}
		}
	}
	return nil
}

// checkBatch checks that the buffers are as long as the columns say.
func (t *table) checkBatch(batch rows.ArrowBatch) error {
	columns := []place{colID, colIDs, colTokens, colLoss, colRanges, colFile, colRow, colGroup}
	widths := []int64{8, 4, int64(t.width), 4, 4, 4, 8, 4}
	if !t.info.Groups {
		columns = columns[:len(columns)-1]
	}
	last := columns[len(columns)-1]
	if len(batch.Lengths) != last.node+1 || len(batch.Buffers) != last.buffer+1 {
		return fmt.Errorf("a batch has %d columns in %d buffers", len(batch.Lengths), len(batch.Buffers))
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

func (t *table) count() int { return len(t.tokens) }

func (t *table) id(i int) uint64 { return t.ids[i] }

func (t *table) size(i int) (tokens int, group uint32) {
	if t.groups != nil {
		group = t.groups[i]
	}
	return int(t.tokens[i]), group
}

func (t *table) read(i int) (e Example, err error) {
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
	k := sort.SearchInts(t.firsts, i+1) - 1
	batch := t.batches[k]
	_, e.Group = t.size(i)
	e.ID = t.ids[i]
	i -= t.firsts[k]
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
	return e, err
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
	if contentID(e.IDs, e.Loss) != e.ID {
		return fmt.Errorf("content does not fit its hash")
	}
	return nil
}
