// Attention of bf16 on tensor cores, in the order of FlashAttention-2 (Dao 2023,
// arXiv:2307.08691): scores never leave the registers. A block has 64 queries of a head
// and goes over the keys that they see (forward, dq), or 64 keys of a key head and goes
// over the queries that see them (dk, dv). Each gradient is made by a block alone, in a
// fixed order.
#include "heads.h"
#include "mma.h"

// rows[i]: query i sees the rows rows[i].x … rows[i].y of keys (attn_rows). Neither falls
// with i. Heads of q, k, v and d are bf16, every row of a head at a multiple of 16 bytes.
struct FlashArgs {
  Heads q, k, v, o, d, dq, dk, dv;
  float *lse, *delta;
  const int2* rows;
  const float* sinks;
  int n, n_kv, h, kv, dk_size, dv_size;
  float scale, soft_cap;
};

#define QUERIES 64 // of a block, or keys: 16 a warp
#define THREADS 128
#define LOG2E 1.44269504f
#define LN2 0.693147181f

__device__ inline const u16* head_of(const Heads& h, int head) { return (const u16*)h.p + h.off + head * h.head; }

// at is where 16 bytes of a tile with rows of D lie, so that neither a copy nor eight rows
// of a matrix meet in a bank.
template <int D> __device__ inline u32 spot(int row, int chunk) { return row * (D * 2) + ((chunk ^ (row & 7)) << 4); }

// fetch copies COUNT rows from first on, zeros from row end and column width on.
template <int D, int COUNT> __device__ inline void fetch(u32 to, const u16* from, i64 stride, int first, int end, int width) {
  const int chunks = D / 8, apart = THREADS / chunks;
  int chunk = threadIdx.x % chunks, row = threadIdx.x / chunks;
  const u16* p = from + (i64)(first + row) * stride + chunk * 8;
  int left = chunk * 8 < width ? end - first - row : 0;
#pragma unroll
  for (int r = 0; r < COUNT; r += apart) {
    copy_async(to + spot<D>(row + r, chunk), p, left > r ? 16 : 0);
    p += apart * stride;
  }
}

__device__ inline float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline u32 pack(float x, float y) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %2, %1;" : "=r"(r) : "f"(x), "f"(y));
  return r;
}

// Lane is a thread's place in fragments: rows row and row + 8 of its warp's 16, columns
// col and col + 1 of each 8.
struct Lane { int lane, row, col; };

// left_of loads 16 rows from row on of a tile, 16 columns from k on, as the left factor.
template <int D> __device__ inline void left_of(u32 (&r)[4], u32 tile, int row, int k, int lane) { load_matrices<false>(r, tile + spot<D>(row + lane % 16, k / 8 + lane / 16)); }
// right_of loads rows from n on as columns of the right factor, columns from k on as its sum.
template <int D> __device__ inline void right_of(u32 (&r)[4], u32 tile, int n, int k, int lane) { load_matrices<false>(r, tile + spot<D>(n + lane % 8 + lane / 16 * 8, k / 8 + lane / 8 % 2)); }
// across_of loads rows from k on as the sum of the right factor, columns from n on as its columns.
template <int D> __device__ inline void across_of(u32 (&r)[4], u32 tile, int k, int n, int lane) { load_matrices<true>(r, tile + spot<D>(k + lane % 16, n / 8 + lane / 16)); }

// from_rows loads the fragments of 16 rows of a head from memory, zeros outside.
template <int D> __device__ inline void from_rows(u32 (&f)[D / 16][4], const u16* p, i64 stride, int row, int n, int width, int col) {
#pragma unroll
  for (int k = 0; k < D / 16; k++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int r = row + i % 2 * 8, c = k * 16 + i / 2 * 8 + col;
      f[k][i] = r < n && c < width ? *(const u32*)(p + r * stride + c) : 0;
    }
}

// begin is multiply with nothing to add to.
__device__ inline void begin(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
    : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
}

