// Attention, one warp for each query and head (forward, dq) or key and key head
// (dk, dv): simple and exact in f32, without tensor cores. What a token sees is
// kernels.AttnArgs.Seen.

#include "heads.h"

struct AttnArgs {
  Heads q, k, v, o, d; // d: the gradient of o, or with attn_grad_kv etc. see there
  Heads dq, dk, dv;
  float *lse, *delta;
  const int *seq, *seq_kv, *slot, *pos, *pick;
  const float *rel, *sinks;
  Dst drel, dsinks;
  i64 n, n_kv, max; // tokens of queries and keys; max: positions of a slot of a cache
  int seqs, h, kv, dk_size, dv_size;
  float scale, soft_cap;
  int span, rel_zero, full, window, ahead, chunk, picks, ring;
};

// Span is the sequence of a token: its keys begin at row base, the query of token
// i is at position i + shift.
struct Span { i64 base, shift, keys; };

__device__ inline Span span_of(const AttnArgs& a, i64 tok) {
  if (a.slot) return Span{a.slot[tok] * a.max, a.pos[tok] - tok, (i64)a.pos[tok] + 1};
  int s = find(a.seq, a.seqs, tok);
  i64 keys = a.seq_kv[s + 1] - a.seq_kv[s];
  return Span{a.seq_kv[s], keys - a.seq[s + 1], keys};
}

__device__ inline i64 key_row(const AttnArgs& a, const Span& s, i64 j) { return s.base + (a.ring ? j % a.max : j); }

// seen are the positions lo … hi that a token at position p may see.
__device__ inline void seen(const AttnArgs& a, i64 p, i64 keys, i64& lo, i64& hi) {
  lo = 0, hi = p + 1;
  if (a.full) {
    hi = keys;
    if (a.ahead > 0) hi = min(hi, p + 1 + a.ahead);
  }
  if (a.window > 0) lo = p - a.window + 1;
  if (a.chunk > 0 && p >= 0) {
    lo = max(lo, p - p % a.chunk);
    hi = min(hi, p - p % a.chunk + a.chunk);
  }
  lo = max(lo, (i64)0);
  hi = max(lo, hi);
}

__device__ inline float dot(const float* x, const Heads& h, i64 row, int n) {
  float s = 0;
  for (int i = 0; i < n; i++) s = fmaf(x[i], value(h, row + i), s);
  return s;
}

// shape makes a score of a product; slope is the soft cap's.
__device__ inline float shape(const AttnArgs& a, float s, i64 distance, int head, float& slope) {
  s *= a.scale;
  slope = 1;
  if (a.soft_cap > 0) {
    float t = tanhf(s / a.soft_cap);
    s = a.soft_cap * t;
    slope = 1 - t * t;
  }
  if (a.rel) {
    i64 r = min(max(a.rel_zero + distance, (i64)0), (i64)(a.span - 1));
    s += a.rel[r * a.h + head];
  }
  return s;
}

// rows[i] = the rows of keys that query i sees, for kernels that go over the keys of
// several queries at once (flash.cu).
struct RowsArgs { AttnArgs a; int2* rows; };
KERNEL(attn_rows, RowsArgs) {
  i64 tok = thread();
  if (tok >= a.a.n) return;
  Span s = span_of(a.a, tok);
  i64 lo, hi;
  seen(a.a, tok + s.shift, s.keys, lo, hi);
  a.rows[tok] = make_int2((int)(s.base + lo), (int)(s.base + hi));
}

// A list of what a query sees: positions lo … hi, or its picks among them.
struct List { i64 lo, hi, count; const int* pick; };

__device__ inline List list_of(const AttnArgs& a, i64 tok, const Span& s) {
  List l;
  seen(a, tok + s.shift, s.keys, l.lo, l.hi);
  l.pick = a.pick ? a.pick + tok * a.picks : 0;
  l.count = l.pick ? a.picks : l.hi - l.lo;
  return l;
}

// nth is key i of a list, -1 where it is not seen.
__device__ inline i64 nth(const List& l, i64 i) {
  if (i >= l.count) return -1;
  if (!l.pick) return l.lo + i;
  i64 j = l.pick[i];
  return j >= l.lo && j < l.hi ? j : -1;
}

