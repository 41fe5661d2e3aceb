/* What a chat parser has said, collected. */
#ifndef TESTS_UNIT_TEXT_CHAT_READING_H
#define TESTS_UNIT_TEXT_CHAT_READING_H

#include <stdlib.h>

#include "base/memory.h"
#include "daemon/text/chat_parser.h"

typedef struct chat_reading {
    strbuf reasoning, content;
    parsed_call *call;
    uint32_t call_count;
} chat_reading;

static inline void chat_reading_text(void *context, chat_kind kind, const char *text, size_t n) {
    chat_reading *r = context;
    strbuf_add(kind == CHAT_REASONING ? &r->reasoning : &r->content, text, n);
}

static inline void chat_reading_withdrawn(void *context, size_t n) {
    strbuf_drop_back(&((chat_reading *)context)->content, n);
}

static inline void chat_reading_call(void *context, const parsed_call *call) {
    chat_reading *r = context;
    r->call = memory_grow(r->call, (r->call_count + 1) * sizeof *r->call);
    parsed_call *copy = &r->call[r->call_count++];
    *copy = (parsed_call){0};
    strbuf_add(&copy->name, strbuf_text(&call->name), call->name.size);
    strbuf_add(&copy->arguments, strbuf_text(&call->arguments), call->arguments.size);
}

static inline chat_parser *chat_reading_open(chat_reading *r, const chat_parser_options *options) {
    static const chat_parser_events events = {chat_reading_text, chat_reading_withdrawn, chat_reading_call};
    chat_parser_options o = *options;
    o.events = &events;
    o.context = r;
    return chat_parser_open(&o);
}

static inline void chat_reading_close(chat_reading *r) {
    strbuf_close(&r->reasoning);
    strbuf_close(&r->content);
    for (uint32_t i = 0; i < r->call_count; i++) parsed_call_close(&r->call[i]);
    free(r->call);
    *r = (chat_reading){0};
}

#endif
