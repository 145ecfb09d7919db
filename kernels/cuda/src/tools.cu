// What quantizers need: statistics, GPTQ's inner loop, rounding
// to a type and back. Simple: a thread works through a column or a run by itself.

enum { SUM_SQ, SUM_ABS, MAX_ABS, MAX, MIN, SUM_XY, SUM_DIFF };

// larger keeps a NaN.
__device__ inline float larger(float a, float b) { return b > a || b != b ? b : a; }
__device__ inline float smaller(float a, float b) { return b < a || b != b ? b : a; }

// Stat is a statistic while its elements come.
struct Stat { double sum; float top; };

__device__ inline Stat begin(int stat) {
  Stat s = {0, stat == MAX ? -INF : stat == MIN ? INF : 0.0f};
  return s;
}

__device__ inline void next(Stat& s, int stat, float x, float y) {
  switch (stat) {
  case SUM_SQ: s.sum += (double)x * x; break;
  case SUM_ABS: s.sum += fabsf(x); break;
  case MAX_ABS: s.top = larger(s.top, fabsf(x)); break;
  case MAX: s.top = larger(s.top, x); break;
  case MIN: s.top = smaller(s.top, x); break;
  case SUM_XY: s.sum += (double)x * y; break;
  default: { double d = (double)x - y; s.sum += d * d; }
  }
}

// finish stores a statistic of f32; adding to one that is no sum takes the larger
// (or smaller) of the two.
__device__ inline void finish(const Stat& s, int stat, Dst d, i64 i) {
  float* p = (float*)d.p + i;
  if (stat <= SUM_ABS || stat >= SUM_XY) {
    *p = d.add ? *p + (float)s.sum : (float)s.sum;
  } else if (!d.add) {
    *p = s.top;
  } else {
    *p = stat == MIN ? smaller(*p, s.top) : larger(*p, s.top);
  }
}

struct ColStatsArgs { Dst y; const float* x; const int* group; i64 rows; int c, stat; };
KERNEL(col_stats, ColStatsArgs) {
  int j = blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= a.c) return;
  i64 lo = 0, hi = a.rows;
  if (a.group) lo = a.group[blockIdx.y], hi = a.group[blockIdx.y + 1];
  Stat s = begin(a.stat);
  for (i64 r = lo; r < hi; r++) next(s, a.stat, a.x[r * a.c + j], 0);
  finish(s, a.stat, a.y, (i64)blockIdx.y * a.c + j);
}

struct RowStatsArgs { Dst y; const float *x, *z; i64 n; int run, stat; };
// The results are f32, or f64 of sums of two.
KERNEL(row_stats, RowStatsArgs) {
  i64 i = thread();
  if (i >= a.n) return;
  Stat s = begin(a.stat);
  for (i64 j = i * a.run; j < (i + 1) * a.run; j++) next(s, a.stat, a.x[j], a.z ? a.z[j] : 0);
  if (a.y.type == F32) {
    finish(s, a.stat, a.y, i);
    return;
  }
  double* p = (double*)a.y.p + i;
  *p = a.y.add ? *p + s.sum : s.sum;
}

// GPTQ's inner loop over a block of up to 128 columns: eight lanes a row, of which lane l has columns l, l + 8, … in
// registers. The lane that has a column rounds it, and all eight take its error from the columns behind it that they have.
#define EACH_LANE 16
struct GPTQArgs { float *w, *err; const float *u, *scale, *zero; u8* codes; int rows, cols, top, pad; };
KERNEL(gptq_block, GPTQArgs) {
  int lane = threadIdx.x % 32, mine = lane / 4;
  i64 r = thread() / 32 * 4 + lane % 4;
  bool there = r < a.rows; // else its lanes come along for the shuffles
  float w[EACH_LANE], scale[EACH_LANE], zero[EACH_LANE];
#pragma unroll
  for (int t = 0; t < EACH_LANE; t++) {
    i64 i = (i64)(t * 8 + mine) * a.rows + r;
    bool own = there && t * 8 + mine < a.cols;
    w[t] = own ? a.w[i] : 0, scale[t] = own ? a.scale[i] : 1, zero[t] = own ? a.zero[i] : 0;
  }
#pragma unroll
  for (int t = 0; t < EACH_LANE; t++) {
#pragma unroll 1
    for (int l = 0; l < 8 && t * 8 + l < a.cols; l++) {
      int j = t * 8 + l;
      const float* row = a.u + (i64)j * a.cols;
      float u[EACH_LANE], diagonal = row[j];
#pragma unroll
      for (int k = t; k < EACH_LANE; k++) u[k] = k * 8 + mine < a.cols ? row[k * 8 + mine] : 0;
      float q = fminf(fmaxf(rintf(w[t] / scale[t]) + zero[t], 0), (float)a.top), dq = (q - zero[t]) * scale[t], e = (w[t] - dq) / diagonal;
      e = __shfl_sync(0xffffffffu, e, l * 4 + lane % 4);
      if (mine == l && there) {
        i64 i = (i64)j * a.rows + r;
        a.codes[i] = (u8)q;
        a.err[i] = e;
        a.w[i] = dq;
      }
#pragma unroll
      for (int k = t; k < EACH_LANE; k++)
        if (k > t || mine > l) w[k] -= u[k] * e;
    }
  }
}