KERNEL(attention, AttnArgs) {
  extern __shared__ float sm[];
  float *q = sm, *acc = sm + a.dk_size;
  i64 tok = blockIdx.x;
  int head = blockIdx.y, kv = head / (a.h / a.kv), lane = threadIdx.x;
  i64 qr = row_of(a.q, tok, head);
  for (int i = lane; i < a.dk_size; i += 32) q[i] = value(a.q, qr + i);
  for (int i = lane; i < a.dv_size; i += 32) acc[i] = 0;
  __syncwarp();
  Span s = span_of(a, tok);
  List l = list_of(a, tok, s);
  float top = -INF, sum = 0;
  for (i64 i = 0; i < l.count; i += 32) {
    i64 j = nth(l, i + lane);
    float x = -INF, slope;
    if (j >= 0) x = shape(a, dot(q, a.k, row_of(a.k, key_row(a, s, j), kv), a.dk_size), tok + s.shift - j, head, slope);
    float next = fmaxf(top, warp_max(x));
    if (next == -INF) continue;
    float keep = expf(top - next), p = j >= 0 ? expf(x - next) : 0;
    sum = sum * keep + warp_sum(p);
    top = next;
    for (int d = lane; d < a.dv_size; d += 32) acc[d] *= keep;
    for (int w = 0; w < 32; w++) {
      float pw = __shfl_sync(0xffffffffu, p, w);
      i64 jw = __shfl_sync(0xffffffffu, j, w);
      if (jw < 0) continue;
      i64 vr = row_of(a.v, key_row(a, s, jw), kv);
      for (int d = lane; d < a.dv_size; d += 32) acc[d] = fmaf(pw, value(a.v, vr + d), acc[d]);
    }
  }
  if (a.sinks) { // takes its share and has no value
    float x = a.sinks[head], next = fmaxf(top, x), keep = expf(top - next);
    sum = sum * keep + expf(x - next);
    top = next;
    for (int d = lane; d < a.dv_size; d += 32) acc[d] *= keep;
  }
  i64 o = row_of(a.o, tok, head);
  if (a.o.p)
    for (int d = lane; d < a.dv_size; d += 32) store(a.o, o + d, sum > 0 ? acc[d] / sum : 0);
  if (a.lse && lane == 0) a.lse[tok * a.h + head] = sum > 0 ? top + logf(sum) : -INF;
}

// delta[n, h] = Σ do·o.
KERNEL(attn_delta, AttnArgs) {
  i64 tok = blockIdx.x;
  int head = blockIdx.y;
  i64 o = row_of(a.o, tok, head), d = row_of(a.d, tok, head);
  float s = 0;
  for (int i = threadIdx.x; i < a.dv_size; i += 32) s += value(a.o, o + i) * value(a.d, d + i);
  s = warp_sum(s);
  if (threadIdx.x == 0) a.delta[tok * a.h + head] = s;
}

// weight recomputes p of a query and a key, and the gradient ds of its score,
// before the soft cap's slope and the scale.
__device__ inline float weight(const AttnArgs& a, float product, float dp, i64 tok, int head, i64 distance, float& slope, float& ds) {
  float x = shape(a, product, distance, head, slope);
  float p = expf(x - a.lse[tok * a.h + head]);
  ds = p * (dp - a.delta[tok * a.h + head]);
  return p;
}

KERNEL(attn_grad_q, AttnArgs) {
  extern __shared__ float sm[];
  float *q = sm, *d = sm + a.dk_size, *acc = d + a.dv_size;
  i64 tok = blockIdx.x;
  int head = blockIdx.y, kv = head / (a.h / a.kv), lane = threadIdx.x;
  i64 qr = row_of(a.q, tok, head), dr = row_of(a.d, tok, head);
  for (int i = lane; i < a.dk_size; i += 32) q[i] = value(a.q, qr + i), acc[i] = 0;
  for (int i = lane; i < a.dv_size; i += 32) d[i] = value(a.d, dr + i);
  __syncwarp();
  Span s = span_of(a, tok);
  List l = list_of(a, tok, s);
  for (i64 i = 0; i < l.count; i += 32) {
    i64 j = nth(l, i + lane);
    float ds = 0, slope = 0;
    if (j >= 0) {
      i64 row = key_row(a, s, j);
      weight(a, dot(q, a.k, row_of(a.k, row, kv), a.dk_size), dot(d, a.v, row_of(a.v, row, kv), a.dv_size), tok, head, tok + s.shift - j, slope, ds);
    }
    ds *= slope * a.scale;
    for (int w = 0; w < 32; w++) {
      float dw = __shfl_sync(0xffffffffu, ds, w);
      i64 jw = __shfl_sync(0xffffffffu, j, w);
      if (jw < 0) continue;
      i64 kr = row_of(a.k, key_row(a, s, jw), kv);
      for (int x = lane; x < a.dk_size; x += 32) acc[x] = fmaf(dw, value(a.k, kr + x), acc[x]);
    }
  }
  i64 out = row_of(a.dq, tok, head);
  for (int x = lane; x < a.dk_size; x += 32) store(a.dq, out + x, acc[x]);
}

// sees says whether token tok, at position p, sees key j.
__device__ inline bool sees(const AttnArgs& a, i64 tok, i64 p, i64 keys, i64 j) {
  i64 lo, hi;
  seen(a, p, keys, lo, hi);
  if (j < lo || j >= hi) return false;
  if (!a.pick) return true;
  for (int i = 0; i < a.picks; i++)
    if (a.pick[tok * a.picks + i] == j) return true;
  return false;
}

