// Operations on elements by themselves. One thread an element.

struct FillArgs { Dst y; i64 n; float v; int pad; };
KERNEL(fill, FillArgs) {
  i64 i = thread();
  if (i < a.n) put(a.y, i, a.v);
}

// y = alpha·x + beta·z.
struct AddArgs { Dst y; Elems x, z; i64 n; float alpha, beta; };
KERNEL(add, AddArgs) {
  i64 i = thread();
  if (i >= a.n) return;
  float v = a.alpha * get(a.x, i);
  if (a.z.p) v += a.beta * get(a.z, i);
  put(a.y, i, v);
}

// y = x·s + bias, or x/s, of x [n, c]; s by element, by row or by column.
enum { BY_ELEMENT, BY_ROW, BY_COL };
struct MulArgs { Dst y; Elems x, s, bias; i64 n; int c, by, divide, pad; };
KERNEL(mul, MulArgs) {
  i64 i = thread();
  if (i >= a.n) return;
  float s = get(a.s, a.by == BY_ELEMENT ? i : a.by == BY_ROW ? i / a.c : i % a.c);
  float v = get(a.x, i);
  v = a.divide ? v / s : v * s;
  if (a.bias.p) v += get(a.bias, i % a.c);
  put(a.y, i, v);
}

// out[r] = Σ x·z over row r of [n, c], z absent: Σ x. One block a row.
struct RowSumArgs { Dst y; Elems x, z; int c, pad; };
KERNEL(row_sum, RowSumArgs) {
  __shared__ float red[32];
  i64 row = (i64)blockIdx.x * a.c;
  float sum = 0;
  for (int j = threadIdx.x; j < a.c; j += blockDim.x) sum += get(a.x, row + j) * (a.z.p ? get(a.z, row + j) : 1);
  sum = block_sum(sum, red);
  if (threadIdx.x == 0) put(a.y, blockIdx.x, sum);
}

// out[g, j] = Σ x·z over the rows of group g, z absent: Σ x. One thread a column.
struct ColSumArgs { Dst y; Elems x, z; const int* group; i64 rows; int c, pad; };
KERNEL(col_sum, ColSumArgs) {
  int j = blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= a.c) return;
  i64 lo = 0, hi = a.rows;
  if (a.group) lo = a.group[blockIdx.y], hi = a.group[blockIdx.y + 1];
  double sum = 0;
  for (i64 r = lo; r < hi; r++) {
    float v = get(a.x, r * a.c + j);
    if (a.z.p) v *= get(a.z, r * a.c + j);
    sum += v;
  }
  put(a.y, (i64)blockIdx.y * a.c + j, (float)sum);
}

struct Copy2DArgs { Dst y; Elems x; i64 n; int cols, pad; i64 xoff, xstride, yoff, ystride; };
KERNEL(copy2d, Copy2DArgs) {
  i64 i = thread();
  if (i >= a.n) return;
  i64 r = i / a.cols, c = i % a.cols;
  put(a.y, a.yoff + r * a.ystride + c, get(a.x, a.xoff + r * a.xstride + c));
}

// Activations, as kernels.ActKind numbers them.
enum { SILU, GELU, GELU_TANH, RELU, RELU2, SIGMOID, TANH, QUICK_GELU, SOFTPLUS, XIELU, CLAMPED, CLIP, RSQRT, LIMITED };
struct Act { int kind; float limit, alpha, alpha_p, alpha_n, beta, eps; int pad; };

__device__ inline float sigmoid(float x) { return 1 / (1 + expf(-x)); }

// slope is 1 - tanh², without cancellation for a tanh near 1.
__device__ inline float tanh_slope(float x) {
  float e = expf(-2 * fabsf(x)), d = 1 + e;
  return 4 * e / (d * d);
}

