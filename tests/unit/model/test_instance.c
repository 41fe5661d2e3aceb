/* Ranks agree before they serve, or all leave together with a sentence that names both sides; refusals come
 * before weights are read; the budget fits what it is given. */
#include <math.h>
#include <unistd.h>

#include "base/log.h"
#include "shard/model/instance.h"
#include "tests/engine_driver.h"
#include "tests/test.h"

typedef struct attempt {
    const char *model[4]; /* by rank; NULL: as rank 0 */
    const char *build[4]; /* what GEMMAD_TEST_BUILD_ID says on that rank */
    uint32_t context, expert_degree, width_degree;
    uint64_t memory_bytes;
    char layout[64];
} attempt;

static status body(comm *ranks, void *context) {
    attempt *a = context;
    uint32_t me = comm_rank(ranks);
    instance in;
    if (a->build[me])
        setenv("GEMMAD_TEST_BUILD_ID", a->build[me], 1); /* processes: each has an environment of its own */
    status st =
        instance_open(&in, &(instance_options){.model_path = a->model[me] ? a->model[me] : a->model[0],
                                               .ranks = ranks,
                                               .threads = 1,
                                               .context = a->context,
                                               .expert_degree = a->expert_degree,
                                               .width_degree = a->width_degree,
                                               .memory_bytes = a->memory_bytes});
    if (a->build[me]) unsetenv("GEMMAD_TEST_BUILD_ID");
    if (st != ST_OK) return st;
    if (me == 0) snprintf(a->layout, sizeof a->layout, "%s", in.layout_text);
    CHECK(a->context == 0 || in.plan.context == a->context);
    CHECK(a->memory_bytes == 0 ||
          in.plan.weight_bytes + in.plan.activation_bytes + in.plan.kv_bytes <= a->memory_bytes);
    instance_close(&in);
    return ST_OK;
}

static status run(attempt *a, uint32_t ranks) {
    return comm_fork_run(&(comm_fork_options){.ranks = ranks, .threads = TEST_RANKS_AS_THREADS}, body, a);
}

#define DENSE TEST_DATA "/golden/dense"
#define MOE TEST_DATA "/golden/moe"

TEST(ranks_that_agree_open) {
    CHECK_STATUS(run(&(attempt){.model = {DENSE}}, 1), ST_OK);
    attempt a = {.model = {DENSE}, .context = 256, .memory_bytes = 40 << 20};
    CHECK_STATUS(run(&a, 2), ST_OK);
    CHECK_THAT(!strcmp(a.layout, "tp 2"), "%s", a.layout);
    attempt e = {.model = {MOE}, .context = 256};
    CHECK_STATUS(run(&e, 4), ST_OK);
    CHECK_THAT(!strcmp(e.layout, "tp 4 ep 2x2"), "%s", e.layout); /* what decodes fastest */
    attempt w = {.model = {MOE}, .context = 256, .expert_degree = 4, .width_degree = 1};
    CHECK_STATUS(run(&w, 4), ST_OK);
    CHECK_THAT(!strcmp(w.layout, "tp 4 ep 4x1"), "%s", w.layout);
}

TEST(a_mismatch_names_both_sides) {
    CHECK_STATUS(run(&(attempt){.model = {DENSE, MOE}}, 2), ST_MISMATCH);
    CHECK_SENTENCE("disagree on the config.json");
    if (TEST_RANKS_AS_THREADS) return; /* they share one environment, so one build */
    CHECK_STATUS(run(&(attempt){.model = {DENSE}, .build = {"aaaa", "bbbb"}}, 2), ST_MISMATCH);
    CHECK_SENTENCE("disagree on the build");
    CHECK_SENTENCE("has aaaa");
    CHECK_SENTENCE("has bbbb");
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    CHECK_SENTENCE(host);
}

TEST(refusals_name_what_works) {
    CHECK_STATUS(run(&(attempt){.model = {DENSE}}, 3), ST_LAYOUT);
    CHECK_SENTENCE("3 ranks do not divide the model's 8 query heads; 1, 2, 4, 8 work");
    CHECK_STATUS(run(&(attempt){.model = {TEST_DATA "/golden/none"}}, 2), ST_NOT_FOUND);
    CHECK_SENTENCE("golden/none");
    CHECK_STATUS(run(&(attempt){.model = {DENSE, TEST_DATA "/golden/none"}}, 2), ST_NOT_FOUND);
    CHECK_STATUS(run(&(attempt){.model = {DENSE}, .context = 131073}, 2), ST_LAYOUT);
    CHECK_SENTENCE("--context 131073 is over the model's own limit of 131072");
    CHECK_STATUS(run(&(attempt){.model = {DENSE}, .memory_bytes = 1 << 20}, 2), ST_NO_MEMORY);
    CHECK_SENTENCE("--memory is 1048576");
    CHECK_STATUS(run(&(attempt){.model = {DENSE}, .context = 100000, .memory_bytes = 12 << 20}, 1),
                 ST_NO_MEMORY);
    CHECK_SENTENCE("one request of 100000 tokens needs");
    CHECK_STATUS(run(&(attempt){.model = {MOE}, .expert_degree = 3, .width_degree = 1}, 2), ST_LAYOUT);
}

