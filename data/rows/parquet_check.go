package rows

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
)

// Limits on what a Parquet file may claim.
const (
	maxFooter      = 64 << 20
	maxSchema      = 10_000    // schema elements
	maxSchemaDepth = 64        // nested groups
	maxPage        = 256 << 20 // bytes of a page, compressed or not
	freePage       = 16 << 20  // up to here any compression ratio is believed
	maxRatio       = 200
	maxPageValues  = 1 << 24
	maxPageHeader  = 1 << 20
)

// parquetMeta is what the checks need of a footer, all of it checked.
type parquetMeta struct {
	rows   int64
	schema []thrift // flattened, depth first
	leaves int
	groups []parquetGroup
	hide   []byteRange // of the file
	lz4    []int64     // where a column says that its codec is hadoopLZ4
}

type parquetGroup struct {
	rows   int64
	chunks []parquetChunk
}

// parquetChunk is where a column of a row group lies.
type parquetChunk struct {
	start, size int64
	codec       int64
	values      int64
	nulls       int64 // as its statistics claim; 0 without them
	plain       bool  // all values are PLAIN, in data pages or a dictionary

	data, dictionary int64 // where the pages begin, as the footer says
}

// readParquetMeta checks magic, footer and schema of a file of size bytes.
func readParquetMeta(r io.ReaderAt, size int64) (*parquetMeta, error) {
	if size < 12 {
		return nil, fmt.Errorf("%d bytes are no Parquet file", size)
	}
	var head, tail [8]byte
	if _, err := r.ReadAt(head[:4], 0); err != nil {
		return nil, err
	}
	if _, err := r.ReadAt(tail[:], size-8); err != nil {
		return nil, err
	}
	if string(tail[4:]) == "PARE" || string(head[:4]) == "PARE" {
		return nil, errors.New("encrypted Parquet is not supported")
	}
	if string(head[:4]) != "PAR1" || string(tail[4:]) != "PAR1" {
		return nil, errors.New("no PAR1 at both ends: not Parquet, or cut off")
	}
	n := int64(binary.LittleEndian.Uint32(tail[:4]))
	if n == 0 || n > size-12 || n > maxFooter {
		return nil, fmt.Errorf("footer claims %d bytes of %d", n, size)
	}
	footer := make([]byte, n)
	if _, err := r.ReadAt(footer, size-8-n); err != nil {
		return nil, err
	}
	var lz4 []int64
	t := &thriftReader{r: bytes.NewReader(footer), left: n, nodes: 4 << 20}
	t.isOdd = func(depth int, id int64, v any) bool {
		if depth == 3 && id == 4 && v == int64(hadoopLZ4) { // of ColumnMetaData
			lz4 = append(lz4, size-8-n+t.read-1)
		}
		s, ok := v.(thrift)
		return ok && depth == 3 && id == 12 && oddStatistics(s) || // of ColumnMetaData
			ok && depth == 1 && id == 10 && s.has(11) // the LogicalType of a SchemaElement: UNKNOWN, a column of nulls only
	}
	meta, err := t.structure(0)
	if err != nil {
		return nil, fmt.Errorf("footer: %w", err)
	}
	if meta.has(8) {
		return nil, errors.New("encrypted Parquet is not supported")
	}
	out, err := checkFooter(meta, size-8-n)
	if err == nil {
		out.hide, out.lz4 = moved(t.odd, size-8-n), lz4
	}
	return out, err
}

// oddStatistics tells whether a Statistics has one of is_max_value_exact and
// is_min_value_exact without the other.
func oddStatistics(s thrift) bool { return s.has(7) != s.has(8) }

// moved are ranges that were counted from the place at.
func moved(s []byteRange, at int64) []byteRange {
	for i := range s {
		s[i].from, s[i].to = s[i].from+at, s[i].to+at
	}
	return s
}

// checkFooter checks FileMetaData (fields: 2 schema, 3 num_rows, 4 row_groups).
func checkFooter(meta thrift, end int64) (*parquetMeta, error) {
	if !meta.has(2) || !meta.has(3) || !meta.has(4) {
		return nil, errors.New("footer lacks its schema, rows or row groups")
	}
	leaves, err := countLeaves(meta.list(2))
	if err != nil {
		return nil, err
	}
	out := &parquetMeta{rows: meta.num(3), leaves: leaves}
	for _, e := range meta.list(2) {
		out.schema = append(out.schema, e.(thrift))
	}
	sum := int64(0)
	for i, g := range meta.list(4) {
		group, ok := g.(thrift)
		if !ok {
			return nil, fmt.Errorf("row group %d is no structure", i)
		}
		checked, err := checkGroup(group, leaves, end)
		if err != nil {
			return nil, fmt.Errorf("row group %d: %w", i, err)
		}
		out.groups = append(out.groups, checked)
		if checked.rows > math.MaxInt64-sum {
			return nil, fmt.Errorf("row group %d claims %d rows", i, checked.rows)
		}
		sum += checked.rows
	}
	if out.rows == 0 { // an early parquet-rs wrote no count
		out.rows = sum
	}
	if sum != out.rows {
		return nil, fmt.Errorf("footer claims %d rows, its row groups %d", out.rows, sum)
	}
	return out, checkChunks(out.groups)
}

