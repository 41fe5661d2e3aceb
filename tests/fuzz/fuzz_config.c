// link: shard_core
/* config.json, and behind a 0 byte generation_config.json. Whatever is accepted must be a table that the rest
 * of the program can rely on, down to the layouts it splits into. */
#include <stdint.h>
#include <string.h>

#include "base/invariant.h"
#include "proto/limits.h"
#include "shard/model/layout.h"
#include "shard/model/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_layers(const model_config *c) {
    for (uint32_t l = 0; l < c->layers; l++) {
        const layer_config *layer = &c->layer[l];
        INVARIANT(layer->head_dim >= 2 && layer->head_dim % 2 == 0 &&
                  layer->rope_pairs <= layer->head_dim / 2);
        INVARIANT(layer->kv_heads >= 1 && c->heads % layer->kv_heads == 0);
        INVARIANT(layer->mlp_width >= 1 && (layer->window == 0) == layer->full);
        INVARIANT(layer->rope_base >= 1);
        const layer_config *source = &c->layer[layer->kv_source];
        INVARIANT(layer->kv_source <= l && layer->owns_kv == (layer->kv_source == l));
        INVARIANT(source->owns_kv && source->full == layer->full && source->head_dim == layer->head_dim);
        INVARIANT(source->kv_heads == layer->kv_heads);
    }
    INVARIANT(c->layer[c->layers - 1].full);
}

static void check_layouts(const model_config *c) {
    char text[64];
    for (uint32_t ranks = 1; ranks <= 8; ranks++) {
        layout *l;
        status st = layout_open(
            &l, c, &(layout_options){.ranks = ranks, .rank = ranks - 1, .group = ranks % 2 ? 1 : 32});
        INVARIANT((st == ST_OK) == (c->heads % ranks == 0));
        if (st != ST_OK) continue;
        INVARIANT(l->vocab.end == c->vocab && l->heads.end == c->heads);
        INVARIANT(model_weights_plan_bytes(c, l, NULL, WEIGHT_BF16, WEIGHTS_AUTO, true) < (uint64_t)1 << 62);
        layout_describe(c, l, text, sizeof text);
        layout_close(l);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    size_t n = end ? (size_t)(end - data) : size;
    model_config *c;
    status st = model_config_parse(&c, (const char *)data, n, end ? (const char *)end + 1 : NULL,
                                   end ? size - n - 1 : 0);
    if (st != ST_OK) {
        INVARIANT(c == NULL && status_text()[0] != 0);
        return 0;
    }
    INVARIANT(c->layers >= 1 && c->layers <= LIMIT_LAYERS && c->vocab <= LIMIT_VOCAB &&
              c->experts <= LIMIT_EXPERTS);
    INVARIANT(c->experts_active <= c->experts && c->end_token_count <= 64 && c->pad_token < c->vocab &&
              c->bos_token < c->vocab);
    INVARIANT(c->default_top_p > 0 && c->default_top_p <= 1 && c->default_temperature >= 0);
    for (uint32_t i = 0; i < c->end_token_count; i++) INVARIANT(c->end_tokens[i] < c->vocab);
    check_layers(c);
    check_layouts(c);
    model_config_close(c);
    return 0;
}