// products is sum = rows of left · rows of right, over D.
template <int D, int N> __device__ inline void products(float (&sum)[N / 8][4], const u32 (&left)[D / 16][4], u32 right, int lane) {
#pragma unroll
  for (int k = 0; k < D / 16; k++)
#pragma unroll
    for (int j = 0; j < N / 16; j++) {
      u32 b[4];
      right_of<D>(b, right, j * 16, k * 16, lane);
      if (k == 0) {
        begin(sum[2 * j], left[k], b[0], b[1]);
        begin(sum[2 * j + 1], left[k], b[2], b[3]);
      } else {
        multiply<BF16>(sum[2 * j], left[k], b[0], b[1]);
        multiply<BF16>(sum[2 * j + 1], left[k], b[2], b[3]);
      }
    }
}
template <int D, int N> __device__ inline void products(float (&sum)[N / 8][4], u32 left, int row, u32 right, int lane) {
#pragma unroll
  for (int k = 0; k < D / 16; k++) {
    u32 a[4];
    left_of<D>(a, left, row, k * 16, lane);
#pragma unroll
    for (int j = 0; j < N / 16; j++) {
      u32 b[4];
      right_of<D>(b, right, j * 16, k * 16, lane);
      if (k == 0) {
        begin(sum[2 * j], a, b[0], b[1]);
        begin(sum[2 * j + 1], a, b[2], b[3]);
      } else {
        multiply<BF16>(sum[2 * j], a, b[0], b[1]);
        multiply<BF16>(sum[2 * j + 1], a, b[2], b[3]);
      }
    }
  }
}

// collect is sum += w · tile: w, 16 rows of N weights, is rounded to bf16.
template <int D, int N> __device__ inline void collect(float (&sum)[D / 8][4], const float (&w)[N / 8][4], u32 tile, int lane) {
#pragma unroll
  for (int k = 0; k < N / 16; k++) {
    const u32 a[4] = {pack(w[2 * k][0], w[2 * k][1]), pack(w[2 * k][2], w[2 * k][3]), pack(w[2 * k + 1][0], w[2 * k + 1][1]), pack(w[2 * k + 1][2], w[2 * k + 1][3])};
#pragma unroll
    for (int j = 0; j < D / 16; j++) {
      u32 b[4];
      across_of<D>(b, tile, k * 16, j * 16, lane);
      multiply<BF16>(sum[2 * j], a, b[0], b[1]);
      multiply<BF16>(sum[2 * j + 1], a, b[2], b[3]);
    }
  }
}

// row_to puts a row of sums, of bf16 or f32, times s.
template <int D> __device__ inline void row_to(const Heads& h, i64 at, const float (&sum)[D / 8][4], int half, float s, int width) {
  if (h.type == F32) {
    float* p = (float*)h.p + at;
    if (h.add) {
#pragma unroll
      for (int j = 0; j < D / 8; j++)
        if (j * 8 < width) p[j * 8] += sum[j][2 * half] * s, p[j * 8 + 1] += sum[j][2 * half + 1] * s;
    } else {
#pragma unroll
      for (int j = 0; j < D / 8; j++)
        if (j * 8 < width) p[j * 8] = sum[j][2 * half] * s, p[j * 8 + 1] = sum[j][2 * half + 1] * s;
    }
    return;
  }
  u32* p = (u32*)((u16*)h.p + at);
#pragma unroll
  for (int j = 0; j < D / 8; j++) {
    if (j * 8 >= width) break;
    float x = sum[j][2 * half] * s, y = sum[j][2 * half + 1] * s;
    if (h.add) {
      u32 old = p[j * 4];
      x += __uint_as_float(old << 16), y += __uint_as_float(old & 0xffff0000u);
    }
    p[j * 4] = pack(x, y);
  }
}

// write puts 16 rows of sums, times s0 for the upper and s1 for the lower ones.
template <int D> __device__ inline void write(const Heads& h, int head, const float (&sum)[D / 8][4], float s0, float s1, int row, int n, int width, int col) {
  i64 at = h.off + head * h.head + row * h.tok + col;
  if (row < n) row_to<D>(h, at, sum, 0, s0, width);
  if (row + 8 < n) row_to<D>(h, at + 8 * h.tok, sum, 1, s1, width);
}

