// Products of few rows with a matrix in any storage, y = alpha·x·Wᵀ + u·Bᵀ + bias:
// what the decoding of an answer does. They are bound by reading W, so a warp reads
// R rows of W once, 16 bytes of codes a lane where the storage allows it, and
// multiplies as it decodes, in f32. Sums have a fixed order: a lane's own, lanes by a
// butterfly, slices one after another.
#include "mat.h"
#include "drop.h"
#include "words.h"

// With group, rows group[e] … group[e+1] of x and y belong to part e, by blockIdx.z,
// and parts of b and bias begin b_step and bias_step further. shift divides a column (a
// flat element of a code book) by those that share a scale; quads: rows of x are whole
// aligned fours; slices of the sum are warps of a block.
struct ThinArgs {
  Mat w;
  Elems x, u, b, bias;
  Dst y;
  const int* group;
  i64 b_step, bias_step;
  int m, n, k, k2, slices, shift, quads, round;
  float alpha;
  int pad;
};

#define WARPS 8
#define XS 4096 // numbers of x in shared memory

__device__ inline void store_four(void* p, float4 v) {
  asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"((u32)__cvta_generic_to_shared(p)), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}

// load_four reads four numbers of shared memory by one instruction. Of a plain load NVRTC
// makes one or two, in another way in every run.
__device__ inline float4 load_four(const float* p) {
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"((u32)__cvta_generic_to_shared(p)) : "memory");
  return v;
}

// A code of BITS bits is multiplied as 1 + code/2^BITS, the float with the code on top of
// its mantissa: one shift and one logical instruction. high is the code as it lies there.
template <int MASK> __device__ inline float mantissa(u32 high) {
  float f;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=f"(f) : "r"(high), "n"(MASK), "n"(0x3f800000)); // high & MASK | 1.0
  return f;
}

// move shifts bit FROM to bit TO.
template <int FROM, int TO> __device__ inline u32 move(u32 x) { return FROM < TO ? x << (TO > FROM ? TO - FROM : 0) : x >> (FROM > TO ? FROM - TO : 0); }

// code is the float of the BITS bits from bit AT on.
template <int BITS, int AT> __device__ inline float code(u32 x) { return mantissa<((1 << BITS) - 1) << (23 - BITS)>(move<AT, 23 - BITS>(x)); }

__device__ inline float half_of(u32 two) { return from_f16((u16)two); }

// A format says how a lane's share of a row of W is decoded. A row is taken in pieces of
// CHUNK columns; a lane has PIECES times STEPS times eight of them, as two fours that
// begin at columns column and column + NEXT. Weights of a piece are scale·w + shift:
// load fills those and the codes, eight gives w. The lane's columns of the last chunk may
// lie behind the row's end: it then reads what is before it, which meets zeros.
struct Place { const ThinArgs* a; i64 row; int col, lane; u32 mine; }; // mine: a lane's table

// entries are those of a table for the four bytes of x: lanes have copies of their own,
// 16 of 8 bytes or 32 of 4, which mine is the first of.
__device__ inline void entries(u32 mine, u32 x, float2 (&v)[4]) {
  const u32 at[4] = {x << 7 & 0x7f80, x >> 1 & 0x7f80, x >> 9 & 0x7f80, x >> 17 & 0x7f80};
#pragma unroll
  for (int i = 0; i < 4; i++) asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(v[i].x), "=f"(v[i].y) : "r"(mine + at[i]) : "memory");
}
__device__ inline void entries(u32 mine, u32 x, float* v) {
  const u32 at[4] = {x << 7 & 0x7f80, x >> 1 & 0x7f80, x >> 9 & 0x7f80, x >> 17 & 0x7f80};
#pragma unroll
  for (int i = 0; i < 4; i++) asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v[i]) : "r"(mine + at[i]) : "memory");
}

// row_of is row r of a warp's rows from row on; behind the last it is that.
__device__ inline i64 row_of(const Place& p, i64 first, int row, int r) { return first + min(row + r, p.a->n - 1); }

template <int PIECES_, int STEPS_, int NEXT_, int WORDS> struct Format {
  enum { PIECES = PIECES_, STEPS = STEPS_, NEXT = NEXT_, CHUNK = 256 * PIECES_ * STEPS_, TABLE = 0, SHIFTED = 1 };
  u32 w[WORDS];
  float scale[PIECES_], shift[PIECES_];
  __device__ inline void four(const uint4 v, int i) { w[i] = v.x, w[i + 1] = v.y, w[i + 2] = v.z, w[i + 3] = v.w; }
  template <class F, int R> static __device__ inline void scales(F (&)[R], const Place&, i64, int) {}
  template <int P> __device__ inline void set(float s, float bias) { scale[P] = s, shift[P] = bias; }
};

