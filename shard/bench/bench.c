#include "shard/bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/shape.h"
#include "shard/bench/doctor.h"
#include "shard/kv/pages.h"
#include "shard/model/plan_send.h"

enum { FOLLOWER_WAIT_MS = 600000, WARM_UP_TOKENS = 64, WARM_UP_STEPS = 3, FIRST_ORDINARY_TOKEN = 600 };

typedef struct session {
    placement place;
    const bench_options *o;
    comm *ranks;
    instance in;
    plan p;
    plan_channel channel;
    bench_figures figures;
    /* the leader's */
    kv_pages *pages;
    uint64_t random;
    double *run_s, *step_ms;
    uint32_t steps, step_cap;
    bool counted; /* steps are timed */
    double first_token_s;
} session;

static bool leads(const session *s) { return comm_rank(s->ranks) == 0; }

/* ---- one step on every rank ---- */

static status run_plan(session *s) {
    uint64_t begin = clock_now_ns(), comm_before = comm_statistics(s->ranks).ns;
    TRY(runner_step(s->in.run, &s->p, NULL, NULL));
    s->figures.runner_ns += clock_now_ns() - begin;
    s->figures.comm_ns += comm_statistics(s->ranks).ns - comm_before;
    s->figures.steps++;
    return ST_OK;
}

static status lead_step(session *s) {
    uint64_t begin = clock_now_ns();
    TRY(comm_wake(s->ranks));
    TRY(plan_send(&s->channel, &s->p));
    if (s->p.stop) return ST_OK;
    TRY(run_plan(s));
    if (s->first_token_s == 0 && s->p.span_count && s->p.span[s->p.span_count - 1].draw)
        s->first_token_s = (double)(clock_now_ns() - s->o->began_ns) / 1e9;
    if (!s->counted) return ST_OK;
    if (s->steps == s->step_cap) {
        s->step_cap = s->step_cap ? s->step_cap * 2 : 256;
        s->step_ms = memory_grow(s->step_ms, s->step_cap * sizeof *s->step_ms);
    }
    s->step_ms[s->steps++] = (double)(clock_now_ns() - begin) / 1e6;
    return ST_OK;
}

/* The leader decides about steps; the others take what comes until it says stop. */
static status run_phase(session *s, status (*lead)(session *s)) {
    status st = ST_OK;
    plan_bounds bounds = runner_bounds(s->in.run);
    if (leads(s)) {
        TRY(lead(s));
        plan_clear(&s->p);
        s->p.stop = 1;
        return lead_step(s);
    }
    while (st == ST_OK) {
        TRY(comm_wait(s->ranks, FOLLOWER_WAIT_MS));
        TRY(plan_receive(&s->channel, &s->p, &bounds));
        if (s->p.stop) break;
        st = run_plan(s);
    }
    return st;
}

/* ---- sequences ---- */

static uint32_t tokens_of_sequence(const bench_options *o) {
    return o->decode ? o->depth + o->generate : o->prompt;
}

static uint32_t random_token(session *s) {
    s->random = s->random * 6364136223846793005u + 1442695040888963407u;
    uint32_t vocab = s->in.config->vocab, first = vocab > 2 * FIRST_ORDINARY_TOKEN ? FIRST_ORDINARY_TOKEN : 0;
    return first + (uint32_t)((s->random >> 33) % (vocab - first));
}

/* Pages of every position that will be written or looked at. A sliding layer's lie in a ring as large as what the
 * scheduler holds at once. */
static status place_pages(session *s, uint32_t slot) {
    uint32_t tokens = tokens_of_sequence(s->o), window = budget_window(s->in.config), count[KV_KINDS];
    uint32_t *id[KV_KINDS], first = 0, last = (tokens - 1) / KV_TOKENS_PER_PAGE;
    for (int kind = 0; kind < KV_KINDS; kind++) {
        bool uses = s->in.plan.geometry.page_bytes[kind] > 0;
        count[kind] = uses ? kv_pages_needed(kind, tokens, window, s->in.plan.chunk_max) : 0;
        id[kind] = memory_alloc_array(count[kind], sizeof *id[kind]);
    }
    status st = kv_pages_take(s->pages, count, id);
    for (uint32_t i = 0; st == ST_OK && i < count[KV_FULL]; i++)
        plan_add_page(&s->p, slot, KV_FULL, i, id[KV_FULL][i]);
    if (s->o->decode && s->o->depth > window) first = (s->o->depth - window) / KV_TOKENS_PER_PAGE;
    for (uint32_t i = first; st == ST_OK && count[KV_SLIDING] && i <= last; i++)
        plan_add_page(&s->p, slot, KV_SLIDING, i, id[KV_SLIDING][i % count[KV_SLIDING]]);
    for (int kind = 0; kind < KV_KINDS; kind++) free(id[kind]);
    return st;
}

