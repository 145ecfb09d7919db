// Products on tensor cores of x rounded to 8 bits with weights that are whole numbers of 8 bits times a scale, which 32 columns
// and more share: the sums of 32 products are exact, and are added in f32 with the scales of both. Tiles and copies of x are
// those of mma.h; weights are read as they are stored, two steps ahead, and decoded into shared memory.
#include "mma.h"
#include "words.h"

// Round8Args: rows of m [rows, cols] in f32, bf16 or f16 become codes [rows, cols], and of every 32 columns k a scale at
// k·stride + row, and there the sum of their codes times it.
struct Round8Args { Mat m; u8* codes; float *scales, *sums; i64 stride; int cols, pad; };

// to_int8 rounds four columns a thread, a row by blockIdx.x: the largest of 32 is 127, halves go to even. Numbers that are
// not finite make the scale so.
KERNEL(to_int8, Round8Args) {
  i64 row = blockIdx.x;
  int col = (blockIdx.y * blockDim.x + threadIdx.x) * 4;
  bool there = col < a.cols;
  float v[4] = {};
  i64 at = (a.m.row0 + row) * a.cols + col;
  if (there && a.m.kind == F32) {
    float4 x = *(const float4*)((const float*)a.m.codes + at);
    v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
  } else if (there) {
    uint2 x = *(const uint2*)((const u16*)a.m.codes + at);
    bool b = a.m.kind == BF16;
    v[0] = b ? from_bf16((u16)x.x) : from_f16((u16)x.x), v[1] = b ? from_bf16((u16)(x.x >> 16)) : from_f16((u16)(x.x >> 16));
    v[2] = b ? from_bf16((u16)x.y) : from_f16((u16)x.y), v[3] = b ? from_bf16((u16)(x.y >> 16)) : from_f16((u16)(x.y >> 16));
  }
  u32 top = 0; // of the bits: a NaN is the largest
#pragma unroll
  for (int j = 0; j < 4; j++) top = max(top, __float_as_uint(v[j]) & 0x7fffffffu);
#pragma unroll
  for (int o = 4; o > 0; o >>= 1) top = max(top, __shfl_xor_sync(0xffffffffu, top, o));
  float most = __uint_as_float(top), by = top ? 127.0f / most : 0;
  u32 codes = 0;
  int sum = 0;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    int c = max(-127, min(127, __float2int_rn(v[j] * by)));
    codes |= (u32)(c & 255) << 8 * j, sum += c;
  }
#pragma unroll
  for (int o = 4; o > 0; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
  if (!there) return;
  *(u32*)(a.codes + row * a.cols + col) = codes;
  if (threadIdx.x % 8) return;
  float scale = most * (1 / 127.0f);
  a.scales[col / 32 * a.stride + row] = scale;
  a.sums[col / 32 * a.stride + row] = scale * (float)sum;
}

// Int8Args: codes of x are a of p, and lda apart; w are the weights, whose columns k >> shift share a scale where their type
// has groups. Scales and sums of x are those of Round8Args.
struct Int8Args {
  MmaArgs p;
  Mat w;
  const float *scales, *sums;
  i64 stride;
  int shift, pad;
};

// Less makes four signed numbers of four codes without a sign, up to 15 and 31, and their zero point, up to 128.
__device__ inline u32 less(u32 codes, u32 zero) { return (codes + 0x80808080u - zero * 0x01010101u) ^ 0x80808080u; }

// A block is 32 columns of a row of weights, (code)·scale - low. find reads it, codes decodes what was read: 32 signed numbers.
// With LOW there is a low, else it is 0.
template <int WORDS> struct Block {
  enum { LOW = 0 };
  u32 w[WORDS];
  float scale, low;
  template <int N> __device__ inline void words16(const u8* p) { // a multiple of 16 bytes
#pragma unroll
    for (int i = 0; i < N / 4; i++) {
      uint4 v = ((const uint4*)p)[i];
      w[4 * i] = v.x, w[4 * i + 1] = v.y, w[4 * i + 2] = v.z, w[4 * i + 3] = v.w;
    }
  }
};

