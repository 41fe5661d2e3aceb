#include <string.h>

#include "base/invariant.h"
#include "shard/comm/comm_internal.h"

/* Fixed inner loops are what gcc turns into vector code at -O2; each element still has its one chain of
 * additions. */
enum { LANES = 16, BLOCK = 2048 };

static void add_two(float *restrict out, const float *restrict a, const float *restrict b, size_t n) {
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) out[i + j] = a[i + j] + b[i + j];
    for (; i < n; i++) out[i] = a[i] + b[i];
}

static void add_to(float *restrict out, const float *restrict a, size_t n) {
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) out[i + j] = out[i + j] + a[i + j];
    for (; i < n; i++) out[i] = out[i] + a[i];
}

void comm_sum_in_order(float *restrict out, const float *const *parts, uint32_t n, size_t count) {
    INVARIANT(n >= 1);
    if (n == 1) {
        memcpy(out, parts[0], count * sizeof *out);
        return;
    }
    /* Block by block, so that with many ranks the sums stay in the first-level cache. */
    for (size_t at = 0; at < count; at += BLOCK) {
        size_t some = count - at < BLOCK ? count - at : BLOCK;
        add_two(out + at, parts[0] + at, parts[1] + at, some);
        for (uint32_t r = 2; r < n; r++) add_to(out + at, parts[r] + at, some);
    }
}
