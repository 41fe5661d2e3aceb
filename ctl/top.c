/* gemmactl top [--interval SECONDS] [--once]: what the engines do now. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "ctl/ctl.h"
#include "ctl/json_write.h"
#include "ctl/terminal.h"
#include "proto/gemmad.pb-c.h"

enum {
    TOP_CALL_MS = 10000,
    TOP_COUNTED_MS = 1100, /* engines tell their counts every second */
    TOP_TRIES = 3,
};

typedef Gemmad__V1__EngineStatus engine_message;
typedef Gemmad__V1__GetStatusResponse status_message;

typedef struct top_options {
    arg_float interval_s;
    bool once;
} top_options;

static const arg_option top_option[] = {
    {"interval", ARG_FLOAT, "SECONDS", offsetof(top_options, interval_s), 0.1, 3600,
     "between two looks; default 1"},
    {"once", ARG_FLAG, NULL, offsetof(top_options, once), 0, 0, "one table, or one line of JSON, and end"},
};

/* Tokens a second of one engine, between the last two of its counts that differ in time. */
typedef struct top_rate {
    char *id;
    uint64_t counted_ms, prompt_tokens, generated_tokens;
    double prompt_per_s, generated_per_s; /* below 0: not known yet */
} top_rate;

typedef struct top {
    ctl *ctl;
    client *server;
    top_rate *rate; /* [count] */
    size_t count;
    status_message *now;
} top;

static top_rate *rate_of(top *t, const char *id) {
    for (size_t i = 0; i < t->count; i++)
        if (!strcmp(t->rate[i].id, id)) return &t->rate[i];
    t->rate = memory_grow(t->rate, (t->count + 1) * sizeof *t->rate);
    t->rate[t->count] = (top_rate){.id = memory_copy_string(id), .prompt_per_s = -1, .generated_per_s = -1};
    return &t->rate[t->count++];
}

static void count(top_rate *r, const engine_message *e) {
    if (!e->has_counted_ms || e->counted_ms == r->counted_ms) return;
    /* Counts of an engine that was started anew begin at 0. */
    bool goes_on = r->counted_ms && e->counted_ms > r->counted_ms && e->prompt_tokens >= r->prompt_tokens &&
                   e->generated_tokens >= r->generated_tokens;
    double seconds = goes_on ? (double)(e->counted_ms - r->counted_ms) / 1e3 : 0;
    r->prompt_per_s = goes_on ? (double)(e->prompt_tokens - r->prompt_tokens) / seconds : -1;
    r->generated_per_s = goes_on ? (double)(e->generated_tokens - r->generated_tokens) / seconds : -1;
    r->counted_ms = e->counted_ms;
    r->prompt_tokens = e->prompt_tokens;
    r->generated_tokens = e->generated_tokens;
}

static const char *engine_id(const engine_message *e) { return e->id ? e->id : ""; }

static status look(top *t) {
    Gemmad__V1__GetStatusRequest request = GEMMAD__V1__GET_STATUS_REQUEST__INIT;
    ProtobufCMessage *message;
    TRY(client_call(t->server, "/gemmad.v1.Control/GetStatus", &request.base,
                    &gemmad__v1__get_status_response__descriptor, TOP_CALL_MS, &message));
    if (t->now) gemmad__v1__get_status_response__free_unpacked(t->now, NULL);
    t->now = (void *)message;
    for (size_t i = 0; i < t->now->n_models; i++)
        for (size_t k = 0; k < t->now->models[i]->n_engines; k++) {
            const engine_message *e = t->now->models[i]->engines[k];
            count(rate_of(t, engine_id(e)), e);
        }
    return ST_OK;
}

static double share(uint64_t part, uint64_t whole) { return whole ? (double)part / (double)whole : -1; }

/* ---- for people ---- */

static void add_cell(strbuf *out, const char *format, double value, int width) {
    char cell[64];
    snprintf(cell, sizeof cell, format, value);
    strbuf_add_format(out, " %*s", width, value < 0 ? "-" : cell);
}

