/* gemmactl status [--wait SECONDS] and gemmactl models */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "ctl/ctl.h"
#include "ctl/json_write.h"
#include "ctl/terminal.h"
#include "proto/gemmad.pb-c.h"

enum { WAIT_STEP_MS = 100, STATUS_CALL_MS = 10000 };

typedef struct status_options {
    arg_u32 wait_s;
} status_options;

static const arg_option status_option[] = {
    {"wait", ARG_U32, "SECONDS", offsetof(status_options, wait_s), 0, 86400,
     "until the daemon is ready; 1 when it is not by then"},
};

static void add_bytes(strbuf *out, uint64_t bytes) {
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    int i = 0;
    while (value >= 1024 && i < 4) value /= 1024, i++;
    strbuf_add_format(out, i ? "%.1f %s" : "%.0f %s", value, unit[i]);
}

static const char *or_dash(const char *text) { return text && *text ? text : "-"; }

static void add_engine(strbuf *out, const Gemmad__V1__EngineStatus *e) {
    strbuf_add_format(out, "  engine %s: %s, layout %s, %u restarts, %llu steps, KV pages %llu of %llu\n",
                      or_dash(e->id), or_dash(e->state), or_dash(e->layout), e->restarts,
                      (unsigned long long)e->steps, (unsigned long long)e->kv_pages_used,
                      (unsigned long long)e->kv_pages_total);
    if (e->has_counted_ms) {
        strbuf_add_format(
            out,
            "    %u running, %u waiting, %u paused; %llu prompt tokens read, %llu of %llu looked up were "
            "cached, %llu generated",
            e->requests_running, e->requests_waiting, e->requests_paused,
            (unsigned long long)e->prompt_tokens, (unsigned long long)e->prefix_hit_tokens,
            (unsigned long long)e->prefix_query_tokens, (unsigned long long)e->generated_tokens);
        strbuf_add_format(out, "; step %.2f ms, %llu preemptions", e->step_us / 1e3,
                          (unsigned long long)e->preemptions);
        if (e->imbalance > 0) strbuf_add_format(out, ", imbalance %.2f", (double)e->imbalance);
        strbuf_add_string(out, "\n");
    }
    if (e->failure && *e->failure) strbuf_add_format(out, "    failed: %s\n", e->failure);
    for (size_t i = 0; i < e->n_ranks; i++) {
        const Gemmad__V1__RankStatus *r = e->ranks[i];
        strbuf_add_format(out, "    rank %u: %s on %s, pid %u, %u threads, %s, cpu %.1f s, weights read ",
                          r->rank, or_dash(r->state), or_dash(r->host), r->pid, r->threads, or_dash(r->isa),
                          r->cpu_ms / 1000.0);
        add_bytes(out, r->weight_bytes_read);
        strbuf_add_string(out, ", KV ");
        add_bytes(out, r->kv_bytes);
        strbuf_add_string(out, "\n");
    }
}

static status print_status(const ctl *c, const Gemmad__V1__GetStatusResponse *s) {
    json_writer w = {0};
    if (c->json) {
        json_message(&w, &s->base);
    } else {
        strbuf *out = &w.out;
        strbuf_add_format(out, "gemmad %s at %s: %s, %u requests running, %u waiting, %u paused\n",
                          or_dash(s->version), c->server, or_dash(s->state), s->requests_running,
                          s->requests_waiting, s->requests_paused);
        for (size_t i = 0; i < s->n_models; i++) {
            strbuf_add_format(out, "model %s\n", or_dash(s->models[i]->name));
            for (size_t k = 0; k < s->models[i]->n_engines; k++) add_engine(out, s->models[i]->engines[k]);
        }
        out->data[--out->size] = 0; /* terminal_write_line adds the last one */
    }
    status st = terminal_write_line(&w.out);
    strbuf_close(&w.out);
    return st;
}

static status get_status(client *server, uint32_t timeout_ms, Gemmad__V1__GetStatusResponse **out) {
    Gemmad__V1__GetStatusRequest request = GEMMAD__V1__GET_STATUS_REQUEST__INIT;
    ProtobufCMessage *message;
    TRY(client_call(server, "/gemmad.v1.Control/GetStatus", &request.base,
                    &gemmad__v1__get_status_response__descriptor, timeout_ms, &message));
    *out = (void *)message;
    return ST_OK;
}

static bool is_state(const Gemmad__V1__GetStatusResponse *s, const char *state) {
    return s->state && !strcmp(s->state, state);
}

/* One look at the daemon, over a connection of its own: while it starts, its socket may not be there yet. */
static status look(const ctl *c, uint32_t within_ms, Gemmad__V1__GetStatusResponse **out) {
    client *server;
    TRY(client_open(&server, c->server, within_ms < CTL_CONNECT_MS ? within_ms : CTL_CONNECT_MS));
    status st = get_status(server, within_ms < STATUS_CALL_MS ? within_ms : STATUS_CALL_MS, out);
    client_close(server);
    return st;
}

