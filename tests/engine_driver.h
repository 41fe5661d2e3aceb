/* Runs requests through scheduler, step plans and runner on any back end of comm, without a daemon: the leader's loop in
 * small. Every rank calls driver_run with the same instance options; results are rank 0's. */
#ifndef TESTS_ENGINE_DRIVER_H
#define TESTS_ENGINE_DRIVER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/memory.h"
#include "shard/model/instance.h"
#include "shard/model/plan_send.h"
#include "shard/sched/sched_cache.h"

typedef struct driver_request {
    /* in */
    const uint32_t *tokens;
    uint32_t token_count, prompt_count;
    sampling params;
    uint32_t submit_at_step;      /* steps before it is submitted */
    uint32_t after;               /* submitted when request after - 1 has ended; 0: at its step */
    uint32_t cancel_after;        /* tokens after which it is cancelled; 0: never */
    int32_t priority;
    const uint8_t *grammar;       /* [grammar_bytes], NULL: none; then driver_options.vocabulary is there */
    size_t grammar_bytes;
    /* out */
    uint32_t *out;                /* [out_count] drawn tokens */
    float *logprob;               /* [out_count] when params.logprobs ≥ 0 */
    uint32_t out_count;
    float *prompt_logprob;        /* [prompt_count]; [0] unused */
    float *prompt_top;            /* [prompt_count, vocab] by token id, when top n is the vocabulary */
    uint32_t prompt_logprob_count;
    char reason[16];
    status error;
    bool cancelled, submitted, ended;
    uint32_t cached_tokens;
} driver_request;

typedef struct driver_options {
    uint32_t slabs;               /* 0: all of the instance */
    bool random_chunks;           /* of 1 … chunk_max rows */
    bool cached;                  /* with a prefix cache, and disk where the instance has a folder */
    const uint8_t *vocabulary;    /* [vocabulary_bytes] */
    size_t vocabulary_bytes;
    uint64_t preemptions;         /* out */
    sched_cache_counts counts;    /* out */
} driver_options;

typedef struct driver {
    driver_request *requests;
    uint32_t count, vocab, left;
    uint32_t chunk_max;           /* 0: chunks stay as they are */
    sched *s;
} driver;

static inline sampling driver_greedy(uint32_t max_tokens) {
    return (sampling){.top_p = 1, .repetition_penalty = 1, .logprobs = -1, .prompt_logprobs = -1, .max_tokens = max_tokens};
}

/* A prompt, to be answered with so many greedy tokens. */
static inline driver_request driver_prompt(const uint32_t *tokens, uint32_t count, uint32_t answer) {
    return (driver_request){.tokens = tokens, .token_count = count, .prompt_count = count, .params = driver_greedy(answer)};
}

static inline status driver_started_(void *c, uint64_t id, uint32_t cached, uint64_t us) {
    (void)us;
    ((driver *)c)->requests[id].cached_tokens = cached;
    return ST_OK;
}
static inline status driver_progress_(void *c, uint64_t id, uint32_t n) {
    (void)c, (void)id, (void)n;
    return ST_OK;
}
static inline status driver_prompt_(void *c, uint64_t id, uint32_t first, const token_logprob *p, uint32_t n) {
    driver *d = c;
    driver_request *r = &d->requests[id];
    if (!r->prompt_logprob) r->prompt_logprob = memory_alloc_array(r->prompt_count, sizeof(float));
    for (uint32_t i = 0; i < n; i++) {
        r->prompt_logprob[first + i] = p[i].logprob;
        r->prompt_logprob_count++;
        if (p[i].top_count < d->vocab) continue;
        if (!r->prompt_top) r->prompt_top = memory_alloc_array((size_t)r->prompt_count * d->vocab, sizeof(float));
        for (uint32_t k = 0; k < p[i].top_count; k++)
            r->prompt_top[(size_t)(first + i - 1) * d->vocab + p[i].top[k].token] = p[i].top[k].logprob;
    }
    return ST_OK;
}
static inline status driver_token_(void *c, uint64_t id, uint32_t token, const token_logprob *p) {
    driver *d = c;
    driver_request *r = &d->requests[id];
    r->out = memory_grow(r->out, (r->out_count + 1) * sizeof *r->out);
    r->logprob = memory_grow(r->logprob, (r->out_count + 1) * sizeof *r->logprob);
    r->out[r->out_count] = token;
    r->logprob[r->out_count++] = p ? p->logprob : 0;
    return ST_OK;
}
static inline status driver_finished_(void *c, uint64_t id, const sched_finish *f) {
    driver *d = c;
    snprintf(d->requests[id].reason, sizeof d->requests[id].reason, "%s", f->reason);
    d->requests[id].error = f->error;
    d->requests[id].ended = true;
    d->left--;
    return ST_OK;
}

