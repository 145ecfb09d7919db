// Update rules that look at whole parameters (kernels/optim/whole.go, factored.go):
// moments, sums in f64 with a fixed tree, and then the step, which reads them.
enum { STABLE = 11, LAMB, ADAM_MINI, ADAFACTOR, TORCH_ADAFACTOR, CAME, PRODIGY };

// What the sums of a parameter are of, in their order in totals.
enum { SUM_UPDATE, SUM_P, MEAN_ROW, MEAN_RES, SUM_NUMERATOR = 0, SUM_DENOMINATOR };

struct WholeArgs {
  float* p;
  const float *g, *sum_sq;
  float *m, *v, *row, *col; // v or row and col: the second moment
  float *res_row, *res_col; // CAME's of what strays
  float *p0, *sum, *common; // Prodigy's
  double *parts, *totals;
  double max_norm, eps, eps2, max_rms, lr, decay;  // lr: already the step's
  double d0, b1, b2, b3, correct, coef, growth;    // Prodigy's
  i64 n, block; // block: numbers of a sum, or elements of AdamMini's second moment
  int rows, cols, kind, what, scale, matrix, has_m, slice, spans, l2, safeguard, stray;
  float keep, fb1, fr1, fb2, fr2, fb3, fr3, feps, size, root;
};

__device__ inline bool finite(const WholeArgs& a, float& clip) {
  clip = 1;
  if (!a.sum_sq) return true;
  double norm = sqrt((double)*a.sum_sq);
  if (!(norm < 1e300)) return false;
  if (a.max_norm > 0) clip = fminf(1, (float)(a.max_norm / (norm + 1e-6)));
  return true;
}

__device__ inline double rms(double sum, i64 n) { return sqrt(sum / n); }

// cut is what an update is divided by.
__device__ inline double cut(const WholeArgs& a) {
  double over = a.max_rms > 0 ? rms(a.totals[SUM_UPDATE], a.n) / a.max_rms : 1;
  return over > 1 ? over : 1;
}

__device__ inline float rsqrt_of(const float* row, const float* col, double mean, int r, int c) {
  return 1 / sqrtf(row[r] / (float)mean) * (1 / sqrtf(col[c]));
}

// factored is the update of Adafactor, its kin and CAME before it is cut.
__device__ inline float factored(const WholeArgs& a, i64 i, float g) {
  if (a.kind != TORCH_ADAFACTOR) return (a.matrix ? rsqrt_of(a.row, a.col, a.totals[MEAN_ROW], i / a.cols, i % a.cols) : 1 / sqrtf(a.v[i])) * g;
  double mean = a.totals[MEAN_ROW] > a.eps ? a.totals[MEAN_ROW] : a.eps;
  float v = a.matrix ? a.row[i / a.cols] * a.col[i % a.cols] / (float)mean : a.v[i];
  return 1 / sqrtf(fmaxf(v, (float)(a.eps * a.eps))) * g;
}

// came is CAME's update.
__device__ inline float came(const WholeArgs& a, i64 i, float g) { return (float)(1 / cut(a)) * factored(a, i, g); }

// distance is Prodigy's estimate before the step.
__device__ inline double distance(const WholeArgs& a) { return a.common[3] == 0 ? (double)(float)a.d0 : (double)a.common[0]; }

// The moments of elements.
KERNEL(whole_moments, WholeArgs) {
  i64 i = thread();
  float clip;
  if (i >= a.n || !finite(a, clip)) return;
  float g = a.g[i] * clip;
  switch (a.kind) {
  case STABLE: case LAMB:
    a.m[i] = a.fb1 * a.m[i] + a.fr1 * g;
    a.v[i] = a.fb2 * a.v[i] + a.fr2 * (g * g);
    if (a.kind == LAMB) a.p[i] *= a.keep;
    return;
  case ADAFACTOR: case TORCH_ADAFACTOR: // a vector
    a.v[i] = a.fb2 * a.v[i] + a.fr2 * (g * g + a.feps);
    return;
  case CAME:
    if (a.what == 0) a.v[i] = a.fb2 * a.v[i] + a.fr2 * (g * g + a.feps);
    else a.m[i] = a.fb1 * a.m[i] + a.fr1 * came(a, i, g);
    return;
  }
  // PRODIGY
  double d = distance(a), d0 = (float)a.d0, guarded = d / d0 * d;
  if (a.l2) g += (float)a.decay * a.p[i];
  a.m[i] = a.fb1 * a.m[i] + (float)(d * (1 - a.b1)) * g;
  a.v[i] = a.fb2 * a.v[i] + (float)(d * d * (1 - a.b2)) * (g * g);
  float weight = a.safeguard ? (float)guarded : (float)(guarded / d * (d * a.lr * a.correct));
  if (i % a.slice == 0) a.sum[i / a.slice] = a.fb3 * a.sum[i / a.slice] + weight * g;
}

