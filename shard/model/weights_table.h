/* Every tensor of a text model by name: its shape, which layers have it, how ranks split it and where it
 * goes. Loading, counting and refusing all read this one table.
 *
 * Memory:  constant.
 * Threads: any. */
#ifndef SHARD_MODEL_WEIGHTS_TABLE_H
#define SHARD_MODEL_WEIGHTS_TABLE_H

#include <stddef.h>

#include "shard/model/weights.h"

typedef enum weight_split {
    SPLIT_NONE,      /* held by every rank */
    SPLIT_HEAD_ROWS, /* [heads · head_dim, …] by query heads */
    SPLIT_KV_ROWS,   /* [kv heads · head_dim, …] by KV heads */
    SPLIT_HEAD_COLS, /* […, heads · head_dim] by query heads */
    SPLIT_MLP_ROWS,
    SPLIT_MLP_COLS,
    SPLIT_VOCAB_ROWS,
    SPLIT_EXPERT_GATE_UP, /* [experts, 2 · width, hidden]: gate's rows first; by experts, then width */
    SPLIT_EXPERT_DOWN,    /* [experts, hidden, width] by experts, then width */
} weight_split;

typedef enum weight_form {
    FORM_VECTOR,     /* const float *, always float32 */
    FORM_MATRIX,     /* weight, of the stored type or float32 */
    FORM_MATRIX_F32, /* weight, always float32 */
    FORM_SCALAR,     /* float */
    FORM_MAPPED,     /* weight that stays in the mapped file */
    FORM_ROWS,       /* the same of a matrix that memory holds with other values; else none */
    FORM_EXPERTS,    /* expert_weights[]: three matrices for each owned expert */
} weight_form;

static inline bool weight_form_is_mapped(weight_form form) { return form == FORM_MAPPED || form == FORM_ROWS; }

typedef enum weight_need {
    NEED_NONE,  /* the model has no such tensor: one of that name is unknown */
    NEED_KNOWN, /* may be there, and is not used */
    NEED_OPTIONAL,
    NEED_YES,
} weight_need;

/* What a dimension is as long as. */
typedef enum weight_length {
    LENGTH_NONE,
    LENGTH_ONE,
    LENGTH_HIDDEN,
    LENGTH_HEAD_DIM,
    LENGTH_Q,
    LENGTH_KV,
    LENGTH_MLP,
    LENGTH_VOCAB,
    LENGTH_EXPERTS,
    LENGTH_EXPERT_WIDTH,
    LENGTH_GATE_UP,
    LENGTH_PLE,
    LENGTH_PLE_VOCAB,
    LENGTH_PLE_ALL,
} weight_length;

typedef enum weight_where {
    WHERE_ALL,
    WHERE_OPTIONAL,
    WHERE_OWN_KV,
    WHERE_OWN_V,
    WHERE_EXPERTS,
    WHERE_PLE,
} weight_where;

typedef struct weight_entry {
    const char *name; /* after "model.language_model.", or after "…layers.N." */
    weight_length length[3];
    weight_where where;
    weight_form form;
    weight_split split;
    size_t place; /* offset in layer_weights, or in model_weights */
} weight_entry;

extern const weight_entry weight_layer_entries[];
extern const uint32_t weight_layer_entry_count;
extern const weight_entry weight_model_entries[];
extern const uint32_t weight_model_entry_count;

/* layer is ignored by entries of the model as a whole. */
weight_need weight_entry_need(const weight_entry *e, const model_config *config, uint32_t layer);
/* Returns the number of dimensions. */
uint32_t weight_entry_shape(const weight_entry *e, const model_config *config, uint32_t layer,
                            uint64_t shape[3]);
/* Rows and columns of the tensor that this rank holds; a vector is one row; of experts: of one expert's gate, or down. */
void weight_entry_share(const weight_entry *e, const model_config *config, const layout *l, uint32_t layer,
                        range *rows, range *cols);

/* What this rank reads of the checkpoint, from shapes, dtypes and the layout's shares alone: by arithmetic,
 * not by the slices that loading makes, so that one checks the other. Blocks of which a rank needs a part count
 * whole. stored(context, entry, layer) is the type in the checkpoint, TENSOR_OTHER for an optional tensor that is
 * not there; layer is UINT32_MAX for entries of the model as a whole. on_device: tables are read too. */
uint64_t weights_expected_bytes(const model_config *config, const layout *l,
                                tensor_type (*stored)(void *context, const weight_entry *e, uint32_t layer),
                                void *context, weights_choice choice, bool on_device);

#endif
