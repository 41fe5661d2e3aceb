// link: base
/* A whole file. Whatever is accepted must be sound: every text and array inside the header, every tensor inside the file
 * and behind the header, none overlapping another. */
#include <stdint.h>

#include "base/gguf.h"
#include "base/invariant.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_value(const gguf *g, const gguf_value *v) {
    const uint8_t *end = g->bytes + g->header_bytes, *at = v->at;
    INVARIANT(v->at >= g->bytes && v->bytes <= (uint64_t)(end - v->at));
    for (uint64_t i = 0; i < v->count && v->type == GGUF_TEXT; i++) {
        gguf_text t = gguf_next_text(&at);
        INVARIANT(t.at + t.size <= (const char *)end);
    }
    int64_t n;
    for (uint64_t i = 0; i < v->count && gguf_integer(v, i, &n); i++) continue;
    INVARIANT(gguf_find(g, v->key) == v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    gguf *g = NULL;
    if (gguf_parse(&g, data, size, "fuzz") != ST_OK) {
        INVARIANT(!g && status_text()[0] != 0);
        return 0;
    }
    for (uint32_t i = 0; i < g->value_count; i++) check_value(g, &g->values[i]);
    for (uint32_t i = 0; i < g->tensor_count; i++) {
        const gguf_tensor *t = &g->tensors[i];
        INVARIANT(t->offset >= g->header_bytes && t->bytes <= size && t->offset <= size - t->bytes);
        for (uint32_t k = 0; k < i && g->tensor_count < 64; k++) {
            const gguf_tensor *o = &g->tensors[k];
            INVARIANT(o->offset + o->bytes <= t->offset || t->offset + t->bytes <= o->offset);
        }
    }
    uint8_t digest[32];
    gguf_hash(g, digest);
    gguf_close(g);
    return 0;
}