struct Int4Block : Block<5> { // w[4] is the zero point
  __device__ inline void find(const Int8Args& a, i64 row, int k) {
    words16<4>(a.w.codes + (row * a.w.cols + k) / 2);
    i64 g = row * a.w.groups + (k >> a.shift);
    scale = load(a.w.scales, a.w.scale_type, g);
    w[4] = a.w.zeros ? a.w.zeros[g] : 8;
  }
  __device__ inline void codes(u32 (&v)[8]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      u32 lo = less(w[i] & 0x0f0f0f0fu, w[4]), hi = less(w[i] >> 4 & 0x0f0f0f0fu, w[4]);
      v[2 * i] = __byte_perm(lo, hi, 0x5140), v[2 * i + 1] = __byte_perm(lo, hi, 0x7362);
    }
  }
};

struct Int8Block : Block<8> {
  __device__ inline void find(const Int8Args& a, i64 row, int k) {
    words16<8>(a.w.codes + row * a.w.cols + k);
    scale = load(a.w.scales, a.w.scale_type, row * a.w.groups + (k >> a.shift));
  }
  __device__ inline void codes(u32 (&v)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = w[i] ^ 0x80808080u;
  }
};

// nibbles are the codes of 16 bytes: the lower halves, then the upper.
__device__ inline void nibbles(u32 (&v)[8], const u32* w) {
#pragma unroll
  for (int i = 0; i < 4; i++) v[i] = w[i] & 0x0f0f0f0fu, v[4 + i] = w[i] >> 4 & 0x0f0f0f0fu;
}

// Blocks of 32 of GGUF (see decode_ggml in mat.h), SIZE bytes each.
template <int SIZE> __device__ inline const u8* block_of(const Int8Args& a, i64 row, int k) { return a.w.codes + (row * a.w.cols + k) / 32 * SIZE; }

struct Q80Block : Block<8> {
  __device__ inline void find(const Int8Args& a, i64 row, int k) {
    const u8* b = block_of<34>(a, row, k);
    words(w, b + 2);
    scale = from_f16(*(const u16*)b);
  }
  __device__ inline void codes(u32 (&v)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = w[i];
  }
};

struct Q40Block : Block<4> {
  __device__ inline void find(const Int8Args& a, i64 row, int k) {
    const u8* b = block_of<18>(a, row, k);
    words(w, b + 2);
    scale = from_f16(*(const u16*)b);
  }
  __device__ inline void codes(u32 (&v)[8]) {
    nibbles(v, w);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = less(v[i], 8);
  }
};

struct Q41Block : Block<4> {
  enum { LOW = 1 };
  __device__ inline void find(const Int8Args& a, i64 row, int k) {
    const u8* b = block_of<20>(a, row, k);
    u32 dm = *(const u32*)b;
#pragma unroll
    for (int i = 0; i < 4; i++) w[i] = ((const u32*)(b + 4))[i];
    scale = from_f16((u16)dm), low = -from_f16((u16)(dm >> 16));
  }
  __device__ inline void codes(u32 (&v)[8]) { nibbles(v, w); }
};

struct Q4KBlock : Block<4> {
  enum { LOW = 1 };
  __device__ inline void find(const Int8Args& a, i64 row, int k) {
    const u8* b = a.w.codes + (row * a.w.cols + k) / 256 * 144;
    int u = k / 32 % 8, sc, mn;
    scale_min(b + 4, u, sc, mn);
    u32 dm = *(const u32*)b;
    scale = from_f16((u16)dm) * (float)sc, low = from_f16((u16)(dm >> 16)) * (float)mn;
    const uint4* q = (const uint4*)(b + 16 + u / 2 * 32);
    uint4 x = q[0], y = q[1];
    int s = u % 2 * 4; // bits, of which half are ours
    w[0] = nibble(x.x, x.y, s), w[1] = nibble(x.z, x.w, s), w[2] = nibble(y.x, y.y, s), w[3] = nibble(y.z, y.w, s);
  }
  // nibble is a half of each of eight bytes: of x the lower halves, of y the upper.
  static __device__ inline u32 nibble(u32 x, u32 y, int s) { return (x >> s & 0x0f0f0f0fu) | (y >> s & 0x0f0f0f0fu) << 4; }
  __device__ inline void codes(u32 (&v)[8]) {
#pragma unroll
    for (int i = 0; i < 4; i++) v[2 * i] = w[i] & 0x0f0f0f0fu, v[2 * i + 1] = w[i] >> 4 & 0x0f0f0f0fu;
  }
};

