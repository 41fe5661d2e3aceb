#include "shard/gpu/cuda_provider.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "shard/comm/cuda/cuda_comm.h"
#include "shard/kernels/cuda/bandwidth.h"
#include "shard/kernels/cuda/devices.h"

/* Several ranks on one GPU are slower than one, and their exchanges go through the host: it is for tests. */
static bool may_share(void) {
    const char *word = getenv("GEMMAD_GPU_SHARE");
    return word && strcmp(word, "0") != 0 && *word;
}

/* A device that is too old, or sick, is as good as none when nobody asked for a GPU. */
static uint32_t count(void) {
    cuda_device d;
    uint32_t n = cuda_device_count();
    if (n == 0) return 0;
    if (cuda_device_look(0, &d) == ST_OK) return n;
    log_warn("%s; it is not used", status_text());
    return 0;
}

static int node(uint32_t index) {
    cuda_device d;
    uint32_t n = cuda_device_count();
    return n > 0 && cuda_device_look(index % n, &d) == ST_OK ? d.numa_node : -1;
}

static gpu_sight look(void) {
    gpu_sight s = {.visible = cuda_device_count()};
    cuda_device d;
    if (s.visible && cuda_device_look(0, &d) == ST_OK) memcpy(s.first, d.uuid, sizeof s.first);
    return s;
}

static status choose(uint32_t index, uint32_t ranks, gpu_place *out) {
    uint32_t n = cuda_device_count();
    cuda_device d;
    *out = (gpu_place){0};
    if (n == 0) return fail(ST_NOT_FOUND, "there is no GPU that CUDA can use: no driver, or none is visible");
    if (ranks > n && !may_share())
        return fail(ST_LAYOUT,
                    "%u ranks on this machine and %u GPU%s: each rank has one of its own (--ranks and --replicas "
                    "say how many there are, CUDA_VISIBLE_DEVICES which)",
                    ranks, n, n > 1 ? "s" : "");
    out->device = index % n;
    TRY(cuda_device_look(out->device, &d));
    TRY(cuda_device_free_bytes(out->device, &out->free_bytes));
    out->free_bytes /= (ranks + n - 1) / n;
    out->shared = ranks > n;
    return ST_OK;
}

static status open_comm(comm **out, backend *b, const gpu_comm_options *o) {
    return cuda_comm_open(out, &(cuda_comm_options){.ranks = o->ranks,
                                                    .stream = cuda_backend_stream(b),
                                                    .device = (int)o->place->device,
                                                    .staged = o->place->shared});
}

const char *gpu_cuda_built(void) {
    static char said[48];
#ifdef GEMMAD_WITH_NCCL
    static const char nccl[] = "";
#else
    static const char nccl[] = " without NCCL";
#endif
    snprintf(said, sizeof said, "CUDA %d.%d%s", CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10, nccl);
    return said;
}

const gpu_provider *gpu_cuda(void) {
    static const gpu_provider provider = {.count = count,
                                          .look = look,
                                          .node = node,
                                          .choose = choose,
                                          .open = cuda_backend_open,
                                          .bytes = cuda_backend_bytes,
                                          .load = cuda_load_ops,
                                          .open_comm = open_comm,
                                          .read_bandwidth = cuda_read_bandwidth};
    return &provider;
}
