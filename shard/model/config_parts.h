/* Between config.c, which reads the model's flat keys, and config_layers.c, which resolves the table of
 * layers from them. Nothing else includes this.
 *
 * Memory:  a reader borrows the JSON of its config_parse.
 * Errors:  as config.h. */
#ifndef SHARD_MODEL_CONFIG_PARTS_H
#define SHARD_MODEL_CONFIG_PARTS_H

#include "base/json.h"
#include "shard/model/config.h"

typedef struct config_reader {
    json_t *root, *text;                    /* the same object in a text-only config */
    const char *where;                      /* of text, for messages */
    uint32_t head_dim, kv_heads, mlp_width; /* of layers that nothing else is said about */
    uint32_t shared;                        /* the last so many layers read another layer's cache */
    bool k_eq_v, double_wide;
} config_reader;

/* Fills c->layer[0 … c->layers). c's sizes and r's are there already. */
STATUS_CHECKED status config_read_layers(const config_reader *r, model_config *c);

#endif
