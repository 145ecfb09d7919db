// Rounding to storage types, with the bytes of kernels/block.Encode.
#include "mat.h"

struct EncodeArgs {
  Mat m;          // planes are written
  const float* x; // [rows, cols]
  float* absmax;  // scratch: of each block of a codebook
  const float* map;
  int* bad;       // [rows]: the first column that cannot be stored, or -1
  i64 n;          // elements, or what a thread is for
  int rows, zero;
};

// One thread a row. F16 must not overflow either.
KERNEL(first_bad, EncodeArgs) {
  i64 r = thread();
  if (r >= a.rows) return;
  int at_ = -1;
  for (int j = a.m.cols - 1; j >= 0; j--) {
    float v = a.x[r * a.m.cols + j];
    if ((__float_as_uint(v) & 0x7f800000) == 0x7f800000 || (a.m.kind == F16 && (to_f16(v) & 0x7c00) == 0x7c00)) at_ = j;
  }
  a.bad[r] = at_;
}

__device__ inline float round_scale(float v, int type) {
  return type == F32 ? v : type == BF16 ? round_bf16(v) : from_f16(to_f16(v));
}

__device__ inline void put_scale(const Mat& m, i64 i, float v) {
  if (m.scale_type == F32) ((float*)m.scales)[i] = v;
  else ((u16*)m.scales)[i] = m.scale_type == BF16 ? to_bf16(v) : to_f16(v);
}

// The scale (and zero point) of one group: one thread each.
KERNEL(group_scales, EncodeArgs) {
  i64 i = thread();
  if (i >= a.n) return;
  const Mat& m = a.m;
  i64 r = i / m.groups;
  int g = i % m.groups, from = 0, to = m.cols;
  if (!m.perm && m.group > 0) from = g * m.group, to = min(from + m.group, m.cols);
  float lo = 0, hi = 0;
  for (int j = from; j < to; j++) {
    if (m.perm && m.perm[j] != g) continue;
    float v = a.x[r * m.cols + j];
    lo = fminf(lo, v);
    hi = fmaxf(hi, v);
  }
  i64 place = (r + m.row0) * m.groups + g;
  float least = m.scale_type == F16 ? 0x1p-24f : 0x1p-126f;
  if (m.kind != INTS) {
    float s = round_scale(fmaxf(hi, -lo) / (m.kind == E4M3 ? 448.0f : 57344.0f), m.scale_type);
    put_scale(m, place, s > 0 ? s : least);
    return;
  }
  float top = (float)((1 << m.bits) - 1), exact = 2 * fmaxf(hi, -lo) / top;
  if (!a.zero) hi = fmaxf(hi, -lo), lo = -hi;
  if (lo == 0 && hi == 0) lo = -1, hi = 1;
  float s = round_scale((hi - lo) / top, m.scale_type);
  if (s == 0) s = least;
  float z = fminf(fmaxf(rintf(-lo / s), 0), top);
  if (!a.zero && s > exact && exact != 0) { // a symmetric scale is not rounded up
    float less = m.scale_type == F16 ? 1 - 0x1p-11f : m.scale_type == BF16 ? 1 - 0x1p-8f : 1.0f;
    float t = round_scale(exact * less, m.scale_type);
    if (t > 0) s = t;
  }
  put_scale(m, place, s);
  if (a.zero) ((u8*)m.zeros)[place] = (u8)z;
}

// The codes of integers: one thread a byte of a row.
KERNEL(int_codes, EncodeArgs) {
  i64 i = thread();
  if (i >= a.n) return;
  const Mat& m = a.m;
  int stride = (m.cols * m.bits + 7) / 8;
  i64 r = i / stride;
  int byte = i % stride, out = 0, last = -1, code = 0;
  float top = (float)((1 << m.bits) - 1);
  for (int b = 0; b < 8; b++) {
    int e = (byte * 8 + b) / m.bits;
    if (e >= m.cols) break;
    if (e != last) {
      i64 g = (r + m.row0) * m.groups + (m.perm ? m.perm[e] : m.group > 0 ? e / m.group : 0);
      float z = m.zeros ? (float)m.zeros[g] : (float)(1 << (m.bits - 1));
      code = (int)fminf(fmaxf(rintf(a.x[r * m.cols + e] / load(m.scales, m.scale_type, g)) + z, 0), top);
      last = e;
    }
    out |= (code >> (byte * 8 + b) % m.bits & 1) << b;
  }
  ((u8*)m.codes)[(r + m.row0) * stride + byte] = (u8)out;
}

