// Routers of experts: one thread a token, in f64, as kernels.RouteArgs says.

enum { SOFTMAX, SOFTMAX_TOPK, SIGMOID, SQRT_SOFTPLUS, SPARSEMIXER };

struct RouteArgs {
  Elems logits;
  Dst dlogits;
  const float *bias, *dweight, *dprobs;
  const int* chosen;
  int *idx, *token, *place, *group;
  float *weight, *probs;
  double* work; // [n, 3·e + 2·k]
  i64 n;
  int e, k, kind, groups, top_groups, best2, renorm;
  float eps, scale, jitter;
};

__device__ inline double minus_inf() { return __longlong_as_double(0xfff0000000000000ull); }
__device__ inline double sigmoid64(double x) { return 1 / (1 + exp(-x)); }

// Parts of a token's scratch memory.
struct Token { double *score, *key, *more, *raw, *grad; };

__device__ inline Token token_of(const RouteArgs& a, i64 i) {
  double* w = a.work + i * (3 * a.e + 2 * a.k);
  Token t = {w, w + a.e, w + 2 * a.e, w + 3 * a.e, w + 3 * a.e + a.k};
  return t;
}

__device__ inline double logit(const RouteArgs& a, i64 i, int e) { return get(a.logits, i * a.e + e); }

__device__ inline void softmax_of(const RouteArgs& a, i64 i, double* p) {
  double top = minus_inf(), sum = 0;
  for (int e = 0; e < a.e; e++) if (logit(a, i, e) > top) top = logit(a, i, e);
  for (int e = 0; e < a.e; e++) p[e] = exp(logit(a, i, e) - top), sum += p[e];
  for (int e = 0; e < a.e; e++) p[e] /= sum;
}

// read computes the scores of a token; of the kinds that weigh the chosen alone
// they are its logits.
__device__ inline void read(const RouteArgs& a, i64 i, double* score) {
  if (a.kind == SOFTMAX) { softmax_of(a, i, score); return; }
  for (int e = 0; e < a.e; e++) {
    double x = logit(a, i, e);
    if (a.kind == SIGMOID) x = sigmoid64(x);
    else if (a.kind == SQRT_SOFTPLUS) x = sqrt(x > 0 ? x + log1p(exp(-x)) : log1p(exp(x)));
    score[e] = x;
  }
}

// top writes the places of the n largest keys, the lowest of equal ones first.
// used is scratch memory [size].
__device__ inline void top(int* out, int n, const double* key, double* used, int size) {
  for (int e = 0; e < size; e++) used[e] = 0;
  for (int j = 0; j < n; j++) {
    int best = -1;
    for (int e = 0; e < size; e++)
      if (used[e] == 0 && (best < 0 || key[e] > key[best])) best = e;
    used[best] = 1;
    out[j] = best;
  }
}

__device__ inline void choose(const RouteArgs& a, i64 i, Token t, int* own) {
  if (a.chosen) {
    for (int j = 0; j < a.k; j++) own[j] = a.chosen[i * a.k + j];
    return;
  }
  for (int e = 0; e < a.e; e++) t.key[e] = t.score[e] + (a.bias ? (double)a.bias[e] : 0.0);
  if (a.groups > 0) {
    int size = a.e / a.groups;
    for (int g = 0; g < a.groups; g++) {
      double first = minus_inf(), next = minus_inf();
      for (int e = g * size; e < (g + 1) * size; e++) {
        if (t.key[e] > first) next = first, first = t.key[e];
        else if (t.key[e] > next) next = t.key[e];
      }
      t.more[g] = a.best2 && size > 1 ? first + next : first;
    }
    for (int n = 0; n < a.groups - a.top_groups; n++) { // the worst groups close, the last of equal ones first
      int worst = -1;
      for (int g = 0; g < a.groups; g++)
        if (t.more[g] == t.more[g] && (worst < 0 || t.more[g] <= t.more[worst])) worst = g;
      t.more[worst] = __longlong_as_double(0x7ff8000000000000ull); // closed: a NaN
      for (int e = worst * size; e < (worst + 1) * size; e++) t.key[e] = minus_inf();
    }
  }
  top(own, a.k, t.key, t.more, a.e);
}

// nearest is the softmax of choice j of Sparsemixer.
__device__ inline void nearest(const RouteArgs& a, Token t, const int* own, int j, double* near) {
  double m = t.score[own[j]], sum = 0;
  for (int e = 0; e < a.e; e++) {
    double l = t.score[e], size = fabs(l) > m ? fabs(l) : m;
    near[e] = (m - l) / size > 2 * (double)a.jitter ? 0 : exp(l - m);
  }
  for (int p = 0; p < j; p++) near[own[p]] = 0;
  for (int e = 0; e < a.e; e++) sum += near[e];
  for (int e = 0; e < a.e; e++) near[e] /= sum;
}

// weigh writes the chosen experts' scores to raw and returns what they are
// divided by.
__device__ inline double weigh(const RouteArgs& a, Token t, const int* own) {
  if (a.kind == SOFTMAX_TOPK) {
    double most = minus_inf(), sum = 0;
    for (int j = 0; j < a.k; j++) if (t.score[own[j]] > most) most = t.score[own[j]];
    for (int j = 0; j < a.k; j++) t.raw[j] = exp(t.score[own[j]] - most), sum += t.raw[j];
    for (int j = 0; j < a.k; j++) t.raw[j] /= sum;
  } else {
    for (int j = 0; j < a.k; j++) {
      if (a.kind == SPARSEMIXER) nearest(a, t, own, j, t.more);
      t.raw[j] = a.kind == SPARSEMIXER ? t.more[own[j]] : t.score[own[j]];
    }
  }
  if (!a.renorm) return 1;
  double sum = a.eps;
  for (int j = 0; j < a.k; j++) sum += t.raw[j];
  return sum;
}

