// Products of few rows with blocks of GGUF; the layouts are those of decode_ggml (mat.h).
#include "thin.h"

// Blocks of 32: four lanes a block, eight blocks a piece.
template <int KIND, int SIZE, int NEXT, int WORDS> struct Block32 : Format<4, 1, NEXT, 4 * WORDS> {
  static __device__ inline int column(int lane, int p, int) { return p * 256 + lane / 4 * 32 + lane % 4 * (NEXT == 4 ? 8 : 4); }
  static __device__ inline const u8* block(const Place& p, int piece) {
    int count = p.a->k >> 5;
    return p.a->w.codes + (p.row * count + min((p.col >> 5) + piece * 8 + p.lane / 4, count - 1)) * SIZE;
  }
};

struct Q80 : Block32<Q8_0, 34, 4, 2> {
  __device__ inline void load(const Place& p) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const u8* b = block(p, i);
      u32 x[2];
      words(x, b + 2 + p.lane % 4 * 8);
      w[2 * i] = x[0] ^ 0x80808080u, w[2 * i + 1] = x[1] ^ 0x80808080u;
      float d = half_of(*(const u16*)b);
      scale[i] = d * 256, shift[i] = d * -384;
    }
  }
  template <int P, int S> __device__ inline void eight(const Place&, float (&v)[8]) { bytes(w[2 * P], w[2 * P + 1], v); }
};

// nibbles are the codes of 4 bits of a word: the lower halves, then the upper.
__device__ inline void nibbles(u32 x, float (&v)[8]) {
  v[0] = code<4, 0>(x), v[1] = code<4, 8>(x), v[2] = code<4, 16>(x), v[3] = code<4, 24>(x);
  v[4] = code<4, 4>(x), v[5] = code<4, 12>(x), v[6] = code<4, 20>(x), v[7] = code<4, 28>(x);
}

// Q4_0, Q4_1.
template <int KIND> struct Q4 : Block32<KIND, KIND == Q4_0 ? 18 : 20, 16, 1> {
  __device__ inline void load(const Place& p) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const u8* b = this->block(p, i);
      float d, m;
      if (KIND == Q4_0) {
        u32 x[1];
        words(x, b + 2 + p.lane % 4 * 4);
        this->w[i] = x[0];
        d = half_of(*(const u16*)b), m = d * -8;
      } else {
        u32 dm = *(const u32*)b;
        this->w[i] = *(const u32*)(b + 4 + p.lane % 4 * 4);
        d = half_of(dm), m = half_of(dm >> 16);
      }
      this->scale[i] = d * 16, this->shift[i] = m - d * 16;
    }
  }
  template <int P, int S> __device__ inline void eight(const Place&, float (&v)[8]) { nibbles(this->w[P], v); }
};

// Q5_0, Q5_1: the fifth bits lie in a word of their own.
template <int KIND> struct Q5 : Block32<KIND, KIND == Q5_0 ? 22 : 24, 16, 2> {
  __device__ inline void load(const Place& p) {
    int j = p.lane % 4 * 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const u8* b = this->block(p, i);
      float d, m;
      if (KIND == Q5_0) {
        u32 x[1], h[1];
        words(h, b + 2);
        words(x, b + 6 + j);
        this->w[2 * i] = x[0], this->w[2 * i + 1] = h[0] >> j;
        d = half_of(*(const u16*)b), m = d * -16;
      } else {
        u32 dm = *(const u32*)b;
        this->w[2 * i] = *(const u32*)(b + 8 + j), this->w[2 * i + 1] = *(const u32*)(b + 4) >> j;
        d = half_of(dm), m = half_of(dm >> 16);
      }
      this->scale[i] = d * 32, this->shift[i] = m - d * 32;
    }
  }
  template <int P, int S> __device__ inline void eight(const Place&, float (&v)[8]) {
    u32 x = this->w[2 * P], h = this->w[2 * P + 1];
#define FIVE(low, bit) mantissa<31 << 18>((move<low, 18>(x) & 15 << 18) | (move<bit, 22>(h) & 1 << 22))
    v[0] = FIVE(0, 0), v[1] = FIVE(8, 1), v[2] = FIVE(16, 2), v[3] = FIVE(24, 3);
    v[4] = FIVE(4, 16), v[5] = FIVE(12, 17), v[6] = FIVE(20, 18), v[7] = FIVE(28, 19);
#undef FIVE
  }
};

