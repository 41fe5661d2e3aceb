// link: shard_core
/* Speed of the quantised products on this machine, through the CPU back end as the model calls it: bytes of
 * weights a second times a few tokens (gemmad-shard doctor measures what memory gives), and multiply-adds a
 * second times many.
 *
 *     build/bench/bench_quant [threads]        GEMMAD_ISA picks the variant */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "shard/kernels/ops.h"

enum { COLS = 5376, TOKENS_MAX = 512, REPEATS = 7 };
static const uint64_t memory_bytes = (uint64_t)1 << 30;

static double seconds_of(backend *b, const weight *w, float *y, const float *x, uint32_t tokens) {
    double best = 1e9;
    for (int i = 0; i < REPEATS; i++) {
        uint64_t start = clock_now_ns();
        b->ops->linear(b, &(product){y, w->rows, w}, 1, x, COLS, tokens);
        double s = (double)(clock_now_ns() - start) * 1e-9;
        best = s < best ? s : best;
    }
    return best;
}

int main(int argc, char **argv) {
    static const uint32_t few[] = {1, 2, 3, 4, 8, 16}, many[] = {16, 32, 64, 128, 256, 512};
    static const char *const names[] = {"q8", "q4"};
    uint32_t threads = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1;
    backend *b = NULL;
    void *memory, *x, *y;
    cpu_backend_options o = {.threads = threads,
                             .spin_us = 100,
                             .pin = true,
                             .rows_max = TOKENS_MAX,
                             .hidden = COLS,
                             .columns_max = COLS,
                             .head_dim_max = 64,
                             .heads_per_kv_max = 1};
    if (cpu_backend_open(&b, &o) != ST_OK || memory_map(&memory, memory_bytes) != ST_OK ||
        memory_map(&x, sizeof(float) * TOKENS_MAX * COLS) != ST_OK ||
        memory_map(&y, sizeof(float) * TOKENS_MAX * (memory_bytes / 2500)) != ST_OK) {
        fprintf(stderr, "bench_quant: %s\n", status_text());
        return 1;
    }
    memset(memory, 0x11, memory_bytes);
    for (size_t i = 0; i < (size_t)TOKENS_MAX * COLS; i++) ((float *)x)[i] = (float)(i % 7) - 3;
    printf("%s, %u threads, %u columns\n", b->name, threads, COLS);
    for (int i = 0; i < 2; i++) {
        weight w = {.data = memory, .cols = COLS, .type = i ? WEIGHT_Q4 : WEIGHT_Q8};
        uint64_t strip = quant_strip_bytes(w.type, COLS);
        w.rows = (uint32_t)(memory_bytes / strip) * QUANT_ROWS;
        for (size_t t = 0; t < sizeof few / sizeof *few; t++) {
            double s = seconds_of(b, &w, y, x, few[t]),
                   rate = (double)(w.rows / QUANT_ROWS * strip) * 1e-9 / s;
            printf("%s %3u tokens %8.2f GB/s %8.1f GMAC/s\n", names[i], few[t], rate,
                   (double)w.rows * COLS * few[t] * 1e-9 / s);
        }
        w.rows = 2048;
        for (size_t t = 0; t < sizeof many / sizeof *many; t++)
            printf("%s %3u tokens, 2048 rows %8.1f GMAC/s\n", names[i], many[t],
                   (double)w.rows * COLS * many[t] * 1e-9 / seconds_of(b, &w, y, x, many[t]));
    }
    b->ops->close(b);
    memory_unmap(memory, memory_bytes);
    memory_unmap(x, sizeof(float) * TOKENS_MAX * COLS);
    memory_unmap(y, sizeof(float) * TOKENS_MAX * (memory_bytes / 2500));
    return 0;
}
