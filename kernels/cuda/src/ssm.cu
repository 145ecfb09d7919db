// The selective scans of Mamba: kernels.SSMArgs. No number of a state needs
// another: it is kept in the registers of warps by rows, where sums over s are
// made, or by columns, where sums over heads and p are.
#include "heads.h"

struct SSMArgs {
  Heads y, x, b, c; // y: the result, or its gradient
  Heads dx, db, dc;
  Elems dt, bias, alog, skip;
  Dst dalog, dskip;
  const int *seq, *slot;
  float* state;
  float *step, *slope, *decay; // [n, h]; decay is not per state
  float* starts;               // [chunks, h·p, s]
  float* row_dt;               // [n, h·p]: gradients of steps
  float *part_b, *part_c;      // [tiles, n, g, s]
  double *sum_a, *sum_d;       // [sequences, h·p, s or 1] and [sequences, h·p]
  i64 n;
  int seqs, h, p, g, s, per_state, lanes, tiles;
  float low, high;
  int pad;
};

#define TILE_ROWS (32 * PER_LANE) // rows of a group that a warp adds up

__device__ inline float rate_of(const SSMArgs& a, int h, int i) { return -expf(get(a.alog, a.per_state ? (i64)h * a.s + i : h)); }

KERNEL(ssm_steps, SSMArgs) {
  i64 i = thread();
  if (i >= a.n * a.h) return;
  int h = i % a.h;
  float z = get(a.dt, i);
  if (a.bias.p) z += get(a.bias, h);
  float dt = softplus(z), slope = logistic(z);
  if (dt < a.low) dt = a.low, slope = 0;
  if (a.high > 0 && dt > a.high) dt = a.high, slope = 0;
  a.step[i] = dt;
  if (a.slope) a.slope[i] = slope;
  if (!a.per_state) a.decay[i] = expf(dt * rate_of(a, h, 0));
}

