/* block_formats.bin: for each format in the order of the enum, random blocks (the first with a subnormal scale, the second
 * with a negative one) and what the format's published decoder, the gguf Python package, makes of them. */
#include "shard/kernels/block_formats.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/file.h"
#include "shard/kernels/cpu/cpu_backend.h"
#include "tests/test.h"

static const struct {
    const char *name;
    uint32_t elements, bytes, blocks;
} cases[BLOCK_FORMATS] = {
    {"Q4_0", 32, 18, 8}, {"Q4_1", 32, 20, 8},   {"Q5_0", 32, 22, 8},   {"Q5_1", 32, 24, 8},
    {"Q8_0", 32, 34, 8}, {"Q4_K", 256, 144, 4}, {"Q5_K", 256, 176, 4}, {"Q6_K", 256, 210, 4},
};

TEST(values_are_the_published_decoders_bit_by_bit) {
    char *data;
    size_t n, at = 0;
    CHECK_STATUS(file_read_all(TEST_DATA "/unit/kernels/block_formats.bin", 1 << 20, &data, &n), ST_OK);
    for (int f = 0; data && f < BLOCK_FORMATS; f++) {
        uint32_t elements = cases[f].elements * cases[f].blocks;
        size_t bytes = (size_t)cases[f].bytes * cases[f].blocks;
        CHECK(block_elements((block_format)f) == cases[f].elements);
        CHECK(block_bytes((block_format)f) == cases[f].bytes);
        float got[BLOCK_ELEMENTS_MAX * 8], want[BLOCK_ELEMENTS_MAX * 8];
        CHECK(at + bytes + elements * sizeof *want <= n);
        memcpy(want, data + at + bytes, elements * sizeof *want);
        block_dequantise((block_format)f, data + at, got, elements);
        for (uint32_t i = 0; i < elements; i++)
            CHECK_THAT(memcmp(&got[i], &want[i], sizeof *got) == 0 || (got[i] == 0 && want[i] == 0),
                       "%s element %u: %a, expected %a", cases[f].name, i, (double)got[i], (double)want[i]);
        at += bytes + elements * sizeof *want;
    }
    CHECK(at == n);
    free(data);
}

/* A table that is looked up in the mapped file: rows of two Q6_K blocks, as a per-layer embedding has them. */
TEST(rows_of_a_table_are_looked_up) {
    char *data;
    size_t n, at = 0;
    float want[4 * BLOCK_ELEMENTS_MAX], got[3 * 2 * BLOCK_ELEMENTS_MAX];
    CHECK_STATUS(file_read_all(TEST_DATA "/unit/kernels/block_formats.bin", 1 << 20, &data, &n), ST_OK);
    if (!data) return;
    for (int f = 0; f < BLOCK_Q6_K; f++)
        at += cases[f].blocks * (cases[f].bytes + cases[f].elements * sizeof(float));
    block_dequantise(BLOCK_Q6_K, data + at, want, 4 * BLOCK_ELEMENTS_MAX);
    backend *b = NULL;
    CHECK_STATUS(cpu_backend_open(&b, &(cpu_backend_options){.threads = 1, .rows_max = 4, .hidden = 512}),
                 ST_OK);
    if (!b) exit(1);
    weight table = {.data = data + at, .rows = 2, .cols = 512, .type = WEIGHT_BLOCKS, .blocks = BLOCK_Q6_K};
    b->ops->rows_begin(b, &(step_rows){.n = 3, .token = (const uint32_t[]){8, 7, 8}});
    b->ops->embed(b, got, &table, 7, 3, 2);
    CHECK_STATUS(b->ops->finish(b), ST_OK);
    for (uint32_t i = 0; i < 512; i++) {
        CHECK(got[i] == 2 * want[512 + i] && got[1024 + i] == got[i]);
        CHECK(got[512 + i] == 2 * want[i]);
    }
    b->ops->close(b);
    free(data);
}

int main(void) {
    RUN(rows_of_a_table_are_looked_up);
    RUN(values_are_the_published_decoders_bit_by_bit);
    return test_result();
}
