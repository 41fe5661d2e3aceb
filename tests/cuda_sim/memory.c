/* Device and pinned memory: who has what, and that the host keeps out of the device's. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/memory.h"
#include "sim.h"

#ifdef __SANITIZE_ADDRESS__
#define FROM_MALLOC true
#else
#define FROM_MALLOC false
#endif

/* GAP bytes behind each allocation hold a pattern: a kernel that wrote there is found when it is freed. */
enum { GRAIN = 256, GAP = 256, POISON_MAX = 64 << 20 };

typedef struct region {
    char *base;
    size_t bytes;
    sim_place place;
    bool registered;          /* the host's own memory, pinned */
    int device;
} region;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards everything here but the counts of memory_enter */
static region *regions;                                   /* by address */
static size_t region_count, region_max;
static size_t taken[SIM_DEVICES_MAX];
static char *arenas[SIM_DEVICES_MAX];
static int key = -1;                                      /* protection key of all arenas; -1: mprotect */
static bool guarded;

/* Allocations are whole grains. */
static size_t grains(size_t bytes) { return (bytes + GRAIN - 1) / GRAIN * GRAIN; }

static size_t device_bytes(void) { return sim_setting("CUDA_SIM_MEMORY", 4ull << 30); }

/* ---- the table ---- */

/* Index of the first region that ends behind p. */
static size_t region_find(const void *p) {
    size_t low = 0, high = region_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (regions[middle].base + regions[middle].bytes > (const char *)p) high = middle;
        else low = middle + 1;
    }
    return low;
}
static void region_insert(region r) {
    if (region_count == region_max) {
        region_max = region_max ? 2 * region_max : 64;
        regions = memory_grow(regions, region_max * sizeof *regions);
    }
    size_t at = region_find(r.base);
    memmove(&regions[at + 1], &regions[at], (region_count - at) * sizeof *regions);
    regions[at] = r;
    region_count++;
}
static void region_remove(size_t at) {
    region_count--;
    memmove(&regions[at], &regions[at + 1], (region_count - at) * sizeof *regions);
}

sim_place sim_memory_place(const void *p, size_t bytes, int *device) {
    sim_place place = SIM_PAGEABLE;
    pthread_mutex_lock(&lock);
    size_t at = region_find(p);
    if (at < region_count && regions[at].base <= (const char *)p) {
        bool within = (size_t)(regions[at].base + regions[at].bytes - (const char *)p) >= bytes;
        place = within ? regions[at].place : SIM_NOWHERE;
        if (device) *device = regions[at].device;
    } else {
        for (int i = 0; i < SIM_DEVICES_MAX; i++)
            if (arenas[i] && (const char *)p >= arenas[i] && (const char *)p < arenas[i] + device_bytes()) place = SIM_NOWHERE;
    }
    pthread_mutex_unlock(&lock);
    return place;
}

/* ---- the guard ---- */

static pthread_mutex_t door = PTHREAD_MUTEX_INITIALIZER; /* guards inside, and the opening of arenas */
static unsigned inside;
static __thread unsigned entered;

static void arenas_protect(int how) {
    for (int i = 0; i < SIM_DEVICES_MAX; i++)
        if (arenas[i]) mprotect(arenas[i], device_bytes(), how);
}
void sim_memory_enter(void) {
    if (entered++ > 0) return;
    if (key >= 0) pkey_set(key, 0);
    if (FROM_MALLOC || key >= 0 || !guarded) return;
    pthread_mutex_lock(&door);
    if (inside++ == 0) arenas_protect(PROT_READ | PROT_WRITE);
    pthread_mutex_unlock(&door);
}
void sim_memory_leave(void) {
    if (--entered > 0) return;
    if (key >= 0) pkey_set(key, PKEY_DISABLE_ACCESS);
    if (FROM_MALLOC || key >= 0 || !guarded) return;
    pthread_mutex_lock(&door);
    if (--inside == 0) arenas_protect(PROT_NONE);
    pthread_mutex_unlock(&door);
}
void cuda_sim_open_memory(int open) {
    if (open) sim_memory_enter();
    else sim_memory_leave();
}

