/* The simulator's own test, of what kernels do: threads of a block, warps, tensor cores, copies that are under way. On a GPU
 * the same test shows that the simulator is right about it; what a GPU would hang or go wrong at is the simulator's alone. */
#include <math.h>

#include "tests/unit/cuda/cuda_test.h"
#include "tests/unit/cuda/test_cuda_sim.h"

static cudaStream_t stream;

static float float_of_bf16(uint16_t x) { return float_of((uint32_t)x << 16); }

static void fetch(void *host, const void *device, size_t bytes) { device_fetch(stream, host, device, bytes); }

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
    device_free(a);
    device_free(b);
}

enum { BLOCKS = 5, THREADS = 256, N = BLOCKS * THREADS };

TEST(barriers) {
    static float in[N], out[N], sums[N][2];
    for (uint32_t i = 0; i < N; i++) in[i] = random_float();
    float *a = device_of(in, sizeof in), *b = device_of(NULL, sizeof out), *c = device_of(NULL, sizeof sums);
    sim_reverse(stream, a, b, BLOCKS, THREADS, true);
    sim_sums(stream, a, c, BLOCKS, THREADS);
    fetch(out, b, sizeof out);
    fetch(sums, c, sizeof sums);
    for (uint32_t i = 0; i < N; i++) {
        double sum = 0;
        float most = -INFINITY;
        for (uint32_t k = i / THREADS * THREADS; k < (i / THREADS + 1) * THREADS; k++) sum += in[k], most = fmaxf(most, in[k]);
        CHECK(out[i] == in[i / THREADS * THREADS + THREADS - 1 - i % THREADS]);
        CHECK_THAT(fabs(sums[i][0] - sum) < 256 * 0x1p-24 * 16 && sums[i][1] == most, "%u: %g for %g", i, (double)sums[i][0], sum);
    }
    device_free(a);
    device_free(b);
    device_free(c);
}

TEST(barriers_of_some_warps) {
    enum { ROUNDS = 4 };
    static float in[ROUNDS * 384], out[ROUNDS * 384];
    for (uint32_t i = 0; i < ROUNDS * 384; i++) in[i] = random_float();
    float *a = device_of(in, sizeof in), *b = device_of(NULL, sizeof out);
    for (uint32_t rounds = 1; rounds <= ROUNDS; rounds++) {
        sim_halves(stream, a, b, rounds);
        fetch(out, b, sizeof out);
        for (uint32_t i = 0; i < rounds * 384; i++) CHECK(out[i] == in[i / 128 * 128 + 127 - i % 128]);
    }
    device_free(a);
    device_free(b);
}

TEST(product) {
    uint16_t a[16][16], b[16][8];
    float d[16][8], got[16][8];
    for (int i = 0; i < 256; i++) a[i / 16][i % 16] = (uint16_t)(bits_of(random_float()) >> 16);
    for (int i = 0; i < 128; i++) b[i / 8][i % 8] = (uint16_t)(bits_of(random_float()) >> 16), d[i / 8][i % 8] = random_float();
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
    device_free(da);
    device_free(db);
    device_free(dd);
}

TEST(copies_under_way) {
    enum { COUNT = 64 };
    static uint32_t in[COUNT][2][4], out[COUNT][4][4];
    for (uint32_t i = 0; i < COUNT * 8; i++) in[i / 8][i / 4 % 2][i % 4] = random_word();
    void *a = device_of(in, sizeof in), *b = device_of(NULL, sizeof out);
    sim_copies(stream, a, b, COUNT);
    fetch(out, b, sizeof out);
    static const uint32_t poison[4] = {~0u, ~0u, ~0u, ~0u};
    for (uint32_t i = 0; i < COUNT; i++) {
        CHECK(!memcmp(out[i][1], in[i][0], 16) && !memcmp(out[i][3], in[i][1], 16));
#ifdef GEMMAD_CUDA_SIM /* a GPU may be done earlier */
        CHECK(!memcmp(out[i][0], poison, 16) && !memcmp(out[i][2], poison, 16));
#else
        (void)poison;
#endif
    }
    device_free(a);
    device_free(b);
}