static inline void driver_free(driver_request *r, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        free(r[i].out);
        free(r[i].logprob);
        free(r[i].prompt_logprob);
        free(r[i].prompt_top);
        r[i].out = NULL;
        r[i].logprob = r[i].prompt_logprob = r[i].prompt_top = NULL;
        r[i].out_count = r[i].prompt_logprob_count = 0;
        r[i].cancelled = r[i].submitted = r[i].ended = false;
    }
}

static inline status driver_submit_due_(driver *d, uint32_t step) {
    for (uint32_t i = 0; i < d->count; i++) {
        driver_request *r = &d->requests[i];
        if (r->submitted || (r->after ? !d->requests[r->after - 1].ended : r->submit_at_step > step)) continue;
        r->submitted = true;
        sched_request q = {.id = i, .token_count = r->token_count, .prompt_count = r->prompt_count,
                           .priority = r->priority, .sampling = r->params};
        q.tokens = memory_alloc_array(r->token_count, sizeof *q.tokens);
        memcpy(q.tokens, r->tokens, r->token_count * sizeof *q.tokens);
        if (r->grammar) {
            q.grammar_bytes = r->grammar_bytes;
            q.grammar = memory_alloc(r->grammar_bytes);
            memcpy(q.grammar, r->grammar, r->grammar_bytes);
        }
        TRY(sched_submit(d->s, &q));
    }
    for (uint32_t i = 0; i < d->count; i++) {
        driver_request *r = &d->requests[i];
        if (!r->cancel_after || r->cancelled || r->out_count < r->cancel_after) continue;
        r->cancelled = true;
        TRY(sched_cancel(d->s, i));
    }
    return ST_OK;
}

static inline status driver_lead_(instance *in, plan_channel *channel, driver *d) {
    plan p = {0};
    status st = ST_OK;
    uint32_t random = 1;
    for (uint32_t step = 0; st == ST_OK && (d->left > 0 || sched_has_work(d->s)); step++) {
        st = driver_submit_due_(d, step);
        random = random * 1664525u + 1013904223u;
        if (d->chunk_max) sched_fix_chunk(d->s, 1 + (random >> 8) % d->chunk_max);
        if (st == ST_OK) st = sched_plan(d->s, &p);
        if (st == ST_OK) st = plan_send(channel, &p);
        if (st == ST_OK) st = runner_step(in->run, &p, sched_take_result, d->s);
        if (st == ST_OK) sched_spilled(d->s, runner_spilled(in->run));
        if (st == ST_OK) st = sched_step_done(d->s);
    }
    plan_clear(&p);
    p.stop = 1;
    if (st == ST_OK) st = plan_send(channel, &p);
    plan_close(&p);
    return st;
}

static inline status driver_follow_(instance *in, plan_channel *channel) {
    plan p = {0};
    plan_bounds bounds = runner_bounds(in->run);
    status st = ST_OK;
    while (st == ST_OK) {
        st = plan_receive(channel, &p, &bounds);
        if (st != ST_OK || p.stop) break;
        st = runner_step(in->run, &p, NULL, NULL);
    }
    plan_close(&p);
    return st;
}

static inline status driver_run_with(instance *in, comm *ranks, driver_request *requests, uint32_t count, driver_options *tune) {
    plan_channel channel = {.ranks = ranks};
    status st;
    if (comm_rank(ranks) == 0) {
        driver d = {.requests = requests, .count = count, .vocab = in->config->vocab, .left = count};
        sched_options o = sched_options_of(in, (sched_sink){&d, driver_started_, driver_progress_, driver_prompt_,
                                                            driver_token_, driver_finished_});
        o.fixed_chunk = o.chunk_max; /* what a test sees does not depend on the time */
        sched_cache *cache = NULL;
        if (tune->slabs) o.slabs = tune->slabs;
        if (tune->random_chunks) d.chunk_max = o.chunk_max;
        if (tune->cached) {
            sched_cache_open(&cache, &o, in);
            o.prefix = sched_cache_hooks(cache);
        }
        st = sched_open(&d.s, &o);
        if (st == ST_OK && tune->vocabulary) st = sched_take_vocabulary(d.s, tune->vocabulary, tune->vocabulary_bytes);
        if (st == ST_OK) st = driver_lead_(in, &channel, &d);
        if (st == ST_OK) tune->preemptions = sched_preemptions(d.s);
        if (st == ST_OK && cache) tune->counts = sched_cache_state(cache);
        sched_close(d.s);
    } else {
        st = driver_follow_(in, &channel);
    }
    plan_channel_close(&channel);
    return st;
}

static inline status driver_run(instance *in, comm *ranks, driver_request *requests, uint32_t count) {
    return driver_run_with(in, ranks, requests, count, &(driver_options){0});
}

#endif
