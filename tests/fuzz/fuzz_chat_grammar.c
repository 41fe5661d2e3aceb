// link: daemon_core
/* Any ChatRequest as the form of its answer, over the tokens of a bundled model: refused in words, or an automaton that the
 * engine's side reads and that always has a token to go on with. The length of the request chooses the walk. */
#include <stdlib.h>

#include "base/automaton.h"
#include "base/invariant.h"
#include "base/memory.h"
#include "daemon/queue/chat_grammar.h"
#include "proto/message.h"

enum { STEPS = 40 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static chat_grammar_model model;
static const vocabulary *words;

static void open_model(void) {
    static const char *const names[] = {"<eos>", "<turn|>", "<|tool_response>"};
    static uint32_t ends[3];
    tokenizer *t;
    INVARIANT(tokenizer_open(&t, TEST_DATA "/models/tiny-dense/tokenizer.json") == ST_OK);
    for (size_t i = 0; i < 3; i++) INVARIANT(tokenizer_find(t, names[i], &ends[i]));
    INVARIANT(tokenizer_vocabulary(t, &words) == ST_OK);
    model = (chat_grammar_model){t, ends, 3};
}

/* The first allowed token at or behind a place, around the end. */
static uint32_t choose(const uint32_t *mask, uint32_t count, uint32_t at) {
    for (uint32_t i = 0; i < count; i++) {
        uint32_t id = (at + i) % count;
        if (mask[id / 32] >> id % 32 & 1) return id;
    }
    INVARIANT(!"a mask is never empty");
    return 0;
}

static void walk(const chat_grammar *form, uint32_t seed) {
    automaton *a;
    uint32_t count = vocabulary_count(words), *mask = memory_alloc_array((count + 31) / 32, sizeof *mask);
    INVARIANT(automaton_read(&a, form->bytes, form->size, words) == ST_OK);
    automaton_cursor *c = automaton_cursor_open(a);
    for (int i = 0; i < STEPS && !automaton_ended(c); i++) {
        status st = automaton_mask(c, mask);
        INVARIANT(st == ST_OK || st == ST_UNSUPPORTED);
        if (st != ST_OK) break;
        seed = seed * 1664525 + 1013904223;
        st = automaton_take_token(c, choose(mask, count, seed % count));
        INVARIANT(st == ST_OK || st == ST_UNSUPPORTED);
        if (st != ST_OK) break;
    }
    automaton_cursor_close(c);
    automaton_drop(a);
    free(mask);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ProtobufCMessage *m;
    const chat_grammar *form;
    if (!model.tokenizer) open_model();
    if (message_unpack(&gemmad__v1__chat_request__descriptor, data, size, &m) != ST_OK) return 0;
    const Gemmad__V1__ChatRequest *r = (const Gemmad__V1__ChatRequest *)m;
    chat_grammar_cache *cache = chat_grammar_cache_open(0); /* nothing is kept from one input to the next */
    status st = chat_grammar_make(&form, cache, &model, r, size % 2);
    if (st != ST_OK) INVARIANT(!form && status_text()[0]);
    else if (form) walk(form, (uint32_t)size);
    chat_grammar_release(form);
    chat_grammar_cache_close(cache);
    protobuf_c_message_free_unpacked(m, NULL);
    return 0;
}
