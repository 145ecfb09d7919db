package dry

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
)

// Norm counts what it reads and writes.
func (d *Dry) Norm(y, sum kernels.Dst, stats kernels.Buffer, a *kernels.NormArgs) {
	for _, b := range []kernels.Buffer{y.Buffer, sum.Buffer, a.X, a.Res} {
		need("norm", b, a.N*a.C)
	}
	needNorm(stats, a)
	d.add("Norm", moved(y.Buffer, sum.Buffer, a.X, a.Res))
}

// NormBackward counts what it reads and writes.
func (d *Dry) NormBackward(dx, dw, db kernels.Dst, dy, stats kernels.Buffer, a *kernels.NormArgs) {
	for _, b := range []kernels.Buffer{dx.Buffer, dy, a.X} {
		need("norm backward", b, a.N*a.C)
	}
	need("norm backward: dw", dw.Buffer, a.WeightRows()*a.C)
	need("norm backward: db", db.Buffer, a.WeightRows()*a.C)
	needNorm(stats, a)
	d.add("NormBackward", moved(dx.Buffer, dy, a.X))
}

func needNorm(stats kernels.Buffer, a *kernels.NormArgs) {
	need("norm: w", a.W, a.WeightRows()*a.C)
	need("norm: bias", a.Bias, a.WeightRows()*a.C)
	need("norm: stats", stats, a.N*a.Kind.StatsLen())
	if a.N%a.WeightRows() != 0 {
		panic(fmt.Sprintf("dry: norm: %d rows of %d heads", a.N, a.Heads))
	}
}

// Act counts what it reads and writes.
func (d *Dry) Act(y kernels.Dst, a *kernels.ActArgs) {
	need("act: y", y.Buffer, a.N*a.F)
	needAct(a)
	d.add("Act", moved(y.Buffer, a.Gate, a.Up))
}

// ActBackward counts what it reads and writes.
func (d *Dry) ActBackward(dgate, dup kernels.Dst, dy kernels.Buffer, a *kernels.ActArgs) {
	need("act backward: dgate", dgate.Buffer, a.GateLen())
	need("act backward: dup", dup.Buffer, a.N*a.F)
	need("act backward: dy", dy, a.N*a.F)
	needAct(a)
	d.add("ActBackward", moved(dgate.Buffer, dup.Buffer, dy, a.Gate, a.Up))
}

// Sinkhorn counts what it reads and writes.
func (d *Dry) Sinkhorn(y kernels.Dst, a *kernels.SinkhornArgs) {
	need("sinkhorn: x", a.X, a.N*a.S*a.S)
	need("sinkhorn: y", y.Buffer, a.N*a.S*a.S)
	d.works(func(w kernels.Working) int64 { return w.Sinkhorn(a) })
	d.add("Sinkhorn", moved(y.Buffer, a.X))
}

// SinkhornBackward counts what it reads and writes.
func (d *Dry) SinkhornBackward(dx kernels.Dst, dy kernels.Buffer, a *kernels.SinkhornArgs) {
	for _, b := range []kernels.Buffer{dx.Buffer, dy, a.X} {
		need("sinkhorn backward", b, a.N*a.S*a.S)
	}
	d.works(func(w kernels.Working) int64 { return w.SinkhornBackward(a) })
	d.add("SinkhornBackward", moved(dx.Buffer, dy, a.X))
}

func needAct(a *kernels.ActArgs) {
	need("act: gate", a.Gate, a.GateLen())
	need("act: up", a.Up, a.N*a.F)
}

// Add counts what it reads and writes.
func (d *Dry) Add(y kernels.Dst, a *kernels.AddArgs) {
	for _, x := range []kernels.Buffer{y.Buffer, a.A, a.B} {
		need("add", x, a.N)
	}
	d.add("Add", moved(y.Buffer, a.A, a.B))
}

// Mul counts what it reads and writes.
func (d *Dry) Mul(y kernels.Dst, a *kernels.MulArgs) {
	need("mul: y", y.Buffer, a.N*a.C)
	needMul(a)
	d.add("Mul", moved(y.Buffer, a.X, a.S, a.Bias))
}

// MulBackward counts what it reads and writes.
func (d *Dry) MulBackward(dx, ds, dbias kernels.Dst, dy kernels.Buffer, a *kernels.MulArgs) {
	need("mul backward: dx", dx.Buffer, a.N*a.C)
	need("mul backward: ds", ds.Buffer, a.Factors())
	need("mul backward: dbias", dbias.Buffer, a.C)
	need("mul backward: dy", dy, a.N*a.C)
	needMul(a)
	d.add("MulBackward", moved(dx.Buffer, ds.Buffer, dy, a.X, a.S))
}

func needMul(a *kernels.MulArgs) {
	need("mul: x", a.X, a.N*a.C)
	need("mul: s", a.S, a.Factors())
	need("mul: bias", a.Bias, a.C)
}

// Copy2D counts what it reads and writes.
func (d *Dry) Copy2D(y kernels.Dst, a *kernels.Copy2DArgs) {
	if y.Skip() || a.Rows == 0 || a.Cols == 0 {
		return
	}
	need("copy2d: x", a.X, a.XOff+(a.Rows-1)*a.XStride+a.Cols)
	need("copy2d: y", y.Buffer, a.YOff+(a.Rows-1)*a.YStride+a.Cols)
	size := a.X.Type().Kind.Info().Bytes + y.Type().Kind.Info().Bytes
	d.add("Copy2D", Work{Moved: float64(size) * float64(a.Rows) * float64(a.Cols)})
}
