/* Requests whose answers may not depend on their company, on an engine of one rank that computes on a device: each alone first,
 * then in the settings that a test names. Tokens and log-probabilities are compared to the last bit. */
#ifndef TESTS_UNIT_CUDA_DEVICE_COMPANY_H
#define TESTS_UNIT_CUDA_DEVICE_COMPANY_H

#include <math.h>

#include "base/invariant.h"
#include "shard/gpu/cuda_provider.h"
#include "tests/engine_driver.h"
#include "tests/golden_reader.h"
#include "tests/test.h"

enum { COMPANY_REQUESTS = 9, COMPANY_CONTEXT = 256 };

typedef struct company {
    const char *model;         /* below TEST_DATA */
    weights_choice weights;
    kv_type kv;
    uint32_t requests, new_tokens, context; /* context 0: COMPANY_CONTEXT */
    bool batch_invariant;
    uint32_t tokens[COMPANY_REQUESTS][COMPANY_CONTEXT], count[COMPANY_REQUESTS];
    driver_request alone[COMPANY_REQUESTS];
} company;

/* One way to run them. */
typedef struct company_setting {
    const char *what;
    uint32_t requests;         /* 0: all */
    uint32_t chunk, rows;      /* 0: 128 */
    uint32_t apart;            /* steps between one and the next; all at once with 0 */
    bool reversed;             /* the last comes first */
    bool no_recording, resumed, preempted, cached;
    double close;              /* prompts may be computed otherwise: log-probabilities differ by less than this; 0: equal */
} company_setting;

/* Greedy, plain sampling, and each filter and penalty once; all with log-probabilities. */
static inline driver_request company_request(const company *c, uint32_t i) {
    driver_request r = driver_prompt(c->tokens[i], c->count[i], c->new_tokens);
    sampling *p = &r.params;
    p->logprobs = p->prompt_logprobs = 0;
    p->temperature = i % 3 == 0 ? 0 : 0.5f + 0.1f * (float)i;
    p->seed = 1000 + i;
    if (i == 2) p->top_k = 5;
    if (i == 4) p->top_p = 0.8f;
    if (i == 5) p->min_p = 0.05f, p->repetition_penalty = 1.2f;
    if (i == 6) p->presence_penalty = 0.5f, p->frequency_penalty = 0.25f;
    return r;
}

/* Prompts of such lengths, of the golden prompt's tokens. */
static inline void company_prompts(company *c, const uint32_t *lengths, uint32_t n) {
    char file[512];
    uint64_t shape[4];
    snprintf(file, sizeof file, "%s/%s/expected.safetensors", TEST_DATA, c->model);
    golden *g = golden_open(file);
    const int32_t *ids = golden_i32(g, "case0.input_ids", shape);
    INVARIANT(ids && n <= COMPANY_REQUESTS);
    c->requests = n;
    for (uint32_t i = 0; i < n; i++) {
        c->count[i] = lengths[i];
        for (uint32_t k = 0; k < lengths[i]; k++) c->tokens[i][k] = (uint32_t)ids[(k * (i + 1) + i) % shape[0]];
    }
    golden_close(g);
}

static inline void company_compare(const company *c, const company_setting *s, uint32_t i, const driver_request *got) {
    const driver_request *want = &c->alone[i];
    uint32_t skipped = s->resumed ? c->new_tokens / 2 : 0, n = want->out_count - skipped;
    bool same = got->out_count == n && !memcmp(got->out, want->out + skipped, n * sizeof *got->out);
    bool prompts = want->prompt_logprob && !s->resumed && !s->cached;
    if (prompts) same = same && got->prompt_logprob_count == want->prompt_logprob_count;
    double most = 0;
    for (uint32_t k = 0; same && k < n; k++) most = fmax(most, fabs((double)got->logprob[k] - want->logprob[skipped + k]));
    for (uint32_t k = 1; same && prompts && k < c->count[i]; k++)
        most = fmax(most, fabs((double)got->prompt_logprob[k] - want->prompt_logprob[k]));
    if (s->close == 0 && same) {
        same = !memcmp(got->logprob, want->logprob + skipped, n * sizeof *got->logprob);
        if (prompts) same = same && !memcmp(got->prompt_logprob + 1, want->prompt_logprob + 1, (c->count[i] - 1) * sizeof(float));
    }
    CHECK_THAT(same && (s->close == 0 || most < s->close), "%s %s%s, %s: request %u differs, by %g", c->model,
               weights_choice_name(c->weights), c->kv == KV_Q8 ? " with q8 KV" : "", s->what, i, most);
}

static inline status company_open(instance *in, const company *c, const company_setting *s, comm *ranks) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", TEST_DATA, c->model);
    return instance_open(in, &(instance_options){.model_path = path,
                                                 .ranks = ranks,
                                                 .gpu = gpu_cuda(),
                                                 .device = DEVICE_CUDA,
                                                 .weights = c->weights,
                                                 .kv_given = true,
                                                 .kv = c->kv,
                                                 .threads = 1,
                                                 .context = c->context ? c->context : COMPANY_CONTEXT,
                                                 .slots = COMPANY_REQUESTS,
                                                 .rows_max = s->rows ? s->rows : 128,
                                                 .chunk_max = s->chunk ? s->chunk : 128,
                                                 .batch_invariant = c->batch_invariant,
                                                 .no_recording = s->no_recording});
}

/* Each of them in a run of its own: what the others are compared with. */
static inline status company_run_alone(company *c, comm *ranks, instance *in) {
    for (uint32_t i = 0; i < c->requests; i++) {
        c->alone[i] = company_request(c, i);
        TRY(driver_run(in, ranks, &c->alone[i], 1));
    }
    return ST_OK;
}

static inline status company_run(company *c, const company_setting *s, comm *ranks, instance *in) {
    driver_request r[COMPANY_REQUESTS];
    uint32_t n = s->requests ? s->requests : c->requests;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = s->reversed ? n - 1 - i : i;
        r[i] = company_request(c, i);
        r[i].submit_at_step = at * s->apart;
        if (s->preempted) r[i].priority = (int32_t)at;
        if (s->cached) r[i].params.prompt_logprobs = -1; /* else the whole prompt is computed */
        if (!s->resumed) continue;
        memcpy(c->tokens[i] + c->count[i], c->alone[i].out, c->new_tokens / 2 * sizeof **c->tokens);
        r[i].token_count += c->new_tokens / 2;
    }
    driver_options tune = {.cached = s->cached};
    if (s->preempted) tune.slabs = (uint32_t)budget_request_slabs(&in->plan);
    status st = driver_run_with(in, ranks, r, n, &tune);
    if (st == ST_OK && s->preempted) CHECK_THAT(tune.preemptions > 0, "%s: nothing was preempted", s->what);
    if (st == ST_OK && s->cached) CHECK_THAT(tune.counts.hit_tokens > 0, "%s: nothing came from the cache", s->what);
    for (uint32_t i = 0; i < n && st == ST_OK; i++) company_compare(c, s, i, &r[i]);
    driver_free(r, n);
    return st;
}

#endif