// Small floats with a scale for each group: one thread an element.
KERNEL(micro_codes, EncodeArgs) {
  i64 i = thread();
  if (i >= a.n) return;
  const Mat& m = a.m;
  i64 r = i / m.cols + m.row0;
  int j = i % m.cols, mantissa = m.kind == E4M3 ? 3 : 2, least = m.kind == E4M3 ? -6 : -14;
  float largest = m.kind == E4M3 ? 448.0f : 57344.0f;
  i64 g = r * m.groups + (m.perm ? m.perm[j] : m.group > 0 ? j / m.group : 0);
  float v = fminf(fmaxf(a.x[i] / load(m.scales, m.scale_type, g), -largest), largest);
  int e = max((int)(__float_as_uint(v) >> 23 & 255) - 127, least) - mantissa;
  v = rintf(v * __uint_as_float((u32)(127 - e) << 23)) * __uint_as_float((u32)(127 + e) << 23);
  u32 u = __float_as_uint(fabsf(v)), code;
  if (m.kind == E5M2) code = to_f16(fabsf(v)) >> 8;
  else if (fabsf(v) < 0x1p-6f) code = (u32)(fabsf(v) * 512);
  else code = (u >> 23) - 120 << 3 | (u >> 20 & 7);
  ((u8*)m.codes)[r * m.cols + j] = (u8)(code | __float_as_uint(v) >> 31 << 7);
}

// A book's values in ascending order, and the codes that they have.
__constant__ u8 FP4_ORDER[16] = {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3};

__device__ inline float book(const Mat& m, int i) {
  if (!m.fp4) return NF4_BOOK[i];
  int c = FP4_ORDER[i];
  float v = FP4_TWELFTHS[c & 7] / 12;
  return c == 8 ? 0 : c & 8 ? -v : v;
}

// nearest is the code of v: midpoints below it are counted, a tie goes to the
// smaller value.
__device__ inline int nearest(const Mat& m, float v) {
  int rank = 0;
  for (int i = 1; i < 16; i++) rank += v > (book(m, i - 1) + book(m, i)) / 2;
  return m.fp4 ? FP4_ORDER[rank] : rank;
}

// One thread a block of a codebook, whose size is even.
KERNEL(book_codes, EncodeArgs) {
  i64 b = thread(), size = a.m.group, lo = b * size, hi = min(lo + size, a.n);
  if (lo >= a.n) return;
  float top = 0;
  for (i64 i = lo; i < hi; i++) top = fmaxf(top, fabsf(a.x[i]));
  a.absmax[b] = top;
  float d = fmaxf(top, 1e-38f), r = 1 / d;
  bool whole = hi - lo == size;
  for (i64 i = lo; i < hi; i += 2) {
    int code = nearest(a.m, whole ? a.x[i] * r : a.x[i] / d) << 4;
    if (i + 1 < hi) code |= nearest(a.m, whole ? a.x[i + 1] * r : a.x[i + 1] / d);
    else code |= nearest(a.m, 0);
    ((u8*)a.m.codes)[i >> 1] = (u8)code;
  }
}

// The mean of the scales, in the order of PyTorch's sum: one warp holds its 4×8
// running sums, and carries them up four levels. It goes where nested scales have
// their offset.
KERNEL(scale_mean, EncodeArgs) {
  const float* x = a.absmax;
  int lane = threadIdx.x, power = 4;
  i64 vecs = a.n / 8, groups = vecs / 4;
  for (int log = 0; (1ll << log) < groups; log++) power = max(power, (log + 1) / 4);
  i64 step = 1ll << power;
  float level[4] = {};
  i64 i = 0;
  while (i + step <= groups) {
    for (i64 k = 0; k < step; k++, i++) level[0] += x[i * 32 + lane];
#pragma unroll
    for (int j = 1; j < 4; j++) {
      bool up = true;
      for (int l = 1; l < j; l++) up = up && (i & ((step - 1) << (l * power))) == 0;
      if (up) level[j] += level[j - 1], level[j - 1] = 0;
    }
  }
  for (; i < groups; i++) level[0] += x[i * 32 + lane];
  for (int j = 1; j < 4; j++) level[0] += level[j];
  float acc = level[0];
  for (i64 v = groups * 4; v < vecs; v++)
    if (lane < 8) acc += x[v * 8 + lane];
  float first = acc;
  for (int r = 1; r < 4; r++) first += __shfl_sync(0xffffffffu, acc, lane % 8 + 8 * r);
  float sum = 0;
  for (i64 k = vecs * 8; k < a.n; k++) sum += x[k];
  for (int l = 0; l < 8; l++) sum += __shfl_sync(0xffffffffu, first, l);
  if (lane == 0) ((float*)a.m.nested)[a.m.outer] = a.n > 0 ? sum / (float)a.n : 0;
}

// Scales less their mean as 8-bit codes: one thread a block of 256.
KERNEL(nest_scales, EncodeArgs) {
  i64 b = thread(), lo = b * 256, hi = min(lo + 256, a.n);
  if (lo >= a.n) return;
  float* nested = (float*)a.m.nested;
  float mean = nested[a.m.outer], top = 0;
  for (i64 i = lo; i < hi; i++) top = fmaxf(top, fabsf(a.absmax[i] - mean));
  nested[b] = top;
  float r = 1 / fmaxf(top, 1e-38f);
  for (i64 i = lo; i < hi; i++) {
    float v = (a.absmax[i] - mean) * r;
    int low = 0, high = 255; // the midpoints below v
    while (low < high) {
      int mid = (low + high) / 2;
      if (v > (a.map[mid] + a.map[mid + 1]) / 2) low = mid + 1;
      else high = mid;
    }
    ((u8*)a.m.scales)[i] = (u8)low;
  }
}
