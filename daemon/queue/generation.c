/* From a request that was read to a session at the engine. */
#include "daemon/queue/generation.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/invariant.h"
#include "base/memory.h"

static void finish(generation *g) {
    core *c = g->core;
    call *k = g->call;
    const char *text = g->failure_text ? g->failure_text : "";
    request_log_write(&g->log, c, k, g->model ? g->model->name : NULL, g->ticket.request_id, g->arrival_ns,
                      g->failure, text);
    request_log_close(&g->log);
    core_ticket_release(&g->ticket);
    sampling_close(&g->sampling);
    chat_grammar_release(g->grammar);
    free(g->sample);
    free(g->tokens);
    if (g->ops->close) g->ops->close(g);
    k->cancelled = NULL;
    k->drained = NULL;
    uint32_t retry_ms = g->failure == ST_BUSY ? k->retry_after_ms : 0;
    if (g->failure == ST_BUSY && !retry_ms)
        retry_ms = retry_after_ms(&g->model->retry, clock_now_ns() / 1000000);
    k->ops->finish(k, g->failure, text, retry_ms);
    free(g->failure_text);
    free(g);
    core_call_ends(c);
}

void generation_release(generation *g) {
    INVARIANT(g->busy > 0);
    if (--g->busy == 0) finish(g);
}

void generation_fail(generation *g, status st, const char *text) {
    INVARIANT(st != ST_OK && g->busy > 0);
    if (g->failure != ST_OK) return;
    g->failure = st;
    g->failure_text = memory_copy_string(text);
    g->busy++; /* a session may end while it is cancelled */
    for (uint32_t i = 0; g->sample && i < g->sampling.n; i++)
        if (g->sample[i].session) session_cancel(g->sample[i].session, st, g->failure_text);
    generation_release(g);
}

static void fail_with_sentence(generation *g, status st) {
    char text[STATUS_TEXT_MAX];
    memcpy(text, status_text(), sizeof text);
    generation_fail(g, st, text);
}

/* What is left of the call's deadline; false: nothing. 0 in *left_ms: there is none. */
static bool deadline_left(const generation *g, uint64_t *left_ms) {
    uint64_t passed_ms = (clock_now_ns() - g->arrival_ns) / 1000000;
    *left_ms = 0;
    if (g->call->deadline_ms == 0) return true;
    if (passed_ms >= g->call->deadline_ms) return false;
    *left_ms = g->call->deadline_ms - passed_ms;
    return true;
}

static status open_sample(generation *g, engine *at, engine_request *request, uint32_t index) {
    generation_sample *sample = &g->sample[index];
    sample->owner = g;
    request->sample_index = index;
    /* The prompt is the same for all: its log-probabilities are told once. */
    if (index > 0) request->sampling.prompt_logprobs = -1;
    session_options options = {.engine = at,
                               .tokenizer = g->model->tokenizer,
                               .request = request,
                               .stop = &g->sampling.stop,
                               .form = g->form,
                               .arrival_ns = g->arrival_ns,
                               .who = g->call->who,
                               .metrics = core_metrics_of(g->model, at),
                               .sink = &generation_sink,
                               .context = sample};
    TRY(session_open(&sample->session, &options));
    g->live++;
    g->busy++;
    return ST_OK;
}

/* The first sample chooses the engine; one that has just become full or lost is passed over for another. */
static status open_first(generation *g, engine_request *request, const prefix_chain *prompt, engine **out) {
    core_engine_set tried = {0};
    for (;;) {
        core_engine *e = core_route(g->model, prompt, &tried);
        if (!e) {
            TRY(core_check_available(g->core, g->model));
            return fail(ST_UNAVAILABLE, "no engine of model %s takes the request", g->model->name);
        }
        status st = open_sample(g, e->engine, request, 0);
        if (st == ST_OK) {
            core_ticket_route(&g->ticket, e, prompt);
            metrics_observe(e->metrics, METRICS_PARAM_N, g->sampling.n);
            if (g->sampling.has_max_tokens)
                metrics_observe(e->metrics, METRICS_PARAM_MAX_TOKENS, request->sampling.max_tokens);
            *out = e->engine;
            return ST_OK;
        }
        tried.has[e - g->model->engine] = true;
        if ((st != ST_UNAVAILABLE && st != ST_BUSY) || !core_route(g->model, prompt, &tried)) return st;
    }
}

static status open_samples(generation *g, engine_request *request) {
    prefix_chain prompt = {0};
    engine *e = NULL;
    if (g->model->engine_count > 1) prefix_chain_make(&prompt, request->tokens, request->token_count);
    status st = open_first(g, request, &prompt, &e);
    prefix_chain_close(&prompt);
    for (uint32_t i = 1; st == ST_OK && i < g->sampling.n; i++) st = open_sample(g, e, request, i);
    return st;
}

