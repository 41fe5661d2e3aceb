// link: shard_core
/* Speed of the CPU kernels on this machine: bytes of weights a second of a matrix times a few tokens, beside
 * the bandwidth that plain reads reach in the same run; multiply-adds a second of a matrix times many tokens,
 * beside the rate of multiply-adds on registers alone; and what starting the pool costs.
 *
 *     build/bench/bench_kernels [threads]        GEMMAD_ISA picks the variant */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/clock.h"
#include "base/memory.h"
#include "shard/kernels/cpu/cpu_kernels.h"
#include "shard/kernels/cpu/pool.h"

enum { COLS = 5376, ROWS = 16384, ITEM_ROWS = 64, TOKENS_MAX = 256, PREFILL_ROWS = 2048, REPEATS = 9 };

typedef struct job {
    const cpu_kernels *kernels;
    weight_type type;
    uint32_t rows, tokens;
    const void *w;  /* [rows, COLS] */
    const float *x; /* [tokens, COLS] */
    float *y;       /* [tokens, rows] */
} job;

static void run_rows(void *context, uint32_t item, uint32_t thread) {
    (void)thread;
    const job *j = context;
    uint32_t first = item * ITEM_ROWS;
    const char *w = (const char *)j->w + (size_t)first * COLS * weight_element_bytes(j->type);
    j->kernels->matmul[j->type](j->y + first, j->rows, j->x, COLS, w, COLS, ITEM_ROWS, j->tokens, COLS);
}

static double seconds_of(pool *p, uint32_t items, pool_work *work, void *context) {
    double best = 1e9, spent = 0;
    for (int i = 0; i < REPEATS && spent < 1; i++) {
        uint64_t start = clock_now_ns();
        pool_run(p, items, work, context);
        double seconds = (double)(clock_now_ns() - start) * 1e-9;
        if (seconds < best) best = seconds;
        spent += seconds;
    }
    return best;
}

/* Four places `apart` bytes from each other are read 64 bytes at a time, `rounds` times, all moving by
 * `step`: 64 apart and 256 a step is one stream, a quarter apart and 64 a step is four, as rows of weights
 * are read. */
typedef struct read_job {
    const char *memory;
    size_t bytes_each;
    bool four_streams, avx2;
    uint64_t sum[512];
} read_job;

static uint64_t read_plain(const char *p, size_t apart, size_t step, size_t rounds) {
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t i = 0; i < rounds; i++, p += step) {
        const uint64_t *p0 = (const void *)p, *p1 = (const void *)(p + apart);
        const uint64_t *p2 = (const void *)(p + 2 * apart), *p3 = (const void *)(p + 3 * apart);
        a ^= p0[0] ^ p0[1] ^ p0[2] ^ p0[3] ^ p0[4] ^ p0[5] ^ p0[6] ^ p0[7];
        b ^= p1[0] ^ p1[1] ^ p1[2] ^ p1[3] ^ p1[4] ^ p1[5] ^ p1[6] ^ p1[7];
        c ^= p2[0] ^ p2[1] ^ p2[2] ^ p2[3] ^ p2[4] ^ p2[5] ^ p2[6] ^ p2[7];
        d ^= p3[0] ^ p3[1] ^ p3[2] ^ p3[3] ^ p3[4] ^ p3[5] ^ p3[6] ^ p3[7];
    }
    return a ^ b ^ c ^ d;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static __m256i load_line(const char *p) {
    return _mm256_xor_si256(_mm256_loadu_si256((const void *)p), _mm256_loadu_si256((const void *)(p + 32)));
}

__attribute__((target("avx2"))) static uint64_t read_avx2(const char *p, size_t apart, size_t step,
                                                          size_t rounds) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (size_t i = 0; i < rounds; i++, p += step) {
        a = _mm256_xor_si256(a, load_line(p)), b = _mm256_xor_si256(b, load_line(p + apart));
        c = _mm256_xor_si256(c, load_line(p + 2 * apart)), d = _mm256_xor_si256(d, load_line(p + 3 * apart));
    }
    a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    return (uint64_t)(_mm256_extract_epi64(a, 0) ^ _mm256_extract_epi64(a, 1) ^ _mm256_extract_epi64(a, 2) ^
                      _mm256_extract_epi64(a, 3));
}
#else
#define read_avx2 read_plain
#endif

static void read_part(void *context, uint32_t item, uint32_t thread) {
    read_job *r = context;
    const char *p = r->memory + item * r->bytes_each;
    size_t apart = r->four_streams ? r->bytes_each / 4 : 64, step = r->four_streams ? 64 : 256;
    r->sum[thread] ^= (r->avx2 ? read_avx2 : read_plain)(p, apart, step, r->bytes_each / 256);
}

/* The best of four ways to read. */
static double read_gb_per_s(pool *p, const void *memory, size_t bytes) {
    double best = 0;
    for (int way = 0; way < (cpu_kernels_avx2() ? 4 : 2); way++) {
        enum { ITEMS = 256 };
        read_job r = {.memory = memory,
                      .bytes_each = bytes / ITEMS / 256 * 256,
                      .four_streams = way & 1,
                      .avx2 = way & 2};
        double rate = (double)(r.bytes_each * ITEMS) / seconds_of(p, ITEMS, read_part, &r) * 1e-9;
        if (rate > best) best = rate;
    }
    return best;
}