// y = dq(q(x·s))/s: one thread a group. kind: 0 values are only cut, 1 integers,
// 2 E4M3, 3 E5M2.
struct FakeArgs { Dst y; Elems x; const float *scale, *clip; i64 n; int cols, group, groups, kind, bits, zero, scale_type, fixed; float fixed_scale, fixed_zero; };

__device__ inline float round_scale(float v, int type) {
  return type == F32 ? v : type == BF16 ? round_bf16(v) : from_f16(to_f16(v));
}

__device__ inline float round_micro(float v, int kind) {
  int mantissa = kind == 2 ? 3 : 2, least = kind == 2 ? -6 : -14;
  float largest = kind == 2 ? 448.0f : 57344.0f;
  v = fminf(fmaxf(v, -largest), largest);
  int e = (int)(__float_as_uint(v) >> 23 & 255) - 127;
  e = max(e, least) - mantissa;
  return rintf(v * __uint_as_float((u32)(127 - e) << 23)) * __uint_as_float((u32)(127 + e) << 23);
}

KERNEL(fake_quant, FakeArgs) {
  i64 g = thread();
  if (g >= a.n) return;
  int col = g % a.groups * a.group, size = min(a.group, a.cols - col);
  i64 row = g / a.groups * a.cols;
  float limit = a.clip ? a.clip[g] : INF, lo = 0, hi = 0;
  for (int j = col; j < col + size; j++) {
    float v = fminf(fmaxf(get(a.x, row + j) * (a.scale ? a.scale[j] : 1), -limit), limit);
    lo = fminf(lo, v);
    hi = fmaxf(hi, v);
  }
  float scale = 1, zero = 0, top = (float)((1 << a.bits) - 1);
  if (a.kind == 1) {
    if (!a.zero) hi = fmaxf(hi, -lo), lo = -hi;
    if (lo == 0 && hi == 0) lo = -1, hi = 1;
    scale = round_scale((hi - lo) / top, a.scale_type);
  } else if (a.kind > 1 && a.group > 0 && a.scale_type >= 0) {
    scale = round_scale(fmaxf(hi, -lo) / (a.kind == 2 ? 448.0f : 57344.0f), a.scale_type);
  }
  if (scale == 0) scale = a.scale_type == F16 ? 0x1p-24f : 0x1p-126f;
  if (a.kind == 1) zero = a.zero ? fminf(fmaxf(rintf(-lo / scale), 0), top) : (top + 1) / 2;
  float low = 0;
  if (a.fixed) {
    scale = a.fixed_scale, zero = a.fixed_zero;
    low = -(top + 1) / 2, top = -low - 1; // codes with a sign
  }
  for (int j = col; j < col + size; j++) {
    float s = a.scale ? a.scale[j] : 1, v = fminf(fmaxf(get(a.x, row + j) * s, -limit), limit);
    if (a.kind == 1 && a.fixed) v = (rintf(fminf(fmaxf(v / scale + zero, low), top)) - zero) * scale;
    else if (a.kind == 1) v = (fminf(fmaxf(rintf(v / scale) + zero, 0), top) - zero) * scale;
    if (a.kind > 1) v = round_micro(v / scale, a.kind) * scale;
    put(a.y, row + j, v / s);
  }
}
