#include "daemon/queue/stop.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "proto/limits.h"

struct stop_string {
    uint16_t length, matched;          /* matched: bytes of it that end at the last byte fed */
    uint16_t border[LIMIT_STOP_BYTES]; /* [i]: the longest proper prefix of text[0 … i] that also ends it */
    uint8_t text[LIMIT_STOP_BYTES];
};

static uint16_t advance(const stop_string *s, uint16_t matched, uint8_t byte) {
    while (matched > 0 && (matched == s->length || s->text[matched] != byte))
        matched = s->border[matched - 1];
    return s->text[matched] == byte ? matched + 1 : 0;
}

void stop_add(stop_matcher *m, const void *bytes, size_t n) {
    INVARIANT(n > 0 && n <= LIMIT_STOP_BYTES && m->count < LIMIT_STOP_STRINGS);
    m->string = memory_grow(m->string, (m->count + 1) * sizeof *m->string);
    stop_string *s = &m->string[m->count++];
    *s = (stop_string){.length = (uint16_t)n};
    memcpy(s->text, bytes, n);
    for (size_t i = 1; i < n; i++) s->border[i] = advance(s, s->border[i - 1], s->text[i]);
}

void stop_copy(stop_matcher *out, const stop_matcher *from) {
    *out =
        (stop_matcher){.string = memory_alloc_array(from->count, sizeof *out->string), .count = from->count};
    for (uint32_t i = 0; i < from->count; i++) {
        out->string[i] = from->string[i];
        out->string[i].matched = 0;
    }
}

void stop_close(stop_matcher *m) {
    free(m->string);
    *m = (stop_matcher){0};
}

void stop_restart(stop_matcher *m) {
    for (uint32_t i = 0; i < m->count; i++) m->string[i].matched = 0;
}

size_t stop_feed(stop_matcher *m, uint8_t byte) {
    size_t longest = 0;
    for (uint32_t i = 0; i < m->count; i++) {
        stop_string *s = &m->string[i];
        s->matched = advance(s, s->matched, byte);
        if (s->matched == s->length && s->length > longest) longest = s->length;
    }
    return longest;
}

size_t stop_held(const stop_matcher *m) {
    size_t held = 0;
    for (uint32_t i = 0; i < m->count; i++)
        if (m->string[i].matched > held) held = m->string[i].matched;
    return held;
}
