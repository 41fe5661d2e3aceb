#include "daemon/service.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "base/sha256.h"
#include "base/strbuf.h"
#include "daemon/api/acceptor.h"
#include "daemon/api/health.h"
#include "daemon/api/reflection.h"
#include "daemon/api/server.h"
#include "daemon/dry_run.h"
#include "daemon/http/gate.h"
#include "daemon/http/openai.h"
#include "daemon/http/pages.h"
#include "daemon/notify.h"
#include "daemon/queue/core.h"
#include "daemon/secure.h"
#include "daemon/state_dir.h"
#include "daemon/text/model_text.h"

enum { SHARD_EXIT_REFUSED = 3, SIGNALS = 3 };

struct service;

struct served;

/* One engine of a model. */
typedef struct replica {
    struct served *model;
    engine_options options;
    engine *engine;
    bool running; /* `closed` has not come */
} replica;

/* One model that is served. */
typedef struct served {
    struct service *service;
    const model_settings *settings;
    model_facts facts;
    model_text text; /* without a tokenizer: token ids only */
    chat_choice chat;
    replica *replica; /* [count] */
    uint32_t count;
    bool was_ready, start_failed; /* was_ready: an engine of it */
} served;

/* Calls that still run when everything else has ended get this long, then are cancelled. */
enum { CALLS_GRACE_MS = 1000 };

/* The way down: RUNNING, then DRAINING (running calls end), ENDING (engines end), CLOSING (the server ends).
 * A hurried stop goes to ENDING at once. */
typedef enum stage { STAGE_RUNNING, STAGE_DRAINING, STAGE_ENDING, STAGE_CLOSING } stage;

typedef struct service {
    const settings *settings;
    state_dir state;
    uv_loop_t loop;
    uv_signal_t signal[SIGNALS];
    uint32_t signal_count;
    secure *secure;
    core *core;
    server *server;
    acceptor *acceptor;
    http_server *http; /* NULL: off */
    gate *gate;
    pages *pages;
    openai *openai;
    health *health;
    reflection *reflection;
    served *model; /* [count] */
    uint32_t count;
    stage stage;
    bool told_ready, had_terminal;
    int exit_code;
} service;

int service_exit_code(status st) {
    switch (st) {
    case ST_OK: return EXIT_STOPPED;
    case ST_INVALID: return EXIT_USAGE;
    case ST_NOT_FOUND:
    case ST_FORMAT:
    case ST_UNSUPPORTED:
    case ST_LAYOUT:
    case ST_MISMATCH:
    case ST_NO_MEMORY: return EXIT_REFUSED;
    case ST_IN_USE: return EXIT_TAKEN;
    default: return EXIT_FAILED;
    }
}

/* ---- the way down ---- */

static void signal_closed(uv_handle_t *handle) { (void)handle; }

static void server_stopped(void *context) {
    service *s = context;
    for (uint32_t i = 0; i < s->signal_count; i++) uv_close((uv_handle_t *)&s->signal[i], signal_closed);
}

static void acceptor_stopped(void *context) {
    service *s = context;
    if (s->server) server_stop(s->server, CALLS_GRACE_MS, server_stopped, s);
    else server_stopped(s);
}

static void http_stopped(void *context) {
    service *s = context;
    if (s->acceptor) acceptor_stop(s->acceptor, acceptor_stopped, s);
    else acceptor_stopped(s);
}

static void close_when_engines_ended(service *s) {
    if (s->stage != STAGE_ENDING) return;
    for (uint32_t i = 0; i < s->count; i++)
        for (uint32_t k = 0; k < s->model[i].count; k++)
            if (s->model[i].replica[k].running) return;
    s->stage = STAGE_CLOSING;
    if (s->health) health_stop(s->health);
    core_end_watches(s->core);
    if (s->http) http_stop(s->http, CALLS_GRACE_MS, http_stopped, s);
    else http_stopped(s);
}

