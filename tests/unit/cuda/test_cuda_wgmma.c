/* Products of warpgroups: descriptors, layouts, fragments. Operands are small whole numbers, so that every sum is exact and must
 * have its bits, whatever the order. On a GPU this is where the reading of the manual is proven; there, it runs first. */
#include "tests/unit/cuda/cuda_test.h"
#include "tests/unit/cuda/test_cuda_wgmma.h"

enum { ROWS = 128, DEPTH_MAX = 128, COLUMNS_MAX = 256 };

static cudaStream_t stream;
/* -127 … 127, which a bf16 holds. */
static float whole(void) { return (float)(int32_t)(random_word() % 255) - 127.0f; }
static uint16_t bf16_of(float x) { return (uint16_t)(bits_of(x) >> 16); }

static float a[ROWS][DEPTH_MAX], b[DEPTH_MAX][COLUMNS_MAX], d[ROWS][COLUMNS_MAX];

static void product(const wgmma_case *c, float *got) {
    static uint16_t left[ROWS * DEPTH_MAX], right[DEPTH_MAX * COLUMNS_MAX];
    static float sums[ROWS * COLUMNS_MAX];
    for (uint32_t i = 0; i < ROWS; i++)
        for (uint32_t k = 0; k < c->depth; k++) left[i * c->depth + k] = bf16_of(a[i][k] = whole());
    for (uint32_t k = 0; k < c->depth; k++)
        for (uint32_t j = 0; j < c->columns; j++) right[c->along_n ? k * c->columns + j : j * c->depth + k] = bf16_of(b[k][j] = whole());
    for (uint32_t i = 0; i < ROWS; i++)
        for (uint32_t j = 0; j < c->columns; j++) sums[i * c->columns + j] = d[i][j] = whole();
    size_t bytes = ROWS * c->columns * sizeof *sums;
    uint16_t *device_left = device_of(left, sizeof left), *device_right = device_of(right, sizeof right);
    float *device_sums = device_of(sums, bytes);
    wgmma_product(stream, c, device_left, device_right, device_sums);
    device_fetch(stream, got, device_sums, bytes);
    device_free(device_left), device_free(device_right), device_free(device_sums);
}

static void check_product(wgmma_case c) {
    static float got[ROWS * COLUMNS_MAX];
    uint32_t wrong = 0;
    product(&c, got);
    for (uint32_t i = 0; i < ROWS; i++)
        for (uint32_t j = 0; j < c.columns; j++) {
            float want = d[i][j]; /* below 2^21 */
            for (uint32_t k = 0; k < c.depth; k++) want += a[i][k] * b[k][j];
            if (got[i * c.columns + j] != want && !wrong++)
                CHECK_THAT(wrong == 0, "%u columns, depth %u, along N %u, stride %u, leading %u: (%u, %u) is %g and not %g", c.columns,
                           c.depth, c.along_n, c.stride, c.leading, i, j, (double)got[i * c.columns + j], (double)want);
        }
    CHECK_THAT(wrong == 0, "%u elements", wrong);
}

TEST(products) {
    static const uint32_t depths[] = {16, 64, 112, 128};
    for (uint32_t columns = 64; columns <= 256; columns += 192)
        for (int along_n = 0; along_n < 2; along_n++)
            for (uint32_t i = 0; i < 4; i++)
                for (uint32_t apart = 1; apart <= 2; apart++) {
                    wgmma_case c = {.columns = columns, .depth = depths[i], .along_n = along_n};
                    c.stride = apart * 1024;
                    c.leading = along_n ? apart * 1024 * depths[i] / 8 + (apart - 1) * 1024 : 0;
                    check_product(c);
                }
    /* 64 columns' blocks side by side in each eight steps. */
    check_product((wgmma_case){.columns = 256, .depth = 64, .along_n = true, .stride = 4096, .leading = 1024});
}

#ifdef GEMMAD_CUDA_SIM
static void multiply_wrong(void *fault) {
    static float got[ROWS * COLUMNS_MAX];
    if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)) _exit(3);
    product(&(wgmma_case){.columns = 64, .depth = 64, .stride = 1024, .fault = *(enum wgmma_fault *)fault}, got);
}

/* The kernel's fault ends the process with a sentence that has the part. */
static void check_fault(enum wgmma_fault fault, const char *part) {
    char said[4096];
    int how = run_apart(multiply_wrong, &fault, said, sizeof said);
    CHECK_THAT(!ended_well(how) && strstr(said, part), "fault %d: status %x: \"%s\"", (int)fault, (unsigned)how, said);
}

TEST(faults_are_named) {
    check_fault(WGMMA_FAULT_FENCE, "wgmma without a wgmma_fence before it");
    check_fault(WGMMA_FAULT_PROXY, "without a fence_proxy_async");
    check_fault(WGMMA_FAULT_STORE, "was written without a fence_proxy_async and a barrier behind that");
    check_fault(WGMMA_FAULT_OVERWRITE, "wgmma reads");
    static float got[ROWS * COLUMNS_MAX];
    product(&(wgmma_case){.columns = 64, .depth = 64, .stride = 1024, .fault = WGMMA_FAULT_WAIT}, got);
    uint32_t numbers = 0;
    for (uint32_t i = 0; i < ROWS * 64; i++) numbers += got[i] == got[i];
    CHECK(numbers == 0);
}
#endif

int main(void) {
    struct cudaDeviceProp p;
    device_needed();
    OK(cudaGetDeviceProperties(&p, 0));
    if (p.major != 9 || p.minor != 0) test_skip("only Hopper has wgmma");
#ifdef GEMMAD_CUDA_SIM
    RUN(faults_are_named); /* forks, and so before any stream is there */
#endif
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    RUN(products);
    OK(cudaStreamDestroy(stream));
    return test_result();
}
