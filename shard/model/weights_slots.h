/* Every matrix, vector and number of one rank's weights, in one order and under one name each: what a packed file holds
 * is written and read by this walk.
 *
 * Memory:  a slot is the walk's own; its places point into the weights.
 * Threads: one.
 * Errors:  the walk ends with the first status that is not ST_OK. */
#ifndef SHARD_MODEL_WEIGHTS_SLOTS_H
#define SHARD_MODEL_WEIGHTS_SLOTS_H

#include "shard/model/weights.h"

typedef struct weight_slot {
    char name[96];    /* "layers.3.mlp.up_proj.weight", "layers.3.experts.17.down" (of this rank's experts) */
    bool any_type;    /* else always WEIGHT_F32 */
    bool mapped;      /* of the model as a whole, whatever the layout: tables that are looked up */
    bool optional;    /* its matrix may be without data, and a pack without it */
    uint32_t rows, cols; /* by config and layout; a vector is one row */
    weight *matrix;   /* exactly one of these three */
    const float **vector;
    float *number;
} weight_slot;

/* w has its layers and experts; what the model has not got has no slot. */
STATUS_CHECKED status weights_walk(model_weights *w, const model_config *config, const layout *l,
                                   status (*visit)(void *context, const weight_slot *slot), void *context);

#endif
