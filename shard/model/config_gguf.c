/* The model as a GGUF file's metadata describes it. Three things are told by tensors alone: the vocabulary (rows of the
 * embedding), whether K equals V (full layers without attn_v), and which pairs of the full layers rotate
 * (rope_freqs.weight divides their frequencies). */
#include <stdio.h>
#include <string.h>

#include "base/gguf.h"
#include "base/memory.h"
#include "shard/model/config_parts.h"

enum { KEY_BYTES = 96, NAME_BYTES = 64 };

/* A pair whose frequency is divided by as much as this turns by less than float32 sees in any context. */
#define ROPE_STILL 1e20f

static const char arch[] = "gemma4";

typedef struct key {
    char text[KEY_BYTES];
} key;

static key key_of(const char *name) {
    key k;
    snprintf(k.text, sizeof k.text, "%s.%s", arch, name);
    return k;
}

static status read_size(const gguf *g, const char *name, uint32_t least, uint32_t most, uint32_t *out) {
    return gguf_read_u32(g, key_of(name).text, least, most, out);
}

static status read_optional(const gguf *g, const char *name, uint32_t most, uint32_t *out) {
    return gguf_read_u32_optional(g, key_of(name).text, 0, most, out);
}

/* As long as the model has layers, or one number for all; layer by layer through `set`. */
static status read_each(const gguf *g, model_config *c, const char *name, uint32_t least, uint32_t most,
                        void (*set)(layer_config *l, uint32_t n)) {
    uint32_t values[LIMIT_LAYERS];
    TRY(gguf_read_u32s(g, key_of(name).text, least, most, c->layers, values));
    for (uint32_t l = 0; l < c->layers; l++) set(&c->layer[l], values[l]);
    return ST_OK;
}

static void set_sliding(layer_config *l, uint32_t n) { l->full = n == 0; }
static void set_kv_heads(layer_config *l, uint32_t n) { l->kv_heads = n; }
static void set_width(layer_config *l, uint32_t n) { l->mlp_width = n; }

static status check_kind(const gguf *g) {
    gguf_text text = {0};
    uint32_t parts = 1;
    TRY(gguf_read_text_optional(g, "general.architecture", &text));
    if (!text.at) return fail(ST_FORMAT, "%s: general.architecture is missing", g->name);
    if (!gguf_text_is(text, arch))
        return fail(ST_UNSUPPORTED, "%s: general.architecture is %.*s; %s is supported", g->name,
                    text.size > 64 ? 64 : (int)text.size, text.at, arch);
    TRY(gguf_read_u32_optional(g, "split.count", 0, UINT32_MAX, &parts));
    if (parts > 1)
        return fail(ST_UNSUPPORTED, "%s: split.count is %u: a model in several GGUF files is not supported",
                    g->name, parts);
    gguf_text scaling = {"none", 4};
    TRY(gguf_read_text_optional(g, key_of("rope.scaling.type").text, &scaling));
    if (!gguf_text_is(scaling, "none"))
        return fail(ST_UNSUPPORTED, "%s: %s.rope.scaling.type is %.*s; only none is supported", g->name, arch,
                    scaling.size > 64 ? 64 : (int)scaling.size, scaling.at);
    return ST_OK;
}

static status read_rows(const gguf *g, const char *name, uint32_t least, uint32_t *out) {
    const gguf_tensor *t = gguf_find_tensor(g, name);
    if (!t) return fail(ST_NOT_FOUND, "%s: tensor %s is missing", g->name, name);
    if (t->dims != 2 || t->shape[1] < least || t->shape[1] > LIMIT_VOCAB)
        return fail(ST_FORMAT, "%s: tensor %s has %u dimensions and %llu rows, allowed are 2 and %u to %d",
                    g->name, name, t->dims, (unsigned long long)t->shape[1], least, LIMIT_VOCAB);
    *out = (uint32_t)t->shape[1];
    return ST_OK;
}

