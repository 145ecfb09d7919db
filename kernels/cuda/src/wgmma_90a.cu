// Products of 16 bits by the tensor cores of compute capability 9.0 (sm_90a): wgmma reads both operands from shared memory
// while the threads go on. Tiles of 128×256 in blocks of two groups of four warps, 64 rows each. Of four steps of 64 along
// the sum in shared memory one is multiplied, one may still be, and two are on their way.
#include "mma.h"

#define HIGH 128
#define WIDE 256
#define ALONG 64 // along the sum: 128 bytes, which is what the swizzle turns
#define RING 4

// A tile lies in atoms of 1 KiB: eight rows of 128 bytes, whose 16 bytes number c lie at c ^ row. Rows are those of the
// operand and go along the sum, or are those of the sum and go across it; then a block of 64 across follows the other.
#define ATOM 1024
#define BLOCK (ALONG / 8 * ATOM)

// matrix is a descriptor (PTX ISA, Matrix Descriptor Format) of what begins at a multiple of ATOM: its address, the
// distance of blocks (of rows along the sum: not used, 1), that of atoms, and the swizzle of 128 bytes, all by 16 bytes.
template <bool ROWS_ALONG> __device__ inline u64 matrix(u32 at) {
  return (u64)((at & 0x3ffff) >> 4) | (u64)(ROWS_ALONG ? 1 : BLOCK >> 4) << 16 | (u64)(ATOM >> 4) << 32 | 1ull << 62;
}

// next is how far a descriptor goes for the next 16 of the sum.
template <bool ROWS_ALONG> __device__ inline constexpr u64 next() { return (ROWS_ALONG ? 32 : 2 * ATOM) >> 4; }

// Feed copies SIZE rows (or columns) from i0 on of width, step by step along a sum of depth, with zeros outside of both.
// A thread has the same 16 bytes of every 32nd row.
template <int SIZE, bool ROWS_ALONG> struct Feed {
  const u16* p;
  i64 ld;
  u32 to;
  int left, wide; // of the sum; rows of ours that are there, or columns

  __device__ inline Feed(u32 base, const u16* from, int ld_, i64 first, int i0, int width, int depth) {
    int row = threadIdx.x / 8, chunk = threadIdx.x % 8, r = ROWS_ALONG ? i0 + row : row, c = chunk * 8 + (ROWS_ALONG ? 0 : i0);
    ld = ld_;
    p = from + (first + r) * ld + c;
    to = base + row * 128 + ((chunk ^ (row & 7)) << 4);
    left = depth - (ROWS_ALONG ? c : r);
    wide = width - (ROWS_ALONG ? r : c);
  }
  __device__ inline void step(u32 stage) {
    const u16* q = p;
    int n = min(max(left, 0), 8) * 2;
#pragma unroll
    for (int i = 0; i < SIZE / 32; i++) {
      if (ROWS_ALONG) {
        copy_async(to + stage + i * 32 * 128, q, wide > i * 32 ? n : 0);
        q += 32 * ld;
      } else { // the two halves of a block, one block after the other
        int here = min(max(wide - i / 2 * 64, 0), 8) * 2;
        copy_async(to + stage + i * 32 * 128, q + i / 2 * 64 + i % 2 * 32 * ld, left > i % 2 * 32 ? here : 0);
      }
    }
    p += ROWS_ALONG ? ALONG : ALONG * ld;
    left -= ALONG;
  }
};

// shown makes what this thread has written to shared memory visible to wgmma (the async proxy).
__device__ inline void shown() { asm volatile("fence.proxy.async;" ::: "memory"); }
__device__ inline void products_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> __device__ inline void products_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"); }

#define PART(g, j) "+f"(c[g][j][0]), "+f"(c[g][j][1]), "+f"(c[g][j][2]), "+f"(c[g][j][3])
#define PARTS(g) PART(g, 0), PART(g, 1), PART(g, 2), PART(g, 3)
#define SUMS PARTS(0), PARTS(1), PARTS(2), PARTS(3), PARTS(4), PARTS(5), PARTS(6), PARTS(7)
#define MULTIPLY(type)                                                                                              \
  asm volatile("{ .reg .pred %%on; setp.ne.b32 %%on, 1, 0; wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {" \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"\
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"\
    "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"\
    "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}, "\
    "%128, %129, %%on, 1, 1, %130, %131; }" : SUMS : "l"(a), "l"(b), "n"(TRANS_A), "n"(TRANS_B) : "memory")

// multiply_group adds the product of 64 rows and 256 columns, 16 along the sum.
template <bool HALF, int TRANS_A, int TRANS_B> __device__ inline void multiply_group(float (&c)[8][4][4], u64 a, u64 b) {
  if (HALF) MULTIPLY("f16");
  else MULTIPLY("bf16");
}

