/* What the leader says to gemmad. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/invariant.h"
#include "shard/link/internal.h"
#include "shard/link/wire.h"

status link_write_locked(link_connection *l) {
    if (l->fd < 0) return fail(ST_UNAVAILABLE, "the link to gemmad is closed");
    for (;;) {
        size_t n;
        const uint8_t *front = frame_writer_front(&l->writer, &n);
        if (n == 0) return ST_OK;
        ssize_t sent = send(l->fd, front, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0) {
            frame_writer_drop(&l->writer, (size_t)sent);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return ST_OK;
        } else if (errno != EINTR) {
            return fail_errno(ST_UNAVAILABLE, "the link to gemmad broke");
        }
    }
}

status link_queue(link_connection *l, const engine_frame *f) {
    pthread_mutex_lock(&l->lock);
    /* A heartbeat's thread may find the connection of a moment ago replaced by one on which nothing was said
     * yet. */
    bool may = l->proven || f->kind_case == GEMMAD__ENGINE__FRAME__KIND_HELLO;
    status st = may && l->fd >= 0 ? frame_writer_add(&l->writer, f)
                                  : fail(ST_UNAVAILABLE, "the link to gemmad is closed");
    if (st == ST_OK) st = link_write_locked(l);
    pthread_mutex_unlock(&l->lock);
    return st;
}

status link_flush(link_connection *l) {
    pthread_mutex_lock(&l->lock);
    status st = link_write_locked(l);
    pthread_mutex_unlock(&l->lock);
    return st;
}

size_t link_backlog_bytes(link_connection *l) {
    pthread_mutex_lock(&l->lock);
    size_t n = frame_writer_size(&l->writer);
    pthread_mutex_unlock(&l->lock);
    return n;
}

status link_send_started(link_connection *l, uint64_t id, uint32_t cached_tokens, uint64_t queue_us) {
    Gemmad__Engine__Started m = GEMMAD__ENGINE__STARTED__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    m.has_id = m.has_cached_tokens = m.has_queue_us = true;
    m.id = id;
    m.cached_tokens = cached_tokens;
    m.queue_us = queue_us;
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_STARTED;
    f.started = &m;
    return link_queue(l, &f);
}

status link_send_progress(link_connection *l, uint64_t id, uint32_t prefilled_tokens) {
    Gemmad__Engine__Progress m = GEMMAD__ENGINE__PROGRESS__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    m.has_id = m.has_prefilled_tokens = true;
    m.id = id;
    m.prefilled_tokens = prefilled_tokens;
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_PROGRESS;
    f.progress = &m;
    return link_queue(l, &f);
}

/* How many entries go into one frame; logprobs may be NULL. */
static uint32_t entries_of_frame(const token_logprob *p, uint32_t n) {
    size_t bytes = 0;
    uint32_t count = 0;
    while (count < n && (count == 0 || bytes < LINK_FRAME_BYTES)) {
        bytes += 24 + (p ? (size_t)p[count].top_count * 16 : 0);
        count++;
    }
    return count;
}

typedef status add_part(link_connection *l, uint64_t id, const void *what, uint32_t begin,
                        const token_logprob *p, uint32_t n);

/* All parts are queued, or none: a caller that is told ST_BUSY sends the same again later. */
static status queue_parts(link_connection *l, uint64_t id, const void *what, const token_logprob *p,
                          uint32_t n, add_part *add) {
    pthread_mutex_lock(&l->lock);
    status st = ST_OK;
    size_t before = frame_writer_size(&l->writer);
    if (l->fd < 0) st = fail(ST_UNAVAILABLE, "the link to gemmad is closed");
    for (uint32_t begin = 0; st == ST_OK && begin < n;) {
        uint32_t count = entries_of_frame(p ? p + begin : NULL, n - begin);
        st = add(l, id, what, begin, p ? p + begin : NULL, count);
        begin += count;
    }
    if (st == ST_OK) st = link_write_locked(l);
    else if (l->fd >= 0) frame_writer_take_back(&l->writer, before);
    pthread_mutex_unlock(&l->lock);
    return st;
}

