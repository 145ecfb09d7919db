package driver

import (
	"errors"
	"fmt"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// Multiplier is a Driver beside which a library of products can be loaded.
type Multiplier interface {
	Driver
	// Products loads the library, which works in n bytes at workspace that stay the
	// caller's. It is closed before the driver is. The error says what was looked for,
	// or which call failed.
	Products(workspace Ptr, n int64) (Products, error)
}

// Products is a library of products, in the stream of its driver and used from its
// thread.
type Products interface {
	// Version names the library with its version, e.g. cublasLt-13.1.0, and Path says
	// where it lies.
	Version() string
	Path() string
	// Multiply starts products one after another. ErrNoProduct: the library has no way
	// for one of them, and none was started.
	Multiply(list []Product) error
	Close() error
}

// ErrNoProduct is a product that a library cannot do.
var ErrNoProduct = errors.New("the library has no algorithm for this product")

// Product is C = Alpha·op(A)·op(B) + Beta·C by rows: op(A) [M, K], op(B) [K, N], C
// [M, N]. A lies as [M, K], with TA as [K, M]; B as [K, N], with TB as [N, K]. All
// three begin at 16 bytes. Sums are of f32 and are rounded once, to Out.
type Product struct {
	A, B, C       Ptr
	Kind, Out     dtype.Kind // of A and B: BF16 or F16; of C: F32 or Kind
	TA, TB        bool
	M, N, K       int
	LDA, LDB, LDC int // elements from one row to the next
	Alpha, Beta   float32
}

func (p *Product) String() string {
	t := func(b bool) string {
		if b {
			return "ᵀ"
		}
		return ""
	}
	return fmt.Sprintf("A%s·B%s of %v, %d×%d, sums of %d, to %v", t(p.TA), t(p.TB), p.Kind, p.M, p.N, p.K, p.Out)
}
