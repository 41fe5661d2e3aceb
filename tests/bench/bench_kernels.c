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

#include "tests/bench/machine.h"

enum { COLS = 5376, ROWS = 16384, ITEM_ROWS = 64, TOKENS_MAX = 256, PREFILL_ROWS = 2048 };

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
