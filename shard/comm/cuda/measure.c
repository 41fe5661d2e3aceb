/* Tries out what was opened: that a recorded sum runs again as it should, and whether short sums are faster through peer
 * memory. Both are measured as decode uses them, recorded: what a call costs the host is not in it. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/statistics.h"
#include "shard/comm/cuda/cuda_comm_internal.h"

enum { CALLS = 4, WARM_RUNS = 3, RUNS = 20 };

/* One row of the two larger models. */
static const size_t lengths[] = {2816, 5376};
enum { LENGTHS = sizeof lengths / sizeof *lengths };

typedef status sum_call(cuda_state *s, float *x, size_t count);

/* *exec NULL and ST_OK: CUDA would not record it. */
static status record(cuda_state *s, sum_call *call, float *x, size_t count, cudaGraphExec_t *exec) {
    cudaGraph_t graph = NULL;
    status st = ST_OK;
    *exec = NULL;
    cudaError_t e = cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeThreadLocal);
    if (e == cudaSuccess) {
        for (int i = 0; i < CALLS && st == ST_OK; i++) st = call(s, x, count);
        e = cudaStreamEndCapture(s->stream, &graph);
    }
    if (e == cudaSuccess && st == ST_OK) e = cudaGraphInstantiate(exec, graph, 0);
    if (graph) (void)cudaGraphDestroy(graph);
    if (e != cudaSuccess) (void)cudaGetLastError();
    if (e != cudaSuccess && st == ST_OK) log_warn("exchanges are not recorded: %s", cudaGetErrorString(e));
    return st;
}

static status launch(cuda_state *s, cudaGraphExec_t exec) {
    TRY(cuda_state_check(s));
    CUDA_TRY(cudaGraphLaunch(exec, s->stream));
    return ST_OK;
}

/* Two runs of CALLS sums, of ones on every rank. Each element is then what adding in rank order gives. */
static status check_replay(cuda_state *s, cudaGraphExec_t exec, float *x, float *host, size_t count, bool *good) {
    float want = 1;
    for (size_t i = 0; i < count; i++) host[i] = 1;
    CUDA_TRY(cudaMemcpyAsync(x, host, count * sizeof *x, cudaMemcpyHostToDevice, s->stream));
    for (int run = 0; run < 2; run++) TRY(launch(s, exec));
    TRY(cuda_state_settle(s, CUDA_COMM_CONNECT_SECONDS, "recorded exchanges"));
    CUDA_TRY(cudaMemcpyAsync(host, x, count * sizeof *x, cudaMemcpyDeviceToHost, s->stream));
    CUDA_TRY(cudaStreamSynchronize(s->stream));
    for (int k = 0; k < 2 * CALLS; k++) {
        float sum = want;
        for (uint32_t r = 1; r < s->c.size; r++) sum += want;
        want = sum;
    }
    *good = true;
    for (size_t i = 0; i < count; i++) *good = *good && memcmp(&host[i], &want, sizeof want) == 0;
    return ST_OK;
}

/* Microseconds of one call: the median over runs. */
static status time_calls(cuda_state *s, cudaGraphExec_t exec, cudaEvent_t events[2], float *us) {
    double runs[RUNS];
    for (int i = -WARM_RUNS; i < RUNS; i++) {
        float ms = 0;
        CUDA_TRY(cudaEventRecord(events[0], s->stream));
        TRY(launch(s, exec));
        CUDA_TRY(cudaEventRecord(events[1], s->stream));
        TRY(cuda_state_settle(s, CUDA_COMM_CONNECT_SECONDS, "timing exchanges"));
        CUDA_TRY(cudaEventElapsedTime(&ms, events[0], events[1]));
        if (i >= 0) runs[i] = (double)(ms * 1000 / CALLS);
    }
    statistics_sort(runs, RUNS);
    *us = (float)runs[RUNS / 2];
    return ST_OK;
}

typedef struct trial {
    float us[LENGTHS];
    uint32_t recorded; /* 0: cannot be recorded, or does not run again as it should */
} trial;

