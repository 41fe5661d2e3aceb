/* Between config.c, which reads the model's flat keys, config_layers.c, which resolves the table of layers from
 * them, and config_gguf.c, which takes both from a GGUF file. Nothing else includes this.
 *
 * Memory:  a reader borrows the JSON of its config_parse.
 * Errors:  as config.h. */
#ifndef SHARD_MODEL_CONFIG_PARTS_H
#define SHARD_MODEL_CONFIG_PARTS_H

#include "base/json.h"
#include "proto/limits.h"
#include "shard/model/config.h"

/* Bounds far above any published model and low enough that every product of two of them fits 32 bits where a
 * weight's rows or columns hold it, and 64 bits where bytes are counted. */
enum {
    CONFIG_HIDDEN_MAX = 1 << 17,
    CONFIG_HEADS_MAX = 1 << 10,
    CONFIG_HEAD_DIM_MAX = 1 << 12,
    CONFIG_WIDTH_MAX = 1 << 20, /* of an MLP or expert, before doubling */
    CONFIG_PLE_WIDTH_MAX = 1 << 16,
};
_Static_assert((uint64_t)CONFIG_HEADS_MAX *CONFIG_HEAD_DIM_MAX <= UINT32_MAX, "rows of q_proj");
_Static_assert((uint64_t)LIMIT_LAYERS *CONFIG_PLE_WIDTH_MAX <= UINT32_MAX,
               "columns of the per-layer embedding");

typedef struct config_reader {
    json_t *root, *text;                    /* the same object in a text-only config */
    const char *where;                      /* of text, for messages */
    uint32_t head_dim, kv_heads, mlp_width; /* of layers that nothing else is said about */
    uint32_t shared;                        /* the last so many layers read another layer's cache */
    bool k_eq_v, double_wide;
} config_reader;

/* Fills c->layer[0 … c->layers). c's sizes and r's are there already. */
STATUS_CHECKED status config_read_layers(const config_reader *r, model_config *c);
/* The last `shared` layers read the cache of the last layer before them that is of their own type. Types, head
 * sizes and KV heads are there already. key is what `shared` came from. */
STATUS_CHECKED status config_share_kv(model_config *c, const char *where, const char *key, uint32_t shared);
/* Whether layer l's head size and KV heads are such that attention can be computed. */
STATUS_CHECKED status config_check_heads(const model_config *c, const char *where, uint32_t l);
/* From hidden, ple_width and stored_bf16. */
void config_set_factors(model_config *c);

/* A GGUF file's metadata instead of config.json and generation_config.json. */
STATUS_CHECKED status config_open_gguf(model_config **out, const char *path);

#endif
