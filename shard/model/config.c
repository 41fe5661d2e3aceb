#include "shard/model/config.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/gguf.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/sha256.h"
#include "proto/limits.h"
#include "shard/model/config_parts.h"

enum { CONFIG_BYTES_MAX = 4 << 20 };

/* Which object holds the text model's keys: text_config of a multimodal config, or the root of a text-only
 * one. */
static status find_text(config_reader *r) {
    const char *type = NULL;
    TRY(json_read_string_optional(r->root, "config.json", "model_type", &type));
    if (!type) return fail(ST_FORMAT, "config.json: model_type is missing");
    if (!strcmp(type, "gemma4_text")) {
        r->text = r->root;
        r->where = "config.json";
        return ST_OK;
    }
    if (!strcmp(type, "gemma4_unified") || !strcmp(type, "gemma4_unified_text"))
        return fail(ST_UNSUPPORTED,
                    "config.json: model_type is %s (pixels and samples without towers), which is not "
                    "supported yet",
                    type);
    if (!strncmp(type, "gemma4_assistant", 16))
        return fail(ST_UNSUPPORTED,
                    "config.json: model_type is %s (a drafter, not a model of its own), which is not "
                    "supported yet",
                    type);
    if (strcmp(type, "gemma4"))
        return fail(ST_UNSUPPORTED, "config.json: model_type is %.64s; gemma4 and gemma4_text are supported",
                    type);
    r->text = json_object_get(r->root, "text_config");
    if (!json_is_object(r->text))
        return fail(ST_FORMAT, "config.json: text_config is missing or not an object");
    r->where = "config.json: text_config";
    TRY(json_read_string_optional(r->text, r->where, "model_type", &type));
    if (strcmp(type, "gemma4") && strcmp(type, "gemma4_text"))
        return fail(ST_UNSUPPORTED, "config.json: text_config: model_type is %.64s; gemma4_text is supported",
                    type);
    return ST_OK;
}

/* Keys that change the arithmetic in ways that this engine does not compute: better refused by name than
 * answered wrongly. */
static status refuse_other_arithmetic(const config_reader *r) {
    bool bias = false, tied_root = true, tied_text = true;
    TRY(json_read_bool_optional(r->text, r->where, "attention_bias", &bias));
    if (bias) return fail(ST_UNSUPPORTED, "%s: attention_bias is true; only false is supported", r->where);
    TRY(json_read_bool_optional(r->root, "config.json", "tie_word_embeddings", &tied_root));
    TRY(json_read_bool_optional(r->text, r->where, "tie_word_embeddings", &tied_text));
    if (!tied_root || !tied_text)
        return fail(ST_UNSUPPORTED, "%s: tie_word_embeddings is false; only a tied output head is supported",
                    tied_text ? "config.json" : r->where);
    const char *activation = "gelu_pytorch_tanh";
    TRY(json_read_string_optional(r->text, r->where, "hidden_activation", &activation));
    if (strcmp(activation, "gelu_pytorch_tanh"))
        return fail(ST_UNSUPPORTED, "%s: hidden_activation is %.64s; gelu_pytorch_tanh is supported",
                    r->where, activation);
    json_t *quantisation = json_object_get(r->root, "quantization_config");
    if (quantisation && !json_is_null(quantisation)) {
        const char *method = json_string_value(json_object_get(quantisation, "quant_method"));
        return fail(ST_UNSUPPORTED,
                    "config.json: quantization_config (quant_method %.64s) is not supported; "
                    "checkpoints in bf16, f16 and f32 are",
                    method ? method : "not given");
    }
    return ST_OK;
}

static status read_bidirectional(const config_reader *r, model_config *c) {
    const char *mode = NULL;
    TRY(json_read_string_optional(r->text, r->where, "use_bidirectional_attention", &mode));
    if (mode && strcmp(mode, "vision"))
        return fail(ST_UNSUPPORTED, "%s: use_bidirectional_attention is %.64s; vision and null are supported",
                    r->where, mode);
    c->bidirectional_vision = mode != NULL;
    return ST_OK;
}

static status read_experts(const config_reader *r, model_config *c) {
    bool enabled = false;
    TRY(json_read_bool_optional(r->text, r->where, "enable_moe_block", &enabled));
    if (!enabled) return ST_OK;
    TRY(json_read_u32(r->text, r->where, "num_experts", 1, LIMIT_EXPERTS, &c->experts));
    TRY(json_read_u32(r->text, r->where, "top_k_experts", 1, c->experts, &c->experts_active));
    return json_read_u32(r->text, r->where, "moe_intermediate_size", 1, CONFIG_WIDTH_MAX, &c->expert_width);
}