static void add_whole(strbuf *out, bool known, uint64_t value, int width) {
    add_cell(out, "%.0f", known ? (double)value : -1, width);
}

static void add_row(strbuf *out, const engine_message *e, const top_rate *r) {
    bool counted = e->has_counted_ms;
    strbuf_add_format(out, "%-24s %-8s", engine_id(e), e->state ? e->state : "-");
    add_whole(out, counted, e->requests_running, 4);
    add_whole(out, counted, e->requests_waiting, 5);
    add_whole(out, counted, e->requests_paused, 6);
    add_cell(out, "%.1f", 100 * share(e->kv_pages_used, e->kv_pages_total), 6);
    add_cell(out, "%.1f", 100 * share(e->prefix_hit_tokens, e->prefix_query_tokens), 6);
    add_cell(out, "%.1f", r->prompt_per_s, 9);
    add_cell(out, "%.1f", r->generated_per_s, 9);
    add_cell(out, "%.2f", e->step_us > 0 ? e->step_us / 1e3 : -1, 8);
    add_whole(out, counted, e->preemptions, 8);
    add_cell(out, "%.2f", e->imbalance > 0 ? (double)e->imbalance : -1, 7);
    strbuf_add_string(out, "\n");
    if (e->failure && *e->failure) strbuf_add_format(out, "  failed: %s\n", e->failure);
}

static status print_table(top *t, bool refresh) {
    const status_message *s = t->now;
    strbuf out = {0};
    if (refresh && fputs("\x1b[H\x1b[J", stdout) == EOF) return fail_errno(ST_IO, "standard output");
    strbuf_add_format(&out, "gemmad %s at %s: %s, %u requests running, %u waiting, %u paused\n\n",
                      s->version ? s->version : "", t->ctl->server, s->state ? s->state : "",
                      s->requests_running, s->requests_waiting, s->requests_paused);
    strbuf_add_format(&out, "%-24s %-8s %4s %5s %6s %6s %6s %9s %9s %8s %8s %7s\n", "ENGINE", "STATE", "RUN",
                      "WAIT", "PAUSED", "KV%", "HIT%", "PROMPT/S", "GEN/S", "STEP ms", "PREEMPT", "IMBAL");
    for (size_t i = 0; i < s->n_models; i++)
        for (size_t k = 0; k < s->models[i]->n_engines; k++) {
            const engine_message *e = s->models[i]->engines[k];
            add_row(&out, e, rate_of(t, engine_id(e)));
        }
    out.data[--out.size] = 0; /* terminal_write_line adds the last one */
    status st = terminal_write_line(&out);
    strbuf_close(&out);
    TRY(st);
    return terminal_flush();
}

/* ---- for scripts ---- */

static void add_number(json_writer *w, const char *key, bool known, double value) {
    json_key(w, key);
    if (known) json_double(w, value);
    else json_null(w);
}

static void add_count(json_writer *w, const char *key, bool known, uint64_t value) {
    json_key(w, key);
    if (known) json_u64(w, value);
    else json_null(w);
}

static void add_engine(json_writer *w, const char *model, const engine_message *e, const top_rate *r) {
    bool counted = e->has_counted_ms;
    json_begin(w, '{');
    json_key(w, "model");
    json_string(w, model);
    json_key(w, "id");
    json_string(w, engine_id(e));
    json_key(w, "state");
    json_string(w, e->state ? e->state : "");
    add_count(w, "requests_running", counted, e->requests_running);
    add_count(w, "requests_waiting", counted, e->requests_waiting);
    add_count(w, "requests_paused", counted, e->requests_paused);
    double kv = share(e->kv_pages_used, e->kv_pages_total),
           hits = share(e->prefix_hit_tokens, e->prefix_query_tokens);
    add_number(w, "kv_usage", kv >= 0, kv);
    add_number(w, "cache_hit_rate", hits >= 0, hits);
    add_number(w, "prompt_tokens_per_s", r->prompt_per_s >= 0, r->prompt_per_s);
    add_number(w, "generated_tokens_per_s", r->generated_per_s >= 0, r->generated_per_s);
    add_number(w, "step_ms", e->step_us > 0, e->step_us / 1e3);
    add_count(w, "preemptions", counted, e->preemptions);
    add_number(w, "imbalance", e->imbalance > 0, (double)e->imbalance);
    json_end(w, '}');
}

