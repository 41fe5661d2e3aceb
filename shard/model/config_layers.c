#include <math.h>
#include <stdio.h>
#include <string.h>

#include "shard/model/config_parts.h"

/* layer_types, or the period of full layers that configs had before it. A sliding last layer becomes a full
 * one, as in the published code. */
static status read_types(const config_reader *r, model_config *c) {
    json_t *types = json_object_get(r->text, "layer_types");
    if (!types || json_is_null(types)) {
        uint32_t pattern = 0;
        TRY(json_read_u32_optional(r->text, r->where, "sliding_window_pattern", 1, LIMIT_LAYERS, &pattern));
        if (pattern == 0) return fail(ST_FORMAT, "%s: layer_types is missing", r->where);
        for (uint32_t l = 0; l < c->layers; l++) c->layer[l].full = (l + 1) % pattern == 0;
    } else {
        if (!json_is_array(types)) return fail(ST_FORMAT, "%s: layer_types is not a list", r->where);
        if (json_array_size(types) != c->layers)
            return fail(ST_FORMAT, "%s: layer_types has %zu entries, num_hidden_layers is %u", r->where,
                        json_array_size(types), c->layers);
        for (uint32_t l = 0; l < c->layers; l++) {
            const char *type = json_string_value(json_array_get(types, l));
            if (!type) return fail(ST_FORMAT, "%s: layer_types[%u] is not a string", r->where, l);
            if (strcmp(type, "full_attention") && strcmp(type, "sliding_attention"))
                return fail(ST_UNSUPPORTED,
                            "%s: layer_types[%u] is %.64s; full_attention and sliding_attention are "
                            "supported",
                            r->where, l, type);
            c->layer[l].full = !strcmp(type, "full_attention");
        }
    }
    c->layer[c->layers - 1].full = true;
    return ST_OK;
}

/* "05" -> 5; false for anything but digits. */
static bool layer_number(const char *key, uint32_t *out) {
    size_t n = strspn(key, "0123456789");
    if (n == 0 || n > 9 || key[n] != 0) return false;
    uint32_t number = 0;
    for (size_t i = 0; i < n; i++) number = number * 10 + (uint32_t)(key[i] - '0');
    *out = number;
    return true;
}

/* The newer dialect: what one layer has otherwise than the flat keys say. */
static status read_override(model_config *c, uint32_t l, json_t *entry) {
    char where[96];
    snprintf(where, sizeof where, "config.json: per_layer_config %u", l);
    if (!json_is_object(entry)) return fail(ST_FORMAT, "%s is not an object", where);
    const char *key;
    json_t *value;
    json_object_foreach(entry, key, value) {
        (void)value;
        if (strcmp(key, "head_dim") && strcmp(key, "num_key_value_heads"))
            return fail(ST_UNSUPPORTED,
                        "%s: %.64s cannot differ between layers here; head_dim and "
                        "num_key_value_heads can",
                        where, key);
    }
    layer_config *layer = &c->layer[l];
    TRY(json_read_u32_optional(entry, where, "head_dim", 2, CONFIG_HEAD_DIM_MAX, &layer->head_dim));
    return json_read_u32_optional(entry, where, "num_key_value_heads", 1, c->heads, &layer->kv_heads);
}

static status read_per_layer(const config_reader *r, model_config *c, json_t *overrides) {
    if (!json_is_object(overrides)) return fail(ST_FORMAT, "%s: per_layer_config is not an object", r->where);
    bool seen[LIMIT_LAYERS] = {false};
    const char *key;
    json_t *entry;
    json_object_foreach(overrides, key, entry) {
        uint32_t l;
        if (!layer_number(key, &l))
            return fail(ST_FORMAT, "%s: per_layer_config has the key %.64s, which is not a layer number",
                        r->where, key);
        if (l >= c->layers)
            return fail(ST_FORMAT, "%s: per_layer_config names layer %u, num_hidden_layers is %u", r->where,
                        l, c->layers);
        if (seen[l]) return fail(ST_FORMAT, "%s: per_layer_config names layer %u twice", r->where, l);
        seen[l] = true;
        TRY(read_override(c, l, entry));
    }
    return ST_OK;
}

/* The older dialect: one head size for full layers, and their number of KV heads where K equals V. */
static status read_global(const config_reader *r, model_config *c) {
    uint32_t head_dim = 512, kv_heads = r->kv_heads;
    TRY(json_read_u32_optional(r->text, r->where, "global_head_dim", 2, CONFIG_HEAD_DIM_MAX, &head_dim));
    if (r->k_eq_v)
        TRY(json_read_u32_optional(r->text, r->where, "num_global_key_value_heads", 1, c->heads, &kv_heads));
    for (uint32_t l = 0; l < c->layers; l++) {
        if (!c->layer[l].full) continue;
        c->layer[l].head_dim = head_dim;
        c->layer[l].kv_heads = kv_heads;
    }
    return ST_OK;
}

typedef struct rope {
    double base, factor; /* of the pairs, the first `factor` rotate */
} rope;