/* With drain false this also hurries engines that are already ending. */
static void end_engines(service *s, bool drain) {
    s->stage = STAGE_ENDING;
    for (uint32_t i = 0; i < s->count; i++)
        for (uint32_t k = 0; k < s->model[i].count; k++)
            if (s->model[i].replica[k].running) engine_stop(s->model[i].replica[k].engine, drain);
    close_when_engines_ended(s);
}

static void calls_ended(void *context) {
    service *s = context;
    if (s->stage == STAGE_DRAINING) end_engines(s, true);
}

static void stop(service *s, bool drain) {
    if (s->stage == STAGE_CLOSING) return;
    bool first = s->stage == STAGE_RUNNING;
    if (first) {
        notify_manager("STOPPING=1");
        s->stage = drain ? STAGE_DRAINING : STAGE_ENDING;
        core_drain(s->core, calls_ended, s);
        if (s->health) health_changed(s->health);
    }
    if (!drain) end_engines(s, false);
}

/* SIGHUP means two things: a terminal that has gone, with whoever started gemmad in it, and otherwise that files have
 * changed. */
static bool terminal_is_gone(const service *s) { return s->had_terminal && !isatty(STDERR_FILENO); }

static void on_hang_up(service *s) {
    bool can = secure_can_reload(s->secure);
    log_info("SIGHUP: %s",
             can ? "reading keys and certificates again" : "there are no keys or certificates to read");
    if (can && s->stage == STAGE_RUNNING) secure_reload(s->secure);
}

static void drain_asked(void *context) { stop(context, true); }

static void on_signal(uv_signal_t *handle, int number) {
    service *s = handle->data;
    if (number == SIGHUP && !terminal_is_gone(s)) {
        on_hang_up(s);
        return;
    }
    if (s->stage == STAGE_RUNNING) {
        log_info("signal %s: finishing what runs, then ending the engines; a second one ends at once",
                 strsignal(number));
        stop(s, true);
    } else {
        log_info("signal %s again: ending at once", strsignal(number));
        stop(s, false);
    }
}

/* ---- engines ---- */

static void tell_ready(service *s) {
    strbuf text = {0};
    for (uint32_t i = 0; i < s->count; i++)
        if (!s->model[i].was_ready) return;
    if (s->told_ready || s->stage != STAGE_RUNNING) return;
    s->told_ready = true;
    strbuf_add_string(&text, "ready: listening on");
    for (uint32_t i = 0; i < s->settings->listen_count; i++)
        strbuf_add_format(&text, "%s %s", i ? "," : "", s->settings->listen[i]);
    if (s->settings->options.http) strbuf_add_format(&text, ", HTTP on %s", s->settings->options.http);
    strbuf_add_string(&text, "; serving");
    for (uint32_t i = 0; i < s->count; i++) {
        const served *m = &s->model[i];
        const model_facts *facts = &m->replica[0].engine->facts;
        strbuf_add_format(&text, "%s %s (%s, context %u%s)", i ? "," : "", m->settings->name, facts->layout,
                          facts->context_tokens, m->text.tokenizer ? "" : ", token ids only");
    }
    log_info("%s", strbuf_text(&text));
    strbuf_close(&text);
    notify_manager("READY=1");
}

/* The model was never served: nothing will be better by waiting, and whoever started gemmad wants to know. */
static void start_failed(service *s, served *m, engine *e) {
    engine_status now = {0};
    engine_get_status(e, &now);
    m->start_failed = true;
    s->exit_code = now.exit_code == SHARD_EXIT_REFUSED ? EXIT_REFUSED : EXIT_FAILED;
    log_error("model %s cannot be served: %s", m->settings->name, now.failure);
    stop(s, false);
}

static bool all_failed(const served *m) {
    engine_status now = {0};
    for (uint32_t i = 0; i < m->count; i++) {
        if (!m->replica[i].engine) return false;
        engine_get_status(m->replica[i].engine, &now);
        if (now.state != ENGINE_FAILED) return false;
    }
    return true;
}