// A whole number n below 2^22 added to these bits gives those of 1.5·2^23 + n: sums begin there, and are floats at once.
#define WHOLE 0x4b400000
#define WHOLE_FLOAT 12582912.0f

__device__ inline void multiply8(float (&f)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  int d[4];
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
    : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(WHOLE));
#pragma unroll
  for (int i = 0; i < 4; i++) f[i] = __int_as_float(d[i]) - WHOLE_FLOAT;
}

__device__ inline void store_words(u32 to, const u32* v) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]) : "memory");
}

__device__ inline float2 load_pair(const float* p) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"((u32)__cvta_generic_to_shared(p)) : "memory");
  return v;
}

// beside is where the scale of one of two blocks of a row lies, so that those of 16 rows are in different banks.
template <int SIZE> __device__ inline int beside(int block, int row) { return block * SIZE + (row ^ block * 16); }

// Next is the part of a step that a thread reads ahead: a block of weights of row threadIdx.x/2 of the tile, and the scale of
// a block of x, of row threadIdx.x % SIZE.
template <class W, int SIZE> struct Next {
  W w;
  float scale, sum;
  i64 row, x;
  int k, count, kx; // the blocks of both that are next, and how many there are
  bool inside;

  __device__ inline Next(const Int8Args& a, const Tile& t) {
    row = a.w.row0 + t.b0 + min(t.n0 + (int)threadIdx.x / 2, a.p.n - 1);
    k = threadIdx.x % 2, kx = threadIdx.x / SIZE, count = t.k / 32;
    inside = t.m0 + (int)threadIdx.x % SIZE < t.m;
    x = t.a0 + t.m0 + threadIdx.x % SIZE;
  }
  __device__ inline void read(const Int8Args& a) {
    w.find(a, row, min(k, count - 1) * 32);
    if (k >= count) w.scale = w.low = 0;
    bool there = inside && kx < count;
    scale = there ? a.scales[kx * a.stride + x] : 0;
    if (W::LOW) sum = there ? a.sums[kx * a.stride + x] : 0;
    k += 2, kx += 2;
  }
  // write lays it down: codes at to, and two blocks of the scales of x and of weights, of sums and lows.
  __device__ inline void write(u32 to, float* factors) {
    u32 v[8];
    w.codes(v);
    int own = threadIdx.x / 2, half = threadIdx.x % 2;
    store_words(to + place<SIZE, true, 1>(own, half * 2), v);
    store_words(to + place<SIZE, true, 1>(own, half * 2 + 1), v + 4);
    factors[threadIdx.x] = scale;
    int at = 2 * SIZE + beside<SIZE>(half, own);
    factors[at] = w.scale;
    if (W::LOW) factors[4 * SIZE + threadIdx.x] = sum, factors[4 * SIZE + at] = w.low;
  }
};

