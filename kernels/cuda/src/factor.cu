// H + damp·I = U·Uᵀ, U upper, and U⁻¹, by blocks of 128 columns in f32.
//
// With J turning rows and columns round, J·(H + damp·I)·J = L·Lᵀ, L lower, and U⁻¹ = J·L⁻¹·J. a [n, n], n rounded up to
// whole blocks, holds the left side in the blocks on and below the diagonal, zeros above, and becomes (L⁻¹)ᵀ on and above it.
// Step i, a block column, where A[p] is block p of it:
//
//   D = (L⁻¹)ᵀ of the block on the diagonal takes its place      factor_diagonal
//   A[p] = A[p]·D for every other p                              factor_panel
//   A[p, q] -= A[p]·A[q]ᵀ for q > i, where p ≥ q or p ≤ i        factor_update
//
// Below the diagonal that is Cholesky's factor; above, block by block, Xᵀ[p, q] = -(Σ Xᵀ[p, k]·Lᵀ[k, q])·D, X = L⁻¹.
#include "async.h"

struct FactorArgs {
  const float* h; // [cols, cols]
  float *a;       // [n, n]
  float *inverse; // [BLOCK, BLOCK]: L⁻¹ of the block on the diagonal
  float *u;       // [cols, cols]
  int *bad, cols, n, i;
  float damp;
};

#define BLOCK 128
#define DEPTH 16 // of a tile's operands in shared memory
#define PITCH 20 // of their rows there: no two of eight rows meet in a bank

// a of H, with ones on the diagonal behind it. A row by blockIdx.x.
KERNEL(factor_copy, FactorArgs) {
  int r = blockIdx.x, c = blockIdx.y * blockDim.x + threadIdx.x, last = a.cols - 1;
  if (r == 0 && c == 0) *a.bad = 0;
  if (c >= a.n) return;
  float v = r == c ? 1 : 0;
  if (r <= last && c <= last && r / BLOCK >= c / BLOCK) v = a.h[(i64)(last - r) * a.cols + last - c] + (r == c ? a.damp : 0);
  a.a[(i64)r * a.n + c] = v;
}

// The same steps by single columns: a thread keeps 8×8 elements of the block, and a column goes round in shared memory.
extern "C" __global__ void __launch_bounds__(256) factor_diagonal(FactorArgs a) {
  __shared__ float4 shared[2][BLOCK / 4];
  int y = threadIdx.x / 16, x = threadIdx.x % 16;
  float m[8][8], *d = a.a + ((i64)a.i * BLOCK + 8 * y) * a.n + a.i * BLOCK + 8 * x;
#pragma unroll
  for (int r = 0; r < 8; r++) {
    float4 lo = *(float4*)(d + (i64)r * a.n), hi = *(float4*)(d + (i64)r * a.n + 4);
    m[r][0] = lo.x, m[r][1] = lo.y, m[r][2] = lo.z, m[r][3] = lo.w, m[r][4] = hi.x, m[r][5] = hi.y, m[r][6] = hi.z, m[r][7] = hi.w;
  }
  for (int b = 0; b < 16; b++)
#pragma unroll
    for (int c = 0; c < 8; c++) {
      float4* column = shared[c & 1];
      if (x == b) column[2 * y] = {m[0][c], m[1][c], m[2][c], m[3][c]}, column[2 * y + 1] = {m[4][c], m[5][c], m[6][c], m[7][c]};
      __syncthreads();
      float pivot = ((float*)column)[8 * b + c], inverse = 1 / sqrtf(pivot), less = -inverse, u[8], v[8];
      if (threadIdx.x == 0 && !(pivot > 0 && pivot < INF)) *a.bad = 1;
#pragma unroll
      for (int k = 0; k < 8; k += 4) {
        float4 p = column[2 * y + k / 4], q = column[2 * x + k / 4];
        u[k] = p.x * inverse, u[k + 1] = p.y * inverse, u[k + 2] = p.z * inverse, u[k + 3] = p.w * inverse;
        v[k] = q.x * less, v[k + 1] = q.y * less, v[k + 2] = q.z * less, v[k + 3] = q.w * less;
      }
#pragma unroll
      for (int k = 0; k < 8; k++)
        if (x < b || (x == b && k <= c)) v[k] = 0; // these columns are done
      if (y == b) { // the row begins with that of the unit matrix
        u[c] = inverse;
#pragma unroll
        for (int k = 0; k < 8; k++)
          if (x > b || (x == b && k > c)) m[c][k] = 0;
      }
#pragma unroll
      for (int r = 0; r < 8; r++)
#pragma unroll
        for (int k = 0; k < 8; k++) m[r][k] = fmaf(u[r], v[k], m[r][k]);
      if (x == b)
#pragma unroll
        for (int r = 0; r < 8; r++) m[r][c] = u[r];
    }
#pragma unroll
  for (int r = 0; r < 8; r++)
#pragma unroll
    for (int k = 0; k < 8; k++)
      if (y > x || (y == x && r > k)) m[r][k] = 0;
#pragma unroll
  for (int r = 0; r < 8; r++) {
    float4 *row = (float4*)(d + (i64)r * a.n), *turned = (float4*)(a.inverse + (8 * x + r) * BLOCK + 8 * y);
    row[0] = {m[r][0], m[r][1], m[r][2], m[r][3]}, row[1] = {m[r][4], m[r][5], m[r][6], m[r][7]};
    turned[0] = {m[0][r], m[1][r], m[2][r], m[3][r]}, turned[1] = {m[4][r], m[5][r], m[6][r], m[7][r]};
  }
}