// soften makes scores of products: what exp2 is to be taken of, before the largest is
// taken off. It returns the factor that is still to be applied.
template <int N> __device__ inline float soften(const FlashArgs& a, float (&s)[N / 8][4]) {
  if (a.soft_cap <= 0 && a.scale > 0) return a.scale * LOG2E;
#pragma unroll
  for (int j = 0; j < N / 8; j++)
#pragma unroll
    for (int l = 0; l < 4; l++) {
      float x = s[j][l] * a.scale;
      s[j][l] = (a.soft_cap > 0 ? a.soft_cap * tanhf(x / a.soft_cap) : x) * LOG2E;
    }
  return 1;
}

template <int D, int KEYS> __device__ inline void forward(const FlashArgs& a, u8* shared) {
  u32 ks = (u32)__cvta_generic_to_shared(shared), vs = ks + KEYS * D * 2;
  int lane = threadIdx.x % 32, m0 = (gridDim.x - 1 - blockIdx.x) * QUERIES, head = blockIdx.y, kv = head / (a.h / a.kv); // the longest first
  int row = m0 + threadIdx.x / 32 * 16 + lane / 4, col = lane % 4 * 2;
  int2 first = a.rows[m0], last = a.rows[min(m0 + QUERIES, a.n) - 1], see0 = row < a.n ? a.rows[row] : make_int2(0, 0), see1 = row + 8 < a.n ? a.rows[row + 8] : make_int2(0, 0);
  const u16 *k = head_of(a.k, kv), *v = head_of(a.v, kv);
  u32 q[D / 16][4];
  from_rows<D>(q, head_of(a.q, head), a.q.tok, row, a.n, a.dk_size, col);
  float o[D / 8][4] = {}, top0 = -INF, top1 = -INF, sum0 = 0, sum1 = 0; // a lane's share of the sums
  if (first.x < last.y) fetch<D, KEYS>(ks, k, a.k.tok, first.x, a.n_kv, a.dk_size);
  commit();
#pragma unroll 1
  for (int j0 = first.x; j0 < last.y; j0 += KEYS) {
    __syncthreads(); // the values before were read
    fetch<D, KEYS>(vs, v, a.v.tok, j0, a.n_kv, a.dv_size);
    commit();
    wait<1>();
    __syncthreads(); // the keys are there for all
    float s[KEYS / 8][4];
    products<D, KEYS>(s, q, ks, lane);
    __syncthreads(); // the keys were read
    if (j0 + KEYS < last.y) fetch<D, KEYS>(ks, k, a.k.tok, j0 + KEYS, a.n_kv, a.dk_size);
    commit();
    float c = soften<KEYS>(a, s);
    if (j0 < last.x || j0 + KEYS > first.y) { // not all see all
#pragma unroll
      for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
        for (int l = 0; l < 4; l++) {
          int at = j0 + j * 8 + col + l % 2, lo = l < 2 ? see0.x : see1.x, hi = l < 2 ? see0.y : see1.y;
          if (at < lo || at >= hi) s[j][l] = -INF;
        }
    }
    float most0 = s[0][0], most1 = s[0][2];
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++) {
      most0 = fmaxf(most0, fmaxf(s[j][0], s[j][1]));
      most1 = fmaxf(most1, fmaxf(s[j][2], s[j][3]));
    }
#pragma unroll
    for (int x = 1; x < 4; x *= 2) {
      most0 = fmaxf(most0, __shfl_xor_sync(0xffffffffu, most0, x));
      most1 = fmaxf(most1, __shfl_xor_sync(0xffffffffu, most1, x));
    }
    most0 = fmaxf(top0, most0 * c), most1 = fmaxf(top1, most1 * c);
    float from0 = most0 == -INF ? 0 : most0, from1 = most1 == -INF ? 0 : most1, keep0 = exp2_of(top0 - from0), keep1 = exp2_of(top1 - from1);
    top0 = most0, top1 = most1;
    sum0 *= keep0, sum1 *= keep1;
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++) {
      s[j][0] = exp2_of(fmaf(s[j][0], c, -from0)), s[j][1] = exp2_of(fmaf(s[j][1], c, -from0));
      s[j][2] = exp2_of(fmaf(s[j][2], c, -from1)), s[j][3] = exp2_of(fmaf(s[j][3], c, -from1));
      sum0 += s[j][0] + s[j][1], sum1 += s[j][2] + s[j][3];
    }
