/* For tests of a real supervisor: the fake shard's folder, waiting with an end, a request and what was seen of it. */
#ifndef TESTS_UNIT_ENGINE_ENGINE_WORLD_H
#define TESTS_UNIT_ENGINE_ENGINE_WORLD_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "daemon/engine/directory.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/process.h"
#include "daemon/engine/record.h"
#include "proto/frame.h"
#include "tests/test.h"

static char state_dir[64], shard[4096];
static uv_loop_t loop;
static uv_timer_t waker; /* so that waiting for what never comes ends */

typedef struct seen {
    engine_state state;
    int ready, failed, closed;
} seen;

static void on_state(void *context, engine *e, engine_state now) {
    seen *s = context;
    (void)e;
    s->state = now;
    s->ready += now == ENGINE_READY;
    s->failed += now == ENGINE_FAILED;
}
static void on_closed(void *context, engine *e) {
    (void)e;
    ((seen *)context)->closed++;
}

typedef struct answer {
    uint32_t token[64], count, cached, started, prefilled, prompt_logprobs, tops;
    int ended;
    char reason[16];
    status st;
    char text[600];
    uint64_t cancel_at, pause_at; /* tokens after which it is cancelled, or paused; 0: never */
    engine *e;
    uint64_t id;
} answer;

static void on_started(void *context, uint32_t cached) {
    answer *a = context;
    a->started++;
    a->cached = cached;
}
static void on_progress(void *context, uint32_t n) { ((answer *)context)->prefilled = n; }
static void on_prompt_logprobs(void *context, uint32_t first, const engine_logprob *p, uint32_t n) {
    answer *a = context;
    CHECK(first == 1 && p[n - 1].logprob == -(float)n);
    a->prompt_logprobs += n;
}
static void on_tokens(void *context, const uint32_t *tokens, uint32_t n, const engine_logprob *p) {
    answer *a = context;
    for (uint32_t i = 0; i < n && a->count < 64; i++) a->token[a->count++] = tokens[i];
    for (uint32_t i = 0; p && i < n; i++) {
        CHECK(p[i].token == tokens[i] && p[i].top_count == 2 && p[i].top[1].logprob == -1.5F);
        a->tops += p[i].top_count;
    }
    if (a->cancel_at && a->count >= a->cancel_at) engine_cancel(a->e, a->id);
    if (a->pause_at && a->count == a->pause_at) engine_pause(a->e, a->id, true);
}
static void on_finished(void *context, const char *reason, const engine_timings *t) {
    answer *a = context;
    a->ended++;
    snprintf(a->reason, sizeof a->reason, "%s", reason);
    if (strcmp(reason, "cancelled") != 0) CHECK(t->queue_us == 1 && t->prefill_us == 2 && t->decode_us == 3);
}
static void on_failed(void *context, status st, const char *text) {
    answer *a = context;
    a->ended++;
    a->st = st;
    snprintf(a->text, sizeof a->text, "%s", text);
}
static const engine_listener listener = {on_started, on_progress, on_prompt_logprobs,
                                         on_tokens,  on_finished, on_failed};

static void on_wake(uv_timer_t *t) { (void)t; }

/* Runs the loop until *what is not 0; false after 20 s. */
static bool until(const int *what) {
    uint64_t deadline = clock_now_ns() + UINT64_C(20000000000);
    uv_timer_start(&waker, on_wake, 20, 20);
    while (!*what && clock_now_ns() < deadline) uv_run(&loop, UV_RUN_ONCE);
    uv_timer_stop(&waker);
    return *what != 0;
}

static void run_for(uint64_t ms) {
    uint64_t deadline = clock_now_ns() + ms * 1000000;
    uv_timer_start(&waker, on_wake, 20, 20);
    while (clock_now_ns() < deadline) uv_run(&loop, UV_RUN_ONCE);
    uv_timer_stop(&waker);
}

static pid_t noted_pid(const char *name) {
    char path[128], text[32] = "";
    snprintf(path, sizeof path, "%s/%s.pid", state_dir, name);
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    if (!fgets(text, sizeof text, f)) text[0] = 0;
    fclose(f);
    return (pid_t)atoi(text);
}

static bool is_gone(const char *name) {
    pid_t pid = noted_pid(name);
    return pid > 0 && process_start_time(pid) == 0;
}

static bool scratch_is_left(void) {
    engine_record r;
    char path[128];
    snprintf(path, sizeof path, "%s/engines/tiny@0/engine.json", state_dir);
    if (record_read(path, &r) != ST_OK) return true;
    return access(r.scratch, F_OK) == 0;
}

static model_facts facts_for(uint32_t ranks) {
    model_facts f = {.vocab = 1000, .context_tokens = 4096, .checkpoint_hash = "c0ffee"};
    snprintf(f.layout, sizeof f.layout, "tp %u", ranks);
    return f;
}

static const engine_times quick = {
    .first_hello_ms = 1500, .prove_ms = 300, .silence_ms = 2500, .end_ms = 3000, .kill_ms = 9000};

static void forget_pids(void) {
    static const char *const names[] = {"rank0", "rank1", "orphan"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s.pid", state_dir, names[i]);
        unlink(path);
    }
}

static engine *start(seen *s, const char *mode, uint32_t ranks, const engine_times *times) {
    *s = (seen){0};
    forget_pids();
    setenv("FAKE_SHARD", mode, 1);
    engine_options o = {.id = "tiny/0",
                        .model_path = TEST_DATA,
                        .ranks = ranks,
                        .launcher = "local",
                        .state_dir = state_dir,
                        .shard_program = shard,
                        .grace_seconds = 1,
                        .times = times};
    model_facts f = facts_for(ranks);
    engine_watch w = {on_state, on_closed, s};
    engine *e = NULL;
    CHECK_STATUS(engine_open(&e, &loop, &o, &f, &w), ST_OK);
    return e;
}

static void finish(engine *e, seen *s, bool drain) {
    engine_stop(e, drain);
    CHECK(until(&s->closed));
    CHECK(s->closed == 1);
    engine_close(e);
    CHECK(noted_pid("rank0") == 0 || is_gone("rank0"));
    CHECK(!scratch_is_left());
}

static const vocabulary *words;
static uint64_t grammar_id;
static size_t grammar_bytes; /* 0: requests have none */

static status ask(engine *e, answer *a, uint32_t max_tokens, int32_t logprobs) {
    static const uint8_t grammar[64];
    static const uint32_t prompt[4] = {2, 30, 40, 50}, stop[1] = {999};
    engine_request r = {.tokens = prompt,
                        .token_count = 4,
                        .prompt_count = 4,
                        .deadline_ms = 0,
                        .grammar = grammar_bytes ? grammar : NULL,
                        .grammar_bytes = grammar_bytes,
                        .grammar_id = grammar_id,
                        .vocabulary = words,
                        .sampling = {.max_tokens = max_tokens,
                                     .temperature = 1,
                                     .top_p = 1,
                                     .repetition_penalty = 1,
                                     .stop_token = stop,
                                     .stop_token_count = 1,
                                     .logprobs = logprobs,
                                     .prompt_logprobs = logprobs}};
    a->e = e;
    return engine_submit(e, &r, &listener, a, &a->id);
}

#endif
