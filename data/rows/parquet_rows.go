package rows

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/encoding"
	"github.com/parquet-go/parquet-go/format"

	"github.com/tunekit/tunekit/data/jinja"
)

// parquetRows assembles rows from the pages of each column, by the record
// shredding of the Dremel paper (Melnik et al. 2010, section 4).
type parquetRows struct {
	f      *os.File
	file   *parquet.File
	meta   *parquetMeta
	root   *node
	leaves []*leaf
	built  int // schema elements that have their node

	group  int   // being read
	left   int64 // rows of it still to come
	number int64
	budget budget // of the row
}

// node is one element of the schema.
type node struct {
	name     string
	repeated bool
	optional bool
	rep, def byte // levels at which this element is there
	children []*node
	first    *leaf // of the leaves below it
	leaf     *leaf // itself, when it has no children
	list     bool  // a LIST: unwraps to its elements
	bare     bool  // the repeated part of a LIST around elements
	dict     bool  // a MAP: unwraps to a dictionary
}

// leaf reads the values of one column.
type leaf struct {
	index  int
	column *parquet.Column
	pages  parquet.Pages
	plain  bool // all their values are
	page   parquet.Page
	values parquet.ValueReader
	buf    []parquet.Value
	at     int
	row    *budget
	conv   func(parquet.Value) any
}

func openParquet(path string) (Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	p, err := newParquetRows(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return p, nil
}

func newParquetRows(f *os.File) (*parquetRows, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	p, err := parquetFrom(f, info.Size())
	if err != nil {
		return nil, err
	}
	p.f = f
	return p, nil
}

// parquetFrom checks everything a file claims before rows are read.
func parquetFrom(r io.ReaderAt, size int64) (*parquetRows, error) {
	meta, err := readParquetMeta(r, size)
	if err != nil {
		return nil, err
	}
	view := &hidden{ReaderAt: r}
	for _, s := range meta.hide {
		view.hide(s)
	}
	for _, at := range meta.lz4 {
		view.patch(patch{at, []byte{2 * rawLZ4}}) // zigzag, as the protocol's
	}
	view.done()
	registerEncodings()
	file, err := parquet.OpenFile(view, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true), parquet.ReadBufferSize(1<<16))
	if err != nil {
		return nil, err
	}
	if err := meta.agrees(file.Metadata()); err != nil {
		return nil, err
	}
	rewritten := 0
	for i, g := range meta.groups {
		for j := range g.chunks {
			plain, err := checkPages(r, &g.chunks[j])
			for _, p := range plain {
				view.patch(p)
				if g.chunks[j].codec == hadoopLZ4 {
					rewritten += len(p.bytes)
				}
			}
			if err == nil && rewritten > maxRewrite {
				err = fmt.Errorf("more than %d MiB in the frames of Hadoop's retired LZ4: write it again with zstd or LZ4_RAW", maxRewrite>>20)
			}
			if err != nil {
				return nil, fmt.Errorf("row group %d, column %d: %w", i, j, err)
			}
		}
	}
	view.done()
	p := &parquetRows{file: file, meta: meta, group: -1}
	p.root = p.build(file.Root(), 0, 0)
	if len(p.leaves) != meta.leaves {
		return nil, fmt.Errorf("schema has %d columns, the footer %d", len(p.leaves), meta.leaves)
	}
	return p, p.checkFlat()
}

// agrees checks that the library read in the footer what was checked.
func (m *parquetMeta) agrees(f *format.FileMetaData) error {
	if len(f.RowGroups) != len(m.groups) {
		return errFooter
	}
	for i, g := range m.groups {
		if f.RowGroups[i].NumRows != g.rows || len(f.RowGroups[i].Columns) != len(g.chunks) {
			return errFooter
		}
		for j, c := range g.chunks {
			d := &f.RowGroups[i].Columns[j].MetaData
			codec := c.codec
			if codec == hadoopLZ4 {
				codec = rawLZ4
			}
			if int64(d.Codec) != codec || d.NumValues != c.values || d.TotalCompressedSize != c.size || d.DataPageOffset != c.data || d.DictionaryPageOffset != c.dictionary {
				return errFooter
			}
		}
	}
	return nil
}

var errFooter = errors.New("the footer can be read in two ways")

// inferredNulls says where columns that may have no nulls have levels nevertheless.
const inferredNulls = "fastparquet writes such files with has_nulls='infer': write it again with has_nulls=True"

