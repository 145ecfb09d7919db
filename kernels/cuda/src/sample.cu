// The choice of tokens, one block a row, in f64. x is scratch memory [rows, v].

struct SampleRow { double temperature, top_p, min_p, penalty; u64 seed, stream, step; int top_k, seen, seen_n, pad; };
struct SampleArgs { const float* logits; double* x; const SampleRow* rows; const int* seen; int* ids; int v, pad; };

// reduce is a sum, or the largest, over the threads of a block; red holds 256.
template <bool LARGEST>
__device__ inline double reduce(double v, double* red) {
  __syncthreads();
  red[threadIdx.x] = v;
  for (u32 o = 128; o > 0; o >>= 1) {
    __syncthreads();
    if (threadIdx.x < o && threadIdx.x + o < blockDim.x) {
      double w = red[threadIdx.x + o];
      red[threadIdx.x] = LARGEST ? (w > red[threadIdx.x] ? w : red[threadIdx.x]) : red[threadIdx.x] + w;
    }
  }
  __syncthreads();
  return red[0];
}

// key orders as numbers do.
__device__ inline u64 key(double v) {
  u64 b = __double_as_longlong(v);
  return b >> 63 ? ~b : b | 1ull << 63;
}

__device__ inline double minus_inf() { return __longlong_as_double(0xfff0000000000000ull); }

// uniform is a number in [0, 1), a function of three.
__device__ inline double uniform(const SampleRow& r) {
  u64 z = r.seed * 0x9e3779b97f4a7c15ull ^ r.stream * 0xbf58476d1ce4e5b9ull ^ (r.step + 1) * 0x94d049bb133111ebull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  z = (z ^ z >> 31) * 0x9e3779b97f4a7c15ull;
  z ^= z >> 29;
  return (double)(z >> 11) / 9007199254740992.0;
}

KERNEL(sample, SampleArgs) {
  __shared__ double red[256];
  const SampleRow& r = a.rows[blockIdx.x];
  double* x = a.x + (i64)blockIdx.x * a.v;
  double bad = 0;
  for (int i = threadIdx.x; i < a.v; i += blockDim.x) {
    float v = a.logits[(i64)blockIdx.x * a.v + i];
    if (!(v <= 3.402823466e38f)) bad = 1;
    x[i] = v;
  }
  if (reduce<true>(bad, red) > 0) {
    if (threadIdx.x == 0) a.ids[blockIdx.x] = -1;
    return;
  }
  for (int j = threadIdx.x; j < r.seen_n; j += blockDim.x) { // all different
    double& v = x[a.seen[r.seen + j]];
    v = v > 0 ? v / r.penalty : v * r.penalty;
  }
  __syncthreads();
  double best = minus_inf();
  for (int i = threadIdx.x; i < a.v; i += blockDim.x) {
    if (r.temperature != 0) x[i] /= r.temperature;
    if (x[i] > best) best = x[i];
  }
  best = reduce<true>(best, red);
  if (r.temperature == 0) {
    double first = a.v; // the lowest id of the largest
    for (int i = threadIdx.x; i < a.v; i += blockDim.x)
      if (x[i] == best && i < first) first = i;
    first = -reduce<true>(-first, red);
    if (threadIdx.x == 0) a.ids[blockIdx.x] = (int)first;
    return;
  }
  if (r.top_k > 0 && r.top_k < a.v) { // the key of the k-th largest, bit by bit
    u64 least = 0;
    for (int bit = 63; bit >= 0; bit--) {
      u64 probe = least | 1ull << bit;
      double n = 0;
      for (int i = threadIdx.x; i < a.v; i += blockDim.x) n += key(x[i]) >= probe;
      if (reduce<false>(n, red) >= r.top_k) least = probe;
    }
    for (int i = threadIdx.x; i < a.v; i += blockDim.x)
      if (key(x[i]) < least) x[i] = minus_inf();
  }
  if (r.top_p > 0 && r.top_p < 1) {
    double sum = 0, room = 1 - r.top_p;
    for (int i = threadIdx.x; i < a.v; i += blockDim.x) sum += exp(x[i] - best);
    sum = reduce<false>(sum, red);
    u64 cut = 0; // the largest bits of a probability below which all may go
    double gone = 0;
    for (int bit = 62; bit >= 0; bit--) {
      u64 probe = cut | 1ull << bit;
      double below = 0;
      for (int i = threadIdx.x; i < a.v; i += blockDim.x) {
        double p = exp(x[i] - best) / sum;
        if ((u64)__double_as_longlong(p) < probe) below += p;
      }
      below = reduce<false>(below, red);
      if (below <= room) cut = probe, gone = below;
    }
    if (threadIdx.x == 0) { // of equal ones the lowest ids stay longest
      double total = gone;
      bool top = cut == (u64)__double_as_longlong(1 / sum);
      int keep = 0; // the lowest of the most likely stays in any case
      while (top && keep < a.v && x[keep] != best) keep++;
      for (int i = a.v - 1; i >= 0; i--) {
        double p = exp(x[i] - best) / sum;
        if ((u64)__double_as_longlong(p) != cut || (top && i == keep)) continue;
        if ((total += p) > room) break;
        x[i] = minus_inf();
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < a.v; i += blockDim.x)
      if ((u64)__double_as_longlong(exp(x[i] - best) / sum) < cut) x[i] = minus_inf();
  }
  double sum = 0;
  for (int i = threadIdx.x; i < a.v; i += blockDim.x) {
    double p = exp(x[i] - best);
    if (r.min_p > 0 && p < r.min_p) p = 0;
    x[i] = p;
    sum += p;
  }
  sum = reduce<false>(sum, red);
  // The first piece of ids in which the number is used up, then the id in it.
  int piece = (a.v + blockDim.x - 1) / blockDim.x, lo = threadIdx.x * piece, hi = min(lo + piece, a.v);
  double part = 0;
  for (int i = lo; i < hi; i++) part += x[i];
  __syncthreads();
  red[threadIdx.x] = part;
  __syncthreads();
  if (threadIdx.x > 0) return;
  double carry = uniform(r) * sum;
  u32 t = 0;
  while (t + 1 < blockDim.x && carry >= red[t]) carry -= red[t], t++;
  int last = -1;
  lo = t * piece, hi = min(lo + piece, a.v);
  for (int i = lo; i < hi; i++) {
    if (x[i] == 0) continue;
    last = i;
    carry -= x[i];
    if (carry < 0) break;
  }
  for (int i = min(lo, a.v) - 1; last < 0 && i >= 0; i--) // nothing in the last piece: rounding
    if (x[i] != 0) last = i;
  a.ids[blockIdx.x] = last;
}
