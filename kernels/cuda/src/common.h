// What every kernel file begins with. Kernels are C++ without headers, made into
// PTX by NVRTC (see kernels/cuda/gen); each has one structure as its parameter,
// whose twin in Go has the same fields in the same order.
//
// Compiled with -fmad=false: a product is rounded before it is added, except
// where fmaf says otherwise. Sums have a fixed order, so that the same bits come
// out of every run; there are no atomics.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

enum { F32, BF16, F16 }; // type of an element

#define KERNEL(name, args) extern "C" __global__ void name(args a)
#define INF __int_as_float(0x7f800000)

// Elems are elements of one of three types; p 0: there are none.
struct Elems { void* p; int type, pad; };

// Dst is where results go; p 0: nobody wants them. With add they are added to
// what is there, in f32.
struct Dst { void* p; int type, add; };

__device__ inline float from_bf16(u16 h) { return __uint_as_float((u32)h << 16); }

// to_bf16 rounds to nearest even; a NaN stays one.
__device__ inline u16 to_bf16(float f) {
  u32 u = __float_as_uint(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (u16)(u >> 16 | 0x40);
  return (u16)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

__device__ inline float round_bf16(float f) { return from_bf16(to_bf16(f)); }

__device__ inline float from_f16(u16 h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
  return f;
}

__device__ inline u16 to_f16(float f) {
  u16 h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}

__device__ inline float load(const void* p, int type, i64 i) {
  if (type == F32) return ((const float*)p)[i];
  u16 h = ((const u16*)p)[i];
  return type == BF16 ? from_bf16(h) : from_f16(h);
}

__device__ inline float get(Elems x, i64 i) { return load(x.p, x.type, i); }

__device__ inline void put(Dst d, i64 i, float v) {
  if (d.add) v = load(d.p, d.type, i) + v;
  if (d.type == F32) ((float*)d.p)[i] = v;
  else ((u16*)d.p)[i] = d.type == BF16 ? to_bf16(v) : to_f16(v);
}

// thread is the number of this thread in a grid of one dimension.
__device__ inline i64 thread() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }

__device__ inline float warp_sum(float v) {
  for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}

__device__ inline float warp_max(float v) {
  for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
  return v;
}

// block_sum is the sum over the threads of a block, for each of them. red holds
// 32 numbers in shared memory.
__device__ inline float block_sum(float v, float* red) {
  v = warp_sum(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) red[threadIdx.x / 32] = v;
  __syncthreads();
  float sum = 0;
  for (u32 w = 0; w < (blockDim.x + 31) / 32; w++) sum += red[w];
  return sum;
}

__device__ inline float block_max(float v, float* red) {
  v = warp_max(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) red[threadIdx.x / 32] = v;
  __syncthreads();
  float top = red[0];
  for (u32 w = 1; w < (blockDim.x + 31) / 32; w++) top = fmaxf(top, red[w]);
  return top;
}
