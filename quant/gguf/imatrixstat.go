package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
)

// usualChunk is the context of llama-imatrix, in tokens, where a file does not say one.
const usualChunk = 512

// MergeImatrix is one matrix of several over the same model, as if one run had seen all their texts: sums and counts
// are added. The counts of the old format are passes, and count as passes of as many tokens as the others state
// (none: 512), as in llama-imatrix. The file's name is that of the first.
func MergeImatrix(list []*Imatrix) (*Imatrix, error) {
	size := 0
	for _, m := range list {
		if size == 0 && !m.legacy {
			size = m.ChunkSize
		}
	}
	if size == 0 {
		size = usualChunk
	}
	out := &Imatrix{ChunkSize: size}
	at := map[string]int{}
	for i, m := range list {
		if i == 0 {
			out.File = m.File
		}
		scale := float32(1)
		if m.legacy {
			scale = float32(size)
		}
		out.Datasets = append(out.Datasets, m.Datasets...)
		out.Chunks += m.Chunks
		for _, e := range m.Entries {
			k, ok := at[e.Name]
			if !ok {
				k = len(out.Entries)
				at[e.Name] = k
				out.Entries = append(out.Entries, ImatrixEntry{Name: e.Name, Sums: make([]float32, len(e.Sums)), Counts: make([]float32, len(e.Counts))})
			}
			if err := out.Entries[k].add(e, scale); err != nil {
				return nil, fail.Inputf(m.File, "merge matrices of one model only", "%w", err)
			}
		}
	}
	return out, out.Check()
}

// add adds the sums and counts of o, times scale.
func (e *ImatrixEntry) add(o ImatrixEntry, scale float32) error {
	if len(e.Sums) != len(o.Sums) {
		return fmt.Errorf("%s has %d values, in an earlier file %d", e.Name, len(o.Sums), len(e.Sums))
	}
	if len(e.Counts) == 1 && len(o.Counts) > 1 {
		e.Counts = slices.Repeat(e.Counts, len(o.Counts))
	}
	if len(o.Counts) != 1 && len(o.Counts) != len(e.Counts) {
		return fmt.Errorf("%s has %d counts, in an earlier file %d", e.Name, len(o.Counts), len(e.Counts))
	}
	for i, v := range o.Sums {
		e.Sums[i] += v * scale
	}
	for i := range e.Counts {
		e.Counts[i] += o.Counts[i%len(o.Counts)] * scale
	}
	return nil
}

// writeImatrixDat writes llama.cpp's older format (see parseImatrixDat): means times the number of passes, of experts
// that saw nothing one. Entries that saw nothing at all are left out, and the last text is named.
func writeImatrixDat(path string, m *Imatrix) error {
	le := binary.LittleEndian
	n := 0
	var body []byte
	for _, e := range m.Entries {
		most := slices.Max(e.Counts)
		if most == 0 {
			continue
		}
		n++
		calls := int32(most)
		values := slices.Clone(e.Sums)
		if !m.legacy {
			size := float32(m.ChunkSize)
			if size == 0 {
				size = usualChunk
			}
			calls = int32(math.Ceil(float64(most / size)))
			for i, v := range e.Values() { // of nothing seen 1
				values[i] = v * float32(calls)
			}
		}
		body = le.AppendUint32(body, uint32(len(e.Name)))
		body = append(body, e.Name...)
		body = le.AppendUint32(body, uint32(calls))
		body = le.AppendUint32(body, uint32(len(values)))
		at := len(body)
		body = append(body, make([]byte, 4*len(values))...)
		block.PutF32(body[at:], values)
	}
	text := ""
	if k := len(m.Datasets); k > 0 {
		text = m.Datasets[k-1]
	}
	out := append(le.AppendUint32(nil, uint32(n)), body...)
	out = le.AppendUint32(out, uint32(m.Chunks))
	out = append(le.AppendUint32(out, uint32(len(text))), text...)
	return atomic.WriteFile(path, out)
}

// isDat reports whether a file's name is one of the older format.
func isDat(path string) bool { return strings.EqualFold(filepath.Ext(path), ".dat") }

