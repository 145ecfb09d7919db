// Products on tensor cores: operands of 16 bits, or of f32 that are rounded to tf32 as they are multiplied, sums
// in f32. Tiles of 128×128 or 64×64 in blocks of 8 or 4 warps; the next two steps of 64 bytes along the sum are on
// their way to shared memory while one is multiplied.
#include "mat.h"
#include "drop.h"
#include "async.h"

// MmaArgs are GemmArgs (linear.cu) of operands in 16 bits or f32, whose rows begin ld
// elements apart, a multiple of 16 bytes; only the result is dropped.
struct MmaArgs {
  const u16 *a, *b, *a2, *b2;
  Dst c;
  Elems bias;
  const int* group;
  i64 b_step, b2_step, c_step, bias_step;
  Drop drop;
  int lda, ldb, lda2, ldb2, m, n, k, k2, split;
  float alpha;
};

// What is not stored as it is multiplied is made so first: y [rows, ld] are rows of
// m in f16, bf16 or f32, zeros behind its columns.
struct HalfArgs { Mat m; void* y; Drop drop; i64 rows; int cols, ld, f16, pad; };

#define STEP 32   // along the sum, of 16 bits; half as many of f32
#define STAGES 3

// Element is how an operand of a product of type T lies.
template <int T> struct Element { typedef u16 type; };
template <> struct Element<F32> { typedef float type; };

template <bool TRANS> __device__ inline void load_matrices(u32 (&r)[4], u32 at) {
  if (TRANS) asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
  else asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

// to_tf32 rounds the bits of a number in f32 to 10 bits behind the point, halves away from zero.
__device__ inline u32 to_tf32(u32 x) {
  u32 r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(__uint_as_float(x)));
  return r;
}

// multiply adds a product of operands of 32 bytes along the sum: 16 of F16 or BF16, 8 of F32 that are tf32.
template <int T> __device__ inline void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  if (T == F32) asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
    : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else if (T == F16) asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
    : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
    : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// place is where 16 bytes of a tile lie, so that neither a copy nor eight rows of a
// matrix meet in a bank. Rows hold a step along the sum, or SIZE elements of EACH bytes across it.
template <int SIZE, bool ALONG, int EACH> __device__ inline u32 place(int row, int chunk) {
  if (ALONG) return row * (STEP * 2) + ((chunk ^ (row >> 1 & 3)) << 4);
  return row * (SIZE * EACH) + ((chunk ^ (EACH == 2 ? row & 7 : (row & 3) << 1)) << 4);
}

// load_turned loads two numbers of f32 that lie across the sum: of column i + lane/4, at k + lane%4 and four deeper.
template <int SIZE> __device__ inline void load_turned(u32& one, u32& deeper, u32 from, int k, int i) {
  int lane = threadIdx.x % 32, c = i + lane / 4;
  u32 at = from + place<SIZE, false, 4>(k + lane % 4, c / 4) + c % 4 * 4;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(one) : "r"(at) : "memory");
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(deeper) : "r"(at + 4 * SIZE * 4) : "memory"); // four rows on are swizzled alike
}

// Fetch copies SIZE rows (or columns) from i0 on of width, step by step along a sum of
// depth, with zeros outside of both. A thread has the same 16 bytes of two rows that
// lie APART.
template <int SIZE, bool ALONG, int THREADS, typename E> struct Fetch {
  enum { EACH = sizeof(E), DEEP = STEP * 2 / EACH, MANY = 16 / EACH, CHUNKS = (ALONG ? DEEP : SIZE) / MANY, APART = THREADS / CHUNKS };
  static_assert(2 * APART == (ALONG ? SIZE : DEEP), "two rows a thread");
  const E* p;
  i64 ld;
  u32 to;
  int left, wide, second; // of the sum; bytes of the first row, and of the second

  __device__ inline Fetch(u32 base, const E* from, int ld_, i64 first, int i0, int width, int depth) {
    int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS, r = ALONG ? i0 + row : row, c = ALONG ? chunk * MANY : i0 + chunk * MANY;
    ld = ld_;
    p = from + (first + r) * ld + c;
    to = base + place<SIZE, ALONG, EACH>(row, chunk);
    left = depth - (ALONG ? c : r);
    wide = ALONG ? (r < width ? 16 : 0) : min(max(width - c, 0), (int)MANY) * EACH;
    second = ALONG ? (r + APART < width ? 16 : 0) : wide;
  }
  __device__ inline void step(u32 stage) {
    int one, two;
    if (ALONG) {
      int n = min(max(left, 0), (int)MANY) * EACH;
      one = min(n, wide), two = min(n, second);
    } else {
      one = left > 0 ? wide : 0, two = left > APART ? wide : 0;
    }
    copy_async(to + stage, p, one);
    copy_async(to + stage + APART * (ALONG ? DEEP : SIZE) * EACH, p + APART * ld, two);
    p += ALONG ? DEEP : DEEP * ld;
    left -= DEEP;
  }
};