#if defined(__x86_64__)
enum { PEAK_ROUNDS = 4000000 };

__attribute__((target("avx2,fma"))) static void fma_avx2(void *context, uint32_t item, uint32_t thread) {
    const float *start = context; /* read at run time, or the compiler would see ten times the same sum */
    (void)item;
    __m256 m = _mm256_set1_ps(0.5f), a0 = _mm256_set1_ps(start[0]), a1 = _mm256_set1_ps(start[1]);
    __m256 a2 = _mm256_set1_ps(start[2]), a3 = _mm256_set1_ps(start[3]), a4 = _mm256_set1_ps(start[4]);
    __m256 a5 = _mm256_set1_ps(start[5]), a6 = _mm256_set1_ps(start[6]), a7 = _mm256_set1_ps(start[7]);
    __m256 a8 = _mm256_set1_ps(start[8]), a9 = _mm256_set1_ps(start[9]);
    for (int i = 0; i < PEAK_ROUNDS; i++) {
        a0 = _mm256_fmadd_ps(a0, m, m), a1 = _mm256_fmadd_ps(a1, m, m), a2 = _mm256_fmadd_ps(a2, m, m);
        a3 = _mm256_fmadd_ps(a3, m, m), a4 = _mm256_fmadd_ps(a4, m, m), a5 = _mm256_fmadd_ps(a5, m, m);
        a6 = _mm256_fmadd_ps(a6, m, m), a7 = _mm256_fmadd_ps(a7, m, m), a8 = _mm256_fmadd_ps(a8, m, m);
        a9 = _mm256_fmadd_ps(a9, m, m);
    }
    __m256 s = _mm256_add_ps(
        _mm256_add_ps(_mm256_add_ps(a0, a1), _mm256_add_ps(a2, a3)),
        _mm256_add_ps(_mm256_add_ps(a4, a5), _mm256_add_ps(a6, _mm256_add_ps(a7, _mm256_add_ps(a8, a9)))));
    ((float *)context)[16 + thread] = _mm256_cvtss_f32(s);
}

__attribute__((target("avx512f"))) static void fma_avx512(void *context, uint32_t item, uint32_t thread) {
    const float *start = context;
    (void)item;
    __m512 m = _mm512_set1_ps(0.5f), a0 = _mm512_set1_ps(start[0]), a1 = _mm512_set1_ps(start[1]);
    __m512 a2 = _mm512_set1_ps(start[2]), a3 = _mm512_set1_ps(start[3]), a4 = _mm512_set1_ps(start[4]);
    __m512 a5 = _mm512_set1_ps(start[5]), a6 = _mm512_set1_ps(start[6]), a7 = _mm512_set1_ps(start[7]);
    __m512 a8 = _mm512_set1_ps(start[8]), a9 = _mm512_set1_ps(start[9]);
    for (int i = 0; i < PEAK_ROUNDS; i++) {
        a0 = _mm512_fmadd_ps(a0, m, m), a1 = _mm512_fmadd_ps(a1, m, m), a2 = _mm512_fmadd_ps(a2, m, m);
        a3 = _mm512_fmadd_ps(a3, m, m), a4 = _mm512_fmadd_ps(a4, m, m), a5 = _mm512_fmadd_ps(a5, m, m);
        a6 = _mm512_fmadd_ps(a6, m, m), a7 = _mm512_fmadd_ps(a7, m, m), a8 = _mm512_fmadd_ps(a8, m, m);
        a9 = _mm512_fmadd_ps(a9, m, m);
    }
    __m512 s = _mm512_add_ps(
        _mm512_add_ps(_mm512_add_ps(a0, a1), _mm512_add_ps(a2, a3)),
        _mm512_add_ps(_mm512_add_ps(a4, a5), _mm512_add_ps(a6, _mm512_add_ps(a7, _mm512_add_ps(a8, a9)))));
    ((float *)context)[16 + thread] = _mm512_cvtss_f32(s);
}
#endif

/* GFLOP/s of multiply-adds on registers, or 0 where this program has no such loop. */
static double peak_gflops(pool *p, const cpu_kernels *k) {
    (void)p, (void)k;
#if defined(__x86_64__)
    float sink[16 + 512] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    uint32_t n = pool_threads(p);
    if (!strcmp(k->name, "avx512"))
        return n * 320.0 * PEAK_ROUNDS / seconds_of(p, n, fma_avx512, sink) * 1e-9;
    if (!strcmp(k->name, "avx2")) return n * 160.0 * PEAK_ROUNDS / seconds_of(p, n, fma_avx2, sink) * 1e-9;
#endif
    return 0;
}

typedef struct meeting {
    uint32_t threads;
    _Atomic uint32_t arrived;
} meeting;

