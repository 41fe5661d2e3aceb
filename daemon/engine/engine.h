/* One engine as the coordinator sees it: a launcher's process tree under a keeper, and the link to its
 * leader. Requests go in, tokens come out; steps are not visible here.
 *
 * Memory:  engine_open allocates; engine_close releases after the `closed` event. Structs passed to events
 *          belong to the engine and are valid during the call; structs passed in are copied.
 * Threads: loop thread only (libuv); events are called there, never from inside engine_submit.
 * Errors:  a request ends with exactly one `finished` or `failed`. An engine that dies fails its requests
 *          with ST_UNAVAILABLE. */
#ifndef DAEMON_ENGINE_ENGINE_H
#define DAEMON_ENGINE_ENGINE_H

#include "base/status.h"
#include "base/vocabulary.h"
#include "proto/limits.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

typedef enum engine_state {
    ENGINE_STARTING,
    ENGINE_READY,
    ENGINE_DRAINING,
    ENGINE_FAILED,
    ENGINE_STOPPED
} engine_state;
const char *engine_state_name(engine_state s); /* "starting", "ready", "draining", "failed", "failed" */

/* What `gemmad-shard plan --json` says of a model and a layout before anything is loaded. */
typedef struct model_facts {
    char path[4096];
    uint32_t vocab, context_tokens /* after --context and memory */, bos_token, pad_token;
    uint32_t end_token[64], end_token_count;
    double default_temperature, default_top_p;
    uint32_t default_top_k;
    char layout[64], checkpoint_hash[65], kv_type[8];
    uint64_t weight_bytes, kv_bytes_total /* of one request of context_tokens */;
    /* The budget; bytes of all ranks. */
    uint32_t context_model /* the model's own limit */, kv_requests /* of context_tokens at once */;
    uint64_t kv_bytes_full, kv_bytes_sliding /* of kv_bytes_total */, kv_pool_bytes, activation_bytes, kv_tokens;
} model_facts;

/* How long an engine may take; NULL in the options means engine_times_default. */
typedef struct engine_times {
    uint32_t first_hello_ms; /* from the launcher's start to the leader's first frame: 120 s */
    uint32_t prove_ms;       /* for a connection to show the secret: 10 s */
    uint32_t silence_ms;     /* without a byte from a leader whose heart has beaten: 10 s */
    uint32_t end_ms;         /* for a drained leader to end by itself: 15 s */
    uint32_t kill_ms;        /* for the keeper to end its tree, before that is done for it: 15 s */
} engine_times;
extern const engine_times engine_times_default;

typedef struct engine_options {
    char id[64]; /* "tiny-dense/0" */
    const char *model_path;
    uint32_t ranks;                                    /* default 1 */
    uint32_t replica, replicas;                        /* this one of so many on the machine; 0: the only one */
    uint32_t threads;                                  /* per rank; 0: chosen */
    uint32_t context;                                  /* 0: chosen */
    uint64_t memory_bytes;                             /* 0: chosen */
    uint32_t prefill_min_share;                        /* percent; 0: the shard's default */
    const char *weights, *kv, *device, *expert_layout; /* NULL: default */
    bool batch_invariant;
    const char *spill;                                 /* DIR[:SIZE]; NULL: none */
    const char *launcher;                              /* "local" */
    const char *launcher_args, *hosts, *interface;     /* NULL: none */
    const char *state_dir;                             /* engine records, logs, link sockets below it */
    const char *shard_program;  /* path of gemmad-shard; NULL: beside this executable */
    const char *keeper_program; /* path of gemmad; NULL: /proc/self/exe */
    uint32_t grace_seconds;
    const engine_times *times; /* NULL: engine_times_default */
} engine_options;

/* Runs `gemmad-shard plan`; blocking, before the loop starts. ST_LAYOUT, ST_FORMAT, ST_NOT_FOUND,
 * ST_UNSUPPORTED, … with the shard's own sentence: a last error line "NOT_FOUND: sentence" gives that status,
 * one without a status's name ST_LAYOUT. ST_UNSUPPORTED too for a launcher, or hosts, that this build does
 * not start ranks on. */
STATUS_CHECKED status engine_plan(const engine_options *options, model_facts *facts);

typedef struct engine engine;

typedef struct engine_rank_status {
    uint32_t rank, pid, threads;
    char host[64], state[16], isa[64];
    uint64_t cpu_ms, kv_bytes, weight_bytes_read;
} engine_rank_status;
typedef struct engine_status {
    engine_state state;
    uint32_t restarts;
    /* Of the leader's last heartbeat, which was taken at counted_ms of a clock that only goes forward; 0: none
     * came. */
    uint64_t counted_ms;
    uint32_t running, waiting, paused, step_us; /* step_us: a recent step that decoded */
    uint64_t steps, kv_pages_used, kv_pages_total, cached_pages, prompt_tokens, generated_tokens;
    uint64_t prefix_query_tokens, prefix_hit_tokens, preemptions, spilled_bytes;
    uint64_t step_ns, weight_bytes, collective_ns; /* totals: in steps; weights that all ranks read; rank 0's exchanges */
    uint64_t collective_steps[LIMIT_COLLECTIVE_BUCKETS]; /* steps by their time in exchanges, see LIMIT_COLLECTIVE_FIRST_NS */
    double weight_bytes_per_second; /* of the steps between the last two heartbeats; 0: there was none */
    float imbalance; /* recent expert rows of the busiest EP group / the mean group's; 0: not known */
    char layout[64], failure[512];
    int exit_code;                  /* of the launcher, 128 + number for a signal; -1 while it runs */
    const engine_rank_status *rank; /* [rank_count], the engine's */
    uint32_t rank_count;
} engine_status;