TEST(a_context_that_does_not_fit_is_cut) {
    attempt a = {.model = {DENSE}, .memory_bytes = 12 << 20};
    CHECK_STATUS(run(&a, 1), ST_OK);
}

/* Rows 0 … 63, then row 64, whose window of 8 goes back into the first page. */
static status step_without(instance *in, uint32_t span, kv_kind dropped) {
    plan p = {0};
    plan_add_open(&p)->params = (sampling){.top_p = 1, .repetition_penalty = 1, .max_tokens = 1};
    for (int kind = 0; kind < KV_KINDS; kind++)
        for (uint32_t i = 0; i < 2; i++)
            plan_add_page(&p, 0, (kv_kind)kind, i,
                          i + (kind == KV_FULL) * 2 * in->plan.geometry.pages_per_slab[KV_FULL]);
    uint32_t tokens[64] = {0}, count = span == 0 ? 64 : 1;
    plan_span *s = plan_add_span(&p);
    *s = (plan_span){.position = span * 64, .count = count, .next_token = PLAN_NO_TOKEN};
    s->first_input = plan_add_tokens(&p, tokens, count);
    if (dropped < KV_KINDS) plan_add_page(&p, 0, dropped, 0, PLAN_NO_TOKEN);
    status st = runner_step(in->run, &p, NULL, NULL);
    plan_close(&p);
    return st;
}

TEST(a_step_has_every_page_that_it_looks_at) {
    comm *self;
    instance in;
    CHECK_STATUS(comm_self_open(&self), ST_OK);
    CHECK_STATUS(
        instance_open(&in,
                      &(instance_options){.model_path = DENSE, .ranks = self, .threads = 1, .context = 256}),
        ST_OK);
    CHECK_STATUS(step_without(&in, 0, KV_KINDS), ST_OK);
    CHECK_STATUS(step_without(&in, 1, KV_KINDS), ST_OK);
    CHECK_STATUS(step_without(&in, 1, KV_SLIDING), ST_FORMAT);
    CHECK_SENTENCE("slot 0 has no sliding page for positions from 0");
    CHECK_STATUS(step_without(&in, 1, KV_FULL), ST_FORMAT);
    CHECK_SENTENCE("slot 0 has no full page for positions from 0");
    instance_close(&in);
    comm_close(self);
}

typedef struct counted {
    uint32_t experts, degree;
    uint64_t busiest, all;
} counted;

static void count_groups(void *context, const char *name, uint32_t layer, const float *data,
                         const uint32_t *ids, uint32_t rows, uint32_t cols) {
    (void)layer, (void)data;
    counted *c = context;
    if (strcmp(name, "router_weights") != 0) return;
    uint64_t group[8] = {0}, most = 0;
    for (uint32_t i = 0; i < rows * cols; i++) group[ids[i] / (c->experts / c->degree)]++;
    for (int i = 0; i < 8; i++) most = group[i] > most ? group[i] : most;
    c->busiest += most;
    c->all += (uint64_t)rows * cols;
}

static status imbalance_body(comm *ranks, void *context) {
    counted c = {.degree = *(uint32_t *)context};
    instance in;
    TRY(instance_open(&in, &(instance_options){.model_path = MOE,
                                               .ranks = ranks,
                                               .threads = 1,
                                               .context = 256,
                                               .expert_degree = c.degree,
                                               .width_degree = comm_size(ranks) / c.degree,
                                               .tap = count_groups,
                                               .tap_context = &c}));
    c.experts = in.config->experts;
    static const uint32_t prompt[] = {2, 30, 40, 50, 60, 70, 80};
    driver_request r = driver_prompt(prompt, 7, 5);
    TRY(driver_run(&in, ranks, &r, 1));
    double want = (double)c.busiest * c.degree / (double)c.all;
    CHECK_THAT(c.all > 0 && fabs(runner_imbalance(in.run) - want) < 1e-9, "%u groups: %g, not %g", c.degree,
               runner_imbalance(in.run), want);
    CHECK(c.degree == 1 ? want == 1 : want > 1);
    if (comm_rank(ranks) == 0) driver_free(&r, 1);
    instance_close(&in);
    return ST_OK;
}

TEST(imbalance_is_that_of_the_groups) {
    for (uint32_t degree = 1; degree <= 2; degree++)
        CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 2, .threads = TEST_RANKS_AS_THREADS},
                                   imbalance_body, &degree),
                     ST_OK);
}

int main(void) {
    log_open("test", LOG_ERROR);
    RUN(ranks_that_agree_open);
    RUN(a_mismatch_names_both_sides);
    RUN(refusals_name_what_works);
    RUN(a_context_that_does_not_fit_is_cut);
    RUN(imbalance_is_that_of_the_groups);
    RUN(a_step_has_every_page_that_it_looks_at);
    return test_result();
}
