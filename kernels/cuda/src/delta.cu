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

// Forward, one warp a column of M, whose rows its lanes have.
KERNEL(delta_scan, DeltaArgs) {
  int lane = threadIdx.x % 32, j = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, h = blockIdx.y, s = blockIdx.z, kv = h / (a.h / a.kv);
  if (j >= a.dv_size) return;
  float m[PER_LANE] = {}, k[PER_LANE] = {};
  float* state = a.state ? a.state + ((i64)a.slot[s] * a.h + h) * a.dk_size * a.dv_size + j : 0;
  if (state) {
#pragma unroll
    for (int r = 0; r < PER_LANE; r++)
      if (lane + 32 * r < a.dk_size) m[r] = state[(i64)(lane + 32 * r) * a.dv_size];
  }
  for (i64 n = a.seq[s]; n < a.seq[s + 1]; n++) {
    i64 token = n * a.h + h, qa = row_of(a.q, n, kv), ka = row_of(a.k, n, kv);
    const float* d = decays(a, token);
    float held = 0, out = 0;
#pragma unroll
    for (int r = 0; r < PER_LANE; r++) {
      int i = lane + 32 * r;
      if (i >= a.dk_size) continue;
      k[r] = a.key_scale * value(a.k, ka + i);
      m[r] *= decay_of(a, d, i);
      held += k[r] * m[r];
    }
    float error = value(a.v, row_of(a.v, n, h) + j) - warp_sum(held), change = get(a.beta, token) * error;
#pragma unroll
    for (int r = 0; r < PER_LANE; r++) {
      int i = lane + 32 * r;
      if (i >= a.dk_size) continue;
      m[r] += k[r] * change;
      if (a.o.p) out += a.scale * value(a.q, qa + i) * m[r];
    }
    out = warp_sum(out);
    if (lane) continue;
    if (a.o.p) store(a.o, row_of(a.o, n, h) + j, out);
    if (a.error) a.error[token * a.dv_size + j] = error;
  }
  if (!state) return;
#pragma unroll
  for (int r = 0; r < PER_LANE; r++)
    if (lane + 32 * r < a.dk_size) state[(i64)(lane + 32 * r) * a.dv_size] = m[r];
}

// The gradients of changes and of v, from the last token to the first, a warp a
// column: that of M needs no M.
KERNEL(delta_back_cols, DeltaArgs) {
  int lane = threadIdx.x % 32, j = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, h = blockIdx.y, s = blockIdx.z, kv = h / (a.h / a.kv);
  if (j >= a.dv_size) return;
  float g[PER_LANE] = {}, k[PER_LANE] = {};
  for (i64 n = (i64)a.seq[s + 1] - 1; n >= a.seq[s]; n--) {
    i64 token = n * a.h + h, qa = row_of(a.q, n, kv), ka = row_of(a.k, n, kv);
    const float* d = decays(a, token);
    float out = value(a.o, row_of(a.o, n, h) + j), sum = 0;
#pragma unroll
    for (int r = 0; r < PER_LANE; r++) {
      int i = lane + 32 * r;
      if (i >= a.dk_size) continue;
      k[r] = a.key_scale * value(a.k, ka + i);
      g[r] += a.scale * value(a.q, qa + i) * out;
      sum += k[r] * g[r];
    }
    sum = warp_sum(sum);
    float dv = get(a.beta, token) * sum;
#pragma unroll
    for (int r = 0; r < PER_LANE; r++)
      if (lane + 32 * r < a.dk_size) g[r] = decay_of(a, d, lane + 32 * r) * (g[r] - k[r] * dv);
    if (lane) continue;
    a.grad[token * a.dv_size + j] = sum;
    if (a.dv.p) store(a.dv, row_of(a.dv, n, h) + j, dv);
  }
}

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
