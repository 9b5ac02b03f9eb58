/* NVIDIA's driver as far as kv_transfer/cuda_driver.py calls it, computed by this host: memory is
   shared memory, a stream is a thread. It is compiled against NVIDIA's own header, so that names
   and signatures are the real ones, and refuses calls of threads that are not bound to a context. */

#include <cuda.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_ALLOCATIONS 256
enum kind { COPY, FILL, RECORD, WAIT, HOLD };

struct CUevent_st { unsigned long recorded, passed; };
struct op {
    enum kind kind;
    char *target, *source;
    size_t size;
    CUevent event;
    unsigned long number;
    struct op *next;
};
struct CUstream_st { pthread_t thread; struct op *first, *last; int busy, closing; };
struct allocation { char name[40]; char *start; size_t size; int is_mine; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER;
static struct allocation allocations[MAX_ALLOCATIONS];
static int held, batches, next_name, has_failed;
static _Thread_local int is_bound;

#define BOUND \
    if (has_failed) return CUDA_ERROR_ILLEGAL_ADDRESS; \
    if (!is_bound) return CUDA_ERROR_INVALID_CONTEXT

static void perform(struct op *op) {
    if (op->kind == COPY) memcpy(op->target, op->source, op->size);
    if (op->kind == FILL) memset(op->target, (int)op->number, op->size);
}

static void *run(void *argument) {
    CUstream stream = argument;
    pthread_mutex_lock(&lock);
    while (stream->first || !stream->closing) {
        struct op *op = stream->first;
        int waits = op && ((op->kind == WAIT && op->event->passed < op->number) ||
                           (op->kind == HOLD && held));
        if (!op || waits) {
            pthread_cond_wait(&moved, &lock);
            continue;
        }
        stream->first = op->next;
        stream->busy = 1;
        pthread_mutex_unlock(&lock);
        perform(op);
        pthread_mutex_lock(&lock);
        if (op->kind == RECORD) op->event->passed = op->number;
        stream->busy = 0;
        free(op);
        pthread_cond_broadcast(&moved);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

static CUresult give(CUstream stream, struct op op) {
    struct op *mine = malloc(sizeof op);
    *mine = op;
    mine->next = NULL;
    if (!stream->first) stream->first = mine;
    else stream->last->next = mine;
    stream->last = mine;
    pthread_cond_broadcast(&moved);
    return CUDA_SUCCESS;
}

static CUresult ask(CUstream stream, struct op op) {
    BOUND;
    pthread_mutex_lock(&lock);
    give(stream, op);
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

/* What a test may ask for. */
void host_cuda_hold(CUstream stream) {
    held = 1;
    is_bound = 1;
    ask(stream, (struct op){.kind = HOLD});
}
void host_cuda_go_on(void) {
    pthread_mutex_lock(&lock);
    held = 0;
    pthread_cond_broadcast(&moved);
    pthread_mutex_unlock(&lock);
}
void host_cuda_fail(int fails) {
    pthread_mutex_lock(&lock);
    has_failed = fails;
    pthread_cond_broadcast(&moved);
    pthread_mutex_unlock(&lock);
}
int host_cuda_batches(void) { return batches; }

CUresult cuInit(unsigned int flags) { return flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *count) { *count = 2; return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    *device = ordinal;
    return ordinal < 2 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer) {
    *can = device != peer;
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    *context = (CUcontext)(size_t)(device + 1);
    return CUDA_SUCCESS;
}
CUresult cuCtxSetCurrent(CUcontext context) { is_bound = context != NULL; return CUDA_SUCCESS; }
CUresult cuGetErrorName(CUresult code, const char **name) {
    *name = code == CUDA_ERROR_INVALID_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT" : "CUDA_ERROR_OTHER";
    return CUDA_SUCCESS;
}

static CUresult map(const char *name, size_t size, int is_mine, CUdeviceptr *address) {
    int flags = is_mine ? O_CREAT | O_EXCL | O_RDWR : O_RDONLY, i = 0;
    int fd = shm_open(name, flags, 0600);
    if (fd < 0) return CUDA_ERROR_INVALID_HANDLE;
    if (is_mine && ftruncate(fd, (off_t)size)) return CUDA_ERROR_OUT_OF_MEMORY;
    int protection = is_mine ? PROT_READ | PROT_WRITE : PROT_READ;
    char *start = mmap(NULL, size, protection, MAP_SHARED, fd, 0);
    close(fd);
    pthread_mutex_lock(&lock);
    while (i < MAX_ALLOCATIONS && allocations[i].start) i++;
    allocations[i] = (struct allocation){.start = start, .size = size, .is_mine = is_mine};
    strncpy(allocations[i].name, name, sizeof allocations[i].name - 1);
    pthread_mutex_unlock(&lock);
    *address = (CUdeviceptr)(size_t)start;
    return CUDA_SUCCESS;
}

static struct allocation *find(CUdeviceptr address) {
    char *at = (char *)(size_t)address;
    for (int i = 0; i < MAX_ALLOCATIONS; i++) {
        struct allocation *one = &allocations[i];
        if (one->start && one->start <= at && at < one->start + one->size) return one;
    }
    return NULL;
}

static CUresult unmap(CUdeviceptr address) {
    struct allocation *one = find(address);
    if (!one || one->start != (char *)(size_t)address) return CUDA_ERROR_INVALID_VALUE;
    munmap(one->start, one->size);
    if (one->is_mine) shm_unlink(one->name);
    one->start = NULL;
    return CUDA_SUCCESS;
}

__attribute__((destructor)) static void unlink_all(void) {
    for (int i = 0; i < MAX_ALLOCATIONS; i++)
        if (allocations[i].start && allocations[i].is_mine) shm_unlink(allocations[i].name);
}

CUresult cuMemAlloc(CUdeviceptr *address, size_t size) {
    BOUND;
    char name[40];
    snprintf(name, sizeof name, "/host-cuda-%d-%d", getpid(), ++next_name);
    return map(name, size, 1, address);
}
CUresult cuMemFree(CUdeviceptr address) { BOUND; return unmap(address); }
CUresult cuMemGetAddressRange(CUdeviceptr *start, size_t *size, CUdeviceptr address) {
    BOUND;
    struct allocation *one = find(address);
    if (!one) return CUDA_ERROR_INVALID_VALUE;
    *start = (CUdeviceptr)(size_t)one->start;
    *size = one->size;
    return CUDA_SUCCESS;
}
CUresult cuIpcGetMemHandle(CUipcMemHandle *handle, CUdeviceptr address) {
    BOUND;
    struct allocation *one = find(address);
    if (!one) return CUDA_ERROR_INVALID_VALUE;
    memset(handle, 0, sizeof *handle);
    snprintf(handle->reserved, 48, "%s", one->name);
    memcpy(handle->reserved + 48, &one->size, sizeof one->size);
    return CUDA_SUCCESS;
}
CUresult cuIpcOpenMemHandle(CUdeviceptr *address, CUipcMemHandle handle, unsigned int flags) {
    BOUND;
    size_t size;
    if (flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) return CUDA_ERROR_INVALID_VALUE;
    handle.reserved[47] = 0;
    memcpy(&size, handle.reserved + 48, sizeof size);
    return map(handle.reserved, size, 0, address);
}
CUresult cuIpcCloseMemHandle(CUdeviceptr address) { BOUND; return unmap(address); }

CUresult cuStreamCreate(CUstream *stream, unsigned int flags) {
    BOUND;
    if (flags != CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
    *stream = calloc(1, sizeof **stream);
    return pthread_create(&(*stream)->thread, NULL, run, *stream) ? CUDA_ERROR_UNKNOWN : CUDA_SUCCESS;
}
CUresult cuStreamDestroy(CUstream stream) {
    BOUND;
    pthread_mutex_lock(&lock);
    stream->closing = 1;
    pthread_cond_broadcast(&moved);
    pthread_mutex_unlock(&lock);
    pthread_join(stream->thread, NULL);
    free(stream);
    return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream stream) {
    BOUND;
    pthread_mutex_lock(&lock);
    while (stream->first || stream->busy) pthread_cond_wait(&moved, &lock);
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}
CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags) {
    return ask(stream, (struct op){WAIT, .event = event, .number = event->recorded + flags});
}

CUresult cuEventCreate(CUevent *event, unsigned int flags) {
    BOUND;
    if (flags != (CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING)) return CUDA_ERROR_INVALID_VALUE;
    *event = calloc(1, sizeof **event);
    return CUDA_SUCCESS;
}
CUresult cuEventDestroy(CUevent event) { BOUND; free(event); return CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent event, CUstream stream) {
    BOUND;
    pthread_mutex_lock(&lock);
    event->recorded++;
    give(stream, (struct op){RECORD, .event = event, .number = event->recorded});
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}
CUresult cuEventQuery(CUevent event) {
    BOUND;
    return event->passed >= event->recorded ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
CUresult cuEventSynchronize(CUevent event) {
    BOUND;
    pthread_mutex_lock(&lock);
    while (event->passed < event->recorded && !has_failed) pthread_cond_wait(&moved, &lock);
    pthread_mutex_unlock(&lock);
    return has_failed ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_SUCCESS;
}

CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char byte, size_t size, CUstream stream) {
    return ask(stream, (struct op){FILL, (char *)(size_t)target, .size = size, .number = byte});
}
CUresult cuMemcpyAsync(CUdeviceptr target, CUdeviceptr source, size_t size, CUstream stream) {
    struct op op = {.kind = COPY, .size = size};
    op.target = (char *)(size_t)target;
    op.source = (char *)(size_t)source;
    return ask(stream, op);
}
CUresult cuMemcpyDtoHAsync(void *target, CUdeviceptr source, size_t size, CUstream stream) {
    return cuMemcpyAsync((CUdeviceptr)(size_t)target, source, size, stream);
}
#ifndef WITHOUT_BATCHES
CUresult cuMemcpyBatchAsync(CUdeviceptr *targets, CUdeviceptr *sources, size_t *sizes, size_t count,
                            CUmemcpyAttributes *how, size_t *firsts, size_t num_attributes,
                            CUstream stream) {
    BOUND;
#ifdef REFUSES_BATCHES
    return CUDA_ERROR_NOT_SUPPORTED;
#endif
    if (num_attributes != 1 || firsts[0] || !stream) return CUDA_ERROR_INVALID_VALUE;
    if (how->srcAccessOrder != CU_MEMCPY_SRC_ACCESS_ORDER_STREAM) return CUDA_ERROR_INVALID_VALUE;
    if (how->flags != CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE) return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count; i++) cuMemcpyAsync(targets[i], sources[i], sizes[i], stream);
    batches++;
    return CUDA_SUCCESS;
}
#endif
