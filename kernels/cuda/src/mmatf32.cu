// Products of f32 on tensor cores, operands rounded to tf32, and what makes operands of f32.
#include "mma.h"

// to_f32 makes rows in f32: an element a thread, a row by blockIdx.x.
KERNEL(to_f32, HalfArgs) {
  i64 row = blockIdx.x;
  int col = blockIdx.y * blockDim.x + threadIdx.x;
  if (col >= a.ld) return;
  float v = 0;
  if (col < a.cols) {
    v = at(a.m, row, col);
    if (a.drop.key) v = drop(a.drop, row, col, v);
  }
  ((float*)a.y)[row * a.ld + col] = v;
}

PRODUCTS(tf32, F32)
