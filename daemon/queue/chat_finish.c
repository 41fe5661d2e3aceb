#include "daemon/queue/chat_finish.h"

#include <stdlib.h>

#include "base/memory.h"

void chat_finish_make(chat_finish *out, const chat_parser *p) {
    const chat_malformed *m = chat_parser_malformed(p);
    *out = (chat_finish){.malformed_count = m->count};
    out->malformed = memory_alloc_array(m->count, sizeof *out->malformed);
    for (uint32_t i = 0; i < m->count; i++)
        out->malformed[i] = (ProtobufCBinaryData){m->text[i].size, (uint8_t *)m->text[i].data};
    const char *truncated = chat_parser_truncated(p, &out->truncated.len);
    out->has_truncated = truncated != NULL;
    out->truncated.data = (uint8_t *)truncated;
}

void chat_finish_close(chat_finish *f) {
    free(f->malformed);
    *f = (chat_finish){0};
}
