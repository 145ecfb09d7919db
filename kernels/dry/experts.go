package dry

import "github.com/tunekit/tunekit/kernels"

// Route counts what it reads and writes.
func (d *Dry) Route(out *kernels.RouteOut, a *kernels.RouteArgs) {
	need("route: logits", a.Logits, a.N*a.E)
	need("route: bias", a.Bias, a.E)
	need("route: chosen", a.Chosen, a.N*a.K)
	for _, b := range []kernels.Buffer{out.Idx, out.Weight, out.Token, out.Place} {
		need("route: out", b, a.N*a.K)
	}
	need("route: group", out.Group, a.E+1)
	need("route: probs", out.Probs, a.E)
	d.works(func(w kernels.Working) int64 { return w.Route(a) })
	d.add("Route", moved(a.Logits, out.Idx, out.Weight, out.Token, out.Place))
}

// RouteBackward counts what it reads and writes.
func (d *Dry) RouteBackward(dlogits kernels.Dst, dweight, dprobs kernels.Buffer, out *kernels.RouteOut, a *kernels.RouteArgs) {
	need("route backward: logits", a.Logits, a.N*a.E)
	need("route backward: dlogits", dlogits.Buffer, a.N*a.E)
	need("route backward: dweight", dweight, a.N*a.K)
	need("route backward: dprobs", dprobs, a.E)
	need("route backward: idx", out.Idx, a.N*a.K)
	d.works(func(w kernels.Working) int64 { return w.Route(a) })
	d.add("RouteBackward", moved(a.Logits, dlogits.Buffer, dweight, out.Idx))
}
