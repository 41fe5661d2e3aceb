// link: daemon_core shard_link
/* Bytes as they come from an engine link, at both ends: frame reader, protobuf, checks, and what the ends
 * then do with the frame. The first byte chooses the end and how the rest is cut into reads. */
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/log.h"
#include "daemon/engine/requests.h"
#include "proto/engine_check.h"
#include "shard/link/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t sum; /* what is read is used, so that no read is optimised away */

static void on_started(void *context, uint32_t cached) { (void)context, sum += cached; }
static void on_progress(void *context, uint32_t n) { (void)context, sum += n; }
static void add_logprobs(const engine_logprob *p, uint32_t n) {
    for (uint32_t i = 0; p && i < n; i++) {
        INVARIANT(p[i].token < 1000 && p[i].top_count <= 3);
        for (uint32_t k = 0; k < p[i].top_count; k++) INVARIANT(p[i].top[k].token < 1000);
    }
}
static void on_prompt_logprobs(void *context, uint32_t first, const engine_logprob *p, uint32_t n) {
    (void)context;
    INVARIANT(first >= 1 && first + n <= 8);
    add_logprobs(p, n);
}
static void on_tokens(void *context, const uint32_t *tokens, uint32_t n, const engine_logprob *p) {
    (void)context;
    for (uint32_t i = 0; i < n; i++) INVARIANT(tokens[i] < 1000);
    add_logprobs(p, n);
}
static void on_finished(void *context, const char *reason, const engine_timings *t) {
    (void)context;
    sum += strlen(reason) + t->queue_us;
}
static void on_failed(void *context, status st, const char *text) {
    (void)context;
    sum += (uint64_t)st + strlen(text);
}
static const engine_listener listener = {on_started, on_progress, on_prompt_logprobs,
                                         on_tokens,  on_finished, on_failed};

static const engine_bounds bounds = {.vocab = 1000, .context_tokens = 4096};

static status at_gemmad(request_table *t, const engine_frame *f) {
    TRY(engine_check_from_leader(f, &bounds));
    if (f->kind_case == GEMMAD__ENGINE__FRAME__KIND_HELLO ||
        f->kind_case == GEMMAD__ENGINE__FRAME__KIND_HEARTBEAT ||
        f->kind_case == GEMMAD__ENGINE__FRAME__KIND_FAILED)
        return ST_OK;
    return requests_handle(t, f);
}

static status at_leader(const engine_frame *f) {
    TRY(engine_check_from_gemmad(f, &bounds));
    if (f->kind_case != GEMMAD__ENGINE__FRAME__KIND_SUBMIT) return ST_OK;
    link_request *r = link_request_unpack(f->submit);
    INVARIANT(r->token_count >= r->prompt_count && r->prompt_count >= 1 && r->token_count <= 4096);
    for (uint32_t i = 0; i < r->token_count; i++) INVARIANT(r->tokens[i] < 1000);
    INVARIANT(r->sampling.sample_index < LIMIT_SAMPLES);
    INVARIANT(r->sampling.temperature >= 0 && r->sampling.stop_token_count <= LIMIT_STOP_TOKENS * 2);
    INVARIANT(!r->grammar || !r->same_grammar);
    INVARIANT(!r->grammar || (r->grammar_bytes >= 1 && r->grammar_bytes <= LIMIT_GRAMMAR_BYTES));
    link_request_free(r);
    return ST_OK;
}

static void add_requests(request_table *t) {
    static const uint32_t tokens[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    for (uint64_t id = 1; id <= 3; id++) {
        engine_request r = {.tokens = tokens,
                            .token_count = 9,
                            .prompt_count = 8,
                            .sampling = {.max_tokens = 40,
                                         .logprobs = id == 1 ? -1 : 3,
                                         .prompt_logprobs = id == 1 ? -1 : 3}};
        requests_add(t, id, &r, &listener, NULL);
    }
}

static status take_frames(frame_reader *r, request_table *t, bool leader) {
    for (;;) {
        const uint8_t *payload;
        uint32_t n;
        TRY(frame_reader_next(r, &payload, &n));
        if (!payload) return ST_OK;
        engine_frame *f;
        TRY(frame_unpack(payload, n, &f));
        status st = leader ? at_leader(f) : at_gemmad(t, f);
        frame_free(f);
        TRY(st);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    bool leader = data[0] & 1;
    size_t part = (size_t)1 << (data[0] >> 1 & 15);
    log_open("fuzz", LOG_ERROR + 1);
    request_table *t = requests_open();
    add_requests(t);
    frame_reader r;
    frame_reader_open(&r, FRAME_FIRST_BYTES_MAX);
    status st = ST_OK;
    for (size_t at = 1; at < size && st == ST_OK;) {
        size_t room;
        uint8_t *to = frame_reader_room(&r, &room);
        size_t n = size - at;
        if (n > room) n = room;
        if (n > part) n = part;
        memcpy(to, data + at, n);
        frame_reader_add(&r, n);
        at += n;
        st = take_frames(&r, t, leader);
    }
    frame_reader_close(&r);
    requests_fail_all(t, ST_UNAVAILABLE, "the input is over");
    requests_close(t);
    return 0;
}
