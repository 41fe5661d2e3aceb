#include "daemon/queue/answer.h"

#include "base/invariant.h"

void answer_open(answer *a, const tokenizer *t, stop_matcher *stop) {
    *a = (answer){.has_text = t != NULL, .stop = *stop};
    *stop = (stop_matcher){0};
    if (t) detokenizer_open(&a->detokenizer, t, false);
}

void answer_close(answer *a) {
    token_queue_close(&a->tokens);
    strbuf_close(&a->text);
    stop_close(&a->stop);
}

static uint64_t text_end(const answer *a) { return a->taken + a->text.size; }

/* Tokens whose last byte has left the detokenizer end where the text ends now. A token that leaves bytes
 * behind is a byte token, so each pending byte is the last byte of one token. */
static void settle(answer *a, size_t pending) {
    while (a->waiting > pending) {
        a->tokens.token[a->tokens.count - a->waiting].text_end = text_end(a);
        a->waiting--;
    }
}

static void cut(answer *a, uint64_t at) {
    INVARIANT(at >= a->decided && at <= text_end(a));
    settle(a, 0);
    a->text.size = (size_t)(at - a->taken);
    a->text.data[a->text.size] = 0;
    a->stopped = true;
    a->decided = at;
    for (size_t i = 0; i < a->tokens.count; i++)
        if (a->tokens.token[i].text_end > at) a->tokens.token[i].text_end = at;
}

/* Looks for stop strings in the text from offset `from` of the buffer on. */
static void scan(answer *a, size_t from) {
    if (a->stop.count > 0) {
        for (size_t i = from; i < a->text.size; i++) {
            size_t n = stop_feed(&a->stop, (uint8_t)a->text.data[i]);
            if (n > 0) {
                cut(a, a->taken + i + 1 - n);
                return;
            }
        }
    }
    a->decided = text_end(a) - stop_held(&a->stop);
}

void answer_add(answer *a, uint32_t id, const engine_logprob *logprob, bool ending) {
    INVARIANT(!a->stopped);
    size_t before = a->text.size;
    token_queue_add(&a->tokens, id, logprob);
    a->waiting++;
    if (a->has_text && !ending && detokenizer_add(&a->detokenizer, id, &a->text) != ST_OK) {
        /* A row of the vocabulary that the tokenizer does not know: models are padded, and random ones draw
         * such. */
        detokenizer_flush(&a->detokenizer, &a->text);
        strbuf_add_string(&a->text, "\xEF\xBF\xBD");
    }
    /* Bytes that wait when the answer ends are turned into text by answer_end, and the ids before them with
     * it. */
    size_t pending = a->has_text ? a->detokenizer.pending_count : 0;
    if (!ending || pending == 0) settle(a, pending);
    scan(a, before);
}

void answer_end(answer *a) {
    if (a->stopped) return;
    size_t before = a->text.size;
    if (a->has_text) detokenizer_flush(&a->detokenizer, &a->text);
    settle(a, 0);
    scan(a, before);
    a->decided = text_end(a);
}

bool answer_take(const answer *a, uint64_t max_bytes, answer_part *part) {
    uint64_t bytes = 0, end = a->taken;
    size_t n = 0, settled = a->tokens.count - a->waiting;
    bool more = false;
    for (; n < settled && a->tokens.token[n].text_end <= a->decided; n++) {
        const queued_token *t = &a->tokens.token[n];
        bytes += token_queue_wire_bytes(t) + (t->text_end - end);
        more = bytes > max_bytes && n > 0;
        if (more) break;
        end = t->text_end;
    }
    /* Text of a token whose end is not decided yet goes ahead of its id. */
    if (!more) end = a->decided;
    *part = (answer_part){.text = strbuf_text(&a->text),
                          .text_bytes = (size_t)(end - a->taken),
                          .tokens = &a->tokens,
                          .token_count = n};
    return part->token_count > 0 || part->text_bytes > 0;
}

void answer_drop(answer *a, const answer_part *part) {
    size_t text_bytes = part->text_bytes; /* part may not be looked at once its text is gone */
    token_queue_drop(&a->tokens, part->token_count);
    strbuf_drop_front(&a->text, text_bytes);
    a->taken += text_bytes;
}
