/* The simulator's own test, of the libraries that it stands in for: NCCL among threads, and cuBLASLt's product. */
#include <cublasLt.h>
#include <math.h>
#include <nccl.h>
#include <pthread.h>

#include "tests/unit/cuda/cuda_test.h"

enum { RANKS_MAX = 4, COUNT = 1000 };
#define NCCL_OK(call) CHECK_THAT((call) == ncclSuccess, "%s", ncclGetLastError(NULL))

typedef struct rank {
    pthread_t thread;
    int me, size;
    ncclUniqueId id;
    void (*work)(struct rank *r);
    ncclComm_t comm;
    cudaStream_t stream;
    float *a, *b;                       /* device: [RANKS_MAX · COUNT] */
    float host[RANKS_MAX * COUNT];
} rank;

static float value(int of_rank, int i) { return (float)((of_rank * 7919 + i * 31) % 1009) * 0.37f; }

static void *rank_main(void *p) {
    rank *r = p;
    OK(cudaSetDevice(r->me));
    OK(cudaStreamCreateWithFlags(&r->stream, cudaStreamNonBlocking));
    OK(cudaMalloc((void **)&r->a, sizeof r->host));
    OK(cudaMalloc((void **)&r->b, sizeof r->host));
    NCCL_OK(ncclCommInitRank(&r->comm, r->size, r->id, r->me));
    for (int i = 0; i < RANKS_MAX * COUNT; i++) r->host[i] = value(r->me, i);
    OK(cudaMemcpyAsync(r->a, r->host, sizeof r->host, cudaMemcpyHostToDevice, r->stream));
    r->work(r);
    if (r->comm) NCCL_OK(ncclCommDestroy(r->comm));
    OK(cudaFree(r->a));
    OK(cudaFree(r->b));
    OK(cudaStreamDestroy(r->stream));
    return NULL;
}
static rank ranks[RANKS_MAX];
static void run_ranks(int size, void (*work)(rank *r)) {
    ncclUniqueId id;
    NCCL_OK(ncclGetUniqueId(&id));
    for (int i = 0; i < size; i++) {
        ranks[i] = (rank){.me = i, .size = size, .id = id, .work = work};
        if (pthread_create(&ranks[i].thread, NULL, rank_main, &ranks[i])) abort();
    }
    for (int i = 0; i < size; i++) pthread_join(ranks[i].thread, NULL);
}
static void fetch(rank *r, const float *from, size_t floats) {
    OK(cudaMemcpyAsync(r->host, from, floats * sizeof(float), cudaMemcpyDeviceToHost, r->stream));
    OK(cudaStreamSynchronize(r->stream));
}

static void collectives(rank *r) {
    int n = r->size;
    NCCL_OK(ncclAllGather(r->a, r->b, COUNT, ncclFloat32, r->comm, r->stream));
    fetch(r, r->b, (size_t)n * COUNT);
    for (int i = 0; i < n * COUNT; i++) CHECK(r->host[i] == value(i / COUNT, i % COUNT));
    NCCL_OK(ncclAllReduce(r->a, r->b, COUNT, ncclFloat32, ncclSum, r->comm, r->stream));
    fetch(r, r->b, COUNT);
    for (int i = 0; i < COUNT; i++) {
        double want = 0;
        for (int k = 0; k < n; k++) want += value(k, i);
        CHECK(fabs(r->host[i] - want) <= n * 0x1p-24 * want);
    }
    NCCL_OK(ncclReduceScatter(r->a, r->b, 100, ncclFloat32, ncclMax, r->comm, r->stream));
    fetch(r, r->b, 100);
    for (int i = 0; i < 100; i++) {
        float want = 0;
        for (int k = 0; k < n; k++) want = fmaxf(want, value(k, r->me * 100 + i));
        CHECK(r->host[i] == want);
    }
    NCCL_OK(ncclBroadcast(r->a, r->b, COUNT, ncclFloat32, n - 1, r->comm, r->stream));
    fetch(r, r->b, COUNT);
    for (int i = 0; i < COUNT; i++) CHECK(r->host[i] == value(n - 1, i));
    /* Each sends each other a piece of its own length. */
    NCCL_OK(ncclGroupStart());
    for (int k = 0; k < n; k++) {
        NCCL_OK(ncclSend(r->a + k * 10, (size_t)(10 * r->me + k + 1), ncclFloat32, k, r->comm, r->stream));
        NCCL_OK(ncclRecv(r->b + k * COUNT, (size_t)(10 * k + r->me + 1), ncclFloat32, k, r->comm, r->stream));
    }
    NCCL_OK(ncclGroupEnd());
    fetch(r, r->b, (size_t)n * COUNT);
    for (int k = 0; k < n; k++)
        for (int i = 0; i < 10 * k + r->me + 1; i++) CHECK(r->host[k * COUNT + i] == value(k, r->me * 10 + i));
    CHECK(ncclSend(r->host, 1, ncclFloat32, 0, r->comm, r->stream) == ncclInvalidArgument);
}
TEST(ranks_exchange) {
    for (int n = 1; n <= RANKS_MAX; n++) run_ranks(n, collectives);
}

