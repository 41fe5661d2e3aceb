#include "shard/bench/doctor_gpu.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shard/bench/bandwidth.h"
#include "shard/bench/doctor_measure.h"
#include "shard/bench/over_ranks.h"

/* Products grow until one takes this long: a GPU needs large ones to show what it can do. */
static const double LONG_ENOUGH_S = 1e-3;
static const doctor_product sizes[] = {
    {64, 2816, 256}, {256, 2816, 512}, {1024, 2816, 1024}, {4096, 5376, 2048}, {16384, 5376, 2048}};
enum { SIZES = sizeof sizes / sizeof *sizes, SUMS_TOGETHER = 16, SUM_FLOATS_MAX = 8192 };

uint32_t doctor_count_gpus(const gpu_provider *gpu) {
    enum { SAID_MAX = 250 };
    int how = 0;
    pid_t child = gpu ? fork() : -1;
    if (child == 0) {
        uint32_t n = gpu->count();
        _exit(n < SAID_MAX ? (int)n : SAID_MAX);
    }
    if (child < 0 || waitpid(child, &how, 0) != child || !WIFEXITED(how)) return 0;
    return (uint32_t)WEXITSTATUS(how);
}

static status measure_types(doctor_findings *f, comm *ranks, backend *b) {
    for (int type = 0; type < DOCTOR_TYPES; type++) {
        double seconds = 0;
        for (int i = 0; i < SIZES && seconds < LONG_ENOUGH_S; i++)
            TRY(doctor_multiply(ranks, b, doctor_type[type], &sizes[i], &f->gmac_per_s[type], &seconds));
    }
    return ST_OK;
}

static status measure_sums(doctor_findings *f, comm *ranks, const gpu_provider *gpu, backend *b,
                           const gpu_place *place) {
    comm *sums = NULL;
    void *x = NULL;
    if (comm_size(ranks) == 1) return ST_OK;
    status st;
    TRY_OR_FAIL(gpu->open_comm(&sums, b, &(gpu_comm_options){ranks, place}));
    TRY_OR_FAIL(b->ops->alloc(b, SUM_FLOATS_MAX * sizeof(float), "sums", &x));
    for (uint32_t i = 0; i < DOCTOR_SUMS; i++)
        TRY_OR_FAIL(doctor_sum(ranks, sums, b, x, i, SUMS_TOGETHER, &f->sum_us[i]));
fail:
    if (x) b->ops->release(b, x, SUM_FLOATS_MAX * sizeof(float));
    comm_close(sums);
    return st;
}

static status measure(doctor_findings *f, comm *ranks, const gpu_provider *gpu, backend *b, const gpu_place *place,
                      uint64_t read_bytes) {
    bandwidth read;
    TRY(bandwidth_measure_gpu(&read, ranks, gpu, b, NULL, 0, read_bytes));
    f->read[f->step_count++].gb_per_s = read.gb_per_s;
    TRY(measure_types(f, ranks, b));
    return measure_sums(f, ranks, gpu, b, place);
}

status doctor_measure_gpu(doctor_findings *f, comm *ranks, const gpu_provider *gpu, uint64_t read_bytes) {
    comm_node node = comm_where(ranks);
    const doctor_product *largest = &sizes[SIZES - 1];
    gpu_place place;
    backend *b = NULL;
    bool own;
    TRY(gpu_is_own(ranks, gpu, &own));
    TRY(gpu->choose(own ? 0 : node.local_rank, own ? 1 : node.local_ranks, &place));
    TRY(over_ranks_sum_bytes(ranks, place.free_bytes, &f->device_free_bytes));
    TRY(gpu->open(&b, &(cuda_backend_options){.device = place.device,
                                              .rows_max = largest->tokens,
                                              .slots = 1,
                                              .context = 64,
                                              .hidden = largest->cols,
                                              .columns_max = largest->cols,
                                              .matrix_max = (uint64_t)largest->rows * largest->cols,
                                              .heads_max = 1,
                                              .head_dim_max = 256,
                                              .heads_per_kv_max = 1,
                                              .kv_heads_max = 1}));
    snprintf(f->device, sizeof f->device, "%s", b->name);
    status st = measure(f, ranks, gpu, b, &place, read_bytes);
    b->ops->close(b);
    return st;
}
