/* The best of many: partial selection and sorting by falling logit, ties by lowest id.
 * Threads: pure functions. */
#ifndef SHARD_SAMPLE_SELECT_H
#define SHARD_SAMPLE_SELECT_H

#include <stdint.h>

typedef struct scored {
    float logit;
    uint32_t token;
} scored;

/* out[k] = the k best of x[n], sorted; ids are first_id + index; k ≤ n. NaN counts as -inf. */
void select_top(scored *out, uint32_t k, const float *x, uint32_t n, uint32_t first_id);
void select_sort(scored *list, uint32_t n);

#endif
