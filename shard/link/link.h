/* The leader's end of the engine link: frames of proto/engine.proto to gemmad, as C structs. The scheduler
 * sees no protobuf and no socket; it polls between steps and writes what came of a step.
 *
 * Memory:  requests handed out by link_poll are the caller's until link_request_free. Output structs are
 *          copied.
 * Threads: every call from the engine thread. link_start_heartbeat's thread shares the writer under a lock.
 * Errors:  ST_UNAVAILABLE when gemmad is gone, ST_FORMAT when it sent what it must not (the link is then
 *          closed too); the caller then forgets its requests and waits in link_reconnect for at most the
 *          grace time.
 * Back-pressure: writes never block: output is queued in memory up to a bound (then ST_BUSY, and nothing of
 *          that call is queued). An engine that sees link_backlog_bytes over LINK_BACKLOG_STOP takes no step
 *          until link_poll, which writes while it waits, has brought it down. */
#ifndef SHARD_LINK_LINK_H
#define SHARD_LINK_LINK_H

#include "base/status.h"
#include "proto/limits.h"
#include "shard/sample/sampling.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct link link_connection;

typedef struct link_rank_info {
    uint32_t rank, pid, threads;
    char host[64], state[16], isa[64];
    uint64_t cpu_ms, kv_bytes, weight_bytes_read;
} link_rank_info;

typedef struct link_hello {
    const char *build_id, *layout, *checkpoint_hash;
    uint32_t context_tokens, vocab, requests_max;
    const link_rank_info *ranks;
    uint32_t rank_count;
} link_hello;

/* Written by the engine thread, read by the heartbeat thread. */
typedef struct link_progress {
    _Atomic uint64_t steps, prompt_tokens, generated_tokens, kv_pages_used, kv_pages_total;
    _Atomic uint64_t prefix_query_tokens, prefix_hit_tokens, preemptions, cached_pages, spilled_bytes;
    _Atomic uint64_t step_ns, weight_bytes, collective_ns, collective_steps[LIMIT_COLLECTIVE_BUCKETS];
    _Atomic uint32_t running, waiting, paused, step_us;
    _Atomic float imbalance; /* expert rows of the busiest EP group / the mean group's; 0: no step yet */
    _Atomic bool in_step;
} link_progress;

typedef struct link_request {
    uint64_t id;
    uint32_t *tokens; /* [token_count] */
    uint32_t token_count, prompt_count;
    int32_t priority;
    uint64_t deadline_ms;   /* left when sent; 0: none */
    uint64_t client, group; /* who asks, and whose samples of one prompt belong together; 0: unknown, none */
    sampling sampling;
    uint8_t *grammar; /* [grammar_bytes]: what the answer must follow (base/automaton.h); NULL: nothing */
    size_t grammar_bytes;
    bool same_grammar; /* as the latest request that brought one */
} link_request;

typedef enum link_event_kind { LINK_SUBMIT, LINK_CANCEL, LINK_DRAIN, LINK_PAUSE, LINK_VOCABULARY } link_event_kind;
typedef struct link_event {
    link_event_kind kind;
    uint64_t id;           /* cancel, pause */
    bool paused;           /* pause: else the request goes on; the id may have ended meanwhile */
    link_request *request; /* submit */
    uint8_t *data;         /* vocabulary: [data_bytes], the caller's to free() */
    size_t data_bytes;
} link_event;

typedef struct link_options {
    const char *address; /* "unix:/path" or "host:port" */
    uint8_t secret[LIMIT_SECRET_BYTES];
    uint32_t connect_timeout_ms; /* for each of dialling and a welcome; 0: 10 s */
} link_options;

enum { LINK_BACKLOG_STOP = 8 << 20 };

/* The secret of --secret-file: exactly LIMIT_SECRET_BYTES bytes. */
STATUS_CHECKED status link_read_secret(const char *path, uint8_t secret[LIMIT_SECRET_BYTES]);
/* Dials and shows the secret (hello "loading"), before a model is loaded in vain: gemmad ends connections
 * that do not. ST_AUTH when gemmad hung up instead of answering. */
STATUS_CHECKED status link_open(link_connection **out, const link_options *options);
/* Waits a second at most for queued output to be taken. NULL is fine. */
void link_close(link_connection *l);
/* Says that the engine is ready, once a token has been produced, and waits for the welcome. hello is copied;
 * its ranks replace the heartbeat's. Fills the engine grace time. */
STATUS_CHECKED status link_say_hello(link_connection *l, const link_hello *hello, uint64_t *engine_grace_ms);
/* A thread that sends a heartbeat every second from `progress` and rank states; start it right after
 * link_open, so that gemmad notices a rank that dies or hangs while loading (a ready engine without
 * heartbeats is ended after 10 s). ranks are copied (none yet: 0); link_set_ranks changes them. cpu_ms of
 * ranks of this host is read from the system at each heartbeat. progress must outlive the link. */
STATUS_CHECKED status link_start_heartbeat(link_connection *l, const link_progress *progress,
                                           const link_rank_info *ranks, uint32_t rank_count);
void link_set_ranks(link_connection *l, const link_rank_info *ranks, uint32_t rank_count);
/* After ST_UNAVAILABLE or ST_FORMAT: dials again, every half second for at most timeout_ms, and says hello as
 * before. ST_TIMEOUT: no gemmad came. What was queued for the old one is dropped; the new one knows none of
 * its requests. */
STATUS_CHECKED status link_reconnect(link_connection *l, uint64_t timeout_ms);

/* The next event, waiting at most timeout_ms (0: only what is there; < 0: for ever). ST_TIMEOUT: none. A
 * submit has been checked against the limits, the vocabulary and the context of the hello. */
STATUS_CHECKED status link_poll(link_connection *l, int timeout_ms, link_event *out);
void link_request_free(link_request *r);

STATUS_CHECKED status link_send_started(link_connection *l, uint64_t id, uint32_t cached_tokens,
                                        uint64_t queue_us);
STATUS_CHECKED status link_send_progress(link_connection *l, uint64_t id, uint32_t prefilled_tokens);
STATUS_CHECKED status link_send_prompt_logprobs(link_connection *l, uint64_t id, uint32_t first_position,
                                                const token_logprob *p, uint32_t n);
STATUS_CHECKED status link_send_tokens(link_connection *l, uint64_t id, const uint32_t *tokens, uint32_t n,
                                       const token_logprob *logprobs /* [n] or NULL */);
typedef struct link_finish {
    const char *reason; /* "stop", "length", "cancelled", "error" */
    bool has_stop_token;
    uint32_t stop_token;
    status error; /* with reason "error" */
    const char *error_text;
    uint64_t queue_us, prefill_us, decode_us;
} link_finish;
STATUS_CHECKED status link_send_finished(link_connection *l, uint64_t id, const link_finish *f);
STATUS_CHECKED status link_send_failed(link_connection *l, const char *text);
/* Writes what is queued without blocking; call after a step. */
STATUS_CHECKED status link_flush(link_connection *l);
size_t link_backlog_bytes(link_connection *l);

#endif