static status read_sizes(config_reader *r, model_config *c) {
    json_t *t = r->text;
    const char *w = r->where;
    TRY(json_read_u32(t, w, "hidden_size", 1, CONFIG_HIDDEN_MAX, &c->hidden));
    TRY(json_read_u32(t, w, "num_hidden_layers", 1, LIMIT_LAYERS, &c->layers));
    TRY(json_read_u32(t, w, "num_attention_heads", 1, CONFIG_HEADS_MAX, &c->heads));
    TRY(json_read_u32(t, w, "num_key_value_heads", 1, c->heads, &r->kv_heads));
    TRY(json_read_u32(t, w, "head_dim", 2, CONFIG_HEAD_DIM_MAX, &r->head_dim));
    TRY(json_read_u32(t, w, "intermediate_size", 1, CONFIG_WIDTH_MAX, &r->mlp_width));
    TRY(json_read_u32(t, w, "vocab_size", 1, LIMIT_VOCAB, &c->vocab));
    TRY(json_read_u32(t, w, "max_position_embeddings", 1, LIMIT_CONTEXT_TOKENS, &c->context));
    TRY(json_read_bool_optional(t, w, "attention_k_eq_v", &r->k_eq_v));
    TRY(json_read_bool_optional(t, w, "use_double_wide_mlp", &r->double_wide));
    TRY(json_read_u32_optional(t, w, "num_kv_shared_layers", 0, c->layers - 1, &r->shared));
    double eps = 1e-6, softcap = 0;
    TRY(json_read_double_optional(t, w, "rms_norm_eps", 0, 1, &eps));
    TRY(json_read_double_optional(t, w, "final_logit_softcapping", 0, 1e6, &softcap));
    c->norm_eps = (float)eps;
    c->softcap = (float)softcap;
    TRY(read_bidirectional(r, c));
    TRY(read_experts(r, c));
    TRY(json_read_u32_optional(t, w, "hidden_size_per_layer_input", 0, CONFIG_PLE_WIDTH_MAX, &c->ple_width));
    if (c->ple_width == 0) return ST_OK;
    /* Every token is looked up in the per-layer table too: it cannot be shorter than the vocabulary. */
    return json_read_u32(t, w, "vocab_size_per_layer_input", c->vocab, LIMIT_VOCAB, &c->ple_vocab);
}

static float round_to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* A bf16 model multiplies its embeddings by a factor that was itself rounded to bf16, so we do too. */
void config_set_factors(model_config *c) {
    c->embed_factor = (float)sqrt((double)c->hidden);
    c->ple_factor = (float)sqrt((double)c->ple_width);
    if (c->stored_bf16) {
        c->embed_factor = round_to_bf16(c->embed_factor);
        c->ple_factor = round_to_bf16(c->ple_factor);
    }
}

static status read_factors(const config_reader *r, model_config *c) {
    const char *type = NULL;
    TRY(json_read_string_optional(r->text, r->where, "torch_dtype", &type));
    TRY(json_read_string_optional(r->text, r->where, "dtype", &type));
    TRY(json_read_string_optional(r->root, "config.json", "torch_dtype", &type));
    TRY(json_read_string_optional(r->root, "config.json", "dtype", &type));
    c->stored_bf16 = type && !strcmp(type, "bfloat16");
    config_set_factors(c);
    return ST_OK;
}

static status add_end_token(model_config *c, const char *where, json_t *value) {
    if (!json_is_integer(value))
        return fail(ST_FORMAT, "%s: eos_token_id is neither an integer nor a list of them", where);
    json_int_t id = json_integer_value(value);
    if (id < 0)
        return fail(ST_FORMAT, "%s: eos_token_id is %lld, allowed are 0 to %u", where, (long long)id,
                    c->vocab - 1);
    if (id >= (json_int_t)c->vocab) {
        /* Cannot be generated, so it cannot mislead; published generation files outlive cut vocabularies. */
        log_warn("%s: end token %lld is outside the vocabulary of %u and is left out", where, (long long)id,
                 c->vocab);
        return ST_OK;
    }
    for (uint32_t i = 0; i < c->end_token_count; i++)
        if (c->end_tokens[i] == (uint32_t)id) return ST_OK;
    enum { MOST = sizeof c->end_tokens / sizeof *c->end_tokens };
    if (c->end_token_count == MOST)
        return fail(ST_FORMAT, "%s: eos_token_id lists more than %d tokens", where, MOST);
    c->end_tokens[c->end_token_count++] = (uint32_t)id;
    return ST_OK;
}

/* *found: the key was there, so that no further place is asked. */
static status read_end_tokens(model_config *c, json_t *object, const char *where, bool *found) {
    json_t *value = json_object_get(object, "eos_token_id");
    if (*found || !value || json_is_null(value)) return ST_OK;
    *found = true;
    if (!json_is_array(value)) return add_end_token(c, where, value);
    size_t i;
    json_t *item;
    json_array_foreach(value, i, item) TRY(add_end_token(c, where, item));
    return ST_OK;
}

