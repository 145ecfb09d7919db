// Sinkhorn's normalisation: kernels.SinkhornArgs. One thread a small matrix, in f64,
// whose elements lie n apart.
struct SinkhornArgs {
  Dst y;          // or dx
  const float *x, *dy;
  double* made;   // [steps kept, s·s, n]: the softmax plus eps, then what each division makes
  double* g;      // [s·s, n]: the gradient
  i64 n;
  int s, iters, keep; // keep: every step is kept, else one
  float eps;
};

struct Matrix { double* p; i64 n; __device__ double& operator[](int i) const { return p[i * n]; } };

__device__ inline Matrix step_of(const SinkhornArgs& a, int k, i64 i) { return Matrix{a.made + (a.keep ? (i64)k * a.s * a.s * a.n : 0) + i, a.n}; }

// sinkhorn_steps makes the softmax of rows and divides columns and rows by turns.
__device__ inline void sinkhorn_steps(const SinkhornArgs& a, i64 i) {
  const float* x = a.x + i * a.s * a.s;
  Matrix m = step_of(a, 0, i);
  for (int r = 0; r < a.s; r++) {
    double top = x[r * a.s], sum = 0;
    for (int c = 1; c < a.s; c++) top = x[r * a.s + c] > top ? x[r * a.s + c] : top;
    for (int c = 0; c < a.s; c++) sum += m[r * a.s + c] = exp(x[r * a.s + c] - top);
    for (int c = 0; c < a.s; c++) m[r * a.s + c] = m[r * a.s + c] / sum + a.eps;
  }
  for (int k = 1; k < 2 * a.iters; k++) {
    Matrix from = step_of(a, k - 1, i), to = step_of(a, k, i);
    int line = k % 2 ? 1 : a.s, next = k % 2 ? a.s : 1;
    for (int l = 0; l < a.s; l++) {
      double sum = a.eps;
      for (int j = 0; j < a.s; j++) sum += from[l * line + j * next];
      for (int j = 0; j < a.s; j++) to[l * line + j * next] = from[l * line + j * next] / sum;
    }
  }
}

KERNEL(sinkhorn, SinkhornArgs) {
  i64 i = thread();
  if (i >= a.n) return;
  sinkhorn_steps(a, i);
  Matrix m = step_of(a, 2 * a.iters - 1, i);
  for (int r = 0; r < a.s; r++)
    for (int c = 0; c < a.s; c++) put(a.y, (i * a.s + c) * a.s + r, (float)m[r * a.s + c]);
}

KERNEL(sinkhorn_grad, SinkhornArgs) {
  i64 i = thread();
  if (i >= a.n) return;
  sinkhorn_steps(a, i);
  Matrix g{a.g + i, a.n};
  for (int r = 0; r < a.s; r++)
    for (int c = 0; c < a.s; c++) g[r * a.s + c] = a.dy[(i * a.s + c) * a.s + r];
  for (int k = 2 * a.iters - 1; k > 0; k--) {
    Matrix from = step_of(a, k - 1, i), to = step_of(a, k, i);
    int line = k % 2 ? 1 : a.s, next = k % 2 ? a.s : 1;
    for (int l = 0; l < a.s; l++) {
      double sum = a.eps, mean = 0;
      for (int j = 0; j < a.s; j++) {
        int e = l * line + j * next;
        sum += from[e];
        mean += g[e] * to[e];
      }
      for (int j = 0; j < a.s; j++) g[l * line + j * next] = (g[l * line + j * next] - mean) / sum;
    }
  }
  Matrix soft = step_of(a, 0, i);
  for (int r = 0; r < a.s; r++) {
    double mean = 0;
    for (int c = r * a.s; c < (r + 1) * a.s; c++) mean += g[c] * (soft[c] - a.eps);
    for (int c = r * a.s; c < (r + 1) * a.s; c++) put(a.y, i * a.s * a.s + c, (float)((soft[c] - a.eps) * (g[c] - mean)));
  }
}