// spread writes the distribution over all experts to key and returns what the
// scores were divided by.
__device__ inline double spread(const RouteArgs& a, i64 i, Token t) {
  double sum = 1;
  if (a.kind == SIGMOID || a.kind == SQRT_SOFTPLUS) {
    sum = 0;
    for (int e = 0; e < a.e; e++) sum += t.score[e];
    for (int e = 0; e < a.e; e++) t.key[e] = t.score[e] / sum;
  } else if (a.kind == SOFTMAX) {
    for (int e = 0; e < a.e; e++) t.key[e] = t.score[e];
  } else {
    softmax_of(a, i, t.key);
  }
  return sum;
}

KERNEL(route, RouteArgs) {
  i64 i = thread();
  if (i >= a.n) return;
  Token t = token_of(a, i);
  int* own = a.idx + i * a.k;
  read(a, i, t.score);
  choose(a, i, t, own);
  double sum = weigh(a, t, own);
  for (int j = 0; j < a.k; j++) a.weight[i * a.k + j] = (float)((double)a.scale * t.raw[j] / sum);
  if (a.probs) spread(a, i, t);
}

// probs[e]: one thread an expert, tokens in order.
KERNEL(route_probs, RouteArgs) {
  i64 e = thread();
  if (e >= a.e) return;
  double sum = 0;
  for (i64 i = 0; i < a.n; i++) sum += token_of(a, i).key[e];
  a.probs[e] = (float)sum;
}

// Choices by expert: count, add up, give places. One thread an expert.
KERNEL(route_count, RouteArgs) {
  i64 e = thread();
  if (e >= a.e) return;
  int n = 0;
  for (i64 i = 0; i < a.n * a.k; i++) n += a.idx[i] == (int)e;
  a.group[e + 1] = n;
}

KERNEL(route_offsets, RouteArgs) {
  int sum = 0;
  a.group[0] = 0;
  for (int e = 1; e <= a.e; e++) a.group[e] = sum += a.group[e];
}

KERNEL(route_place, RouteArgs) {
  i64 e = thread();
  if (e >= a.e) return;
  int next = a.group[e];
  for (i64 i = 0; i < a.n * a.k; i++) {
    if (a.idx[i] != (int)e) continue;
    a.place[i] = next;
    a.token[next] = (int)(i / a.k);
    next++;
  }
}

// slope is the derivative of a score that stands by itself.
__device__ inline double slope(const RouteArgs& a, i64 i, int e, double s) {
  if (a.kind == SIGMOID) return s * (1 - s);
  return s == 0 ? 0 : sigmoid64(logit(a, i, e)) / (2 * s);
}

// The gradient of the logits, kept in key until it is stored. The distribution of
// all experts is made a second time there, so it comes first.
KERNEL(route_grad, RouteArgs) {
  i64 i = thread();
  if (i >= a.n) return;
  Token t = token_of(a, i);
  const int* own = a.idx + i * a.k;
  bool alone = a.kind == SIGMOID || a.kind == SQRT_SOFTPLUS;
  read(a, i, t.score);
  if (a.dprobs) {
    double sum = spread(a, i, t), mean = 0;
    for (int e = 0; e < a.e; e++) mean += (double)a.dprobs[e] * t.key[e];
    for (int e = 0; e < a.e; e++) {
      double g = (double)a.dprobs[e] - mean;
      t.key[e] = alone ? g / sum * slope(a, i, e, t.score[e]) : t.key[e] * g;
    }
  } else {
    for (int e = 0; e < a.e; e++) t.key[e] = 0;
  }
  if (a.dweight) {
    double sum = weigh(a, t, own), mean = 0;
    if (a.renorm)
      for (int j = 0; j < a.k; j++) mean += (double)a.dweight[i * a.k + j] * t.raw[j] / sum;
    for (int j = 0; j < a.k; j++) t.grad[j] = (double)a.scale * ((double)a.dweight[i * a.k + j] - mean) / sum;
    if (a.kind == SPARSEMIXER) {
      for (int j = 0; j < a.k; j++) {
        nearest(a, t, own, j, t.more);
        double g = t.grad[j] * t.more[own[j]];
        t.key[own[j]] += g;
        for (int e = 0; e < a.e; e++) t.key[e] -= g * t.more[e];
      }
    } else if (alone) {
      for (int j = 0; j < a.k; j++) t.key[own[j]] += t.grad[j] * slope(a, i, own[j], t.score[own[j]]);
    } else {
      double all = 0;
      for (int j = 0; j < a.k; j++) all += t.grad[j] * t.raw[j];
      for (int j = 0; j < a.k; j++) t.key[own[j]] += t.raw[j] * (t.grad[j] - (a.kind == SOFTMAX_TOPK ? all : 0));
      if (a.kind == SOFTMAX)
        for (int e = 0; e < a.e; e++) t.key[e] -= t.score[e] * all;
    }
  }
  for (int e = 0; e < a.e; e++) put(a.dlogits, i * a.e + e, (float)t.key[e]);
}
