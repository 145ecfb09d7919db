package main

import (
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strings"
	"testing"
)

// plain are methods whose names say what they do.
var plain = strings.Fields("String Error Unwrap")

// TestExportedDocs: a package has one package comment, and every exported name
// a comment of its own or of its group.
func TestExportedDocs(t *testing.T) {
	comments := map[string]int{}
	eachSource(t, func(rel string, set *token.FileSet, f *ast.File) {
		pkg := path.Dir(rel)
		if comments[pkg] += 0; f.Doc != nil {
			comments[pkg]++
		}
		check := func(n *ast.Ident, docs ...*ast.CommentGroup) {
			if n.IsExported() && !slices.ContainsFunc(docs, func(c *ast.CommentGroup) bool { return c != nil }) {
				t.Errorf("%s: %s has no comment", set.Position(n.Pos()), n.Name)
			}
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil || !slices.Contains(plain, d.Name.Name) && ofExported(d) && pkg != "formats/atomic/testdir" {
					check(d.Name, d.Doc)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if v, ok := s.(*ast.ValueSpec); ok {
						for _, n := range v.Names {
							check(n, d.Doc, v.Doc, v.Comment)
						}
					} else if v, ok := s.(*ast.TypeSpec); ok {
						check(v.Name, d.Doc, v.Doc)
					}
				}
			}
		}
	})
	for pkg, n := range comments {
		if n != 1 {
			t.Errorf("%s has %d package comments", pkg, n)
		}
	}
}

// ofExported reports whether a method's type is exported.
func ofExported(d *ast.FuncDecl) bool {
	x := d.Recv.List[0].Type
	if p, ok := x.(*ast.StarExpr); ok {
		x = p.X
	}
	n, ok := x.(*ast.Ident)
	return ok && n.IsExported()
}
