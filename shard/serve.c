#include "shard/serve.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "build_id.h"
#include "shard/link/link.h"
#include "shard/link/watchdog.h"
#include "shard/model/plan_send.h"
#include "shard/sched/sched_cache.h"

/* ---- what gemmad is told of the ranks ---- */

static status gather_infos(comm *ranks, const instance *in, const instance_options *o, link_rank_info *all) {
    link_rank_info mine = {.rank = comm_rank(ranks),
                           .pid = (uint32_t)getpid(),
                           .threads = o->threads,
                           .kv_bytes = in->plan.kv_bytes,
                           .weight_bytes_read = in->weights->bytes_read};
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    mine.cpu_ms = (uint64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000 +
                  (uint64_t)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1000;
    gethostname(mine.host, sizeof mine.host - 1);
    snprintf(mine.state, sizeof mine.state, "ready");
    snprintf(mine.isa, sizeof mine.isa, "%s", in->device->name);
    return comm_all_gather(ranks, &mine, sizeof mine, all);
}

static void log_plan(const comm *ranks, const instance *in) {
    const budget *b = &in->plan;
    log_info("%s, rank %u of %u on %s with %u threads: weights %.1f MiB (read %.1f MiB, beside them %.1f "
             "MiB, in %.2f s, %.2f GB/s), "
             "activations %.1f MiB, KV in %s %.1f MiB in %u slabs: %llu tokens; context %u, one request of "
             "it %.1f "
             "MiB full + %.1f MiB sliding, %u of them at once, %u of any length",
             in->layout_text, comm_rank(ranks), comm_size(ranks), in->device->name, in->device->threads,
             (double)in->weights->bytes / 0x1p20, (double)in->weights->bytes_read / 0x1p20,
             (double)in->weights->bytes_skipped / 0x1p20, (double)in->load_ns / 1e9,
             progress_rate(in->weights->bytes_read, in->load_ns), (double)b->activation_bytes / 0x1p20,
             kv_type_name(in->kv), (double)b->kv_bytes / 0x1p20, b->slabs, (unsigned long long)b->tokens_held,
             b->context, (double)b->kv_request_bytes[KV_FULL] / 0x1p20,
             (double)b->kv_request_bytes[KV_SLIDING] / 0x1p20, b->requests_held, b->slots);
}

/* ---- leader ---- */

enum { EARLY_EVENTS = 64 };

typedef struct leader {
    comm *ranks;
    const serve_options *o;
    instance *in;
    link_connection *link;
    sched *s;
    sched_cache *cache;  /* the scheduler's */
    uint64_t counted_ns; /* when the cache was last walked through */
    plan_channel channel;
    plan p;
    watchdog *dog;
    link_progress progress;
    bool draining;
    uint64_t last_plan_ns, grace_ms;
    link_event early[EARLY_EVENTS]; /* [early_end - early_begin] came while a device computed */
    uint32_t early_begin, early_end;
    runner_reads read_bytes; /* of all ranks together */
} leader;

static status say_started(void *c, uint64_t id, uint32_t cached, uint64_t queue_us) {
    return link_send_started(((leader *)c)->link, id, cached, queue_us);
}
static status say_progress(void *c, uint64_t id, uint32_t prefilled) {
    return link_send_progress(((leader *)c)->link, id, prefilled);
}
static status say_prompt(void *c, uint64_t id, uint32_t first, const token_logprob *p, uint32_t n) {
    return link_send_prompt_logprobs(((leader *)c)->link, id, first, p, n);
}
static status say_token(void *c, uint64_t id, uint32_t token, const token_logprob *logprob) {
    return link_send_tokens(((leader *)c)->link, id, &token, 1, logprob);
}
static status say_finished(void *c, uint64_t id, const sched_finish *f) {
    link_finish l = {f->reason,     f->has_stop_token, f->stop_token, f->error,
                     f->error_text, f->queue_us,       f->prefill_us, f->decode_us};
    return link_send_finished(((leader *)c)->link, id, &l);
}

static status open_sched(leader *l) {
    sched_options o = sched_options_of(
        l->in, (sched_sink){l, say_started, say_progress, say_prompt, say_token, say_finished});
    o.prefill_min_share = l->o->prefill_min_share;
    sched_cache_open(&l->cache, &o, l->in);
    o.prefix = sched_cache_hooks(l->cache);
    return sched_open(&l->s, &o);
}

/* Bytes that each of the counted reads costs, of all ranks; an expert's are spread over the ranks of its width. */
static status gather_read_bytes(comm *ranks, const instance *in, runner_reads *out) {
    runner_reads mine = runner_weight_bytes(in->run), *all = memory_alloc_array(comm_size(ranks), sizeof *all);
    status st = comm_all_gather(ranks, &mine, sizeof mine, all);
    *out = (runner_reads){0};
    for (uint32_t i = 0; i < comm_size(ranks); i++) {
        out->whole += all[i].whole;
        out->tail += all[i].tail;
        out->heads += all[i].heads;
        out->experts += all[i].experts;
    }
    out->experts /= in->split->expert_degree ? in->split->expert_degree : 1;
    free(all);
    return st;
}

/* What a step took: since `since`, when the exchanges had taken collective_ns. */
static void count_step(leader *l, uint64_t since, uint64_t collective_ns) {
    runner_reads n = runner_weight_reads(l->in->run);
    const runner_reads *b = &l->read_bytes;
    uint64_t ns = comm_statistics(l->ranks).ns - collective_ns, bound = LIMIT_COLLECTIVE_FIRST_NS;
    uint32_t bucket = 0;
    for (; bucket + 1 < LIMIT_COLLECTIVE_BUCKETS && ns > bound; bound *= 4) bucket++;
    atomic_fetch_add(&l->progress.steps, 1);
    atomic_fetch_add(&l->progress.step_ns, clock_now_ns() - since);
    atomic_fetch_add(&l->progress.collective_ns, ns);
    atomic_fetch_add(&l->progress.collective_steps[bucket], 1);
    atomic_store(&l->progress.weight_bytes,
                 n.whole * b->whole + n.tail * b->tail + n.heads * b->heads + n.experts * b->experts);
}

/* One plan to all ranks and its execution; a plan without spans keeps followers alive. */
static status run_plan(leader *l) {
    uint64_t since = clock_now_ns(), collective_ns = comm_statistics(l->ranks).ns;
    watchdog_arm(l->dog, "a step", SERVE_LAYER_SECONDS * 1000);
    atomic_store(&l->progress.in_step, true);
    status st = comm_wake(l->ranks);
    if (st == ST_OK) st = plan_send(&l->channel, &l->p);
    if (st == ST_OK && !l->p.stop) st = runner_step(l->in->run, &l->p, sched_take_result, l->s);
    if (st == ST_OK && !l->p.stop) sched_spilled(l->s, runner_spilled(l->in->run));
    if (st == ST_OK && !l->p.stop) st = sched_step_done(l->s);
    l->last_plan_ns = clock_now_ns();
    if (l->p.span_count) count_step(l, since, collective_ns); /* keep-alives are no steps */
    atomic_store(&l->progress.imbalance, (float)runner_imbalance(l->in->run));
    atomic_store(&l->progress.in_step, false);
    watchdog_disarm(l->dog);
    return st;
}

/* A walk through a large cache takes milliseconds. */
static void count_cache(leader *l) {
    uint64_t now = clock_now_ns();
    if (sched_running(l->s) && now - l->counted_ns < 1000000000u) return;
    l->counted_ns = now;
    sched_cache_counts c = sched_cache_state(l->cache);
    atomic_store(&l->progress.prefix_query_tokens, c.queried_tokens);
    atomic_store(&l->progress.prefix_hit_tokens, c.hit_tokens);
    atomic_store(&l->progress.cached_pages, c.pages);
    atomic_store(&l->progress.spilled_bytes, c.spilled_bytes);
}

static void update_progress(leader *l) {
    count_cache(l);
    atomic_store(&l->progress.running, sched_running(l->s));
    atomic_store(&l->progress.waiting, sched_waiting(l->s));
    atomic_store(&l->progress.prompt_tokens, sched_prompt_tokens(l->s));
    atomic_store(&l->progress.generated_tokens, sched_generated_tokens(l->s));
    atomic_store(&l->progress.kv_pages_used, sched_pages_used(l->s));
    atomic_store(&l->progress.kv_pages_total, sched_pages_total(l->s));
    atomic_store(&l->progress.preemptions, sched_preemptions(l->s));
    atomic_store(&l->progress.paused, sched_paused(l->s));
    atomic_store(&l->progress.step_us, (uint32_t)(sched_step_ns(l->s) / 1000));
}

static status take_event(leader *l, link_event *e) {
    switch (e->kind) {
    case LINK_SUBMIT: {
        link_request *r = e->request;
        sched_request q = {.id = r->id,
                           .tokens = r->tokens,
                           .token_count = r->token_count,
                           .prompt_count = r->prompt_count,
                           .priority = r->priority,
                           .deadline_ms = r->deadline_ms,
                           .client = r->client,
                           .group = r->group,
                           .sampling = r->sampling,
                           .grammar = r->grammar,
                           .grammar_bytes = r->grammar_bytes,
                           .same_grammar = r->same_grammar};
        r->tokens = NULL;
        r->grammar = NULL;
        link_request_free(r);
        return sched_submit(l->s, &q);
    }
    case LINK_CANCEL: return sched_cancel(l->s, e->id);
    case LINK_DRAIN: l->draining = true; return ST_OK;
    case LINK_VOCABULARY: {
        status st = sched_take_vocabulary(l->s, e->data, e->data_bytes);
        free(e->data);
        return st;
    }
    case LINK_PAUSE: return sched_pause(l->s, e->id, e->paused);
    }
    return fail(ST_UNSUPPORTED, "engine link: event %d", (int)e->kind);
}

static bool has_requests(const leader *l) { return sched_running(l->s) + sched_waiting(l->s) > 0; }

/* While a device computes a step, the one before it is sent out and what came in is read; what it means to the scheduler waits
 * until the step is over. Errors of the link are met again by whoever waits for events. */
static void while_device_computes(void *context) {
    leader *l = context;
    if (!l->link || link_flush(l->link) != ST_OK || link_backlog_bytes(l->link) > LINK_BACKLOG_STOP) return;
    if (l->early_begin == l->early_end) l->early_begin = l->early_end = 0;
    while (l->early_end < EARLY_EVENTS && link_poll(l->link, 0, &l->early[l->early_end]) == ST_OK) l->early_end++;
}

static status next_event(leader *l, int timeout_ms, link_event *e) {
    if (l->early_begin == l->early_end) return link_poll(l->link, timeout_ms, e);
    *e = l->early[l->early_begin++];
    return ST_OK;
}

/* Milliseconds to wait for an event; -1: for ever. */
static int wait_ms(const leader *l, bool held, uint64_t keep_ms) {
    if (held) return 100;
    if (sched_has_work(l->s)) return 0;
    /* Paused requests have deadlines too. */
    if (has_requests(l)) return 100;
    return comm_size(l->ranks) > 1 ? (int)keep_ms : -1;
}

/* Events until there is a step to run, or the time for a keep-alive. */
static status take_events(leader *l) {
    for (;;) {
        link_event e;
        bool idle = !sched_has_work(l->s);
        if (l->draining && !has_requests(l) && !sched_has_work(l->s)) return ST_OK;
        uint64_t since_ms = (clock_now_ns() - l->last_plan_ns) / 1000000,
                 keep = SERVE_KEEPALIVE_SECONDS * 1000;
        if (idle && comm_size(l->ranks) > 1 && since_ms >= keep) return ST_OK;
        /* A gemmad that takes nothing more pauses the engine: link_poll writes while it waits. */
        bool held = link_backlog_bytes(l->link) > LINK_BACKLOG_STOP;
        status st = next_event(l, wait_ms(l, held, keep - since_ms), &e);
        if (st == ST_TIMEOUT && held) continue;
        if (st == ST_TIMEOUT) return ST_OK;
        TRY(st);
        TRY(take_event(l, &e));
        update_progress(l);
        TRY(link_flush(l->link));
    }
}

static status lead(leader *l) {
    l->last_plan_ns = clock_now_ns();
    for (;;) {
        status st = take_events(l);
        if (st == ST_UNAVAILABLE) {
            /* Adoption by a new gemmad replays requests from tokens it has; until then nobody hears the
             * answers. */
            log_warn("gemmad is gone (%s); ending", status_text());
            return ST_OK;
        }
        TRY(st);
        if (l->draining && !has_requests(l) && !sched_has_work(l->s)) return ST_OK;
        TRY(sched_plan(l->s, &l->p));
        TRY(run_plan(l));
        update_progress(l);
        if (!l->in->device->is_host && sched_has_work(l->s)) continue; /* while_device_computes sends */
        st = link_flush(l->link);
        if (st != ST_OK && st != ST_UNAVAILABLE) return st;
    }
}

/* "ready" means that a real token has been produced: the first step runs before hello, so that whatever would
 * fail there fails while the engine is still starting. */
static status warm_up(leader *l) {
    plan_clear(&l->p);
    plan_open *o = plan_add_open(&l->p);
    o->params = (sampling){
        .top_p = 1, .repetition_penalty = 1, .logprobs = -1, .prompt_logprobs = -1, .max_tokens = 1};
    for (int kind = 0; kind < KV_KINDS; kind++)
        if (l->in->plan.geometry.page_bytes[kind]) plan_add_page(&l->p, 0, kind, 0, 0);
    uint32_t token = l->in->config->bos_token < l->in->config->vocab ? l->in->config->bos_token : 0;
    plan_span *s = plan_add_span(&l->p);
    s->first_input = plan_add_tokens(&l->p, &token, 1);
    *s = (plan_span){.count = 1,
                     .first_input = s->first_input,
                     .logits = PLAN_LOGITS_LAST,
                     .draw = 1,
                     .next_token = PLAN_NO_TOKEN};
    /* Two kinds share slabs, so page 0 of both would be the same bytes: the second kind takes the last slab.
     */
    if (l->p.page_count == 2)
        l->p.page[1].page = (l->in->plan.slabs - 1) * l->in->plan.geometry.pages_per_slab[KV_FULL];
    watchdog_arm(l->dog, "the first step", SERVE_LAYER_SECONDS * 1000);
    status st = comm_wake(l->ranks);
    if (st == ST_OK) st = plan_send(&l->channel, &l->p);
    if (st == ST_OK) st = runner_step(l->in->run, &l->p, NULL, NULL);
    watchdog_disarm(l->dog);
    return st;
}

static status say_ready(leader *l, const link_rank_info *infos) {
    link_hello hello = {.build_id = GEMMAD_BUILD_ID,
                        .layout = l->in->layout_text,
                        .checkpoint_hash = l->in->checkpoint_hash,
                        .context_tokens = l->in->plan.context,
                        .vocab = l->in->config->vocab,
                        .requests_max = l->in->plan.slots,
                        .ranks = infos,
                        .rank_count = comm_size(l->ranks)};
    link_set_ranks(l->link, infos, comm_size(l->ranks));
    return link_say_hello(l->link, &hello, &l->grace_ms);
}

static status run_leader(leader *l, const link_rank_info *infos) {
    TRY(open_sched(l));
    TRY(warm_up(l));
    update_progress(l);
    TRY(say_ready(l, infos));
    TRY(lead(l));
    plan_clear(&l->p);
    l->p.stop = 1;
    return run_plan(l);
}

/* The link opens before anything is loaded: a wrong secret is known at once, and heartbeats tell that loading
 * goes on. */
static status dial(leader *l) {
    link_options options = {.address = l->o->link, .connect_timeout_ms = 10000};
    TRY(link_read_secret(l->o->secret_file, options.secret));
    status st = link_open(&l->link, &options);
    explicit_bzero(options.secret, sizeof options.secret);
    TRY(st);
    return link_start_heartbeat(l->link, &l->progress, NULL, 0);
}

static void tell_failure(leader *l) {
    if (!l->link) return;
    status said = link_send_failed(l->link, status_text()); /* if gemmad still listens */
    if (said == ST_OK) said = link_flush(l->link);
    (void)said;
}

static void leader_close(leader *l) {
    for (; l->early_begin < l->early_end; l->early_begin++) {
        link_event *e = &l->early[l->early_begin];
        if (e->kind == LINK_SUBMIT) link_request_free(e->request);
        if (e->kind == LINK_VOCABULARY) free(e->data);
    }
    link_close(l->link);
    sched_close(l->s);
    plan_close(&l->p);
    plan_channel_close(&l->channel);
}

/* ---- the others ---- */

static status serve_follower(comm *ranks, instance *in, watchdog *dog) {
    plan_channel channel = {.ranks = ranks};
    plan p = {0};
    plan_bounds bounds = runner_bounds(in->run);
    status st = ST_OK;
    while (st == ST_OK) {
        st = comm_wait(ranks, SERVE_LEADERLESS_SECONDS * 1000);
        if (st == ST_TIMEOUT)
            st = fail(ST_PEER, "the leader has sent no plan for %d s", SERVE_LEADERLESS_SECONDS);
        watchdog_arm(dog, "a step", SERVE_LAYER_SECONDS * 1000);
        if (st == ST_OK) st = plan_receive(&channel, &p, &bounds);
        if (st == ST_OK && p.stop) break;
        if (st == ST_OK) st = runner_step(in->run, &p, NULL, NULL);
        watchdog_disarm(dog);
    }
    watchdog_disarm(dog);
    if (st != ST_OK) log_error("rank %u ends: %s", comm_rank(ranks), status_text());
    plan_close(&p);
    plan_channel_close(&channel);
    return st;
}

/* A step may take minutes at great depth, so each of its layers has the time anew. */
static void layer_begins(void *dog) { watchdog_arm(dog, "a layer of a step", SERVE_LAYER_SECONDS * 1000); }

status serve_rank(comm *ranks, const serve_options *o) {
    instance in = {0};
    watchdog *dog = NULL;
    link_rank_info *infos = memory_alloc_array(comm_size(ranks), sizeof *infos);
    instance_options io = o->instance;
    bool leads = comm_rank(ranks) == 0;
    leader l = {.ranks = ranks, .o = o, .in = &in, .channel = {.ranks = ranks}};
    status st;
    io.ranks = ranks;
    TRY_OR_FAIL(watchdog_open(&dog));
    l.dog = dog;
    io.alive = layer_begins;
    io.alive_context = dog;
    if (leads) io.meanwhile = while_device_computes, io.meanwhile_context = &l;
    if (leads) TRY_OR_FAIL(dial(&l));
    /* Loading has no deadline of its own: disks differ by orders of magnitude, and the supervisor watches the
     * process. */
    TRY_OR_FAIL(instance_open(&in, &io));
    log_plan(ranks, &in);
    TRY_OR_FAIL(gather_infos(ranks, &in, &io, infos));
    TRY_OR_FAIL(gather_read_bytes(ranks, &in, &l.read_bytes));
    st = leads ? run_leader(&l, infos) : serve_follower(ranks, &in, dog);
fail:
    if (st != ST_OK) log_error("%s", status_text());
    if (st != ST_OK && leads) tell_failure(&l);
    if (st != ST_OK) comm_abort(ranks);
    leader_close(&l);
    instance_close(&in);
    watchdog_close(dog);
    free(infos);
    return st;
}