#pragma unroll
    for (int j = 0; j < D / 8; j++) o[j][0] *= keep0, o[j][1] *= keep0, o[j][2] *= keep1, o[j][3] *= keep1;
    wait<1>();
    __syncthreads(); // the values are there for all
    collect<D, KEYS>(o, s, vs, lane);
  }
  wait<0>();
#pragma unroll
  for (int x = 1; x < 4; x *= 2) {
    sum0 += __shfl_xor_sync(0xffffffffu, sum0, x);
    sum1 += __shfl_xor_sync(0xffffffffu, sum1, x);
  }
  float keep0 = 1, keep1 = 1;
  if (a.sinks) { // takes its share and has no value
    float x = a.sinks[head] * LOG2E, most0 = fmaxf(top0, x), most1 = fmaxf(top1, x);
    keep0 = exp2_of(top0 - most0), keep1 = exp2_of(top1 - most1);
    sum0 = sum0 * keep0 + exp2_of(x - most0), sum1 = sum1 * keep1 + exp2_of(x - most1);
    top0 = most0, top1 = most1;
  }
  if (a.o.p) write<D>(a.o, head, o, sum0 > 0 ? keep0 / sum0 : 0, sum1 > 0 ? keep1 / sum1 : 0, row, a.n, a.dv_size, col);
  if (!a.lse || lane % 4) return;
  if (row < a.n) a.lse[(i64)row * a.h + head] = sum0 > 0 ? top0 * LN2 + logf(sum0) : -INF;
  if (row + 8 < a.n) a.lse[(i64)(row + 8) * a.h + head] = sum1 > 0 ? top1 * LN2 + logf(sum1) : -INF;
}

// soften_both is soften, and takes delta off the gradients dp of weights and multiplies
// them with the soft cap's slope. Delta i belongs to place l of a fragment where l/2 or,
// with ACROSS, l%2 is i; then each fragment has its own two.
template <int N, bool ACROSS> __device__ inline void soften_both(const FlashArgs& a, float (&s)[N / 8][4], float (&dp)[N / 8][4], const float (&delta)[ACROSS ? N / 4 : 2]) {
  float c = a.scale * LOG2E;
  if (a.soft_cap > 0) {
#pragma unroll
    for (int j = 0; j < N / 8; j++)
#pragma unroll
      for (int l = 0; l < 4; l++) {
        float t = tanhf(s[j][l] * a.scale / a.soft_cap);
        s[j][l] = a.soft_cap * LOG2E * t;
        dp[j][l] = (dp[j][l] - delta[ACROSS ? j * 2 + l % 2 : l / 2]) * (1 - t * t);
      }
  } else {
#pragma unroll
    for (int j = 0; j < N / 8; j++)
#pragma unroll
      for (int l = 0; l < 4; l++) {
        s[j][l] *= c;
        dp[j][l] -= delta[ACROSS ? j * 2 + l % 2 : l / 2];
      }
  }
}

// less_of is what is taken off the scores of a query in exp2; one that sees nothing has no
// score to take it off.
__device__ inline float less_of(float lse) { return lse == -INF ? 0 : lse * LOG2E; }

