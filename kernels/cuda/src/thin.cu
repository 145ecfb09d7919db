// Products of few rows with plain numbers, code books, integers and floats of 8 bits.
#include "thin.h"

// Of plain numbers.
template <int KIND> struct Plain : Format<1, 1, 4, KIND == F32 ? 8 : 4> {
  enum { SHIFTED = 0 };
  static __device__ inline int column(int lane, int, int) { return lane * 8; }
  __device__ inline void load(const Place& p) {
    int col = min(p.col + p.lane * 8, p.a->k - 8);
    const uint4* q = (const uint4*)(p.a->w.codes + (p.row * p.a->k + col) * (KIND == F32 ? 4 : 2));
    this->four(q[0], 0);
    if (KIND == F32) this->four(q[1], KIND == F32 ? 4 : 0);
    this->scale[0] = 1;
  }
  template <int P, int S> __device__ inline void eight(const Place&, float (&v)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if (KIND == F32) v[i] = __uint_as_float(this->w[i % (KIND == F32 ? 8 : 4)]);
      else if (KIND == F16) v[i] = from_f16((u16)(this->w[i / 2] >> i % 2 * 16));
      else v[i] = __uint_as_float(i % 2 ? this->w[i / 2] & 0xffff0000u : this->w[i / 2] << 16);
    }
  }
};

// grouped_scales reads the scale of column col of each row from the plane of a type with
// groups, one type of them for all rows.
template <int R> __device__ inline void grouped_scales(float (&s)[R], const Place& p, i64 first, int row, int col) {
  const Mat& m = p.a->w;
  i64 g = col >> p.a->shift;
  if (m.scale_type == F32) {
#pragma unroll
    for (int r = 0; r < R; r++) s[r] = ((const float*)m.scales)[row_of(p, first, row, r) * m.groups + g];
    return;
  }
  u16 h[R];
#pragma unroll
  for (int r = 0; r < R; r++) h[r] = ((const u16*)m.scales)[row_of(p, first, row, r) * m.groups + g];
#pragma unroll
  for (int r = 0; r < R; r++) s[r] = m.scale_type == BF16 ? from_bf16(h[r]) : from_f16(h[r]);
}

// int_scales is that for integers of BITS bits, with their zeros.
template <int BITS, class F, int R> __device__ inline void int_scales(F (&f)[R], const Place& p, i64 first, int row, int col) {
  const Mat& m = p.a->w;
  float s[R], zero[R];
  grouped_scales(s, p, first, row, col);
#pragma unroll
  for (int r = 0; r < R; r++) zero[r] = (1 << BITS) + (1 << (BITS - 1));
  if (m.zeros) {
#pragma unroll
    for (int r = 0; r < R; r++) zero[r] = (float)((1 << BITS) + m.zeros[row_of(p, first, row, r) * m.groups + (col >> p.a->shift)]);
  }
#pragma unroll
  for (int r = 0; r < R; r++) f[r].template set<0>(s[r] * (1 << BITS), -s[r] * zero[r]);
}

struct Book : Format<1, 4, 4, 4> { // NF4, FP4
  enum { TABLE = 4, SHIFTED = 0 };
  static __device__ inline int column(int lane, int, int s) { return lane * 32 + s * 8; }
  static __device__ inline i64 flat(const Place& p, i64 row) { return row * p.a->k + min(p.col + p.lane * 32, p.a->k - 32); }
  __device__ inline void load(const Place& p) { four(*(const uint4*)(p.a->w.codes + (flat(p, p.row) >> 1)), 0); }
  template <int R> static __device__ inline void scales(Book (&f)[R], const Place& p, i64 first, int row) {
    const Mat& m = p.a->w;
    if (m.nested) {
      const float* n = (const float*)m.nested; // outer scales, offset, map
      float map[R];
#pragma unroll
      for (int r = 0; r < R; r++) map[r] = n[m.outer + 1 + m.scales[flat(p, row_of(p, first, row, r)) >> p.a->shift]];
#pragma unroll
      for (int r = 0; r < R; r++) f[r].scale[0] = n[flat(p, row_of(p, first, row, r)) >> p.a->shift >> 8] * map[r] + n[m.outer];
    } else {
#pragma unroll
      for (int r = 0; r < R; r++) f[r].scale[0] = ((const float*)m.scales)[flat(p, row_of(p, first, row, r)) >> p.a->shift];
    }
  }
  template <int P, int S> __device__ inline void eight(const Place& p, float (&v)[8]) {
    float2 t[4];
    entries(p.mine, w[S], t);
#pragma unroll
    for (int i = 0; i < 4; i++) v[2 * i] = t[i].x, v[2 * i + 1] = t[i].y;
  }
  static __device__ inline float2 entry(const Mat& m, int b) { // the first is the upper half
    return make_float2(book(m, b >> 4), book(m, b & 15));
  }
  static __device__ inline float book(const Mat& m, int c) {
    if (!m.fp4) return NF4_BOOK[c];
    float v = FP4_TWELFTHS[c & 7] / 12;
    return c & 8 ? -v : v;
  }
};