static void recorded(rank *r) {
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    OK(cudaStreamBeginCapture(r->stream, cudaStreamCaptureModeThreadLocal));
    NCCL_OK(ncclAllReduce(r->a, r->a, COUNT, ncclFloat32, ncclSum, r->comm, r->stream));
    OK(cudaStreamEndCapture(r->stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphDestroy(graph));
    for (int i = 0; i < 3; i++) OK(cudaGraphLaunch(exec, r->stream));
    fetch(r, r->a, COUNT);
    for (int i = 0; i < COUNT; i++) {
        double want = 0;
        for (int k = 0; k < r->size; k++) want += value(k, i);
        want *= r->size * r->size;
        CHECK(fabs(r->host[i] - want) <= 9 * 0x1p-24 * want);
    }
    OK(cudaGraphExecDestroy(exec));
}
TEST(recorded_exchanges_are_made_again) { run_ranks(3, recorded); }

/* Rank 0 never comes. What the others wait for ends with their own abort, and with nobody else's. */
static void aborted(rank *r) {
    ncclResult_t error = ncclSuccess;
    if (r->me != 0) {
        NCCL_OK(ncclAllReduce(r->a, r->b, COUNT, ncclFloat32, ncclSum, r->comm, r->stream));
        (void)cudaStreamQuery(r->stream);
        usleep(20000 * (useconds_t)r->me);
        CHECK(cudaStreamQuery(r->stream) == cudaErrorNotReady);
        NCCL_OK(ncclCommGetAsyncError(r->comm, &error));
        CHECK(error == ncclSuccess);
    }
    NCCL_OK(ncclCommAbort(r->comm));
    r->comm = NULL;
    OK(cudaStreamSynchronize(r->stream));
}
TEST(an_abort_ends_a_wait) { run_ranks(3, aborted); }

/* A communicator that does not block: every call is asked after. */
static void *patient_main(void *p) {
    rank *r = p;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclResult_t state = ncclInProgress;
    config.blocking = 0;
    OK(cudaSetDevice(r->me));
    OK(cudaStreamCreateWithFlags(&r->stream, cudaStreamNonBlocking));
    OK(cudaMalloc((void **)&r->a, COUNT * sizeof(float)));
    OK(cudaMemset(r->a, 0, COUNT * sizeof(float)));
    OK(cudaDeviceSynchronize());
    CHECK(ncclCommInitRankConfig(&r->comm, r->size, r->id, r->me, &config) == ncclInProgress);
    while (state == ncclInProgress) NCCL_OK(ncclCommGetAsyncError(r->comm, &state));
    CHECK(state == ncclSuccess);
    CHECK(ncclAllReduce(r->a, r->a, COUNT, ncclFloat32, ncclSum, r->comm, r->stream) == ncclInProgress);
    CHECK(ncclAllReduce(r->a, r->a, COUNT, ncclFloat32, ncclSum, r->comm, r->stream) == ncclInvalidArgument);
    do NCCL_OK(ncclCommGetAsyncError(r->comm, &state));
    while (state == ncclInProgress);
    fetch(r, r->a, COUNT);
    CHECK(r->host[COUNT - 1] == 0);
    CHECK(ncclCommFinalize(r->comm) == ncclInProgress);
    do NCCL_OK(ncclCommGetAsyncError(r->comm, &state));
    while (state == ncclInProgress);
    NCCL_OK(ncclCommDestroy(r->comm));
    OK(cudaFree(r->a));
    OK(cudaStreamDestroy(r->stream));
    return NULL;
}
/* Two ranks on one device. */
static void *crowded_main(void *p) {
    rank *r = p;
    OK(cudaSetDevice(0));
    CHECK(ncclCommInitRank(&r->comm, r->size, r->id, r->me) == ncclInvalidUsage && !r->comm);
    return NULL;
}
TEST(communicators_open) {
    void *(*const mains[])(void *) = {patient_main, crowded_main};
    for (int k = 0; k < 2; k++) {
        ncclUniqueId id;
        NCCL_OK(ncclGetUniqueId(&id));
        for (int i = 0; i < 2; i++) {
            ranks[i] = (rank){.me = i, .size = 2, .id = id};
            if (pthread_create(&ranks[i].thread, NULL, mains[k], &ranks[i])) abort();
        }
        for (int i = 0; i < 2; i++) pthread_join(ranks[i].thread, NULL);
    }
}

/* y[n, rows] = x[n, cols] · w[rows, cols]ᵀ, row-major, which column-major calls y(rows × n) = wᵀ · x. */
TEST(products_are_column_major) {
    enum { ROWS = 9, COLS = 21, COUNT_X = 5, Y_STRIDE = 12 };
    uint16_t w[ROWS][COLS], x[COUNT_X][COLS];
    float y[COUNT_X][Y_STRIDE], one = 1, zero = 0;
    for (int i = 0; i < ROWS * COLS; i++) w[i / COLS][i % COLS] = (uint16_t)(0x3F80 + i % 90);
    for (int i = 0; i < COUNT_X * COLS; i++) x[i / COLS][i % COLS] = (uint16_t)(0xBF80 + i % 70);
    OK(cudaSetDevice(0));
    void *dw = device_of(w, sizeof w), *dx = device_of(x, sizeof x), *dy = device_of(NULL, sizeof y);
    void *workspace = device_of(NULL, 1 << 20);
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t lw, lx, ly;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t found;
    cublasOperation_t turned = CUBLAS_OP_T;
    size_t bytes = 1 << 20;
    int count = 0;
    CHECK(cublasLtCreate(&handle) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasLtMatrixLayoutCreate(&lw, CUDA_R_16BF, COLS, ROWS, COLS) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasLtMatrixLayoutCreate(&lx, CUDA_R_16BF, COLS, COUNT_X, COLS) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasLtMatrixLayoutCreate(&ly, CUDA_R_32F, ROWS, COUNT_X, Y_STRIDE) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasLtMatmulPreferenceCreate(&preference) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes) ==
          CUBLAS_STATUS_SUCCESS);
    CHECK(cublasLtMatmulAlgoGetHeuristic(handle, desc, lw, lx, ly, ly, preference, 1, &found, &count) == CUBLAS_STATUS_SUCCESS);
    CHECK(count == 1);
    CHECK(cublasLtMatmul(handle, desc, &one, dw, lw, dx, lx, &zero, dy, ly, dy, ly, &found.algo, workspace, bytes, NULL) ==
          CUBLAS_STATUS_SUCCESS);
    /* 256 bytes of alignment were promised. */
    CHECK(cublasLtMatmul(handle, desc, &one, (char *)dw + 2, lw, dx, lx, &zero, dy, ly, dy, ly, &found.algo, workspace, bytes,
                         NULL) == CUBLAS_STATUS_INVALID_VALUE);
    OK(cudaMemcpy(y, dy, sizeof y, cudaMemcpyDeviceToHost));
    for (int i = 0; i < COUNT_X; i++)
        for (int j = 0; j < Y_STRIDE; j++) {
            double want = 0;
            for (int k = 0; k < COLS && j < ROWS; k++)
                want += (double)float_of((uint32_t)w[j][k] << 16) * float_of((uint32_t)x[i][k] << 16);
            CHECK(j < ROWS ? fabs(y[i][j] - want) < 22 * 0x1p-24 * 100 : isnan(y[i][j]));
        }
    (void)cublasLtMatmulPreferenceDestroy(preference);
    (void)cublasLtMatrixLayoutDestroy(lw);
    (void)cublasLtMatrixLayoutDestroy(lx);
    (void)cublasLtMatrixLayoutDestroy(ly);
    (void)cublasLtMatmulDescDestroy(desc);
    (void)cublasLtDestroy(handle);
    device_free(dw), device_free(dx), device_free(dy), device_free(workspace);
}

int main(void) {
    setenv("CUDA_SIM_DEVICES", "4", 1);
    setenv("CUDA_SIM_LATE_MS", "1", 0);
    RUN(ranks_exchange);
    RUN(recorded_exchanges_are_made_again);
    RUN(an_abort_ends_a_wait);
    RUN(communicators_open);
    RUN(products_are_column_major);
    return test_result();
}
