/* AscendCL over the memory of this process: enough for torch_npu's allocator, copies, streams,
 * events and graphs to run without a device. Streams do their work at once, in order. There are no
 * kernels: operators are computed by emulation.py, which is told here of captures and replays.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include "acl/acl.h"
#include "acl/acl_op_compiler.h"
#include "acl/acl_rt.h"

#define OK ACL_SUCCESS

/* ---- what the tests set ---- */

static size_t total_bytes = (size_t)2 << 30;
static aclError failure = OK;   /* what every synchronisation returns from now on */
#define LOST 507899             /* ACL_ERROR_RT_DRV_INTERNAL_ERROR */
#define HCCL_TIMEOUT 507048     /* ACL_ERROR_RT_FFTS_PLUS_TIMEOUT: what a rank that waits for the others gets */

void pretend_set_memory(size_t bytes) { total_bytes = bytes; }
void pretend_fail(int error) { failure = error; }

enum event_kind { CAPTURE_BEGIN, CAPTURE_END, GROUP_BEGIN, GROUP_END, UPDATE_BEGIN, UPDATE_END, REPLAY, DESTROY };
typedef void (*listener)(int kind, void *handle);
static __thread listener told;

void pretend_listen(listener callback) { told = callback; }
static void tell(enum event_kind kind, void *handle) { if (told) told(kind, handle); }

static const char *setting(const char *name, const char *otherwise) { const char *value = getenv(name); return value ? value : otherwise; }
static __thread int32_t device = -1;

/* The fault of this process's device: the text of the file that PRETEND_NPU_FAULT names, as soon as it is there.
 * "lost", "timeout" (of HCCL), "memory" (no more of it), or "lost@1" for the device 1 alone. */
static int has_fault(const char *name) {
    const char *path = setting("PRETEND_NPU_FAULT", "");
    char text[32] = "";
    FILE *file = *path ? fopen(path, "r") : NULL;
    if (!file) return 0;
    int count = fscanf(file, "%31s", text);
    fclose(file);
    char *at = strchr(text, '@');
    if (at) *at++ = 0;
    return count == 1 && !strcmp(text, name) && (!at || atoi(at) == device);
}
static aclError state(void) {
    if (has_fault("lost")) failure = LOST;
    if (has_fault("timeout")) failure = HCCL_TIMEOUT;
    return failure;
}

/* ---- devices ---- */

static int devices(void) { return atoi(setting("PRETEND_NPU_DEVICES", "1")); }
static int32_t contexts[64];

const char *aclrtGetSocName(void) { return setting("PRETEND_NPU", "Ascend910B3"); }
const char *aclGetRecentErrMsg(void) { return "EZ9999: Inner Error!\nEZ9999: this is the pretend device's\n"; }
void aclAppLog(aclLogLevel level, const char *function, const char *file, uint32_t line, const char *format, ...) {}
aclError aclInit(const char *config) { return OK; }
aclError aclFinalize(void) { return OK; }
aclError aclrtGetDeviceCount(uint32_t *count) { *count = devices(); return OK; }
aclError aclrtSetDevice(int32_t id) {
    if (id < 0 || id >= devices()) return ACL_ERROR_INVALID_PARAM;
    device = id;
    return OK;
}
aclError aclrtResetDevice(int32_t id) { return OK; }
aclError aclrtGetDevice(int32_t *id) {
    if (device < 0) return ACL_ERROR_RT_CONTEXT_NULL;
    *id = device;
    return OK;
}
aclError aclrtGetCurrentContext(aclrtContext *context) {
    if (device < 0) return ACL_ERROR_RT_CONTEXT_NULL;
    *context = &contexts[device];
    return OK;
}
aclError aclrtSetCurrentContext(aclrtContext context) { device = (int32_t)((int32_t *)context - contexts); return OK; }
aclError aclrtGetPrimaryCtxState(int32_t id, uint32_t *flags, int32_t *active) {
    if (flags) *flags = 0;
    *active = device == id;
    return OK;
}
aclError aclrtSynchronizeDevice(void) { return state(); }
aclError aclrtSynchronizeDeviceWithTimeout(int32_t timeout) { return state(); }
aclError aclrtDeviceCanAccessPeer(int32_t *can, int32_t a, int32_t b) { *can = 1; return OK; }
aclError aclrtDeviceEnablePeerAccess(int32_t peer, uint32_t flags) { return OK; }
aclError aclGetDeviceCapability(uint32_t id, aclDeviceInfo what, int64_t *value) { *value = 20; return OK; }

/* ---- memory ---- */

struct block { size_t size; char pad[504]; };
static size_t used_bytes;
static int is_full(size_t more) { return used_bytes + more > total_bytes || has_fault("memory"); }

