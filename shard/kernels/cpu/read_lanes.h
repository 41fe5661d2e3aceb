/* The three ways, over vectors of READ_VECTOR bytes. Included by one file a variant. */
#include "shard/kernels/cpu/read_kernels.h"

typedef uint64_t read_vector __attribute__((vector_size(READ_VECTOR), aligned(READ_VECTOR)));
enum { VECTOR_WORDS = READ_VECTOR / 8 };

static inline uint64_t read_fold(read_vector a, read_vector b, read_vector c, read_vector d) {
    read_vector sum = (a + b) + (c + d);
    uint64_t total = 0;
    for (int i = 0; i < VECTOR_WORDS; i++) total += sum[i];
    return total;
}

static uint64_t read_forward(const void *p, size_t bytes) {
    const read_vector *v = p, *end = v + bytes / READ_VECTOR;
    read_vector a = {0}, b = {0}, c = {0}, d = {0};
    for (; v < end; v += 4) a += v[0], b += v[1], c += v[2], d += v[3];
    return read_fold(a, b, c, d);
}

static uint64_t read_four_streams(const void *p, size_t bytes) {
    size_t quarter = bytes / READ_VECTOR / 4;
    const read_vector *v = p;
    read_vector a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t i = 0; i < quarter; i++)
        a += v[i], b += v[quarter + i], c += v[2 * quarter + i], d += v[3 * quarter + i];
    return read_fold(a, b, c, d);
}

/* Hardware stops prefetching at the end of a page; software goes on. A prefetch past the end is harmless. */
static uint64_t read_prefetching(const void *p, size_t bytes) {
    const char *at = p, *end = at + bytes;
    read_vector a = {0}, b = {0}, c = {0}, d = {0};
    for (; at < end; at += 4 * READ_VECTOR) {
        for (int line = 0; line < 4 * READ_VECTOR; line += 64) __builtin_prefetch(at + 2048 + line, 0, 0);
        const read_vector *v = (const read_vector *)(const void *)at;
        a += v[0], b += v[1], c += v[2], d += v[3];
    }
    return read_fold(a, b, c, d);
}
