/* gemmad-shard's command line and link without a model: token i of a request is (sum of its tokens + i) mod
 * vocab; a grammar adds its size, one that is the same as before 500. What it does wrong is chosen by
 * FAKE_SHARD; it writes the pids of its processes into FAKE_DIR.
 *
 *   plan:  refuse, untold, crash, garbage
 *   serve: refuse, die, bite, mute, stop, stubborn, wrong-model, overrun, give-up */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "shard/link/link.h"
#include "shard/link/watchdog.h"

enum { VOCAB = 1000, CONTEXT = 4096, RUNNING_MAX = 64, DIE_AFTER = 3 };

typedef struct run {
    link_request *request;
    uint32_t emitted;
    bool started, cancelled, paused;
} run;

static const char *mode;
static link_progress progress;
static run runs[RUNNING_MAX];
static uint32_t run_count;

static bool mode_is(const char *name) { return !strcmp(mode, name); }

static const char *option(int argc, char **argv, const char *name, const char *otherwise) {
    for (int i = 2; i + 1 < argc; i++)
        if (!strcmp(argv[i], name)) return argv[i + 1];
    return otherwise;
}

static void note_pid(const char *name) {
    const char *dir = getenv("FAKE_DIR");
    char path[4200];
    if (!dir) return;
    snprintf(path, sizeof path, "%s/%s.pid", dir, name);
    FILE *f = fopen(path, "w");
    if (!f) return;
    fprintf(f, "%d\n", (int)getpid());
    fclose(f);
}

static int plan(int argc, char **argv) {
    if (mode_is("refuse")) {
        log_error("NOT_FOUND: %s: no tensor model.norm.weight", option(argc, argv, "--model", "?"));
        return 3;
    }
    if (mode_is("untold")) {
        fprintf(stderr, "5 ranks do not divide 8 query heads; 1, 2, 4, 8 do\n");
        return 3;
    }
    if (mode_is("crash")) raise(SIGKILL);
    if (mode_is("garbage")) {
        printf("{\"vocab\": -4}\n");
        return 0;
    }
    printf("{\"vocab\": %d, \"context_tokens\": %d, \"bos_token\": 2, \"pad_token\": 0, \"end_tokens\": [1, "
           "106], "
           "\"default_temperature\": 1.0, \"default_top_p\": 0.95, \"default_top_k\": 64, \"layout\": \"tp "
           "%s\", "
           "\"checkpoint_hash\": \"c0ffee\", \"weight_bytes\": 123456789012, \"kv_bytes_total\": 77, "
           "\"kv_type\": \"q8\", \"context_model\": 8192, \"kv_requests\": 3, \"kv_bytes_full\": 70, "
           "\"kv_bytes_sliding\": 7, "
           "\"kv_pool_bytes\": 250, \"activation_bytes\": 5, \"kv_tokens\": 12345}\n",
           VOCAB, CONTEXT, option(argc, argv, "--ranks", "1"));
    return 0;
}

static status start_request(link_connection *l, link_request *r) {
    if (run_count == RUNNING_MAX) {
        link_finish f = {.reason = "error", .error = ST_BUSY, .error_text = "64 requests run already"};
        uint64_t id = r->id;
        link_request_free(r);
        return link_send_finished(l, id, &f);
    }
    runs[run_count++] = (run){.request = r, .emitted = r->token_count - r->prompt_count};
    return ST_OK;
}

static status send_prompt_logprobs(link_connection *l, const link_request *r) {
    if (r->sampling.prompt_logprobs < 0 || r->prompt_count < 2) return ST_OK;
    token_logprob *p = memory_alloc_array(r->prompt_count, sizeof *p);
    for (uint32_t i = 1; i < r->prompt_count; i++)
        p[i] = (token_logprob){.token = r->tokens[i], .logprob = -(float)i};
    status st = link_send_prompt_logprobs(l, r->id, 1, p + 1, r->prompt_count - 1);
    free(p);
    return st;
}

/* One token of one request; *done when it is finished. */
static status step(link_connection *l, run *r, bool *done) {
    const link_request *q = r->request;
    *done = r->cancelled;
    if (r->cancelled) {
        link_finish f = {.reason = "cancelled"};
        return link_send_finished(l, q->id, &f);
    }
    if (!r->started) {
        r->started = true;
        TRY(link_send_started(l, q->id, 0, 5));
        TRY(link_send_progress(l, q->id, q->token_count));
        TRY(send_prompt_logprobs(l, q));
    }
    uint32_t token = r->emitted + (uint32_t)q->grammar_bytes + (q->same_grammar ? 500 : 0);
    for (uint32_t i = 0; i < q->token_count; i++) token += q->tokens[i];
    token %= VOCAB;
    top_entry top[2] = {{token, -0.5F}, {(token + 1) % VOCAB, -1.5F}};
    token_logprob p = {.token = token,
                       .logprob = -0.5F,
                       .top = top,
                       .top_count = q->sampling.logprobs > 2 ? 2 : (uint32_t)q->sampling.logprobs};
    if (mode_is("die") && r->emitted == DIE_AFTER) kill(getpid(), SIGKILL);
    if (mode_is("bite") && r->emitted == DIE_AFTER) {
        watchdog *w;
        TRY(watchdog_open(&w));
        watchdog_arm(w, "an exchange with rank 1", 20);
        for (;;) pause();
    }
    TRY(link_send_tokens(l, q->id, &token, 1, q->sampling.logprobs >= 0 ? &p : NULL));
    r->emitted++;
    atomic_fetch_add(&progress.generated_tokens, 1);
    bool stopped = false;
    for (uint32_t i = 0; i < q->sampling.stop_token_count; i++) stopped |= q->sampling.stop_token[i] == token;
    if (!stopped && r->emitted < q->sampling.max_tokens + (mode_is("overrun") ? 1 : 0)) return ST_OK;
    *done = true;
    link_finish f = {.reason = stopped ? "stop" : "length",
                     .has_stop_token = stopped,
                     .stop_token = token,
                     .queue_us = 1,
                     .prefill_us = 2,
                     .decode_us = 3};
    return link_send_finished(l, q->id, &f);
}