aclError aclrtGetMemInfo(aclrtMemAttr attribute, size_t *free_, size_t *total) {
    *total = total_bytes;
    *free_ = total_bytes > used_bytes ? total_bytes - used_bytes : 0;
    return OK;
}
aclError aclrtMalloc(void **out, size_t size, aclrtMemMallocPolicy policy) {
    if (is_full(size)) return ACL_ERROR_RT_MEMORY_ALLOCATION;
    struct block *block = aligned_alloc(512, (sizeof *block + size + 511) / 512 * 512);
    if (!block) return ACL_ERROR_RT_MEMORY_ALLOCATION;
    block->size = size;
    used_bytes += size;
    memset(block + 1, 0xCB, size);  /* what nobody computed is never zero by chance */
    *out = block + 1;
    return OK;
}
aclError aclrtFree(void *p) {
    struct block *block = (struct block *)p - 1;
    used_bytes -= block->size;
    free(block);
    return OK;
}
/* Expandable segments: addresses are reserved once, memory is put behind them page by page. */
struct physical { size_t size; void *at; struct physical *next; };
static struct physical *mapped;

aclError aclrtReserveMemAddress(void **out, size_t size, size_t alignment, void *expected, uint64_t flags) {
    void *address = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) return ACL_ERROR_RT_MEMORY_ALLOCATION;
    *out = address;
    return OK;
}
aclError aclrtReleaseMemAddress(void *address) { return OK; }
aclError aclrtMallocPhysical(aclrtDrvMemHandle *handle, size_t size, const aclrtPhysicalMemProp *prop, uint64_t flags) {
    if (is_full(size)) return ACL_ERROR_RT_MEMORY_ALLOCATION;
    struct physical *physical = calloc(1, sizeof *physical);
    physical->size = size;
    used_bytes += size;
    *handle = (aclrtDrvMemHandle)physical;
    return OK;
}
aclError aclrtFreePhysical(aclrtDrvMemHandle handle) {
    used_bytes -= ((struct physical *)handle)->size;
    free(handle);
    return OK;
}
aclError aclrtMapMem(void *address, size_t size, size_t offset, aclrtDrvMemHandle handle, uint64_t flags) {
    struct physical *physical = (struct physical *)handle;
    if (mprotect(address, size, PROT_READ | PROT_WRITE)) return ACL_ERROR_INVALID_PARAM;
    memset(address, 0xCB, size);
    physical->at = address;
    physical->next = mapped;
    mapped = physical;
    return OK;
}
aclError aclrtUnmapMem(void *address) {
    for (struct physical **link = &mapped; *link; link = &(*link)->next) {
        struct physical *physical = *link;
        if (physical->at != address) continue;
        mmap(address, physical->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        *link = physical->next;
        return OK;
    }
    return ACL_ERROR_INVALID_PARAM;
}
aclError aclrtMallocHost(void **out, size_t size) {
    *out = aligned_alloc(64, (size + 63) / 64 * 64);
    return *out ? OK : ACL_ERROR_RT_MEMORY_ALLOCATION;
}
aclError aclrtFreeHost(void *p) { free(p); return OK; }
aclError aclrtMemcpy(void *to, size_t room, const void *from, size_t size, aclrtMemcpyKind kind) {
    if (state() != OK) return failure;
    if (size > room) return ACL_ERROR_INVALID_PARAM;
    memmove(to, from, size);
    return OK;
}
aclError aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t size, aclrtMemcpyKind kind, aclrtStream stream) { return aclrtMemcpy(to, room, from, size, kind); }
aclError aclrtMemset(void *p, size_t room, int32_t value, size_t size) { memset(p, value, size); return OK; }
aclError aclrtMemsetAsync(void *p, size_t room, int32_t value, size_t size, aclrtStream stream) { memset(p, value, size); return OK; }
aclError aclrtPointerGetAttributes(const void *p, aclrtPtrAttributes *attributes) { return ACL_ERROR_FEATURE_UNSUPPORTED; }

/* ---- streams and events ---- */

struct event { struct timespec at; };

