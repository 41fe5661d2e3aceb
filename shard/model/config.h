/* A Gemma 4 text model as config.json (in either dialect) or a GGUF file's metadata describes it, resolved to one table
 * a layer. Nothing downstream asks for a model's name or for a dialect: it reads this.
 *
 * Source:  docs/model.md (every equation); sizes come from config.json or the metadata alone.
 * Memory:  model_config_open allocates, model_config_close releases; NULL is fine. Read-only after open.
 * Threads: any may read.
 * Errors:  ST_NOT_FOUND (no such directory or file), ST_FORMAT (key, value, bound), ST_UNSUPPORTED (a kind of model that
 *          this build does not run, with what it is). */
#ifndef SHARD_MODEL_CONFIG_H
#define SHARD_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"

typedef struct layer_config {
    bool full;             /* full attention; else sliding over `window` positions */
    bool k_eq_v;           /* full layers of a K=V model: no v_proj, the cache holds u = rms(Wk x) alone */
    bool owns_kv;          /* false: reads the cache of layer kv_source and has no k/v weights */
    uint32_t kv_source;    /* the layer whose cache is read; its own number when it owns one */
    uint32_t head_dim;     /* of this layer, even */
    uint32_t kv_heads;     /* divides the model's query heads */
    uint32_t mlp_width;    /* doubled already on layers with a double-wide MLP */
    uint32_t window;       /* sliding: position p sees p-window+1 ... p; full: 0 */
    uint32_t rope_pairs;   /* dimensions i and i + head_dim/2 rotate together for i < rope_pairs */
    double rope_base;      /* angle of pair i at position p: p · base^(-2i / head_dim) */
} layer_config;

typedef struct model_config {
    char *directory;       /* where the checkpoint lies; the GGUF file itself */
    uint32_t hidden, layers, heads, vocab;
    uint32_t context;      /* max_position_embeddings */
    float norm_eps, softcap /* of the logits; 0: none */, embed_factor /* sqrt(hidden), bf16-rounded if stored_bf16 */;
    bool stored_bf16;      /* the checkpoint's dtype is bfloat16; so it was of what GGUF files are made from */
    uint32_t experts, experts_active, expert_width; /* 0, 0, 0: no mixture beside the dense MLP */
    uint32_t ple_width;    /* per-layer embeddings; 0: none */
    uint32_t ple_vocab;    /* rows of the per-layer embedding table */
    float ple_factor;      /* sqrt(ple_width), rounded like embed_factor */
    bool bidirectional_vision;
    uint32_t pad_token, bos_token;
    /* generation_config.json, else config.json top level, else text_config; a GGUF file names one, and its tokens
     * "<turn|>" and "<|tool_response>" are the others */
    uint32_t end_tokens[64], end_token_count;
    double default_temperature, default_top_p; /* generation_config.json; 1 and 1 when absent */
    uint32_t default_top_k;                    /* 0: off */
    layer_config *layer;   /* [layers] */
    uint8_t hash[32];      /* SHA-256 of config.json's bytes; of a GGUF file, gguf_hash */
} model_config;

/* path is a directory with config.json (and generation_config.json, optional), or with metadata.gguf (gguf.h), or a GGUF
 * file. config_name NULL: "config.json". */
STATUS_CHECKED status model_config_open(model_config **out, const char *path, const char *config_name);
/* The same from bytes, without any file: what the fuzz target calls. generation may be NULL. */
STATUS_CHECKED status model_config_parse(model_config **out, const char *bytes, uint64_t n, const char *generation,
                                         uint64_t generation_bytes);
/* The same from the bytes of a whole GGUF file; name is for messages. */
STATUS_CHECKED status model_config_parse_gguf(model_config **out, const uint8_t *bytes, uint64_t n, const char *name);
void model_config_close(model_config *config);

#endif
