/* Weights that nobody trained, for measurements on a published shape: the table of tensors that such a checkpoint would
 * have, and values of sensible scale in whatever layout the kernels read. Norms are 1, matrices keep the size of what
 * goes through them, signs are even, so that hidden states of different tokens stay different and a router spreads them
 * over all experts. The same values at every number of threads; those of float types on every rank and in every float type.
 *
 * Memory:  as checkpoint.h.
 * Threads: any.
 * Errors:  ST_NO_MEMORY. */
#ifndef SHARD_MODEL_WEIGHTS_RANDOM_H
#define SHARD_MODEL_WEIGHTS_RANDOM_H

#include "shard/model/weights.h"

/* Whether a directory says, by a file named random-weights beside config.json, that nobody stored its weights: what
 * `gemmactl bench serve --shape` makes. */
bool weights_random_marked(const char *directory);
/* Every tensor the config asks for, in bf16, as published. */
STATUS_CHECKED status weights_random_checkpoint(checkpoint **out, const model_config *config);
/* One row of a plane of such a tensor as a checkpoint would store it, which is what ranks are filled with too.
 * out[columns]: bf16. */
void weights_random_row(const tensor *t, uint64_t plane, uint64_t row, uint16_t *out);

#endif