static void guard_choose(void) {
    guarded = sim_setting("CUDA_SIM_GUARD", 1) != 0;
    if (guarded) key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
}

static bool arena_open(int device) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, guard_choose);
    pthread_mutex_lock(&door);
    if (!arenas[device]) {
        bool closed = guarded && key < 0 && inside == 0;
        void *p = mmap(NULL, device_bytes(), closed ? PROT_NONE : PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p != MAP_FAILED && key >= 0 && pkey_mprotect(p, device_bytes(), PROT_READ | PROT_WRITE, key)) p = MAP_FAILED;
        if (p != MAP_FAILED) arenas[device] = p;
    }
    pthread_mutex_unlock(&door);
    return arenas[device];
}

/* ---- device memory ---- */

/* The first gap of the device's arena that is large enough. */
static char *arena_take(int device, size_t bytes) {
    char *at = arenas[device], *end = at + device_bytes();
    for (size_t i = region_find(at); i < region_count && regions[i].base < end; i++) {
        if (at + bytes + GAP <= regions[i].base) break;
        at = regions[i].base + grains(regions[i].bytes) + GAP;
    }
    return at + bytes <= end ? at : NULL;
}

static void overrun_check(const region *r) {
    const unsigned char *end = (unsigned char *)r->base + r->bytes;
    const unsigned char *stop = (unsigned char *)r->base + grains(r->bytes) + GAP;
    if (stop > (unsigned char *)arenas[r->device] + device_bytes()) return;
    sim_memory_enter();
    for (; end < stop; end++)
        if (*end != 0xEE)
            sim_die("byte %td behind device memory of %zu bytes was written", end - (unsigned char *)r->base - (ptrdiff_t)r->bytes,
                    r->bytes);
    sim_memory_leave();
}

cudaError_t cudaMalloc(void **p, size_t bytes) {
    int device = sim_device_current();
    cudaError_t e = sim_capture_forbids();
    if (e == cudaSuccess) e = sim_device_failed(device);
    if (e != cudaSuccess) return sim_error(e);
    *p = NULL;
    if (bytes == 0) return cudaSuccess;
    if (sim_device_count() == 0) return sim_error(cudaErrorNoDevice);
    size_t whole = grains(bytes);
    if (!FROM_MALLOC && !arena_open(device)) return sim_error(cudaErrorMemoryAllocation);
    pthread_mutex_lock(&lock);
    void *at = NULL;
    if (bytes <= device_bytes() && whole <= device_bytes() - taken[device]) {
        if (!FROM_MALLOC) at = arena_take(device, whole);
        else if (posix_memalign(&at, GRAIN, bytes)) at = NULL;
    }
    if (at) {
        region_insert((region){at, bytes, SIM_DEVICE, false, device});
        taken[device] += whole;
    }
    pthread_mutex_unlock(&lock);
    if (!at) return sim_error(cudaErrorMemoryAllocation);
    sim_memory_enter();
    memset(at, 0xFF, bytes < POISON_MAX ? bytes : POISON_MAX);
    if (!FROM_MALLOC && (char *)at + whole + GAP <= arenas[device] + device_bytes())
        memset((char *)at + bytes, 0xEE, whole - bytes + GAP);
    sim_memory_leave();
    *p = at;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    cudaError_t e = sim_capture_forbids();
    if (e != cudaSuccess) return sim_error(e);
    if (!p) return cudaSuccess;
    int device = sim_device_current();
    (void)sim_memory_place(p, 1, &device);
    sim_device_wait(device, true);
    pthread_mutex_lock(&lock);
    size_t at = region_find(p);
    if (at == region_count || regions[at].base != p || regions[at].place != SIM_DEVICE) {
        pthread_mutex_unlock(&lock);
        return sim_error(cudaErrorInvalidValue);
    }
    region r = regions[at];
    if (!FROM_MALLOC) overrun_check(&r);
    region_remove(at);
    taken[r.device] -= grains(r.bytes);
    pthread_mutex_unlock(&lock);
    if (FROM_MALLOC) free(p);
    return sim_error(sim_device_failed(device));
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    cudaError_t e = sim_device_failed(sim_device_current());
    *total = device_bytes();
    *free_bytes = *total - cuda_sim_bytes_taken();
    return sim_error(e);
}
size_t cuda_sim_bytes_taken(void) {
    pthread_mutex_lock(&lock);
    size_t bytes = taken[sim_device_current()];
    pthread_mutex_unlock(&lock);
    return bytes;
}

