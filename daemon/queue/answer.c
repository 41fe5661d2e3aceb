#include "daemon/queue/answer_internal.h"

#include <stdlib.h>

#include "base/invariant.h"

void answer_open(answer *a, const tokenizer *t, stop_matcher *stop, answer_form form) {
    *a = (answer){.has_text = t != NULL, .stop = *stop, .calls_max = form.calls_max};
    *stop = (stop_matcher){0};
    if (t && form.is_chat) answer_chat_open(a, t, &form);
    else if (t) detokenizer_open(&a->detokenizer, t, false);
}

void answer_close(answer *a) {
    token_queue_close(&a->tokens);
    strbuf_close(&a->text);
    stop_close(&a->stop);
    answer_chat_close(a);
}

static uint64_t text_end(const answer *a) { return answer_text_end(a); }

/* Tokens whose last byte has left the detokenizer end where the text ends now. A token that leaves bytes
 * behind is a byte token, so each pending byte is the last byte of one token. */
void answer_settle(answer *a, size_t pending) {
    while (a->waiting > pending) {
        a->tokens.token[a->tokens.count - a->waiting].text_end = text_end(a);
        a->waiting--;
    }
}

static void cut(answer *a, uint64_t at) {
    INVARIANT(at >= a->decided && at <= text_end(a));
    answer_settle(a, 0);
    a->text.size = (size_t)(at - a->taken);
    a->text.data[a->text.size] = 0;
    a->stopped = true;
    a->decided = at;
    for (size_t i = 0; i < a->tokens.count; i++)
        if (a->tokens.token[i].text_end > at) a->tokens.token[i].text_end = at;
}

bool answer_scan(answer *a, size_t from) {
    if (a->stop.count == 0) return false;
    for (size_t i = from; i < a->text.size; i++) {
        size_t n = stop_feed(&a->stop, (uint8_t)a->text.data[i]);
        if (n == 0) continue;
        cut(a, a->taken + i + 1 - n);
        return true;
    }
    return false;
}

static void scan(answer *a, size_t from) {
    if (!answer_scan(a, from)) a->decided = text_end(a) - stop_held(&a->stop);
}

void answer_add(answer *a, uint32_t id, const engine_logprob *logprob, bool ending) {
    INVARIANT(!a->stopped);
    size_t before = a->text.size;
    token_queue_add(&a->tokens, id, logprob);
    a->waiting++;
    if (a->parser) {
        if (!ending) answer_chat_add(a, id);
        return;
    }
    if (a->has_text && !ending && detokenizer_add(&a->detokenizer, id, &a->text) != ST_OK) {
        /* A row of the vocabulary that the tokenizer does not know: models are padded, and random ones draw
         * such. */
        detokenizer_flush(&a->detokenizer, &a->text);
        strbuf_add_string(&a->text, "\xEF\xBF\xBD");
    }
    /* Bytes that wait when the answer ends are turned into text by answer_end, and the ids before them with
     * it. */
    size_t pending = a->has_text ? a->detokenizer.pending_count : 0;
    if (!ending || pending == 0) answer_settle(a, pending);
    scan(a, before);
}

void answer_end(answer *a, bool whole) {
    if (a->parser) {
        answer_chat_end(a, whole);
        return;
    }
    if (a->stopped) return;
    size_t before = a->text.size;
    if (a->has_text) detokenizer_flush(&a->detokenizer, &a->text);
    answer_settle(a, 0);
    scan(a, before);
    a->decided = text_end(a);
}

/* A part's text need not end with a token's, when it is long. */
static uint64_t char_end(const answer *a, uint64_t at) {
    while (at > a->taken && ((uint8_t)a->text.data[at - a->taken] & 0xC0) == 0x80) at--;
    return at;
}

bool answer_take(const answer *a, uint64_t max_bytes, answer_part *part) {
    uint64_t bytes = 0, end = a->taken, limit = a->decided;
    size_t n = 0, settled = a->tokens.count - a->waiting;
    bool more = false;
    const answer_run *run = answer_first_run(a);
    if (run && run->end < limit) limit = run->end;
    for (; n < settled && a->tokens.token[n].text_end <= limit; n++) {
        const queued_token *t = &a->tokens.token[n];
        bytes += token_queue_wire_bytes(t) + (t->text_end - end);
        more = bytes > max_bytes && n > 0;
        if (more) break;
        end = t->text_end;
    }
    /* Text of a token whose end is not decided yet goes ahead of its id. */
    if (!more) end = limit;
    if (end - a->taken > max_bytes) {
        end = char_end(a, a->taken + max_bytes);
        while (n > 0 && a->tokens.token[n - 1].text_end > end) n--;
    }
    *part = (answer_part){.kind = run ? run->kind : CHAT_CONTENT,
                          .text = strbuf_text(&a->text),
                          .text_bytes = (size_t)(end - a->taken),
                          .call = run ? run->call : NULL,
                          .call_begins = run && run->begin == a->taken,
                          .tokens = &a->tokens,
                          .token_count = n};
    return part->token_count > 0 || part->text_bytes > 0;
}

void answer_drop(answer *a, const answer_part *part) {
    size_t text_bytes = part->text_bytes; /* part may not be looked at once its text is gone */
    token_queue_drop(&a->tokens, part->token_count);
    strbuf_drop_front(&a->text, text_bytes);
    a->taken += text_bytes;
    if (a->parser) answer_chat_drop(a);
}