static status step_all(link_connection *l) {
    uint32_t paused = 0;
    for (uint32_t i = 0; i < run_count;) {
        bool done = false;
        if (runs[i].paused && !runs[i].cancelled) paused++;
        else TRY(step(l, &runs[i], &done));
        if (!done) {
            i++;
            continue;
        }
        link_request_free(runs[i].request);
        runs[i] = runs[--run_count];
    }
    atomic_fetch_add(&progress.steps, 1);
    atomic_store(&progress.running, run_count);
    atomic_store(&progress.paused, paused);
    return link_flush(l);
}

static void take_word(const link_event *e) {
    for (uint32_t i = 0; i < run_count; i++) {
        if (runs[i].request->id != e->id) continue;
        if (e->kind == LINK_PAUSE) runs[i].paused = e->paused;
        else runs[i].cancelled = true;
    }
}

static status serve_requests(link_connection *l) {
    bool drained = false;
    while (!drained || run_count > 0 || mode_is("stubborn")) {
        link_event e;
        status st = link_poll(l, run_count ? 1 : -1, &e);
        if (st == ST_OK && e.kind == LINK_SUBMIT) st = start_request(l, e.request);
        else if (st == ST_OK && e.kind == LINK_DRAIN) drained = true;
        else if (st == ST_OK && e.kind == LINK_VOCABULARY) free(e.data);
        else if (st == ST_OK) take_word(&e);
        if (st == ST_TIMEOUT) st = step_all(l);
        TRY(st);
        if (mode_is("give-up") && run_count > 0) {
            TRY(link_send_failed(l, "rank 1 holds another checkpoint"));
            return fail(ST_MISMATCH, "rank 1 holds another checkpoint");
        }
    }
    return ST_OK;
}

/* A process that leaves its session and will not be asked to end. */
static void be_stubborn(void) {
    signal(SIGTERM, SIG_IGN);
    if (fork() != 0) return;
    setsid();
    if (fork() != 0) _exit(0);
    note_pid("orphan");
    for (;;) pause();
}

static status serve(int argc, char **argv) {
    const char *address = option(argc, argv, "--link", ""),
               *grace = option(argc, argv, "--engine-grace", "0");
    link_options o = {.address = address};
    TRY(link_read_secret(option(argc, argv, "--secret-file", ""), o.secret));
    link_connection *l;
    TRY(link_open(&l, &o));
    TRY(link_start_heartbeat(l, &progress, NULL, 0));
    if (mode_is("refuse")) {
        link_close(l);
        return fail(ST_LAYOUT, "5 ranks do not divide 8 query heads; 1, 2, 4, 8 do");
    }
    if (mode_is("stubborn")) be_stubborn();
    char layout[64];
    snprintf(layout, sizeof layout, "tp %s", option(argc, argv, "--ranks", "1"));
    link_rank_info rank = {.pid = (uint32_t)getpid(),
                           .threads = (uint32_t)atoi(option(argc, argv, "--threads", "0")),
                           .state = "ready",
                           .isa = "none",
                           .weight_bytes_read = 11};
    gethostname(rank.host, sizeof rank.host - 1);
    link_hello hello = {.build_id = "fake",
                        .layout = layout,
                        .context_tokens = CONTEXT,
                        .vocab = VOCAB,
                        .checkpoint_hash = mode_is("wrong-model") ? "decaf" : "c0ffee",
                        .requests_max = RUNNING_MAX,
                        .ranks = &rank,
                        .rank_count = 1};
    status st = link_say_hello(l, &hello, NULL);
    if (st == ST_OK && mode_is("stop")) raise(SIGSTOP);
    if (st == ST_OK) st = serve_requests(l);
    if (st == ST_UNAVAILABLE) st = link_reconnect(l, (uint64_t)atoi(grace) * 1000);
    while (run_count > 0) link_request_free(runs[--run_count].request);
    link_close(l);
    return st;
}

int main(int argc, char **argv) {
    const char *number = getenv("OMPI_COMM_WORLD_RANK");
    char name[64];
    mode = getenv("FAKE_SHARD") ? getenv("FAKE_SHARD") : "";
    snprintf(name, sizeof name, "shard[%s]", number ? number : "0");
    log_open(name, LOG_INFO);
    if (argc < 2) return 2;
    if (!strcmp(argv[1], "plan")) return plan(argc, argv);
    if (strcmp(argv[1], "serve") != 0) return 2;
    if (watchdog_follow_parent() != ST_OK) return 1;
    snprintf(name, sizeof name, "rank%s", number ? number : "0");
    note_pid(name);
    if (mode_is("mute") || (number && strcmp(number, "0") != 0))
        for (;;) pause();
    status st = serve(argc, argv);
    if (st == ST_OK) return 0;
    log_error("%s", status_text());
    return st == ST_LAYOUT ? 3 : 1;
}
