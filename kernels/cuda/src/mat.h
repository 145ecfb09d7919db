// Matrices of any storage type. What the bits mean is written down in
// kernels/dtype (Planes) and kernels/block.

// Storage types beside F32, BF16 and F16.
enum {
  E4M3 = 3, E5M2, BOOK, INTS, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS,
  Q1_0, Q2_0, TQ1_0, TQ2_0, MXFP4, NVFP4, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ1_S, IQ1_M, E2M1, E8M0,
};

// Mat is rows row0 … of a matrix. Planes that a type lacks are 0. Of GGUF's types
// bits is the elements of a block and outer its bytes, and scales are the points of
// the lattice that codes index, u16 each. Of small floats outer says that nested
// divides scales, and does not multiply them.
struct Mat {
  const u8 *codes, *scales, *zeros, *nested;
  const int* perm;
  i64 row0;
  int cols, kind, group, groups, bits, scale_type, outer, fp4;
};

__constant__ float NF4_BOOK[16] = {
  -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
  -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
  0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};
__constant__ float FP4_TWELFTHS[8] = {0.0f, 0.0625f, 8.0f, 12.0f, 4.0f, 6.0f, 2.0f, 3.0f};
__constant__ float IQ4_BOOK[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

__device__ inline float half_at(const u8* p) { return from_f16((u16)(p[0] | p[1] << 8)); }

__device__ inline float e4m3(u8 b) {
  u32 e = b >> 3 & 15, m = b & 7;
  float v = e == 0 ? m * 0x1p-9f : (e == 15 && m == 7) ? __int_as_float(0x7fc00000) : __uint_as_float((e + 120) << 23 | m << 20);
  return b & 128 ? -v : v;
}

__device__ inline float decode_book(const Mat& m, i64 at) {
  i64 block = at / m.group;
  float s;
  if (m.nested) {
    const float* n = (const float*)m.nested; // outer scales, offset, map
    s = n[block / 256] * n[m.outer + 1 + m.scales[block]] + n[m.outer];
  } else {
    s = ((const float*)m.scales)[block];
  }
  u8 b = m.codes[at >> 1];
  int c = at & 1 ? b & 15 : b >> 4;
  if (!m.fp4) return NF4_BOOK[c] * s;
  float v = FP4_TWELFTHS[c & 7] / 12;
  return (c & 8 ? -v : v) * s;
}

// fp4 is twice the value of a 4-bit float (E2M1).
__device__ inline float fp4(int c) {
  int e = c >> 1 & 3;
  float v = e == 0 ? c & 1 : (2 + (c & 1)) << (e - 1);
  return c & 8 ? -v : v;
}

// byte_scale is a scale of 8 bits, E4M3 or the exponent of a power of two.
__device__ inline float byte_scale(u8 b, int type) {
  if (type == E4M3) return e4m3(b);
  return __uint_as_float(b == 0 ? 0x00400000 : b == 255 ? 0x7fc00000 : (u32)b << 23);
}

// nested_scale is a scale of small floats with the number that its row has.
__device__ inline float nested_scale(const Mat& m, i64 row, float s) {
  if (!m.nested) return s;
  float of = ((const float*)m.nested)[row];
  return m.outer ? s / of : s * of;
}

__device__ inline float decode_grouped(const Mat& m, i64 row, int col) {
  i64 g = row * m.groups + (m.perm ? m.perm[col] : m.group > 0 ? col / m.group : 0);
  float s = m.scale_type > F16 ? byte_scale(m.scales[g], m.scale_type) : load(m.scales, m.scale_type, g);
  if (m.kind != INTS) {
    s = nested_scale(m, row, s);
    if (m.kind == E2M1) return fp4(m.codes[row * ((m.cols + 1) / 2) + col / 2] >> col % 2 * 4 & 15) * 0.5f * s;
    u8 b = m.codes[row * m.cols + col];
    return (m.kind == E4M3 ? e4m3(b) : from_f16((u16)(b << 8))) * s;
  }
  const u8* p = m.codes + row * ((m.cols * m.bits + 7) / 8);
  int at = col * m.bits;
  u32 v = p[at >> 3];
  if ((at & 7) + m.bits > 8) v |= p[(at >> 3) + 1] << 8;
  int code = v >> (at & 7) & ((1 << m.bits) - 1), zero = m.zeros ? m.zeros[g] : 1 << (m.bits - 1);
  return (float)(code - zero) * s;
}

// scale_min is the 6-bit scale and minimum j of 8 of Q4_K and Q5_K.
__device__ inline void scale_min(const u8* s, int j, int& sc, int& m) {
  if (j < 4) { sc = s[j] & 63; m = s[j + 4] & 63; return; }
  sc = (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
  m = s[j + 4] >> 4 | s[j] >> 6 << 4;
}

// decode_ggml is element i of a block of GGUF's.
__device__ inline float decode_ggml(int kind, const u8* b, int i) {
  switch (kind) {
  case Q4_0: return half_at(b) * (float)((b[2 + i % 16] >> i / 16 * 4 & 15) - 8);
  case Q4_1: return half_at(b) * (float)(b[4 + i % 16] >> i / 16 * 4 & 15) + half_at(b + 2);
  case Q5_0: return half_at(b) * (float)(((b[6 + i % 16] >> i / 16 * 4 & 15) | (b[2 + i / 8] >> i % 8 & 1) << 4) - 16);
  case Q5_1: return half_at(b) * (float)((b[8 + i % 16] >> i / 16 * 4 & 15) | (b[4 + i / 8] >> i % 8 & 1) << 4) + half_at(b + 2);
  case Q8_0: return half_at(b) * (float)(signed char)b[2 + i];
  case IQ4_NL: return half_at(b) * IQ4_BOOK[b[2 + i % 16] >> i / 16 * 4 & 15];
  case Q2_K: {
    int u = i / 16;
    float dl = half_at(b + 80) * (float)(b[u] & 15), ml = half_at(b + 82) * (float)(b[u] >> 4);
    return dl * (float)(b[16 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3) - ml;
  }
  case Q3_K: {
    int u = i / 16;
    int sc = ((b[96 + u % 8] >> u / 8 * 4 & 15) | (b[104 + u % 4] >> u / 4 * 2 & 3) << 4) - 32;
    int q = (b[32 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3) + (b[i % 32] >> i / 32 & 1) * 4 - 4;
    return half_at(b + 108) * (float)sc * (float)q;
  }
  case Q4_K: case Q5_K: {
    int u = i / 32, sc, mn;
    scale_min(b + 4, u, sc, mn);
    float dl = half_at(b) * (float)sc, ml = half_at(b + 2) * (float)mn;
    int q = b[(kind == Q4_K ? 16 : 48) + u / 2 * 32 + i % 32] >> u % 2 * 4 & 15;
    if (kind == Q5_K) q |= (b[16 + i % 32] >> u & 1) << 4;
    return dl * (float)q - ml;
  }
  case Q6_K: {
    int half = i / 128, quarter = i % 128 / 32;
    int q = b[half * 64 + quarter % 2 * 32 + i % 32] >> quarter / 2 * 4 & 15;
    q |= (b[128 + half * 32 + i % 32] >> quarter * 2 & 3) << 4;
    return half_at(b + 208) * (float)(signed char)b[192 + i / 16] * (float)(q - 32);
  }
  case IQ4_XS: {
    int u = i / 32, hi = b[2] | b[3] << 8;
    int ls = (b[4 + u / 2] >> u % 2 * 4 & 15) | (hi >> 2 * u & 3) << 4;
    return half_at(b) * (float)(ls - 32) * IQ4_BOOK[b[8 + 16 * u + i % 16] >> i % 32 / 16 * 4 & 15];
  }
  case Q1_0: return b[2 + i / 8] >> i % 8 & 1 ? half_at(b) : -half_at(b);
  case Q2_0: return half_at(b) * (float)((b[2 + i / 4] >> i % 4 * 2 & 3) - 1);
  case TQ1_0: { // a byte of trits is a fraction in base three, rounded up
    int at = i < 160 ? i % 32 : i < 240 ? 32 + i % 16 : 48 + i % 4, trit = i < 160 ? i / 32 : i < 240 ? i / 16 - 10 : i / 4 - 60;
    u32 power = trit == 0 ? 1 : trit == 1 ? 3 : trit == 2 ? 9 : trit == 3 ? 27 : 81;
    return half_at(b + 52) * (float)((int)((b[at] * power & 255) * 3 >> 8) - 1);
  }
  case TQ2_0: return half_at(b + 64) * (float)((b[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3) - 1);
  case MXFP4: return fp4(b[1 + i % 16] >> i / 16 * 4 & 15) * __uint_as_float(b[0] < 2 ? 0x00200000u << b[0] : (u32)(b[0] - 1) << 23);
  default: { // NVFP4
    int u = i / 16, e = b[u] >> 3 & 15, m = b[u] & 7;
    float half = b[u] == 0x7f ? 0 : e == 0 ? m * 0x1p-10f : (1 + m * 0.125f) * __uint_as_float((u32)(e - 8 + 127) << 23);
    return fp4(b[4 + 8 * u + i % 8] >> i % 16 / 8 * 4 & 15) * half;
  }
  }
}

__device__ inline u32 word16(const u8* p) { return p[0] | p[1] << 8; }
__device__ inline u32 word32(const u8* p) { return word16(p) | word16(p + 2) << 16; }

// even is eight signs of which an even number is set, by the first seven.
__device__ inline u32 even(u32 seven) { return (seven & 127) | (__popc(seven & 127) & 1) << 7; }

// decode_lattice is element i of a block of 256 of a type whose codes are points.
__device__ inline float decode_lattice(const Mat& m, const u8* b, int i) {
  const u16* points = (const u16*)m.scales;
  int k = i / 32, l = i / 8 % 4, j = i % 8; // element j of eight l of group k
  u32 at, signs = 0, level;
  float d = m.kind == IQ1_M ? 0 : half_at(b), scale;
  switch (m.kind) {
  case IQ2_XXS: {
    u32 w = word32(b + 6 + 8 * k);
    at = b[2 + 8 * k + l], signs = even(w >> 7 * l), scale = d * (0.5f + (float)(w >> 28)) * 0.25f;
    break;
  }
  case IQ2_XS: {
    u32 w = word16(b + 2 + 8 * k + 2 * l);
    at = w & 511, signs = even(w >> 9), scale = d * (0.5f + (float)(b[66 + k] >> l / 2 * 4 & 15)) * 0.25f;
    break;
  }
  case IQ2_S:
    at = b[2 + 4 * k + l] | (b[66 + k] << (8 - 2 * l) & 0x300), signs = b[34 + 4 * k + l], scale = d * (0.5f + (float)(b[74 + k] >> l / 2 * 4 & 15)) * 0.25f;
    break;
  case IQ3_XXS: {
    u32 w = word32(b + 66 + 4 * k);
    at = b[2 + 8 * k + i / 4 % 8], signs = even(w >> 7 * l), scale = d * (0.5f + (float)(w >> 28)) * 0.5f;
    break;
  }
  case IQ3_S:
    at = b[2 + 8 * k + i / 4 % 8] | (b[66 + k] >> i / 4 % 8 & 1) << 8, signs = b[74 + 4 * k + l], scale = d * (float)(1 + 2 * (b[106 + k / 2] >> k % 2 * 4 & 15));
    break;
  default: { // IQ1_S, IQ1_M: -1, 0 or 1, an eighth above or below
    u32 high, down, s;
    if (m.kind == IQ1_S) {
      u32 w = word16(b + 34 + 2 * k);
      high = w >> 3 * l & 7, down = w >> 15, s = w >> 12 & 7;
    } else {
      u32 h = b[32 + 2 * k + l / 2] >> l % 2 * 4, w = word16(b + 48 + k / 2 * 2) >> k % 2 * 6;
      high = h & 7, down = h >> 3 & 1, s = w >> l / 2 * 3 & 7;
      d = from_f16((u16)(b[49] >> 4 | b[51] >> 4 << 4 | b[53] >> 4 << 8 | b[55] >> 4 << 12));
    }
    int c = points[b[(m.kind == IQ1_S ? 2 : 0) + 4 * k + l] | high << 8] >> 2 * j & 3;
    return d * (float)(2 * s + 1) * 0.125f * (float)(8 * c - 7 - 2 * (int)down);
  }
  }
  if (m.kind == IQ3_XXS || m.kind == IQ3_S) {
    u32 c = points[at] >> 3 * (j % 4) & 7;
    level = m.kind == IQ3_S ? 2 * c + 1 : c == 7 ? 62 : 8 * c + 4;
  } else {
    u32 c = points[at] >> 2 * j & 3;
    level = c == 2 ? 43 : c == 1 ? 25 : 8;
  }
  return (signs >> j & 1 ? -scale : scale) * (float)level;
}

// at is an element of a matrix, decoded.
__device__ inline float at(const Mat& m, i64 row, int col) {
  row += m.row0;
  if (m.kind <= F16) return load(m.codes, m.kind, row * m.cols + col);
  if (m.kind == BOOK) return decode_book(m, row * m.cols + col);
  if (m.kind == INTS || m.group != 0) return decode_grouped(m, row, col);
  if (m.kind == E4M3) return e4m3(m.codes[row * m.cols + col]);
  if (m.kind == E5M2) return from_f16((u16)(m.codes[row * m.cols + col] << 8));
  const u8* b = m.codes + (row * (m.cols / m.bits) + col / m.bits) * m.outer;
  return m.kind >= IQ2_XXS ? decode_lattice(m, b, col % m.bits) : decode_ggml(m.kind, b, col % m.bits);
}