__device__ inline void store_pair(float* p, float x, float y) {
  asm volatile("st.shared.v2.f32 [%0], {%1,%2};" ::"r"((u32)__cvta_generic_to_shared(p)), "f"(x), "f"(y) : "memory");
}

// Tile is the part of a product that a block makes: high rows from m0 on of m, wide columns from n0 on, the sum over k;
// rows of the operands begin at a0 and b0, those of the result at c0.
struct Tile {
  int m0, n0, m, k, e;
  i64 a0, b0, c0;

  // find is false where the block's part has no rows there.
  __device__ inline bool find(const MmaArgs& a, int high, int wide) {
    // Blocks that run together share rows and columns: eight rows of tiles at a time.
    int gx = gridDim.x, id = blockIdx.y * gx + blockIdx.x, band = id / (8 * gx) * 8, rows = min(8, (int)gridDim.y - band);
    id -= band * gx;
    m0 = (band + id % rows) * high, n0 = id / rows * wide, m = a.m, k = a.k, e = blockIdx.z;
    a0 = 0, b0 = e * a.b_step, c0 = e * a.c_step;
    if (a.group) {
      int lo = a.group[e], count = a.group[e + 1] - lo;
      a0 = lo;
      if (a.split == SPLIT_M) m = count, c0 = lo;
      else k = count, b0 = lo;
    }
    return m0 < m;
  }
};

// to_rows lays 16 rows of a warp's sums down in shared memory, a lane's column
// beside that of the next.
#define PITCH 40
template <int WN> __device__ inline void to_rows(float* rows, const float (&sum)[WN / 8][4], int lane) {
  static_assert(WN == 32, "a column a lane");
#pragma unroll
  for (int j = 0; j < WN / 8; j++)
#pragma unroll
    for (int h = 0; h < 2; h++) store_pair(rows + (lane / 4 + h * 8) * PITCH + j * 8 + lane % 4 * 2, sum[j][2 * h], sum[j][2 * h + 1]);
  __syncwarp();
}

// from_rows takes them back.
template <int WN> __device__ inline void from_rows(float (&sum)[WN / 8][4], const float* rows, int lane) {
#pragma unroll
  for (int j = 0; j < WN / 8; j++)
#pragma unroll
    for (int l = 0; l < 4; l++) sum[j][l] = rows[(lane / 4 + l / 2 * 8) * PITCH + j * 8 + lane % 4 * 2 + l % 2];
  __syncwarp();
}

// drop_rows drops of 16 rows that to_rows laid down, from (row0, col0) of the result on.
__device__ inline void drop_rows(const MmaArgs& a, const Tile& t, float* rows, int row0, int col0, int lane) {
#pragma unroll 1
  for (int r = 0; r < 16; r++) {
    int row = row0 + r, col = col0 + lane;
    if (row < t.m && col < a.n) rows[r * PITCH + lane] = drop(a.drop, t.c0 + row, col, rows[r * PITCH + lane]);
  }
  __syncwarp();
}

// halves2 is two numbers of 16 bits of another type, x in the lower half.
__device__ inline u32 halves2(int type, float x, float y) { return type == BF16 ? to_bf16(x) | (u32)to_bf16(y) << 16 : to_f16(x) | (u32)to_f16(y) << 16; }

