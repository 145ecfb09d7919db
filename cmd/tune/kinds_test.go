package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"testing"
)

// TestKindsHaveNoOrder: whether a storage type is quantized, grouped or wider
// than another is asked of package dtype. A kind compared by its number would
// give a new kind an answer by the line on which it was declared.
func TestKindsHaveNoOrder(t *testing.T) {
	found := kindOrders(t)
	for _, at := range found {
		t.Errorf("%s: a dtype.Kind is compared by order; ask dtype.Type or dtype.Wider", at)
	}
}

// TestKindOrdersAreFound: the check sees what it is to see.
func TestKindOrdersAreFound(t *testing.T) {
	for src, want := range map[string]bool{
		"k >= dtype.Q4_0": true, "t.Kind < dtype.NF4": true, "min(x.kind, y.kind)": true, "max(dtype.F32, k)": true,
		"t.Kind == dtype.NF4": false, "int(t.Kind) < len(table)": false, "a.Kind > b.Kind": true, "x.Len() < n": false,
		"min(t.Kind.Info().Bytes, 4)": false,
	} {
		e, err := parser.ParseExpr(src)
		if got := kindOrder(e); err != nil || got != want {
			t.Errorf("%s: found %v (%v)", src, got, err)
		}
	}
}

// kindOrders lists the places of the module that order kinds.
func kindOrders(t *testing.T) (found []string) {
	eachSource(t, func(_ string, set *token.FileSet, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			if e, ok := n.(ast.Expr); ok && kindOrder(e) {
				found = append(found, set.Position(n.Pos()).String())
			}
			return true
		})
	})
	return found
}

// kindOrder reports whether e orders kinds of dtype, as far as its text tells.
func kindOrder(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BinaryExpr:
		return slices.Contains([]token.Token{token.LSS, token.GTR, token.LEQ, token.GEQ}, e.Op) && (isKind(e.X) || isKind(e.Y))
	case *ast.CallExpr:
		f, ok := e.Fun.(*ast.Ident)
		return ok && (f.Name == "min" || f.Name == "max") && slices.ContainsFunc(e.Args, isKind)
	}
	return false
}

// isKind reports whether e reads a field called Kind or names a kind of dtype.
func isKind(e ast.Expr) bool {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	if x, ok := s.X.(*ast.Ident); ok && x.Name == "dtype" {
		return !slices.Contains([]string{"NumPlanes", "PermIndex"}, s.Sel.Name) // the only other numbers there
	}
	return s.Sel.Name == "Kind" || s.Sel.Name == "kind"
}
