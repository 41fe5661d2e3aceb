/* A matrix of weights as kernels see it. */
#ifndef SHARD_KERNELS_WEIGHT_H
#define SHARD_KERNELS_WEIGHT_H

#include <stdint.h>

typedef enum weight_type { WEIGHT_F32, WEIGHT_BF16, WEIGHT_F16, WEIGHT_TYPES } weight_type;

typedef struct weight {
    const void *data;   /* [rows, cols] row-major, 64-byte aligned; NULL: this rank holds none or the layer has none */
    uint32_t rows, cols;
    weight_type type;
} weight;

typedef struct expert_weights {
    weight gate, up;    /* [expert width share, hidden] */
    weight down;        /* [hidden, expert width share] */
} expert_weights;

static inline uint32_t weight_element_bytes(weight_type type) { return type == WEIGHT_F32 ? 4 : 2; }

#endif