static void engine_changed(void *context, engine *e, engine_state now) {
    served *m = ((replica *)context)->model;
    service *s = m->service;
    /* An engine that has ended as asked is no news to clients, who heard of the draining. */
    if (now != ENGINE_STOPPED) core_engine_changed(s->core, e, now);
    health_changed(s->health);
    if (now == ENGINE_READY) {
        m->was_ready = true;
        tell_ready(s);
    }
    if (now == ENGINE_FAILED && !m->was_ready && s->stage == STAGE_RUNNING && all_failed(m))
        start_failed(s, m, e);
}

static void engine_closed(void *context, engine *e) {
    replica *r = context;
    engine_status last = {0};
    engine_get_status(e, &last);
    /* A leader may tell of its failure a while before the launcher ends and tells which kind it was. */
    if (r->model->start_failed && last.exit_code == SHARD_EXIT_REFUSED)
        r->model->service->exit_code = EXIT_REFUSED;
    r->running = false;
    close_when_engines_ended(r->model->service);
}

/* A name of any length gives an id that fits, and different names different ids. */
static void name_engine(const char *model, uint32_t number, char *id, size_t size) {
    INVARIANT(number < LIMIT_REPLICAS);
    if (strlen(model) + 4 <= size) {
        snprintf(id, size, "%.*s/%u", (int)size - 4, model, number);
        return;
    }
    uint8_t digest[32];
    char hex[65];
    sha256 hash;
    sha256_begin(&hash);
    sha256_add(&hash, model, strlen(model));
    sha256_end(&hash, digest);
    sha256_hex(digest, hex);
    snprintf(id, size, "model-%.16s/%u", hex, number);
}

static status start_engine(service *s, served *m, uint32_t number) {
    replica *r = &m->replica[number];
    const engine_watch watch = {engine_changed, engine_closed, r};
    TRY(engine_open(&r->engine, &s->loop, &r->options, &m->facts, &watch));
    r->running = true;
    if (number > 0) return core_add_replica(s->core, m->settings->name, r->engine);
    TRY(core_add_model(s->core, m->settings->name, m->text.tokenizer, r->engine));
    return core_set_chat(s->core, m->settings->name, &m->chat);
}

/* ---- the way up ---- */

static status open_text(served *m) {
    TRY(model_text_open(&m->text, m->settings->path));
    const tokenizer *t = m->text.tokenizer;
    if (!t) log_info("model %s has no tokenizer.json: it serves token ids only", m->settings->name);
    else if (tokenizer_vocab_size(t) > m->facts.vocab)
        log_warn("model %s: the tokenizer has ids up to %u, the model's vocabulary is %u; prompts with the "
                 "others are refused",
                 m->settings->name, tokenizer_vocab_size(t) - 1, m->facts.vocab);
    chat_template_choose(&m->chat, m->settings->options.chat_template, m->text.chat_template,
                         m->text.chat_template_bytes, t);
    if (m->chat.template)
        log_info("model %s: chats are rendered with the template %s", m->settings->name,
                 chat_template_name(m->chat.template));
    else if (t) log_warn("model %s serves no chat: %s", m->settings->name, m->chat.why);
    return ST_OK;
}

static double gib(uint64_t bytes) { return (double)bytes / (1 << 30); }

/* What memory is taken for, before any is taken. */
static void tell_budget(const char *name, const model_facts *f) {
    log_info(
        "model %s: %s, context %u; weights %.3f GiB, activations %.3f GiB, KV in %s %.3f GiB: %llu tokens, "
        "%u requests of the whole context at %.3f GiB full layers and %.3f GiB sliding",
        name, f->layout, f->context_tokens, gib(f->weight_bytes), gib(f->activation_bytes), f->kv_type,
        gib(f->kv_pool_bytes), (unsigned long long)f->kv_tokens, f->kv_requests, gib(f->kv_bytes_full),
        gib(f->kv_bytes_sliding));
}