// curve is the value v and the slope s of an activation at x.
__device__ inline void curve(const Act& k, float x, float& v, float& s) {
  switch (k.kind) {
  case SILU: case QUICK_GELU: case CLAMPED: case LIMITED: {
    float alpha = k.kind == CLAMPED ? k.alpha : k.kind == QUICK_GELU ? 1.702f : 1.0f;
    float limit = (k.kind == CLAMPED || k.kind == LIMITED) && k.limit != 0 ? k.limit : INF, cut = fminf(x, limit);
    float p = sigmoid(alpha * cut), q = sigmoid(-alpha * cut);
    v = cut * p;
    s = x <= limit ? p + alpha * cut * (p * q) : 0;
    return;
  }
  case GELU: {
    float p = 0.5f * erfcf(-x * 0.70710678118654752440f);
    v = x * p;
    s = p + x * (0.39894228040143267794f * expf(-0.5f * x * x));
    return;
  }
  case GELU_TANH: {
    float u = 0.79788456080286535588f * (x + 0.044715f * x * x * x), p = sigmoid(2 * u); // (1 + tanh u)/2
    v = x * p;
    s = p + x * 0.5f * tanh_slope(u) * (0.79788456080286535588f * (1 + 3 * 0.044715f * x * x));
    return;
  }
  case RELU: v = x > 0 ? x : x != x ? x : 0; s = x > 0 ? 1 : x != x ? x : 0; return;
  case RELU2: v = x < 0 ? 0 : x * x; s = x < 0 ? 0 : 2 * x; return;
  case SIGMOID: v = sigmoid(x); s = v * sigmoid(-x); return;
  case TANH: v = tanhf(x); s = tanh_slope(x); return;
  case SOFTPLUS: v = fmaxf(x, 0) + log1pf(expf(-fabsf(x))); s = sigmoid(x); return;
  case XIELU: {
    if (x > 0) { v = k.alpha_p * x * x + k.beta * x; s = 2 * k.alpha_p * x + k.beta; return; }
    v = k.alpha_n * (expm1f(fminf(x, k.eps)) - x) + k.beta * x;
    s = k.beta - k.alpha_n + (x <= k.eps ? k.alpha_n * expf(x) : 0);
    return;
  }
  case RSQRT: {
    v = 1 / sqrtf(fmaxf(x, k.limit));
    s = x > k.limit ? -0.5f * v * v * v : 0;
    return;
  }
  default: { // CLIP
    float limit = k.limit != 0 ? k.limit : INF;
    v = fminf(fmaxf(x, -limit), limit);
    s = x > limit || x < -limit ? 0 : 1;
  }
  }
}

// Where the gate and the second operand of element i of [n, f] lie.
enum { SEPARATE, HALVES, INTERLEAVED };
struct ActArgs { Dst y, dup; Elems gate, up, dy; i64 n; int f, layout; Act act; };

__device__ inline i64 gate_at(const ActArgs& a, i64 i) { return a.layout == SEPARATE ? i : a.layout == HALVES ? i + i / a.f * a.f : 2 * i; }
__device__ inline i64 up_at(const ActArgs& a, i64 i) { return a.layout == SEPARATE ? i : a.layout == HALVES ? i + i / a.f * a.f + a.f : 2 * i + 1; }

// second is the operand that the activation is multiplied by, and whether a
// gradient reaches it.
__device__ inline float second(const ActArgs& a, i64 i, bool& open) {
  open = true;
  float u = a.layout == SEPARATE ? get(a.up, i) : get(a.gate, up_at(a, i));
  if (a.act.kind != CLAMPED && a.act.kind != LIMITED) return u;
  float limit = a.act.limit != 0 ? a.act.limit : INF;
  open = u >= -limit && u <= limit;
  return fminf(fmaxf(u, -limit), limit) + (a.act.kind == CLAMPED ? 1 : 0);
}

KERNEL(act, ActArgs) {
  i64 i = thread();
  if (i >= a.n) return;
  float v, s;
  curve(a.act, get(a.gate, gate_at(a, i)), v, s);
  bool open;
  if (a.layout != SEPARATE || a.up.p) v *= second(a, i, open);
  put(a.y, i, v);
}

// y is the gradient of the gate; in the layouts of one matrix it is that of both.
KERNEL(act_grad, ActArgs) {
  i64 i = thread();
  if (i >= a.n) return;
  float v, s, dy = get(a.dy, i), u = 1;
  curve(a.act, get(a.gate, gate_at(a, i)), v, s);
  bool open = true, gated = a.layout != SEPARATE || a.up.p;
  if (gated) u = second(a, i, open);
  float dup = open ? dy * v : 0;
  if (a.y.p) put(a.y, gate_at(a, i), dy * (s * u));
  if (!gated) return;
  if (a.layout != SEPARATE) put(a.y, up_at(a, i), dup);
  else if (a.dup.p) put(a.dup, i, dup);
}

// Rotation: thread j of a head turns pair j, or copies an element outside.
struct RopeArgs { Dst y; Elems x; const float* cs; i64 n; int h, d, rot, off, adjacent, inverse; i64 xoff, xtok, xhead, yoff, ytok, yhead; };
KERNEL(rope, RopeArgs) {
  int half = a.rot / 2, work = a.d - half;
  i64 i = thread();
  if (i >= a.n * a.h * work) return;
  int j = i % work;
  i64 head = i / work, tok = head / a.h, h = head % a.h;
  i64 x = a.xoff + tok * a.xtok + h * a.xhead, y = a.yoff + tok * a.ytok + h * a.yhead;
  if (j >= half) { // the elements before the rotated ones, then those after
    int e = j - half;
    if (e >= a.off) e += a.rot;
    put(a.y, y + e, get(a.x, x + e));
    return;
  }
  int p = a.off + (a.adjacent ? 2 * j : j), q = p + (a.adjacent ? 1 : half);
  float c = a.cs[(tok * half + j) * 2], s = a.cs[(tok * half + j) * 2 + 1];
  if (a.inverse) s = -s;
  float u = get(a.x, x + p), v = get(a.x, x + q);
  put(a.y, y + p, u * c - v * s);
  put(a.y, y + q, v * c + u * s);
}
