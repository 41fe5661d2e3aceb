#include "daemon/text/chat_malformed.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/memory.h"

void chat_malformed_clip(strbuf *out, const char *text, size_t n) {
    size_t kept = n;
    if (n > CHAT_MALFORMED_BYTES_MAX) {
        kept = CHAT_MALFORMED_BYTES_MAX;
        while (((unsigned char)text[kept] & 0xC0) == 0x80) kept--;
    }
    strbuf_add(out, text, kept);
    if (kept < n) strbuf_add_format(out, "\xE2\x80\xA6 (%zu bytes in all)", n);
}

static strbuf *next_text(chat_malformed *m) {
    m->text = memory_grow(m->text, (m->count + 1) * sizeof *m->text);
    m->text[m->count] = (strbuf){0};
    return &m->text[m->count++];
}

void chat_malformed_add(chat_malformed *m, const char *text, size_t n) {
    if (m->more == 0 && m->count < CHAT_MALFORMED_MAX && m->bytes < CHAT_MALFORMED_TOTAL_MAX) {
        strbuf *out = next_text(m);
        chat_malformed_clip(out, text, n);
        m->bytes += out->size;
        return;
    }
    strbuf *last = m->more++ == 0 ? next_text(m) : &m->text[m->count - 1];
    strbuf_clear(last);
    strbuf_add_format(last, "\xE2\x80\xA6 (%" PRIu64 " more)", m->more);
}

void chat_malformed_close(chat_malformed *m) {
    for (uint32_t i = 0; i < m->count; i++) strbuf_close(&m->text[i]);
    free(m->text);
    *m = (chat_malformed){0};
}
