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

// One parameter under a rule that looks at elements (kernels/optim/element.go): each
// operation is rounded, in the order of torch's. Rules are numbered as kernels.OptimKind.
enum { ADAMW, SGD, RMSPROP, ADAGRAD, LION, ADEMAMIX, ADOPT, ADAN, FREE_ADAMW, FREE_SGD, LERP };

// Moment is a state: values, or codes of 8 bits with the largest magnitude of every
// 256 and the values of all codes, which ascend.
struct Moment { float* v; u8* codes; float* absmax; const float* book; };

struct OptimArgs {
  float* p;
  const float *g, *sum_sq;
  Moment m[4];
  double max_norm;
  i64 n;
  int kind, states, first, late, nesterov, centered;
  float keep, decay, lr, size, size2, eps; // decay: added to the gradient
  float b1, r1, b2, r2, b3, r3, root, alpha, limit, share, take;
  int pad;
};

__device__ inline float clamp(float v, float limit) { return fminf(fmaxf(v, -limit), limit); }

// update is the parameter after the step; s are its states.
__device__ inline float update(const OptimArgs& a, float p, float g, float* s) {
  switch (a.kind) {
  case ADAMW: {
    float d = g + a.decay * p, m = s[0] = s[0] + a.r1 * (d - s[0]), v = s[1] = s[1] * a.b2 + a.r2 * (d * d);
    if (a.states > 2) v = s[2] = fmaxf(s[2], v);
    float u = a.size * m / (sqrtf(v) / a.root + a.eps);
    return a.late ? (p + u) * a.keep : p * a.keep + u;
  }
  case SGD: {
    float d = g + a.decay * p;
    if (a.states) {
      float m = s[0] = a.b1 * s[0] + a.take * d;
      d = a.nesterov ? d + a.b1 * m : m;
    }
    return p - a.lr * d;
  }
  case RMSPROP: {
    float d = g + a.decay * p, v = s[0] = a.b2 * s[0] + a.r2 * (d * d);
    bool fast = a.b1 > 0; // the mean is the last state
    if (a.centered) {
      float mean = fast ? s[2] : s[1];
      mean += a.r2 * (d - mean);
      v -= mean * mean;
      if (fast) s[2] = mean;
      else s[1] = mean;
    }
    d /= sqrtf(v) + a.eps;
    if (fast) d = s[1] = a.b1 * s[1] + d;
    return p - a.lr * d;
  }
  case ADAGRAD: {
    float d = g + a.decay * p;
    s[0] += d * d;
    return p - a.lr * d / (sqrtf(s[0] + a.share) + a.eps);
  }
  case LION: {
    float u = a.b1 * s[0] + a.r1 * g;
    p *= a.keep;
    p = u > 0 ? p - a.lr : u < 0 ? p + a.lr : p;
    s[0] = a.b2 * s[0] + a.r2 * g;
    return p;
  }
  case ADEMAMIX: {
    s[0] = a.b1 * s[0] + a.r1 * g, s[1] = a.b3 * s[1] + a.r3 * g, s[2] = a.b2 * s[2] + a.r2 * (g * g);
    float u = (s[0] / a.take + a.alpha * s[1]) / (sqrtf(s[2]) / a.root + a.eps);
    return p * a.keep - a.lr * u;
  }
  case ADOPT: {
    float d = g + a.decay * p;
    p *= a.keep;
    if (a.first) { s[1] = d * d; return p; }
    float u = clamp(d / fmaxf(sqrtf(s[1]), a.eps), a.limit);
    s[0] += a.r1 * (u - s[0]);
    s[1] = a.b2 * s[1] + a.r2 * (d * d);
    return p - a.lr * s[0];
  }
  case ADAN: {
    float change = a.first ? 0 : g - s[3];
    s[0] = a.b1 * s[0] + a.r1 * g, s[1] = a.b2 * s[1] + a.r2 * change;
    float n = g + a.b2 * change;
    s[2] = a.b3 * s[2] + a.r3 * (n * n), s[3] = g;
    float den = sqrtf(s[2]) / a.root + a.eps;
    return (p - a.size * s[0] / den - a.size2 * s[1] / den) / a.keep;
  }
  case FREE_ADAMW: case FREE_SGD: {
    if (a.kind == FREE_ADAMW) {
      s[1] = a.b2 * s[1] + a.r2 * (g * g);
      g /= sqrtf(s[1]) / a.root + a.eps;
    }
    g += a.decay * p;
    p = p + a.share * (s[0] - p) + a.size * g;
    s[0] -= a.lr * g;
    return p;
  }
  default: return p + a.b1 * (g - p); // LERP
  }
}

// code is the code of the value nearest to v; a tie goes to the smaller.
__device__ inline int code(const float* book, float v) {
  int low = 0, high = 255; // the midpoints below v
  while (low < high) {
    int mid = (low + high) / 2;
    if (v > (book[mid] + book[mid + 1]) / 2) low = mid + 1;
    else high = mid;
  }
  return low;
}

// A block of 256 threads has a block of 8-bit states.
KERNEL(optim, OptimArgs) {
  __shared__ float red[32];
  i64 i = thread();
  float clip = 1, s[4] = {};
  if (a.sum_sq) {
    double norm = sqrt((double)*a.sum_sq);
    if (!(norm < 1e300)) return; // not finite: nothing is changed
    if (a.max_norm > 0) clip = fminf(1, (float)(a.max_norm / (norm + 1e-6)));
  }
  bool here = i < a.n;
#pragma unroll
  for (int k = 0; k < 4; k++)
    if (here && k < a.states) s[k] = a.m[k].codes ? a.m[k].book[a.m[k].codes[i]] * a.m[k].absmax[blockIdx.x] : a.m[k].v[i];
  if (here) a.p[i] = update(a, a.p[i], a.g[i] * clip, s);
#pragma unroll
  for (int k = 0; k < 4; k++) {
    if (k >= a.states) continue;
    if (!a.m[k].codes) {
      if (here) a.m[k].v[i] = s[k];
      continue;
    }
    float top = block_max(here ? fabsf(s[k]) : 0, red);
    if (here) a.m[k].codes[i] = code(a.m[k].book, s[k] * (1 / fmaxf(top, 1e-38f)));
    if (threadIdx.x == 0) a.m[k].absmax[blockIdx.x] = top;
  }
}