static status add_tokens(link_connection *l, uint64_t id, const void *what, uint32_t begin,
                         const token_logprob *p, uint32_t n) {
    Gemmad__Engine__Tokens m = GEMMAD__ENGINE__TOKENS__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    void *block = NULL;
    m.has_id = true;
    m.id = id;
    m.n_token_ids = n;
    m.token_ids = (uint32_t *)what + begin;
    if (p) {
        block = link_logprob_pack(p, n, &m.logprobs);
        m.n_logprobs = n;
    }
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_TOKENS;
    f.tokens = &m;
    status st = frame_writer_add(&l->writer, &f);
    free(block);
    return st;
}

status link_send_tokens(link_connection *l, uint64_t id, const uint32_t *tokens, uint32_t n,
                        const token_logprob *logprobs) {
    INVARIANT(n > 0);
    return queue_parts(l, id, tokens, logprobs, n, add_tokens);
}

static status add_prompt_logprobs(link_connection *l, uint64_t id, const void *what, uint32_t begin,
                                  const token_logprob *p, uint32_t n) {
    Gemmad__Engine__PromptLogprobs m = GEMMAD__ENGINE__PROMPT_LOGPROBS__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    m.has_id = m.has_first_position = true;
    m.id = id;
    m.first_position = *(const uint32_t *)what + begin;
    m.n_logprobs = n;
    void *block = link_logprob_pack(p, n, &m.logprobs);
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_PROMPT_LOGPROBS;
    f.prompt_logprobs = &m;
    status st = frame_writer_add(&l->writer, &f);
    free(block);
    return st;
}

status link_send_prompt_logprobs(link_connection *l, uint64_t id, uint32_t first_position,
                                 const token_logprob *p, uint32_t n) {
    INVARIANT(n > 0);
    return queue_parts(l, id, &first_position, p, n, add_prompt_logprobs);
}

/* A sentence as long as the other end takes. */
static void bound_text(char out[ENGINE_TEXT_BYTES_MAX + 1], const char *text) {
    size_t n = text ? strlen(text) : 0;
    static const char cut[] = "…";
    if (n <= ENGINE_TEXT_BYTES_MAX) {
        snprintf(out, ENGINE_TEXT_BYTES_MAX + 1, "%s", text ? text : "");
    } else {
        size_t kept = ENGINE_TEXT_BYTES_MAX - (sizeof cut - 1);
        memcpy(out, text, kept);
        memcpy(out + kept, cut, sizeof cut);
    }
}

status link_send_finished(link_connection *l, uint64_t id, const link_finish *finish) {
    Gemmad__Engine__Finished m = GEMMAD__ENGINE__FINISHED__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    char text[ENGINE_TEXT_BYTES_MAX + 1];
    m.has_id = m.has_queue_us = m.has_prefill_us = m.has_decode_us = true;
    m.id = id;
    m.finish_reason = (char *)finish->reason;
    m.has_stop_token_id = finish->has_stop_token;
    m.stop_token_id = finish->stop_token;
    m.queue_us = finish->queue_us;
    m.prefill_us = finish->prefill_us;
    m.decode_us = finish->decode_us;
    if (!strcmp(finish->reason, "error")) {
        bound_text(text, finish->error_text);
        m.error_status = (char *)status_name(finish->error);
        m.error_text = text;
    }
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_FINISHED;
    f.finished = &m;
    return link_queue(l, &f);
}

status link_send_failed(link_connection *l, const char *sentence) {
    Gemmad__Engine__Failed m = GEMMAD__ENGINE__FAILED__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    char text[ENGINE_TEXT_BYTES_MAX + 1];
    bound_text(text, sentence);
    m.text = text;
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_FAILED;
    f.failed = &m;
    return link_queue(l, &f);
}