// squared is what the averages of rows and columns are of.
__device__ inline double squared(const WholeArgs& a, i64 i, float clip) {
  double x = a.stray ? came(a, i, a.g[i] * clip) - a.m[i] : a.g[i] * clip;
  return x * x;
}

// Averages of rows, one block each.
KERNEL(whole_rows, WholeArgs) {
  __shared__ double red[256];
  float clip;
  if (!finite(a, clip)) return;
  double sum = 0;
  for (int c = threadIdx.x; c < a.cols; c += 256) sum += squared(a, (i64)blockIdx.x * a.cols + c, clip);
  red[threadIdx.x] = sum;
  for (int o = 128; o > 0; o >>= 1) {
    __syncthreads();
    if (threadIdx.x < o) red[threadIdx.x] += red[threadIdx.x + o];
  }
  float* row = a.stray ? a.res_row : a.row;
  if (threadIdx.x == 0) row[blockIdx.x] = a.fb2 * row[blockIdx.x] + a.fr2 * ((float)(red[0] / a.cols) + a.feps);
}

// Averages of columns, one thread each.
KERNEL(whole_cols, WholeArgs) {
  int c = blockIdx.x * blockDim.x + threadIdx.x;
  float clip;
  if (c >= a.cols || !finite(a, clip)) return;
  double sum = 0;
  for (int r = 0; r < a.rows; r++) sum += squared(a, (i64)r * a.cols + c, clip);
  float* col = a.stray ? a.res_col : a.col;
  col[c] = a.fb2 * col[c] + a.fr2 * ((float)(sum / a.rows) + a.feps);
}

// term is element i of a sum.
__device__ inline double term(const WholeArgs& a, i64 i, float clip) {
  float g = a.g[i] * clip;
  double x = 0;
  if (a.kind == PRODIGY) {
    if (a.what == SUM_DENOMINATOR) return fabs((double)a.sum[i]);
    if (i % a.slice) return 0;
    if (a.l2) g += (float)a.decay * a.p[i];
    return (double)g * (double)(a.p0[i / a.slice] - a.p[i]);
  }
  if (a.what == MEAN_ROW) return a.row[i];
  if (a.what == MEAN_RES) return a.res_row[i];
  if (a.what == SUM_P) x = a.p[i];
  else if (a.kind == STABLE) {
    double v = a.v[i], least = a.eps * a.eps;
    return (double)g * g / (v > least ? v : least);
  } else if (a.kind == LAMB) x = a.m[i] / (sqrtf(a.v[i]) + a.feps);
  else x = factored(a, i, g);
  return x * x;
}

// A sum over a.block numbers, in parts.
KERNEL(whole_sum, WholeArgs) {
  __shared__ double red[256];
  float clip;
  if (!finite(a, clip)) return;
  i64 lo = (i64)blockIdx.x * 16384, hi = min(lo + 16384, a.block);
  double s = 0;
  for (i64 i = lo + threadIdx.x; i < hi; i += 256) s += term(a, i, clip);
  red[threadIdx.x] = s;
  for (int o = 128; o > 0; o >>= 1) {
    __syncthreads();
    if (threadIdx.x < o) red[threadIdx.x] += red[threadIdx.x + o];
  }
  if (threadIdx.x == 0) a.parts[blockIdx.x] = red[0];
}

KERNEL(whole_fold, WholeArgs) {
  float clip;
  if (!finite(a, clip)) return;
  double s = 0;
  for (i64 i = 0; i * 16384 < a.block; i++) s += a.parts[i];
  a.totals[a.what] = a.what >= MEAN_ROW ? s / a.block : s;
}