// checkChunks finds columns that change their codec between groups, which the
// library does not expect, and columns that overlap.
func checkChunks(groups []parquetGroup) error {
	var all []parquetChunk
	for i, g := range groups {
		for j, c := range g.chunks {
			if c.codec != groups[0].chunks[j].codec {
				return fmt.Errorf("row group %d: column %d changes its codec", i, j)
			}
			if c.values > 0 {
				all = append(all, c)
			}
		}
	}
	slices.SortFunc(all, func(a, b parquetChunk) int { return cmp.Compare(a.start, b.start) })
	for i := 1; i < len(all); i++ {
		if prev := all[i-1]; prev.start+prev.size > all[i].start {
			return fmt.Errorf("columns overlap at byte %d", all[i].start)
		}
	}
	return nil
}

// countLeaves walks the flattened schema tree (field 5: num_children).
func countLeaves(schema []any) (int, error) {
	if len(schema) == 0 || len(schema) > maxSchema {
		return 0, fmt.Errorf("schema has %d elements (at most %d)", len(schema), maxSchema)
	}
	var open []int64 // children still to come, by depth
	leaves := 0
	for i, e := range schema {
		el, ok := e.(thrift)
		if !ok {
			return 0, fmt.Errorf("schema element %d is no structure", i)
		}
		children := el.num(5)
		if children < 0 || children > int64(len(schema)) {
			return 0, fmt.Errorf("schema element %q claims %d children", el.text(4), children)
		}
		if i > 0 {
			for len(open) > 0 && open[len(open)-1] == 0 {
				open = open[:len(open)-1]
			}
			if len(open) == 0 {
				return 0, fmt.Errorf("schema element %d (%q) belongs to no group", i, el.text(4))
			}
			open[len(open)-1]--
		}
		if children > 0 {
			open = append(open, children)
		} else if i > 0 {
			leaves++
		}
		if len(open) > maxSchemaDepth {
			return 0, fmt.Errorf("schema is nested deeper than %d", maxSchemaDepth)
		}
	}
	for _, n := range open {
		if n != 0 {
			return 0, errors.New("schema ends before all its groups are complete")
		}
	}
	return leaves, nil
}

// checkGroup checks RowGroup (1 columns, 3 num_rows) and its ColumnChunks
// (1 file_path, 3 meta_data: 4 codec, 5 num_values, 6 uncompressed, 7
// compressed size, 9 data page, 11 dictionary page, 12 statistics: 3 nulls).
func checkGroup(g thrift, leaves int, end int64) (parquetGroup, error) {
	out := parquetGroup{rows: g.num(3)}
	if out.rows < 0 {
		return out, fmt.Errorf("claims %d rows", out.rows)
	}
	columns := g.list(1)
	if len(columns) != leaves {
		return out, fmt.Errorf("has %d columns, the schema %d", len(columns), leaves)
	}
	for i, c := range columns {
		chunk, _ := c.(thrift)
		m := chunk.sub(3)
		if m == nil {
			return out, fmt.Errorf("column %d has no metadata (encrypted?)", i)
		}
		if chunk.has(1) {
			return out, fmt.Errorf("column %d lies in another file (%q)", i, chunk.text(1))
		}
		p := parquetChunk{start: m.num(9), size: m.num(7), codec: m.num(4), values: m.num(5), data: m.num(9), dictionary: m.num(11)}
		if d := m.num(11); d > 0 && d < p.start {
			p.start = d
		}
		if p.size < 0 || p.values < 0 || p.values > 0 && (p.start < 4 || p.start > end || p.size > end-p.start) {
			return out, fmt.Errorf("column %d claims %d values in bytes %d to %d of %d", i, p.values, p.start, p.start+p.size, end)
		}
		if p.nulls = m.sub(12).num(3); p.nulls < 0 || p.nulls > p.values {
			return out, fmt.Errorf("column %d claims %d nulls in %d values", i, p.nulls, p.values)
		}
		out.chunks = append(out.chunks, p)
	}
	return out, nil
}

// checkPages walks the page headers of a chunk and holds their sizes and
// counts to the limits; compressed pages that do not say what they hold are
// decompressed once, into nothing, since a library would go on for as long as a
// bomb gives. It returns what the library must read in place of the headers, and
// notes in c whether all its values are PLAIN.
func checkPages(r io.ReaderAt, c *parquetChunk) (plain []patch, err error) {
	br := bufio.NewReaderSize(io.NewSectionReader(r, c.start, c.size), 1<<16)
	seen, at := int64(0), c.start
	c.plain = true
	for seen < c.values {
		t := &thriftReader{r: br, left: maxPageHeader, nodes: 1 << 16}
		h, err := t.structure(0)
		if err != nil {
			return nil, fmt.Errorf("page header: %w", err)
		}
		values, err := checkPageHeader(h)
		if err != nil {
			return nil, err
		}
		seen += values
		c.plain = c.plain && plainValues(h)
		next := at + t.read + h.num(3)
		var head []byte
		if c.codec == hadoopLZ4 {
			head, err = lz4Page(br, h, t.read)
		} else if err = checkPageData(br, h, c.codec); err == nil {
			ownEncoding(h)
			head, err = plainHeader(h, t.read)
		}
		if errors.Is(err, errThrift) {
			err = fmt.Errorf("page header: %w", err)
		}
		if err != nil {
			return nil, err
		}
		plain = append(plain, patch{at, head})
		at = next
	}
	if seen != c.values {
		return nil, fmt.Errorf("pages hold %d values, the column claims %d", seen, c.values)
	}
	return plain, nil
}

