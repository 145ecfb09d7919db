// A stand-in for libcusolver.so that decomposes on the processor what its real interface
// describes: matrices by columns, of which one triangle is read and written.
// FAKECUSOLVER holds words:
//   fail=FUNCTION:N:CODE   call N (from 1, after fakeSolverSet) of FUNCTION returns CODE
//   version=12200 room=BYTES   that Spotrf works in
//   wrong=1                the inverse is twice what it should be
// or fakeSolverSet is given them. What is not as cusolverDn.h wants it returns 3 (invalid value).
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int handles, epoch; // that were made and not given back; calls of fakeSolverSet
static char words[256];

static const char *set(void) { return words[0] ? words : getenv("FAKECUSOLVER"); }
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

typedef struct { void *stream; } Handle;

int fakeSolverHandles(void) { return handles; }
void fakeSolverSet(const char *s) { snprintf(words, sizeof words, "%s", s); epoch++; }
int cusolverGetVersion(int *v) { IN(cusolverGetVersion); *v = number("version=", 12200); return 0; }
int cusolverDnCreate(Handle **h) { IN(cusolverDnCreate); *h = calloc(1, sizeof **h); handles++; return 0; }
int cusolverDnDestroy(Handle *h) { IN(cusolverDnDestroy); free(h); handles--; return 0; }
int cusolverDnSetStream(Handle *h, void *s) { IN(cusolverDnSetStream); h->stream = s; return 0; }
int cusolverDnSpotrf_bufferSize(Handle *h, int uplo, int n, float *a, int lda, int *floats) {
  IN(cusolverDnSpotrf_bufferSize);
  *floats = number("room=", 4 * n) / 4;
  return h->stream && uplo <= 1 && n > 0 && a && lda >= n ? 0 : 3;
}
// at is element i, j of the triangle that is stored: below the diagonal, or its transpose.
static float *at(float *a, int upper, int lda, int i, int j) { return upper ? a + j + (size_t)i * lda : a + i + (size_t)j * lda; }

int cusolverDnSpotrf(Handle *h, int uplo, int n, float *a, int lda, float *room, int floats, int *info) {
  IN(cusolverDnSpotrf);
  if (!h->stream || uplo < 0 || uplo > 1 || n <= 0 || lda < n || !room || floats != number("room=", 4 * n) / 4) return 3;
  memset(room, 0x7f, 4 * (size_t)floats);
  *info = 0;
  for (int j = 0; j < n; j++)
    for (int i = j; i < n; i++) {
      double s = *at(a, uplo, lda, i, j);
      for (int k = 0; k < j; k++) s -= (double)*at(a, uplo, lda, i, k) * *at(a, uplo, lda, j, k);
      if (i == j && s <= 0) { *info = j + 1; return 0; }
      *at(a, uplo, lda, i, j) = i == j ? sqrt(s) : s / *at(a, uplo, lda, j, j);
    }
  return 0;
}
int cusolverDnXtrtri_bufferSize(Handle *h, int uplo, int diag, int64_t n, int type, void *a, int64_t lda, size_t *device, size_t *host) {
  IN(cusolverDnXtrtri_bufferSize);
  *device = 8 * n, *host = 40;
  return h->stream && uplo <= 1 && !diag && !type && n > 0 && a && lda >= n ? 0 : 3;
}
int cusolverDnXtrtri(Handle *h, int uplo, int diag, int64_t n, int type, float *a, int64_t lda, char *room, size_t bytes, char *host, size_t hosted, int *info) {
  IN(cusolverDnXtrtri);
  if (!h->stream || uplo < 0 || uplo > 1 || diag || type || n <= 0 || lda < n || !room || bytes != 8 * n || !host || hosted != 40) return 3;
  memset(room, 0x7f, bytes), memset(host, 0x7f, hosted);
  *info = 0;
  for (int j = 0; j < n; j++) {
    if (*at(a, uplo, lda, j, j) == 0) { *info = j + 1; return 0; }
    *at(a, uplo, lda, j, j) = 1 / *at(a, uplo, lda, j, j);
  }
  for (int j = 0; j < n; j++) // by columns, of which those to the right are still to come
    for (int i = j + 1; i < n; i++) {
      double s = 0;
      for (int k = j; k < i; k++) s += (double)*at(a, uplo, lda, i, k) * *at(a, uplo, lda, k, j);
      *at(a, uplo, lda, i, j) = -s * *at(a, uplo, lda, i, i);
    }
  if (number("wrong=", 0)) *at(a, uplo, lda, n - 1, 0) *= 2;
  return 0;
}