template <class W, int SIZE, int WM, int WN> __device__ inline void product8(const Int8Args& a, u8* shared) {
  const int DEEP = 2 * STEP, across = SIZE / WN, threads = SIZE / WM * across * 32, bytes = SIZE * DEEP, each = (W::LOW ? 8 : 4) * SIZE;
  static_assert(threads == 2 * SIZE, "a block of weights a thread");
  u32 base = (u32)__cvta_generic_to_shared(shared);
  float* factors = (float*)(shared + (STAGES + 2) * bytes);
  Tile t;
  if (!t.find(a.p, SIZE, SIZE)) return;
  int lane = threadIdx.x % 32, wm = threadIdx.x / 32 / across * WM, wn = threadIdx.x / 32 % across * WN, steps = (t.k + DEEP - 1) / DEEP;
  float* rows = (float*)shared + threadIdx.x / 32 * (16 * PITCH);
  float sum[WM / 16][WN / 8][4] = {};
  Fetch<SIZE, true, threads, u8> fx(base, (const u8*)a.p.a, a.p.lda, t.a0, t.m0, t.m, t.k);
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    fx.step(s * bytes);
    commit();
  }
  Next<W, SIZE> next(a, t);
  next.read(a);
  next.write(base + STAGES * bytes, factors);
  next.read(a);
  u32 stage = 0, into = (STAGES - 1) * bytes; // of x: that is multiplied, and that is filled
#pragma unroll 1
  for (int s = 0; s < steps; s++) {
    wait<STAGES - 2>();
    __syncthreads(); // step s is there for all, and step s-1 was read by all
    fx.step(into); // zeros behind the end
    commit();
    next.write(base + (STAGES + (s + 1) % 2) * bytes, factors + (s + 1) % 2 * each);
    next.read(a);
    u32 as = base + stage, bs = base + (STAGES + s % 2) * bytes;
    const float* f = factors + s % 2 * each;
    stage = stage == (STAGES - 1) * bytes ? 0 : stage + bytes;
    into = into == (STAGES - 1) * bytes ? 0 : into + bytes;
#pragma unroll 1
    for (int part = 0; part < 2; part++) {
      u32 p[WM / 16][4], q[WN / 16][4];
      float x[WM / 16][2], xs[WM / 16][2];
      float2 w[WN / 8], low[WN / 8];
#pragma unroll
      for (int i = 0; i < WM / 16; i++) {
        load_matrices<false>(p[i], as + place<SIZE, true, 1>(wm + i * 16 + lane % 16, part * 2 + lane / 16));
#pragma unroll
        for (int h = 0; h < 2; h++) {
          int r = part * SIZE + wm + i * 16 + h * 8 + lane / 4;
          x[i][h] = f[r];
          if (W::LOW) xs[i][h] = f[4 * SIZE + r];
        }
      }
#pragma unroll
      for (int j = 0; j < WN / 16; j++) load_matrices<false>(q[j], bs + place<SIZE, true, 1>(wn + j * 16 + lane % 8 + lane / 16 * 8, part * 2 + lane / 8 % 2));
#pragma unroll
      for (int j = 0; j < WN / 8; j++) {
        const float* at = f + 2 * SIZE + beside<SIZE>(part, wn + j * 8 + lane % 4 * 2);
        w[j] = load_pair(at);
        if (W::LOW) low[j] = load_pair(at + 4 * SIZE);
      }
#pragma unroll
      for (int i = 0; i < WM / 16; i++)
#pragma unroll
        for (int j = 0; j < WN / 8; j++) {
          float d[4];
          multiply8(d, p[i], q[j / 2][j % 2 * 2], q[j / 2][j % 2 * 2 + 1]);
#pragma unroll
          for (int l = 0; l < 4; l++) {
            sum[i][j][l] = fmaf(d[l], x[i][l / 2] * (l % 2 ? w[j].y : w[j].x), sum[i][j][l]);
            if (W::LOW) sum[i][j][l] = fmaf(-xs[i][l / 2], l % 2 ? low[j].y : low[j].x, sum[i][j][l]);
          }
        }
    }
  }
  wait<0>();
  __syncthreads(); // the last step was read
#pragma unroll
  for (int i = 0; i < WM / 16; i++) {
#pragma unroll
    for (int j = 0; j < WN / 8; j++)
#pragma unroll
      for (int l = 0; l < 4; l++) sum[i][j][l] *= a.p.alpha;
    to_rows<WN>(rows, sum[i], lane);
    put_rows(a.p, t, rows, t.m0 + wm + i * 16, t.n0 + wn, lane);
  }
}