// Fetch copies the next DEPTH columns of 128 rows to shared memory: 16 bytes of two rows a thread.
struct Fetch {
  const float *p, *q;

  __device__ inline Fetch(const float* from, i64 ld) { p = from + threadIdx.x / 4 * ld + threadIdx.x % 4 * 4, q = p + 64 * ld; }
  __device__ inline void next(u32 to) {
    copy_async(to, p, 16);
    copy_async(to + 64 * PITCH * 4, q, 16);
    p += DEPTH, q += DEPTH;
  }
};

// products is x·yᵀ of two blocks, whose rows begin ldx and ldy elements apart, a thread's part: rows threadIdx.x/16 + 16·r
// and columns threadIdx.x%16 + 16·c. All threads have read the blocks when it ends.
__device__ inline void products(float (&rows)[2][2][BLOCK * PITCH], float (&sum)[8][8], const float* x, i64 ldx, const float* y, i64 ldy) {
  const u32 half = BLOCK * PITCH * 4;
  int top = threadIdx.x / 16 * PITCH, left = threadIdx.x % 16 * PITCH;
  u32 to = (u32)__cvta_generic_to_shared(rows[0][0] + threadIdx.x / 4 * PITCH + threadIdx.x % 4 * 4);
  Fetch fx(x, ldx), fy(y, ldy);
  fx.next(to), fy.next(to + half), commit();
  for (int k = 0; k < BLOCK; k += DEPTH) {
    int now = k / DEPTH & 1;
    if (k + DEPTH < BLOCK) {
      u32 other = to + (now ^ 1) * 2 * half;
      fx.next(other), fy.next(other + half);
    }
    commit();
    wait<1>();
    __syncthreads();
    const float *p = rows[now][0] + top, *q = rows[now][1] + left;
#pragma unroll 1 // loads of the next four columns would take registers that there are not
    for (int j = 0; j < DEPTH; j += 4) {
      float4 u[8];
#pragma unroll
      for (int r = 0; r < 8; r++) u[r] = *(const float4*)(p + 16 * r * PITCH + j);
#pragma unroll
      for (int c = 0; c < 8; c++) {
        float4 v = *(const float4*)(q + 16 * c * PITCH + j);
#pragma unroll
        for (int r = 0; r < 8; r++) sum[r][c] = fmaf(u[r].w, v.w, fmaf(u[r].z, v.z, fmaf(u[r].y, v.y, fmaf(u[r].x, v.x, sum[r][c]))));
      }
    }
    __syncthreads();
  }
}

// block is block p, q of a.
__device__ inline float* block(const FactorArgs& a, int p, int q) { return a.a + (i64)p * BLOCK * a.n + q * BLOCK; }

extern "C" __global__ void __launch_bounds__(256, 2) factor_panel(FactorArgs a) {
  int p = blockIdx.x + (blockIdx.x >= a.i);
  __shared__ __align__(16) float rows[2][2][BLOCK * PITCH];
  float sum[8][8] = {}, *out = block(a, p, a.i);
  products(rows, sum, out, a.n, a.inverse, BLOCK);
  out += threadIdx.x / 16 * (i64)a.n + threadIdx.x % 16;
#pragma unroll
  for (int r = 0; r < 8; r++)
#pragma unroll
    for (int c = 0; c < 8; c++) out[16 * r * (i64)a.n + 16 * c] = sum[r][c];
}

extern "C" __global__ void __launch_bounds__(256, 2) factor_update(FactorArgs a) {
  int q = a.i + 1 + blockIdx.x, p = blockIdx.y;
  if (p > a.i && p < q) return;
  __shared__ __align__(16) float rows[2][2][BLOCK * PITCH];
  float sum[8][8] = {}, *out = block(a, p, q);
  products(rows, sum, block(a, p, a.i), a.n, block(a, q, a.i), a.n);
  out += threadIdx.x / 16 * (i64)a.n + threadIdx.x % 16;
#pragma unroll
  for (int r = 0; r < 8; r++)
#pragma unroll
    for (int c = 0; c < 8; c++) out[16 * r * (i64)a.n + 16 * c] -= sum[r][c];
}

// u[r, c] = a[cols-1-c, cols-1-r], zeros below the diagonal: 32×32 elements a block, which are turned in shared memory.
KERNEL(factor_store, FactorArgs) {
  __shared__ float tile[32][33];
  int r0 = blockIdx.x * 32, c0 = blockIdx.y * 32, lane = threadIdx.x % 32, last = a.cols - 1;
  for (int c = threadIdx.x / 32; c < 32; c += 8)
    if (r0 + lane <= c0 + c && c0 + c <= last) tile[c][lane] = a.a[(i64)(last - c0 - c) * a.n + last - r0 - lane];
  __syncthreads();
  for (int r = threadIdx.x / 32; r < 32; r += 8)
    if (r0 + r <= last && c0 + lane <= last) a.u[(i64)(r0 + r) * a.cols + c0 + lane] = r0 + r <= c0 + lane ? tile[lane][r] : 0;
}