static status submit(generation *g) {
    const model_facts *facts = core_facts(g->model);
    uint64_t left_ms;
    TRY(sampling_fit(&g->sampling, g->token_count, facts));
    TRY(sampling_check_ids(g->prompt_field, g->tokens, g->token_count, facts->vocab));
    if (g->grammar) TRY(generation_add_ends(g));
    if (!deadline_left(g, &left_ms)) return fail(ST_TIMEOUT, "the deadline passed");
    g->prompt_tokens = g->log.prompt_tokens = (uint32_t)g->token_count;
    g->sample = memory_alloc_array(g->sampling.n, sizeof *g->sample);
    engine_request request = {.tokens = g->tokens,
                              .token_count = g->prompt_tokens,
                              .prompt_count = g->prompt_tokens,
                              .sampling = g->sampling.engine,
                              .priority = g->priority,
                              .deadline_ms = left_ms,
                              .client = g->ticket.client->hash,
                              .group = g->sampling.n > 1 ? ++g->core->groups : 0,
                              .grammar = g->grammar ? g->grammar->bytes : NULL,
                              .grammar_bytes = g->grammar ? g->grammar->size : 0,
                              .grammar_id = g->grammar ? g->grammar->id : 0,
                              .vocabulary = g->vocabulary};
    TRY(open_samples(g, &request));
    auth_key_tokens(g->call->who, g->prompt_tokens);
    /* A million waiting tokens are 4 MB: the engine has its copy. */
    free(g->tokens);
    g->tokens = NULL;
    chat_grammar_release(g->grammar);
    g->grammar = NULL;
    return ST_OK;
}

static generation *of_job(job *j) { return (generation *)((char *)j - offsetof(generation, job)); }

static status make_prompt(job *j) {
    generation *g = of_job(j);
    return g->ops->make_prompt(g);
}

static void prompt_made(job *j) {
    generation *g = of_job(j);
    if (g->failure == ST_OK && j->st != ST_OK) {
        generation_fail(g, j->st, j->text);
    } else if (g->failure == ST_OK) {
        status st = submit(g);
        if (st != ST_OK) fail_with_sentence(g, st);
    }
    generation_release(g);
}

status generation_read(generation *g, const generation_request *r) {
    TRY(core_enter(g->core, g->call, r->model, &g->model));
    if (r->has_resume_from)
        return fail(ST_UNSUPPORTED, "resume_from is %u: resuming is not built yet", r->resume_from);
    TRY(sampling_read(&g->sampling, r->sampling, core_facts(g->model), g->model->tokenizer != NULL));
    g->seed = g->sampling.engine.seed;
    g->priority = r->priority;
    return ST_OK;
}

generation_ends generation_end_tokens(const core_model *m) {
    static const char *const turn_ends[] = {"<eos>", "<turn|>", "<|tool_response>"};
    const model_facts *facts = core_facts(m);
    generation_ends ends = {.count = facts->end_token_count};
    memcpy(ends.id, facts->end_token, facts->end_token_count * sizeof *ends.id);
    for (size_t i = 0; i < sizeof turn_ends / sizeof *turn_ends; i++) {
        uint32_t id, k = 0;
        if (!m->tokenizer || !tokenizer_find(m->tokenizer, turn_ends[i], &id)) continue;
        while (k < ends.count && ends.id[k] != id) k++;
        if (k == ends.count) ends.id[ends.count++] = id;
    }
    return ends;
}

status generation_add_ends(generation *g) {
    const generation_ends ends = generation_end_tokens(g->model);
    for (uint32_t i = 0; i < ends.count; i++) TRY(sampling_add_stop(&g->sampling, ends.id[i]));
    return ST_OK;
}

status generation_take_grammar(generation *g, const chat_grammar *form) {
    g->grammar = form;
    return form ? tokenizer_vocabulary(g->model->tokenizer, &g->vocabulary) : ST_OK;
}

status generation_admit(generation *g, const char *request_id) {
    return core_admit_call(g->core, g->model, g->call, request_id, g->sampling.n, &g->ticket);
}

static void cancelled(call *k, void *context, status why) {
    generation *g = context;
    (void)k;
    if (g->job.queued) job_cancel(&g->job);
    generation_fail(g, why, why == ST_TIMEOUT ? "the deadline passed" : "the client cancelled the request");
}

static void drained(call *k, void *context) {
    generation *g = context;
    (void)k;
    for (uint32_t i = 0; g->sample && i < g->sampling.n; i++)
        if (g->sample[i].session) session_drained(g->sample[i].session);
}

generation *generation_open(size_t owner_bytes, const generation_ops *ops, core *c, call *k) {
    generation *g = memory_alloc(owner_bytes);
    g->ops = ops;
    g->core = c;
    g->call = k;
    g->arrival_ns = clock_now_ns();
    g->busy = 1;
    core_call_begins(c);
    k->cancelled = cancelled;
    k->drained = drained;
    k->context = g;
    return g;
}

void generation_start(generation *g, status st, core_job kind) {
    if (st == ST_OK && g->ops->make_prompt) {
        g->busy++;
        g->job.run = make_prompt;
        g->job.done = prompt_made;
        core_start_job(g->core, g->call, &g->job, kind);
    } else if (st == ST_OK) {
        st = submit(g);
    }
    if (st != ST_OK) fail_with_sentence(g, st);
    generation_release(g);
}
