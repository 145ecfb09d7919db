// A stand-in for libnccl.so.2 that gathers, by a file in shared memory, between threads or
// processes. FAKENCCL holds words, or fakeNcclSet is given them:
//   fail=FUNCTION:N:CODE   call N (from 1, after fakeNcclSet) of FUNCTION returns CODE
//   version=22703 rank=1   of fail: in this rank alone (of Join, AllGather and what follows)
//   lost=N                 gathering N never ends, and the communicator says that a rank is lost (6)
// FAKENCCL_MARK is a file that the last rank makes when it has gathered.
// The call waits for the others, as the stream does of the real one; after two seconds it
// is lost.
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 8, ROOM = 1 << 22 };
typedef struct { char internal[128]; } ncclUniqueId;
typedef struct { atomic_int joined[MOST], sent[MOST], read[MOST]; char data[MOST][ROOM]; } Shared;
typedef struct { Shared *s; int rank, size, turn, error; char path[128]; } Comm;

static int comms, epoch, ids; // that were made and not given back; calls of fakeNcclSet
static char words[256];
static __thread int self = -1;

static const char *set(void) { return words[0] ? words : getenv("FAKENCCL"); }
static int number(const char *key, int otherwise) {
  const char *e = set(), *at = e ? strstr(e, key) : 0;
  return at ? atoi(at + strlen(key)) : otherwise;
}
static int call(const char *name, int count[2]) {
  char key[128];
  const char *e = set(), *at;
  int n, code, who = number("rank=", -1);
  if (count[1] != epoch) count[0] = 0, count[1] = epoch;
  ++count[0];
  if (who >= 0 && who != self) return 0;
  snprintf(key, sizeof key, "fail=%s:", name);
  return e && (at = strstr(e, key)) && sscanf(at + strlen(key), "%d:%d", &n, &code) == 2 && n == count[0] ? code : 0;
}
#define IN(name) static __thread int n_[2]; int rc = call(#name, n_); if (rc) return rc

static int await(atomic_int *list, int size, int turn) {
  for (int i = 0; i < size; i++)
    for (int tries = 0; atomic_load(&list[i]) < turn; tries++) {
      if (tries > 20000) return 6;
      usleep(100);
    }
  return 0;
}

int fakeNcclComms(void) { return comms; }
void fakeNcclSet(const char *s) { snprintf(words, sizeof words, "%s", s); epoch++; }
int ncclGetVersion(int *v) { IN(ncclGetVersion); *v = number("version=", 22703); return 0; }
const char *ncclGetErrorString(int c) { static char t[40]; snprintf(t, sizeof t, "NCCL_FAKE_%d", c); return t; }
const char *ncclGetLastError(Comm *c) { return "in the words of NCCL"; }
int ncclGetUniqueId(ncclUniqueId *id) {
  IN(ncclGetUniqueId);
  memset(id, 0, sizeof *id);
  snprintf(id->internal, sizeof id->internal - 8, "/dev/shm/fakenccl-%d-%ld-%d", getpid(), (long)clock(), ids++);
  memcpy(id->internal + 120, "the end!", 8);
  return 0;
}
int ncclCommInitRank(Comm **out, int size, ncclUniqueId id, int rank) {
  self = rank;
  IN(ncclCommInitRank);
  if (memcmp(id.internal + 120, "the end!", 8) || size > MOST || rank < 0 || rank >= size) return 4;
  Comm *c = calloc(1, sizeof *c);
  strcpy(c->path, id.internal);
  int f = open(c->path, O_RDWR | O_CREAT, 0600);
  if (f < 0 || ftruncate(f, sizeof(Shared))) return 2;
  c->s = mmap(0, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
  close(f);
  c->rank = rank, c->size = size;
  atomic_store(&c->s->joined[rank], 1);
  int lost = await(c->s->joined, size, 1);
  unlink(c->path);
  if (lost) return lost;
  comms++;
  *out = c;
  return 0;
}
int ncclAllGather(const char *send, char *recv, size_t n, int type, Comm *c, void *stream) {
  IN(ncclAllGather);
  if (type != 0 || n > ROOM || stream != (void *)2 || c->error) return 4;
  if (++c->turn == number("lost=", 0)) { c->error = 6; return 0; }
  memcpy(c->s->data[c->rank], send, n);
  atomic_store(&c->s->sent[c->rank], c->turn);
  if ((c->error = await(c->s->sent, c->size, c->turn))) return 0;
  for (int i = 0; i < c->size; i++) memcpy(recv + i * n, c->s->data[i], n);
  atomic_store(&c->s->read[c->rank], c->turn);
  c->error = await(c->s->read, c->size, c->turn);
  if (!c->error && c->rank == c->size - 1 && getenv("FAKENCCL_MARK")) {
    int f = open(getenv("FAKENCCL_MARK"), O_WRONLY | O_CREAT, 0600);
    write(f, "x", 1), close(f);
  }
  return 0;
}
int ncclCommGetAsyncError(Comm *c, int *e) { IN(ncclCommGetAsyncError); *e = c->error; return 0; }
static int end(Comm *c) { munmap(c->s, sizeof(Shared)); unlink(c->path); free(c); comms--; return 0; }
int ncclCommAbort(Comm *c) { IN(ncclCommAbort); return end(c); }
int ncclCommDestroy(Comm *c) { IN(ncclCommDestroy); return end(c); }