// held keeps the compiler from moving what it does with sums over a wait for them.
__device__ inline void held(float (&c)[8][4][4]) { asm volatile("" : SUMS :: "memory"); }

template <bool TA, bool TB, bool HALF> __device__ inline void product_group(const MmaArgs& a, u8* shared) {
  const int bytes = HIGH * ALONG * 2, stage = (HIGH + WIDE) * ALONG * 2;
  u32 base = (u32)__cvta_generic_to_shared(shared);
  Tile t;
  if (!t.find(a, HIGH, WIDE)) return;
  int lane = threadIdx.x % 32, row0 = t.m0 + threadIdx.x / 32 * 16;
  float* rows = (float*)shared + threadIdx.x / 32 * (8 * 16 * PITCH); // there is room for all sums at once
  float sum[8][4][4] = {}; // by 32 columns, as to_rows takes them
#pragma unroll 1
  for (int pass = 0; pass < (a.k2 > 0 ? 2 : 1); pass++) {
    const u16 *x = pass ? a.a2 : a.a, *y = pass ? a.b2 : a.b;
    int ldx = pass ? a.lda2 : a.lda, ldy = pass ? a.ldb2 : a.ldb, depth = pass ? a.k2 : t.k, steps = (depth + ALONG - 1) / ALONG;
    if (pass) t.b0 = t.e * a.b2_step;
    __syncthreads(); // what the first pass left there was read
    Feed<HIGH, !TA> fx(base, x, ldx, t.a0, t.m0, t.m, depth);
    Feed<WIDE, TB> fy(base + bytes, y, ldy, t.b0, t.n0, a.n, depth);
#pragma unroll
    for (int s = 0; s < RING - 2; s++) {
      fx.step(s * stage);
      fy.step(s * stage);
      commit();
    }
    u32 at = 0, into = (RING - 2) * stage; // that is multiplied, and that is filled
#pragma unroll 1
    for (int s = 0; s < steps; s++) {
      wait<RING - 3>();
      shown();
      __syncthreads(); // step s is there for all, and nobody multiplies step s-2 any more
      u64 da = matrix<!TA>(base + at + threadIdx.x / 128 * BLOCK), db = matrix<TB>(base + at + bytes);
      products_fence();
#pragma unroll
      for (int k = 0; k < ALONG / 16; k++) multiply_group<HALF, TA, !TB>(sum, da + k * next<!TA>(), db + k * next<TB>());
      products_commit();
      fx.step(into); // zeros behind the end
      fy.step(into);
      commit();
      at = at == (RING - 1) * stage ? 0 : at + stage;
      into = into == (RING - 1) * stage ? 0 : into + stage;
      products_wait<1>();
    }
    products_wait<0>();
    held(sum);
    wait<0>();
    if (pass) break;
#pragma unroll
    for (int g = 0; g < 8; g++)
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int l = 0; l < 4; l++) sum[g][j][l] *= a.alpha;
    if (!a.drop.key) continue;
    __syncthreads(); // the last step was read
#pragma unroll
    for (int g = 0; g < 8; g++) to_rows<32>(rows + g * 16 * PITCH, sum[g], lane);
#pragma unroll 1
    for (int g = 0; g < 8; g++) drop_rows(a, t, rows + g * 16 * PITCH, row0, t.n0 + g * 32, lane);
#pragma unroll
    for (int g = 0; g < 8; g++) from_rows<32>(sum[g], rows + g * 16 * PITCH, lane);
  }
  __syncthreads(); // the last step was read
#pragma unroll
  for (int g = 0; g < 8; g++) to_rows<32>(rows + g * 16 * PITCH, sum[g], lane);
#pragma unroll 1
  for (int g = 0; g < 8; g++) put_rows(a, t, rows + g * 16 * PITCH, row0, t.n0 + g * 32, lane);
}

// wgmma_AB_TYPE: t where an operand is transposed.
#define PRODUCT_GROUP(name, ta, tb, half)                        \
  extern "C" __global__ void __launch_bounds__(256, 1) name(MmaArgs a) { \
    extern __shared__ __align__(ATOM) u8 shared[];               \
    product_group<ta, tb, half>(a, shared);                      \
  }
#define PRODUCT_GROUPS(name, half)                 \
  PRODUCT_GROUP(wgmma_nn_##name, false, false, half) \
  PRODUCT_GROUP(wgmma_nt_##name, false, true, half)  \
  PRODUCT_GROUP(wgmma_tn_##name, true, false, half)  \
  PRODUCT_GROUP(wgmma_tt_##name, true, true, half)

PRODUCT_GROUPS(bf16, false)
PRODUCT_GROUPS(f16, true)