static status read_sizes(const gguf *g, model_config *c) {
    TRY(read_size(g, "block_count", 1, LIMIT_LAYERS, &c->layers));
    TRY(read_size(g, "embedding_length", 1, CONFIG_HIDDEN_MAX, &c->hidden));
    TRY(read_size(g, "attention.head_count", 1, CONFIG_HEADS_MAX, &c->heads));
    TRY(read_size(g, "context_length", 1, LIMIT_CONTEXT_TOKENS, &c->context));
    TRY(read_rows(g, "token_embd.weight", 1, &c->vocab));
    double eps = 1e-6, softcap = 0;
    TRY(gguf_read_double_optional(g, key_of("attention.layer_norm_rms_epsilon").text, 0, 1, &eps));
    TRY(gguf_read_double_optional(g, key_of("final_logit_softcapping").text, 0, 1e6, &softcap));
    c->norm_eps = (float)eps;
    c->softcap = (float)softcap;
    TRY(read_optional(g, "expert_count", LIMIT_EXPERTS, &c->experts));
    if (c->experts > 0) {
        TRY(read_size(g, "expert_used_count", 1, c->experts, &c->experts_active));
        TRY(read_size(g, "expert_feed_forward_length", 1, CONFIG_WIDTH_MAX, &c->expert_width));
    }
    TRY(read_optional(g, "embedding_length_per_layer_input", CONFIG_PLE_WIDTH_MAX, &c->ple_width));
    /* Every token is looked up in the per-layer table too: it cannot be shorter than the vocabulary. */
    if (c->ple_width > 0) TRY(read_rows(g, "per_layer_token_embd.weight", c->vocab, &c->ple_vocab));
    /* Such files are made from bf16 checkpoints, whatever their blocks are now. */
    c->stored_bf16 = true;
    config_set_factors(c);
    return ST_OK;
}

/* What is told twice must be told alike: values have the keys' size, and all of a head's dimensions are given to
 * the rotation, whose still pairs rope_freqs names. */
static status read_head_dim(const gguf *g, bool full, uint32_t *out) {
    static const char *const names[2][3] = {
        {"attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count_swa"},
        {"attention.key_length", "attention.value_length", "rope.dimension_count"}};
    TRY(read_size(g, names[full][0], 2, CONFIG_HEAD_DIM_MAX, out));
    for (int i = 1; i < 3; i++) {
        uint32_t same = *out;
        TRY(gguf_read_u32_optional(g, key_of(names[full][i]).text, 0, UINT32_MAX, &same));
        if (same != *out)
            return fail(ST_UNSUPPORTED, "%s: %s.%s is %u; only %u, as %s.%s, is supported", g->name, arch,
                        names[full][i], same, *out, arch, names[full][0]);
    }
    return ST_OK;
}

static status read_rotating_pairs(const gguf *g, uint32_t head_dim, uint32_t *pairs) {
    const gguf_tensor *t = gguf_find_tensor(g, "rope_freqs.weight");
    if (!t)
        return fail(ST_NOT_FOUND, "%s: tensor rope_freqs.weight, which tells the rotating pairs, is missing",
                    g->name);
    uint32_t half = head_dim / 2;
    if (t->dims != 1 || t->shape[0] != half || strcmp(t->format->name, "F32") != 0)
        return fail(
            ST_FORMAT,
            "%s: tensor rope_freqs.weight has %u dimensions and %llu elements of %s, expected are %u of F32",
            g->name, t->dims, (unsigned long long)t->shape[0], t->format->name, half);
    *pairs = 0;
    for (uint32_t i = 0; i < half; i++) {
        float x;
        memcpy(&x, g->bytes + t->offset + (uint64_t)i * sizeof x, sizeof x);
        bool rotates = x == 1, still = x >= ROPE_STILL;
        if (rotates && *pairs == i) *pairs = i + 1;
        else if (!still)
            return fail(
                ST_UNSUPPORTED,
                "%s: tensor rope_freqs.weight: element %u is %g; supported are ones, and %g and above behind "
                "them",
                g->name, i, (double)x, (double)ROPE_STILL);
    }
    return ST_OK;
}

/* Full layers that keep a cache and have no attn_v take their values from the keys' projection. One without and
 * one with it is left to the loader, which misses the tensor by name. */
static bool has_values_of_full_layers(const gguf *g, const model_config *c) {
    for (uint32_t l = 0; l < c->layers; l++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "blk.%u.attn_v.weight", l);
        if (c->layer[l].full && c->layer[l].owns_kv && gguf_find_tensor(g, name)) return true;
    }
    return false;
}

static status read_pattern(const gguf *g, model_config *c) {
    static const char name[] = "attention.sliding_window_pattern";
    const gguf_value *v = gguf_find(g, key_of(name).text);
    if (v && !v->array)
        return fail(ST_UNSUPPORTED, "%s: %s is one value; only an array is supported", g->name, v->key);
    return read_each(g, c, name, 0, 1, set_sliding);
}