// Few rows of x, up to FEW: a block has NEAR rows of weights, and SLICES pairs of warps take every SLICES-th step of 64 columns,
// each with a part of shared memory to itself. Their sums are added one after another.
#define FEW 16
#define NEAR 32
#define SLICES 4

// Part is what a slice has of a step: codes of weights and of x; scales of x, of two blocks, and of weights; sums and lows alike.
template <class W> struct Part {
  enum { X = NEAR * 2 * STEP, FACTORS = X + FEW * 2 * STEP, FLOATS = (W::LOW ? 2 : 1) * 2 * (FEW + NEAR), BYTES = FACTORS + FLOATS * 4 };
};

// NextFew is Next of a slice: thread t of it has block t % 2 of row t / 2 of the weights, 16 columns of row t / 4 of x, and of
// the first 32 threads each a scale of x.
template <class W> struct NextFew {
  W w;
  uint4 x;
  float scale, sum;
  i64 row, first; // of the weights, and of x
  int k, count, m, t; // the step's first block, how many there are, rows of x, and the thread of the slice

  __device__ inline NextFew(const Int8Args& a, const Tile& tile) {
    t = threadIdx.x % (2 * NEAR), k = threadIdx.x / (2 * NEAR) * 2, count = a.p.k / 32, m = tile.m;
    row = a.w.row0 + tile.b0 + min(tile.n0 + t / 2, a.p.n - 1), first = tile.a0;
  }
  __device__ inline void read(const Int8Args& a) {
    int own = k + t % 2, chunk = k * 2 + t % 4, block = k + t / FEW;
    w.find(a, row, min(own, count - 1) * 32);
    if (own >= count) w.scale = w.low = 0;
    x = make_uint4(0, 0, 0, 0);
    if (t / 4 < m && chunk < count * 2) x = *(const uint4*)((const u8*)a.p.a + (first + t / 4) * a.p.lda + chunk * 16);
    bool there = t < 2 * FEW && t % FEW < m && block < count;
    scale = there ? a.scales[block * a.stride + first + t % FEW] : 0;
    if (W::LOW) sum = there ? a.sums[block * a.stride + first + t % FEW] : 0;
    k += 2 * SLICES;
  }
  __device__ inline void write(u8* part) {
    u32 v[8], to = (u32)__cvta_generic_to_shared(part), y[4] = {x.x, x.y, x.z, x.w};
    w.codes(v);
    store_words(to + place<NEAR, true, 1>(t / 2, t % 2 * 2), v);
    store_words(to + place<NEAR, true, 1>(t / 2, t % 2 * 2 + 1), v + 4);
    store_words(to + Part<W>::X + place<FEW, true, 1>(t / 4, t % 4), y);
    float* f = (float*)(part + Part<W>::FACTORS);
    int at = 2 * FEW + beside<NEAR>(t % 2, t / 2);
    if (t < 2 * FEW) f[t] = scale;
    f[at] = w.scale;
    if (W::LOW) {
      f += 2 * (FEW + NEAR);
      if (t < 2 * FEW) f[t] = sum;
      f[at] = w.low;
    }
  }
};

