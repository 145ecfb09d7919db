// What turns GPTQ's factor into one that libraries know: with J reversing rows and
// columns, H = U·Uᵀ is J·H·J = L·Lᵀ, and U⁻¹ = J·L⁻¹·J.

struct SolveArgs { const float* h; float* a; int* bad; int n; float damp; };

// The lower triangle of a = J·(H + damp·I)·J, of the lower triangle of h, which may be a:
// elements change places across the other diagonal, two a thread.
KERNEL(solve_turn, SolveArgs) {
  i64 i = thread(), n = a.n, r = i / n, c = i % n, j = (n - 1 - c) * n + n - 1 - r;
  if (i == 0) *a.bad = 0;
  if (r >= n || c > r || j < i) return;
  float x = a.h[i], y = a.h[j], d = r == c ? a.damp : 0;
  a.a[i] = y + d;
  a.a[j] = x + d;
}

// The upper triangle of a = J·a·J, of the lower one, which becomes 0. bad: there was a NaN,
// which ends on the diagonal.
KERNEL(solve_back, SolveArgs) {
  i64 i = thread(), n = a.n, r = i / n, c = i % n, j = n * n - 1 - i;
  if (r >= n || c > r || (r == c && j < i)) return;
  float x = a.a[i], y = a.a[r == c ? j : i];
  if (r == c && !(x > 0 && x < INF && y > 0 && y < INF)) *a.bad = 1;
  a.a[i] = r == c ? y : 0.0f;
  a.a[j] = x;
}
