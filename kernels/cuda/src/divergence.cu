// What a model expects beside a teacher: kernels.DivergenceArgs. One block of 256
// threads a row; logarithms of probabilities are f64, as the differences of two
// near ones are what counts.

struct DivergenceArgs {
  Dst dlogits;
  const float *logits, *teacher, *top_logp, *coef;
  const int* top_ids;
  float *loss, *entropy;
  int v, top;
  float scale, teacher_scale, beta;
  int pad;
};

#define THREADS 256

__device__ inline double block_sum64(double v, double* red) {
  __syncthreads();
  red[threadIdx.x] = v;
  for (int o = THREADS / 2; o > 0; o >>= 1) {
    __syncthreads();
    if (threadIdx.x < o) red[threadIdx.x] += red[threadIdx.x + o];
  }
  __syncthreads();
  return red[0];
}

// Soft is softmax(scale·z) of a row.
struct Soft { const float* z; float scale, top; double sum, log_sum; };

__device__ inline float weight(const Soft& s, int j) { return expf(s.scale * (s.z[j] - s.top)); }
__device__ inline double log_of(const Soft& s, int j) { return (double)s.scale * ((double)s.z[j] - (double)s.top) - s.log_sum; }

__device__ inline Soft soft_of(const float* z, int v, float scale, double* red) {
  Soft s = {z, scale, -INF};
  for (int j = threadIdx.x; j < v; j += THREADS) s.top = fmaxf(s.top, z[j]);
  __syncthreads();
  s.top = block_max(s.top, (float*)red);
  double sum = 0;
  for (int j = threadIdx.x; j < v; j += THREADS) sum += weight(s, j);
  s.sum = block_sum64(sum, red);
  s.log_sum = log(s.sum);
  return s;
}

// Pair is the probabilities of a token and their logarithms: the model's and the
// teacher's.
struct Pair { double p, q, lp, lq; };

// mixture is the logarithm of beta·q + (1-beta)·p.
__device__ inline double mixture(double lp, double lq, double log_beta, double log_rest) {
  double a = log_beta + lq, b = log_rest + lp;
  double hi = a > b ? a : b;
  return hi + log1pf(expf((float)((a > b ? b : a) - hi)));
}

KERNEL(divergence, DivergenceArgs) {
  __shared__ double red[THREADS];
  extern __shared__ u32 marks[]; // a bit a token: it is one of the teacher's
  i64 n = blockIdx.x;
  Soft p = soft_of(a.logits + n * a.v, a.v, a.scale, red), q = {};
  const int* ids = a.top_ids + n * a.top;
  const float* logp = a.top_logp + n * a.top;
  double share = 0, log_share = 0, even = -log((double)a.v);
  if (a.teacher) {
    q = soft_of(a.teacher + n * a.v, a.v, a.teacher_scale, red);
  } else if (a.top) {
    for (int w = threadIdx.x; w < (a.v + 31) / 32; w += THREADS) marks[w] = 0;
    __syncthreads();
    double known = 0, left = 0;
    for (int k = 0; k < a.top; k++) {
      known += exp((double)logp[k]);
      if (threadIdx.x == 0) marks[ids[k] / 32] |= 1u << ids[k] % 32;
    }
    __syncthreads();
    for (int j = threadIdx.x; j < a.v; j += THREADS)
      if (!(marks[j / 32] >> j % 32 & 1)) left += weight(p, j) / p.sum;
    left = block_sum64(left, red);
    share = 1 - known > 0x1p-24 ? 1 - known : 0x1p-24;
    share /= left > 0x1p-149 ? left : 0x1p-149;
    log_share = log(share);
  }
  // Tokens in order, and then the teacher's own where they alone are known.
  auto pair = [&](int i, int& j) {
    Pair t;
    j = i < a.v ? i : ids[i - a.v];
    t.p = weight(p, j) / p.sum;
    t.lp = log_of(p, j);
    if (a.teacher) t.q = weight(q, j) / q.sum, t.lq = log_of(q, j);
    else if (!a.top) t.q = 1 / (double)a.v, t.lq = even;
    else if (i >= a.v) t.lq = logp[i - a.v], t.q = expf((float)t.lq);
    else t.q = t.p * share, t.lq = t.lp + log_share;
    return t;
  };
  bool marked = !a.teacher && a.top, mixed = a.beta > 0 && a.beta < 1;
  auto skipped = [&](int i) { return marked && i < a.v && marks[i / 32] >> i % 32 & 1; };
  double log_beta = mixed ? log((double)a.beta) : 0, log_rest = mixed ? log1p(-(double)a.beta) : 0;
  double loss = 0, entropy = 0, mean = 0;
  for (int i = threadIdx.x, j; i < a.v + a.top; i += THREADS) {
    if (skipped(i)) continue;
    Pair t = pair(i, j);
    double lm = mixed ? mixture(t.lp, t.lq, log_beta, log_rest) : t.lq;
    if (t.p > 0) {
      entropy -= t.p * t.lp;
      mean += t.p * ((mixed ? 1 - (double)a.beta : 1) * (t.lp - lm));
      if (a.beta > 0) loss += (mixed ? 1 - (double)a.beta : 1) * t.p * (t.lp - lm);
    }
    if (t.q > 0 && a.beta < 1) loss += (mixed ? (double)a.beta : 1) * t.q * (t.lq - (mixed ? lm : t.lp));
  }
  loss = block_sum64(loss, red);
  entropy = block_sum64(entropy, red);
  mean = block_sum64(mean, red);
  if (threadIdx.x == 0) {
    if (a.loss) a.loss[n] = loss > 0 ? (float)loss : loss == loss ? 0 : (float)loss;
    if (a.entropy) a.entropy[n] = (float)entropy;
  }
  if (!a.coef || !a.dlogits.p) return;
  double coef = (double)a.coef[n] * a.scale;
  for (int i = threadIdx.x, j; i < a.v + a.top; i += THREADS) {
    if (skipped(i)) continue;
    Pair t = pair(i, j);
    double g = 0;
    if (a.beta == 0) g = t.p - t.q;
    else if (t.p > 0) g = t.p * ((mixed ? 1 - (double)a.beta : 1) * (t.lp - (mixed ? mixture(t.lp, t.lq, log_beta, log_rest) : t.lq)) - mean);
    put(a.dlogits, n * a.v + j, (float)(coef * g));
  }
}
