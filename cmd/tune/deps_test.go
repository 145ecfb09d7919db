package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layers is the import policy: a package imports only from rows above its own.
// It is a statement of policy; do not change it to make a build pass.
var layers = []string{
	"kernels/dtype kernels/par kernels/dl formats/fail formats/torch data/jinja data/corpus data/minhash kernels/internal/level kernels/block/internal/lanes",
	"kernels/block formats/atomic kernels/cpu/internal/vec kernels/cuda/driver recipes/schema",
	"kernels formats formats/hub formats/hub/hubtest formats/atomic/testdir kernels/cuda/ptxsim train/judge",
	"data/tokenizer data/rows kernels/optim",
	"kernels/cpu kernels/cuda kernels/dry autograd/model/arch data/chat",
	"autograd autograd/reference data kernels/device kernels/kerneltest kernels/bench autograd/model/arch/archtest",
	"autograd/nn",
	"autograd/model",
	"autograd/model/engine",
	"train/eval quant/gguf autograd/model/merge",
	"lora quant", // and train, which holds the adapter that it trains
	"train train/mpi",
	"recipes/report",
	"recipes",
	"recipes/stages",
	"recipes/pocket/gen cmd/internal/cli",
	"cmd/internal/gendocs cmd/internal/conformance cmd/tune cmd/quant",
	"cmd/tune/interop",
}

// only says which packages may import what the others may not.
var only = map[string]string{
	"gorgonia.org/":                         "autograd/reference",
	"net":                                   "formats/hub",
	"net/http":                              "formats/hub formats/hub/hubtest",
	"net/http/httptest":                     "formats/hub/hubtest",
	"github.com/ebitengine/purego":          "kernels/dl",
	"github.com/apache/arrow/":              "data data/rows",
	"github.com/parquet-go/":                "data/rows data/corpus",
	"github.com/santhosh-tekuri/":           "train/judge",
	"github.com/urfave/cli/":                "cmd/internal/cli",
	"github.com/gofrs/flock":                "recipes train", // locks are no artifacts
	module + "autograd/reference":           "cmd/internal/cli",
	module + "formats/atomic/testdir":       "",
	module + "formats/hub/hubtest":          "",
	module + "kernels/cuda/ptxsim":          "", // of tests
	module + "autograd/model/arch/archtest": "cmd/internal/conformance",
	"C":                                     "",
	"plugin":                                "",
	"math/rand":                             "",
}

// creates are the functions of package os that make or change a file's name or
// content; only formats/atomic calls them.
var creates = strings.Fields("Create CreateTemp WriteFile OpenFile Rename Symlink Link Truncate Mkdir MkdirAll MkdirTemp CopyFS RemoveAll")

// allowed are calls of these elsewhere, with the reason.
var allowed = map[string]string{
	"formats/source.go OpenFile": "reads, and must not wait for a pipe",
}

const module = "github.com/tunekit/tunekit/"

// TestDeps holds the import policy by reading the sources, so that the test
// cache sees a changed import.
func TestDeps(t *testing.T) {
	row := map[string]int{}
	for i, line := range layers {
		for _, pkg := range strings.Fields(line) {
			row[pkg] = i
		}
	}
	used := map[string]bool{}
	eachSource(t, func(rel string, set *token.FileSet, f *ast.File) {
		pkg := filepath.ToSlash(filepath.Dir(rel))
		at, ok := row[pkg]
		if !ok {
			t.Errorf("%s: package %s is in no layer", rel, pkg)
		}
		for _, spec := range f.Imports {
			imp, _ := strconv.Unquote(spec.Path.Value)
			for name, who := range only {
				if (imp == name || strings.HasSuffix(name, "/") && strings.HasPrefix(imp, name)) && !slices.Contains(strings.Fields(who), pkg) {
					t.Errorf("%s: imports %s, which is for %q only", rel, imp, who)
				}
			}
			if own, ok := strings.CutPrefix(imp, module); ok && row[own] >= at {
				t.Errorf("%s: %s of layer %d imports %s of layer %d", rel, pkg, at, own, row[own])
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "os" && slices.Contains(creates, s.Sel.Name) && pkg != "formats/atomic" {
				key := rel + " " + s.Sel.Name
				if used[key] = true; allowed[key] == "" {
					t.Errorf("%s: os.%s: only formats/atomic creates files", set.Position(s.Pos()), s.Sel.Name)
				}
			}
			return true
		})
	})
	for key := range allowed {
		if !used[key] {
			t.Errorf("%s is allowed and not used", key)
		}
	}
}

// eachSource parses every Go file of the module but tests; rel is its path in
// the module, with slashes.
func eachSource(t *testing.T, each func(rel string, set *token.FileSet, f *ast.File)) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "gen" && strings.Contains(path, "kernels") || len(d.Name()) > 2 && d.Name()[0] == '.' || d.Name() == "build"):
			return filepath.SkipDir // kernels/*/gen are modules of their own
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		rel, err := filepath.Rel("../..", path)
		if err != nil {
			return err
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution|parser.ParseComments)
		if err == nil {
			each(filepath.ToSlash(rel), set, f)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