// bytes are the codes of 8 bits in two words.
__device__ inline void bytes(u32 x, u32 y, float (&v)[8]) {
  v[0] = code<8, 0>(x), v[1] = code<8, 8>(x), v[2] = code<8, 16>(x), v[3] = code<8, 24>(x);
  v[4] = code<8, 0>(y), v[5] = code<8, 8>(y), v[6] = code<8, 16>(y), v[7] = code<8, 24>(y);
}

// Entries of a table, and who has which: nothing to do without one.
template <class F, int TABLE> struct Fill { static __device__ inline void run(const Mat&, u8*) {} };
template <class F> struct Fill<F, 4> {
  static __device__ inline void run(const Mat& m, u8* table) {
#pragma unroll 1
    for (int b = threadIdx.x / 8; b < 256; b += 32) {
      float2 v = F::entry(m, b);
      store_four(table + b * 128 + threadIdx.x % 8 * 16, make_float4(v.x, v.y, v.x, v.y));
    }
  }
};
template <class F> struct Fill<F, 8> : Fill<F, 4> {};

// step multiplies eight weights of each row, and goes on to the next.
template <class F, int MT, int R, int P, int S> struct Step {
  static __device__ inline void run(const Place& p, F (&f)[R], const float* x, float (&part)[R][MT], float (&sum)[MT], float (&acc)[R][MT]) {
    float4 lo[MT], hi[MT];
#pragma unroll
    for (int m = 0; m < MT; m++) {
      lo[m] = load_four(x + m * (XS / MT) + (P * F::STEPS + S) * 256);
      hi[m] = load_four(x + m * (XS / MT) + (P * F::STEPS + S) * 256 + 128);
      if (F::SHIFTED) {
        float t = ((lo[m].x + lo[m].y) + (lo[m].z + lo[m].w)) + ((hi[m].x + hi[m].y) + (hi[m].z + hi[m].w));
        sum[m] = S ? sum[m] + t : t;
      }
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
      float v[8];
      f[r].template eight<P, S>(p, v);
#pragma unroll
      for (int m = 0; m < MT; m++) {
        float t = S ? fmaf(v[0], lo[m].x, part[r][m]) : v[0] * lo[m].x;
        t = fmaf(v[1], lo[m].y, t), t = fmaf(v[2], lo[m].z, t), t = fmaf(v[3], lo[m].w, t);
        t = fmaf(v[4], hi[m].x, t), t = fmaf(v[5], hi[m].y, t), t = fmaf(v[6], hi[m].z, t), t = fmaf(v[7], hi[m].w, t);
        part[r][m] = t;
        if (S + 1 < F::STEPS) continue;
        acc[r][m] = fmaf(f[r].scale[P], t, acc[r][m]);
        if (F::SHIFTED) acc[r][m] = fmaf(f[r].shift[P], sum[m], acc[r][m]);
      }
    }
    Step<F, MT, R, S + 1 < F::STEPS ? P : P + 1, S + 1 < F::STEPS ? S + 1 : 0>::run(p, f, x, part, sum, acc);
  }
};
template <class F, int MT, int R> struct Step<F, MT, R, F::PIECES, 0> {
  static __device__ inline void run(const Place&, F (&)[R], const float*, float (&)[R][MT], float (&)[MT], float (&)[R][MT]) {}
};

// stage lays columns k0 … of rows m0 … of x down as lanes read them, zeros outside. The
// fours of a thread lie 1024 columns apart, a whole number of chunks.
template <class F, int MT> __device__ inline void stage(const ThinArgs& a, float* xs, i64 first, int rows, int k0) {
  int i = threadIdx.x, t = i / 32 % (F::CHUNK / 128);
  int col = k0 + i / (F::CHUNK / 4) * F::CHUNK + F::column(i % 32, t / (2 * F::STEPS), t / 2 % F::STEPS) + t % 2 * F::NEXT;
#pragma unroll 1
  for (int m = 0; m < MT; m++) {
    float* to = xs + m * (XS / MT) + i * 4;
    i64 at = (first + m) * a.k;
#pragma unroll 1
    for (int j = 0; j < XS / MT; j += 1024) {
      float4 v = make_float4(0, 0, 0, 0);
      int c = col + j;
      if (m < rows && c < a.k) {
        if (!a.quads) {
          v = make_float4(get(a.x, at + c), get(a.x, at + c + 1), get(a.x, at + c + 2), get(a.x, at + c + 3));
        } else if (a.x.type == F32) {
          v = *(const float4*)((const float*)a.x.p + at + c);
        } else {
          uint2 h = *(const uint2*)((const u16*)a.x.p + at + c);
          if (a.x.type == BF16) v = make_float4(__uint_as_float(h.x << 16), __uint_as_float(h.x & 0xffff0000u), __uint_as_float(h.y << 16), __uint_as_float(h.y & 0xffff0000u));
          else v = make_float4(from_f16((u16)h.x), from_f16((u16)(h.x >> 16)), from_f16((u16)h.y), from_f16((u16)(h.y >> 16)));
        }
        if (a.round) v = make_float4(round_bf16(v.x), round_bf16(v.y), round_bf16(v.z), round_bf16(v.w));
      }
      store_four(to + j, v);
    }
  }
}

