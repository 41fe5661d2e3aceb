// link: daemon_core
/* Any bytes as JSON. What is read reads to the same again after it was written. */
#include <string.h>

#include "base/invariant.h"
#include "base/utf8.h"
#include "daemon/text/json_tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t check(const json_value *v) {
    uint32_t n = 0;
    if (v->key) INVARIANT(utf8_check(v->key, v->key_bytes) == v->key_bytes && v->key[v->key_bytes] == 0);
    if (v->text) INVARIANT(utf8_check(v->text, v->bytes) == v->bytes && v->text[v->bytes] == 0);
    for (const json_value *c = v->first; c; c = c->next, n++) {
        check(c);
        INVARIANT((v->kind == JSON_KIND_OBJECT) == (c->key != NULL));
    }
    INVARIANT(n == v->count);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    json_tree *t, *again;
    if (json_tree_read(&t, (const char *)data, size) != ST_OK) {
        INVARIANT(t == NULL && *status_text() != 0);
        return 0;
    }
    strbuf first = {0}, second = {0};
    check(json_tree_root(t));
    json_value_write(json_tree_root(t), &first);
    INVARIANT(json_tree_read(&again, first.data, first.size) == ST_OK);
    json_value_write(json_tree_root(again), &second);
    INVARIANT(first.size == second.size && memcmp(first.data, second.data, first.size) == 0);
    strbuf_close(&first);
    strbuf_close(&second);
    json_tree_close(again);
    json_tree_close(t);
    return 0;
}