// checkFlat checks that columns without lists have a value a row, and columns
// that must have values no nulls.
func (p *parquetRows) checkFlat() error {
	for i, g := range p.meta.groups {
		for _, l := range p.leaves {
			c := g.chunks[l.index]
			if l.column.MaxRepetitionLevel() == 0 && c.values != g.rows {
				return fmt.Errorf("row group %d: column %s has %d values in %d rows", i, strings.Join(l.column.Path(), "."), c.values, g.rows)
			}
			if l.column.MaxDefinitionLevel() == 0 && c.nulls > 0 {
				return fmt.Errorf("row group %d: column %s has %d nulls and may have none (%s)", i, strings.Join(l.column.Path(), "."), c.nulls, inferredNulls)
			}
		}
	}
	return nil
}

func (p *parquetRows) build(c *parquet.Column, rep, def byte) *node {
	n := &node{name: c.Name(), repeated: c.Repeated(), optional: c.Optional()}
	element := p.meta.schema[p.built]
	p.built++
	if n.repeated {
		rep++
	}
	if n.repeated || n.optional {
		def++
	}
	n.rep, n.def = rep, def
	if c.Leaf() {
		n.leaf = &leaf{index: len(p.leaves), column: c, conv: converter(c), row: &p.budget}
		if element.sub(10).has(15) && c.Type().Kind() == parquet.FixedLenByteArray && c.Type().Length() == 2 {
			n.leaf.conv = float16Value
		}
		n.first = n.leaf
		p.leaves = append(p.leaves, n.leaf)
		return n
	}
	for _, child := range c.Columns() {
		n.children = append(n.children, p.build(child, rep, def))
	}
	n.first = n.children[0].first
	n.annotate(element)
	return n
}

// annotate recognises lists and maps by SchemaElement's logical type (field 10:
// 2 MAP, 3 LIST) or the older converted type (field 6: 1 MAP, 2
// MAP_KEY_VALUE, 3 LIST).
func (n *node) annotate(element thrift) {
	if len(n.children) != 1 || !n.children[0].repeated {
		return
	}
	logical, converted := element.sub(10), int64(-1)
	if element.has(6) {
		converted = element.num(6)
	}
	n.list = logical.has(3) || converted == 3
	inner := n.children[0] // one that is the element itself has these names, by the format's rules
	inner.bare = n.list && len(inner.children) == 1 && inner.name != "array" && inner.name != n.name+"_tuple"
	n.dict = (logical.has(2) || converted == 1 || converted == 2) && len(n.children[0].children) == 2
}

func (p *parquetRows) row() budget { return p.budget }

func (p *parquetRows) Total() int64 { return p.meta.rows }

func (p *parquetRows) Close() error {
	p.closePages()
	if p.f == nil {
		return nil
	}
	return p.f.Close()
}

func (p *parquetRows) closePages() {
	for _, l := range p.leaves {
		l.close()
	}
}

func (p *parquetRows) Next() (*jinja.Dict, int64, error) {
	for p.left == 0 {
		if p.group+1 == len(p.meta.groups) {
			return nil, p.number, io.EOF
		}
		p.group++
		p.left = p.meta.groups[p.group].rows
		chunks := p.file.RowGroups()[p.group].ColumnChunks()
		for _, l := range p.leaves {
			l.open(chunks[l.index].Pages(), p.meta.groups[p.group].chunks[l.index].plain)
		}
		if err := p.atRow(p.left > 0); err != nil {
			return nil, p.number, fmt.Errorf("row group %d: %w", p.group, err)
		}
	}
	p.left--
	p.number++
	row, bad, err := p.assemble()
	if err != nil {
		return nil, p.number, fmt.Errorf("row %d: %w", p.number, err)
	}
	if bad != nil {
		return nil, p.number, bad
	}
	return row, p.number, nil
}

// assemble makes one row and checks that each column stands at the next one.
func (p *parquetRows) assemble() (*jinja.Dict, *RowError, error) {
	d := &jinja.Dict{}
	var bad *RowError
	p.budget = budget{}
	for _, c := range p.root.children {
		v, err := c.read()
		if err != nil {
			return nil, nil, fmt.Errorf("column %s: %w", c.name, err)
		}
		if reason := notText(v); reason != "" && bad == nil {
			bad = &RowError{Column: c.name, Reason: reason}
		}
		d.Set(c.name, v)
	}
	return d, bad, p.atRow(p.left > 0)
}

// atRow checks that each column stands at the first value of a row, or at its
// end when no more are to come.
func (p *parquetRows) atRow(more bool) error {
	for _, l := range p.leaves {
		v, ok, err := l.peek()
		if err == nil && ok != more {
			err = errors.New("has other rows than the row group")
		}
		if err == nil && ok && v.RepetitionLevel() != 0 {
			err = errLevels
		}
		if err != nil {
			return fmt.Errorf("column %s: %w", strings.Join(l.column.Path(), "."), err)
		}
	}
	return nil
}

