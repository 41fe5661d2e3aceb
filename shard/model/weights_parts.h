/* Between weights_find.c, which finds, checks and slices every tensor, weights.c, which takes the memory and
 * reads, and what fills weights in another way (weights_random.c, weights_pack.c). Nothing else includes this.
 *
 * Memory:  the plan owns parts; they point into the checkpoint and into the model_weights being made.
 * Errors:  as weights.h. */
#ifndef SHARD_MODEL_WEIGHTS_PARTS_H
#define SHARD_MODEL_WEIGHTS_PARTS_H

#include "shard/model/weights_pack.h"
#include "shard/model/weights_table.h"

/* One block of one tensor on its way to memory: a whole vector, or one matrix of this rank's. */
typedef struct weight_part {
    const tensor *source;
    tensor_slice slice; /* of one plane: outer_end is outer_begin + 1 */
    weight_type type;   /* in memory */
    weight *matrix;     /* exactly one of these three is where it goes */
    const float **vector;
    float *scalar;
    char *memory; /* where its bytes go, once placed: of scalars always the host's */
} weight_part;

typedef struct weight_plan {
    const checkpoint *checkpoint;
    const model_config *config;
    const layout *layout;
    weights_choice choice;
    bool on_device; /* tables become parts */
    const char *prefix; /* of the text model's names, "model.language_model." */
    model_weights *weights;
    bool *used;                               /* [tensors of the checkpoint] */
    uint32_t converted[TENSOR_TYPES];         /* tensors of each stored type that are held as another, … */
    const char *converted_name[TENSOR_TYPES]; /* … and what the file calls it */
    weight_part *parts;
    uint32_t count, capacity;
} weight_plan;

/* Fills parts from the tables, or says which tensor is missing, of the wrong shape or dtype, or unknown.
 * Reads no data. model_weights has its layers allocated. */
STATUS_CHECKED status weight_plan_make(weight_plan *plan);
void weight_plan_release(weight_plan *plan);

/* Without any tensor yet; model_weights_close releases. */
model_weights *weights_take(const model_config *config, const layout *l);

/* In place of reading (weights_random.h): rows, counted from the part's first, into out. Of types in strips row_begin is a
 * strip's first row, and out is zeroed. */
void weights_random_fill(const weight_part *part, uint64_t row_begin, uint64_t row_end, void *out);

/* Bytes of a part with what keeps the next one on a cache line of its own. */
static inline uint64_t weights_aligned(uint64_t bytes) {
    enum { ALIGN = 64 };
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}
/* Weights that point into the files' bytes come to point into a copy of them on o->device. */
STATUS_CHECKED status weights_pack_to_device(model_weights *w, const pack_file *file, const pack_file *tables,
                                             const model_config *config, const layout *l,
                                             const weights_pack_options *o);

/* Sets the prefix of the checkpoint's names. */
void weight_plan_find_prefix(weight_plan *plan);
/* Whether blocks of this type have the same values in memory with WEIGHTS_AUTO. */
bool weights_keep_values(tensor_type blocks);
/* Whether an embedding stored so is held as stored too, for its rows, because memory rounds the head's values. */
bool weights_need_rows(weights_choice choice, tensor_type stored);
/* The type of a table that is looked up. */
weight_type weights_table_type(tensor_type stored, bool on_device);
/* NULL: not there. */
const tensor *weight_plan_find(const weight_plan *plan, const weight_entry *e, uint32_t layer);

#endif