/* ---- pinned memory ---- */

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags) {
    (void)flags;
    cudaError_t e = sim_capture_forbids();
    if (e == cudaSuccess) e = sim_device_failed(sim_device_current());
    if (e != cudaSuccess) return sim_error(e);
    *p = NULL;
    if (bytes == 0) return cudaSuccess;
    if (posix_memalign(p, 4096, bytes)) return sim_error(cudaErrorMemoryAllocation);
    memset(*p, 0xFF, bytes < POISON_MAX ? bytes : POISON_MAX);
    pthread_mutex_lock(&lock);
    region_insert((region){*p, bytes, SIM_PINNED, false, 0});
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **p, size_t bytes) { return cudaHostAlloc(p, bytes, cudaHostAllocDefault); }

static cudaError_t unpin(void *p, bool registered, cudaError_t otherwise) {
    for (int i = 0; i < sim_device_count(); i++) sim_device_wait(i, true);
    pthread_mutex_lock(&lock);
    size_t at = region_find(p);
    bool found = at < region_count && regions[at].base == p && regions[at].place == SIM_PINNED && regions[at].registered == registered;
    if (found) region_remove(at);
    pthread_mutex_unlock(&lock);
    if (found && !registered) free(p);
    return sim_error(found ? cudaSuccess : otherwise);
}
cudaError_t cudaFreeHost(void *p) {
    cudaError_t e = sim_capture_forbids();
    if (e != cudaSuccess) return sim_error(e);
    return p ? unpin(p, false, cudaErrorInvalidValue) : cudaSuccess;
}
cudaError_t cudaHostUnregister(void *p) {
    cudaError_t e = sim_capture_forbids();
    if (e != cudaSuccess) return sim_error(e);
    return unpin(p, true, cudaErrorHostMemoryNotRegistered);
}
cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned flags) {
    (void)flags;
    cudaError_t e = sim_capture_forbids();
    if (e != cudaSuccess) return sim_error(e);
    if (!p || !bytes) return sim_error(cudaErrorInvalidValue);
    pthread_mutex_lock(&lock);
    size_t at = region_find(p);
    bool there = at < region_count && regions[at].base < (char *)p + bytes;
    if (!there) region_insert((region){p, bytes, SIM_PINNED, true, 0});
    pthread_mutex_unlock(&lock);
    return sim_error(there ? cudaErrorHostMemoryAlreadyRegistered : cudaSuccess);
}
cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned flags) {
    (void)flags;
    *device = host;
    return sim_error(sim_memory_place(host, 1, NULL) == SIM_PINNED ? cudaSuccess : cudaErrorInvalidValue);
}

/* ---- across ranks ---- */

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *p) {
    pthread_mutex_lock(&lock);
    size_t at = region_find(p);
    bool found = at < region_count && regions[at].base <= (char *)p && regions[at].place == SIM_DEVICE;
    memset(handle, 0, sizeof *handle);
    if (found) memcpy(handle->reserved, &regions[at].base, sizeof regions[at].base); /* of the allocation, not of p */
    pthread_mutex_unlock(&lock);
    return sim_error(found ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaIpcOpenMemHandle(void **p, cudaIpcMemHandle_t handle, unsigned flags) {
    (void)flags;
    memcpy(p, handle.reserved, sizeof *p);
    return sim_error(sim_memory_place(*p, 1, NULL) == SIM_DEVICE ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaIpcCloseMemHandle(void *p) {
    return sim_error(sim_memory_place(p, 1, NULL) == SIM_DEVICE ? cudaSuccess : cudaErrorInvalidValue);
}