/* Nearest even to 8 bits of what `x` is exactly; wide holds the sum to 113 bits. */
static uint32_t bf16_nearest(long double wide) {
    float down = float_of(bits_of((float)wide) & 0xFFFF0000u); /* near enough to look around from */
    uint32_t best = 0x7FFF;
    long double least = INFINITY;
    for (int step = -1; step <= 1; step++) {
        uint32_t u = (bits_of(down) >> 16) + (uint32_t)step;
        long double off = fabsl((long double)float_of_bf16((uint16_t)u) - wide);
        if (off < least || (off == least && u % 2 == 0)) least = off, best = u & 0xFFFF;
    }
    return best;
}

TEST(bf16_rounds_once) {
    enum { COUNT = 4000 };
    static float in[COUNT][2];
    static uint32_t pack[COUNT], abc[COUNT][3], fma[COUNT];
    for (uint32_t i = 0; i < COUNT; i++) {
        for (int h = 0; h < 2; h++) in[i][h] = float_of((random_word() & 0x807FFFFFu) | (100 + random_word() % 50) << 23);
        if (i % 3 == 0) in[i][0] = float_of((bits_of(in[i][0]) & 0xFFFF0000u) | 0x8000u); /* ties */
        /* c near the product, so that its last bits decide, or far below it. */
        for (int k = 0; k < 3; k++) {
            uint32_t spread = k == 2 ? 40 : 10;
            uint32_t low = (random_word() & 0x807Fu) | (120 + random_word() % spread) << 7;
            abc[i][k] = low | ((random_word() & 0x807Fu) | (120 + random_word() % spread) << 7) << 16;
        }
    }
    float *a = device_of(in, sizeof in);
    uint32_t *b = device_of(NULL, sizeof pack), *c = device_of(abc, sizeof abc), *d = device_of(NULL, sizeof fma);
    sim_bf16(stream, a, b, c, d, COUNT);
    fetch(pack, b, sizeof pack);
    fetch(fma, d, sizeof fma);
    for (uint32_t i = 0; i < COUNT; i++) {
        CHECK_THAT(pack[i] == (bf16_nearest(in[i][0]) | bf16_nearest(in[i][1]) << 16), "%a %a: %08x", (double)in[i][0],
                   (double)in[i][1], pack[i]);
        for (int h = 0; h < 2; h++) {
            float x = float_of_bf16((uint16_t)(abc[i][0] >> 16 * h)), y = float_of_bf16((uint16_t)(abc[i][1] >> 16 * h));
            float z = float_of_bf16((uint16_t)(abc[i][2] >> 16 * h));
            long double exact = (long double)x * y + z;
            uint32_t got = fma[i] >> 16 * h & 0xFFFF, want = bf16_nearest(exact);
            if (exact == 0) want &= 0x7FFF, got &= 0x7FFF;
            CHECK_THAT(got == want, "%a * %a + %a: %04x for %04x", (double)x, (double)y, (double)z, got, want);
        }
    }
    device_free(a);
    device_free(b);
    device_free(c);
    device_free(d);
}

TEST(f16_is_exact) {
    static float out[65536];
    float *a = device_of(NULL, sizeof out);
    sim_f16(stream, a);
    fetch(out, a, sizeof out);
    for (uint32_t i = 0; i < 65536; i++) {
        uint32_t exponent = i >> 10 & 31, fraction = i & 1023;
        float want = exponent == 0 ? ldexpf((float)fraction, -24) : ldexpf((float)(1024 + fraction), (int)exponent - 25);
        if (exponent == 31) want = fraction ? NAN : INFINITY;
        if (i >> 15) want = -want;
        CHECK_THAT(isnan(want) ? isnan(out[i]) : bits_of(out[i]) == bits_of(want), "%04x: %a", i, (double)out[i]);
    }
    device_free(a);
}

TEST(counts) {
    enum { BUCKETS = 7 };
    uint32_t counts[BUCKETS + 1] = {0};
    uint32_t *a = device_of(counts, sizeof counts);
    sim_count(stream, a, BUCKETS, 11, 192);
    fetch(counts, a, sizeof counts);
    for (uint32_t i = 0; i < BUCKETS; i++) CHECK(counts[i] == 11 * (192 / BUCKETS + (i < 192 % BUCKETS)));
    CHECK(counts[BUCKETS] == 11 * 192 - 1);
    device_free(a);
}