// The step.
KERNEL(whole_step, WholeArgs) {
  i64 i = thread();
  float clip;
  if (i >= a.n || !finite(a, clip)) return;
  float p = a.p[i], g = a.g[i] * clip;
  switch (a.kind) {
  case STABLE: {
    double over = rms(a.totals[SUM_UPDATE], a.n), lr = a.lr / (over > 1 ? over : 1);
    p = p * (float)(1 - lr * a.decay) - (float)lr * a.m[i] / (sqrtf(a.v[i]) + a.feps);
    break;
  }
  case LAMB: {
    double norm = sqrt(a.totals[SUM_UPDATE]), w = sqrt(a.totals[SUM_P]), ratio = 1;
    if (w > 10) w = 10;
    if (w > 0 && norm > 0) ratio = w / (norm + a.eps);
    p -= (float)(a.lr * ratio) * (a.m[i] / (sqrtf(a.v[i]) + a.feps));
    break;
  }
  case ADAFACTOR: {
    double own = rms(a.totals[SUM_P], a.n), lr = a.scale ? a.lr * (own > a.eps2 ? own : a.eps2) : a.lr;
    float u = (float)(lr / cut(a)) * factored(a, i, g);
    if (a.has_m) u = a.m[i] = a.fb1 * a.m[i] + a.fr1 * u;
    p = p * (float)(1 - lr * a.decay) - u;
    break;
  }
  case TORCH_ADAFACTOR: {
    double own = rms(a.totals[SUM_P], a.n), alpha = (own > a.eps2 ? own : a.eps2) * a.lr;
    p = p * a.keep - (float)(alpha / cut(a)) * factored(a, i, g);
    break;
  }
  case CAME: {
    float sure = a.matrix ? rsqrt_of(a.res_row, a.res_col, a.totals[MEAN_RES], i / a.cols, i % a.cols) : 1;
    p = p * a.keep - (float)a.lr * (sure * a.m[i]);
    break;
  }
  default: { // PRODIGY; totals of all spans, then the rate and the estimate
    const double* t = a.totals;
    if (!(t[1] > 0)) return; // no denominator: no step
    p = p * (a.l2 ? 1 : (float)(1 - a.decay * t[0])) - (float)t[0] * a.m[i] / (sqrtf(a.v[i]) + (float)(t[1] * a.eps));
  }
  }
  a.p[i] = p;
}

// Prodigy's estimate from the sums of all spans, which lie two by two; behind them go
// the rate of the step and the new estimate.
KERNEL(prodigy_next, WholeArgs) {
  float clip;
  if (!finite(a, clip)) return;
  float* c = a.common;
  double d = distance(a), top = c[3] == 0 ? d : (double)c[1], d0 = (float)a.d0, numerator = (c[3] == 0 ? 0 : (double)c[2]) * a.b3, denominator = 0;
  double rate = d * a.lr * a.correct, *out = a.totals + 2 * a.spans;
  if (c[3] == 0) c[0] = c[1] = (float)a.d0, c[2] = 0, c[3] = 1;
  for (int s = 0; s < a.spans; s++) {
    numerator += d / d0 * rate * a.totals[2 * s];
    denominator += a.totals[2 * s + 1];
  }
  out[0] = rate, out[1] = 0;
  if (denominator == 0) return;
  double next = d;
  if (a.lr > 0) {
    double hat = a.coef * numerator / denominator;
    if (d == d0 && hat > next) next = hat;
    if (hat > top) top = hat;
    double grown = a.growth > 0 ? next * a.growth : top;
    next = top < grown ? top : grown;
  }
  c[0] = (float)next, c[1] = (float)top, c[2] = (float)numerator;
  out[1] = next;
}

// AdamMini: one block has the elements of a second moment.
KERNEL(adam_mini, WholeArgs) {
  __shared__ double red[256];
  float clip;
  if (!finite(a, clip)) return;
  i64 lo = blockIdx.x * a.block;
  double sum = 0;
  for (i64 i = threadIdx.x; i < a.block; i += 256) {
    double d = a.g[lo + i] * clip;
    sum += d * d;
  }
  red[threadIdx.x] = sum;
  for (int o = 128; o > 0; o >>= 1) {
    __syncthreads();
    if (threadIdx.x < o) red[threadIdx.x] += red[threadIdx.x + o];
  }
  __syncthreads();
  float v = a.fb2 * a.v[blockIdx.x] + a.fr2 * (float)(red[0] / a.block), den = sqrtf(v) / a.root + a.feps;
  __syncthreads(); // all have read v
  if (threadIdx.x == 0) a.v[blockIdx.x] = v;
  for (i64 i = lo + threadIdx.x; i < lo + a.block; i += 256) {
    float m = a.m[i] = a.m[i] + a.fr1 * (a.g[i] * clip - a.m[i]);
    a.p[i] = a.p[i] * a.keep - a.size * m / den;
  }
}