template <int D, int KEYS> __device__ inline void gradient_q(const FlashArgs& a, u8* shared) {
  const int bytes = KEYS * D * 2;
  u32 base = (u32)__cvta_generic_to_shared(shared);
  int lane = threadIdx.x % 32, m0 = (gridDim.x - 1 - blockIdx.x) * QUERIES, head = blockIdx.y, kv = head / (a.h / a.kv);
  int row = m0 + threadIdx.x / 32 * 16 + lane / 4, col = lane % 4 * 2;
  bool on0 = row < a.n, on1 = row + 8 < a.n;
  int2 first = a.rows[m0], last = a.rows[min(m0 + QUERIES, a.n) - 1], see0 = on0 ? a.rows[row] : make_int2(0, 0), see1 = on1 ? a.rows[row + 8] : make_int2(0, 0);
  i64 at0 = (i64)row * a.h + head, at1 = at0 + 8 * a.h;
  float less[2] = {on0 ? less_of(a.lse[at0]) : 0, on1 ? less_of(a.lse[at1]) : 0}, delta[2] = {on0 ? a.delta[at0] : 0, on1 ? a.delta[at1] : 0};
  const u16 *k = head_of(a.k, kv), *v = head_of(a.v, kv);
  u32 q[D / 16][4], d[D / 16][4];
  from_rows<D>(q, head_of(a.q, head), a.q.tok, row, a.n, a.dk_size, col);
  from_rows<D>(d, head_of(a.d, head), a.d.tok, row, a.n, a.dv_size, col);
  float dq[D / 8][4] = {};
  u32 stage = 0;
  if (first.x < last.y) {
    fetch<D, KEYS>(base, k, a.k.tok, first.x, a.n_kv, a.dk_size);
    fetch<D, KEYS>(base + bytes, v, a.v.tok, first.x, a.n_kv, a.dv_size);
  }
  commit();
#pragma unroll 1
  for (int j0 = first.x; j0 < last.y; j0 += KEYS) {
    wait<0>();
    __syncthreads(); // these are there for all, and those before were read
    u32 ks = base + stage, vs = ks + bytes;
    stage ^= 2 * bytes;
    if (j0 + KEYS < last.y) {
      fetch<D, KEYS>(base + stage, k, a.k.tok, j0 + KEYS, a.n_kv, a.dk_size);
      fetch<D, KEYS>(base + stage + bytes, v, a.v.tok, j0 + KEYS, a.n_kv, a.dv_size);
    }
    commit();
    float s[KEYS / 8][4], dp[KEYS / 8][4];
    products<D, KEYS>(s, q, ks, lane);
    products<D, KEYS>(dp, d, vs, lane);
    soften_both<KEYS, false>(a, s, dp, delta);
    if (j0 < last.x || j0 + KEYS > first.y) { // not all see all
#pragma unroll
      for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
        for (int l = 0; l < 4; l++) {
          int at = j0 + j * 8 + col + l % 2, lo = l < 2 ? see0.x : see1.x, hi = l < 2 ? see0.y : see1.y;
          if (at < lo || at >= hi) s[j][l] = -INF;
        }
    }
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
      for (int l = 0; l < 4; l++) dp[j][l] *= exp2_of(s[j][l] - less[l / 2]);
    collect<D, KEYS>(dq, dp, ks, lane);
  }
  wait<0>();
  write<D>(a.dq, head, dq, a.scale, a.scale, row, a.n, a.dk_size, col);
}

// from_key is the first query of which x or y, as hi says, is greater than key.
__device__ inline int from_key(const FlashArgs& a, int key, bool hi) {
  int lo = 0, end = a.n;
  while (lo < end) {
    int mid = (lo + end) / 2;
    int2 r = a.rows[mid];
    if ((hi ? r.y : r.x) > key) end = mid;
    else lo = mid + 1;
  }
  return lo;
}

// Query is what a block of keys asks of one.
struct Query { float less, delta; int lo, hi; };

// ask fetches COUNT queries from first on, with their gradients, and what is known of them;
// behind the last of all are zeros, which add nothing.
template <int D, int COUNT> __device__ inline void ask(const FlashArgs& a, u32 to, Query* known, int head, int first) {
  fetch<D, COUNT>(to, head_of(a.q, head), a.q.tok, first, a.n, a.dk_size);
  fetch<D, COUNT>(to + COUNT * D * 2, head_of(a.d, head), a.d.tok, first, a.n, a.dv_size);
  if (threadIdx.x >= COUNT) return;
  int i = min(first + (int)threadIdx.x, a.n - 1);
  i64 at = (i64)i * a.h + head;
  int2 see = a.rows[i];
  Query* q = known + threadIdx.x;
  q->less = less_of(a.lse[at]), q->delta = a.delta[at], q->lo = see.x, q->hi = see.y;
}

