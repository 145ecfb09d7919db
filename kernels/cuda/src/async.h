// Copies to shared memory that go on while a block computes.
__device__ inline void copy_async(u32 to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ inline void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> __device__ inline void wait() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }
