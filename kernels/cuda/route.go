package cuda

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// routeArgs is RouteArgs of route.cu.
type routeArgs struct {
	logits                                       elems
	dlogits                                      dest
	bias, dweight, dprobs, chosen                driver.Ptr
	idx, token, place, group                     driver.Ptr
	weight, probs, work                          driver.Ptr
	n                                            int64
	e, k, kind, groups, topGroups, best2, renorm int32
	eps, scale, jitter                           float32
}

func routeOf(a *kernels.RouteArgs) *routeArgs {
	if a.K < 1 || a.K > a.E {
		panic(fmt.Sprintf("cuda: route: %d of %d experts", a.K, a.E))
	}
	if a.Groups > 0 && (a.E%a.Groups != 0 || a.TopGroups < 1 || a.TopGroups > a.Groups || a.K > a.E/a.Groups*a.TopGroups) {
		panic(fmt.Sprintf("cuda: route: %d of %d experts in the best %d of %d groups", a.K, a.E, a.TopGroups, a.Groups))
	}
	return &routeArgs{logits: elemsOf("route: logits", a.Logits, a.N*a.E), bias: f32("route: bias", a.Bias, a.E), chosen: i32("route: chosen", a.Chosen, a.N*a.K),
		n: int64(a.N), e: int32(a.E), k: int32(a.K), kind: int32(a.Kind), groups: int32(a.Groups), topGroups: int32(a.TopGroups), best2: flag(a.Best2), renorm: flag(a.Renorm),
		eps: a.Eps, scale: alphaOf(a.Scale), jitter: a.Jitter}
}

// routingOf is the numbers in float64 that a router works in: probabilities and choices of n tokens, e experts, k chosen.
func routingOf(n, e, k int) int { return n * (3*e + 2*k) }

// routing takes the scratch memory of a router.
func (c *CUDA) routing(r *routeArgs) *Buf {
	b := c.scratch(dtype.F64, routingOf(int(r.n), int(r.e), int(r.k)))
	r.work = ptr(b)
	return b
}

// Route chooses the experts of every token, weighs them and sorts the choices.
func (c *CUDA) Route(out *kernels.RouteOut, a *kernels.RouteArgs) {
	r, n := routeOf(a), a.N*a.K
	r.idx, r.weight, r.token, r.place = i32("route: idx", out.Idx, n), f32("route: weight", out.Weight, n), i32("route: token", out.Token, n), i32("route: place", out.Place, n)
	r.group, r.probs = i32("route: group", out.Group, a.E+1), f32("route: probs", out.Probs, a.E)
	defer c.Free(c.routing(r))
	each(c, "route", a.N, r)
	if r.probs != 0 {
		each(c, "route_probs", a.E, r)
	}
	each(c, "route_count", a.E, r)
	launch(c, "route_offsets", driver.Dim{X: 1, Y: 1, Z: 1}, driver.Dim{X: 1, Y: 1, Z: 1}, 0, r)
	each(c, "route_place", a.E, r)
}

// RouteBackward computes the gradient of the logits, token by token.
func (c *CUDA) RouteBackward(dlogits kernels.Dst, dweight, dprobs kernels.Buffer, out *kernels.RouteOut, a *kernels.RouteArgs) {
	if dlogits.Skip() {
		return
	}
	r := routeOf(a)
	r.dlogits, r.idx = destOf("route backward: dlogits", dlogits, a.N*a.E), i32("route backward: idx", out.Idx, a.N*a.K)
	r.dweight, r.dprobs = f32("route backward: dweight", dweight, a.N*a.K), f32("route backward: dprobs", dprobs, a.E)
	defer c.Free(c.routing(r))
	each(c, "route_grad", a.N, r)
}
