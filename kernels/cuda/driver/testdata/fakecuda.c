// A stand-in for libcuda.so.1 that fails on demand. FAKECUDA holds words:
//   fail=FUNCTION:N:CODE   call N (from 1) of FUNCTION returns CODE; N 0: every call
//   cuda=12040 devices=1 major=9
//   busy=1                 what is in the stream never ends
// An error of the context (700, 719) stays: every later call returns it.
// Kernels are not run: cuLaunchKernel only checks its arguments.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static __thread int current;
static int lost, streams, capturing; // since the last cuInit

static int number(const char *key, int otherwise) {
  const char *e = getenv("FAKECUDA"), *at = e ? strstr(e, key) : 0;
  return at ? atoi(at + strlen(key)) : otherwise;
}

static int call(const char *name, int *count, int context) {
  char key[128];
  const char *e = getenv("FAKECUDA"), *at;
  int n, code;
  ++*count;
  if (lost) return lost;
  snprintf(key, sizeof key, "fail=%s:", name);
  if (e && (at = strstr(e, key)) && sscanf(at + strlen(key), "%d:%d", &n, &code) == 2 && (n == 0 || n == *count)) {
    if (code == 700 || code == 719) lost = code;
    return code;
  }
  return context && !current ? 201 : 0;
}
#define IN(name, context) static int n; int rc = call(#name, &n, context); if (rc) return rc

