package merge

import (
	"fmt"
	"slices"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/par"
)

// Vocabulary says which rows of the models' tables are the rows of the result's.
type Vocabulary struct {
	Rows int // of the result: a row for every token, and as many more as are asked for

	tokens []string
	from   [][]int32 // by model, in the order of References, then by token: its row; -1: none
	given  map[int]givenRow
}

// givenRow is what the configuration says of one token's row.
type givenRow struct {
	model int // -1: zero
	row   int
	force bool
}

// NewVocabulary makes the rows of the tokens out, by id, from those of the models in
// the order of References, of which rows says how many rows their tables have. t may
// name tokens and a multiple that the number of rows is raised to.
func NewVocabulary(out []string, models []Model, vocabularies [][]string, rows []int, t Tokenizer) (*Vocabulary, error) {
	v := &Vocabulary{Rows: len(out), tokens: out, given: map[int]givenRow{}}
	if m := t.Multiple; m < 0 {
		return nil, fail.Usagef("", "", "tokenizer: pad_to_multiple_of is %d", m)
	} else if m > 0 {
		v.Rows = (len(out) + m - 1) / m * m
	}
	ids := make([]map[string]int32, len(models))
	for i, list := range vocabularies {
		ids[i] = map[string]int32{}
		for id, token := range list {
			if id < rows[i] {
				ids[i][token] = int32(id)
			}
		}
		from := make([]int32, len(out))
		for id, token := range out {
			from[id] = -1
			if at, ok := ids[i][token]; ok {
				from[id] = at
			}
		}
		v.from = append(v.from, from)
	}
	for token, how := range t.Tokens {
		id := slices.Index(out, token)
		if id < 0 {
			return nil, fail.Usagef("", "", "tokenizer: tokens: the result has no token %q", token)
		}
		if !how.Source.Zero && how.Source.Model == "" {
			return nil, fail.Usagef("", "source: a model, or {kind: zero}", "tokenizer: tokens: %q has no source", token)
		}
		g, err := given(token, how, models, ids, rows)
		if err != nil {
			return nil, err
		}
		v.given[id] = g
	}
	return v, nil
}

func given(token string, how Token, models []Model, ids []map[string]int32, rows []int) (givenRow, error) {
	if how.Source.Zero {
		return givenRow{model: -1, force: how.Force}, nil
	}
	m := slices.Index(models, how.Source.Model)
	if m < 0 {
		return givenRow{}, fail.Usagef("", "", "tokenizer: tokens: %q: %s is none of the models", token, how.Source.Model)
	}
	if id := how.Source.ID; id != nil {
		if *id < 0 || *id >= rows[m] {
			return givenRow{}, fail.Usagef("", "", "tokenizer: tokens: %q: %s has %d rows, no token %d", token, how.Source.Model, rows[m], *id)
		}
		return givenRow{model: m, row: *id, force: how.Force}, nil
	}
	name := how.Source.Token
	if name == "" {
		name = token
	}
	id, ok := ids[m][name]
	if !ok {
		return givenRow{}, fail.Usagef("", "", "tokenizer: tokens: %q: %s has no token %q", token, how.Source.Model, name)
	}
	return givenRow{model: m, row: int(id), force: how.Force}, nil
}

// covers refuses rows given from a model that is not among those of a table.
func (v *Vocabulary) covers(in []input) error {
	for id, g := range v.given {
		if g.model >= 0 && !slices.ContainsFunc(in, func(x input) bool { return x.index == g.model }) {
			return fail.Usagef("", "name a model of the slice", "tokenizer: tokens: %q: its model has no part in the embedding", v.tokens[id])
		}
	}
	return nil
}

// tables are the models' tables with the rows of the result. A token that a model
// lacks has the row that the configuration gives it, or that of the base; without a
// base the mean over the models that have it. Rows beyond the tokens are their mean.
func (v *Vocabulary) tables(models []int, in [][]float32, cols, base int) [][]float32 {
	out := make([][]float32, len(in))
	for i := range in {
		out[i] = make([]float32, v.Rows*cols)
	}
	par.For(len(v.tokens), 64, func(lo, hi int) {
		lacks := make([]float32, cols)
		for id := lo; id < hi; id++ {
			g, isGiven := v.given[id]
			v.fill(lacks, models, in, cols, base, id)
			for i, m := range models {
				dst := out[i][id*cols : (id+1)*cols]
				if at := v.from[m][id]; at >= 0 && !(isGiven && g.force) {
					copy(dst, in[i][int(at)*cols:])
				} else {
					copy(dst, lacks)
				}
			}
		}
	})
	for i := range out {
		if v.Rows == len(v.tokens) {
			break
		}
		mean := make([]float64, cols)
		for k, x := range out[i][:len(v.tokens)*cols] {
			mean[k%cols] += float64(x)
		}
		for k := len(v.tokens) * cols; k < v.Rows*cols; k++ {
			out[i][k] = float32(mean[k%cols] / float64(len(v.tokens)))
		}
	}
	return out
}

// fill writes the row that models without token id get.
func (v *Vocabulary) fill(dst []float32, models []int, in [][]float32, cols, base, id int) {
	clear(dst)
	if g, ok := v.given[id]; ok {
		if at := slices.Index(models, g.model); at >= 0 {
			copy(dst, in[at][g.row*cols:(g.row+1)*cols])
		}
		return
	}
	if base >= 0 && v.from[models[base]][id] >= 0 {
		copy(dst, in[base][int(v.from[models[base]][id])*cols:])
		return
	}
	n := 0
	for i, m := range models {
		if at := int(v.from[m][id]); at >= 0 {
			n++
			for k := range dst {
				dst[k] += in[i][at*cols+k]
			}
		}
	}
	for k := range dst {
		if n > 1 {
			dst[k] /= float32(n)
		}
	}
}

// Unknown is a line about the tokens that no model has a row for, "" where each has.
func (v *Vocabulary) Unknown() string {
	n, first := 0, ""
	for id, token := range v.tokens {
		none := !slices.ContainsFunc(v.from, func(from []int32) bool { return from[id] >= 0 })
		if _, ok := v.given[id]; none && !ok {
			if n++; n == 1 {
				first = token
			}
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d tokens have no row in any model and get one of zeros (%q …)", n, first)
}