static status read_tokens(const config_reader *r, json_t *generation, model_config *c) {
    static const char gen[] = "generation_config.json";
    bool found = false;
    TRY(read_end_tokens(c, generation, gen, &found));
    TRY(read_end_tokens(c, r->root, "config.json", &found));
    TRY(read_end_tokens(c, r->text, r->where, &found));
    /* The published configuration class's defaults. */
    c->pad_token = 0;
    c->bos_token = c->vocab > 2 ? 2 : 0;
    TRY(json_read_u32_optional(generation, gen, "bos_token_id", 0, c->vocab - 1, &c->bos_token));
    TRY(json_read_u32_optional(r->root, "config.json", "bos_token_id", 0, c->vocab - 1, &c->bos_token));
    TRY(json_read_u32_optional(r->text, r->where, "bos_token_id", 0, c->vocab - 1, &c->bos_token));
    TRY(json_read_u32_optional(r->root, "config.json", "pad_token_id", 0, c->vocab - 1, &c->pad_token));
    TRY(json_read_u32_optional(r->text, r->where, "pad_token_id", 0, c->vocab - 1, &c->pad_token));
    c->default_temperature = 1;
    c->default_top_p = 1;
    TRY(json_read_double_optional(generation, gen, "temperature", 0, 2, &c->default_temperature));
    TRY(json_read_double_optional(generation, gen, "top_p", 0, 1, &c->default_top_p));
    if (c->default_top_p == 0)
        return fail(ST_FORMAT, "%s: top_p is 0, allowed are values above 0 up to 1", gen);
    return json_read_u32_optional(generation, gen, "top_k", 0, LIMIT_VOCAB, &c->default_top_k);
}

static status parse_into(model_config *c, config_reader *r, json_t *generation) {
    TRY(find_text(r));
    TRY(refuse_other_arithmetic(r));
    TRY(read_sizes(r, c));
    TRY(read_factors(r, c));
    c->layer = memory_alloc_array(c->layers, sizeof *c->layer);
    TRY(config_read_layers(r, c));
    return read_tokens(r, generation, c);
}

status model_config_parse(model_config **out, const char *bytes, uint64_t n, const char *generation,
                          uint64_t generation_bytes) {
    *out = NULL;
    status st = ST_OK;
    config_reader reader = {0};
    json_t *generation_root = NULL;
    model_config *c = memory_alloc(sizeof *c);
    c->directory = memory_copy_string("");
    sha256 hash;
    sha256_begin(&hash);
    sha256_add(&hash, bytes, n);
    sha256_end(&hash, c->hash);
    TRY_OR_FAIL(json_read_bytes(bytes, n, "config.json", &reader.root));
    if (generation)
        TRY_OR_FAIL(
            json_read_bytes(generation, generation_bytes, "generation_config.json", &generation_root));
    TRY_OR_FAIL(parse_into(c, &reader, generation_root));
    *out = c;
    c = NULL;
fail:
    json_decref(generation_root);
    json_decref(reader.root);
    model_config_close(c);
    return st;
}

static status check_directory(const char *path) {
    struct stat info;
    if (stat(path, &info) != 0) {
        bool missing = errno == ENOENT || errno == ENOTDIR;
        return fail_errno(missing ? ST_NOT_FOUND : ST_IO, "model %s", path);
    }
    if (S_ISDIR(info.st_mode)) return ST_OK;
    return fail(ST_NOT_FOUND, "model %s is neither a directory nor a GGUF file", path);
}

status model_config_open(model_config **out, const char *path, const char *config_name) {
    *out = NULL;
    if (gguf_is_path(path)) return config_open_gguf(out, path);
    TRY(check_directory(path));
    status st = ST_OK;
    char *metadata = gguf_metadata_path(path);
    if (metadata) {
        st = config_open_gguf(out, metadata);
        free(metadata);
        return st;
    }
    char *config_path = file_join(path, config_name ? config_name : "config.json");
    char *generation_path = file_join(path, "generation_config.json");
    char *bytes = NULL, *generation = NULL;
    size_t n, generation_n = 0;
    TRY_OR_FAIL(file_read_all(config_path, CONFIG_BYTES_MAX, &bytes, &n));
    st = file_read_all(generation_path, CONFIG_BYTES_MAX, &generation, &generation_n);
    if (st == ST_NOT_FOUND) st = ST_OK; /* it is optional */
    if (st != ST_OK) goto fail;
    st = model_config_parse(out, bytes, n, generation, generation_n);
    if (st != ST_OK) {
        st = fail_within(st, "%s", path);
        goto fail;
    }
    free((*out)->directory);
    (*out)->directory = memory_copy_string(path);
fail:
    free(generation);
    free(bytes);
    free(generation_path);
    free(config_path);
    return st;
}

void model_config_close(model_config *config) {
    if (!config) return;
    free(config->directory);
    free(config->layer);
    free(config);
}
