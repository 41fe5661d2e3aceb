// link: shard_core
/* What a step costs the scheduler while streams decode: making its plan, and taking its results. Streams of 1,000 tokens go on
 * to 5,000. A step of the published models takes milliseconds on the fastest GPUs.
 *
 *     build/bench/bench_sched */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/statistics.h"
#include "shard/sched/sched.h"

enum { PROMPT = 1000, STEPS = 4000, WARM_UP = 200, STREAMS_MAX = 64, VOCABULARY = 262144 };

static status started(void *c, uint64_t id, uint32_t cached, uint64_t us) {
    (void)c, (void)id, (void)cached, (void)us;
    return ST_OK;
}
static status prefilled(void *c, uint64_t id, uint32_t tokens) {
    (void)c, (void)id, (void)tokens;
    return ST_OK;
}
static status prompt_logprobs(void *c, uint64_t id, uint32_t first, const token_logprob *p, uint32_t n) {
    (void)c, (void)id, (void)first, (void)p, (void)n;
    return ST_OK;
}
static status token(void *c, uint64_t id, uint32_t t, const token_logprob *logprob) {
    (void)c, (void)id, (void)t, (void)logprob;
    return ST_OK;
}
static status finished(void *c, uint64_t id, const sched_finish *f) {
    (void)c, (void)id, (void)f;
    return ST_OK;
}

static status submit(sched *s, uint64_t id) {
    sched_request r = {.id = id,
                       .prompt_count = PROMPT,
                       .token_count = PROMPT,
                       .client = id,
                       .tokens = memory_alloc_array(PROMPT, sizeof *r.tokens),
                       .sampling = {.top_p = 1,
                                    .repetition_penalty = 1,
                                    .logprobs = -1,
                                    .prompt_logprobs = -1,
                                    .max_tokens = 2 * STEPS}};
    for (uint32_t i = 0; i < PROMPT; i++) r.tokens[i] = (uint32_t)(i + id) % VOCABULARY;
    return sched_submit(s, &r);
}

static status take_results(sched *s, const plan *p) {
    for (uint32_t i = 0; i < p->span_count; i++) {
        runner_result r = {.span = i, .row = p->span[i].count - 1, .drawn = true};
        if (!p->span[i].draw) continue;
        r.sample.token = VOCABULARY / 2;
        TRY(sched_take_result(s, &r));
    }
    return sched_step_done(s);
}

static status measure(sched *s, uint32_t streams) {
    static double plan_us[STEPS], results_us[STEPS];
    plan p = {0};
    for (uint32_t i = 0; i < streams; i++) TRY(submit(s, i));
    for (int i = -WARM_UP; i < STEPS; i++) {
        uint64_t begin = clock_now_ns();
        TRY(sched_plan(s, &p));
        uint64_t planned = clock_now_ns();
        TRY(take_results(s, &p));
        if (i < 0) continue;
        plan_us[i] = (double)(planned - begin) / 1e3;
        results_us[i] = (double)(clock_now_ns() - planned) / 1e3;
    }
    statistics_sort(plan_us, STEPS);
    statistics_sort(results_us, STEPS);
    printf("%8u %12.2f %12.2f %15.2f\n", streams, statistics_median(plan_us, STEPS), plan_us[STEPS * 99 / 100],
           statistics_median(results_us, STEPS));
    plan_close(&p);
    return ST_OK;
}

int main(void) {
    static const uint32_t streams[] = {1, 8, STREAMS_MAX};
    const sched_options o = {.slots = STREAMS_MAX,
                             .rows_max = 2048,
                             .chunk_max = 2048,
                             .context = 32768,
                             .vocab = VOCABULARY,
                             .window = 1024,
                             .uses = {true, true},
                             .slabs = 8192,
                             .pages_per_slab = {4, 1},
                             .clock = clock_system,
                             .sink = {NULL, started, prefilled, prompt_logprobs, token, finished}};
    printf(" streams   plan us, median    p99   results us, median\n");
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++) {
        sched *s = NULL;
        status st = sched_open(&s, &o);
        if (st == ST_OK) st = measure(s, streams[i]);
        sched_close(s);
        if (st == ST_OK) continue;
        fprintf(stderr, "bench_sched: %s\n", status_text());
        return 1;
    }
    return 0;
}