// checkPageHeader checks PageHeader (1 type, 2 uncompressed, 3 compressed
// size, 5 data page, 7 dictionary page, 8 data page v2) and returns the values
// of a data page.
func checkPageHeader(h thrift) (int64, error) {
	raw, packed := h.num(2), h.num(3)
	if raw < 0 || packed < 0 || raw > maxPage || packed > maxPage {
		return 0, fmt.Errorf("page of %d bytes, %d compressed (at most %d)", raw, packed, maxPage)
	}
	if raw > freePage && raw/maxRatio > packed {
		return 0, fmt.Errorf("page grows from %d to %d bytes", packed, raw)
	}
	id, data := int16(0), int64(0)
	switch h.num(1) {
	case 0:
		id = 5
	case 2:
		id = 7
	case 3:
		id = 8
	default:
		return 0, nil // an index page: skipped by its size
	}
	head := h.sub(id)
	if head == nil {
		return 0, fmt.Errorf("page of type %d without its header", h.num(1))
	}
	n := head.num(1)
	if n < 0 || n > maxPageValues {
		return 0, fmt.Errorf("page claims %d values (at most %d)", n, maxPageValues)
	}
	if id != 7 {
		data = n
	}
	if id == 8 {
		nulls, rows, def, rep := head.num(2), head.num(3), head.num(5), head.num(6)
		if nulls < 0 || nulls > n || rows < 0 || rows > n || def < 0 || rep < 0 || def+rep > packed || def+rep > raw {
			return 0, fmt.Errorf("page claims %d nulls and %d rows in %d values, %d + %d bytes of levels in %d", nulls, rows, n, def, rep, packed)
		}
	}
	return data, nil
}

// checkPageData reads one page's bytes and finds what they decompress to.
func checkPageData(br *bufio.Reader, h thrift, codec int64) error {
	raw, packed := h.num(2), h.num(3)
	data := &io.LimitedReader{R: br, N: packed}
	if v2 := h.sub(8); v2 != nil { // levels lie before the data, uncompressed
		levels := v2.num(5) + v2.num(6)
		raw -= levels
		if _, err := io.CopyN(io.Discard, data, levels); err != nil {
			return cutOff(err)
		}
		if v, ok := v2[7]; ok && v == false {
			codec = 0
		}
	}
	if err := checkCompressed(data, codec, raw); err != nil {
		return err
	}
	_, err := io.CopyN(io.Discard, data, data.N)
	return cutOff(err)
}

func cutOff(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errors.New("page is cut off")
	}
	return err
}

// codecs of the format: 1 snappy, 2 gzip, 4 brotli, 6 zstd, 7 raw lz4; 5 is for lz4Page.
func checkCompressed(r *io.LimitedReader, codec, raw int64) error {
	if codec == 0 || r.N == 0 {
		return nil
	}
	switch codec {
	case 1:
		return checkSnappy(r, raw)
	case 2:
		z, err := gzip.NewReader(r)
		if err != nil {
			return fmt.Errorf("gzip page: %w", err)
		}
		return drain(z, "gzip", raw)
	case 4:
		return drain(brotli.NewReader(r), "brotli", raw)
	case 6:
		return checkZstd(r, raw)
	case rawLZ4:
		return checkLZ4(r, raw)
	}
	return fmt.Errorf("compressed by codec %d, which is not supported", codec)
}

func drain(r io.Reader, name string, raw int64) error {
	n, err := io.Copy(io.Discard, io.LimitReader(r, raw+1))
	if err != nil {
		return fmt.Errorf("%s page: %w", name, err)
	}
	return sized(name, n, raw)
}

func sized(name string, n, raw int64) error {
	if n != raw {
		return fmt.Errorf("%s page does not hold the %d bytes it claims", name, raw)
	}
	return nil
}

func checkSnappy(r *io.LimitedReader, raw int64) error {
	var head [10]byte
	n, err := io.ReadFull(r, head[:min(int64(len(head)), r.N)])
	if err != nil {
		return cutOff(err)
	}
	size, k := binary.Uvarint(head[:n])
	if k <= 0 || size > math.MaxInt64 {
		return errors.New("snappy page: damaged length")
	}
	return sized("snappy", int64(size), raw)
}

func checkLZ4(r *io.LimitedReader, raw int64) error {
	src, err := io.ReadAll(r)
	if err != nil {
		return cutOff(err)
	}
	return checkBlock(src, raw)
}