template <class W> __device__ inline void product8_few(const Int8Args& a, u8* shared) {
  Tile t;
  if (!t.find(a.p, FEW, NEAR)) return;
  int lane = threadIdx.x % 32, slice = threadIdx.x / (2 * NEAR), wn = threadIdx.x / 32 % 2 * 16;
  u8* parts = shared + slice * 2 * Part<W>::BYTES;
  float sum[2][4] = {};
  NextFew<W> next(a, t);
  next.read(a);
  next.write(parts);
  next.read(a);
#pragma unroll 1
  for (int k = 0; k < a.p.k; k += SLICES * 2 * STEP) {
    int turn = k / (SLICES * 2 * STEP) % 2;
    u8* now = parts + turn * Part<W>::BYTES;
    __syncthreads(); // this step is there for all, and that before was read by all
    next.write(parts + (1 - turn) * Part<W>::BYTES);
    next.read(a);
    u32 bs = (u32)__cvta_generic_to_shared(now), as = bs + Part<W>::X;
    const float* f = (const float*)(now + Part<W>::FACTORS);
#pragma unroll
    for (int part = 0; part < 2; part++) {
      u32 p[4], q[4];
      load_matrices<false>(p, as + place<FEW, true, 1>(lane % 16, part * 2 + lane / 16));
      load_matrices<false>(q, bs + place<NEAR, true, 1>(wn + lane % 8 + lane / 16 * 8, part * 2 + lane / 8 % 2));
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const float *x = f + part * FEW + lane / 4, *at = f + 2 * FEW + beside<NEAR>(part, wn + j * 8 + lane % 4 * 2);
        float2 w = load_pair(at), low;
        if (W::LOW) low = load_pair(at + 2 * (FEW + NEAR));
        float d[4];
        multiply8(d, p, q[j * 2], q[j * 2 + 1]);
#pragma unroll
        for (int l = 0; l < 4; l++) {
          sum[j][l] = fmaf(d[l], x[l / 2 * 8] * (l % 2 ? w.y : w.x), sum[j][l]);
          if (W::LOW) sum[j][l] = fmaf(-x[2 * (FEW + NEAR) + l / 2 * 8], l % 2 ? low.y : low.x, sum[j][l]);
        }
      }
    }
  }
  __syncthreads(); // the last step was read
  float* sums = (float*)shared;
#pragma unroll
  for (int j = 0; j < 2; j++)
#pragma unroll
    for (int h = 0; h < 2; h++) store_pair(sums + (slice * FEW + lane / 4 + h * 8) * PITCH + wn + j * 8 + lane % 4 * 2, sum[j][2 * h], sum[j][2 * h + 1]);
  __syncthreads();
  int col = t.n0 + lane;
#pragma unroll 1
  for (int r = threadIdx.x / 32; r < t.m && col < a.p.n; r += 2 * SLICES) {
    float v = 0;
#pragma unroll
    for (int s = 0; s < SLICES; s++) v += sums[(s * FEW + r) * PITCH + lane];
    v *= a.p.alpha;
    if (a.p.bias.p) v += get(a.p.bias, t.e * a.p.bias_step + col);
    put(a.p.c, (t.c0 + r) * a.p.n + col, v);
  }
}

// int8_FORMAT_SIZE, and int8_FORMAT_few.
#define PRODUCT8_FEW(name, format)                                                                 \
  extern "C" __global__ void __launch_bounds__(SLICES * 2 * NEAR, 3) int8_##name##_few(Int8Args a) { \
    __shared__ __align__(16) u8 shared[SLICES * 2 * Part<format>::BYTES];                          \
    product8_few<format>(a, shared);                                                               \
  }
#define PRODUCT8_OF(name, format, size, wm, wn)                                                    \
  extern "C" __global__ void __launch_bounds__(2 * size, size == 128 ? 2 : 4) int8_##name##_##size(Int8Args a) { \
    __shared__ __align__(16) u8 shared[(STAGES + 2) * size * 2 * STEP + 2 * (format::LOW ? 8 : 4) * size * 4]; \
    product8<format, size, wm, wn>(a, shared);                                                     \
  }
#define PRODUCT8(name, format)           \
  PRODUCT8_OF(name, format, 128, 64, 32) \
  PRODUCT8_OF(name, format, 64, 32, 32)  \
  PRODUCT8_FEW(name, format)

PRODUCT8(int4, Int4Block)
PRODUCT8(int8, Int8Block)
PRODUCT8(q8_0, Q80Block)
PRODUCT8(q4_0, Q40Block)
PRODUCT8(q4_1, Q41Block)
PRODUCT8(q4_k, Q4KBlock)
