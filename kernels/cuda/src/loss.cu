// Log-probabilities of rows of logits: one block a row.

struct LossArgs {
  float* logits; // [rows, v]; with coef they become the gradients of logits
  const int* target;
  const float* coef;
  float *logp, *lse;
  int* argmax;
  float* mean; // of the log-probabilities of a row; 0 without a target
  int v;
  float soft_cap, smooth;
  int pad;
};

KERNEL(logprob, LossArgs) {
  __shared__ float red[32];
  __shared__ int first[32];
  i64 n = blockIdx.x;
  float* z = a.logits + n * a.v;
  float top = -INF;
  int at = 0x7fffffff;
  for (int j = threadIdx.x; j < a.v; j += blockDim.x) {
    float x = z[j];
    if (a.soft_cap > 0) z[j] = x = a.soft_cap * tanhf(x / a.soft_cap);
    if (x > top || at == 0x7fffffff) top = x, at = j; // the lowest of equals: j rises
  }
  float all = block_max(top, red);
  if (top != all) at = 0x7fffffff;
  for (int o = 16; o > 0; o >>= 1) at = min(at, __shfl_xor_sync(0xffffffffu, at, o));
  if (threadIdx.x % 32 == 0) first[threadIdx.x / 32] = at;
  float sum = 0, below = 0;
  for (int j = threadIdx.x; j < a.v; j += blockDim.x) {
    sum += expf(z[j] - all);
    below += z[j] - all;
  }
  float log_sum = logf(block_sum(sum, red)), lse = all + log_sum;
  below = block_sum(below, red) / a.v;
  int t = a.target[n];
  if (threadIdx.x == 0) {
    for (u32 w = 0; w < blockDim.x / 32; w++) at = min(at, first[w]);
    if (a.argmax) a.argmax[n] = at;
    if (a.lse) a.lse[n] = lse;
    if (a.logp) a.logp[n] = t >= 0 ? z[t] - lse : 0;
    if (a.mean) a.mean[n] = t >= 0 ? below - log_sum : 0;
  }
  if (!a.coef) return;
  __syncthreads();
  float c = t >= 0 ? a.coef[n] : 0, spread = a.smooth / a.v;
  for (int j = threadIdx.x; j < a.v; j += blockDim.x) {
    float x = z[j], g = 0;
    if (t >= 0) g = c * (expf(x - lse) - spread) - (j == t ? c * (1 - a.smooth) : 0);
    if (a.soft_cap > 0) g *= 1 - (x / a.soft_cap) * (x / a.soft_cap);
    z[j] = g;
  }
}

// kl and top1 of rows of logits beside a reference's.
struct StatsArgs { const float *x, *ref; Dst kl, top1; int v, pad; };
// excess is eᵈ - 1 - d.
__device__ inline float excess(float d) {
  if (fabsf(d) > 0.05f) return expm1f(d) - d;
  return d * d * (0.5f + d * (1.0f / 6 + d * (1.0f / 24 + d * (1.0f / 120))));
}

KERNEL(logit_stats, StatsArgs) {
  __shared__ float red[32];
  __shared__ int first[2][32];
  const float* rows[2] = {a.x + (i64)blockIdx.x * a.v, a.ref + (i64)blockIdx.x * a.v};
  float lse[2];
  int arg[2];
  for (int s = 0; s < 2; s++) {
    float top = -INF;
    int at = 0x7fffffff;
    for (int j = threadIdx.x; j < a.v; j += blockDim.x)
      if (rows[s][j] > top || at == 0x7fffffff) top = rows[s][j], at = j;
    float all = block_max(top, red);
    if (top != all) at = 0x7fffffff;
    for (int o = 16; o > 0; o >>= 1) at = min(at, __shfl_xor_sync(0xffffffffu, at, o));
    if (threadIdx.x % 32 == 0) first[s][threadIdx.x / 32] = at;
    float sum = 0;
    for (int j = threadIdx.x; j < a.v; j += blockDim.x) sum += expf(rows[s][j] - all);
    lse[s] = all + logf(block_sum(sum, red));
    arg[s] = 0x7fffffff;
    for (u32 w = 0; w < blockDim.x / 32; w++) arg[s] = min(arg[s], first[s][w]);
  }
  // With d the difference of two log-probabilities, kl = -Σ p·d. Since Σ p·eᵈ is 1
  // but for rounding, S = Σ p·(eᵈ - 1), kl is the sum of p·(eᵈ - 1 - d), which are
  // all positive, less S - log(1 + S).
  float kl = 0, off = 0;
  for (int j = threadIdx.x; j < a.v; j += blockDim.x) {
    float p = expf(rows[1][j] - lse[1]), d = (rows[0][j] - rows[1][j]) - (lse[0] - lse[1]);
    if (!(p > 0)) continue;
    kl += p * excess(d);
    off += p * expm1f(d);
  }
  kl = block_sum(kl, red);
  off = block_sum(off, red);
  kl -= fabsf(off) < 0.05f ? off * off * (0.5f - off * (1.0f / 3 - off * (0.25f - off * 0.2f))) : off - log1pf(off);
  if (threadIdx.x) return;
  if (a.kl.p) put(a.kl, blockIdx.x, kl);
  if (a.top1.p) put(a.top1, blockIdx.x, arg[0] == arg[1] ? 1 : 0);
}