static status read_layers(const gguf *g, model_config *c) {
    bool used[2] = {false, false}; /* [full] */
    uint32_t head_dim[2] = {0, 0}, pairs[2] = {0, 0}, window = 0, shared = 0;
    double base[2] = {1e4, 1e6};
    TRY(read_pattern(g, c));
    TRY(read_each(g, c, "attention.head_count_kv", 1, c->heads, set_kv_heads));
    TRY(read_each(g, c, "feed_forward_length", 1, 2 * CONFIG_WIDTH_MAX, set_width));
    TRY(read_optional(g, "attention.shared_kv_layers", c->layers - 1, &shared));
    for (uint32_t l = 0; l < c->layers; l++) used[c->layer[l].full] = true;
    for (int full = 0; full < 2; full++)
        if (used[full]) TRY(read_head_dim(g, full, &head_dim[full]));
    if (used[false]) TRY(read_size(g, "attention.sliding_window", 1, LIMIT_CONTEXT_TOKENS, &window));
    TRY(gguf_read_double_optional(g, key_of("rope.freq_base_swa").text, 1, 1e12, &base[false]));
    TRY(gguf_read_double_optional(g, key_of("rope.freq_base").text, 1, 1e12, &base[true]));
    pairs[false] = head_dim[false] / 2;
    if (used[true]) TRY(read_rotating_pairs(g, head_dim[true], &pairs[true]));
    for (uint32_t l = 0; l < c->layers; l++) {
        layer_config *layer = &c->layer[l];
        layer->head_dim = head_dim[layer->full];
        layer->window = layer->full ? 0 : window;
        layer->rope_pairs = pairs[layer->full];
        layer->rope_base = base[layer->full];
        TRY(config_check_heads(c, g->name, l));
    }
    TRY(config_share_kv(c, g->name, key_of("attention.shared_kv_layers").text, shared));
    bool k_eq_v = !has_values_of_full_layers(g, c);
    for (uint32_t l = 0; l < c->layers; l++) c->layer[l].k_eq_v = c->layer[l].full && k_eq_v;
    return ST_OK;
}

static void add_end_token(model_config *c, uint32_t id) {
    for (uint32_t i = 0; i < c->end_token_count; i++)
        if (c->end_tokens[i] == id) return;
    c->end_tokens[c->end_token_count++] = id;
}

static status read_tokens(const gguf *g, model_config *c) {
    const gguf_value *tokens;
    uint32_t end = UINT32_MAX, top_k = 0;
    TRY(gguf_read_array(g, "tokenizer.ggml.tokens", GGUF_TEXT, &tokens));
    if (tokens->count > c->vocab)
        return fail(ST_FORMAT, "%s: tokenizer.ggml.tokens has %llu entries, the embedding has %u rows",
                    g->name, (unsigned long long)tokens->count, c->vocab);
    c->pad_token = 0;
    c->bos_token = c->vocab > 2 ? 2 : 0; /* as the published configuration class */
    TRY(gguf_read_u32_optional(g, "tokenizer.ggml.bos_token_id", 0, c->vocab - 1, &c->bos_token));
    TRY(gguf_read_u32_optional(g, "tokenizer.ggml.padding_token_id", 0, c->vocab - 1, &c->pad_token));
    TRY(gguf_read_u32_optional(g, "tokenizer.ggml.eos_token_id", 0, c->vocab - 1, &end));
    if (end != UINT32_MAX) add_end_token(c, end);
    const uint8_t *at = tokens->at;
    for (uint32_t id = 0; id < tokens->count; id++) {
        gguf_text text = gguf_next_text(&at);
        /* The format names one end token, the model has three: published generation_config.json lists them. */
        if (c->end_token_count < 8 &&
            (gguf_text_is(text, "<turn|>") || gguf_text_is(text, "<|tool_response>")))
            add_end_token(c, id);
    }
    c->default_temperature = 1;
    c->default_top_p = 1;
    TRY(gguf_read_double_optional(g, "general.sampling.temp", 0, 2, &c->default_temperature));
    TRY(gguf_read_double_optional(g, "general.sampling.top_p", 0, 1, &c->default_top_p));
    TRY(gguf_read_u32_optional(g, "general.sampling.top_k", 0, INT32_MAX, &top_k));
    c->default_top_k = top_k;
    return ST_OK;
}

static status read_all(const gguf *g, model_config *c) {
    TRY(check_kind(g));
    TRY(read_sizes(g, c));
    c->layer = memory_alloc_array(c->layers, sizeof *c->layer);
    TRY(read_layers(g, c));
    gguf_hash(g, c->hash);
    return read_tokens(g, c);
}

static status read_config(model_config **out, const gguf *g, const char *path) {
    model_config *c = memory_alloc(sizeof *c);
    c->directory = memory_copy_string(path);
    status st = read_all(g, c);
    if (st == ST_OK) *out = c;
    else model_config_close(c);
    return st;
}

status config_open_gguf(model_config **out, const char *path) {
    gguf *g = NULL;
    TRY(gguf_open(&g, path));
    status st = read_config(out, g, path);
    gguf_close(g);
    return st;
}

status model_config_parse_gguf(model_config **out, const uint8_t *bytes, uint64_t n, const char *name) {
    gguf *g = NULL;
    *out = NULL;
    TRY(gguf_parse(&g, bytes, n, name));
    status st = read_config(out, g, name);
    gguf_close(g);
    return st;
}