aclError aclrtCreateStreamWithConfig(aclrtStream *stream, uint32_t priority, uint32_t flag) {
    static int32_t next;
    int32_t *id = malloc(sizeof *id);
    *id = next++;
    *stream = id;
    return OK;
}
aclError aclrtCreateStream(aclrtStream *stream) { return aclrtCreateStreamWithConfig(stream, 0, 0); }
aclError aclrtDestroyStream(aclrtStream stream) { free(stream); return OK; }
aclError aclrtStreamGetId(aclrtStream stream, int32_t *id) { *id = stream ? *(int32_t *)stream : -1; return OK; }
aclError aclrtSynchronizeStream(aclrtStream stream) { return state(); }
aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t timeout) { return state(); }
aclError aclrtStreamQuery(aclrtStream stream, aclrtStreamStatus *status) { *status = ACL_STREAM_STATUS_COMPLETE; return OK; }
aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event) { return OK; }
aclError aclrtCreateEventExWithFlag(aclrtEvent *event, uint32_t flag) { *event = calloc(1, sizeof(struct event)); return OK; }
aclError aclrtCreateEventWithFlag(aclrtEvent *event, uint32_t flag) { return aclrtCreateEventExWithFlag(event, flag); }
aclError aclrtDestroyEvent(aclrtEvent event) { free(event); return OK; }
aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream) { clock_gettime(CLOCK_MONOTONIC, &((struct event *)event)->at); return OK; }
aclError aclrtResetEvent(aclrtEvent event, aclrtStream stream) { return OK; }
aclError aclrtSynchronizeEvent(aclrtEvent event) { return state(); }
aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus *status) { *status = ACL_EVENT_RECORDED_STATUS_COMPLETE; return OK; }
aclError aclrtQueryEventWaitStatus(aclrtEvent event, aclrtEventWaitStatus *status) { *status = ACL_EVENT_WAIT_STATUS_COMPLETE; return OK; }
aclError aclrtEventElapsedTime(float *ms, aclrtEvent a, aclrtEvent b) {
    struct timespec from = ((struct event *)a)->at, to = ((struct event *)b)->at;
    *ms = (to.tv_sec - from.tv_sec) * 1e3f + (to.tv_nsec - from.tv_nsec) / 1e6f;
    return OK;
}

/* ---- settings that change nothing here ---- */

aclError aclrtSetStreamOverflowSwitch(aclrtStream stream, uint32_t flag) { return OK; }
aclError aclrtSetOpWaitTimeout(uint32_t timeout) { return OK; }
aclError aclrtSetOpExecuteTimeOut(uint32_t timeout) { return OK; }
aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode mode) { return OK; }
aclError aclrtSetSysParamOpt(aclSysParamOpt option, int64_t value) { return OK; }
aclError aclrtCtxSetSysParamOpt(aclSysParamOpt option, int64_t value) { return OK; }
aclError aclrtGetSysParamOpt(aclSysParamOpt option, int64_t *value) { *value = 0; return OK; }
aclError aclrtSetStreamFailureMode(aclrtStream stream, uint64_t mode) { return OK; }
aclError aclSetCompileopt(aclCompileOpt option, const char *value) { return OK; }
aclError aclrtSubscribeReport(uint64_t thread, aclrtStream stream) { return OK; }
aclError aclDestroyDataBuffer(const aclDataBuffer *buffer) { return OK; }

/* ---- graphs: what is recorded is emulation.py's business ---- */

static char *open_graph;

aclError aclmdlRICaptureBegin(aclrtStream stream, aclmdlRICaptureMode mode) {
    if (open_graph) return ACL_ERROR_INVALID_PARAM;
    open_graph = malloc(1);
    tell(CAPTURE_BEGIN, open_graph);
    return OK;
}
aclError aclmdlRICaptureGetInfo(aclrtStream stream, aclmdlRICaptureStatus *status, aclmdlRI *graph) {
    *status = open_graph ? ACL_MODEL_RI_CAPTURE_STATUS_ACTIVE : ACL_MODEL_RI_CAPTURE_STATUS_NONE;
    if (graph) *graph = open_graph;
    return OK;
}
aclError aclmdlRICaptureEnd(aclrtStream stream, aclmdlRI *graph) {
    if (!open_graph) return ACL_ERROR_INVALID_PARAM;
    *graph = open_graph;
    tell(CAPTURE_END, open_graph);
    open_graph = NULL;
    return OK;
}
aclError aclmdlRICaptureThreadExchangeMode(aclmdlRICaptureMode *mode) { return OK; }
aclError aclmdlRICaptureTaskGrpBegin(aclrtStream stream) {
    if (!open_graph) return ACL_ERROR_INVALID_PARAM;
    tell(GROUP_BEGIN, NULL);
    return OK;
}
aclError aclmdlRICaptureTaskGrpEnd(aclrtStream stream, aclrtTaskGrp *handle) {
    if (!open_graph) return ACL_ERROR_INVALID_PARAM;
    *handle = malloc(1);
    tell(GROUP_END, *handle);
    return OK;
}
aclError aclmdlRICaptureTaskUpdateBegin(aclrtStream stream, aclrtTaskGrp handle) {
    if (!handle) return ACL_ERROR_INVALID_PARAM;
    tell(UPDATE_BEGIN, handle);
    return OK;
}
aclError aclmdlRICaptureTaskUpdateEnd(aclrtStream stream) { tell(UPDATE_END, NULL); return OK; }
aclError aclmdlRIExecuteAsync(aclmdlRI graph, aclrtStream stream) { tell(REPLAY, graph); return failure; }
aclError aclmdlRIDestroy(aclmdlRI graph) { tell(DESTROY, graph); free(graph); return OK; }
