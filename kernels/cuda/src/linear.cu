// Products of matrices: tiles of 64×64 in a block of 256 threads, each with 4×4
// sums in f32, in the order of k.
#include "mat.h"
#include "drop.h"

// c = alpha·op(A)·op(B) + op(A2)·op(B2) + bias. Operands are rounded to
// the type round. op is the transpose where ta or tb says so, for both pairs. With
// group, part e of the grid's z has the rows group[e] … group[e+1]: of A, A2 and C
// (SPLIT_M), or of A and B, which then are those of the sum (SPLIT_K); the others
// begin e steps further.
struct GemmArgs {
  Mat a, b, a2, b2;
  Dst c;
  Elems bias;
  const int* group;
  i64 b_step, b2_step, c_step, bias_step;
  Drop drop;
  int m, n, k, k2, ta, tb, split, round;
  float alpha;
  int pad;
};

#define TILE 64
#define DEPTH 16

// operand is an element as it is multiplied.
__device__ inline float operand(const GemmArgs& g, const Mat& m, i64 row, int col, bool dropped) {
  float v = at(m, row, col);
  if (dropped) v = drop(g.drop, row, col, v);
  if (g.round == F32) return v;
  return g.round == BF16 ? round_bf16(v) : from_f16(to_f16(v));
}

// tile copies rows k0 … of the sum and columns i0 … of op(m) to shared memory, with
// zeros outside of [k, width]. first is the row of m where the part begins.
__device__ inline void tile(const GemmArgs& g, const Mat& m, bool sum_first, i64 first, int k0, int k, int i0, int width, bool dropped, float (*to)[TILE + 4]) {
#pragma unroll 1
  for (int l = threadIdx.x; l < TILE * DEPTH; l += 256) {
    int p = sum_first ? l / TILE : l % DEPTH, i = sum_first ? l % TILE : l / DEPTH; // neighbours read neighbours
    float v = 0;
    if (k0 + p < k && i0 + i < width) v = operand(g, m, first + (sum_first ? k0 + p : i0 + i), sum_first ? i0 + i : k0 + p, dropped);
    to[p][i] = v;
  }
}

KERNEL(gemm, GemmArgs) {
  __shared__ float as[DEPTH][TILE + 4], bs[DEPTH][TILE + 4];
  int m = a.m, n0 = blockIdx.x * TILE, m0 = blockIdx.y * TILE, e = blockIdx.z, k1 = a.k;
  int tx = threadIdx.x % 16 * 4, ty = threadIdx.x / 16 * 4;
  i64 a0 = 0, b0 = e * a.b_step, c0 = e * a.c_step;
  if (a.group) {
    int lo = a.group[e], rows = a.group[e + 1] - lo;
    a0 = lo;
    if (a.split == SPLIT_M) m = rows, c0 = lo;
    else k1 = rows, b0 = lo;
  }
  if (m0 >= m) return;
  int where = a.drop.key ? a.drop.where : 0;
  float sum[4][4] = {};
#pragma unroll 1
  for (int pass = 0; pass < (a.k2 > 0 ? 2 : 1); pass++) {
    const Mat &x = pass ? a.a2 : a.a, &y = pass ? a.b2 : a.b;
    int depth = pass ? a.k2 : k1;
    if (pass) b0 = e * a.b2_step;
    float part[4][4] = {};
#pragma unroll 1
    for (int k0 = 0; k0 < depth; k0 += DEPTH) {
      tile(a, x, a.ta, a0, k0, depth, m0, m, !pass && where == DROP_A, as);
      tile(a, y, !a.tb, b0, k0, depth, n0, a.n, !pass && where == DROP_B, bs);
      __syncthreads();
      int steps = min(DEPTH, depth - k0);
#pragma unroll 1
      for (int k = 0; k < steps; k++) {
        float u[4], v[4];
        for (int i = 0; i < 4; i++) u[i] = as[k][ty + i], v[i] = bs[k][tx + i];
        for (int i = 0; i < 4; i++)
          for (int j = 0; j < 4; j++) part[i][j] = fmaf(u[i], v[j], part[i][j]);
      }
      __syncthreads();
    }
    for (int i = 0; i < 4; i++)
      for (int j = 0; j < 4; j++) sum[i][j] = pass ? sum[i][j] + part[i][j] : part[i][j] * a.alpha;
#pragma unroll
    for (int l = 0; l < 16 && !pass && where == DROP_OUT; l++) {
      int row = m0 + ty + l / 4, col = n0 + tx + l % 4;
      if (row < m && col < a.n) sum[l / 4][l % 4] = drop(a.drop, c0 + row, col, sum[l / 4][l % 4]);
    }
  }
#pragma unroll
  for (int l = 0; l < 16; l++) {
    int row = m0 + ty + l / 4, col = n0 + tx + l % 4;
    if (row >= m || col >= a.n) continue;
    float v = sum[l / 4][l % 4];
    if (a.bias.p) v += get(a.bias, e * a.bias_step + col);
    put(a.c, (c0 + row) * a.n + col, v);
  }
}

// y = m decoded.
struct DecodeArgs { Mat m; float* y; i64 n; };
KERNEL(decode, DecodeArgs) {
  i64 i = thread();
  if (i < a.n) a.y[i] = at(a.m, i / a.m.cols, i % a.m.cols);
}

// y[n] = Σ_j weight[n,j]·table[idx[n,j]].
struct GatherArgs { Mat table; Dst y, dweight; Elems dy; const int* idx; const float* weight; i64 n; int k, v; };
KERNEL(gather, GatherArgs) {
  i64 i = thread();
  int c = a.table.cols;
  if (i >= a.n * c) return;
  float sum = 0;
  for (int j = 0; j < a.k; j++) {
    i64 at_ = i / c * a.k + j;
    float v = at(a.table, a.idx[at_], i % c);
    sum += a.weight ? a.weight[at_] * v : v;
  }
  put(a.y, i, sum);
}

// dtable[v] = Σ of weight·dy over the choices of row v, in their order: one block
// a row and 256 columns.
KERNEL(gather_grad, GatherArgs) {
  int c = a.table.cols, col = blockIdx.y * blockDim.x + threadIdx.x;
  if (col >= c) return;
  float sum = 0;
  for (i64 i = 0; i < a.n * a.k; i++) {
    if (a.idx[i] != (int)blockIdx.x) continue;
    float g = get(a.dy, i / a.k * c + col);
    sum += a.weight ? a.weight[i] * g : g;
  }
  put(a.y, (i64)blockIdx.x * c + col, sum);
}

// dweight[n,j] = dy[n]·table[idx[n,j]]: one block each.
KERNEL(gather_dweight, GatherArgs) {
  __shared__ float red[32];
  int c = a.table.cols;
  i64 row = a.idx[blockIdx.x], dy = (i64)(blockIdx.x / a.k) * c;
  float sum = 0;
  for (int j = threadIdx.x; j < c; j += blockDim.x) sum += get(a.dy, dy + j) * at(a.table, row, j);
  sum = block_sum(sum, red);
  if (threadIdx.x == 0) put(a.dweight, blockIdx.x, sum);
}
