// RMSNorm and LayerNorm: one block a row.

struct NormArgs {
  Dst y, sum;
  Elems x, res, dy;
  const float *w, *bias;
  float* stats;
  int c, heads, layer;
  float alpha, offset, eps;
};

// centre is the mean of a row (0 of RMSNorm) and 1/σ.
__device__ inline float measure(const NormArgs& a, Elems x, i64 row, float& mean, float* red) {
  mean = 0;
  if (a.layer) {
    float sum = 0;
    for (int j = threadIdx.x; j < a.c; j += blockDim.x) sum += get(x, row + j);
    mean = block_sum(sum, red) / a.c;
  }
  float sq = 0;
  for (int j = threadIdx.x; j < a.c; j += blockDim.x) {
    float v = get(x, row + j) - mean;
    sq += v * v;
  }
  return 1 / sqrtf(block_sum(sq, red) / a.c + a.eps);
}

// With res the row is res + alpha·x. It is written to sum first, and normalised
// as it stands there; without a sum it is computed again wherever it is read.
KERNEL(norm_rows, NormArgs) {
  __shared__ float red[32];
  extern __shared__ float s[]; // [c]: the row
  i64 row = (i64)blockIdx.x * a.c;
  for (int j = threadIdx.x; j < a.c; j += blockDim.x) {
    float v = get(a.x, row + j);
    if (a.res.p) v = get(a.res, row + j) + a.alpha * v;
    if (a.sum.p) {
      put(a.sum, row + j, v);
      if (!a.sum.add) v = load(a.sum.p, a.sum.type, row + j);
    }
    s[j] = v;
  }
  float mean;
  Elems local = {s, F32, 0};
  float r = measure(a, local, 0, mean, red);
  if (a.stats && threadIdx.x == 0) {
    if (a.layer) a.stats[2 * blockIdx.x] = mean, a.stats[2 * blockIdx.x + 1] = r;
    else a.stats[blockIdx.x] = r;
  }
  if (!a.y.p) return;
  int head = blockIdx.x % a.heads * a.c;
  for (int j = threadIdx.x; j < a.c; j += blockDim.x) {
    float v = (s[j] - mean) * r;
    if (a.w) v *= a.offset + a.w[head + j];
    if (a.bias) v += a.bias[head + j];
    put(a.y, row + j, v);
  }
}

// With h = (x - mean)·r and g = dy·w: dx = r·(g - h·mean(g·h) [- mean(g)]).
KERNEL(norm_grad, NormArgs) {
  __shared__ float red[32];
  i64 row = (i64)blockIdx.x * a.c;
  int head = blockIdx.x % a.heads * a.c;
  float mean = a.layer ? a.stats[2 * blockIdx.x] : 0, r = a.stats[a.layer ? 2 * blockIdx.x + 1 : blockIdx.x];
  float gh = 0, gs = 0;
  for (int j = threadIdx.x; j < a.c; j += blockDim.x) {
    float g = get(a.dy, row + j);
    if (a.w) g *= a.offset + a.w[head + j];
    gh += g * ((get(a.x, row + j) - mean) * r);
    gs += g;
  }
  gh = block_sum(gh, red) / a.c;
  gs = a.layer ? block_sum(gs, red) / a.c : 0;
  for (int j = threadIdx.x; j < a.c; j += blockDim.x) {
    float g = get(a.dy, row + j);
    if (a.w) g *= a.offset + a.w[head + j];
    put(a.y, row + j, r * (g - ((get(a.x, row + j) - mean) * r) * gh - gs));
  }
}

// Gradients of the weights and the bias: one thread a column of a head.
struct NormSumArgs { Dst dw, db; Elems x, dy; const float* stats; i64 n; int c, heads, layer, pad; };
KERNEL(norm_sums, NormSumArgs) {
  int j = blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= a.heads * a.c) return;
  double dw = 0, db = 0;
  int head = j / a.c, col = j % a.c;
  for (i64 i = head; i < a.n; i += a.heads) {
    float mean = a.layer ? a.stats[2 * i] : 0, r = a.stats[a.layer ? 2 * i + 1 : i];
    float dy = get(a.dy, i * a.c + col);
    dw += dy * ((get(a.x, i * a.c + col) - mean) * r);
    db += dy;
  }
  if (a.dw.p) put(a.dw, j, (float)dw);
  if (a.db.p) put(a.db, j, (float)db);
}
