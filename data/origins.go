package data

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/data/rows"
)

// Origins says which entry of `datasets` or `val_datasets` samples came from.
type Origins struct {
	Names []string // of the entries: the path, with its split
	files []string // with slashes
	entry []int    // of each
	known map[string]int
}

// NewOrigins lists the files of o's entries, whose paths are resolved; names are the
// paths as a reader knows them.
func NewOrigins(o *Options, names []string) (*Origins, error) {
	g := &Origins{known: map[string]int{}}
	seen := map[string]int{}
	for i, s := range slices.Concat(o.Datasets, o.ValDatasets) {
		name := names[i]
		if s.Split != "" {
			name += " (" + s.Split + ")"
		}
		if seen[name]++; seen[name] > 1 {
			name = fmt.Sprintf("%s #%d", name, seen[name])
		}
		g.Names = append(g.Names, name)
		files, _, err := rows.Files(s.Path, s.Split)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			g.files, g.entry = append(g.files, filepath.ToSlash(f)), append(g.entry, i)
		}
	}
	return g, nil
}

// Of is the number of the entry that a sample's file belongs to, -1 for none. What an
// ingest saved has the ends of paths only; one that several entries' files have is of
// none. Not safe for concurrent use.
func (g *Origins) Of(file string) int {
	if i, ok := g.known[file]; ok {
		return i
	}
	end, found := filepath.ToSlash(file), -1
	if i := slices.Index(g.files, end); i >= 0 {
		found = g.entry[i]
	} else {
		found = g.byEnd(end)
	}
	g.known[file] = found
	return found
}

// byEnd is the entry of the only file that ends in end.
func (g *Origins) byEnd(end string) int {
	path := ""
	found := -1
	for i, f := range g.files {
		switch {
		case !strings.HasSuffix(f, "/"+end) || f == path: // the same file once more: the first entry has it
		case path != "":
			return -1
		default:
			path, found = f, g.entry[i]
		}
	}
	return found
}
