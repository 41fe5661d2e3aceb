#include "shard/bench/doctor_measure.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/statistics.h"
#include "shard/bench/bandwidth.h"
#include "shard/bench/over_ranks.h"

enum { ROUNDS = 7, HAND_OUTS = 2000, SUMS = 500 };
static const doctor_product cpu_product = {1024, 2816, 256};

const weight_type doctor_type[DOCTOR_TYPES] = {WEIGHT_F32, WEIGHT_BF16, WEIGHT_Q8, WEIGHT_Q4, WEIGHT_FP8};
const uint32_t doctor_sum_floats[DOCTOR_SUMS] = {2816, 5376};

static uint32_t next_step(uint32_t threads, uint32_t most) {
    uint32_t next = most <= DOCTOR_STEPS ? threads + 1 : threads * 2;
    return threads < most && next > most ? most : next;
}

static status measure_reading(doctor_findings *f, comm *ranks, uint64_t bytes) {
    for (uint32_t t = 1; t <= f->threads && f->step_count < DOCTOR_STEPS; t = next_step(t, f->threads)) {
        pool *threads;
        bandwidth read;
        TRY(pool_open(&threads, &(pool_options){.threads = t, .spin_us = 50}));
        status st = bandwidth_measure(&read, ranks, threads, NULL, 0, bytes, NULL);
        pool_close(threads);
        TRY(st);
        f->read[f->step_count].threads = t;
        f->read[f->step_count++].gb_per_s = read.gb_per_s;
    }
    return ST_OK;
}

/* Values that are small and finite in every type. */
static void fill(void *data, size_t bytes, weight_type type) {
    uint16_t *half = data;
    uint32_t x = 1;
    for (size_t i = 0; i < bytes / 2; i++) {
        x = x * 1664525 + 1013904223;
        half[i] = type == WEIGHT_F32 || type == WEIGHT_BF16 ? 0x3C00 | (x >> 16 & 0x807F) : x >> 16 & 0x3737;
    }
}

static status time_products(comm *ranks, backend *b, const product *p, const float *x, const doctor_product *size,
                            double *seconds) {
    double round[ROUNDS];
    b->ops->linear(b, p, 1, x, size->cols, size->tokens); /* what is loaded or chosen when it is used first */
    TRY(b->ops->finish(b));
    for (int i = 0; i < ROUNDS; i++) {
        TRY(comm_barrier(ranks));
        uint64_t begin = clock_now_ns();
        b->ops->linear(b, p, 1, x, size->cols, size->tokens);
        TRY(b->ops->finish(b));
        round[i] = (double)(clock_now_ns() - begin) / 1e9;
    }
    statistics_sort(round, ROUNDS);
    return over_ranks_most(ranks, statistics_median(round, ROUNDS), seconds);
}

status doctor_multiply(comm *ranks, backend *b, weight_type type, const doctor_product *size, double *gmac_per_s,
                       double *seconds) {
    const size_t matrix_bytes = weight_rows_bytes(type, size->rows, size->cols),
                 input_bytes = (size_t)size->tokens * size->cols * sizeof(float),
                 output_bytes = (size_t)size->tokens * size->rows * sizeof(float);
    void *matrix = NULL, *x = NULL, *y = NULL;
    float *host = memory_alloc(matrix_bytes > input_bytes ? matrix_bytes : input_bytes);
    status st;
    TRY_OR_FAIL(b->ops->alloc(b, matrix_bytes, "a matrix", &matrix));
    TRY_OR_FAIL(b->ops->alloc(b, input_bytes, "inputs", &x));
    TRY_OR_FAIL(b->ops->alloc(b, output_bytes, "outputs", &y));
    fill(host, matrix_bytes, type);
    b->ops->put(b, matrix, host, matrix_bytes);
    for (size_t i = 0; i < input_bytes / sizeof *host; i++) host[i] = (float)(i % 17) - 8;
    b->ops->put(b, x, host, input_bytes);
    weight w = {.data = matrix, .rows = size->rows, .cols = size->cols, .type = type};
    TRY_OR_FAIL(time_products(ranks, b, &(product){y, size->rows, &w}, x, size, seconds));
    *gmac_per_s = (double)size->rows * size->cols * size->tokens / *seconds / 1e9 * comm_size(ranks);
fail:
    if (matrix) b->ops->release(b, matrix, matrix_bytes);
    if (x) b->ops->release(b, x, input_bytes);
    if (y) b->ops->release(b, y, output_bytes);
    free(host);
    return st;
}

/* Ends once every thread has taken one item: nobody can do it all alone. */
static void meet(void *context, uint32_t item, uint32_t thread) {
    (void)item, (void)thread;
    atomic_uint *left = context;
    atomic_fetch_sub(left, 1);
    while (atomic_load(left) > 0) sched_yield();
}

static status measure_hand_out(doctor_findings *f, comm *ranks) {
    pool *threads;
    TRY(pool_open(&threads, &(pool_options){.threads = f->threads, .spin_us = 50}));
    double us[HAND_OUTS];
    for (uint32_t i = 0; i < HAND_OUTS; i++) {
        atomic_uint left = f->threads;
        uint64_t begin = clock_now_ns();
        pool_run(threads, f->threads, meet, &left);
        us[i] = (double)(clock_now_ns() - begin) / 1e3;
    }
    pool_close(threads);
    statistics_sort(us, HAND_OUTS);
    return over_ranks_most(ranks, statistics_median(us, HAND_OUTS), &f->hand_out_us);
}

status doctor_sum(comm *ranks, comm *sums, backend *b, float *x, uint32_t i, uint32_t calls, double *us) {
    double each[SUMS];
    for (int k = 0; k < SUMS; k++) {
        uint64_t begin = clock_now_ns();
        for (uint32_t n = 0; n < calls; n++) TRY(comm_all_reduce(sums, x, doctor_sum_floats[i]));
        TRY(b->ops->finish(b));
        each[k] = (double)(clock_now_ns() - begin) / 1e3 / calls;
    }
    statistics_sort(each, SUMS);
    return over_ranks_most(ranks, statistics_median(each, SUMS), us);
}

status doctor_measure_cpu(doctor_findings *f, comm *ranks, uint64_t read_bytes) {
    backend *b = NULL;
    float x[8192] = {0};
    double seconds;
    cpu_backend_options cpu = {.threads = f->threads,
                               .spin_us = 50,
                               .rows_max = cpu_product.tokens,
                               .active_max = 1,
                               .hidden = cpu_product.cols,
                               .width_max = cpu_product.cols,
                               .head_dim_max = 256,
                               .heads_per_kv_max = 1,
                               .columns_max = cpu_product.cols};
    TRY(measure_reading(f, ranks, read_bytes));
    TRY(cpu_backend_open(&b, &cpu));
    snprintf(f->device, sizeof f->device, "%s", b->name);
    status st = ST_OK;
    for (int i = 0; st == ST_OK && i < DOCTOR_TYPES; i++)
        if (doctor_type[i] != WEIGHT_FP8)
            st = doctor_multiply(ranks, b, doctor_type[i], &cpu_product, &f->gmac_per_s[i], &seconds);
    if (st == ST_OK) st = measure_hand_out(f, ranks);
    for (uint32_t i = 0; st == ST_OK && f->ranks > 1 && i < DOCTOR_SUMS; i++)
        st = doctor_sum(ranks, ranks, b, x, i, 1, &f->sum_us[i]);
    b->ops->close(b);
    return st;
}
