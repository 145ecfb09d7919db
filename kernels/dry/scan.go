package dry

import "github.com/tunekit/tunekit/kernels"

// Conv1D counts what it reads and writes.
func (d *Dry) Conv1D(y kernels.Dst, a *kernels.ConvArgs) {
	needConv(a)
	need("conv1d: y", y.Buffer, a.N*a.C)
	d.add("Conv1D", moved(a.X, y.Buffer))
}

// Conv1DBackward counts what it reads and writes.
func (d *Dry) Conv1DBackward(dx, dw, db kernels.Dst, dy kernels.Buffer, a *kernels.ConvArgs) {
	needConv(a)
	need("conv1d backward: dx", dx.Buffer, a.N*a.C)
	need("conv1d backward: dw", dw.Buffer, a.C*a.Taps)
	need("conv1d backward: db", db.Buffer, a.C)
	need("conv1d backward: dy", dy, a.N*a.C)
	d.works(func(w kernels.Working) int64 { return w.Conv1DBackward(dw, db, a) })
	d.add("Conv1DBackward", moved(a.X, dy, dx.Buffer))
}

func needConv(a *kernels.ConvArgs) {
	need("conv1d: x", a.X, a.N*a.C)
	need("conv1d: w", a.W, a.C*a.Taps)
	need("conv1d: bias", a.Bias, a.C)
}

// A token of a scan costs a head a few passes over its state: decay, update and
// read of the forward; the backward makes the states twice and goes back
// through them at about twice the price.
const (
	scanPasses     = 3
	scanBackPasses = 4 * scanPasses
)

// DeltaScan counts the passes over the states.
func (d *Dry) DeltaScan(o, q, k, v kernels.Heads, a *kernels.DeltaArgs) {
	needDelta(q, k, v, a)
	needHeads("delta scan: o", o, a.N, a.H, a.Dv)
	d.works(func(w kernels.Working) int64 { return w.DeltaScan(a) })
	d.add("DeltaScan", Work{Attention: scanPasses * product(a.N*a.H, a.Dk, a.Dv)})
}

// DeltaScanBackward counts the passes over the states.
func (d *Dry) DeltaScanBackward(g *kernels.DeltaGrads, do, q, k, v kernels.Heads, a *kernels.DeltaArgs) {
	needDelta(q, k, v, a)
	needHeads("delta scan backward: do", do, a.N, a.H, a.Dv)
	needHeads("delta scan backward: dq", g.Q, a.N, a.K, a.Dk)
	needHeads("delta scan backward: dk", g.K, a.N, a.K, a.Dk)
	needHeads("delta scan backward: dv", g.V, a.N, a.H, a.Dv)
	need("delta scan backward: dgate", g.Gate.Buffer, a.N*a.H)
	need("delta scan backward: dbeta", g.Beta.Buffer, a.N*a.H)
	need("delta scan backward: dalog", g.ALog.Buffer, a.H)
	need("delta scan backward: ddtbias", g.DtBias.Buffer, a.H)
	d.works(func(w kernels.Working) int64 { return w.DeltaScanBackward(g, a) })
	d.add("DeltaScanBackward", Work{Attention: scanBackPasses * product(a.N*a.H, a.Dk, a.Dv)})
}

func needDelta(q, k, v kernels.Heads, a *kernels.DeltaArgs) {
	needHeads("delta scan: q", q, a.N, a.K, a.Dk)
	needHeads("delta scan: k", k, a.N, a.K, a.Dk)
	needHeads("delta scan: v", v, a.N, a.H, a.Dv)
	need("delta scan: gate", a.Gate, a.N*a.H)
	need("delta scan: beta", a.Beta, a.N*a.H)
}

// SSMScan counts the passes over the states.
func (d *Dry) SSMScan(y, x, b, c kernels.Heads, a *kernels.SSMArgs) {
	needSSM(x, b, c, a)
	needHeads("ssm scan: y", y, a.N, a.H, a.P)
	d.works(func(w kernels.Working) int64 { return w.SSMScan(a) })
	d.add("SSMScan", Work{Attention: scanPasses * product(a.N*a.H, a.P, a.S)})
}

// SSMScanBackward counts the passes over the states.
func (d *Dry) SSMScanBackward(g *kernels.SSMGrads, dy, x, b, c kernels.Heads, a *kernels.SSMArgs) {
	needSSM(x, b, c, a)
	needHeads("ssm scan backward: dy", dy, a.N, a.H, a.P)
	needHeads("ssm scan backward: dx", g.X, a.N, a.H, a.P)
	needHeads("ssm scan backward: db", g.B, a.N, a.G, a.S)
	needHeads("ssm scan backward: dc", g.C, a.N, a.G, a.S)
	need("ssm scan backward: ddt", g.Dt.Buffer, a.N*a.H)
	need("ssm scan backward: ddtbias", g.DtBias.Buffer, a.H)
	need("ssm scan backward: dalog", g.ALog.Buffer, a.H)
	need("ssm scan backward: dd", g.D.Buffer, a.H)
	d.works(func(w kernels.Working) int64 { return w.SSMScanBackward(g, a) })
	d.add("SSMScanBackward", Work{Attention: scanBackPasses * product(a.N*a.H, a.P, a.S)})
}

func needSSM(x, b, c kernels.Heads, a *kernels.SSMArgs) {
	needHeads("ssm scan: x", x, a.N, a.H, a.P)
	needHeads("ssm scan: b", b, a.N, a.G, a.S)
	needHeads("ssm scan: c", c, a.N, a.G, a.S)
	need("ssm scan: dt", a.Dt, a.N*a.H)
	need("ssm scan: alog", a.ALog, a.H)
}