// ImatrixStat is what the mean squares of a weight's input columns are like, as llama-imatrix --show-statistics
// has it of files without sums of the inputs themselves. Columns of experts that saw nothing count for nothing.
type ImatrixStat struct {
	Name     string  `json:"name"`
	Columns  int     `json:"columns"` // that saw something
	Sum      float64 `json:"sum"`
	Mean     float64 `json:"mean"`
	StdDev   float64 `json:"std_dev"`
	Skewness float64 `json:"skewness"`
	Kurtosis float64 `json:"kurtosis"` // of a normal distribution 0
	Entropy  float64 `json:"entropy"`  // of the shares of the sum, as a share of the largest possible
	// Beside the same weight of the nearest earlier block that has it: the ratio of root mean squares,
	// correlation and covariance; nil of the first.
	Gain       *float64 `json:"gain,omitempty"`
	Pearson    *float64 `json:"pearson,omitempty"`
	Covariance *float64 `json:"covariance,omitempty"`
}

// Statistics are the statistics of all entries, block by block, those outside of blocks last.
func (m *Imatrix) Statistics() []ImatrixStat {
	var out []ImatrixStat
	at := map[string]int{}
	for i := range m.Entries {
		at[m.Entries[i].Name] = i
	}
	for i := range m.Entries {
		e := &m.Entries[i]
		s, v := e.statistic()
		if blk := blockOf(e.Name); blk > 0 && s.Columns > 0 {
			for b := blk - 1; b >= 0; b-- {
				k, ok := at[fmt.Sprintf("blk.%d.%s", b, strings.SplitN(e.Name, ".", 3)[2])]
				if !ok {
					continue
				}
				if before, w := m.Entries[k].statistic(); before.Sum > 1e-10 && len(v) == len(w) {
					s.beside(before, v, w)
				}
				break
			}
		}
		out = append(out, s)
	}
	slices.SortStableFunc(out, func(a, b ImatrixStat) int {
		x, y := uint(blockOf(a.Name)), uint(blockOf(b.Name)) // of none the largest
		switch {
		case x != y && x < y:
			return -1
		case x != y:
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out
}

// statistic is that of one entry, and its means, NaN where nothing was seen.
func (e *ImatrixEntry) statistic() (ImatrixStat, []float64) {
	s := ImatrixStat{Name: e.Name}
	v := make([]float64, len(e.Sums))
	per := len(e.Sums) / len(e.Counts)
	for i, x := range e.Sums {
		v[i] = math.NaN()
		if c := e.Counts[i/per]; c > 0 {
			v[i] = float64(x) / float64(c)
			s.Sum += v[i]
			s.Columns++
		}
	}
	if s.Columns == 0 {
		return s, v
	}
	n := float64(s.Columns)
	s.Mean = s.Sum / n
	var m2, m3, m4, h float64
	for _, x := range v {
		if math.IsNaN(x) {
			continue
		}
		d := x - s.Mean
		m2 += d * d / n
		m3 += d * d * d / n
		m4 += d * d * d * d / n
		if p := x / s.Sum; p > 1e-10 {
			h -= p * math.Log2(p)
		}
	}
	s.StdDev = math.Sqrt(m2)
	if s.StdDev > 1e-10 {
		s.Skewness, s.Kurtosis = m3/(m2*s.StdDev), m4/(m2*m2)-3
	}
	if s.Columns > 1 {
		s.Entropy = h / math.Log2(n)
	}
	return s, v
}

// beside fills in what s, of values v, is beside the statistic of an earlier block, of values w.
func (s *ImatrixStat) beside(before ImatrixStat, v, w []float64) {
	gain := math.Sqrt(s.Mean) / math.Sqrt(before.Mean)
	s.Gain = &gain
	var n, mv, mw float64
	both := func(f func(a, b float64)) {
		for i := range v {
			if !math.IsNaN(v[i]) && !math.IsNaN(w[i]) {
				f(v[i], w[i])
			}
		}
	}
	both(func(a, b float64) { n, mv, mw = n+1, mv+a, mw+b })
	if n < 2 {
		return
	}
	mv, mw = mv/n, mw/n
	var cov, vv, ww float64
	both(func(a, b float64) { cov, vv, ww = cov+(a-mv)*(b-mw), vv+(a-mv)*(a-mv), ww+(b-mw)*(b-mw) })
	c := cov / n
	s.Covariance = &c
	if vv > 0 && ww > 0 {
		p := cov / (math.Sqrt(vv) * math.Sqrt(ww))
		s.Pearson = &p
	}
}