// COUNT queries at a time.
template <int D, int COUNT> __device__ inline void gradient_kv(const FlashArgs& a, u8* shared) {
  const int bytes = COUNT * D * 2;
  __shared__ __align__(16) Query known[2][COUNT];
  u32 ks = (u32)__cvta_generic_to_shared(shared), vs = ks + QUERIES * D * 2, base = vs + QUERIES * D * 2;
  int lane = threadIdx.x % 32, j0 = blockIdx.x * QUERIES, j1 = min(j0 + QUERIES, a.n_kv), kv = blockIdx.y, share = a.h / a.kv;
  int mine = threadIdx.x / 32 * 16, row = j0 + mine + lane / 4, col = lane % 4 * 2;
  int q0 = from_key(a, j0, true), q1 = from_key(a, j1 - 1, false), tiles = q0 < q1 ? (q1 - q0 + COUNT - 1) / COUNT : 0;
  float dk[D / 8][4] = {}, dv[D / 8][4] = {};
  if (tiles) {
    fetch<D, QUERIES>(ks, head_of(a.k, kv), a.k.tok, j0, a.n_kv, a.dk_size);
    fetch<D, QUERIES>(vs, head_of(a.v, kv), a.v.tok, j0, a.n_kv, a.dv_size);
    ask<D, COUNT>(a, base, known[0], kv * share, q0);
  }
  commit();
  int stage = 0, head = kv * share, i0 = q0;
#pragma unroll 1
  for (int left = tiles * share; left > 0; left--) {
    wait<0>();
    __syncthreads(); // these are there for all, and those before were read
    u32 qs = base + stage * 2 * bytes, ds = qs + bytes;
    const Query* its = known[stage];
    stage ^= 1;
    int next = i0 + COUNT, after = head;
    if (next >= q1) next = q0, after++;
    if (left > 1) ask<D, COUNT>(a, base + stage * 2 * bytes, known[stage], after, next);
    commit();
    float s[COUNT / 8][4], dp[COUNT / 8][4];
    products<D, COUNT>(s, ks, mine, qs, lane);
    products<D, COUNT>(dp, vs, mine, ds, lane);
    float less[COUNT / 4], delta[COUNT / 4];
    int lo[COUNT / 4], hi[COUNT / 4];
#pragma unroll
    for (int j = 0; j < COUNT / 4; j++) {
      float4 q = *(const float4*)(its + j / 2 * 8 + col + j % 2);
      less[j] = q.x, delta[j] = q.y, lo[j] = __float_as_int(q.z), hi[j] = __float_as_int(q.w);
    }
    soften_both<COUNT, true>(a, s, dp, delta);
    if (its[COUNT - 1].lo > j0 || its[0].hi < j0 + QUERIES) { // not all see all
#pragma unroll
      for (int j = 0; j < COUNT / 8; j++)
#pragma unroll
        for (int l = 0; l < 4; l++) {
          int at = row + l / 2 * 8, q = j * 2 + l % 2;
          if (at < lo[q] || at >= hi[q]) s[j][l] = -INF;
        }
    }
#pragma unroll
    for (int j = 0; j < COUNT / 8; j++)
#pragma unroll
      for (int l = 0; l < 4; l++) {
        s[j][l] = exp2_of(s[j][l] - less[j * 2 + l % 2]);
        dp[j][l] *= s[j][l];
      }
    collect<D, COUNT>(dv, s, ds, lane);
    collect<D, COUNT>(dk, dp, qs, lane);
    i0 = next, head = after;
  }
  wait<0>();
  if (a.dk.p) write<D>(a.dk, kv, dk, a.scale, a.scale, row, a.n_kv, a.dk_size, col);
  if (a.dv.p) write<D>(a.dv, kv, dv, 1, 1, row, a.n_kv, a.dv_size, col);
}

// flash_SIZE: heads of up to SIZE. Dynamic shared memory: see flashRows in attention.go.
#define FLASH(name, call)                                                        \
  extern "C" __global__ void __launch_bounds__(THREADS) name(FlashArgs a) {      \
    extern __shared__ __align__(16) u8 shared[];                                 \
    call(a, shared);                                                             \
  }
FLASH(flash_64, (forward<64, 64>))
FLASH(flash_128, (forward<128, 64>))
FLASH(flash_256, (forward<256, 32>))
FLASH(flash_grad_q_64, (gradient_q<64, 64>))
FLASH(flash_grad_q_128, (gradient_q<128, 32>))
FLASH(flash_grad_kv_64, (gradient_kv<64, 32>))
FLASH(flash_grad_kv_128, (gradient_kv<128, 32>))
