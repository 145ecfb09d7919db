// Products of bf16 on tensor cores, and what makes operands of 16 bits.
#include "mma.h"

// code_scale is the scale of a block of a code book.
__device__ inline float code_scale(const Mat& m, i64 block) {
  if (!m.nested) return ((const float*)m.scales)[block];
  const float* n = (const float*)m.nested;
  return n[block / 256] * n[m.outer + 1 + m.scales[block]] + n[m.outer];
}

// pair rounds two numbers to bf16 or f16, x in the lower half.
__device__ inline u32 pair(float x, float y, int f16) {
  u32 r;
  if (f16) asm("cvt.rn.f16x2.f32 %0, %2, %1;" : "=r"(r) : "f"(x), "f"(y));
  else asm("cvt.rn.bf16x2.f32 %0, %2, %1;" : "=r"(r) : "f"(x), "f"(y));
  return r;
}

// to_half makes rows in 16 bits (f16: of that kind, else bf16): eight elements a thread, a
// row by blockIdx.x.
KERNEL(to_half, HalfArgs) {
  __shared__ float book[16]; // constant memory serves one address at a time
  if (threadIdx.x < 16) book[threadIdx.x] = NF4_BOOK[threadIdx.x];
  __syncthreads();
  i64 row = blockIdx.x;
  int col = (blockIdx.y * blockDim.x + threadIdx.x) * 8;
  if (col >= a.ld) return;
  float v[8];
  i64 flat = (a.m.row0 + row) * a.m.cols + col;
  bool whole = col + 8 <= a.cols && flat % 8 == 0;
  if (whole && a.m.kind == BOOK && !a.m.fp4 && a.m.group >= 8 && (a.m.group & (a.m.group - 1)) == 0) {
    u32 codes = *(const u32*)(a.m.codes + flat / 2);
    float s = code_scale(a.m, flat >> (31 - __clz(a.m.group)));
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = book[codes >> (j / 2 * 8 + (1 - j % 2) * 4) & 15] * s;
  } else if (whole && a.m.kind == F32 && ((u64)a.m.codes & 15) == 0) {
    const float4* p = (const float4*)((const float*)a.m.codes + flat);
    float4 x = p[0], y = p[1];
    v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w, v[4] = y.x, v[5] = y.y, v[6] = y.z, v[7] = y.w;
  } else {
#pragma unroll 1
    for (int j = 0; j < 8; j++) {
      float x = col + j < a.cols ? at(a.m, row, col + j) : 0;
#pragma unroll
      for (int l = 0; l < 8; l++)
        if (l == j) v[l] = x;
    }
  }
  if (a.drop.key) {
#pragma unroll
    for (int j = 0; j < 8; j++)
      if (col + j < a.cols) v[j] = drop(a.drop, row, col + j, v[j]);
  }
  u32 out[4];
#pragma unroll
  for (int j = 0; j < 4; j++) out[j] = pair(v[2 * j], v[2 * j + 1], a.f16);
  *(uint4*)((u16*)a.y + row * a.ld + col) = make_uint4(out[0], out[1], out[2], out[3]);
}

PRODUCTS(bf16, BF16)
