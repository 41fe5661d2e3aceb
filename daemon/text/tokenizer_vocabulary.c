#include <stdlib.h>

#include "base/memory.h"
#include "daemon/text/tokenizer_internal.h"

static status make_vocabulary(const tokenizer *t, vocabulary **out) {
    vocabulary_token *list = memory_alloc_array((size_t)t->vocab.size + 1, sizeof *list);
    for (uint32_t i = 0; i < t->vocab.size; i++) {
        size_t n;
        const char *bytes = tokenizer_bytes(t, i, &n);
        if (bytes && !tokenizer_is_special(t, i))
            list[i] = (vocabulary_token){(const uint8_t *)bytes, (uint32_t)n};
    }
    status st = vocabulary_make(out, list, t->vocab.size);
    free(list);
    return st;
}

status tokenizer_vocabulary(const tokenizer *t, const vocabulary **out) {
    tokenizer *own = (tokenizer *)t;
    status st = ST_OK;
    pthread_mutex_lock(&own->lock);
    if (!own->bytes) st = make_vocabulary(t, &own->bytes);
    *out = own->bytes;
    pthread_mutex_unlock(&own->lock);
    return st;
}