static status read_rope(const config_reader *r, json_t *all, bool full, rope *out) {
    const char *kind = full ? "full_attention" : "sliding_attention";
    char where[96];
    snprintf(where, sizeof where, "%s: rope_parameters: %s", r->where, kind);
    /* The published configuration class's defaults, which it takes when the key is absent. */
    *out = full ? (rope){1e6, 0.25} : (rope){1e4, 1};
    if (!all || json_is_null(all)) return ST_OK;
    if (!json_is_object(all)) return fail(ST_FORMAT, "%s: rope_parameters is not an object", r->where);
    json_t *p = json_object_get(all, kind);
    if (!json_is_object(p)) return fail(ST_FORMAT, "%s is missing or not an object", where);
    const char *type = "default";
    double scale = 1, factor = 1;
    TRY(json_read_string_optional(p, where, "rope_type", &type));
    TRY(json_read_double_optional(p, where, "rope_theta", 1, 1e12, &out->base));
    TRY(json_read_double_optional(p, where, "partial_rotary_factor", 0, 1, &factor));
    TRY(json_read_double_optional(p, where, "factor", 0, 1e6, &scale));
    if (strcmp(type, "default") && strcmp(type, "proportional"))
        return fail(ST_UNSUPPORTED, "%s: rope_type is %.64s; default and proportional are supported", where,
                    type);
    if (scale != 1) return fail(ST_UNSUPPORTED, "%s: factor is %g; only 1 is supported", where, scale);
    if (!strcmp(type, "default") && factor != 1)
        return fail(ST_UNSUPPORTED,
                    "%s: partial_rotary_factor is %g with rope_type default, which rotates all "
                    "dimensions",
                    where, factor);
    out->factor = factor;
    return ST_OK;
}

status config_share_kv(model_config *c, const char *where, const char *key, uint32_t shared) {
    uint32_t first = c->layers - shared;
    for (uint32_t l = 0; l < c->layers; l++) {
        layer_config *layer = &c->layer[l];
        layer->owns_kv = l < first;
        layer->kv_source = l;
        if (layer->owns_kv) continue;
        uint32_t source = first;
        while (source > 0 && c->layer[source - 1].full != layer->full) source--;
        if (source == 0)
            return fail(ST_FORMAT,
                        "%s: %s is %u, but no layer before layer %u is of the type of "
                        "layer %u (%s), whose KV it is to share",
                        where, key, shared, first, l, layer->full ? "full_attention" : "sliding_attention");
        layer->kv_source = source - 1;
        const layer_config *owner = &c->layer[layer->kv_source];
        if (owner->head_dim != layer->head_dim || owner->kv_heads != layer->kv_heads)
            return fail(ST_FORMAT,
                        "%s: layer %u shares the KV of layer %u, but has head_dim %u and %u KV heads, not %u "
                        "and %u",
                        where, l, layer->kv_source, layer->head_dim, layer->kv_heads, owner->head_dim,
                        owner->kv_heads);
    }
    return ST_OK;
}

status config_check_heads(const model_config *c, const char *where, uint32_t l) {
    const layer_config *layer = &c->layer[l];
    if (layer->head_dim % 2 != 0)
        return fail(ST_FORMAT, "%s: head_dim of layer %u is %u, which is odd", where, l, layer->head_dim);
    if (c->heads % layer->kv_heads != 0)
        return fail(ST_FORMAT, "%s: %u KV heads of layer %u do not divide num_attention_heads, which is %u",
                    where, layer->kv_heads, l, c->heads);
    return ST_OK;
}

static status finish_layer(const config_reader *r, model_config *c, uint32_t l, uint32_t window,
                           const rope ropes[2]) {
    layer_config *layer = &c->layer[l];
    const rope *p = &ropes[layer->full];
    layer->k_eq_v = layer->full && r->k_eq_v;
    layer->window = layer->full ? 0 : window;
    layer->mlp_width = r->mlp_width * (r->double_wide && l >= c->layers - r->shared ? 2 : 1);
    TRY(config_check_heads(c, r->where, l));
    layer->rope_base = p->base;
    layer->rope_pairs = (uint32_t)floor(p->factor * layer->head_dim / 2);
    return ST_OK;
}

status config_read_layers(const config_reader *r, model_config *c) {
    TRY(read_types(r, c));
    bool used[2] = {false, false}; /* [full] */
    for (uint32_t l = 0; l < c->layers; l++) {
        c->layer[l].head_dim = r->head_dim;
        c->layer[l].kv_heads = r->kv_heads;
        used[c->layer[l].full] = true;
    }
    json_t *overrides = json_object_get(r->text, "per_layer_config");
    if (overrides && !json_is_null(overrides)) TRY(read_per_layer(r, c, overrides));
    else TRY(read_global(r, c));
    uint32_t window = 0;
    if (used[false])
        TRY(json_read_u32(r->text, r->where, "sliding_window", 1, LIMIT_CONTEXT_TOKENS, &window));
    rope ropes[2] = {{0, 0}, {0, 0}};
    json_t *all = json_object_get(r->text, "rope_parameters");
    for (int full = 0; full < 2; full++)
        if (used[full]) TRY(read_rope(r, all, full, &ropes[full]));
    for (uint32_t l = 0; l < c->layers; l++) TRY(finish_layer(r, c, l, window, ropes));
    return config_share_kv(c, r->where, "num_kv_shared_layers", r->shared);
}
