// link: daemon_core shard_core
/* A GGUF file as configuration and as tokenizer. What is accepted must be usable: layers within their bounds, end tokens
 * in the vocabulary, and an encoder that comes back to the text it was given. */
#include <stdint.h>
#include <stdlib.h>

#include "base/invariant.h"
#include "daemon/text/tokenizer.h"
#include "shard/model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_config(const model_config *c) {
    for (uint32_t l = 0; l < c->layers; l++) {
        const layer_config *x = &c->layer[l];
        INVARIANT(x->head_dim % 2 == 0 && x->kv_heads > 0 && c->heads % x->kv_heads == 0 && x->mlp_width > 0);
        INVARIANT(x->kv_source <= l && c->layer[x->kv_source].owns_kv && x->rope_pairs <= x->head_dim / 2);
        INVARIANT(x->full == (x->window == 0));
    }
    for (uint32_t i = 0; i < c->end_token_count; i++) INVARIANT(c->end_tokens[i] < c->vocab);
    INVARIANT(c->bos_token < c->vocab && c->pad_token < c->vocab);
}

static void check_tokenizer(const tokenizer *t) {
    static const char text[] = "a b<bos>\xC3\xA9 ab";
    uint32_t *ids;
    size_t count;
    strbuf out = {0};
    INVARIANT(tokenizer_encode(t, text, sizeof text - 1, false, 64, &ids, &count) == ST_OK);
    INVARIANT(tokenizer_decode(t, ids, count, false, &out) == ST_OK && out.size > 0);
    strbuf_close(&out);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    model_config *c = NULL;
    gguf *g = NULL;
    tokenizer *t = NULL;
    if (model_config_parse_gguf(&c, data, size, "fuzz") == ST_OK) check_config(c);
    model_config_close(c);
    if (gguf_parse(&g, data, size, "fuzz") != ST_OK) return 0;
    if (tokenizer_read_gguf(&t, g) == ST_OK) check_tokenizer(t);
    tokenizer_close(t);
    gguf_close(g);
    return 0;
}