static status lead_opening(session *s) {
    TRY(kv_pages_open(&s->pages, s->in.plan.slabs, s->in.plan.geometry.pages_per_slab));
    plan_clear(&s->p);
    for (uint32_t slot = 0; slot < s->o->batch; slot++) {
        plan_open *open = plan_add_open(&s->p);
        open->slot = slot;
        open->params = (sampling){.top_p = 1,
                                  .repetition_penalty = 1,
                                  .logprobs = -1,
                                  .prompt_logprobs = -1,
                                  .max_tokens = tokens_of_sequence(s->o)};
        status st = place_pages(s, slot);
        if (st != ST_OK) return fail_within(st, "KV of sequence %u of %u", slot + 1, s->o->batch);
    }
    return lead_step(s);
}

static void add_span(session *s, uint32_t slot, uint32_t position, uint32_t count, bool draw) {
    uint32_t first = s->p.token_count;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t token = random_token(s);
        plan_add_tokens(&s->p, &token, 1);
    }
    plan_span *span = plan_add_span(&s->p);
    span->slot = slot;
    span->position = position;
    span->count = count;
    span->first_input = first;
    span->draw = draw;
    span->logits = draw ? PLAN_LOGITS_LAST : PLAN_LOGITS_NONE;
}

/* Prompts in order of arrival, in chunks, as many rows a step as the engine takes. */
static status lead_prompts(session *s, uint32_t prompt) {
    uint32_t slot = 0, done = 0;
    while (slot < s->o->batch) {
        uint32_t left = s->in.plan.rows_max;
        plan_clear(&s->p);
        while (left && slot < s->o->batch) {
            uint32_t n = prompt - done;
            if (n > s->in.plan.chunk_max) n = s->in.plan.chunk_max;
            if (n > left) n = left;
            add_span(s, slot, done, n, done + n == prompt);
            left -= n;
            done += n;
            if (done < prompt) break; /* one chunk of a prompt in one step */
            slot++;
            done = 0;
        }
        TRY(lead_step(s));
    }
    return ST_OK;
}

static status lead_decode(session *s, uint32_t steps) {
    for (uint32_t i = 0; i < steps; i++) {
        plan_clear(&s->p);
        for (uint32_t slot = 0; slot < s->o->batch; slot++) add_span(s, slot, s->o->depth + i, 1, true);
        TRY(lead_step(s));
    }
    return ST_OK;
}

static status lead_warm_up(session *s) {
    const bench_options *o = s->o;
    if (o->decode) return lead_decode(s, o->generate < WARM_UP_STEPS ? o->generate : WARM_UP_STEPS);
    return lead_prompts(s, o->prompt < WARM_UP_TOKENS ? o->prompt : WARM_UP_TOKENS);
}

static status lead_runs(session *s) {
    s->counted = true;
    for (uint32_t i = 0; i < s->o->repeat; i++) {
        uint64_t begin = clock_now_ns();
        TRY(s->o->decode ? lead_decode(s, s->o->generate) : lead_prompts(s, s->o->prompt));
        s->run_s[i] = (double)(clock_now_ns() - begin) / 1e9;
    }
    s->counted = false;
    return ST_OK;
}

/* ---- opening ---- */

static void name_matrices(session *s) {
    model_weights *w = s->in.weights;
    backend *b = s->in.device;
    for (uint32_t l = 0; l < w->layers; l++) {
        layer_weights *lw = &w->layer[l];
        timed_name(b, &lw->q, "qkv");
        timed_name(b, &lw->o, "attention_out");
        timed_name(b, &lw->gate, "mlp_in");
        timed_name(b, &lw->down, "mlp_out");
        timed_name(b, &lw->ple_gate, "ple");
        timed_name(b, &lw->ple_projection, "ple");
    }
    timed_name(b, &w->ple_context, "ple");
    timed_name(b, &w->embed, "head");
}

