// The gated delta rule: kernels.DeltaArgs. A state M [dk, dv] of a head of a
// sequence lies in the registers of warps: columns need nothing of each other once
// keys are known, and rows nothing once changes are.
#include "heads.h"

struct DeltaArgs {
  Heads o, q, k, v;      // o: the result, or its gradient
  Heads dq, dk, dv;
  Elems gate, beta, alog, bias;
  const int *seq, *slot;
  float* state;
  float *decay, *log, *slope; // [n, h, width]
  float *error, *grad;        // [n, h, dv]: v - Mᵀk, and the gradient of beta times that
  float *starts;              // [chunks, h, dk, dv]: states at the first tokens of chunks
  float *row_q, *row_k, *row_log; // [n, h, dk]: gradients of one head
  i64 n;
  int seqs, h, kv, dk_size, dv_size, width;
  float scale, key_scale;
};

// The logs of decays, and what their gradients are multiplied by to be the gate's.
KERNEL(delta_gates, DeltaArgs) {
  i64 i = thread();
  if (i >= a.n * a.h * a.width) return;
  int at = i % (a.h * a.width);
  float z = get(a.gate, i), log = z, slope = 1;
  if (a.alog.p) {
    if (a.bias.p) z += get(a.bias, at);
    float rate = -expf(get(a.alog, at / a.width));
    log = rate * softplus(z);
    slope = rate * logistic(z);
  }
  a.decay[i] = expf(log);
  if (a.log) a.log[i] = log;
  if (a.slope) a.slope[i] = slope;
}

// decays is where the decays of a token's head begin; step: how far apart they are.
__device__ inline const float* decays(const DeltaArgs& a, i64 token) { return a.decay + token * a.width; }
__device__ inline float decay_of(const DeltaArgs& a, const float* d, int i) { return d[a.width > 1 ? i : 0]; }

