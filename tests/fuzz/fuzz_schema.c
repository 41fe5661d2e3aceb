// link: daemon_core
/* A JSON Schema, to a network in both notations. Whatever is accepted has a document that ends; whatever is refused has a
 * sentence. Time and memory are bounded by libFuzzer's own limits. */
#include "base/invariant.h"
#include "daemon/text/grammar_schema.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write(const schema *s, bool gemma) {
    grammar *g = grammar_open();
    value_notation n;
    uint32_t rule;
    if (gemma) value_notation_open_gemma(&n, g, 7);
    else value_notation_open(&n, g);
    status st = grammar_write_schema(&n, s, gemma ? SCHEMA_OBJECT : SCHEMA_KINDS, &rule);
    INVARIANT(st == ST_OK || (st == ST_INVALID && status_text()[0]));
    grammar_close(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    schema *s;
    status st = schema_open(&s, (const char *)data, size);
    if (st != ST_OK) {
        INVARIANT(st == ST_INVALID && s == NULL && status_text()[0]);
        return 0;
    }
    INVARIANT(schema_node_ends(s, s->root));
    write(s, false);
    write(s, true);
    schema_close(s);
    return 0;
}