// put4 is put of four numbers from i on, which lie at a multiple of 16 bytes, or of 8.
__device__ inline void put4(Dst d, i64 i, float4 v) {
  if (d.type == F32) {
    float4* p = (float4*)((float*)d.p + i);
    if (d.add) {
      float4 o = *p;
      v.x = o.x + v.x, v.y = o.y + v.y, v.z = o.z + v.z, v.w = o.w + v.w;
    }
    *p = v;
    return;
  }
  uint2* p = (uint2*)((u16*)d.p + i);
  if (d.add) {
    uint2 o = *p;
    bool b = d.type == BF16;
    v.x = (b ? from_bf16(o.x) : from_f16(o.x)) + v.x, v.y = (b ? from_bf16(o.x >> 16) : from_f16(o.x >> 16)) + v.y;
    v.z = (b ? from_bf16(o.y) : from_f16(o.y)) + v.z, v.w = (b ? from_bf16(o.y >> 16) : from_f16(o.y >> 16)) + v.w;
  }
  *p = make_uint2(halves2(d.type, v.x, v.y), halves2(d.type, v.z, v.w));
}

// put_rows stores them: a lane one column of each, or four of every fourth where these lie together.
__device__ inline void put_rows(const MmaArgs& a, const Tile& t, const float* rows, int row0, int col0, int lane) {
  bool four = a.n % 4 == 0 && ((u64)a.c.p & 15) == 0;
  int col = col0 + (four ? lane % 8 * 4 : lane), step = four ? 4 : 1;
  if (col < a.n) {
#pragma unroll 1
    for (int r = four ? lane / 8 : 0; r < 16 && row0 + r < t.m; r += step) {
      i64 at = (t.c0 + row0 + r) * a.n + col, b = t.e * a.bias_step + col;
      const float* p = rows + r * PITCH + col - col0;
      if (four) {
        float4 v = *(const float4*)p;
        if (a.bias.p) v.x += get(a.bias, b), v.y += get(a.bias, b + 1), v.z += get(a.bias, b + 2), v.w += get(a.bias, b + 3);
        put4(a.c, at, v);
      } else {
        float v = *p;
        if (a.bias.p) v += get(a.bias, b);
        put(a.c, at, v);
      }
    }
  }
  __syncwarp();
}