// few_sum is the sum over the lanes of one row.
__device__ inline float few_sum(float v, int lanes) {
  for (int o = lanes / 2; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}

// Row is a row of a state: `lanes` lanes of a warp have it, neighbours of the others.
struct Row { int first, h, p, g; i64 at; bool there; };

__device__ inline Row row_here(const SSMArgs& a, int warp) {
  int lane = threadIdx.x % 32, all = a.h * a.p, at = warp * (32 / a.lanes) + lane / a.lanes;
  Row r;
  r.there = at < all;
  if (!r.there) at = all - 1; // its lanes come along for the shuffles
  r.first = lane % a.lanes;
  r.at = at;
  r.h = at / a.p;
  r.p = at % a.p;
  r.g = r.h / (a.h / a.g);
  return r;
}

__device__ inline float decay_at(const SSMArgs& a, i64 token, float dt, float rate) { return a.per_state ? expf(dt * rate) : a.decay[token]; }

KERNEL(ssm_scan, SSMArgs) {
  int s = blockIdx.y, warp = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (warp * (32 / a.lanes) >= a.h * a.p) return;
  Row row = row_here(a, warp);
  float m[PER_LANE] = {}, rate[PER_LANE] = {}, skip = a.skip.p ? get(a.skip, row.h) : 0;
  float* state = a.state ? a.state + ((i64)a.slot[s] * a.h * a.p + row.at) * a.s : 0;
#pragma unroll
  for (int r = 0; r < PER_LANE; r++) {
    int i = row.first + a.lanes * r;
    if (i >= a.s) continue;
    rate[r] = rate_of(a, row.h, i);
    if (state && row.there) m[r] = state[i];
  }
  for (i64 n = a.seq[s]; n < a.seq[s + 1]; n++) {
    i64 token = n * a.h + row.h, b = row_of(a.b, n, row.g), c = row_of(a.c, n, row.g);
    float dt = a.step[token], x = value(a.x, row_of(a.x, n, row.h) + row.p), y = 0;
#pragma unroll
    for (int r = 0; r < PER_LANE; r++) {
      int i = row.first + a.lanes * r;
      if (i >= a.s) continue;
      m[r] = decay_at(a, token, dt, rate[r]) * m[r] + dt * x * value(a.b, b + i);
      y += m[r] * value(a.c, c + i);
    }
    y = few_sum(y, a.lanes);
    if (row.first == 0 && row.there && a.y.p) store(a.y, row_of(a.y, n, row.h) + row.p, y + skip * x);
  }
#pragma unroll
  for (int r = 0; r < PER_LANE; r++)
    if (row.first + a.lanes * r < a.s && row.there && state) state[row.first + a.lanes * r] = m[r];
}

// The gradients of x, and for each row those of steps, rates and skips: one warp a
// block. Forward once, which leaves the states at the first tokens of chunks, then
// from the last chunk to the first with its states in shared memory.
KERNEL(ssm_back_rows, SSMArgs) {
  extern __shared__ float states[]; // [CHUNK, numbers of a lane, 32]: before each token
  int s = blockIdx.y, first = a.seq[s], end = a.seq[s + 1], kept = (a.s + a.lanes - 1) / a.lanes;
  Row row = row_here(a, blockIdx.x);
  float m[PER_LANE] = {}, g[PER_LANE] = {}, rate[PER_LANE] = {}, skip = a.skip.p ? get(a.skip, row.h) : 0;
  double sum_a[PER_LANE] = {}, sum_d = 0;
#pragma unroll
  for (int r = 0; r < PER_LANE; r++)
    if (row.first + a.lanes * r < a.s) rate[r] = rate_of(a, row.h, row.first + a.lanes * r);
  for (int n = first; n < end; n++) {
    i64 token = (i64)n * a.h + row.h, b = row_of(a.b, n, row.g);
    float dt = a.step[token], x = value(a.x, row_of(a.x, n, row.h) + row.p);
    float* to = (n - first) % CHUNK == 0 && row.there ? a.starts + (start(s, first, (n - first) / CHUNK) * a.h * a.p + row.at) * a.s : 0;
#pragma unroll
    for (int r = 0; r < PER_LANE; r++) {
      int i = row.first + a.lanes * r;
      if (i >= a.s) continue;
      if (to) to[i] = m[r];
      m[r] = decay_at(a, token, dt, rate[r]) * m[r] + dt * x * value(a.b, b + i);
    }
  }
  for (int k = (end - first + CHUNK - 1) / CHUNK - 1; k >= 0; k--) {
    const float* from = a.starts + (start(s, first, k) * a.h * a.p + row.at) * a.s;
    int lo = first + k * CHUNK, hi = min(lo + CHUNK, end);
#pragma unroll
    for (int r = 0; r < PER_LANE; r++)
      if (row.there && row.first + a.lanes * r < a.s) m[r] = from[row.first + a.lanes * r];
    for (int n = lo; n < hi; n++) {
      i64 token = (i64)n * a.h + row.h, b = row_of(a.b, n, row.g);
      float dt = a.step[token], x = value(a.x, row_of(a.x, n, row.h) + row.p);
#pragma unroll
      for (int r = 0; r < PER_LANE; r++) {
        int i = row.first + a.lanes * r;
        if (i >= a.s) continue;
        states[((n - lo) * kept + r) * 32 + threadIdx.x] = m[r];
        m[r] = decay_at(a, token, dt, rate[r]) * m[r] + dt * x * value(a.b, b + i);
      }
    }
    for (int n = hi - 1; n >= lo; n--) {
      i64 token = (i64)n * a.h + row.h, b = row_of(a.b, n, row.g), c = row_of(a.c, n, row.g);
      float dt = a.step[token], x = value(a.x, row_of(a.x, n, row.h) + row.p), dy = value(a.y, row_of(a.y, n, row.h) + row.p), gb = 0, ga = 0;
#pragma unroll
      for (int r = 0; r < PER_LANE; r++) {
        int i = row.first + a.lanes * r;
        if (i >= a.s) continue;
        float d = decay_at(a, token, dt, rate[r]);
        g[r] += dy * value(a.c, c + i);
        gb += g[r] * value(a.b, b + i);
        float w = g[r] * states[((n - lo) * kept + r) * 32 + threadIdx.x] * d * rate[r]; // of dt
        ga += w;
        sum_a[r] += (double)w * dt;
        g[r] *= d;
      }
      gb = few_sum(gb, a.lanes);
      ga = few_sum(ga, a.lanes);
      sum_d += (double)dy * x;
      if (row.first || !row.there) continue;
      if (a.dx.p) store(a.dx, row_of(a.dx, n, row.h) + row.p, skip * dy + dt * gb);
      a.row_dt[(i64)n * a.h * a.p + row.at] = x * gb + ga;
    }
  }
  i64 at = (i64)s * a.h * a.p + row.at;
  double all = 0;
#pragma unroll
  for (int r = 0; r < PER_LANE; r++) {
    int i = row.first + a.lanes * r;
    if (i >= a.s) continue;
    all += sum_a[r];
    if (a.per_state && row.there) a.sum_a[at * a.s + i] = sum_a[r];
  }
  for (int o = a.lanes / 2; o > 0; o >>= 1) all += __shfl_xor_sync(0xffffffffu, all, o);
  if (row.first || !row.there) return;
  if (!a.per_state) a.sum_a[at] = all;
  a.sum_d[at] = sum_d;
}

// The gradients of steps as those of dt, in place of slope: one thread a head of a
// token.
KERNEL(ssm_dt, SSMArgs) {
  i64 i = thread();
  if (i >= a.n * a.h) return;
  float sum = 0;
  for (int p = 0; p < a.p; p++) sum += a.row_dt[i * a.p + p];
  a.slope[i] *= sum;
}

// The gradients of rates and skips: sums over rows of a head and sequences.
KERNEL(ssm_sums, SSMArgs) {
  i64 i = thread();
  int each = a.per_state ? a.s : 1;
  if (i >= (i64)a.h * each) return;
  double sum_a = 0, sum_d = 0;
  int h = i / each;
  for (int s = 0; s < a.seqs; s++)
    for (int p = 0; p < a.p; p++) {
      i64 at = ((i64)s * a.h + h) * a.p + p;
      sum_a += a.sum_a[at * each + i % each];
      sum_d += a.sum_d[at];
    }
  if (a.dalog.p) put(a.dalog, i, (float)sum_a);
  if (a.dskip.p && i % each == 0) put(a.dskip, h, (float)sum_d);
}

// The gradients of b and c over a tile of rows of a group: one warp a column of
// states, forward for c, whose gradient needs the states, and back for b, whose
// gradient needs theirs.
KERNEL(ssm_back_cols, SSMArgs) {
  int lane = threadIdx.x % 32, i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, tile = blockIdx.y % a.tiles, group = blockIdx.y / a.tiles, s = blockIdx.z;
  if (i >= a.s) return;
  int heads = a.h / a.g, row0 = tile * TILE_ROWS + lane, all = heads * a.p;
  float m[PER_LANE] = {}, g[PER_LANE] = {}, rate[PER_LANE] = {};
#pragma unroll
  for (int r = 0; r < PER_LANE; r++)
    if (row0 + 32 * r < all) rate[r] = rate_of(a, group * heads + (row0 + 32 * r) / a.p, i);
  for (i64 n = a.seq[s]; n < a.seq[s + 1]; n++) {
    float b = value(a.b, row_of(a.b, n, group) + i), sum = 0;
#pragma unroll
    for (int r = 0; r < PER_LANE; r++) {
      if (row0 + 32 * r >= all) continue;
      int h = group * heads + (row0 + 32 * r) / a.p, p = (row0 + 32 * r) % a.p;
      float dt = a.step[n * a.h + h];
      m[r] = decay_at(a, n * a.h + h, dt, rate[r]) * m[r] + dt * value(a.x, row_of(a.x, n, h) + p) * b;
      sum += value(a.y, row_of(a.y, n, h) + p) * m[r];
    }
    sum = warp_sum(sum);
    if (lane == 0) a.part_c[((tile * a.n + n) * a.g + group) * a.s + i] = sum;
  }
  for (i64 n = (i64)a.seq[s + 1] - 1; n >= a.seq[s]; n--) {
    float c = value(a.c, row_of(a.c, n, group) + i), sum = 0;
#pragma unroll
    for (int r = 0; r < PER_LANE; r++) {
      if (row0 + 32 * r >= all) continue;
      int h = group * heads + (row0 + 32 * r) / a.p, p = (row0 + 32 * r) % a.p;
      float dt = a.step[n * a.h + h];
      g[r] += value(a.y, row_of(a.y, n, h) + p) * c;
      sum += dt * value(a.x, row_of(a.x, n, h) + p) * g[r];
      g[r] *= decay_at(a, n * a.h + h, dt, rate[r]);
    }
    sum = warp_sum(sum);
    if (lane == 0) a.part_b[((tile * a.n + n) * a.g + group) * a.s + i] = sum;
  }
}

KERNEL(ssm_fold, SSMArgs) {
  i64 x = thread(), all = a.n * a.g * a.s;
  if (x >= all) return;
  float b = 0, c = 0;
  for (int t = 0; t < a.tiles; t++) b += a.part_b[t * all + x], c += a.part_c[t * all + x];
  i64 n = x / a.s / a.g;
  int g = x / a.s % a.g, i = x % a.s;
  if (a.db.p) store(a.db, row_of(a.db, n, g) + i, b);
  if (a.dc.p) store(a.dc, row_of(a.dc, n, g) + i, c);
}