KERNEL(attn_grad_kv, AttnArgs) {
  extern __shared__ float sm[];
  float *k = sm, *v = k + a.dk_size, *dk = v + a.dv_size, *dv = dk + a.dk_size;
  i64 row = blockIdx.x;
  int kv = blockIdx.y, share = a.h / a.kv, lane = threadIdx.x;
  i64 kr = row_of(a.k, row, kv), vr = row_of(a.v, row, kv);
  for (int i = lane; i < a.dk_size; i += 32) k[i] = value(a.k, kr + i), dk[i] = 0;
  for (int i = lane; i < a.dv_size; i += 32) v[i] = value(a.v, vr + i), dv[i] = 0;
  __syncwarp();
  int s = find(a.seq_kv, a.seqs, row);
  i64 first = a.seq[s], end = a.seq[s + 1], keys = a.seq_kv[s + 1] - a.seq_kv[s], j = row - a.seq_kv[s], shift = keys - end;
  if (!a.full) first = max(first, j - shift); // nobody before sees it
  if (a.window > 0) end = min(end, j + a.window - shift);
  for (i64 i = first; i < end; i += 32) {
    i64 tok = i + lane;
    bool on = tok < end && sees(a, tok, tok + shift, keys, j);
    if (!__any_sync(0xffffffffu, on)) continue;
    for (int head = kv * share; head < (kv + 1) * share; head++) {
      float p = 0, ds = 0, slope = 0;
      if (on) {
        float qk = dot(k, a.q, row_of(a.q, tok, head), a.dk_size), dp = dot(v, a.d, row_of(a.d, tok, head), a.dv_size);
        p = weight(a, qk, dp, tok, head, tok + shift - j, slope, ds);
      }
      ds *= slope * a.scale;
      for (int w = 0; w < 32; w++) {
        if (!__shfl_sync(0xffffffffu, (int)on, w)) continue;
        float pw = __shfl_sync(0xffffffffu, p, w), dw = __shfl_sync(0xffffffffu, ds, w);
        i64 q = row_of(a.q, i + w, head), d = row_of(a.d, i + w, head);
        for (int x = lane; x < a.dk_size; x += 32) dk[x] = fmaf(dw, value(a.q, q + x), dk[x]);
        for (int x = lane; x < a.dv_size; x += 32) dv[x] = fmaf(pw, value(a.d, d + x), dv[x]);
      }
    }
  }
  if (a.dk.p)
    for (int x = lane; x < a.dk_size; x += 32) store(a.dk, row_of(a.dk, row, kv) + x, dk[x]);
  if (a.dv.p)
    for (int x = lane; x < a.dv_size; x += 32) store(a.dv, row_of(a.dv, row, kv) + x, dv[x]);
}

// dsinks[h] = -Σ_n p·delta: one warp a head.
KERNEL(attn_grad_sinks, AttnArgs) {
  int head = blockIdx.x;
  float sum = 0;
  for (i64 i = threadIdx.x; i < a.n; i += 32) sum -= expf(a.sinks[head] - a.lse[i * a.h + head]) * a.delta[i * a.h + head];
  sum = warp_sum(sum);
  if (threadIdx.x == 0) put(a.dsinks, head, sum);
}

// drel[r, h]: one warp a row and head; lanes take queries by turns.
KERNEL(attn_grad_rel, AttnArgs) {
  int r = blockIdx.x, head = blockIdx.y, kv = head / (a.h / a.kv);
  float sum = 0;
  for (i64 tok = threadIdx.x; tok < a.n; tok += 32) {
    Span s = span_of(a, tok);
    i64 p = tok + s.shift, lo, hi, at = p + a.rel_zero - r; // the key of row r; rows at the ends have all beyond
    seen(a, p, s.keys, lo, hi);
    if (r > 0) hi = min(hi, at + 1);
    if (r < a.span - 1) lo = max(lo, at);
    for (i64 j = lo; j < hi; j++) {
      if (a.pick && !sees(a, tok, p, s.keys, j)) continue;
      i64 row = key_row(a, s, j), q = row_of(a.q, tok, head), k = row_of(a.k, row, kv), d = row_of(a.d, tok, head), v = row_of(a.v, row, kv);
      float qk = 0, dp = 0, slope, ds;
      for (int x = 0; x < a.dk_size; x++) qk = fmaf(value(a.q, q + x), value(a.k, k + x), qk);
      for (int x = 0; x < a.dv_size; x++) dp = fmaf(value(a.d, d + x), value(a.v, v + x), dp);
      weight(a, qk, dp, tok, head, p - j, slope, ds);
      sum += ds;
    }
  }
  sum = warp_sum(sum);
  if (threadIdx.x == 0) put(a.drel, (i64)r * a.h + head, sum);
}

// Tokens into a cache: one thread an element of a row of heads.
struct AppendArgs { Heads x; Dst cache; const int *slot, *pos; i64 n, max; int heads, size, ring, pad; };
KERNEL(kv_append, AppendArgs) {
  i64 i = thread(), width = (i64)a.heads * a.size;
  if (i >= a.n * width) return;
  i64 tok = i / width, e = i % width, pos = a.pos[tok];
  if (a.ring) pos %= a.max;
  put(a.cache, ((i64)a.slot[tok] * a.max + pos) * width + e, value(a.x, row_of(a.x, tok, e / a.size) + e % a.size));
}
