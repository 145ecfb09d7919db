package data

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/rows"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats"
)

// part is where the rows of a file go.
type part int

const (
	trained  part = iota // some of them may be held back
	heldBack             // val_datasets
	compared             // decontaminate_against: nowhere
)

// partOf is that of a source by its number.
func (o *Options) partOf(source int) part {
	switch {
	case source < len(o.Datasets):
		return trained
	case source < len(o.Datasets)+len(o.ValDatasets):
		return heldBack
	}
	return compared
}

// input is one file of a dataset.
type input struct {
	source Source
	index  int // of the source
	part   part
	path   string
	hash   func() (string, error) // waits for it
}

// resolve lists the files, and what is to be said of the choice.
func resolve(o *Options, tok *tokenizer.Tokenizer) (inputs []input, notes []string, err error) {
	for i, s := range o.sources() {
		files, note, err := rows.Files(s.Path, s.Split)
		if err != nil {
			return nil, nil, err
		}
		if note != "" {
			notes = append(notes, note)
		}
		c := cacheOf(s.Path)
		if c == nil && filepath.Ext(s.Path) == ".arrow" { // a file of such a folder
			c = cacheOf(filepath.Dir(s.Path))
		}
		if c != nil {
			if err := c.fits(s.Path, tok, o.Vocab); err != nil {
				return nil, nil, err
			}
		}
		for _, f := range files {
			inputs = append(inputs, input{source: s, index: i, part: o.partOf(i), path: f})
		}
	}
	return inputs, notes, nil
}

// hashes begins to hash the tokenizer and the files of inputs, one after the
// other, beside what reads them. stop ends it.
func hashes(ctx context.Context, inputs []input, tok *tokenizer.Tokenizer) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var work []func()
	if tok != nil {
		work = append(work, func() { tok.Hash() })
	}
	known := map[string]func() (string, error){}
	for i := range inputs {
		path := inputs[i].path
		if known[path] == nil {
			hash := sync.OnceValues(func() (string, error) {
				sum, err := formats.HashFile(ctx, path)
				if err != nil {
					return "", rows.FileError(path, err)
				}
				return sum, nil
			})
			known[path] = hash
			work = append(work, func() { hash() })
		}
		inputs[i].hash = known[path]
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, f := range work {
			f()
		}
	}()
	return func() { cancel(); <-done }
}

// key hashes the options without paths, the files' contents in their order, the
// tokenizer and the template.
func key(o *Options, inputs []input, tok *tokenizer.Tokenizer, tmpl *chat.Template) (string, error) {
	plain := o.Shaping()
	plain.Datasets, plain.ValDatasets, plain.DecontaminateAgainst = withoutPaths(o.Datasets), withoutPaths(o.ValDatasets), withoutPaths(o.DecontaminateAgainst)
	plain.Tokenizer, plain.ChatTemplate, plain.Packing, plain.Context = "", "", "", 0
	shaped := struct {
		Version   string
		Options   Options
		Files     []string
		Tokenizer string
		Template  []string
	}{Version: ingestVersion, Options: plain}
	for _, in := range inputs {
		hash, err := in.hash()
		if err != nil {
			return "", err
		}
		shaped.Files = append(shaped.Files, fmt.Sprint(in.index, " ", hash))
	}
	if tok != nil {
		shaped.Tokenizer = tok.Hash()
	}
	if tmpl != nil {
		shaped.Template = tmpl.Key()
	}
	b, err := json.Marshal(shaped)
	if err != nil {
		panic(err) // plain values only
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

func withoutPaths(s []Source) []Source {
	out := slices.Clone(s)
	for i := range out {
		out[i].Path, out[i].Split = "", ""
	}
	return out
}
