// Sums and update rules.

// out = Σ(x-y)², y absent: Σx², in f64: parts of 16384 elements, then the parts
// in order.
struct SumArgs { const float *x, *y; double* parts; Dst out; i64 n; };
KERNEL(sum_parts, SumArgs) {
  __shared__ double red[256];
  i64 lo = (i64)blockIdx.x * 16384, hi = min(lo + 16384, a.n);
  double s = 0;
  for (i64 i = lo + threadIdx.x; i < hi; i += 256) {
    double d = a.x[i];
    if (a.y) d -= a.y[i];
    s += d * d;
  }
  red[threadIdx.x] = s;
  for (int o = 128; o > 0; o >>= 1) {
    __syncthreads();
    if (threadIdx.x < o) red[threadIdx.x] += red[threadIdx.x + o];
  }
  if (threadIdx.x == 0) a.parts[blockIdx.x] = red[0];
}

KERNEL(sum_fold, SumArgs) {
  double s = 0;
  for (i64 i = 0; i < a.n; i++) s += a.parts[i];
  put(a.out, 0, (float)s);
}

// One parameter under an update rule. Each operation is rounded, in the order of
// torch's.
enum { ADAMW, SGD };
struct OptimArgs {
  float *p, *m, *v, *most; // most: the largest second moments (AMSGrad)
  const float *g, *sum_sq;
  double max_norm;
  i64 n;
  int kind, late, nesterov;
  float keep, l2, lerp, beta2, rest, root, eps, step; // of AdamW
  float lr, momentum, take;                           // of SGD, whose decay is l2
};

KERNEL(optim, OptimArgs) {
  i64 i = thread();
  if (i >= a.n) return;
  float clip = 1;
  if (a.sum_sq) {
    double norm = sqrt((double)*a.sum_sq);
    if (!(norm < 1e300)) return; // not finite: nothing is changed
    if (a.max_norm > 0) clip = fminf(1, (float)(a.max_norm / (norm + 1e-6)));
  }
  float p = a.p[i], g = a.g[i] * clip + a.l2 * p;
  if (a.kind == SGD) {
    if (a.m) {
      float m = a.m[i] = a.momentum * a.m[i] + a.take * g;
      g = a.nesterov ? g + a.momentum * m : m;
    }
    a.p[i] = p - a.lr * g;
    return;
  }
  float m = a.m[i], v = a.v[i];
  a.m[i] = m = m + a.lerp * (g - m);
  a.v[i] = v = v * a.beta2 + a.rest * (g * g);
  if (a.most) a.most[i] = v = fmaxf(a.most[i], v);
  float u = a.step * m / (sqrtf(v) / a.root + a.eps);
  a.p[i] = a.late ? (p + u) * a.keep : p * a.keep + u;
}
