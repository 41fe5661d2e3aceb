/* cuBLASLt and NCCL, which a machine has or has not. On the simulated GPU a test says which; the other build of this test loads
 * what the machine has, and needs no GPU for it. */
#include <stdlib.h>

#include "base/log.h"
#include "base/memory.h"
#include "shard/comm/cuda/cuda_comm.h"
#include "shard/kernels/cuda/cuda_backend.h"
#include "shard/kernels/cuda/linear.h"
#include "shard/kernels/cuda/lt_library.h"
#ifdef GEMMAD_WITH_NCCL
#include "shard/comm/cuda/nccl_library.h"
#endif
#include "tests/log_capture.h"
#include "tests/test.h"

#ifdef GEMMAD_CUDA_SIM
#include "cuda_sim.h"
#include "tests/unit/cuda/cuda_kernels.h"

/* ---- cuBLASLt ---- */

enum { N = 70, ROWS = 40, COLS = 72 };
static const weight_type types[] = {WEIGHT_BF16, WEIGHT_Q8};

static void open_gpu(bool batch_invariant) {
    gpu_open_linear((cuda_backend_options){.rows_max = N, .columns_max = COLS, .matrix_max = ROWS * COLS,
                                           .batch_invariant = batch_invariant}, 2);
}

/* y[N, ROWS] of `w` and x, on the device. */
static void multiply(const weight *w, const float *x, float *y, float out[N * ROWS]) {
    product p = {y, ROWS, w};
    OK(cudaMemset(y, 0xFF, N * ROWS * sizeof *y));
    OK(cudaDeviceSynchronize());
    cuda_linear(&gpu.base, &p, 1, x, COLS, N);
    fetch(out, y, N * ROWS * sizeof *y);
}

/* Any bits will do that are no NaN: two kinds of the same products are compared. */
static void *device_random(size_t bytes, uint8_t mask) {
    uint8_t *host = memory_alloc(bytes);
    for (size_t i = 0; i < bytes; i++) host[i] = (uint8_t)((i * 2654435761u >> 13) & mask);
    void *p = device_of(host, bytes);
    free(host);
    return p;
}

static void products_without(weight_type type) {
    static float want[N * ROWS], got[N * ROWS], usual[N * ROWS];
    weight w = {.type = type, .rows = ROWS, .cols = COLS};
    size_t bytes = weight_in_strips(type) ? (ROWS + 15) / 16 * quant_strip_bytes(type, COLS) : ROWS * COLS * sizeof(uint16_t);
    void *matrix = device_random(bytes, 0x3F);
    float *x = device_random(N * COLS * sizeof *x, 0x3F), *y = device_random(N * ROWS * sizeof *y, 0);
    w.data = matrix;
    open_gpu(true);
    multiply(&w, x, y, want);
    gpu_close_linear();
    lt_library_pretend_missing(true);
    size_t before = cuda_sim_bytes_taken();
    open_gpu(false);
    CHECK(cuda_sim_bytes_taken() == before);
    multiply(&w, x, y, got);
    gpu_close_linear();
    lt_library_pretend_missing(false);
    CHECK_THAT(memcmp(want, got, sizeof want) == 0, "type %d", type);
    unsigned long long launches = cuda_sim_launches();
    open_gpu(false);
    multiply(&w, x, y, usual);
    gpu_close_linear();
    CHECK(cuda_sim_launches() > launches);
    CHECK_THAT(memcmp(want, usual, sizeof want) != 0, "type %d: it is found again, and rounds", type);
    device_free(matrix), device_free(x), device_free(y);
}

TEST(products_go_without_cublaslt) {
    char said[1 << 12];
    log_capture_begin();
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) products_without(types[i]);
    log_capture_end(said, sizeof said);
    const char *warned = strstr(said, "there is no cuBLASLt: a test says so: our own kernels read prompts, more slowly");
    CHECK_THAT(warned && !strstr(warned + 1, "there is no cuBLASLt"), "%s", said);
}

/* ---- NCCL ---- */

static status open_rank(comm *ranks, void *context) {
    comm *c = NULL;
    cudaStream_t stream;
    const char *way = context;
    cuda_comm_options o = {.ranks = ranks, .device = (int)comm_rank(ranks), .no_peer = true};
    if (cudaSetDevice(o.device) != cudaSuccess || cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess)
        return fail(ST_INTERNAL, "no stream");
    o.stream = stream;
    status st = cuda_comm_open(&c, &o);
    if (st == ST_OK && strcmp(cuda_comm_way(c), way) != 0) st = fail(ST_INTERNAL, "%s, not %s", cuda_comm_way(c), way);
    comm_close(c);
    (void)cudaStreamDestroy(stream);
    return st;
}

static void open_ranks(uint32_t ranks, const char *way, char *said, size_t size) {
    char expected[16];
    snprintf(expected, sizeof expected, "%s", way);
    log_capture_begin();
    status st = comm_fork_run(&(comm_fork_options){.ranks = ranks, .threads = true}, open_rank, expected);
    log_capture_end(said, size);
    CHECK_THAT(st == ST_OK, "%s", status_text());
}

static int times(const char *text, const char *part) {
    int n = 0;
    for (; (text = strstr(text, part)); text++) n++;
    return n;
}

TEST(exchanges_go_without_nccl) {
    char said[1 << 12];
    nccl_library_pretend_missing(true);
    open_ranks(1, "self", said, sizeof said);
    CHECK_THAT(times(said, "NCCL") == 0, "a lone rank looks for none: %s", said);
    open_ranks(3, "staged", said, sizeof said);
    CHECK_THAT(times(said, "there is no NCCL: a test says so") == 3, "%s", said);
    CHECK_THAT(times(said, "without NCCL exchanges between GPUs go through host memory") == 1, "%s", said);
    nccl_library_pretend_missing(false);
    open_ranks(3, "nccl", said, sizeof said);
    CHECK_THAT(times(said, "there is no NCCL") == 0, "%s", said);
}

int main(void) {
    log_open("test", LOG_WARN);
    setenv("CUDA_SIM_DEVICES", "3", 1);
    setenv("CUDA_SIM_LATE_MS", "1", 0);
    RUN(products_go_without_cublaslt);
    RUN(exchanges_go_without_nccl);
    return test_result();
}

#else

/* Every function is there, and the log says which library that is; or a sentence says what is missing. Returns whether it is. */
static bool load(const char *what, status (*open)(void), const char *file) {
    char said[1 << 12], line[64];
    log_capture_begin();
    status first = open(), again = open();
    log_capture_end(said, sizeof said);
    CHECK(first == again);
    snprintf(line, sizeof line, " %s ", what);
    if (first == ST_OK) CHECK_THAT(strstr(said, line) && strstr(said, file), "%s", said);
    else CHECK_THAT(strstr(status_text(), what) && !*said, "%s; %s", status_text(), said);
    printf("%s%s", first == ST_OK ? said : status_text(), first == ST_OK ? "" : "\n");
    return first == ST_OK;
}

TEST(what_is_found_is_said) {
    bool all = load("cuBLASLt", lt_library_open, "libcublasLt.so");
#ifdef GEMMAD_WITH_NCCL
    all = load("NCCL", nccl_library_open, "libnccl.so") && all;
#endif
    if (!all) test_skip("not all of CUDA's libraries are here");
}

int main(void) {
    log_open("test", LOG_INFO);
    RUN(what_is_found_is_said);
    return test_result();
}

#endif
