/* A CUDA driver of one device whose memory is malloc's: enough for tests/runtime/test_device_memory.py. As the real
   one it refuses work where no context is current in the calling thread. STUB_INTEGRATED=1: a device that shares the
   host's memory; STUB_DEVICES=0: a driver without a device. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_CONTEXT = 201, NOT_FOUND = 500 };
enum { TOTAL = 1 << 20 };
static __thread void *stack[16]; /* contexts of the calling thread */
static __thread int depth;
static int retained, blocks, host_blocks, streams, copies;
static size_t used;
static char primary, one_stream;

#define NEEDS_CONTEXT if (depth == 0) return INVALID_CONTEXT

static int number(const char *name, int otherwise) { return getenv(name) ? atoi(getenv(name)) : otherwise; }

int stub_depth(void) { return depth; }
int stub_retained(void) { return retained; }
int stub_blocks(void) { return blocks; }
int stub_host_blocks(void) { return host_blocks; }
int stub_streams(void) { return streams; }
int stub_copies(void) { return copies; }

int cuInit(unsigned flags) { return number("STUB_DEVICES", 1) ? SUCCESS : NO_DEVICE; }
int cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
int cuDeviceGetCount(int *count) { *count = number("STUB_DEVICES", 1); return SUCCESS; }
int cuDeviceGet(int *device, int index) { *device = index; return index == 0 ? SUCCESS : 101; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Stub GPU", length); return SUCCESS; }
int cuDeviceComputeCapability(int *major, int *minor, int device) { *major = 8; *minor = 7; return SUCCESS; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 18 ? number("STUB_INTEGRATED", 0) : 0;
  return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &primary; retained++; return SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int device) { retained--; return SUCCESS; }
int cuCtxPushCurrent_v2(void *context) { stack[depth++] = context; return SUCCESS; }
int cuCtxPopCurrent_v2(void **context) { NEEDS_CONTEXT; depth--; if (context) *context = stack[depth]; return SUCCESS; }
int cuCtxGetCurrent(void **context) { *context = depth ? stack[depth - 1] : 0; return SUCCESS; }
int cuCtxGetDevice(int *device) { NEEDS_CONTEXT; *device = 0; return SUCCESS; }
int cuCtxSynchronize(void) { NEEDS_CONTEXT; return SUCCESS; }
int cuCtxDetach(void *context) { retained--; return SUCCESS; }
int cuStreamCreate(void **stream, unsigned flags) { NEEDS_CONTEXT; *stream = &one_stream; streams++; return SUCCESS; }
int cuStreamDestroy_v2(void *stream) { NEEDS_CONTEXT; streams--; return SUCCESS; }
int cuStreamSynchronize(void *stream) { NEEDS_CONTEXT; return stream == &one_stream ? SUCCESS : INVALID_VALUE; }
int cuMemGetInfo_v2(size_t *available, size_t *total) {
  NEEDS_CONTEXT;
  *available = TOTAL - used;
  *total = TOTAL;
  return SUCCESS;
}
int cuMemAlloc_v2(unsigned long long *address, size_t size) {
  NEEDS_CONTEXT;
  if (used + size > TOTAL) return OUT_OF_MEMORY;
  size_t *block = malloc(size + 16);
  block[0] = size;
  used += size;
  blocks++;
  *address = (unsigned long long)(uintptr_t)(block + 2);
  return SUCCESS;
}
int cuMemFree_v2(unsigned long long address) {
  NEEDS_CONTEXT;
  size_t *block = (size_t *)(uintptr_t)address - 2;
  used -= block[0];
  blocks--;
  free(block);
  return SUCCESS;
}
int cuMemHostAlloc(void **pointer, size_t size, unsigned flags) {
  NEEDS_CONTEXT;
  if (size > TOTAL) return OUT_OF_MEMORY;
  size_t *block = malloc(size + 16);
  block[0] = flags;
  host_blocks++;
  *pointer = block + 2;
  return SUCCESS;
}
int cuMemFreeHost(void *pointer) { NEEDS_CONTEXT; host_blocks--; free((size_t *)pointer - 2); return SUCCESS; }
int cuMemHostGetDevicePointer_v2(unsigned long long *address, void *pointer, unsigned flags) {
  NEEDS_CONTEXT;
  if (!(((size_t *)pointer)[-2] & 2)) return INVALID_VALUE; /* not made with DEVICEMAP */
  *address = (unsigned long long)(uintptr_t)pointer;
  return SUCCESS;
}
int cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, size_t size, void *stream) {
  NEEDS_CONTEXT;
  copies++;
  memcpy((void *)(uintptr_t)to, from, size);
  return stream == &one_stream ? SUCCESS : INVALID_VALUE;
}
int cuMemcpyDtoHAsync_v2(void *to, unsigned long long from, size_t size, void *stream) {
  NEEDS_CONTEXT;
  copies++;
  memcpy(to, (void *)(uintptr_t)from, size);
  return stream == &one_stream ? SUCCESS : INVALID_VALUE;
}
int cuGetErrorString(int error, const char **text) { *text = "the stub driver's error"; return SUCCESS; }
int cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, void *status) {
  char name[128];
  *function = 0;
  for (int i = 0; i < 2 && !*function; i++) {
    snprintf(name, sizeof name, "%s%s", symbol, i == 0 ? "_v2" : "");
    *function = dlsym(RTLD_DEFAULT, name);
  }
  return *function ? SUCCESS : NOT_FOUND;
}
