#include "daemon/queue/request_log.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"

void request_log_prompt(request_log *l, const core *c, const char *text, size_t n) {
    if (!c->log_prompts || l->prompt) return;
    l->prompt_bytes = n;
    l->prompt_kept = n < REQUEST_LOG_PROMPT_BYTES ? n : REQUEST_LOG_PROMPT_BYTES;
    l->prompt = memory_alloc(l->prompt_kept + 1);
    memcpy(l->prompt, text, l->prompt_kept);
}

static void add_reason(request_log *l, const char *reason) {
    size_t used = strlen(l->reasons), n = strlen(reason);
    if (n == 0 || strstr(l->reasons, reason) || used + n + 2 > sizeof l->reasons) return;
    snprintf(l->reasons + used, sizeof l->reasons - used, "%s%s", used ? "," : "", reason);
}

static void raise_to(double *most, double value) {
    if (value > *most) *most = value;
}

void request_log_sample(request_log *l, const session_end *end) {
    if (l->samples++ == 0) l->cached_tokens = end->cached_tokens;
    l->completion_tokens += end->completion_tokens;
    raise_to(&l->queue_ms, end->queue_ms);
    raise_to(&l->prefill_ms, end->prefill_ms);
    raise_to(&l->decode_ms, end->decode_ms);
    if (end->first_token_ms > 0 && (l->first_token_ms == 0 || end->first_token_ms < l->first_token_ms))
        l->first_token_ms = end->first_token_ms;
    if (end->st == ST_OK) add_reason(l, end->reason);
}

/* A sentence about what the client sent may hold some of it; the client has been told, and the log need not know. */
static bool may_tell(const core *c, status st) {
    return c->log_prompts || !(st == ST_INVALID || st == ST_FORMAT || st == ST_UNSUPPORTED ||
                               st == ST_NOT_FOUND || st == ST_EXISTS);
}

void request_log_write(const request_log *l, const core *c, const call *k, const char *model,
                       const char *request_id, uint64_t arrival_ns, status st, const char *sentence) {
    const log_field fields[] = {
        log_field_text("request_id", request_id ? request_id : k->request_id),
        log_field_text("x_request_id", k->request_id),
        log_field_text("rpc", k->path),
        log_field_text("model", model),
        log_field_text("client", k->peer),
        log_field_text("status", status_name(st)),
        log_field_text("finish_reason", l->reasons[0] ? l->reasons : NULL),
        log_field_count("prompt_tokens", l->prompt_tokens),
        log_field_count("cached_tokens", l->cached_tokens),
        log_field_count("completion_tokens", l->completion_tokens),
        log_field_count("samples", l->samples),
        log_field_ms("queue_ms", l->queue_ms),
        log_field_ms("prefill_ms", l->prefill_ms),
        log_field_ms("decode_ms", l->decode_ms),
        log_field_ms("first_token_ms", l->first_token_ms),
        log_field_ms("total_ms", (double)(clock_now_ns() - arrival_ns) / 1e6),
        log_field_text("trace_id", k->trace.trace_id[0] ? k->trace.trace_id : NULL),
        log_field_text("span_id", k->trace.span_id[0] ? k->trace.span_id : NULL),
        log_field_text("parent_id", k->trace.parent_id[0] ? k->trace.parent_id : NULL),
        log_field_text("error", st != ST_OK && may_tell(c, st) ? sentence : NULL),
        l->prompt ? log_field_count("prompt_bytes", l->prompt_bytes) : log_field_text("prompt_bytes", NULL),
        log_field_bytes("prompt", l->prompt, l->prompt_kept),
    };
    log_event(LOG_INFO, st == ST_OK ? "request finished" : "request failed", fields,
              sizeof fields / sizeof *fields);
    if (l->samples == 0 && st != ST_OK) metrics_count_refused(c->metrics, model ? model : "", st);
}

void request_log_close(request_log *l) {
    free(l->prompt);
    *l = (request_log){0};
}