static status print_json(top *t) {
    const status_message *s = t->now;
    json_writer w = {0};
    json_begin(&w, '{');
    json_key(&w, "state");
    json_string(&w, s->state ? s->state : "");
    add_count(&w, "requests_running", true, s->requests_running);
    add_count(&w, "requests_waiting", true, s->requests_waiting);
    add_count(&w, "requests_paused", true, s->requests_paused);
    json_key(&w, "engines");
    json_begin(&w, '[');
    for (size_t i = 0; i < s->n_models; i++)
        for (size_t k = 0; k < s->models[i]->n_engines; k++) {
            const engine_message *e = s->models[i]->engines[k];
            add_engine(&w, s->models[i]->name ? s->models[i]->name : "", e, rate_of(t, engine_id(e)));
        }
    json_end(&w, ']');
    json_end(&w, '}');
    status st = terminal_write_line(&w.out);
    strbuf_close(&w.out);
    TRY(st);
    return terminal_flush();
}

/* ---- */

/* False: interrupted. */
static bool wait_ms(uint64_t ms) {
    struct timespec pause = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    return nanosleep(&pause, NULL) == 0 && !client_interrupt();
}

static bool has_rates(const top *t) {
    for (size_t i = 0; i < t->count; i++)
        if (t->rate[i].counted_ms && t->rate[i].prompt_per_s < 0) return false;
    return true;
}

/* Two counts of every engine that counts at all. */
static status look_twice(top *t, uint64_t interval_ms) {
    if (interval_ms < TOP_COUNTED_MS) interval_ms = TOP_COUNTED_MS;
    TRY(look(t));
    for (int i = 0; i < TOP_TRIES && !has_rates(t); i++) {
        if (!wait_ms(interval_ms)) return fail(ST_CANCELLED, "interrupted");
        TRY(look(t));
    }
    return ST_OK;
}

static status watch(top *t, uint64_t interval_ms) {
    do {
        TRY(look(t));
        TRY(t->ctl->json ? print_json(t) : print_table(t, true));
    } while (wait_ms(interval_ms));
    return ST_OK; /* an interrupt is how a watch ends */
}

static void top_close(top *t) {
    for (size_t i = 0; i < t->count; i++) free(t->rate[i].id);
    free(t->rate);
    if (t->now) gemmad__v1__get_status_response__free_unpacked(t->now, NULL);
    client_close(t->server);
}

static status run(ctl *c, const void *values, const arg_words *words) {
    const top_options *o = values;
    if (words->count) return ctl_usage(c, "top takes no words, and got \"%s\"", words->at[0]);
    uint64_t interval_ms = o->interval_s.set ? (uint64_t)(o->interval_s.value * 1000) : 1000;
    top t = {.ctl = c};
    TRY(ctl_connect(c, &t.server));
    /* What is read by a program, and not as lines that go on, is wanted once. */
    bool once = o->once || (!c->json && !isatty(STDOUT_FILENO));
    status st = once ? look_twice(&t, interval_ms) : watch(&t, interval_ms);
    if (st == ST_OK && once) st = c->json ? print_json(&t) : print_table(&t, false);
    top_close(&t);
    return st;
}

const command command_top = {
    "top",
    "",
    "what the engines do now: requests, KV, cache hits, tokens/s, step time",
    top_option,
    sizeof top_option / sizeof *top_option,
    sizeof(top_options),
    false,
    run,
};