static status plan_model(service *s, served *m, const model_settings *from) {
    m->service = s;
    m->settings = from;
    m->count = from->options.replicas;
    m->replica = memory_alloc_array(m->count, sizeof *m->replica);
    for (uint32_t i = 0; i < m->count; i++) {
        replica *r = &m->replica[i];
        r->model = m;
        r->options = settings_engine_options(&from->options, from->path);
        r->options.state_dir = s->state.path;
        r->options.grace_seconds = s->settings->options.engine_grace;
        r->options.replica = i;
        name_engine(from->name, i, r->options.id, sizeof r->options.id);
    }
    status st = engine_plan(&m->replica[0].options, &m->facts);
    if (st == ST_OK) {
        tell_budget(from->name, &m->facts);
        if (!from->options.context && m->facts.context_tokens < m->facts.context_model)
            log_warn(
                "model %s: the context is cut from %u to %u tokens, which is what memory holds; --memory, "
                "--kv q8, smaller --weights or more --ranks make room",
                from->name, m->facts.context_model, m->facts.context_tokens);
        st = open_text(m);
    }
    return st == ST_OK ? ST_OK : fail_within(st, "model %s", from->name);
}

static status catch_signals(service *s) {
    static const int numbers[SIGNALS] = {SIGTERM, SIGINT, SIGHUP};
    for (int i = 0; i < SIGNALS; i++) {
        struct sigaction now;
        /* nohup, or a shell's background job, has said that this signal is not for us. */
        if (sigaction(numbers[i], NULL, &now) == 0 && now.sa_handler == SIG_IGN && numbers[i] == SIGHUP)
            continue;
        uv_signal_t *handle = &s->signal[s->signal_count];
        if (uv_signal_init(&s->loop, handle) != 0)
            return fail(ST_INTERNAL, "the event loop takes no more handles");
        handle->data = s;
        s->signal_count++;
        if (uv_signal_start(handle, on_signal, numbers[i]) != 0)
            return fail(ST_INTERNAL, "signal %d", numbers[i]);
    }
    return ST_OK;
}

static const char *state_word(void *c) { return core_state(c); }

static void certificates_replaced(void *context, const tls_files *now) {
    service *s = context;
    if (s->server) server_set_tls(s->server, now);
    if (s->http) http_set_tls(s->http, now);
}

/* What the settings have let pass may be public: keys and TLS, or the word that says so. */
static bool public_allowed(const service *s) {
    return s->settings->options.insecure || (secure_auth(s->secure) && secure_tls(s->secure));
}

static status listen_grpc(service *s, const char *address) {
    bool tcp = strncmp(address, "unix:", 5) != 0 && strncmp(address, "systemd:", 8) != 0;
    if (tcp && secure_tls(s->secure)) return server_listen_tls(s->server, address, public_allowed(s));
    return acceptor_listen(s->acceptor, address, public_allowed(s), server_sink(s->server));
}

static const tokenizer *tokenizer_of(void *c, const char *model) { return core_tokenizer(c, model); }

static const char *first_model(void *c, const auth_key *who) { return core_first_model(c, who); }

static status open_http(service *s, const call_method *methods, uint32_t count) {
    if (!s->settings->options.http) return ST_OK;
    bool tcp = strncmp(s->settings->options.http, "unix:", 5) != 0;
    TRY(http_open(&s->http, &s->loop, &(http_options){.tls = tcp ? secure_tls(s->secure) : NULL}));
    gate_open(&s->gate, s->http, secure_auth(s->secure));
    openai_open(&s->openai, s->http,
                &(openai_backend){methods, count, s->core, state_word, tokenizer_of, first_model});
    pages_open(&s->pages, s->http, s->openai, s->core);
    return acceptor_listen(s->acceptor, s->settings->options.http, public_allowed(s), http_sink(s->http));
}

