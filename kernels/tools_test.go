package kernels

import "testing"

// TestGemmShape: rows that begin closer together than they are long are refused.
func TestGemmShape(t *testing.T) {
	a := &GemmArgs{M: 2, N: 3, K: 5, LDA: 4, TB: true}
	if rows, cols, ld := a.ShapeB(); rows != 3 || cols != 5 || ld != 5 {
		t.Errorf("B is %d rows of %d, %d apart", rows, cols, ld)
	}
	defer func() {
		if recover() == nil {
			t.Error("rows of 5 elements, 4 apart, were taken")
		}
	}()
	a.ShapeA()
}
