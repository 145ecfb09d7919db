// A stand-in for libcublasLt.so that multiplies on the processor what its real
// interface describes: handles, layouts by columns, attributes by number. FAKECUBLAS
// holds words:
//   fail=FUNCTION:N:CODE   call N (from 1, after fakeSet) of FUNCTION returns CODE
//   version=130100 none=1  no algorithm for any product
//   wrong=1                results are twice what they should be
// or fakeSet is given them. What is not as cublasLt.h wants it returns 7 (invalid value).
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int objects, epoch; // that were made and not given back; calls of fakeSet
static char words[256];

static const char *set(void) { return words[0] ? words : getenv("FAKECUBLAS"); }

static int number(const char *key, int otherwise) {
  const char *e = set(), *at = e ? strstr(e, key) : 0;
  return at ? atoi(at + strlen(key)) : otherwise;
}

static int call(const char *name, int count[2]) {
  char key[128];
  const char *e = set(), *at;
  int n, code;
  if (count[1] != epoch) count[0] = 0, count[1] = epoch;
  ++count[0];
  snprintf(key, sizeof key, "fail=%s:", name);
  return e && (at = strstr(e, key)) && sscanf(at + strlen(key), "%d:%d", &n, &code) == 2 && n == count[0] ? code : 0;
}
#define IN(name) static int n_[2]; int rc = call(#name, n_); if (rc) return rc

typedef struct { int magic, compute, scale, transa, transb; } Desc;
typedef struct { int magic, type; uint64_t rows, cols; int64_t ld; } Layout;
typedef struct { int magic; uint64_t workspace; uint32_t reduction, a, b, c, d; } Preference;
typedef struct { uint64_t algo[8], workspace; int state; float waves; int reserved[4]; } Result;

int fakeObjects(void) { return objects; }
void fakeSet(const char *s) { snprintf(words, sizeof words, "%s", s); epoch++; }
size_t cublasLtGetVersion(void) { return number("version=", 130100); }
const char *cublasLtGetStatusName(int s) { static char t[40]; snprintf(t, sizeof t, "CUBLAS_STATUS_FAKE_%d", s); return t; }
const char *cublasLtGetStatusString(int s) { return "in the words of the library"; }
int cublasLtCreate(void **h) { IN(cublasLtCreate); *h = (void *)11; objects++; return 0; }
int cublasLtDestroy(void *h) { IN(cublasLtDestroy); objects--; return h == (void *)11 ? 0 : 7; }
int cublasLtMatmulDescCreate(Desc **d, int compute, int scale) {
  IN(cublasLtMatmulDescCreate);
  *d = calloc(1, sizeof **d); objects++;
  (*d)->magic = 1, (*d)->compute = compute, (*d)->scale = scale;
  return 0;
}
int cublasLtMatmulDescDestroy(Desc *d) { IN(cublasLtMatmulDescDestroy); objects--; free(d); return 0; }
int cublasLtMatmulDescSetAttribute(Desc *d, int attr, const void *p, size_t size) {
  IN(cublasLtMatmulDescSetAttribute);
  if (d->magic != 1 || size != 4) return 7;
  if (attr == 3) d->transa = *(int *)p;
  else if (attr == 4) d->transb = *(int *)p;
  else return 7;
  return 0;
}
int cublasLtMatrixLayoutCreate(Layout **l, int type, uint64_t rows, uint64_t cols, int64_t ld) {
  IN(cublasLtMatrixLayoutCreate);
  *l = calloc(1, sizeof **l); objects++;
  (*l)->magic = 2, (*l)->type = type, (*l)->rows = rows, (*l)->cols = cols, (*l)->ld = ld;
  return ld >= (int64_t)rows ? 0 : 7;
}
int cublasLtMatrixLayoutDestroy(Layout *l) { IN(cublasLtMatrixLayoutDestroy); objects--; free(l); return 0; }
int cublasLtMatmulPreferenceCreate(Preference **p) { IN(cublasLtMatmulPreferenceCreate); *p = calloc(1, sizeof **p); objects++; (*p)->magic = 3; return 0; }
int cublasLtMatmulPreferenceDestroy(Preference *p) { IN(cublasLtMatmulPreferenceDestroy); objects--; free(p); return 0; }
int cublasLtMatmulPreferenceSetAttribute(Preference *p, int attr, const void *v, size_t size) {
  IN(cublasLtMatmulPreferenceSetAttribute);
  if (p->magic != 3 || size != (attr == 1 ? 8 : 4)) return 7;
  switch (attr) {
  case 1: p->workspace = *(uint64_t *)v; return 0;
  case 3: p->reduction = *(uint32_t *)v; return 0;
  case 5: p->a = *(uint32_t *)v; return 0;
  case 6: p->b = *(uint32_t *)v; return 0;
  case 7: p->c = *(uint32_t *)v; return 0;
  case 8: p->d = *(uint32_t *)v; return 0;
  }
  return 7;
}

