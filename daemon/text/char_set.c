#include "daemon/text/char_set.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

void char_set_close(char_set *s) {
    free(s->range);
    *s = (char_set){0};
}

static void append(char_set *s, uint32_t low, uint32_t high) {
    if (s->count == s->capacity) {
        s->capacity = s->capacity ? 2 * s->capacity : 4;
        s->range = memory_grow(s->range, s->capacity * sizeof *s->range);
    }
    s->range[s->count++] = (char_range){low, high};
}

/* low … high, no surrogates, into its place; what it touches melts into it. */
static void insert(char_set *s, uint32_t low, uint32_t high) {
    uint32_t at = 0, end;
    while (at < s->count && s->range[at].high + 1 < low) at++;
    for (end = at; end < s->count && s->range[end].low <= high + 1; end++) {
        if (s->range[end].low < low) low = s->range[end].low;
        if (s->range[end].high > high) high = s->range[end].high;
    }
    if (end == at) append(s, 0, 0);
    uint32_t tail = s->count - (end == at ? 1 : 0) - end;
    memmove(s->range + at + 1, s->range + end, tail * sizeof *s->range);
    s->range[at] = (char_range){low, high};
    s->count = at + 1 + tail;
}

void char_set_add(char_set *s, uint32_t low, uint32_t high) {
    if (high > CHAR_MAX_VALUE) high = CHAR_MAX_VALUE;
    if (low > high) return;
    if (low < CHAR_SURROGATE_FIRST)
        insert(s, low, high < CHAR_SURROGATE_FIRST ? high : CHAR_SURROGATE_FIRST - 1);
    if (high > CHAR_SURROGATE_LAST)
        insert(s, low > CHAR_SURROGATE_LAST ? low : CHAR_SURROGATE_LAST + 1, high);
}

void char_set_add_set(char_set *s, const char_set *other) {
    for (uint32_t i = 0; i < other->count; i++) char_set_add(s, other->range[i].low, other->range[i].high);
}

void char_set_invert(char_set *s) {
    char_set out = {0};
    uint32_t next = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        if (s->range[i].low > next) char_set_add(&out, next, s->range[i].low - 1);
        next = s->range[i].high + 1;
    }
    char_set_add(&out, next, CHAR_MAX_VALUE);
    char_set_close(s);
    *s = out;
}

void char_set_remove(char_set *s, uint32_t low, uint32_t high) {
    char_set keep = {0}, out = {0};
    char_set_add(&keep, low, high);
    char_set_invert(&keep);
    char_set_intersect(&out, s, &keep);
    char_set_close(&keep);
    char_set_close(s);
    *s = out;
}

void char_set_intersect(char_set *out, const char_set *a, const char_set *b) {
    for (uint32_t i = 0, j = 0; i < a->count && j < b->count;) {
        uint32_t low = a->range[i].low > b->range[j].low ? a->range[i].low : b->range[j].low;
        uint32_t high = a->range[i].high < b->range[j].high ? a->range[i].high : b->range[j].high;
        if (low <= high) append(out, low, high);
        if (a->range[i].high < b->range[j].high) i++;
        else j++;
    }
}

bool char_set_has(const char_set *s, uint32_t c) {
    for (uint32_t i = 0; i < s->count && s->range[i].low <= c; i++)
        if (c <= s->range[i].high) return true;
    return false;
}

bool char_set_equal(const char_set *a, const char_set *b) {
    if (a->count != b->count) return false;
    return a->count == 0 || memcmp(a->range, b->range, a->count * sizeof *a->range) == 0;
}
