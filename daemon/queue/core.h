/* The request core: the models that this gemmad serves, and what every rpc means. Transports bring calls, engines bring
 * tokens; validation, defaults, tokenising (on worker threads), stop strings, streaming detokenising and back-pressure
 * are here.
 *
 * Memory:  core_open allocates; core_close after the loop has stopped. Engines and tokenizers given to core_add_model
 *          stay the caller's and must outlive the core.
 * Threads: loop thread only; it uses uv_queue_work for anything over 1 ms. */
#ifndef DAEMON_QUEUE_CORE_H
#define DAEMON_QUEUE_CORE_H

#include "daemon/engine/engine.h"
#include "daemon/observe/metrics.h"
#include "daemon/queue/call.h"
#include "daemon/text/chat_template.h"
#include "daemon/text/tokenizer.h"
#include <uv.h>

typedef struct core core;

STATUS_CHECKED status core_open(core **out, uv_loop_t *loop);
void core_close(core *c);
/* tokens NULL: the model serves token-id prompts only. The first model added is the default. */
STATUS_CHECKED status core_add_model(core *c, const char *name, const tokenizer *tokens, engine *e);
/* What chats of a model that was added are rendered with; copied. Until then it serves none. */
STATUS_CHECKED status core_set_chat(core *c, const char *name, const chat_choice *chat);
/* Of a model by its name; NULL: no such model, or it serves token ids only. */
const tokenizer *core_tokenizer(core *c, const char *model);
/* The name of the one that a request of this key without a name means; "": there is none. */
const char *core_first_model(const core *c, const auth_key *who);
/* One more engine of a model that was added; it must be of the same checkpoint and vocabulary. */
STATUS_CHECKED status core_add_replica(core *c, const char *name, engine *e);
/* Requests that may wait for an engine to begin them; beyond, ST_BUSY. */
typedef struct core_limits {
    uint32_t queue, queue_per_client; /* of each model; of each client over all models */
} core_limits;
enum { CORE_QUEUE = 1024, CORE_QUEUE_PER_CLIENT = 256 }; /* unless set */
void core_set_limits(core *c, core_limits limits);
/* Prompts are written into the log too, their beginnings at least; off unless set. */
void core_set_log_prompts(core *c, bool on);
/* The keys whose refusals are among the metrics; NULL: none. Not the core's. */
void core_set_auth(core *c, const auth *keys);
/* What transports count into; the core's own. */
metrics *core_metrics(core *c);
/* What GET /metrics answers: Prometheus' text format 0.0.4. */
void core_write_metrics(core *c, strbuf *out);
/* All rpcs of gemmad.v1; unbuilt ones answer ST_UNSUPPORTED with the name of the rpc. */
const call_method *core_methods(uint32_t *count);
/* New Generate calls are refused with ST_UNAVAILABLE from now on; core_idle tells when the running ones are done. */
void core_drain(core *c, void (*idle)(void *context), void *context);
/* Control.Drain calls asked, which is to do what SIGTERM does; again at each call. Refused without it. */
void core_on_drain(core *c, void (*asked)(void *context), void *context);
/* "starting", "ready", "draining", "failed": of the whole daemon; the same word GetStatus reports. */
const char *core_state(const core *c);
/* WatchStatus calls last until this: they shall see how the daemon ends. Before the loop stops. */
void core_end_watches(core *c);
/* Called by whoever watches engines, so that health and waiting clients hear of it. */
void core_engine_changed(core *c, engine *e, engine_state now);

#endif
