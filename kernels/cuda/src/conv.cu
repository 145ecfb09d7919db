// Causal convolutions of channels by themselves: kernels.ConvArgs.
#include "heads.h"

struct ConvArgs {
  Dst y, dw, db;        // y: the result, or the gradient of x
  Elems x, w, bias, g;  // g: gradients of the result, or of the sums
  float *state, *sums;  // sums: gradients of the sums
  const int *seq, *slot;
  double* parts; // [blocks of tokens, taps+1, c]
  i64 n;
  int c, taps, seqs, silu;
};

#define CONV_PART 256 // tokens whose gradients of weights one thread adds

// before is the input at token m as sequence s sees it; before its first token that
// is of its state, or 0.
__device__ inline float before(const ConvArgs& a, int s, i64 m, int ch) {
  i64 at = m - a.seq[s];
  if (at >= 0) return get(a.x, m * a.c + ch);
  return a.state ? a.state[((i64)a.slot[s] * (a.taps - 1) + a.taps - 1 + at) * a.c + ch] : 0;
}

__device__ inline float conv_sum(const ConvArgs& a, i64 n, int ch) {
  int s = find(a.seq, a.seqs, n);
  float sum = a.bias.p ? get(a.bias, ch) : 0;
  for (int t = 0; t < a.taps; t++) sum += get(a.w, (i64)ch * a.taps + t) * before(a, s, n - (a.taps - 1) + t, ch);
  return sum;
}

KERNEL(conv, ConvArgs) {
  i64 i = thread();
  if (i >= a.n * a.c) return;
  float v = conv_sum(a, i / a.c, i % a.c);
  put(a.y, i, a.silu ? v * logistic(v) : v);
}

// The last rows of each sequence stay in its state: one thread a channel of one. A
// row moves to a lower place, if at all.
KERNEL(conv_leave, ConvArgs) {
  i64 i = thread();
  if (i >= (i64)a.seqs * a.c) return;
  int s = i / a.c, ch = i % a.c;
  float* state = a.state + (i64)a.slot[s] * (a.taps - 1) * a.c + ch;
  for (int t = 0; t < a.taps - 1; t++) state[(i64)t * a.c] = before(a, s, (i64)a.seq[s + 1] - (a.taps - 1) + t, ch);
}

// The gradients of what SiLU was taken of.
KERNEL(conv_slope, ConvArgs) {
  i64 i = thread();
  if (i >= a.n * a.c) return;
  float v = conv_sum(a, i / a.c, i % a.c), p = logistic(v);
  a.sums[i] = get(a.g, i) * (p + v * (p * logistic(-v)));
}

KERNEL(conv_dx, ConvArgs) {
  i64 i = thread();
  if (i >= a.n * a.c) return;
  i64 n = i / a.c, end = a.seq[find(a.seq, a.seqs, n) + 1];
  int ch = i % a.c;
  float sum = 0;
  for (int t = a.taps - 1; t >= 0; t--) {
    i64 m = n + a.taps - 1 - t;
    if (m < end) sum += get(a.w, (i64)ch * a.taps + t) * get(a.g, m * a.c + ch);
  }
  put(a.y, i, sum);
}

// The gradients of weights (and as tap number taps of the bias) over a block of
// tokens, in f64: one thread a channel.
KERNEL(conv_parts, ConvArgs) {
  int ch = blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
  if (ch >= a.c) return;
  i64 lo = (i64)blockIdx.z * CONV_PART, hi = min(lo + CONV_PART, a.n);
  int s = find(a.seq, a.seqs, lo);
  double sum = 0;
  for (i64 n = lo; n < hi; n++) {
    while (n >= a.seq[s + 1]) s++;
    i64 m = n - (a.taps - 1) + t;
    double g = get(a.g, n * a.c + ch);
    if (t == a.taps) sum += g;
    else if (m >= a.seq[s]) sum += g * get(a.x, m * a.c + ch);
  }
  a.parts[((i64)blockIdx.z * (a.taps + 1) + t) * a.c + ch] = sum;
}

KERNEL(conv_fold, ConvArgs) {
  i64 i = thread();
  if (i >= (i64)(a.taps + 1) * a.c) return;
  int t = i / a.c, ch = i % a.c;
  double sum = 0;
  for (i64 p = 0; p * CONV_PART < a.n; p++) sum += a.parts[p * (a.taps + 1) * a.c + i];
  if (t < a.taps && a.dw.p) put(a.dw, (i64)ch * a.taps + t, (float)sum);
  if (t == a.taps && a.db.p) put(a.db, ch, (float)sum);
}