/* Ends when every thread of the pool has taken an item: the price of really using them all. */
static void meet(void *context, uint32_t item, uint32_t thread) {
    meeting *m = context;
    (void)item, (void)thread;
    atomic_fetch_add(&m->arrived, 1);
    while (atomic_load(&m->arrived) < m->threads) {
    }
}

static int compare_ns(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void bench_pool(uint32_t threads, uint32_t spin_us) {
    enum { RUNS = 1000 };
    static uint64_t ns[RUNS];
    pool *p;
    if (pool_open(&p, &(pool_options){.threads = threads, .spin_us = spin_us, .pin = true}) != ST_OK) {
        printf("pool: %s\n", status_text());
        return;
    }
    for (int i = 0; i < RUNS; i++) {
        meeting m = {.threads = threads};
        uint64_t start = clock_now_ns();
        pool_run(p, threads, meet, &m);
        ns[i] = clock_now_ns() - start;
    }
    qsort(ns, RUNS, sizeof *ns, compare_ns);
    printf("pool_run to all %u threads, spin %3u us   %5.2f us median, %5.2f us best tenth\n", threads,
           spin_us, (double)ns[RUNS / 2] * 1e-3, (double)ns[RUNS / 10] * 1e-3);
    pool_close(p);
}

static const char *const type_names[WEIGHT_FLOAT_TYPES] = {"f32", "bf16", "f16"};

static void bench_stream(pool *p, job *j, double read_rate) {
    static const uint32_t tokens[] = {1, 2, 3, 4, 8, 16};
    for (int type = 0; type < WEIGHT_FLOAT_TYPES; type++) {
        for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
            j->type = (weight_type)type, j->tokens = tokens[i];
            j->rows = type == WEIGHT_F32 ? ROWS / 2 : ROWS;
            double seconds = seconds_of(p, j->rows / ITEM_ROWS, run_rows, j);
            double rate = (double)j->rows * COLS * weight_element_bytes(j->type) / seconds * 1e-9;
            printf("%-4s %2u tokens                         %8.2f GB/s  %3.0f %% of read\n", type_names[type],
                   tokens[i], rate, 100 * rate / read_rate);
        }
    }
}

static void bench_prefill(pool *p, job *j, double peak) {
    j->rows = PREFILL_ROWS;
    for (int type = 0; type < WEIGHT_FLOAT_TYPES; type++) {
        for (uint32_t tokens = 64; tokens <= TOKENS_MAX; tokens *= 4) {
            j->type = (weight_type)type, j->tokens = tokens;
            double seconds = seconds_of(p, j->rows / ITEM_ROWS, run_rows, j);
            double rate = 2.0 * j->rows * tokens * COLS / seconds * 1e-9;
            printf("%-4s %3u tokens                        %8.1f GFLOP/s", type_names[type], tokens, rate);
            if (peak > 0) printf("  %3.0f %% of peak", 100 * rate / peak);
            printf("\n");
        }
    }
}

int main(int argc, char **argv) {
    uint32_t threads = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1;
    job j = {0};
    pool *p = NULL;
    void *w = NULL, *x = NULL, *y = NULL;
    const size_t w_bytes = (size_t)ROWS * COLS * 2;
    status st = cpu_kernels_pick(&j.kernels);
    if (st != ST_OK) goto fail;
    TRY_OR_FAIL(pool_open(&p, &(pool_options){.threads = threads, .spin_us = 100, .pin = true}));
    TRY_OR_FAIL(memory_map(&w, w_bytes));
    TRY_OR_FAIL(memory_map(&x, (size_t)TOKENS_MAX * COLS * sizeof(float)));
    TRY_OR_FAIL(memory_map(&y, (size_t)TOKENS_MAX * ROWS * sizeof(float)));
    for (size_t i = 0; i < w_bytes / 2; i++) ((uint16_t *)w)[i] = (uint16_t)(0x3C00 + i % 512);
    for (size_t i = 0; i < (size_t)TOKENS_MAX * COLS; i++) ((float *)x)[i] = (float)(i % 7) - 3;
    j.w = w, j.x = x, j.y = y;
    printf("%s, %u threads, %u columns, %zu MB of weights\n", j.kernels->name, threads, COLS,
           w_bytes / 1000000);
    double read_rate = read_gb_per_s(p, w, w_bytes), peak = peak_gflops(p, j.kernels);
    printf("reads alone                            %8.2f GB/s\n", read_rate);
    if (peak > 0) printf("multiply-adds on registers             %8.1f GFLOP/s\n", peak);
    bench_stream(p, &j, read_rate);
    bench_prefill(p, &j, peak);
    pool_close(p), p = NULL;
    if (threads > 1) bench_pool(threads, 100), bench_pool(threads, 0);
fail:
    if (st != ST_OK) fprintf(stderr, "bench_kernels: %s\n", status_text());
    pool_close(p);
    memory_unmap(w, w_bytes);
    memory_unmap(x, (size_t)TOKENS_MAX * COLS * sizeof(float));
    memory_unmap(y, (size_t)TOKENS_MAX * ROWS * sizeof(float));
    return st == ST_OK ? 0 : 1;
}
