// Rows of heads in a buffer, as kernels.Heads has them, and the sequences of a
// packed batch.
struct Heads { void* p; int type, add; i64 off, tok, head; };

__device__ inline i64 row_of(const Heads& h, i64 tok, int head) { return h.off + tok * h.tok + head * h.head; }
__device__ inline float value(const Heads& h, i64 i) { return load(h.p, h.type, i); }
__device__ inline void store(const Heads& h, i64 i, float v) { put(Dst{h.p, h.type, h.add}, i, v); }

// find is the last sequence that begins at or before tok, which is not empty.
__device__ inline int find(const int* bounds, int seqs, i64 tok) {
  int lo = 0, hi = seqs;
  while (hi - lo > 1) {
    int mid = (lo + hi) / 2;
    if (bounds[mid] <= tok) lo = mid;
    else hi = mid;
  }
  return lo;
}

__device__ inline float softplus(float x) { return fmaxf(x, 0) + log1pf(expf(-fabsf(x))); }
__device__ inline float logistic(float x) { return 1 / (1 + expf(-x)); }

// A gradient goes back over states, which are made again from those at the first
// of every CHUNK tokens. start numbers these: chunk i of a sequence that begins at
// tok, of all sequences together less than tokens/CHUNK + sequences.
#define CHUNK 32
#define PER_LANE 8 // numbers of a row of a state that a lane keeps: rows are up to 32·PER_LANE wide
__device__ inline i64 start(int seq, int tok, int i) { return tok / CHUNK + seq + i; }