static status open_instance(session *s, uint32_t threads, uint32_t spin_us) {
    const bench_options *o = s->o;
    strbuf config = {0};
    instance_options i = {.model_path = o->model,
                          .ranks = s->ranks,
                          .timed = true,
                          .weights = weights_choice_of(o->weights),
                          .kv_given = strcmp(o->kv, "auto") != 0,
                          .kv = kv_type_of(o->kv),
                          .threads = threads,
                          .spin_us = spin_us,
                          .placed = &s->place,
                          .gpu = o->gpu,
                          .device = device_choice_of(o->device),
                          .batch_invariant = o->batch_invariant,
                          .no_recording = o->no_graphs,
                          .whole_memory = true, /* many long sequences have room: what is not used is not touched */
                          .context = tokens_of_sequence(o),
                          .slots = o->batch,
                          .chunk_max = o->chunk,
                          .memory_bytes = o->memory_bytes};
    if (o->expert_layout && sscanf(o->expert_layout, "%ux%u", &i.expert_degree, &i.width_degree) != 2)
        return fail(ST_INVALID, "--expert-layout is '%s'; give EP degree x width degree, such as 2x1",
                    o->expert_layout);
    if (o->shape) {
        TRY(shape_write_config(o->shape, o->layers, &config));
        i.random_config = strbuf_text(&config);
    }
    uint64_t begin = clock_now_ns();
    status st = instance_open(&s->in, &i);
    s->figures.load_ns = clock_now_ns() - begin;
    strbuf_close(&config);
    if (st == ST_OK) name_matrices(s);
    return st;
}

/* ---- the whole ---- */

/* What steps read, as the runner counts it: a step that is replayed on a device makes no calls that could be counted. */
static void count_reads(session *s, const runner_reads *before) {
    runner_reads now = runner_weight_reads(s->in.run), each = runner_weight_bytes(s->in.run);
    timed_totals *t = &s->figures.operators;
    uint32_t degree = s->in.split->expert_degree ? s->in.split->expert_degree : 1;
    uint64_t experts = now.experts - before->experts;
    t->weight_bytes = (now.whole - before->whole) * each.whole + (now.tail - before->tail) * each.tail +
                      (now.heads - before->heads) * each.heads + experts * each.experts / degree;
    t->expert_calls = s->in.config->experts ? s->in.config->layers * s->figures.steps : 0;
    t->experts_hit = experts;
}

static status lead_look(session *s) {
    const bench_options *o = s->o;
    if (o->decode) return lead_decode(s, o->generate < WARM_UP_TOKENS ? o->generate : WARM_UP_TOKENS);
    return lead_prompts(s, o->prompt);
}

/* Where the time of a device goes: some more steps, in which it is waited for after each operator. */
static status look_at_operators(session *s) {
    bench_figures measured = s->figures;
    timed_totals ignored, seen;
    s->figures.steps = 0;
    timed_take(s->in.device, &ignored);
    timed_wait(s->in.device, true);
    TRY(run_phase(s, lead_look));
    timed_wait(s->in.device, false);
    timed_take(s->in.device, &seen);
    measured.looked_steps = s->figures.steps;
    memcpy(measured.operators.op, seen.op, sizeof seen.op);
    measured.operators.op_count = seen.op_count;
    measured.operators.expert_rows = seen.expert_rows;
    s->figures = measured;
    return ST_OK;
}

static status measure(session *s) {
    timed_totals ignored;
    uint64_t load_ns = s->figures.load_ns;
    TRY(run_phase(s, lead_opening));
    if (s->o->decode && s->o->depth > 0)
        for (uint32_t slot = 0; slot < s->o->batch; slot++) runner_fill_kv(s->in.run, slot);
    TRY(run_phase(s, lead_warm_up));
    timed_take(s->in.device, &ignored);
    s->figures = (bench_figures){.load_ns = load_ns, .weight_bytes = s->in.weights->bytes};
    runner_reads before = runner_weight_reads(s->in.run);
    TRY(run_phase(s, lead_runs));
    timed_take(s->in.device, &s->figures.operators);
    if (s->in.device->is_host) return ST_OK;
    count_reads(s, &before);
    return look_at_operators(s);
}

