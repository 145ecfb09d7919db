// Dropout, as kernels.Drop defines it; key 0: none.
enum { DROP_A = 1, DROP_B, DROP_OUT };
struct Drop { u64 seed; const i64* key; const int* rows; u32 threshold; float scale; int where, pad; };

__device__ inline u64 mix(u64 z) {
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return z ^ z >> 31;
}

__device__ inline float drop(const Drop& d, i64 row, int col, float v) {
  u64 s = mix(d.seed ^ (u64)d.key[d.rows ? d.rows[row] : row]);
  u32 word = (u32)(mix(s + 0x9e3779b97f4a7c15ull * (u64)(col / 2 + 1)) >> 32 * (col % 2));
  return word < d.threshold ? 0 : v * d.scale;
}

// What the groups of a product split.
enum { SPLIT_M = 1, SPLIT_K };