template <int SIZE, int WM, int WN, bool TA, bool TB, int T>
__device__ inline void product(const MmaArgs& a, u8* shared) {
  typedef typename Element<T>::type E;
  const int EACH = sizeof(E), DEEP = STEP * 2 / EACH;
  const int across = SIZE / WN, threads = SIZE / WM * across * 32, bytes = SIZE * STEP * 2;
  u32 base = (u32)__cvta_generic_to_shared(shared);
  Tile t;
  if (!t.find(a, SIZE, SIZE)) return;
  int lane = threadIdx.x % 32, wm = threadIdx.x / 32 / across * WM, wn = threadIdx.x / 32 % across * WN;
  float* rows = (float*)shared + threadIdx.x / 32 * (16 * PITCH);
  float sum[WM / 16][WN / 8][4] = {};
#pragma unroll 1
  for (int pass = 0; pass < (a.k2 > 0 ? 2 : 1); pass++) {
    const E *x = (const E*)(pass ? a.a2 : a.a), *y = (const E*)(pass ? a.b2 : a.b);
    int ldx = pass ? a.lda2 : a.lda, ldy = pass ? a.ldb2 : a.ldb, depth = pass ? a.k2 : t.k, steps = (depth + DEEP - 1) / DEEP;
    if (pass) t.b0 = t.e * a.b2_step;
    __syncthreads(); // what the first pass left there was read
    Fetch<SIZE, !TA, threads, E> fx(base, x, ldx, t.a0, t.m0, t.m, depth);
    Fetch<SIZE, TB, threads, E> fy(base + bytes, y, ldy, t.b0, t.n0, a.n, depth);
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
      fx.step(2 * s * bytes);
      fy.step(2 * s * bytes);
      commit();
    }
    u32 stage = 0, into = 2 * (STAGES - 1) * bytes; // that is multiplied, and that is filled
#pragma unroll 1
    for (int s = 0; s < steps; s++) {
      wait<STAGES - 2>();
      __syncthreads(); // step s is there for all, and step s-1 was read by all
      fx.step(into); // zeros behind the end
      fy.step(into);
      commit();
      u32 as = base + stage, bs = as + bytes;
      stage = stage == 2 * (STAGES - 1) * bytes ? 0 : stage + 2 * bytes;
      into = into == 2 * (STAGES - 1) * bytes ? 0 : into + 2 * bytes;
#pragma unroll
      for (int part = 0; part < 2; part++) { // of 32 bytes, two chunks
        u32 p[WM / 16][4], q[WN / 16][4];
        int k = part * DEEP / 2;
#pragma unroll
        for (int i = 0; i < WM / 16; i++) {
          if (TA && EACH == 4) load_turned<SIZE>(p[i][0], p[i][2], as, k, wm + i * 16), load_turned<SIZE>(p[i][1], p[i][3], as, k, wm + i * 16 + 8);
          else if (TA) load_matrices<true>(p[i], as + place<SIZE, false, 2>(k + lane % 8 + lane / 16 * 8, (wm + i * 16) / 8 + lane / 8 % 2));
          else load_matrices<false>(p[i], as + place<SIZE, true, EACH>(wm + i * 16 + lane % 16, part * 2 + lane / 16));
        }
#pragma unroll
        for (int j = 0; j < WN / 16; j++) {
          if (TB) load_matrices<false>(q[j], bs + place<SIZE, true, EACH>(wn + j * 16 + lane % 8 + lane / 16 * 8, part * 2 + lane / 8 % 2));
          else if (EACH == 4) load_turned<SIZE>(q[j][0], q[j][1], bs, k, wn + j * 16), load_turned<SIZE>(q[j][2], q[j][3], bs, k, wn + j * 16 + 8);
          else load_matrices<true>(q[j], bs + place<SIZE, false, 2>(k + lane % 16, (wn + j * 16) / 8 + lane / 16));
        }
        if (T == F32) {
#pragma unroll
          for (int l = 0; l < 4; l++) {
#pragma unroll
            for (int i = 0; i < WM / 16; i++) p[i][l] = to_tf32(p[i][l]);
#pragma unroll
            for (int j = 0; j < WN / 16; j++) q[j][l] = to_tf32(q[j][l]);
          }
        }
#pragma unroll
        for (int i = 0; i < WM / 16; i++)
#pragma unroll
          for (int j = 0; j < WN / 8; j++) multiply<T>(sum[i][j], p[i], q[j / 2][j % 2 * 2], q[j / 2][j % 2 * 2 + 1]);
      }
    }
    wait<0>();
    if (pass) break;
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
      for (int j = 0; j < WN / 8; j++)
#pragma unroll
        for (int l = 0; l < 4; l++) sum[i][j][l] *= a.alpha;
    if (!a.drop.key) continue;
    __syncthreads(); // the last step was read
#pragma unroll
    for (int i = 0; i < WM / 16; i++) {
      to_rows<WN>(rows, sum[i], lane);
      drop_rows(a, t, rows, t.m0 + wm + i * 16, t.n0 + wn, lane);
      from_rows<WN>(sum[i], rows, lane);
    }
  }
  __syncthreads(); // the last step was read
#pragma unroll
  for (int i = 0; i < WM / 16; i++) {
    to_rows<WN>(rows, sum[i], lane);
    put_rows(a, t, rows, t.m0 + wm + i * 16, t.n0 + wn, lane);
  }
}

// mma_AB_TYPE_SIZE: t where an operand is transposed.
#define PRODUCT(name, size, wm, wn, ta, tb, type)                   \
  extern "C" __global__ void __launch_bounds__(2 * size, size == 128 ? 2 : 4) name(MmaArgs a) { \
    __shared__ __align__(16) u8 shared[STAGES * 2 * size * STEP * 2]; \
    product<size, wm, wn, ta, tb, type>(a, shared);                 \
  }
#define PRODUCTS(name, type)                                  \
  PRODUCT(mma_nn_##name##_128, 128, 64, 32, false, false, type) \
  PRODUCT(mma_nt_##name##_128, 128, 64, 32, false, true, type)  \
  PRODUCT(mma_tn_##name##_128, 128, 64, 32, true, false, type)  \
  PRODUCT(mma_tt_##name##_128, 128, 64, 32, true, true, type)   \
  PRODUCT(mma_nn_##name##_64, 64, 32, 32, false, false, type)   \
  PRODUCT(mma_nt_##name##_64, 64, 32, 32, false, true, type)    \
  PRODUCT(mma_tn_##name##_64, 64, 32, 32, true, false, type)    \
  PRODUCT(mma_tt_##name##_64, 64, 32, 32, true, true, type)