static bench_result result_of(session *s, uint32_t threads, const bench_figures *all, const bandwidth *read) {
    const bench_options *o = s->o;
    bench_result r = {.options = o,
                      .layers = s->in.config->layers,
                      .experts = s->in.config->experts,
                      .experts_active = s->in.config->experts_active,
                      .threads = threads,
                      .rank = all,
                      .ranks = comm_size(s->ranks),
                      .run_s = s->run_s,
                      .step_ms = s->step_ms,
                      .steps = s->steps,
                      .run_tokens = (uint64_t)o->batch * (o->decode ? o->generate : o->prompt),
                      .read = *read,
                      .first_token_s = s->first_token_s,
                      .token_gmac = doctor_token_gmac(s->in.config),
                      .on_gpu = !s->in.device->is_host};
    snprintf(r.layout, sizeof r.layout, "%s", s->in.layout_text);
    snprintf(r.device, sizeof r.device, "%s", s->in.device->name);
    return r;
}

/* A neighbour on the machine comes and goes: bandwidth is measured before and after, and again while weights seem to have
 * come faster than memory gives; the best counts. */
static status measure_bandwidth_again(session *s, uint32_t threads, const bench_figures *all, pool *readers,
                                      bandwidth *read) {
    enum { AGAIN_MAX = 6 };
    const model_weights *w = s->in.weights;
    uint32_t n = comm_size(s->ranks), *again = memory_alloc_array(n, sizeof *again);
    status st = ST_OK;
    for (int i = 0; i < AGAIN_MAX && st == ST_OK; i++) {
        bandwidth now;
        bench_result r = result_of(s, threads, all, read);
        uint32_t mine = i == 0 || (leads(s) && bench_outran(&r));
        st = comm_all_gather(s->ranks, &mine, sizeof mine, again); /* the leader's word counts */
        if (st != ST_OK || !again[0]) break;
        st = bandwidth_measure(&now, s->ranks, readers, w->mapping, w->bytes, s->o->read_bytes,
                               i == 0 ? read->kernel : NULL);
        if (st == ST_OK && now.gb_per_s > read->gb_per_s) *read = now;
    }
    free(again);
    return st;
}

status bench_rank(comm *ranks, void *context) {
    const bench_options *o = context;
    session s = {.o = o, .ranks = ranks, .channel = {.ranks = ranks}, .random = 1};
    comm_node node = comm_where(ranks);
    uint32_t cpus = placement_cpus(), threads = o->threads ? o->threads : cpus / node.local_ranks;
    bench_figures *all = memory_alloc_array(comm_size(ranks), sizeof *all);
    pool *readers = NULL;
    bandwidth read;
    status st;
    if (threads == 0) threads = 1;
    uint32_t spin_us = (uint64_t)threads * node.local_ranks <= cpus ? 50 : 0;
    s.run_s = memory_alloc_array(o->repeat, sizeof *s.run_s);
    /* The readers' threads come first: the engine binds this thread to one CPU, and threads inherit that. */
    TRY_OR_FAIL(placement_bind(&s.place, node.local_rank, node.local_ranks, threads));
    TRY_OR_FAIL(pool_open(&readers, &(pool_options){.threads = threads, .spin_us = spin_us}));
    TRY_OR_FAIL(open_instance(&s, threads, spin_us));
    bool on_gpu = !s.in.device->is_host;
    if (!on_gpu)
        TRY_OR_FAIL(bandwidth_measure(&read, ranks, readers, s.in.weights->mapping, s.in.weights->bytes,
                                      o->read_bytes, NULL));
    TRY_OR_FAIL(measure(&s));
    if (on_gpu)
        TRY_OR_FAIL(bandwidth_measure_gpu(&read, ranks, o->gpu, s.in.untimed, s.in.weights->mapping,
                                          s.in.weights->bytes, o->read_bytes));
    TRY_OR_FAIL(comm_all_gather(ranks, &s.figures, sizeof s.figures, all));
    if (!on_gpu) TRY_OR_FAIL(measure_bandwidth_again(&s, threads, all, readers, &read));
    bench_result r = result_of(&s, threads, all, &read);
    if (leads(&s)) st = bench_report(&r);
fail:
    if (st != ST_OK) comm_abort(ranks);
    pool_close(readers);
    kv_pages_close(s.pages);
    plan_close(&s.p);
    plan_channel_close(&s.channel);
    instance_close(&s.in);
    free(s.run_s);
    free(s.step_ms);
    free(all);
    return st;
}