// halves are looked up: the lower halves of bytes, then the upper.
__device__ inline void halves(const Place& p, u32 x, float (&v)[8]) {
  float2 t[4];
  entries(p.mine, x, t);
#pragma unroll
  for (int i = 0; i < 4; i++) v[i] = t[i].x, v[4 + i] = t[i].y;
}
__device__ inline float2 iq4_entry(int b) { return make_float2(IQ4_BOOK[b & 15], IQ4_BOOK[b >> 4]); }

struct IQ4NL : Block32<IQ4_NL, 18, 16, 1> {
  enum { TABLE = 4, SHIFTED = 0 };
  __device__ inline void load(const Place& p) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const u8* b = block(p, i);
      u32 x[1];
      words(x, b + 2 + p.lane % 4 * 4);
      w[i] = x[0];
      scale[i] = half_of(*(const u16*)b);
    }
  }
  template <int P, int S> __device__ inline void eight(const Place& p, float (&v)[8]) { halves(p, w[P], v); }
  static __device__ inline float2 entry(const Mat&, int b) { return iq4_entry(b); }
};

__device__ inline float2 fp4_entry(int b) { return make_float2(fp4(b & 15), fp4(b >> 4)); }

struct MxFp4 : Block32<MXFP4, 17, 16, 1> {
  enum { TABLE = 4, SHIFTED = 0 };
  __device__ inline void load(const Place& p) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const u8* b = block(p, i);
      u32 x[1], e = b[0];
      words<true>(x, b + 1 + p.lane % 4 * 4);
      w[i] = x[0];
      scale[i] = __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23); // half of a power of two: fp4 is doubled
    }
  }
  template <int P, int S> __device__ inline void eight(const Place& p, float (&v)[8]) { halves(p, w[P], v); }
  static __device__ inline float2 entry(const Mat&, int b) { return fp4_entry(b); }
};

// Blocks of 64: eight lanes a block, four blocks a piece, a scale for two lanes.
struct NvFp4 : Format<4, 1, 8, 4> {
  enum { TABLE = 4, SHIFTED = 0 };
  static __device__ inline int column(int lane, int p, int) { return p * 256 + lane / 2 * 16 + lane % 2 * 4; }
  __device__ inline void load(const Place& p) {
    int count = p.a->k >> 6;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const u8* b = p.a->w.codes + (p.row * count + min((p.col >> 6) + i * 4 + p.lane / 8, count - 1)) * 36;
      w[i] = *(const u32*)(b + 4 + p.lane % 8 * 4);
      u32 s = b[p.lane % 8 / 2], e = s >> 3 & 15, m = s & 7; // without a sign; 0x7f is nothing
      scale[i] = s == 0x7f ? 0 : e == 0 ? m * 0x1p-10f : (1 + m * 0.125f) * __uint_as_float((e - 8 + 127) << 23);
    }
  }
  template <int P, int S> __device__ inline void eight(const Place& p, float (&v)[8]) { halves(p, w[P], v); }
  static __device__ inline float2 entry(const Mat&, int b) { return fp4_entry(b); }
};

// Blocks of 256: eight lanes a block.
template <int SIZE> __device__ inline const u8* block256(const Place& p) {
  int count = p.a->k >> 8;
  return p.a->w.codes + (p.row * count + min((p.col >> 8) + p.lane / 8, count - 1)) * SIZE;
}

struct IQ4XS : Format<1, 4, 16, 4> {
  enum { TABLE = 4, SHIFTED = 0 };
  static __device__ inline int column(int lane, int, int s) { return lane * 32 + s * 4; }
  __device__ inline void load(const Place& p) {
    const u8* b = block256<136>(p);
    int u = p.lane % 8;
    uint2 head = *(const uint2*)b, x = *(const uint2*)(b + 8 + 16 * u), y = *(const uint2*)(b + 16 + 16 * u);
    w[0] = x.x, w[1] = x.y, w[2] = y.x, w[3] = y.y;
    int ls = (head.y >> 4 * u & 15) | (head.x >> 16 + 2 * u & 3) << 4;
    scale[0] = half_of(head.x) * (float)(ls - 32);
  }
  template <int P, int S> __device__ inline void eight(const Place& p, float (&v)[8]) { halves(p, w[S], v); }
  static __device__ inline float2 entry(const Mat&, int b) { return iq4_entry(b); }
};