// Share sums each of N numbers over the lanes: with each step a lane keeps half of those
// that it has, and gives the other half away. Lane i·32/N ends with sum i in v[0].
template <int N, int O> struct Share {
  template <int ALL> static __device__ inline void run(float (&v)[ALL], int lane) {
#pragma unroll
    for (int i = 0; i < (N + 1) / 2; i++) {
      float keep = v[i], give = v[i];
      if (N > 1) keep = lane & O ? v[(N / 2 + i) % ALL] : v[i], give = lane & O ? v[i] : v[(N / 2 + i) % ALL];
      v[i] = keep + __shfl_xor_sync(0xffffffffu, give, O);
    }
    Share<(N + 1) / 2, O / 2>::run(v, lane);
  }
};
template <int N> struct Share<N, 0> {
  template <int ALL> static __device__ inline void run(float (&)[ALL], int) {}
};

template <class F, int MT, int R> __device__ inline void thin(const ThinArgs& a, u8* table, float* xs) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, slice = warp % a.slices, e = blockIdx.z, m0 = blockIdx.y * MT, m = a.m;
  i64 lo = 0;
  if (a.group) lo = a.group[e], m = a.group[e + 1] - (int)lo;
  if (m0 >= m) return;
  int row = (blockIdx.x * (WARPS / a.slices) + warp / a.slices) * R;
  i64 first = a.w.row0 + (i64)e * a.n;
  Fill<F, F::TABLE>::run(a.w, table);
  u32 entry = (u32)__cvta_generic_to_shared(table) + (F::TABLE == 4 ? lane % 16 * 8 : lane * 4);
  float acc[R][MT] = {};
#pragma unroll 1
  for (int k0 = 0; k0 < a.k; k0 += XS / MT) {
    if (k0) __syncthreads(); // the columns before were read
    stage<F, MT>(a, xs, lo + m0, m - m0, k0);
    __syncthreads();
    int end = min(a.k - k0, XS / MT);
#pragma unroll 1
    for (int c = slice * F::CHUNK; c < end; c += a.slices * F::CHUNK) {
      F f[R];
      float part[R][MT], sum[MT];
      Place p{&a, 0, k0 + c, lane, entry};
#pragma unroll
      for (int r = 0; r < R; r++) {
        p.row = row_of(p, first, row, r);
        f[r].load(p);
      }
      F::scales(f, p, first, row); // after all codes are on their way
      Step<F, MT, R, 0, 0>::run(p, f, xs + c + lane * 4, part, sum, acc);
    }
  }
  const int N = R * MT;
  float v[N];
#pragma unroll
  for (int i = 0; i < N; i++) v[i] = acc[i / MT][i % MT];
  Share<N, 16>::run(v, lane);
  float mine = v[0];
  int which = lane / (32 / N);
  if (a.slices > 1) {
    __syncthreads(); // the last columns were read
    if (lane % (32 / N) == 0) xs[warp * N + which] = mine;
    __syncthreads();
    if (slice) return;
    for (int s = 1; s < a.slices; s++) mine += xs[(warp + s) * N + which];
  }
  int col = row + which / MT, at_ = m0 + which % MT;
  if (lane % (32 / N) || col >= a.n || at_ >= m) return;
  mine *= a.alpha;
  if (a.k2) {
    float s = 0;
    for (int j = 0; j < a.k2; j++) {
      float v = get(a.b, (e * a.b_step + col) * a.k2 + j);
      s = fmaf(get(a.u, (lo + at_) * a.k2 + j), a.round ? round_bf16(v) : v, s);
    }
    mine += s;
  }
  if (a.bias.p) mine += get(a.bias, e * a.bias_step + col);
  put(a.y, (lo + at_) * a.n + col, mine);
}

// thin_FORMAT_M: M rows of x a block; r rows of W a warp.
#define THIN_OF(name, format, mt, r, size)                                                 \
  extern "C" __global__ void __launch_bounds__(WARPS * 32) thin_##name##_##mt(ThinArgs a) { \
    __shared__ __align__(16) u8 table[size];                                               \
    __shared__ __align__(16) float xs[XS];                                                 \
    thin<format, mt, r>(a, table, xs);                                                     \
  }
#define THIN(name, r, size, format)    \
  THIN_OF(name, format, 1, r, size) \
  THIN_OF(name, format, 4, 4, size)
#define NO_TABLE 16