int cuInit(unsigned flags) { IN(cuInit, 0); lost = streams = capturing = 0; return number("devices=", 1) ? 0 : 100; }
int cuDriverGetVersion(int *v) { IN(cuDriverGetVersion, 0); *v = number("cuda=", 12040); return 0; }
int cuGetErrorName(int code, const char **s) { static char t[32]; snprintf(t, sizeof t, "CUDA_ERROR_FAKE_%d", code); *s = t; return 0; }
int cuGetErrorString(int code, const char **s) { *s = "in the words of the driver"; return 0; }
int cuDeviceGetCount(int *n_) { IN(cuDeviceGetCount, 0); *n_ = number("devices=", 1); return 0; }
int cuDeviceGet(int *d, int i) { IN(cuDeviceGet, 0); *d = i; return 0; }
int cuDeviceGetName(char *s, int size, int d) { IN(cuDeviceGetName, 0); snprintf(s, size, "Fake GPU"); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { IN(cuDeviceGetAttribute, 0); *v = a == 75 ? number("major=", 9) : a == 76 ? 0 : a == 16 ? 4 : 1; return 0; }
int cuDeviceTotalMem_v2(size_t *s, int d) { IN(cuDeviceTotalMem, 0); *s = (size_t)1 << 30; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { IN(cuDevicePrimaryCtxRetain, 0); *c = (void *)1; return 0; }
int cuDevicePrimaryCtxRelease_v2(int d) { IN(cuDevicePrimaryCtxRelease, 0); return 0; }
int cuCtxSetCurrent(void *c) { IN(cuCtxSetCurrent, 0); current = c != 0; return 0; }
int cuStreamCreate(void **s, unsigned f) { IN(cuStreamCreate, 1); *s = (void *)(uintptr_t)(streams++ % 2 ? 5 : 2); return f == 1 ? 0 : 1; }
int cuStreamDestroy_v2(void *s) { IN(cuStreamDestroy, 1); return 0; }
int cuStreamSynchronize(void *s) { IN(cuStreamSynchronize, 1); return s == (void *)2 || s == (void *)5 ? 0 : 400; }
int cuStreamQuery(void *s) { IN(cuStreamQuery, 1); return number("busy=", 0) ? 600 : s == (void *)2 || s == (void *)5 ? 0 : 400; }
int cuStreamBeginCapture_v2(void *s, unsigned mode) { IN(cuStreamBeginCapture, 1); return s == (void *)2 && mode == 2 && !capturing++ ? 0 : 1; }
int cuStreamEndCapture(void *s, void **g) { IN(cuStreamEndCapture, 1); if (!capturing) return 1; capturing = 0; *g = (void *)6; return 0; }
int cuGraphInstantiateWithFlags(void **e, void *g, unsigned long long f) { IN(cuGraphInstantiateWithFlags, 1); *e = (void *)7; return g == (void *)6 && !f ? 0 : 1; }
int cuGraphDestroy(void *g) { return g == (void *)6 ? 0 : 1; }
int cuGraphLaunch(void *e, void *s) { IN(cuGraphLaunch, 1); return e == (void *)7 && s == (void *)2 ? 0 : 1; }
int cuGraphExecDestroy(void *e) { IN(cuGraphExecDestroy, 1); return e == (void *)7 ? 0 : 1; }
int cuStreamWaitEvent(void *s, void *e, unsigned f) { IN(cuStreamWaitEvent, 1); return (s == (void *)2 || s == (void *)5) && e == (void *)4 && !f ? 0 : 400; }
int cuMemAllocHost_v2(void **p, size_t n_) { IN(cuMemAllocHost, 1); *p = malloc(n_); return 0; }
int cuMemFreeHost(void *p) { IN(cuMemFreeHost, 1); free(p); return 0; }
int cuModuleLoadDataEx(void **m, const char *p, unsigned n_, int *o, void **v) {
  IN(cuModuleLoadDataEx, 1);
  if (!strstr(p, ".version")) { snprintf((char *)v[0], (size_t)v[1], "no .version in %.10s", p); return 218; }
  *m = (void *)strdup(p);
  return 0;
}
int cuModuleGetFunction(void **f, void *m, const char *name) { IN(cuModuleGetFunction, 1); *f = m; return strstr(m, name) ? 0 : 500; }
int cuFuncSetAttribute(void *f, int a, int v) { IN(cuFuncSetAttribute, 1); return 0; }
int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned sh, void *s, void **params, void **extra) {
  IN(cuLaunchKernel, 1);
  return f && gx && gy && gz && bx && by && bz && bx * by * bz <= 1024 && s == (void *)2 && params && params[0] && !extra ? 0 : 1;
}
#ifndef OLD
int cuMemAllocAsync(uint64_t *p, size_t n_, void *s) { IN(cuMemAllocAsync, 1); *p = (uint64_t)calloc(1, n_); return 0; }
#endif
int cuMemFreeAsync(uint64_t p, void *s) { IN(cuMemFreeAsync, 1); free((void *)p); return 0; }
int cuMemGetInfo_v2(size_t *f, size_t *t) { IN(cuMemGetInfo, 1); *f = (size_t)1 << 29; *t = (size_t)1 << 30; return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t d, const void *s, size_t n_, void *st) { IN(cuMemcpyHtoDAsync, 1); memcpy((void *)d, s, n_); return 0; }
int cuMemcpyDtoHAsync_v2(void *d, uint64_t s, size_t n_, void *st) { IN(cuMemcpyDtoHAsync, 1); memcpy(d, (void *)s, n_); return 0; }
int cuMemcpyDtoDAsync_v2(uint64_t d, uint64_t s, size_t n_, void *st) { IN(cuMemcpyDtoDAsync, 1); memcpy((void *)d, (void *)s, n_); return 0; }
int cuDeviceGetDefaultMemPool(void **p, int d) { IN(cuDeviceGetDefaultMemPool, 0); *p = (void *)3; return 0; }
int cuMemPoolSetAttribute(void *p, int a, void *v) { IN(cuMemPoolSetAttribute, 0); return p == (void *)3 && a == 4 && *(uint64_t *)v == ~(uint64_t)0 ? 0 : 1; }
int cuEventCreate(void **e, unsigned f) { IN(cuEventCreate, 1); *e = (void *)4; return 0; }
int cuEventRecord(void *e, void *s) { IN(cuEventRecord, 1); return 0; }
int cuEventSynchronize(void *e) { IN(cuEventSynchronize, 1); return 0; }
int cuEventElapsedTime(float *ms, void *a, void *b) { IN(cuEventElapsedTime, 1); *ms = 2.5f; return 0; }
int cuEventDestroy_v2(void *e) { IN(cuEventDestroy, 1); return 0; }