static status open_server(service *s) {
    uint32_t count;
    const call_method *methods = core_methods(&count);
    TRY(server_open(&s->server, &s->loop));
    server_add_core(s->server, methods, count, s->core);
    health_open(&s->health, s->server, state_word, s->core);
    TRY(reflection_open(&s->reflection, s->server));
    core_set_auth(s->core, secure_auth(s->secure));
    server_set_auth(s->server, secure_auth(s->secure));
    if (secure_tls(s->secure)) server_set_tls(s->server, secure_tls(s->secure));
    const acceptor_limits limits = {.socket_mode = (mode_t)strtoul(s->settings->options.socket_mode, NULL, 8),
                                    .other_users = secure_auth(s->secure) != NULL};
    TRY(acceptor_open(&s->acceptor, &s->loop, &limits));
    for (uint32_t i = 0; i < s->settings->listen_count; i++) TRY(listen_grpc(s, s->settings->listen[i]));
    server_start(s->server);
    return open_http(s, methods, count);
}

/* Addresses are taken before engines start: a port in use is known before a hundred gigabytes are read. */
static status start_all(service *s) {
    TRY(catch_signals(s));
    TRY(open_server(s));
    for (uint32_t i = 0; i < s->count; i++)
        for (uint32_t k = 0; k < s->model[i].count; k++) {
            status st = start_engine(s, &s->model[i], k);
            if (st != ST_OK) return fail_within(st, "model %s", s->model[i].settings->name);
        }
    return ST_OK;
}

/* Clients and engines each take a descriptor; many shells allow 1024 and would give more. */
static void raise_descriptor_limit(void) {
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0) return;
    rlim_t want = r.rlim_max == RLIM_INFINITY || r.rlim_max > 65536 ? 65536 : r.rlim_max;
    if (r.rlim_cur >= want) return;
    r.rlim_cur = want;
    if (setrlimit(RLIMIT_NOFILE, &r) != 0) log_debug("RLIMIT_NOFILE stays as it is: %s", strerror(errno));
}

static void run_loop(service *s) {
    status st = start_all(s);
    if (st != ST_OK) {
        s->exit_code = service_exit_code(st);
        log_error("%s", status_text());
        stop(s, false);
    }
    uv_run(&s->loop, UV_RUN_DEFAULT);
}

static status prepare(service *s) {
    TRY(state_dir_open(&s->state, s->settings->state_dir));
    TRY(secure_open(&s->secure, &s->loop, &s->settings->options, certificates_replaced, s));
    s->model = memory_alloc_array(s->settings->model_count, sizeof *s->model);
    for (uint32_t i = 0; i < s->settings->model_count; i++) {
        s->count++;
        TRY(plan_model(s, &s->model[i], &s->settings->model[i]));
    }
    if (uv_loop_init(&s->loop) != 0) return fail(ST_INTERNAL, "cannot make the event loop");
    TRY(core_open(&s->core, &s->loop));
    core_set_limits(s->core,
                    (core_limits){s->settings->options.queue, s->settings->options.queue_per_client});
    core_on_drain(s->core, drain_asked, s);
    core_set_log_prompts(s->core, s->settings->options.log_prompts);
    return ST_OK;
}

int service_run(const settings *asked) {
    service s = {.settings = asked, .state = {.lock = -1}};
    signal(SIGPIPE, SIG_IGN);
    s.had_terminal = isatty(STDERR_FILENO);
    raise_descriptor_limit();
    status st = prepare(&s);
    if (st == ST_OK) {
        run_loop(&s);
    } else {
        s.exit_code = service_exit_code(st);
        log_error("%s", status_text());
    }
    acceptor_close(s.acceptor);
    http_close(s.http);
    gate_close(s.gate);
    pages_close(s.pages);
    openai_close(s.openai);
    server_close(s.server);
    health_close(s.health);
    reflection_close(s.reflection);
    for (uint32_t i = 0; i < s.count; i++)
        for (uint32_t k = 0; k < s.model[i].count; k++) engine_close(s.model[i].replica[k].engine);
    core_close(s.core);
    secure_close(s.secure);
    for (uint32_t i = 0; i < s.count; i++) {
        model_text_close(&s.model[i].text);
        free(s.model[i].replica);
    }
    if (st == ST_OK && uv_loop_close(&s.loop) != 0) log_debug("the event loop had handles left");
    free(s.model);
    state_dir_close(&s.state);
    if (s.exit_code == EXIT_STOPPED) log_info("stopped");
    return s.exit_code;
}