// badText stands for a string that is no UTF-8.
type badText struct{}

// notText looks for badText in a value.
func notText(v any) string {
	switch v := v.(type) {
	case badText:
		return "text is not UTF-8"
	case []any:
		for _, e := range v {
			if r := notText(e); r != "" {
				return r
			}
		}
	case *jinja.Dict:
		for i := range v.Len() {
			if _, e := v.At(i); notText(e) != "" {
				return notText(e)
			}
		}
	}
	return ""
}

// read takes the element's values of the current row.
func (n *node) read() (any, error) {
	if !n.repeated {
		return n.single()
	}
	v, ok, err := n.first.peek()
	if err != nil || !ok {
		return nil, endOf(err)
	}
	out := []any{}
	if byte(v.DefinitionLevel()) < n.def {
		return out, n.skip()
	}
	for {
		if err := n.first.row.value(); err != nil {
			return nil, err
		}
		e, err := n.single()
		if err != nil {
			return nil, err
		}
		out = append(out, e)
		v, ok, err := n.first.peek()
		if err != nil {
			return nil, err
		}
		if !ok || byte(v.RepetitionLevel()) < n.rep {
			return out, nil
		}
		if byte(v.RepetitionLevel()) > n.rep {
			return nil, errLevels
		}
	}
}

var errLevels = errors.New("levels do not fit the schema")

func endOf(err error) error {
	if err == nil {
		return errors.New("ends early")
	}
	return err
}

// single reads the element once.
func (n *node) single() (any, error) {
	v, ok, err := n.first.peek()
	if err != nil || !ok {
		return nil, endOf(err)
	}
	if byte(v.DefinitionLevel()) < n.def {
		if !n.optional {
			return nil, errLevels
		}
		return nil, n.skip()
	}
	if n.leaf != nil {
		return n.leaf.take()
	}
	if n.bare {
		return n.children[0].read()
	}
	if n.list || n.dict {
		return n.unwrap()
	}
	d := &jinja.Dict{}
	for _, c := range n.children {
		v, err := c.read()
		if err != nil {
			return nil, err
		}
		d.Set(c.name, v)
	}
	return d, nil
}

// unwrap reads a LIST as its elements and a MAP as a dictionary.
func (n *node) unwrap() (any, error) {
	inner := n.children[0]
	v, err := inner.read()
	if err != nil {
		return nil, err
	}
	list, ok := v.([]any)
	if !ok || inner.leaf != nil {
		return v, nil
	}
	if n.dict {
		return toDict(list, inner), nil
	}
	return list, nil
}

// toDict makes a dictionary of key-value pairs whose keys are text, and leaves
// others a list of pairs.
func toDict(list []any, inner *node) any {
	d := &jinja.Dict{}
	for _, e := range list {
		pair, ok := e.(*jinja.Dict)
		if !ok {
			return list
		}
		_, k := pair.At(0)
		_, v := pair.At(1)
		key, ok := k.(string)
		if !ok {
			return list
		}
		d.Set(key, v)
	}
	return d
}

// skip takes one value from each column below an element that is not there.
func (n *node) skip() error {
	if n.leaf != nil {
		_, ok, err := n.leaf.peek()
		if err != nil || !ok {
			return endOf(err)
		}
		n.leaf.at++
		return nil
	}
	for _, c := range n.children {
		if err := c.skip(); err != nil {
			return err
		}
	}
	return nil
}

func (l *leaf) open(pages parquet.Pages, plain bool) {
	l.close()
	l.pages, l.plain = pages, plain
}

func (l *leaf) close() {
	if l.page != nil {
		parquet.Release(l.page)
	}
	if l.pages != nil {
		l.pages.Close()
	}
	l.page, l.pages, l.values, l.at, l.buf = nil, nil, nil, 0, l.buf[:0]
}

// peek returns the next value without taking it; false at the end.
func (l *leaf) peek() (parquet.Value, bool, error) {
	for l.at == len(l.buf) {
		more, err := l.fill()
		if err != nil || !more {
			return parquet.Value{}, false, err
		}
	}
	return l.buf[l.at], true, nil
}