// Q4_K, Q5_K: two lanes have 64 columns, the lower halves of their bytes as one piece
// and the upper as the other.
template <int KIND> struct K45 : Format<2, 2, 4, KIND == Q4_K ? 4 : 8> {
  static __device__ inline int column(int lane, int p, int s) { return lane / 2 * 64 + p * 32 + lane % 2 * 16 + s * 8; }
  __device__ inline void load(const Place& p) {
    const u8* b = block256<KIND == Q4_K ? 144 : 176>(p);
    int pair = p.lane % 8 / 2, half = p.lane % 2 * 16, by = pair % 2 * 16;
    uint4 head = *(const uint4*)b; // d, minimum's d, 12 bytes of scales
    this->four(*(const uint4*)(b + (KIND == Q4_K ? 16 : 48) + pair * 32 + half), 0);
    if (KIND == Q5_K) {
      uint4 h = *(const uint4*)(b + 16 + half);
      h.x >>= 2 * pair, h.y >>= 2 * pair, h.z >>= 2 * pair, h.w >>= 2 * pair;
      this->four(h, KIND == Q4_K ? 0 : 4);
    }
    u32 y = head.y >> by, z = head.z >> by, x = head.w >> by, sc, mn; // those of both pieces, in a byte each
    sc = pair < 2 ? y & 0x3f3f : (x & 0x0f0f) | (y >> 2 & 0x3030);
    mn = pair < 2 ? z & 0x3f3f : (x >> 4 & 0x0f0f) | (z >> 2 & 0x3030);
    float d = half_of(head.x) * (KIND == Q4_K ? 16 : 32), less = -half_of(head.x >> 16), s0 = d * (float)(sc & 255), s1 = d * (float)(sc >> 8);
    this->scale[0] = s0, this->shift[0] = fmaf(less, (float)(mn & 255), -s0);
    this->scale[1] = s1, this->shift[1] = fmaf(less, (float)(mn >> 8), -s1);
  }
  template <int P, int S> __device__ inline void eight(const Place&, float (&v)[8]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      u32 x = this->w[2 * S + i];
      if (KIND == Q4_K) {
        v[4 * i] = code<4, 4 * P>(x), v[4 * i + 1] = code<4, 8 + 4 * P>(x), v[4 * i + 2] = code<4, 16 + 4 * P>(x), v[4 * i + 3] = code<4, 24 + 4 * P>(x);
      } else {
        u32 h = this->w[(KIND == Q4_K ? 0 : 4) + 2 * S + i];
#define FIVE(low, bit) mantissa<31 << 18>((move<low, 18>(x) & 15 << 18) | (move<bit, 22>(h) & 1 << 22))
        v[4 * i] = FIVE(4 * P, P), v[4 * i + 1] = FIVE(8 + 4 * P, 8 + P), v[4 * i + 2] = FIVE(16 + 4 * P, 16 + P), v[4 * i + 3] = FIVE(24 + 4 * P, 24 + P);
#undef FIVE
      }
    }
  }
};

// Q6_K: four lanes have 128 columns, two quarters each.
struct Q6K : Format<2, 2, 4, 8> {
  static __device__ inline int column(int lane, int p, int s) { return lane / 4 * 128 + (lane / 2 % 2 + 2 * p) * 32 + lane % 2 * 16 + s * 8; }
  __device__ inline void load(const Place& p) {
    const u8* b = block256<210>(p);
    int half = p.lane / 4 % 2, quarter = p.lane / 2 % 2, part = p.lane % 2;
    u32 x[4], h[4];
    words(x, b + half * 64 + quarter * 32 + part * 16);
    words(h, b + 128 + half * 32 + part * 16);
#pragma unroll
    for (int i = 0; i < 4; i++) w[i] = x[i], w[4 + i] = h[i] >> 2 * quarter;
    const signed char* sc = (const signed char*)(b + 192 + half * 8 + quarter * 2 + part);
    float d = half_of(*(const u16*)(b + 208)), s0 = d * (float)sc[0], s1 = d * (float)sc[4];
    set<0>(s0 * 64, s0 * -96);
    set<1>(s1 * 64, s1 * -96);
  }
  template <int P, int S> __device__ inline void eight(const Place&, float (&v)[8]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      u32 x = w[2 * S + i], h = w[4 + 2 * S + i];
#define SIX(byte) mantissa<63 << 17>((move<byte + 4 * P, 17>(x) & 15 << 17) | (move<byte + 4 * P, 21>(h) & 3 << 21))
      v[4 * i] = SIX(0), v[4 * i + 1] = SIX(8), v[4 * i + 2] = SIX(16), v[4 * i + 3] = SIX(24);
#undef SIX
    }
  }
};