static bool worth_waiting(status st) { return st == ST_UNAVAILABLE || st == ST_TIMEOUT; }

/* *out is NULL when nobody answered. A daemon that failed stays so: it is not waited for. */
static status wait_until_ready(const ctl *c, uint32_t seconds, Gemmad__V1__GetStatusResponse **out) {
    uint64_t end_ns = clock_now_ns() + (uint64_t)seconds * 1000000000u;
    for (;;) {
        uint64_t now_ns = clock_now_ns();
        uint32_t left_ms = now_ns < end_ns ? (uint32_t)((end_ns - now_ns) / 1000000) : 0;
        Gemmad__V1__GetStatusResponse *now = NULL;
        status st = look(c, left_ms > WAIT_STEP_MS ? left_ms : WAIT_STEP_MS, &now);
        if (st != ST_OK && !worth_waiting(st)) return st;
        if (now) {
            if (*out) gemmad__v1__get_status_response__free_unpacked(*out, NULL);
            *out = now;
        }
        if (now && (is_state(now, "ready") || is_state(now, "failed"))) return ST_OK;
        if (left_ms == 0) return st;
        char line[128];
        snprintf(line, sizeof line, "%s, waiting %u s more", now ? or_dash(now->state) : "no answer yet",
                 left_ms / 1000);
        terminal_progress(line);
        struct timespec pause = {.tv_nsec = WAIT_STEP_MS * 1000000L};
        nanosleep(&pause, NULL);
        if (client_interrupt()) return fail(ST_CANCELLED, "interrupted");
    }
}

static status not_ready(const ctl *c, const Gemmad__V1__GetStatusResponse *s, uint32_t seconds) {
    for (size_t i = 0; i < s->n_models; i++)
        for (size_t k = 0; k < s->models[i]->n_engines; k++) {
            const char *why = s->models[i]->engines[k]->failure;
            if (why && *why)
                return fail(ST_UNAVAILABLE, "%s is %s: engine %s: %s", c->server, or_dash(s->state),
                            or_dash(s->models[i]->engines[k]->id), why);
        }
    return fail(ST_UNAVAILABLE, "%s is %s, not ready within %u s", c->server, or_dash(s->state), seconds);
}

static status run_status(ctl *c, const void *values, const arg_words *words) {
    const status_options *o = values;
    if (words->count) return ctl_usage(c, "status takes no words, and got \"%s\"", words->at[0]);
    Gemmad__V1__GetStatusResponse *reply = NULL;
    status st;
    if (o->wait_s.set) {
        st = wait_until_ready(c, o->wait_s.value, &reply);
        terminal_progress(NULL);
        if (!reply && worth_waiting(st)) st = fail_within(st, "not ready within %u s", o->wait_s.value);
    } else {
        client *server;
        TRY(ctl_connect(c, &server));
        st = get_status(server, STATUS_CALL_MS, &reply);
        client_close(server);
    }
    if (reply) {
        status printed = print_status(c, reply);
        if (st == ST_OK) st = printed;
        if (st == ST_OK && o->wait_s.set && !is_state(reply, "ready"))
            st = not_ready(c, reply, o->wait_s.value);
        gemmad__v1__get_status_response__free_unpacked(reply, NULL);
    }
    return st;
}

static status run_models(ctl *c, const void *values, const arg_words *words) {
    (void)values;
    if (words->count) return ctl_usage(c, "models takes no words, and got \"%s\"", words->at[0]);
    Gemmad__V1__ListModelsRequest request = GEMMAD__V1__LIST_MODELS_REQUEST__INIT;
    ProtobufCMessage *message;
    client *server;
    TRY(ctl_connect(c, &server));
    status st = client_call(server, "/gemmad.v1.Inference/ListModels", &request.base,
                            &gemmad__v1__list_models_response__descriptor, STATUS_CALL_MS, &message);
    client_close(server);
    TRY(st);
    const Gemmad__V1__ListModelsResponse *reply = (void *)message;
    json_writer w = {0};
    if (c->json) json_message(&w, message);
    for (size_t i = 0; i < reply->n_models && !c->json; i++) {
        const Gemmad__V1__Model *m = reply->models[i];
        strbuf_add_format(&w.out, "%s%s: context %u tokens, vocabulary %u, %s, checkpoint %s", i ? "\n" : "",
                          or_dash(m->name), m->context_tokens, m->vocab_size,
                          m->has_tokenizer ? "text and token ids" : "token ids only",
                          or_dash(m->checkpoint_hash));
    }
    st = terminal_write_line(&w.out);
    strbuf_close(&w.out);
    protobuf_c_message_free_unpacked(message, NULL);
    return st;
}

const command command_status = {
    "status",
    "",
    "what the daemon runs, and where",
    status_option,
    sizeof status_option / sizeof *status_option,
    sizeof(status_options),
    false,
    run_status,
};
const command command_models = {"models", "", "the models that are served", NULL, 0, 0, false, run_models};
