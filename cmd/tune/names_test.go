package main

import (
	"go/ast"
	"go/token"
	"regexp"
	"strings"
	"testing"
)

// tensorName finds what only names of tensors and modules of models contain.
var tensorName = regexp.MustCompile(`_proj\b|layers\.(\d|%|$)|\bmodel\.(layers|norm|embed)|embed_tokens|lm_head|layernorm|\bblk\.|token_embd|\b(attn|ffn)_(q|k|v|o|norm|gate|up|down)`)

// speaksNames says who may spell tensor names beside autograd/model/arch, by
// path, with the reason.
var speaksNames = map[string]string{
	"autograd/model/arch/":       "maps the names of files to roles",
	"quant/gguf/":                "llama.cpp's rules choose types by GGUF names, for architectures that arch does not know, too",
	"recipes/pocket/gen/":        "writes a checkpoint",
	"formats/verify.go":          "counts the blocks of any GGUF",
	"formats/quantconfig.go":     "lm_head is a key of GPTQ's configuration",
	"lora/ia3.go":                "PEFT's default for the families of Llama",
	"lora/config.go":             "a hint",
	"lora/match.go":              "a hint",
	"recipes/stages/quantize.go": "the default of an option",
}

// TestNamesStayInArch: who needs to know what a tensor is asks its role.
func TestNamesStayInArch(t *testing.T) {
	used := map[string]bool{}
	eachSource(t, func(rel string, set *token.FileSet, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING || !tensorName.MatchString(lit.Value) {
				return true
			}
			for path := range speaksNames {
				if strings.HasPrefix(rel, path) {
					used[path] = true
					return true
				}
			}
			t.Errorf("%s: %s: tensor names belong to autograd/model/arch; ask the role", set.Position(lit.Pos()), lit.Value)
			return true
		})
	})
	for path := range speaksNames {
		if !used[path] {
			t.Errorf("%s may spell tensor names and does not", path)
		}
	}
}