// Q2_K, Q3_K: four lanes have 128 columns, eight of each quarter.
template <int KIND> struct K23 : Format<4, 1, 4, KIND == Q2_K ? 2 : 4> {
  static __device__ inline int column(int lane, int p, int) { return lane / 4 * 128 + p * 32 + lane % 4 * 8; }
  __device__ inline void load(const Place& p) {
    const u8* b = block256<KIND == Q2_K ? 84 : 110>(p);
    int half = p.lane / 4 % 2, l = p.lane % 4 * 8;
    u32 x[2];
    words(x, b + (KIND == Q2_K ? 16 : 32) + half * 32 + l);
    this->w[0] = x[0], this->w[1] = x[1];
    if (KIND == Q3_K) {
      words(x, b + l);
      this->w[KIND == Q2_K ? 0 : 2] = x[0] >> 4 * half, this->w[KIND == Q2_K ? 1 : 3] = x[1] >> 4 * half;
    }
    float d = half_at(b + (KIND == Q2_K ? 80 : 108)), dm = KIND == Q2_K ? half_at(b + 82) : 0;
#pragma unroll
    for (int q = 0; q < 4; q++) {
      int u = half * 8 + q * 2 + l / 16;
      if (KIND == Q2_K) {
        float s = d * (float)(b[u] & 15) * 4;
        this->scale[q] = s, this->shift[q] = -s - dm * (float)(b[u] >> 4);
      } else {
        int sc = ((b[96 + u % 8] >> u / 8 * 4 & 15) | (b[104 + u % 4] >> u / 4 * 2 & 3) << 4) - 32;
        float s = d * (float)sc;
        this->scale[q] = s * 8, this->shift[q] = s * -12;
      }
    }
  }
  template <int P, int S> __device__ inline void eight(const Place&, float (&v)[8]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      u32 x = this->w[i], h = this->w[KIND == Q2_K ? i : 2 + i];
#define THREE(byte) (KIND == Q2_K ? code<2, byte + 2 * P>(x) : mantissa<7 << 20>((move<byte + 2 * P, 20>(x) & 3 << 20) | (move<byte + P, 22>(h) & 1 << 22)))
      v[4 * i] = THREE(0), v[4 * i + 1] = THREE(8), v[4 * i + 2] = THREE(16), v[4 * i + 3] = THREE(24);
#undef THREE
    }
  }
};

THIN(q4_0, 4, NO_TABLE, Q4<Q4_0>)
THIN(q4_1, 4, NO_TABLE, Q4<Q4_1>)
THIN(q5_0, 4, NO_TABLE, Q5<Q5_0>)
THIN(q5_1, 4, NO_TABLE, Q5<Q5_1>)
THIN(q8_0, 4, NO_TABLE, Q80)
THIN(q2_k, 4, NO_TABLE, K23<Q2_K>)
THIN(q3_k, 4, NO_TABLE, K23<Q3_K>)
THIN(q4_k, 8, NO_TABLE, K45<Q4_K>)
THIN(q5_k, 4, NO_TABLE, K45<Q5_K>)
THIN(q6_k, 4, NO_TABLE, Q6K)
THIN(iq4_nl, 8, 32768, IQ4NL)
THIN(iq4_xs, 8, 32768, IQ4XS)
THIN(mxfp4, 8, 32768, MxFp4)
THIN(nvfp4, 8, 32768, NvFp4)
