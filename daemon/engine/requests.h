/* The requests that live on one engine link: what was asked, how far it is, and who listens. Frames about
 * them are checked against that before a listener hears of them: a leader that sends a 17th token of 16, or
 * top entries nobody asked for, has lost its mind.
 *
 * Memory:  owns its entries; listeners and contexts are the submitter's.
 * Threads: loop thread. Listeners may submit and cancel from inside their events.
 * Errors:  requests_handle: ST_FORMAT, and no listener was called. */
#ifndef DAEMON_ENGINE_REQUESTS_H
#define DAEMON_ENGINE_REQUESTS_H

#include "daemon/engine/engine.h"
#include "proto/engine_check.h"

typedef struct request_table request_table;

request_table *requests_open(void);
void requests_close(request_table *t); /* of an empty table; NULL is fine */
uint32_t requests_count(const request_table *t);
void requests_add(request_table *t, uint64_t id, const engine_request *r, const engine_listener *l,
                  void *context);
bool requests_has(const request_table *t, uint64_t id);
/* started, progress, prompt_logprobs, tokens and finished; other kinds are refused. */
STATUS_CHECKED status requests_handle(request_table *t, const engine_frame *f);
/* Every request ends with failed(st, text). */
void requests_fail_all(request_table *t, status st, const char *text);

/* A submit frame's messages around the arrays of r, which must stay. Apart, so that a test and the fuzz
 * target can. */
typedef struct submit_pack {
    Gemmad__Engine__Submit submit;
    Gemmad__Engine__Sampling sampling;
    Gemmad__Engine__LogitBias *bias, **bias_list; /* requests_pack_free releases */
} submit_pack;
/* grammar_there: the grammar_id of the grammar that the leader had last; 0: none. */
void requests_pack(submit_pack *p, uint64_t id, const engine_request *r, uint64_t grammar_there);
void requests_pack_free(submit_pack *p);

#endif