typedef struct engine_watch {
    void (*state_changed)(void *context, engine *e, engine_state now);
    void (*closed)(void *context, engine *e); /* after engine_stop: nothing of it runs any more */
    void *context;
} engine_watch;

/* Fields as proto/engine.proto's Sampling; every one set. Pointers are the caller's during engine_submit. */
typedef struct engine_bias {
    uint32_t token;
    float bias;
} engine_bias;
typedef struct engine_sampling {
    uint32_t max_tokens;
    float temperature, top_p, min_p;
    uint32_t top_k;
    uint64_t seed;
    const uint32_t *stop_token;
    uint32_t stop_token_count;
    float repetition_penalty, presence_penalty, frequency_penalty;
    const engine_bias *bias;
    uint32_t bias_count;
    int32_t logprobs, prompt_logprobs; /* -1: not asked */
} engine_sampling;

typedef struct engine_request {
    const uint32_t *tokens;
    uint32_t token_count, prompt_count, sample_index;
    engine_sampling sampling;
    int32_t priority;
    uint64_t deadline_ms;   /* from now; 0: none */
    uint64_t client, group; /* who asks, and whose samples of one prompt belong together; 0: unknown, none */
    /* What the answer must follow, as grammar_compile made it with this vocabulary (tokenizer_vocabulary), which goes to the
     * engine with the first such request and must live as long as the engine. NULL: nothing. */
    const uint8_t *grammar;
    size_t grammar_bytes;
    uint64_t grammar_id; /* of these bytes alone; requests in a row with the same id send them once. 0: always send them */
    const vocabulary *vocabulary;
} engine_request;

typedef struct engine_top {
    uint32_t token;
    float logprob;
} engine_top;
typedef struct engine_logprob {
    uint32_t token;
    float logprob;
    const engine_top *top;
    uint32_t top_count;
} engine_logprob;

typedef struct engine_timings {
    uint64_t queue_us, prefill_us, decode_us;
} engine_timings;

typedef struct engine_listener {
    void (*started)(void *context, uint32_t cached_tokens);
    void (*progress)(void *context, uint32_t prefilled_tokens);
    void (*prompt_logprobs)(void *context, uint32_t first_position, const engine_logprob *p, uint32_t n);
    /* logprobs is NULL or [n] */
    void (*tokens)(void *context, const uint32_t *tokens, uint32_t n, const engine_logprob *logprobs);
    /* reason "stop", "length" or "cancelled" */
    void (*finished)(void *context, const char *reason, const engine_timings *timings);
    void (*failed)(void *context, status st, const char *text);
} engine_listener;

/* The interface behind which a test puts a fake engine. engine_open gives the real one. */
typedef struct engine_ops {
    status (*submit)(engine *e, const engine_request *request, const engine_listener *listener, void *context,
                     uint64_t *id);
    void (*cancel)(engine *e,
                   uint64_t id); /* the request then ends with finished("cancelled") unless it ended before */
    void (*pause)(engine *e, uint64_t id, bool paused); /* what is on its way still comes */
    void (*get_status)(const engine *e, engine_status *out);
    void (*stop)(engine *e, bool drain); /* then watch.closed; a second call with drain false hurries */
    void (*close)(engine *e);            /* only after watch.closed */
} engine_ops;
struct engine {
    const engine_ops *ops;
    model_facts facts;
    char id[64];
};

/* Makes the engine's directory, listens, and starts the keeper. ST_IN_USE: a living gemmad has this engine.
 * An engine that a dead gemmad left in the directory is ended first (blocking, usually under a second). When
 * it fails, handles may still be closing: run the loop once before uv_loop_close. facts.context_tokens falls
 * to what the leader could fit into memory, if that is less. SIGPIPE is ignored from here on. */
STATUS_CHECKED status engine_open(engine **out, uv_loop_t *loop, const engine_options *options,
                                  const model_facts *facts, const engine_watch *watch);
static inline status engine_submit(engine *e, const engine_request *r, const engine_listener *l,
                                   void *context, uint64_t *id) {
    return e->ops->submit(e, r, l, context, id);
}
static inline void engine_cancel(engine *e, uint64_t id) { e->ops->cancel(e, id); }
static inline void engine_pause(engine *e, uint64_t id, bool paused) { e->ops->pause(e, id, paused); }
static inline void engine_get_status(const engine *e, engine_status *out) { e->ops->get_status(e, out); }
static inline void engine_stop(engine *e, bool drain) { e->ops->stop(e, drain); }
static inline void engine_close(engine *e) {
    if (e) e->ops->close(e);
}

/* `gemmad --keeper …`: the process between gemmad and the launcher. Never returns to the daemon's main. */
int keeper_main(int argc, char **argv);

#endif