struct Int4 : Format<1, 4, 4, 4> {
  static __device__ inline int column(int lane, int, int s) { return lane * 32 + s * 8; }
  static __device__ inline int at(const Place& p) { return min(p.col + p.lane * 32, p.a->k - 32); }
  __device__ inline void load(const Place& p) { four(*(const uint4*)(p.a->w.codes + p.row * (p.a->k >> 1) + (at(p) >> 1)), 0); }
  template <int R> static __device__ inline void scales(Int4 (&f)[R], const Place& p, i64 first, int row) { int_scales<4>(f, p, first, row, at(p)); }
  template <int P, int S> __device__ inline void eight(const Place&, float (&v)[8]) {
    u32 x = w[S];
    v[0] = code<4, 0>(x), v[1] = code<4, 4>(x), v[2] = code<4, 8>(x), v[3] = code<4, 12>(x);
    v[4] = code<4, 16>(x), v[5] = code<4, 20>(x), v[6] = code<4, 24>(x), v[7] = code<4, 28>(x);
  }
};

struct Int8 : Format<1, 2, 4, 4> {
  static __device__ inline int column(int lane, int, int s) { return lane * 16 + s * 8; }
  static __device__ inline int at(const Place& p) { return min(p.col + p.lane * 16, p.a->k - 16); }
  __device__ inline void load(const Place& p) { four(*(const uint4*)(p.a->w.codes + p.row * p.a->k + at(p)), 0); }
  template <int R> static __device__ inline void scales(Int8 (&f)[R], const Place& p, i64 first, int row) { int_scales<8>(f, p, first, row, at(p)); }
  template <int P, int S> __device__ inline void eight(const Place&, float (&v)[8]) { bytes(w[2 * S], w[2 * S + 1], v); }
};

// micro_scales is that for small floats, whose scales may be of 8 bits and rows have a number.
template <int R> __device__ inline void micro_scales(float (&s)[R], const Place& p, i64 first, int row, int col) {
  const Mat& m = p.a->w;
  if (m.scale_type <= F16) {
    grouped_scales(s, p, first, row, col);
  } else {
    u8 b[R];
#pragma unroll
    for (int r = 0; r < R; r++) b[r] = m.scales[row_of(p, first, row, r) * m.groups + (col >> p.a->shift)];
#pragma unroll
    for (int r = 0; r < R; r++) s[r] = byte_scale(b[r], m.scale_type);
  }
  if (m.nested) {
#pragma unroll
    for (int r = 0; r < R; r++) s[r] = nested_scale(m, row_of(p, first, row, r), s[r]);
  }
}

struct Float8 : Format<1, 2, 4, 4> { // E4M3, E5M2
  enum { TABLE = 8, SHIFTED = 0 };
  static __device__ inline int column(int lane, int, int s) { return lane * 16 + s * 8; }
  static __device__ inline int at(const Place& p) { return min(p.col + p.lane * 16, p.a->k - 16); }
  __device__ inline void load(const Place& p) { four(*(const uint4*)(p.a->w.codes + p.row * p.a->k + at(p)), 0); }
  template <int R> static __device__ inline void scales(Float8 (&f)[R], const Place& p, i64 first, int row) {
    float s[R];
#pragma unroll
    for (int r = 0; r < R; r++) s[r] = 1;
    if (p.a->w.group) micro_scales(s, p, first, row, at(p));
#pragma unroll
    for (int r = 0; r < R; r++) f[r].scale[0] = s[r];
  }
  template <int P, int S> __device__ inline void eight(const Place& p, float (&v)[8]) {
    entries(p.mine, w[2 * S], v);
    entries(p.mine, w[2 * S + 1], v + 4);
  }
  static __device__ inline float2 entry(const Mat& m, int b) {
    float v = m.kind == E4M3 ? e4m3((u8)b) : from_f16((u16)(b << 8));
    return make_float2(v, v);
  }
};

struct Float4 : Format<2, 2, 4, 4> { // E2M1: two scales a lane
  enum { TABLE = 4, SHIFTED = 0 };
  static __device__ inline int column(int lane, int p, int s) { return lane * 32 + p * 16 + s * 8; }
  static __device__ inline int at(const Place& p) { return min(p.col + p.lane * 32, p.a->k - 32); }
  __device__ inline void load(const Place& p) { four(*(const uint4*)(p.a->w.codes + p.row * (p.a->k >> 1) + (at(p) >> 1)), 0); }
  template <int R> static __device__ inline void scales(Float4 (&f)[R], const Place& p, i64 first, int row) {
    float s[R];
    micro_scales(s, p, first, row, at(p));
#pragma unroll
    for (int r = 0; r < R; r++) f[r].scale[0] = f[r].scale[1] = s[r];
    if (p.a->shift > 4) return;
    micro_scales(s, p, first, row, at(p) + 16);
#pragma unroll
    for (int r = 0; r < R; r++) f[r].scale[1] = s[r];
  }
  template <int P, int S> __device__ inline void eight(const Place& p, float (&v)[8]) {
    float2 t[4];
    entries(p.mine, w[2 * P + S], t);
#pragma unroll
    for (int i = 0; i < 4; i++) v[2 * i] = t[i].x, v[2 * i + 1] = t[i].y;
  }
  static __device__ inline float2 entry(const Mat&, int b) { return make_float2(fp4(b & 15) * 0.5f, fp4(b >> 4) * 0.5f); } // the first is the lower half
};

THIN(f32, 4, NO_TABLE, Plain<F32>)
THIN(bf16, 4, NO_TABLE, Plain<BF16>)
THIN(f16, 4, NO_TABLE, Plain<F16>)
THIN(book, 8, 32768, Book)
THIN(float8, 8, 32768, Float8)
THIN(e2m1, 8, 32768, Float4)
THIN(int4, 8, NO_TABLE, Int4)
THIN(int8, 4, NO_TABLE, Int8)
