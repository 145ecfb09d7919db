package main

import (
	"go/ast"
	"go/token"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// added is something that exists, to show what adding another one takes.
type added struct {
	is     string // identifiers and strings that name it, a regular expression
	files  string // where they are: what a new one is written in
	except string // whoever uses it may lie below here
}

// adding is the table "Adding things" of docs/architecture.md by examples of its
// rows.
var adding = map[string][]added{
	"architecture": {
		{`(?i)^seed_?oss(ForCausalLM)?$`, "autograd/model/arch/archs.go autograd/model/arch/seedoss.go", ""},
	},
	"mixer, feed-forward part": {
		{`(?i)^moe$`, "autograd/model/load.go autograd/model/moe.go", "autograd/model/arch/"},
	},
	"quantization method": {
		{`^hqqMethod$`, "quant/hqq.go quant/method.go", ""},
		{`^smoothMethod$`, "quant/method.go quant/smoothquant.go", ""},
		{`^awqMethod$`, "quant/awq.go quant/method.go", ""}, // "awq" is a layout, too, as are others
		{`^gptqMethod$`, "quant/gptq.go quant/method.go", ""},
	},
	"block type": {
		{`F8E5M2`, "kernels/block/decode.go kernels/block/encode.go kernels/block/micro.go kernels/cuda/mat.go kernels/cuda/thin.go kernels/dtype/dtype.go", ""},
	},
	"backend": {
		{`(?i)^cuda`, "kernels/device/device.go", "kernels/cuda/"},
	},
	"stage": {
		{`^exportKind$`, "recipes/stages/export.go recipes/stages/stages.go", ""},
		{`^benchKind$|^BenchResult$`, "recipes/stages/bench.go recipes/stages/stages.go", ""},
	},
	"type of rows": {
		{`typePreference|convertPreference|checkPreference|tokens\|preference`, "data/ingest.go data/kinds.go data/options.go data/preference.go", ""},
	},
	"merge method": {
		{`^arceeFusion$|^arcee_fusion$`, "autograd/model/merge/fusion.go autograd/model/merge/methods.go", ""},
	},
	"reward": {
		{`^tagPattern$|^tagged$`, "train/judge/reward.go", ""},
	},
	"tracker of trainings": {
		{`^mlflowFiles$`, "recipes/stages/mlflow.go recipes/stages/trackers.go", ""},
	},
	"optimizer": {
		{`(?i)\badan\b`, "kernels/cuda/optim.go kernels/optim.go kernels/optim/element.go train/config.go train/optimargs.go train/optimizers.go", ""}, // config.go: its defaults, in words
		{`(?i)soap`, "train/config.go train/optimargs.go train/optimizers.go train/soap.go", ""},
	},
	"schedule": {
		{`(?i)inverse_?sqrt`, "train/schedule.go", ""},
		{`(?i)warmup_?stable_?decay`, "train/schedule.go", ""},
	},
	"objective": {
		{`(?i)\bdpo|newDPO`, "recipes/schema/foreign.go train/dpo.go train/objective.go train/preferences.go", ""}, // preferences.go: its defaults, in words
	},
	"adapter kind": {
		{`(?i)loha|hada_w`, "lora/kinds.go lora/loha.go", ""},
	},
	"command": {
		{`^tokenizeCommand$`, "cmd/internal/cli/commands.go cmd/internal/cli/tokenize.go", ""},
		{`^verifyCommand$`, "cmd/internal/cli/commands.go cmd/internal/cli/verify.go", ""},
	},
}

// untested are rows of which no name says enough: a layout's is in every place
// that asks what goes with it, and options are TestTags'.
var untested = []string{"folder layout", "option of a stage"}

// TestAddingThings: a new thing takes the files that the documentation names, and
// no more. Packages that check others (kerneltest, archtest) don't count.
func TestAddingThings(t *testing.T) {
	rows := addingRows(t)
	for _, row := range slices.Sorted(maps.Keys(adding)) {
		text, ok := rows[row]
		if !ok {
			t.Errorf("docs/architecture.md has no row %q in Adding things", row)
		}
		for _, a := range adding[row] {
			found, want := filesNaming(t, a), strings.Fields(a.files)
			if !slices.Equal(found, want) {
				t.Errorf("%s: %s is in %s; want %s", row, a.is, strings.Join(found, " "), a.files)
			}
			for _, f := range want {
				dir, base := path.Split(f)
				if !strings.Contains(text, base) && !strings.Contains(text, dir+"NAME.go") {
					t.Errorf("the row %q of docs/architecture.md names neither %s nor %sNAME.go", row, base, dir)
				}
			}
		}
	}
	for row := range rows {
		if len(adding[row]) == 0 && !slices.Contains(untested, row) {
			t.Errorf("the row %q of docs/architecture.md has no example here", row)
		}
	}
}

// addingRows are the rows of the table, by their first cells.
func addingRows(t *testing.T) map[string]string {
	doc, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(doc), "\n## Adding things\n")
	section, _, _ = strings.Cut(section, "\n## ")
	rows := map[string]string{}
	for line := range strings.Lines(section) {
		if cells := strings.Split(line, "|"); len(cells) > 4 && !strings.HasPrefix(cells[1], "---") && cells[1] != " new " {
			rows[strings.TrimSpace(cells[1])] = line
		}
	}
	return rows
}

// TestLayers: the drawing of docs/architecture.md has every package, and imports
// go down in it, or to the left.
func TestLayers(t *testing.T) {
	doc, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, drawing, _ := strings.Cut(string(doc), "\n```\n")
	drawing, _, _ = strings.Cut(drawing, "\n```\n")
	at := map[string]int{} // the later, the lower or the further left
	for line := range strings.Lines(drawing) {
		words := strings.Fields(line)
		slices.Reverse(words)
		for _, w := range words {
			at[w] = len(at)
		}
	}
	hidden := regexp.MustCompile(`/internal/|test(dir)?$|/gen$|gendocs$|interop$`) // parts of one package, or not in the programs
	eachSource(t, func(rel string, _ *token.FileSet, f *ast.File) {
		pkg := path.Dir(rel)
		if hidden.MatchString(pkg) && pkg != "cmd/internal/cli" && pkg != "kernels/kerneltest" {
			return
		}
		here, ok := at[pkg]
		if !ok {
			t.Errorf("%s: the layers of docs/architecture.md lack package %s", rel, pkg)
		}
		for _, spec := range f.Imports {
			imp, _ := strconv.Unquote(spec.Path.Value)
			if own, ok := strings.CutPrefix(imp, module); ok && !hidden.MatchString(own) && at[own] <= here {
				t.Errorf("%s imports %s, which docs/architecture.md draws above or to the right", rel, own)
			}
		}
	})
}

// filesNaming lists the files with an identifier or a string, not an import,
// that names a.
func filesNaming(t *testing.T, a added) (files []string) {
	re := regexp.MustCompile(a.is)
	eachSource(t, func(rel string, _ *token.FileSet, f *ast.File) {
		if a.except != "" && strings.HasPrefix(rel, a.except) || strings.HasSuffix(path.Dir(rel), "test") {
			return
		}
		names := false
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ImportSpec:
				return false
			case *ast.Ident:
				names = names || re.MatchString(n.Name)
			case *ast.BasicLit:
				s, err := strconv.Unquote(n.Value)
				names = names || n.Kind == token.STRING && err == nil && re.MatchString(s)
			}
			return true
		})
		if names {
			files = append(files, rel)
		}
	})
	slices.Sort(files)
	return files
}
