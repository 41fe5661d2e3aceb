/* One request at an engine, from submission to its last event: stop strings, streaming text, back-pressure
 * and the one end that every request has. It knows nothing of protobuf or gRPC: whoever opens it (Generate
 * now, Chat and HTTP later) gives a sink.
 *
 * Memory:  session_open allocates; the session frees itself after sink->ended.
 * Threads: loop thread.
 * Back-pressure: while the client has LIMIT_BACKLOG_BYTES unread, the request is paused at the engine; what was
 * on its way waits here and grows together, and goes on as the client reads. An engine that sends
 * LIMIT_OVERSHOOT_BYTES all the same is at fault: ST_INTERNAL. */
#ifndef DAEMON_QUEUE_SESSION_H
#define DAEMON_QUEUE_SESSION_H

#include "daemon/auth/auth.h"
#include "daemon/engine/engine.h"
#include "daemon/observe/metrics.h"
#include "daemon/queue/answer.h"

typedef struct session session;

typedef struct session_end {
    status st;                 /* ST_OK: the stream is whole and reason says why it ended */
    const char *text;          /* the sentence, when not ST_OK */
    const char *reason;        /* "stop", "length", "tool_calls", "cancelled" */
    const chat_parser *parser; /* of a chat: what it has found besides; NULL: none */
    uint32_t cached_tokens, completion_tokens;
    double queue_ms, prefill_ms, decode_ms, first_token_ms; /* the last from arrival; 0: there was no token */
} session_end;

/* None is called from inside session_open. Any may call session_cancel. */
typedef struct session_sink {
    uint64_t (*backlog_bytes)(void *context);
    void (*started)(void *context, uint32_t cached_tokens);
    void (*progress)(void *context, uint32_t prefilled_tokens);
    /* count log-probabilities, the oldest of the queue, of the prompt's positions from first_position on. */
    void (*prompt_logprobs)(void *context, uint32_t first_position, const token_queue *q, size_t count);
    void (*delta)(void *context, const answer_part *part);
    bool (*may_pause)(void *context);           /* false: the request goes on whatever its client reads */
    void (*paused)(void *context, bool paused); /* at the engine; one that ends while paused is not resumed */
    void (*ended)(void *context, const session_end *end); /* once, the last; the session is gone afterwards */
} session_sink;

typedef struct session_options {
    engine *engine;
    const tokenizer *tokenizer;    /* NULL: deltas carry ids only */
    const engine_request *request; /* copied by the engine */
    const stop_matcher *stop;      /* copied */
    answer_form form;
    uint64_t arrival_ns;
    auth_key *who;           /* its tokens are counted; held by the caller until `ended` */
    metrics_engine *metrics; /* what it is counted in; NULL: nothing */
    const session_sink *sink;
    void *context;
} session_options;

/* Unless ST_OK (the engine's refusal) there is no session and nothing is called. */
STATUS_CHECKED status session_open(session **out, const session_options *options);
/* The sink's backlog has become less. */
void session_drained(session *s);
/* The client is gone: the engine is told, and `ended` comes with st and text when it has let go. text is
 * copied. */
void session_cancel(session *s, status st, const char *text);

#endif