// eighth_sum is the sum over eight lanes, for each of them.
__device__ inline float eighth_sum(float v) {
  for (int o = 4; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}

// Few is what a block needs of a few tokens, in shared memory: keys, queries and decays [tokens, WIDE], with zeros after the
// last row, and of 32 columns the rows of x.
#define COLUMNS 32
template <int WIDE>
struct Few {
  float4 k[512], q[512], d[512];
  float x[2048 / WIDE * COLUMNS], beta[2048 / WIDE], common[2048 / WIDE]; // common: the decays, where a head has one

  __device__ inline void load(const DeltaArgs& a, const Heads& rows, i64 n0, int count, int h, int j0, bool queries) {
    int kv = h / (a.h / a.kv);
    bool channels = a.width > 1;
    __syncthreads();
#pragma unroll 4
    for (int y = threadIdx.x; y < count * WIDE; y += 256) {
      i64 n = n0 + y / WIDE;
      int i = y % WIDE;
      bool there = i < a.dk_size;
      ((float*)k)[y] = there ? a.key_scale * value(a.k, row_of(a.k, n, kv) + i) : 0;
      if (queries) ((float*)q)[y] = there ? a.scale * value(a.q, row_of(a.q, n, kv) + i) : 0;
      if (channels) ((float*)d)[y] = there ? decays(a, n * a.h + h)[i] : 0;
    }
    for (int y = threadIdx.x; y < count * COLUMNS; y += 256) {
      int j = j0 + y % COLUMNS;
      x[y] = j < a.dv_size ? value(rows, row_of(rows, n0 + y / COLUMNS, h) + j) : 0;
    }
    if (threadIdx.x < count) {
      i64 token = (n0 + threadIdx.x) * a.h + h;
      beta[threadIdx.x] = get(a.beta, token);
      if (!channels) common[threadIdx.x] = *decays(a, token);
    }
    __syncthreads();
  }
};

// Forward. A block has 32 columns of M, a column eight lanes, of which each keeps R of its rows: by fours, 32 apart.
template <int R>
__device__ inline void delta_columns(const DeltaArgs& a) {
  constexpr int wide = 8 * R, tokens = 2048 / wide;
  __shared__ Few<wide> few;
  int lane = threadIdx.x % 8, column = threadIdx.x / 8, j0 = blockIdx.x * COLUMNS, j = j0 + column, h = blockIdx.y, s = blockIdx.z;
  bool live = j < a.dv_size, channels = a.width > 1;
  float m[R] = {};
  float* state = a.state && live ? a.state + ((i64)a.slot[s] * a.h + h) * a.dk_size * a.dv_size + j : 0;
  if (state) {
#pragma unroll
    for (int r = 0; r < R; r++) {
      int i = r / 4 * 32 + 4 * lane + r % 4;
      if (i < a.dk_size) m[r] = state[(i64)i * a.dv_size];
    }
  }
  i64 end = a.seq[s + 1];
  for (i64 n0 = a.seq[s]; n0 < end; n0 += tokens) {
    int count = min((i64)tokens, end - n0);
    few.load(a, a.v, n0, count, h, j0, a.o.p != 0);
    for (int t = 0; t < count; t++) {
      float4 k[R / 4];
      float held[4] = {}, out[4] = {}, d = channels ? 0 : few.common[t];
#pragma unroll
      for (int b = 0; b < R / 4; b++) {
        int at = t * (wide / 4) + 8 * b + lane;
        float4 each = {d, d, d, d};
        k[b] = few.k[at];
        if (channels) each = few.d[at];
        m[4 * b] *= each.x, m[4 * b + 1] *= each.y, m[4 * b + 2] *= each.z, m[4 * b + 3] *= each.w;
        held[0] = fmaf(k[b].x, m[4 * b], held[0]), held[1] = fmaf(k[b].y, m[4 * b + 1], held[1]);
        held[2] = fmaf(k[b].z, m[4 * b + 2], held[2]), held[3] = fmaf(k[b].w, m[4 * b + 3], held[3]);
      }
      float error = few.x[t * COLUMNS + column] - eighth_sum((held[0] + held[1]) + (held[2] + held[3])), change = few.beta[t] * error;
#pragma unroll
      for (int b = 0; b < R / 4; b++) {
        m[4 * b] = fmaf(k[b].x, change, m[4 * b]), m[4 * b + 1] = fmaf(k[b].y, change, m[4 * b + 1]);
        m[4 * b + 2] = fmaf(k[b].z, change, m[4 * b + 2]), m[4 * b + 3] = fmaf(k[b].w, change, m[4 * b + 3]);
        if (!a.o.p) continue;
        float4 q = few.q[t * (wide / 4) + 8 * b + lane];
        out[0] = fmaf(q.x, m[4 * b], out[0]), out[1] = fmaf(q.y, m[4 * b + 1], out[1]);
        out[2] = fmaf(q.z, m[4 * b + 2], out[2]), out[3] = fmaf(q.w, m[4 * b + 3], out[3]);
      }
      float sum = a.o.p ? eighth_sum((out[0] + out[1]) + (out[2] + out[3])) : 0;
      if (lane || !live) continue;
      if (a.o.p) store(a.o, row_of(a.o, n0 + t, h) + j, sum);
      if (a.error) a.error[((n0 + t) * a.h + h) * a.dv_size + j] = error;
    }
  }
  if (!state) return;
#pragma unroll
  for (int r = 0; r < R; r++) {
    int i = r / 4 * 32 + 4 * lane + r % 4;
    if (i < a.dk_size) state[(i64)i * a.dv_size] = m[r];
  }
}

KERNEL(delta_scan_64, DeltaArgs) { delta_columns<8>(a); }
KERNEL(delta_scan_128, DeltaArgs) { delta_columns<16>(a); }
KERNEL(delta_scan_256, DeltaArgs) { delta_columns<32>(a); }

// The gradients of changes and of v, from the last token to the first, by columns in the same way: that of M needs no M.
template <int R>
__device__ inline void delta_columns_back(const DeltaArgs& a) {
  constexpr int wide = 8 * R, tokens = 2048 / wide;
  __shared__ Few<wide> few;
  int lane = threadIdx.x % 8, column = threadIdx.x / 8, j0 = blockIdx.x * COLUMNS, j = j0 + column, h = blockIdx.y, s = blockIdx.z;
  bool live = j < a.dv_size, channels = a.width > 1;
  float g[R] = {};
  for (i64 end = a.seq[s + 1]; end > a.seq[s]; end -= tokens) {
    int count = min((i64)tokens, end - a.seq[s]);
    i64 n0 = end - count;
    few.load(a, a.o, n0, count, h, j0, true);
    for (int t = count - 1; t >= 0; t--) {
      float4 k[R / 4];
      float sums[4] = {}, out = few.x[t * COLUMNS + column], d = channels ? 0 : few.common[t];
#pragma unroll
      for (int b = 0; b < R / 4; b++) {
        int at = t * (wide / 4) + 8 * b + lane;
        float4 q = few.q[at];
        k[b] = few.k[at];
        g[4 * b] = fmaf(q.x, out, g[4 * b]), g[4 * b + 1] = fmaf(q.y, out, g[4 * b + 1]);
        g[4 * b + 2] = fmaf(q.z, out, g[4 * b + 2]), g[4 * b + 3] = fmaf(q.w, out, g[4 * b + 3]);
        sums[0] = fmaf(k[b].x, g[4 * b], sums[0]), sums[1] = fmaf(k[b].y, g[4 * b + 1], sums[1]);
        sums[2] = fmaf(k[b].z, g[4 * b + 2], sums[2]), sums[3] = fmaf(k[b].w, g[4 * b + 3], sums[3]);
      }
      float sum = eighth_sum((sums[0] + sums[1]) + (sums[2] + sums[3])), dv = few.beta[t] * sum;
#pragma unroll
      for (int b = 0; b < R / 4; b++) {
        float4 each = {d, d, d, d};
        if (channels) each = few.d[t * (wide / 4) + 8 * b + lane];
        g[4 * b] = each.x * fmaf(k[b].x, -dv, g[4 * b]), g[4 * b + 1] = each.y * fmaf(k[b].y, -dv, g[4 * b + 1]);
        g[4 * b + 2] = each.z * fmaf(k[b].z, -dv, g[4 * b + 2]), g[4 * b + 3] = each.w * fmaf(k[b].w, -dv, g[4 * b + 3]);
      }
      if (lane || !live) continue;
      a.grad[((n0 + t) * a.h + h) * a.dv_size + j] = sum;
      if (a.dv.p) store(a.dv, row_of(a.dv, n0 + t, h) + j, dv);
    }
  }
}

KERNEL(delta_back_cols_64, DeltaArgs) { delta_columns_back<8>(a); }
KERNEL(delta_back_cols_128, DeltaArgs) { delta_columns_back<16>(a); }
KERNEL(delta_back_cols_256, DeltaArgs) { delta_columns_back<32>(a); }

// The gradients of q, k and the logs of decays, one warp a row of M, whose columns
// its lanes have: forward once, which leaves the states at the first tokens of
// chunks, then from the last chunk to the first with its states in shared memory.
KERNEL(delta_back_rows, DeltaArgs) {
  extern __shared__ float states[]; // [CHUNK, dv]: before each token
  int lane = threadIdx.x, i = blockIdx.x, h = blockIdx.y, s = blockIdx.z, kv = h / (a.h / a.kv), first = a.seq[s], end = a.seq[s + 1];
  float m[PER_LANE] = {}, g[PER_LANE] = {};
  for (int n = first; n < end; n++) {
    i64 token = (i64)n * a.h + h;
    if ((n - first) % CHUNK == 0) {
      float* to = a.starts + ((start(s, first, (n - first) / CHUNK) * a.h + h) * a.dk_size + i) * a.dv_size;
#pragma unroll
      for (int r = 0; r < PER_LANE; r++)
        if (lane + 32 * r < a.dv_size) to[lane + 32 * r] = m[r];
    }
    float d = decay_of(a, decays(a, token), i), k = a.key_scale * value(a.k, row_of(a.k, n, kv) + i), b = get(a.beta, token), dq = 0;
    i64 out = row_of(a.o, n, h);
#pragma unroll
    for (int r = 0; r < PER_LANE; r++) {
      int j = lane + 32 * r;
      if (j >= a.dv_size) continue;
      m[r] = d * m[r] + k * (b * a.error[token * a.dv_size + j]);
      dq += m[r] * value(a.o, out + j);
    }
    dq = warp_sum(dq);
    if (lane == 0) a.row_q[token * a.dk_size + i] = dq;
  }
  for (int c = (end - first + CHUNK - 1) / CHUNK - 1; c >= 0; c--) {
    const float* from = a.starts + ((start(s, first, c) * a.h + h) * a.dk_size + i) * a.dv_size;
    int lo = first + c * CHUNK, hi = min(lo + CHUNK, end);
#pragma unroll
    for (int r = 0; r < PER_LANE; r++)
      if (lane + 32 * r < a.dv_size) m[r] = from[lane + 32 * r];
    for (int n = lo; n < hi; n++) {
      i64 token = (i64)n * a.h + h;
      float d = decay_of(a, decays(a, token), i), k = a.key_scale * value(a.k, row_of(a.k, n, kv) + i), b = get(a.beta, token);
#pragma unroll
      for (int r = 0; r < PER_LANE; r++) {
        int j = lane + 32 * r;
        if (j >= a.dv_size) continue;
        states[(n - lo) * a.dv_size + j] = m[r];
        m[r] = d * m[r] + k * (b * a.error[token * a.dv_size + j]);
      }
    }
    for (int n = hi - 1; n >= lo; n--) {
      i64 token = (i64)n * a.h + h, out = row_of(a.o, n, h);
      float d = decay_of(a, decays(a, token), i), k = a.key_scale * value(a.k, row_of(a.k, n, kv) + i), b = get(a.beta, token);
      float q = a.scale * value(a.q, row_of(a.q, n, kv) + i), dk = 0, dlog = 0;
#pragma unroll
      for (int r = 0; r < PER_LANE; r++) {
        int j = lane + 32 * r;
        if (j >= a.dv_size) continue;
        float old = d * states[(n - lo) * a.dv_size + j], dv = b * a.grad[token * a.dv_size + j];
        g[r] += q * value(a.o, out + j);
        dk += g[r] * (b * a.error[token * a.dv_size + j]) - old * dv;
        g[r] -= k * dv;
        dlog += g[r] * old;
        g[r] *= d;
      }
      dk = warp_sum(dk);
      dlog = warp_sum(dlog);
      if (lane) continue;
      a.row_k[token * a.dk_size + i] = dk;
      a.row_log[token * a.dk_size + i] = dlog;
    }
  }
}

// The gradients of q and k of the heads that share them, in order.
KERNEL(delta_fold, DeltaArgs) {
  i64 x = thread();
  if (x >= a.n * a.kv * a.dk_size) return;
  i64 n = x / a.dk_size / a.kv;
  int kv = x / a.dk_size % a.kv, i = x % a.dk_size, share = a.h / a.kv;
  float dq = 0, dk = 0;
  for (int h = kv * share; h < (kv + 1) * share; h++) {
    dq += a.row_q[(n * a.h + h) * a.dk_size + i];
    dk += a.row_k[(n * a.h + h) * a.dk_size + i];
  }
  if (a.dq.p) store(a.dq, row_of(a.dq, n, kv) + i, a.scale * dq);
  if (a.dk.p) store(a.dk, row_of(a.dk, n, kv) + i, a.key_scale * dk);
}
