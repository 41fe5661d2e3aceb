/* What this machine can do at most, measured in the run that prints a share of it: bytes read a second, multiply-adds a
 * second on registers. */
#ifndef TESTS_BENCH_MACHINE_H
#define TESTS_BENCH_MACHINE_H

#include <stdbool.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/clock.h"
#include "base/memory.h"
#include "shard/kernels/cpu/cpu_kernels.h"
#include "shard/kernels/cpu/pool.h"

enum { REPEATS = 9 };

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

#endif
