// Words of what need not lie at a multiple of four bytes.

// words are N words at p, which is even or, with ODD, anywhere. Nothing is read behind the
// last of their bytes.
template <bool ODD = false, int N> __device__ inline void words(u32 (&w)[N], const u8* p) {
  u32 off = (u32)(u64)p & (ODD ? 3 : 2);
  const u32* q = (const u32*)(p - off);
  u32 how = 0x3210 + 0x1111 * off, x[N + 1];
#pragma unroll
  for (int i = 0; i < N; i++) x[i] = q[i];
  const u8* rest = (const u8*)(q + (off ? N : N - 1));
  if (ODD) {
    u32 last = off ? off - 1 : 0;
    x[N] = rest[0] | rest[min(1, last)] << 8 | rest[last] << 16;
  } else {
    x[N] = *(const u16*)rest;
  }
#pragma unroll
  for (int i = 0; i < N; i++) w[i] = __byte_perm(x[i], x[i + 1], how);
}
