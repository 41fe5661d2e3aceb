/* The simulator's own test: threads of a block, what warps do together, order of work. On a GPU the same test shows that the
 * simulator is right about it. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/test.h"
#include "tests/unit/cuda/test_cuda_sim.h"

#define OK(call) CHECK_THAT((call) == cudaSuccess, "%s", cudaGetErrorString(cudaPeekAtLastError()))

static cudaStream_t stream;
static uint64_t random_state = 88172645463325252u;
static uint32_t random_word(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}
static float random_float(void) { return (float)(int32_t)random_word() * 0x1p-31f; }
static uint16_t bf16_of_float(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}
static float float_of_bf16(uint16_t x) {
    uint32_t u = (uint32_t)x << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
/* Device memory that holds the bytes, or NaN. */
static void *device_of(const void *host, size_t bytes) {
    void *p = NULL;
    OK(cudaMalloc(&p, bytes));
    if (host) OK(cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice));
    else OK(cudaMemset(p, 0xFF, bytes));
    OK(cudaDeviceSynchronize()); /* cudaMemset may return before it is done, and our stream does not wait for it */
    return p;
}
static void fetch(void *host, const void *device, size_t bytes) {
    OK(cudaStreamSynchronize(stream));
    OK(cudaGetLastError());
    OK(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost));
}

TEST(lanes) {
    enum { BLOCKS = 3, THREADS = 96, N = BLOCKS * THREADS };
    uint32_t in[N];
    static uint32_t out[N][8];
    for (uint32_t i = 0; i < N; i++) in[i] = random_word();
    uint32_t *a = device_of(in, sizeof in), *b = device_of(NULL, sizeof out);
    sim_lanes(stream, a, b, BLOCKS, THREADS);
    fetch(out, b, sizeof out);
    for (uint32_t i = 0; i < N; i++) {
        const uint32_t *w = in + i / 32 * 32;
        uint32_t l = i % 32, votes = 0, any = 0;
        for (uint32_t k = 0; k < 32; k++) votes |= (w[k] & 1) << k, any |= w[k] % 64 == 0;
        uint32_t want[8] = {w[(l * 7 + 3) % 32], w[l ^ 5], l + 3 < 32 ? w[l + 3] : w[l], l >= 2 ? w[l - 2] : w[l],
                            w[l / 8 * 8 + 1], votes, any | !any << 1, w[l ^ 1]};
        CHECK_THAT(memcmp(want, out[i], sizeof want) == 0, "thread %u", i);
    }
    OK(cudaFree(a));
    OK(cudaFree(b));
}

TEST(barriers) {
    enum { BLOCKS = 5, THREADS = 256, N = BLOCKS * THREADS };
    static float in[N], out[N], sums[N][2];
    for (uint32_t i = 0; i < N; i++) in[i] = random_float();
    float *a = device_of(in, sizeof in), *b = device_of(NULL, sizeof out), *c = device_of(NULL, sizeof sums);
    sim_reverse(stream, a, b, BLOCKS, THREADS, true);
    sim_sums(stream, a, c, BLOCKS, THREADS);
    fetch(out, b, sizeof out);
    fetch(sums, c, sizeof sums);
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < N; i++) {
        double sum = 0;
        float most = -INFINITY;
        for (uint32_t k = i / THREADS * THREADS; k < (i / THREADS + 1) * THREADS; k++) sum += in[k], most = fmaxf(most, in[k]);
        wrong += out[i] != in[i / THREADS * THREADS + THREADS - 1 - i % THREADS];
        CHECK_THAT(fabs(sums[i][0] - sum) < 256 * 0x1p-24 * 16 && sums[i][1] == most, "%u: %g for %g", i, (double)sums[i][0], sum);
    }
    CHECK(wrong == 0);
    enum { ROUNDS = 2 };
    float *d = device_of(NULL, ROUNDS * 128 * sizeof(float));
    sim_halves(stream, a, d, ROUNDS);
    fetch(out, d, ROUNDS * 128 * sizeof(float));
    for (uint32_t i = 0; i < ROUNDS * 128; i++) CHECK(out[i] == in[i / 128 * 128 + 127 - i % 128]);
    OK(cudaFree(a));
    OK(cudaFree(b));
    OK(cudaFree(c));
    OK(cudaFree(d));
}

TEST(product) {
    uint16_t a[16][16], b[16][8];
    float d[16][8], got[16][8];
    for (int i = 0; i < 256; i++) a[i / 16][i % 16] = bf16_of_float(random_float());
    for (int i = 0; i < 128; i++) b[i / 8][i % 8] = bf16_of_float(random_float()), d[i / 8][i % 8] = random_float();
    uint16_t *da = device_of(a, sizeof a), *db = device_of(b, sizeof b);
    float *dd = device_of(d, sizeof d);
    sim_product(stream, da, db, dd);
    fetch(got, dd, sizeof got);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            double want = d[i][j];
            for (int k = 0; k < 16; k++) want += (double)float_of_bf16(a[i][k]) * float_of_bf16(b[k][j]);
            /* 17 terms of at most 1, each sum off by an ulp: a tensor core truncates where it aligns */
            CHECK_THAT(fabs(got[i][j] - want) <= 17 * 17 * 0x1p-23, "(%d, %d): %g for %g", i, j, (double)got[i][j], want);
        }
    OK(cudaFree(da));
    OK(cudaFree(db));
    OK(cudaFree(dd));
}

int main(void) {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) test_skip("no GPU is here");
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    RUN(lanes);
    RUN(barriers);
    RUN(product);
    OK(cudaStreamDestroy(stream));
    return test_result();
}
