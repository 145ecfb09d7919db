package kernels

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// GemmArgs: c [M,N] = Alpha·op(A)·op(B). A is [M,K] or, with TA, [K,M]; B is
// [K,N] or, with TB, [N,K]. Rows of A and B may be parts of longer ones.
type GemmArgs struct {
	A, B     Buffer
	TA, TB   bool
	LDA, LDB int // elements from one row in memory to the next; 0: as many as a row has; fewer panic
	M, N, K  int
	Alpha    float32
}

// ShapeA is A in memory: its rows, the elements of one, and those to the next.
func (a *GemmArgs) ShapeA() (rows, cols, ld int) { return gemmShape(a.M, a.K, a.LDA, a.TA) }

// ShapeB is B in memory, as ShapeA.
func (a *GemmArgs) ShapeB() (rows, cols, ld int) { return gemmShape(a.K, a.N, a.LDB, a.TB) }

func gemmShape(rows, cols, ld int, across bool) (int, int, int) {
	if across {
		rows, cols = cols, rows
	}
	if ld == 0 {
		ld = cols
	}
	if ld < cols {
		panic(fmt.Sprintf("kernels: gemm: rows of %d elements, %d from one to the next", cols, ld))
	}
	return rows, cols, ld
}

// Span is how many elements rows of cols take that begin ld apart.
func Span(rows, cols, ld int) int {
	if rows == 0 {
		return 0
	}
	return (rows-1)*ld + cols
}

// Groups splits the rows of a matrix: group e is rows Offsets[e] … Offsets[e+1],
// as the rows of experts lie. The zero Groups is one group of all rows.
type Groups struct {
	Offsets Buffer // [Count+1] int32, ascending from 0
	Count   int
}

// Len is the number of groups.
func (g Groups) Len() int {
	if g.Offsets == nil {
		return 1
	}
	return g.Count
}

// GramArgs: h = XᵀX of X [Rows, Cols], full and symmetric, for every group:
// h [groups, Cols, Cols].
type GramArgs struct {
	Rows, Cols int
	X          Buffer
	Groups     Groups
}

// Stat is a statistic of columns or rows.
type Stat uint8

const (
	SumSq   Stat = iota // Σ x²
	SumAbs              // Σ |x|
	MaxAbs              // max |x|; a Dst that adds takes the larger
	Max                 // max x; a Dst that adds takes the larger
	Min                 // min x; a Dst that adds takes the smaller
	SumXY               // Σ x·y in float64, in order; of rows only
	SumDiff             // Σ (x-y)² in float64, in order; of rows only
)

// ColStatsArgs: the statistic of every column of X [Rows, Cols], for every
// group: out [groups, Cols].
type ColStatsArgs struct {
	Stat       Stat
	Rows, Cols int
	X          Buffer
	Groups     Groups
}

// RowStatsArgs: the statistic of every run of Run columns of X [Rows, Cols]:
// out [Rows, Cols/Run], float32, or float64 for SumXY and SumDiff. Cols is a
// multiple of Run.
type RowStatsArgs struct {
	Stat       Stat
	Rows, Cols int
	Run        int    // 0: whole rows
	X, Y       Buffer // Y: of SumXY and SumDiff
}

// Runs is the number of results a row.
func (a *RowStatsArgs) Runs() int {
	if a.Run == 0 {
		return 1
	}
	return a.Cols / a.Run
}

// FakeQuantArgs: y = dq(q(X·s))/s of X [Rows, Cols]: what X becomes by being
// stored as Type and read back, for a search or an activation that is quantized
// where it is used. Type is an Int kind (Group -1: one scale for every row, as
// for a token; AllRows: one for all of X, which takes no ColScale and no Clip), rounded
// on the grid of block.IntGrid, or a Micro kind with or without a Group, or F32, as which values are only cut, group by group. Cols is
// a multiple of its Group. X and y are float32 or bf16.
type FakeQuantArgs struct {
	Type       dtype.Type
	Rows, Cols int
	X          Buffer
	ColScale   Buffer // [Cols] f32: s; nil: 1
	Clip       Buffer // [Rows, groups] f32: X·s is kept within ± of it; nil: nothing is cut
	Grid       Grid   // of all values, whatever they are; the zero Grid: each group has its own
}

// Grid is what numbers are rounded on that was chosen beforehand: Scale times a value of a Micro kind, or
// times a signed code less Zero of an Int kind. ColScale and Clip do not go with it.
type Grid struct{ Scale, Zero float32 }

// SampleRow says how the next token of one row is chosen. The zero value takes
// the lowest id of the largest logit. Filters have Transformers' meanings and
// order: repetition penalty, temperature, top-k, top-p, min-p.
type SampleRow struct {
	Temperature       float64 // 0: greedy
	TopK              int     // 0: off
	TopP              float64 // 0 or 1: off
	MinP              float64 // 0: off
	RepetitionPenalty float64 // 0 or 1: off
	Seen              []int32 // the tokens so far, which the penalty is for
	// The random number is a function of these three alone.
	Seed, Stream, Step uint64
}

// SampleArgs: ids [len(Rows)] int32, one token for each row of Logits
// [len(Rows), V] f32, -1 for a row with a value that is NaN or +Inf.
// Probabilities are float64 inside.
type SampleArgs struct {
	V      int
	Logits Buffer
	Rows   []SampleRow
}

// GPTQArgs: one block of columns of GPTQ's inner loop, transposed so that a
// column is contiguous. See quant/gptq.go for the algorithm.
type GPTQArgs struct {
	Rows, Cols  int    // of this block (Cols ≤ 128)
	W           Buffer // [Cols, Rows] f32 in: weights; out: dequantized values
	Err         Buffer // [Cols, Rows] f32 out: (w - q)/U[j,j], for the columns after this block
	U           Buffer // [Cols, Cols] f32, the block of the upper factor
	Codes       Buffer // [Cols, Rows] uint8 out
	Scale, Zero Buffer // [Cols, Rows] f32: of each element's group (zero as a code)
	MaxCode     int    // 2^bits - 1
}

// LogitStatsArgs compares rows of Logits with those of Ref, [N, V] f32 each.
type LogitStatsArgs struct {
	N, V        int
	Logits, Ref Buffer
}