static status try_length(cuda_state *s, sum_call *call, float *x, float *host, size_t i, cudaEvent_t events[2], trial *t) {
    cudaGraphExec_t exec = NULL;
    bool good = false;
    TRY(record(s, call, x, lengths[i], &exec));
    /* Whether it was recorded may differ between ranks; then nobody launches what others will not answer. */
    uint32_t mine = exec != NULL, *all = memory_alloc_array(s->c.size, sizeof *all);
    status st = comm_all_gather(s->ranks, &mine, sizeof mine, all);
    for (uint32_t r = 0; r < s->c.size; r++) mine = mine && all[r];
    free(all);
    if (st == ST_OK && mine) st = check_replay(s, exec, x, host, lengths[i], &good);
    if (st == ST_OK && mine) st = time_calls(s, exec, events, &t->us[i]);
    if (exec) (void)cudaGraphExecDestroy(exec);
    t->recorded = t->recorded && good;
    return st;
}

/* The slowest rank's figures, the same everywhere. */
static status gather_slowest(cuda_state *s, trial *t) {
    trial *all = memory_alloc_array(s->c.size, sizeof *all);
    status st = comm_all_gather(s->ranks, t, sizeof *t, all);
    for (uint32_t r = 0; r < s->c.size && st == ST_OK; r++) {
        t->recorded = t->recorded && all[r].recorded;
        for (size_t i = 0; i < LENGTHS; i++)
            if (all[r].us[i] > t->us[i]) t->us[i] = all[r].us[i];
    }
    free(all);
    return st;
}

static status try_way(cuda_state *s, sum_call *call, float *x, float *host, cudaEvent_t events[2], trial *t) {
    *t = (trial){.recorded = 1};
    status st = ST_OK;
    for (size_t i = 0; i < LENGTHS && st == ST_OK; i++)
        if (lengths[i] <= s->small_floats) st = try_length(s, call, x, host, i, events, t);
    TRY(cuda_state_give_up(s, st));
    return gather_slowest(s, t);
}

static status compare(cuda_state *s, float *x, float *host, cudaEvent_t events[2], bool *ordered, bool *peer) {
    trial nccl, other = {.recorded = 0};
    TRY(try_way(s, nccl_all_reduce, x, host, events, &nccl));
    if (s->peer) TRY(try_way(s, peer_all_reduce, x, host, events, &other));
    *ordered = nccl.recorded;
    *peer = other.recorded && other.us[0] + other.us[1] < nccl.us[0] + nccl.us[1];
    if (s->c.rank != 0) return ST_OK;
    if (!nccl.recorded) log_warn("sums by NCCL do not run again as recorded: steps will not be recorded");
    if (s->peer && !other.recorded) log_warn("sums through peer memory do not run again as recorded: NCCL does them");
    if (s->peer)
        log_info("a sum of %zu / %zu floats takes %.1f / %.1f us by NCCL, %.1f / %.1f us through peer memory: %s does those of up "
                 "to %zu",
                 lengths[0], lengths[1], (double)nccl.us[0], (double)nccl.us[1], (double)other.us[0], (double)other.us[1],
                 *peer ? "peer memory" : "NCCL", s->small_floats);
    else log_info("a sum of %zu / %zu floats takes %.1f / %.1f us by NCCL", lengths[0], lengths[1], (double)nccl.us[0],
                  (double)nccl.us[1]);
    return ST_OK;
}

static status take(float **x, cudaEvent_t events[2]) {
    CUDA_TRY(cudaMalloc((void **)x, lengths[LENGTHS - 1] * sizeof **x));
    CUDA_TRY(cudaEventCreate(&events[0]));
    CUDA_TRY(cudaEventCreate(&events[1]));
    return ST_OK;
}

status measure_ways(cuda_state *s, bool *ordered, bool *peer) {
    float *x = NULL, *host = memory_alloc_array(lengths[LENGTHS - 1], sizeof *host);
    cudaEvent_t events[2] = {NULL, NULL};
    status st = cuda_state_agree(s, take(&x, events));
    if (st == ST_OK) st = compare(s, x, host, events, ordered, peer);
    for (int i = 0; i < 2; i++)
        if (events[i]) (void)cudaEventDestroy(events[i]);
    if (x) (void)cudaFree(x);
    free(host);
    return st;
}