// sound checks what is multiplied: operands of one type of 16 bits, sums in f32, shapes
// that fit.
static int sound(const Desc *o, const Layout *a, const Layout *b, const Layout *c, const Layout *d) {
  if (o->magic != 1 || a->magic != 2 || b->magic != 2 || c->magic != 2 || d->magic != 2 || o->compute != 68 || o->scale != 0) return 0;
  uint64_t m = o->transa ? a->cols : a->rows, k = o->transa ? a->rows : a->cols, kb = o->transb ? b->cols : b->rows, n = o->transb ? b->rows : b->cols;
  return (a->type == 2 || a->type == 14) && a->type == b->type && (c->type == 0 || c->type == a->type) && c->type == d->type && k == kb && d->rows == m && d->cols == n && c->rows == m && c->cols == n;
}

// An algorithm is good for the shape that it was asked for.
static uint64_t sum(const Desc *o, const Layout *a, const Layout *b, const Layout *d) {
  return 1 + o->transa + 2 * o->transb + 3 * a->rows + 5 * a->cols + 7 * b->rows + 11 * b->cols + 13 * d->type + 17 * a->type + 19 * a->ld + 23 * b->ld + 29 * d->ld;
}

int cublasLtMatmulAlgoGetHeuristic(void *h, Desc *o, Layout *a, Layout *b, Layout *c, Layout *d, Preference *p, int asked, Result *r, int *found) {
  IN(cublasLtMatmulAlgoGetHeuristic);
  if (h != (void *)11 || p->magic != 3 || !p->workspace || p->reduction != 2 || p->a != 16 || p->b != 16 || p->c != 16 || p->d != 16 || asked != 1 || !sound(o, a, b, c, d)) return 7;
  *found = 0;
  if (number("none=", 0)) return 15;
  memset(r, 0, sizeof *r);
  r->algo[0] = sum(o, a, b, d), r->algo[7] = 77, r->workspace = p->workspace, r->waves = 1;
  *found = 1;
  return 0;
}

static float load(int type, const void *p, int64_t i) {
  if (type == 0) return ((float *)p)[i];
  if (type == 2) return ((_Float16 *)p)[i];
  uint32_t u = (uint32_t)((uint16_t *)p)[i] << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

static void store(int type, void *p, int64_t i, float v) {
  if (type == 0) { ((float *)p)[i] = v; return; }
  if (type == 2) { ((_Float16 *)p)[i] = v; return; }
  uint32_t u;
  memcpy(&u, &v, 4);
  ((uint16_t *)p)[i] = (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

int cublasLtMatmul(void *h, Desc *o, const float *alpha, const void *A, Layout *a, const void *B, Layout *b, const float *beta, const void *C, Layout *c, void *D, Layout *d, const uint64_t *algo, void *work, size_t size, void *stream) {
  IN(cublasLtMatmul);
  if (h != (void *)11 || !sound(o, a, b, c, d) || algo[0] != sum(o, a, b, d) || algo[7] != 77 || !work || !size || stream != (void *)2 || C != D) return 7;
  if (((uintptr_t)A | (uintptr_t)B | (uintptr_t)D) & 15) return 7;
  memset(work, 0xff, size);
  int64_t m = d->rows, n = d->cols, k = o->transa ? a->rows : a->cols;
  if (m * n * k > 1 << 28) return 0; // only its time is looked at
  float by = number("wrong=", 0) ? 2 * *alpha : *alpha;
  for (int64_t j = 0; j < n; j++)
    for (int64_t i = 0; i < m; i++) {
      float s = 0;
      for (int64_t l = 0; l < k; l++) s += load(a->type, A, o->transa ? l + i * a->ld : i + l * a->ld) * load(b->type, B, o->transb ? j + l * b->ld : l + j * b->ld);
      s *= by;
      if (*beta != 0) s += *beta * load(c->type, C, i + j * c->ld);
      store(d->type, D, i + j * d->ld, s);
    }
  return 0;
}