/* Kernels of two streams that wait for each other's flags run at the same time. */
TEST(flags_between_streams) {
    cudaStream_t other;
    uint32_t flags[2] = {0};
    OK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    uint32_t *a = device_of(flags, sizeof flags);
    sim_flags(stream, a, a + 1, 0, 50);
    sim_flags(other, a + 1, a, 0, 50);
    fetch(flags, a, sizeof flags);
    CHECK(flags[0] == 50 && flags[1] == 50);
    OK(cudaStreamSynchronize(other));
    OK(cudaStreamDestroy(other));
    device_free(a);
}

TEST(launches_that_cannot_be) {
    uint32_t zero = 5;
    uint32_t *a = device_of(&zero, sizeof zero);
    OK(cudaGetLastError());
    sim_too_much(stream, a, 1025, 0);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
    sim_too_much(stream, a, 32, (227 << 10) + 1);
    CHECK(cudaGetLastError() == cudaErrorInvalidValue);
    sim_too_much(stream, a, 1, 48 << 10);
    OK(cudaGetLastError());
    OK(cudaStreamSynchronize(stream));
    device_free(a);
}

#ifdef GEMMAD_CUDA_SIM
/* What a kernel forgot shows in most orders of threads. */
TEST(a_forgotten_barrier_shows) {
    static float in[N], out[N];
    for (uint32_t i = 0; i < N; i++) in[i] = random_float();
    float *a = device_of(in, sizeof in), *b = device_of(NULL, sizeof out);
    for (int run = 0; run < 20; run++) {
        uint32_t wrong = 0;
        sim_reverse(stream, a, b, BLOCKS, THREADS, false);
        fetch(out, b, sizeof out);
        for (uint32_t i = 0; i < N; i++) wrong += out[i] != in[i / THREADS * THREADS + THREADS - 1 - i % THREADS];
        CHECK(wrong > N / 4);
    }
    device_free(a);
    device_free(b);
}

static void launch_wrong(void *fault) {
    cudaStream_t own;
    void *out = NULL;
    if (cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking) || cudaMalloc(&out, 1024)) _exit(3);
    sim_wrong(own, out, *(int *)fault);
    (void)cudaStreamSynchronize(own);
    (void)cudaFree(out);
}

/* The kernel's fault ends the process with a sentence that has both parts. */
static void check_fault(int fault, const char *part, const char *other) {
    char said[4096];
    int how = run_apart(launch_wrong, &fault, said, sizeof said);
    CHECK_THAT(ended_well(how) == (fault == SIM_FAULT_NONE) && strstr(said, part) && strstr(said, other), "fault %d: status %x: \"%s\"",
               fault, (unsigned)how, said);
}

TEST(faults_are_named) {
    check_fault(SIM_FAULT_NONE, "", "");
    check_fault(SIM_FAULT_NO_WAIT, "kernel wrong_kernel, block (0, 0, 0), warp 1, lane 8", "without grid_wait()");
    check_fault(SIM_FAULT_DIVERGED_SHUFFLE, "kernel wrong_kernel", "__shfl_xor_sync");
    check_fault(SIM_FAULT_MIXED, "__shfl_xor_sync", "__syncwarp");
    check_fault(SIM_FAULT_BARRIER, "no thread can go on", "warp 0, lanes 0 to 31: in __syncthreads");
    check_fault(SIM_FAULT_BARRIER_PLACES, "no thread can go on", "warp 1, lanes 0 to 31: in barrier_sync(1)");
    check_fault(SIM_FAULT_LDMATRIX, "ldmatrix_x4", "not 16-byte aligned");
    check_fault(SIM_FAULT_COPY, "cp_async_16 to", "not 16-byte aligned");
    check_fault(SIM_FAULT_LOAD, "load_stream", "not 16-byte aligned");
    check_fault(SIM_FAULT_OVERRUN, "", TEST_SANITIZED ? "" : "behind device memory of 1024 bytes was written");
}
#endif

int main(void) {
    device_needed();
#ifdef GEMMAD_CUDA_SIM
    RUN(faults_are_named); /* forks: before there are threads */
#endif
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    RUN(lanes);
    RUN(barriers);
    RUN(barriers_of_some_warps);
    RUN(product);
    RUN(copies_under_way);
    RUN(bf16_rounds_once);
    RUN(f16_is_exact);
    RUN(counts);
    RUN(flags_between_streams);
    RUN(launches_that_cannot_be);
#ifdef GEMMAD_CUDA_SIM
    RUN(a_forgotten_barrier_shows);
#endif
    OK(cudaStreamDestroy(stream));
    return test_result();
}
