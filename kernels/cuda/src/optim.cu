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

// One span of parameters. Each operation is rounded, in the order of torch's.
enum { ADAMW, SGD };
struct OptimArgs {
  float *p, *m, *v;
  const float *g, *sum_sq;
  double max_norm;
  i64 n;
  int kind;
  float keep, lerp, beta2, one_beta2, root, eps, step; // of AdamW
  float lr, momentum, decay;                          // of SGD
  int pad;
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
  float g = a.g[i] * clip, p = a.p[i];
  if (a.kind == SGD) {
    g = g + a.decay * p;
    if (a.m) g = a.m[i] = a.momentum * a.m[i] + g;
    a.p[i] = p - a.lr * g;
    return;
  }
  p = p * a.keep;
  float m = a.m[i], v = a.v[i];
  m = m + a.lerp * (g - m);
  v = v * a.beta2 + a.one_beta2 * (g * g);
  a.m[i] = m;
  a.v[i] = v;
  a.p[i] = p + a.step * m / (sqrtf(v) / a.root + a.eps);
}
