#include "daemon/queue/chat_prompt.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "daemon/queue/chat_conversation.h"
#include "proto/limits.h"
#include "proto/message.h"

/* KEPT: the texts of the longest prompt, and as much again of what no prompt shows. */
enum { TINY_BYTES = 2048, TINY_ITEMS = 32, KEPT_BYTES_MAX = 2 * LIMIT_PROMPT_BYTES };

status chat_request_keep(chat_request *out, const Gemmad__V1__ChatRequest *r) {
    size_t n = gemmad__v1__chat_request__get_packed_size(r);
    *out = (chat_request){0};
    if (n > KEPT_BYTES_MAX)
        return fail(ST_INVALID, "the chat has %zu bytes, at most %d; its prompt at most %d", n,
                    KEPT_BYTES_MAX, LIMIT_PROMPT_BYTES);
    out->bytes = memory_alloc(n + 1);
    out->size = gemmad__v1__chat_request__pack(r, out->bytes);
    return ST_OK;
}

status chat_request_open(chat_request *r) {
    ProtobufCMessage *m;
    TRY(message_unpack(&gemmad__v1__chat_request__descriptor, r->bytes, r->size, &m));
    r->message = (Gemmad__V1__ChatRequest *)m;
    return ST_OK;
}

void chat_request_close(chat_request *r) {
    if (r->message) gemmad__v1__chat_request__free_unpacked(r->message, NULL);
    free(r->bytes);
    *r = (chat_request){0};
}

bool chat_prompt_is_tiny(const Gemmad__V1__ChatRequest *r) {
    size_t items = r->n_tools;
    if (r->n_messages > TINY_ITEMS || r->n_tools > TINY_ITEMS) return false;
    for (size_t i = 0; i < r->n_messages; i++)
        items += 1 + r->messages[i]->n_content + r->messages[i]->n_tool_calls;
    /* The whole of it: also what no prompt shows is copied. */
    return items <= TINY_ITEMS && gemmad__v1__chat_request__get_packed_size(r) <= TINY_BYTES;
}

static status encode(chat_prompt *out, const tokenizer *tok, const chat_rendering *r) {
    status st = tokenizer_encode_marked(tok, strbuf_text(&r->text), r->text.size, r->plain, r->plain_count,
                                        LIMIT_PROMPT_BYTES, &out->ids, &out->count);
    return st == ST_OK ? ST_OK : fail_within(st, "the prompt of this chat");
}

status chat_prompt_make(chat_prompt *out, const chat_template *t, const tokenizer *tok,
                        const Gemmad__V1__ChatRequest *r) {
    chat_conversation_owner owner;
    chat_rendering rendering;
    *out = (chat_prompt){0};
    TRY(chat_conversation_open(&owner, r));
    status st = chat_template_render(t, &owner.conversation, &rendering);
    chat_conversation_close(&owner);
    if (st != ST_OK) return st;
    st = encode(out, tok, &rendering);
    if (st == ST_OK) {
        out->text = rendering.text.data;
        out->text_bytes = rendering.text.size;
        out->starts_in_thought = rendering.starts_in_thought;
        rendering.text = (strbuf){0};
    }
    chat_rendering_close(&rendering);
    return st;
}

void chat_prompt_close(chat_prompt *p) {
    free(p->text);
    free(p->ids);
    *p = (chat_prompt){0};
}
