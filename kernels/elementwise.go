package kernels

// NormKind selects the normalisation.
type NormKind uint8

const (
	RMSNorm   NormKind = iota // x·W/√(mean x² + Eps)
	LayerNorm                 // (x-mean)·W/√(var + Eps) + Bias
)

// NormArgs: rows of width C. With Res set the input is s = Res + Alpha·X,
// which the forward also writes to sum (and normalises as it was written there);
// the backward takes s as X.
type NormArgs struct {
	Kind    NormKind
	N, C    int
	Heads   int    // > 1: W and Bias have a row for each head; row n of X is of head n mod Heads
	X, Res  Buffer // [N, C]; Res nil: none
	Alpha   float32
	W, Bias Buffer  // [C] or [Heads, C] f32; nil: 1 and 0
	Offset  float32 // of the weights: W is used as Offset + W
	Eps     float32
}

// WeightRows is the number of rows that W and Bias have.
func (a *NormArgs) WeightRows() int { return max(a.Heads, 1) }

// StatsLen is the number of statistics a row: 1/σ, after the mean of a LayerNorm.
func (k NormKind) StatsLen() int {
	if k == LayerNorm {
		return 2
	}
	return 1
}

// ActKind is the activation of a gated or plain feed-forward part.
type ActKind uint8

const (
	SiLU          ActKind = iota // x·σ(x)
	GELU                         // x·Φ(x) (erf)
	GELUTanh                     // GELU's tanh approximation
	ReLU                         // max(x, 0)
	ReLU2                        // max(x, 0)²
	Sigmoid                      // σ(x)
	Tanh                         // tanh(x)
	QuickGELU                    // x·σ(1.702·x)
	Softplus                     // ln(1 + eˣ)
	XIELU                        // x > 0: AlphaP·x² + Beta·x, else AlphaN·(e^min(x, Eps) - 1 - x) + Beta·x (Huang, Schlag 2024, arXiv:2411.13010)
	ClampedSwiGLU                // gated only: g·σ(Alpha·g)·(u + 1), g = min(gate, Limit), u = up within ±Limit (gpt-oss)
	Clip                         // x within ±Limit
	Rsqrt                        // 1/√max(x, Limit)
	LimitedSwiGLU                // gated only: g·σ(g)·u, g = min(gate, Limit), u = up within ±Limit (DeepSeek V4)
)

// Opened is what ClampedSwiGLU and LimitedSwiGLU add to an up within its limits;
// bounded says that the activation is one of them, which are always gated.
func (k ActKind) Opened() (add float32, bounded bool) {
	switch k {
	case ClampedSwiGLU:
		return 1, true
	case LimitedSwiGLU:
		return 0, true
	}
	return 0, false
}

// SinkhornArgs: each of N matrices X [S, S] becomes the transpose of one whose rows
// and columns sum to about 1 (Sinkhorn, Knopp 1967; Xie et al. 2025, arXiv:2512.24880):
// the softmax of its rows plus Eps, columns divided by (their sum + Eps), and Iters-1
// times rows, then columns so divided.
type SinkhornArgs struct {
	N, S, Iters int
	X           Buffer // [N, S·S] f32
	Eps         float32
}

// ActLayout says where a gated activation finds its two operands.
type ActLayout uint8

const (
	Separate    ActLayout = iota // Gate [N, F] and Up [N, F]; Up nil: not gated
	Halves                       // Gate [N, 2F]: F of the gate, then F of up
	Interleaved                  // Gate [N, 2F]: gate and up by turns
)

// ActParams are the numbers of the activations that have any.
type ActParams struct {
	Limit, Alpha              float32 // of ClampedSwiGLU, and the limits of LimitedSwiGLU, Clip and Rsqrt; Limit 0: none
	AlphaP, AlphaN, Beta, Eps float32 // of XIELU, as used: after the softplus of a checkpoint's raw values
}

// ActArgs: y[n,f] = act(Gate[n,f])·Up[n,f], or act(Gate) where it isn't gated.
// In the other layouts than Separate dgate is [N, 2F], and Up and dup are absent.
type ActArgs struct {
	Kind   ActKind
	Layout ActLayout
	ActParams
	N, F     int
	Gate, Up Buffer
}

// Gated reports whether the activation is multiplied by a second operand.
func (a *ActArgs) Gated() bool { return a.Layout != Separate || a.Up != nil }

// GateLen is the number of elements of Gate.
func (a *ActArgs) GateLen() int {
	if a.Layout == Separate {
		return a.N * a.F
	}
	return 2 * a.N * a.F
}

// AddArgs: y = Alpha·A + Beta·B over N elements; B nil: y = Alpha·A. Each of the
// three is F32, BF16 or F16, so that Add also converts.
type AddArgs struct {
	N           int
	A, B        Buffer
	Alpha, Beta float32
}

// MulBy says along which dimension of X [N, C] the factors lie.
type MulBy uint8

const (
	ByElement MulBy = iota // S [N, C]
	ByRow                  // S [N]: one factor a row
	ByCol                  // S [C]: one factor a column
)

// MulArgs: y = X·S + Bias.
type MulArgs struct {
	N, C int
	X, S Buffer
	By   MulBy
	Bias Buffer // [C], with ByCol only; nil: none
}

// Factors is the number of elements of S.
func (a *MulArgs) Factors() int {
	switch a.By {
	case ByRow:
		return a.N
	case ByCol:
		return a.C
	}
	return a.N * a.C
}

// Copy2DArgs: y[YOff + r·YStride + c] = X[XOff + r·XStride + c] for Rows rows of
// Cols elements: columns of a matrix taken out, put in or moved. Offsets and
// strides count elements; source and destination must not overlap.
type Copy2DArgs struct {
	Rows, Cols    int
	X             Buffer
	XOff, XStride int
	YOff, YStride int
}
