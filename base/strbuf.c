#include "base/strbuf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"

void strbuf_add(strbuf *b, const void *bytes, size_t n) {
    if (n == 0) return;
    if (b->max && (n > b->max || b->size > b->max - n)) {
        b->full = true;
        return;
    }
    if (b->size + n + 1 > b->capacity) {
        size_t want = b->capacity ? b->capacity * 2 : 64;
        while (want < b->size + n + 1) want *= 2;
        b->data = memory_grow(b->data, want);
        b->capacity = want;
    }
    memcpy(b->data + b->size, bytes, n);
    b->size += n;
    b->data[b->size] = 0;
}

void strbuf_add_string(strbuf *b, const char *text) { strbuf_add(b, text, strlen(text)); }

void strbuf_add_format(strbuf *b, const char *format, ...) {
    char small[512];
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(small, sizeof small, format, args);
    va_end(args);
    INVARIANT(n >= 0);
    if ((size_t)n < sizeof small) {
        strbuf_add(b, small, (size_t)n);
    } else {
        char *large = memory_alloc((size_t)n + 1);
        vsnprintf(large, (size_t)n + 1, format, again);
        strbuf_add(b, large, (size_t)n);
        free(large);
    }
    va_end(again);
}

void strbuf_clear(strbuf *b) {
    b->size = 0;
    b->full = false;
    if (b->data) b->data[0] = 0;
}

void strbuf_close(strbuf *b) {
    free(b->data);
    *b = (strbuf){.max = b->max};
}

const char *strbuf_text(const strbuf *b) { return b->data ? b->data : ""; }

void strbuf_drop_front(strbuf *b, size_t n) {
    INVARIANT(n <= b->size);
    if (n == 0) return;
    b->size -= n;
    memmove(b->data, b->data + n, b->size + 1);
}

void strbuf_drop_back(strbuf *b, size_t n) {
    INVARIANT(n <= b->size);
    if (n == 0) return;
    b->size -= n;
    b->data[b->size] = 0;
}