// fill reads more values; those of an earlier page are no longer used.
func (l *leaf) fill() (bool, error) {
	if l.values == nil {
		if l.page != nil {
			parquet.Release(l.page)
		}
		page, err := l.pages.ReadPage()
		if err == io.EOF {
			l.page = nil
			return false, nil
		}
		if err != nil {
			return false, err
		}
		l.page = page
		if l.values, err = l.valuesOf(page); err != nil {
			return false, err
		}
	}
	if cap(l.buf) == 0 {
		l.buf = make([]parquet.Value, 256)
	}
	n, err := l.values.ReadValues(l.buf[:cap(l.buf)])
	l.buf, l.at = l.buf[:n], 0
	if err == io.EOF {
		l.values, err = nil, nil
	}
	if err == nil && n == 0 && l.values != nil {
		return false, io.ErrNoProgress
	}
	return true, err
}

// take takes the next value as a plain value of its own memory.
func (l *leaf) take() (any, error) {
	v := l.buf[l.at]
	l.at++
	if v.IsNull() {
		return nil, errLevels
	}
	if k := v.Kind(); k == parquet.ByteArray || k == parquet.FixedLenByteArray {
		if err := l.row.text(len(v.ByteArray())); err != nil {
			return nil, err
		}
	}
	return l.conv(v), nil
}

// valuesOf reads a page whose levels were compared with its values: where there
// are fewer than the levels say, the library would look for the next for ever.
func (l *leaf) valuesOf(page parquet.Page) (parquet.ValueReader, error) {
	defs := page.DefinitionLevels()
	data := page.Data()
	if l.column.MaxDefinitionLevel() == 0 && l.plain && page.Dictionary() == nil && data.Kind() == encoding.ByteArray {
		if err := surplus(data.ByteArray()); err != nil {
			return nil, err
		}
	}
	if l.column.MaxDefinitionLevel() == 0 || len(defs) == 0 {
		return page.Values(), nil
	}
	top := byte(l.column.MaxDefinitionLevel())
	want := bytes.Count(defs, []byte{top})
	have := want
	switch {
	case page.Dictionary() != nil:
		have = len(data.Int32())
	case data.Kind() == encoding.Boolean: // only whole bytes can be counted
		if len(data.Boolean()) < (want+7)/8 {
			return nil, errLevels
		}
		return &boolValues{column: page.Column(), reps: page.RepetitionLevels(), defs: defs, top: top, bits: data.Boolean()}, nil
	case data.Kind() == encoding.Int32:
		have = len(data.Int32())
	case data.Kind() == encoding.Int64:
		have = len(data.Int64())
	case data.Kind() == encoding.Int96:
		have = len(data.Int96())
	case data.Kind() == encoding.Float:
		have = len(data.Float())
	case data.Kind() == encoding.Double:
		have = len(data.Double())
	case data.Kind() == encoding.ByteArray:
		_, offsets := data.ByteArray()
		have = len(offsets) - 1
	case data.Kind() == encoding.FixedLenByteArray:
		raw, size := data.FixedLenByteArray()
		have = len(raw) / max(size, 1)
	}
	if have != want {
		return nil, errLevels
	}
	return page.Values(), nil
}

// surplus looks at what a page of texts, none of them absent, holds beside those that it claims, which
// what offsets could hold tells. Zeros behind them are nothing. Else levels stand in front, which a
// column that has none was not to have, and every text is that before it.
func surplus(texts []byte, offsets []uint32) error {
	n := len(offsets) - 1
	if cap(offsets) == len(offsets) || n < 1 {
		return nil
	}
	levels := append(binary.AppendUvarint(nil, uint64(n)<<1), 1) // of n that are there, as one run
	if len(texts) == int(offsets[n]) && !bytes.Equal(texts[offsets[0]:offsets[1]], levels) {
		return nil
	}
	return fmt.Errorf("a page claims %d texts and holds more (%s)", n, inferredNulls)
}

// boolValues reads the booleans of a page by its levels.
type boolValues struct {
	column     int
	reps, defs []byte // reps may be empty
	top        byte   // the level of values that are there
	bits       []byte
	at, bit    int
}

// ReadValues is that of parquet.ValueReader.
func (b *boolValues) ReadValues(out []parquet.Value) (n int, err error) {
	for n < len(out) && b.at < len(b.defs) {
		v, rep := parquet.NullValue(), 0
		if b.defs[b.at] == b.top {
			v = parquet.BooleanValue(b.bits[b.bit/8]>>(b.bit%8)&1 != 0)
			b.bit++
		}
		if len(b.reps) > 0 {
			rep = int(b.reps[b.at])
		}
		out[n] = v.Level(rep, int(b.defs[b.at]), b.column)
		b.at++
		n++
	}
	if b.at == len(b.defs) {
		err = io.EOF
	}
	return n, err
}
