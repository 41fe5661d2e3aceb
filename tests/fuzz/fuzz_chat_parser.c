// link: daemon_core
/* Any sequence of tokens of the tiny model as its answer. What comes out is whole characters and whole calls, stays when
 * more tokens come, and does not depend on whether a text came as one token or as its bytes. The first byte chooses. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/utf8.h"
#include "daemon/text/json_tree.h"
#include "tests/unit/text/chat_reading.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static tokenizer *tiny;
static uint32_t byte_id[256];

static void check_call(const parsed_call *c) {
    json_tree *tree;
    strbuf again = {0};
    INVARIANT(c->name.size > 0);
    INVARIANT(json_tree_read(&tree, strbuf_text(&c->arguments), c->arguments.size) == ST_OK);
    INVARIANT(json_tree_root(tree)->kind == JSON_KIND_OBJECT);
    json_value_write(json_tree_root(tree), &again);
    INVARIANT(again.size == c->arguments.size && !memcmp(again.data, c->arguments.data, again.size));
    strbuf_close(&again);
    json_tree_close(tree);
}

static bool is_prefix(const strbuf *a, size_t n, const strbuf *of) {
    return n <= of->size && (n == 0 || !memcmp(a->data, of->data, n));
}

static bool same(const strbuf *a, const strbuf *b) { return a->size == b->size && is_prefix(a, a->size, b); }

static void add_bytes(chat_parser *p, uint32_t id) {
    size_t n;
    const char *bytes = tokenizer_is_special(tiny, id) ? NULL : tokenizer_bytes(tiny, id, &n);
    if (!bytes) chat_parser_add(p, id);
    for (size_t i = 0; bytes && i < n; i++) chat_parser_add(p, byte_id[(uint8_t)bytes[i]]);
}

typedef struct outcome {
    chat_reading said;
    chat_parser *parser;
} outcome;

static void read_ids(outcome *o, const chat_parser_options *options, const uint8_t *data, size_t count,
                     bool as_bytes) {
    *o = (outcome){0};
    o->parser = chat_reading_open(&o->said, options);
    for (size_t i = 0; i < count; i++) {
        uint32_t id = (data[2 * i] | (uint32_t)data[2 * i + 1] << 8) % tokenizer_vocab_size(tiny);
        if (as_bytes) add_bytes(o->parser, id);
        else chat_parser_add(o->parser, id);
    }
}

static void outcome_close(outcome *o) {
    chat_parser_close(o->parser);
    chat_reading_close(&o->said);
}

static void check_whole(const outcome *o) {
    const chat_reading *r = &o->said;
    size_t n;
    INVARIANT(utf8_check(strbuf_text(&r->content), r->content.size) == r->content.size);
    INVARIANT(utf8_check(strbuf_text(&r->reasoning), r->reasoning.size) == r->reasoning.size);
    for (uint32_t i = 0; i < r->call_count; i++) check_call(&r->call[i]);
    const chat_malformed *m = chat_parser_malformed(o->parser);
    for (uint32_t i = 0; i < m->count; i++)
        INVARIANT(utf8_check(m->text[i].data, m->text[i].size) == m->text[i].size);
    const char *truncated = chat_parser_truncated(o->parser, &n);
    INVARIANT(!truncated || utf8_check(truncated, n) == n);
}

static void check_same(const outcome *a, const outcome *b) {
    const chat_malformed *m = chat_parser_malformed(a->parser), *k = chat_parser_malformed(b->parser);
    INVARIANT(same(&a->said.content, &b->said.content) && same(&a->said.reasoning, &b->said.reasoning));
    INVARIANT(a->said.call_count == b->said.call_count && m->count == k->count);
    for (uint32_t i = 0; i < a->said.call_count; i++) {
        INVARIANT(same(&a->said.call[i].name, &b->said.call[i].name));
        INVARIANT(same(&a->said.call[i].arguments, &b->said.call[i].arguments));
    }
    for (uint32_t i = 0; i < m->count; i++) INVARIANT(same(&m->text[i], &k->text[i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!tiny) {
        INVARIANT(tokenizer_open(&tiny, TEST_DATA "/models/tiny-dense/tokenizer.json") == ST_OK);
        for (unsigned b = 0; b < 256; b++) {
            char name[8];
            snprintf(name, sizeof name, "<0x%02X>", b);
            INVARIANT(tokenizer_find(tiny, name, &byte_id[b]));
        }
    }
    if (size < 2) return 0;
    uint8_t choice = data[0];
    chat_parser_options options = {.tokenizer = tiny,
                                   .starts_in_thought = choice & 1,
                                   .thinking = choice & 2,
                                   .refuses_calls = (choice & 12) == 12};
    size_t count = (size - 2) / 2, cut = count > 0 ? data[1] % (count + 1) : 0;
    outcome whole, bytes, part;
    read_ids(&whole, &options, data + 2, count, false);
    read_ids(&bytes, &options, data + 2, count, true);
    read_ids(&part, &options, data + 2, cut, false);
    size_t certain = part.said.content.size - chat_parser_loose(part.parser);
    chat_parser_end(whole.parser, choice & 16);
    chat_parser_end(bytes.parser, choice & 16);
    check_whole(&whole);
    check_same(&whole, &bytes);
    INVARIANT(is_prefix(&part.said.content, certain, &whole.said.content));
    INVARIANT(is_prefix(&part.said.reasoning, part.said.reasoning.size, &whole.said.reasoning));
    INVARIANT(part.said.call_count <= whole.said.call_count);
    for (uint32_t i = 0; i < part.said.call_count; i++)
        INVARIANT(same(&part.said.call[i].arguments, &whole.said.call[i].arguments));
    outcome_close(&whole);
    outcome_close(&bytes);
    outcome_close(&part);
    return 0;
}
