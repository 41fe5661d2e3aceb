/* The supervisor of one engine: keeper, link and requests, and what is to be done when one of them ends. */
#include "daemon/engine/engine.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/strbuf.h"
#include "daemon/engine/command.h"
#include "daemon/engine/directory.h"
#include "daemon/engine/failure.h"
#include "daemon/engine/leader.h"
#include "daemon/engine/process.h"
#include "daemon/engine/requests.h"

enum {
    TICKS_OF_SILENCE = 10,
    SETTLE_MS = 1000, /* what ends together (leader's link, launcher) is waited for this long to tell why */
    REQUESTS_MAX = LIMIT_QUEUE_PER_MODEL + LIMIT_REQUESTS_PER_ENGINE,
};

/* A leader dials before it loads; what comes before is the start of MPI. */
const engine_times engine_times_default = {
    .first_hello_ms = 120000, .prove_ms = 10000, .silence_ms = 10000, .end_ms = 15000, .kill_ms = 15000};

/* What the one alarm does when it goes off. */
typedef enum alarm_stage { ALARM_NONE, ALARM_SETTLE, ALARM_END, ALARM_KILL } alarm_stage;

typedef struct supervisor {
    engine base; /* first: what callers hold */
    uv_loop_t *loop;
    engine_watch watch;
    engine_times times;
    uint32_t grace_ms;
    engine_state state;
    engine_directory *directory;
    command command;
    char *keeper_program;
    request_table *requests;
    uint64_t next_id;

    /* One run of the engine; a restart would begin these anew. */
    leader *leader;
    uv_process_t keeper;
    bool keeper_running, keeper_known; /* known: its handle must be closed */
    int64_t exit_code;
    int exit_signal;
    uint64_t grammar_sent; /* engine_request.grammar_id of the grammar that the leader had last */
    bool welcomed, vocabulary_sent, heart_beats, failing, stopping, hurried, draining, closing;
    uint32_t ticks_waiting, ticks_silent;
    uint64_t bytes_seen;
    char cause[512], last_words[512]; /* why it failed; what the leader said of it */
    engine_status counts;             /* numbers of the last heartbeat */
    engine_rank_status *rank;
    uint32_t rank_count;

    uv_timer_t tick, alarm;
    alarm_stage stage;
    uint32_t handles; /* to be closed before `closed` */
    char failure[512];
} supervisor;

const char *engine_state_name(engine_state s) {
    static const char *const names[] = {"starting", "ready", "draining", "failed", "failed"};
    return (unsigned)s < sizeof names / sizeof *names ? names[s] : "failed";
}

static supervisor *from_engine(engine *e) { return (supervisor *)(void *)e; }

static void announce_state(supervisor *s) {
    log_info("engine %s: %s", s->base.id,
             s->state == ENGINE_STOPPED ? "stopped" : engine_state_name(s->state));
    if (s->watch.state_changed) s->watch.state_changed(s->watch.context, &s->base, s->state);
}

static void set_state(supervisor *s, engine_state state) {
    if (s->state == state) return;
    s->state = state;
    announce_state(s);
}

/* ---- closing ---- */

static void free_supervisor(supervisor *s) {
    requests_close(s->requests);
    command_close(&s->command);
    free(s->keeper_program);
    free(s->directory);
    free(s->rank);
    free(s);
}

static void handle_closed(supervisor *s) {
    INVARIANT(s->handles > 0);
    if (--s->handles > 0) return;
    directory_close(s->directory);
    if (!s->watch.closed) { /* engine_open failed: nobody holds it */
        free_supervisor(s);
        return;
    }
    set_state(s, ENGINE_STOPPED);
    s->watch.closed(s->watch.context, &s->base);
}

static void on_handle_closed(uv_handle_t *handle) { handle_closed(handle->data); }
static void on_leader_closed(void *context) { handle_closed(context); }

static void close_everything(supervisor *s) {
    if (s->closing) return;
    s->closing = true;
    s->handles = 2 + (s->keeper_known ? 1 : 0) + (s->leader ? 1 : 0);
    uv_close((uv_handle_t *)&s->tick, on_handle_closed);
    uv_close((uv_handle_t *)&s->alarm, on_handle_closed);
    if (s->keeper_known) uv_close((uv_handle_t *)&s->keeper, on_handle_closed);
    if (s->leader) leader_close(s->leader);
    s->leader = NULL;
}

/* ---- ending the processes ---- */

static void on_alarm(uv_timer_t *timer);

static void set_alarm(supervisor *s, alarm_stage stage, uint32_t ms) {
    s->stage = stage;
    uv_timer_start(&s->alarm, on_alarm, ms, 0);
}

static void end_keeper(supervisor *s) {
    if (!s->keeper_running || s->stage == ALARM_KILL) return;
    uv_process_kill(&s->keeper, SIGTERM);
    set_alarm(s, ALARM_KILL, s->times.kill_ms);
}

static void kill_keeper(supervisor *s) {
    log_warn("engine %s: its keeper did not end in %u ms; killing all of it", s->base.id, s->times.kill_ms);
    process_signal_descendants((pid_t)s->keeper.pid, SIGKILL);
    uv_process_kill(&s->keeper, SIGKILL);
}

/* ---- failing ---- */

static void write_failure(supervisor *s) {
    char exit_text[128], errors[384];
    strbuf text = {0};
    strbuf_add_format(&text, "engine %s: %s", s->base.id, s->cause);
    if (s->keeper_known && !s->keeper_running) {
        failure_describe_exit(s->exit_code, s->exit_signal, exit_text, sizeof exit_text);
        strbuf_add_format(&text, "; %s", exit_text);
    }
    failure_from_log(s->directory->log_file, errors, sizeof errors);
    /* The log often has the leader's last words among its errors. */
    if (!strstr(errors, s->last_words)) strbuf_add_format(&text, "; %s", s->last_words);
    if (errors[0]) strbuf_add_format(&text, "; %s", errors);
    failure_clean_text(s->failure, sizeof s->failure, strbuf_text(&text));
    strbuf_close(&text);
}

static void fail_now(supervisor *s) {
    if (s->state == ENGINE_FAILED || s->stopping) return;
    s->failing = true;
    uv_timer_stop(&s->tick);
    uv_timer_stop(&s->alarm);
    s->stage = ALARM_NONE;
    leader_hang_up(s->leader);
    end_keeper(s);
    write_failure(s);
    log_error("%s", s->failure);
    s->state = ENGINE_FAILED;
    /* Requests hear why before the watch does, which may stop the engine at once. */
    requests_fail_all(s->requests, ST_UNAVAILABLE, s->failure);
    announce_state(s);
}

static void keep_cause(supervisor *s, const char *cause) {
    if (!s->cause[0]) failure_clean_text(s->cause, sizeof s->cause, cause);
}

/* The link and the launcher end within moments of each other, in either order, and each knows a part of
 * why. */
static void fail_when_settled(supervisor *s, const char *cause) {
    keep_cause(s, cause);
    if (!s->keeper_running && !leader_is_connected(s->leader)) {
        fail_now(s);
    } else if (!s->failing) {
        s->failing = true;
        set_alarm(s, ALARM_SETTLE, SETTLE_MS);
    }
}

static void finish_stop(supervisor *s) {
    uv_timer_stop(&s->alarm);
    leader_hang_up(s->leader);
    requests_fail_all(s->requests, ST_UNAVAILABLE, "the engine ended while it was being stopped");
    close_everything(s);
}

static void on_alarm(uv_timer_t *timer) {
    supervisor *s = timer->data;
    alarm_stage stage = s->stage;
    s->stage = ALARM_NONE;
    if (stage == ALARM_SETTLE && s->stopping) finish_stop(s);
    else if (stage == ALARM_SETTLE) fail_now(s);
    if (stage == ALARM_END) {
        log_warn("engine %s: drained, and still there after %u ms; ending it", s->base.id, s->times.end_ms);
        end_keeper(s);
    }
    if (stage == ALARM_KILL) kill_keeper(s);
}

static void on_tick(uv_timer_t *timer) {
    supervisor *s = timer->data;
    char cause[128];
    if (s->failing || s->state == ENGINE_FAILED) return;
    s->ticks_waiting++;
    uint64_t tick_ms = uv_timer_get_repeat(timer);
    if (!s->welcomed && s->ticks_waiting * tick_ms >= s->times.first_hello_ms) {
        snprintf(cause, sizeof cause, "no leader said hello within %u ms", s->times.first_hello_ms);
        keep_cause(s, cause);
        fail_now(s);
        return;
    }
    /* Ticks and not time: a gemmad that was stopped for a minute has not listened, which is not the leader's
     * silence. */
    uint64_t bytes = leader_bytes_received(s->leader);
    s->ticks_silent = bytes == s->bytes_seen ? s->ticks_silent + 1 : 0;
    s->bytes_seen = bytes;
    if (s->heart_beats && leader_is_connected(s->leader) && s->ticks_silent >= TICKS_OF_SILENCE) {
        snprintf(cause, sizeof cause, "its leader was silent for %u ms", s->times.silence_ms);
        keep_cause(s, cause);
        fail_now(s);
    }
}

/* ---- the end of a drained engine ---- */

static void drained_maybe(supervisor *s) {
    if (!s->draining || requests_count(s->requests) > 0 || s->stage != ALARM_NONE) return;
    set_alarm(s, ALARM_END, s->times.end_ms);
}

static void on_keeper_exit(uv_process_t *process, int64_t code, int signal_number) {
    supervisor *s = process->data;
    s->keeper_running = false;
    s->exit_code = code;
    s->exit_signal = signal_number;
    if (s->stopping) {
        /* The last answers of a drained engine may still lie in the socket. */
        if (s->draining && leader_is_connected(s->leader)) set_alarm(s, ALARM_SETTLE, SETTLE_MS);
        else finish_stop(s);
        return;
    }
    if (s->state == ENGINE_FAILED) {
        uv_timer_stop(&s->alarm);
        write_failure(s); /* now with the exit status */
        return;
    }
    fail_when_settled(s, "it ended");
}

static void on_lost(void *context, status why, const char *text) {
    supervisor *s = context;
    char cause[512];
    if (s->stopping && !s->keeper_running) {
        finish_stop(s);
        return;
    }
    if (s->stopping) {
        requests_fail_all(s->requests, ST_UNAVAILABLE, "the engine ended while it was being stopped");
        drained_maybe(s);
        return;
    }
    if (why == ST_UNAVAILABLE) {
        fail_when_settled(s, s->state == ENGINE_STARTING ? "its leader left the link before it was ready"
                                                         : "its leader left the link");
        return;
    }
    snprintf(cause, sizeof cause, "its leader broke the link's protocol: %.400s", text);
    keep_cause(s, cause);
    fail_now(s);
}

/* ---- frames ---- */

static void copy_ranks(supervisor *s, Gemmad__Engine__RankInfo *const *info, size_t n) {
    if (n == 0) return;
    if (n != s->rank_count) s->rank = memory_grow(s->rank, n * sizeof *s->rank);
    s->rank_count = (uint32_t)n;
    for (size_t i = 0; i < n; i++) {
        engine_rank_status *r = &s->rank[i];
        *r = (engine_rank_status){.rank = info[i]->rank,
                                  .pid = info[i]->pid,
                                  .threads = info[i]->threads,
                                  .cpu_ms = info[i]->cpu_ms,
                                  .kv_bytes = info[i]->kv_bytes,
                                  .weight_bytes_read = info[i]->weight_bytes_read};
        failure_clean_text(r->host, sizeof r->host, info[i]->host);
        failure_clean_text(r->state, sizeof r->state, info[i]->state);
        failure_clean_text(r->isa, sizeof r->isa, info[i]->isa);
    }
}

static status send_welcome(supervisor *s) {
    Gemmad__Engine__Welcome m = GEMMAD__ENGINE__WELCOME__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    m.has_version = m.has_engine_grace_ms = true;
    m.version = ENGINE_LINK_VERSION;
    m.engine_grace_ms = s->grace_ms;
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_WELCOME;
    f.welcome = &m;
    return leader_send(s->leader, &f);
}

/* What was planned and what was loaded must be the same model, split the same way. */
static status check_ready(const supervisor *s, const Gemmad__Engine__Hello *h) {
    const model_facts *facts = &s->base.facts;
    if (s->state != ENGINE_STARTING)
        return fail(ST_FORMAT, "hello: the engine is %s", engine_state_name(s->state));
    if (h->vocab != facts->vocab)
        return fail(ST_MISMATCH, "hello: a vocabulary of %u, the plan said %u", h->vocab, facts->vocab);
    if (facts->layout[0] && strcmp(h->layout, facts->layout) != 0)
        return fail(ST_MISMATCH, "hello: layout %s, the plan said %s", h->layout, facts->layout);
    if (facts->checkpoint_hash[0] && strcmp(h->checkpoint_hash, facts->checkpoint_hash) != 0)
        return fail(ST_MISMATCH, "hello: checkpoint %s, the plan read %s", h->checkpoint_hash,
                    facts->checkpoint_hash);
    return ST_OK;
}

static status handle_hello(supervisor *s, const Gemmad__Engine__Hello *h) {
    if (engine_hello_is_ready(h)) TRY(check_ready(s, h));
    TRY(send_welcome(s));
    s->welcomed = true;
    s->vocabulary_sent = false;
    s->grammar_sent = 0;
    if (!engine_hello_is_ready(h)) return ST_OK;
    model_facts *facts = &s->base.facts;
    if (h->context_tokens < facts->context_tokens) {
        log_warn("engine %s: the context is %u tokens, not %u as planned: memory was taken since", s->base.id,
                 h->context_tokens, facts->context_tokens);
        facts->context_tokens = h->context_tokens;
    }
    snprintf(facts->checkpoint_hash, sizeof facts->checkpoint_hash, "%s", h->checkpoint_hash);
    leader_set_bounds(s->leader,
                      (engine_bounds){.vocab = facts->vocab, .context_tokens = facts->context_tokens});
    copy_ranks(s, h->ranks, h->n_ranks);
    s->heart_beats = true; /* from here on it must, whether it did while loading or not */
    s->ticks_silent = 0;
    set_state(s, ENGINE_READY);
    return ST_OK;
}

/* Bytes per second of steps, not of the clock: what the memory gives while it is asked. */
static double weight_rate(const engine_status *before, const Gemmad__Engine__Heartbeat *h) {
    if (h->step_ns <= before->step_ns || h->weight_bytes < before->weight_bytes) return 0;
    return (double)(h->weight_bytes - before->weight_bytes) / ((double)(h->step_ns - before->step_ns) / 1e9);
}

static void handle_heartbeat(supervisor *s, const Gemmad__Engine__Heartbeat *h) {
    double rate = weight_rate(&s->counts, h);
    s->heart_beats = true;
    s->counts = (engine_status){.running = h->running,
                                .waiting = h->waiting,
                                .paused = h->paused,
                                .step_us = h->step_us,
                                .counted_ms = clock_now_ns() / 1000000,
                                .steps = h->steps,
                                .kv_pages_used = h->kv_pages_used,
                                .kv_pages_total = h->kv_pages_total,
                                .cached_pages = h->cached_pages,
                                .prefix_query_tokens = h->prefix_query_tokens,
                                .prefix_hit_tokens = h->prefix_hit_tokens,
                                .preemptions = h->preemptions,
                                .spilled_bytes = h->spilled_bytes,
                                .imbalance = h->imbalance,
                                .step_ns = h->step_ns,
                                .weight_bytes = h->weight_bytes,
                                .collective_ns = h->collective_ns,
                                .weight_bytes_per_second = rate,
                                .prompt_tokens = h->prompt_tokens,
                                .generated_tokens = h->generated_tokens};
    if (h->n_collective_steps)
        memcpy(s->counts.collective_steps, h->collective_steps, sizeof s->counts.collective_steps);
    copy_ranks(s, h->ranks, h->n_ranks);
}

static status on_frame(void *context, const engine_frame *f) {
    supervisor *s = context;
    switch (f->kind_case) {
    case GEMMAD__ENGINE__FRAME__KIND_HELLO: return handle_hello(s, f->hello);
    case GEMMAD__ENGINE__FRAME__KIND_HEARTBEAT: handle_heartbeat(s, f->heartbeat); return ST_OK;
    case GEMMAD__ENGINE__FRAME__KIND_FAILED:
        failure_clean_text(s->last_words, sizeof s->last_words, f->failed->text);
        if (!s->stopping) fail_when_settled(s, "its leader gave up");
        return ST_OK;
    default:
        TRY(requests_handle(s->requests, f));
        drained_maybe(s);
        return ST_OK;
    }
}

/* ---- what the core calls ---- */

static status send_vocabulary(supervisor *s, const vocabulary *v) {
    Gemmad__Engine__Vocabulary m = GEMMAD__ENGINE__VOCABULARY__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    size_t n;
    const uint8_t *bytes = vocabulary_bytes(v, &n);
    if (vocabulary_count(v) > s->base.facts.vocab)
        return fail(ST_INVALID,
                    "the tokenizer has %u tokens, the model's vocabulary is %u: grammars need one that fits",
                    vocabulary_count(v), s->base.facts.vocab);
    m.has_data = true;
    m.data = (ProtobufCBinaryData){.len = n, .data = (uint8_t *)bytes};
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_VOCABULARY;
    f.vocabulary = &m;
    TRY(leader_send(s->leader, &f));
    s->vocabulary_sent = true;
    return ST_OK;
}

static status supervisor_submit(engine *e, const engine_request *request, const engine_listener *listener,
                                void *context, uint64_t *id) {
    supervisor *s = from_engine(e);
    if (s->state == ENGINE_FAILED) return fail(ST_UNAVAILABLE, "%s", s->failure);
    if (s->state != ENGINE_READY || s->failing)
        return fail(ST_UNAVAILABLE, "engine %s is %s", e->id,
                    s->failing ? "failing" : engine_state_name(s->state));
    if (requests_count(s->requests) >= REQUESTS_MAX)
        return fail(ST_BUSY, "engine %s has %u requests, at most %d are allowed", e->id,
                    requests_count(s->requests), REQUESTS_MAX);
    submit_pack p;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    engine_bounds bounds = {.vocab = e->facts.vocab, .context_tokens = e->facts.context_tokens};
    requests_pack(&p, s->next_id, request, s->grammar_sent);
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_SUBMIT;
    f.submit = &p.submit;
    status st = engine_check_submit(&p.submit, &bounds);
    /* To the leader it would be a bad frame; to the caller it is an argument that can be mended. */
    if (st == ST_FORMAT) st = ST_INVALID;
    if (st == ST_OK && request->grammar && !s->vocabulary_sent) st = send_vocabulary(s, request->vocabulary);
    if (st == ST_OK) st = leader_send(s->leader, &f);
    if (st == ST_OK && p.submit.has_grammar) s->grammar_sent = request->grammar_id;
    requests_pack_free(&p);
    TRY(st);
    *id = s->next_id++;
    requests_add(s->requests, *id, request, listener, context);
    return ST_OK;
}

static void supervisor_cancel(engine *e, uint64_t id) {
    supervisor *s = from_engine(e);
    if (!requests_has(s->requests, id)) return;
    Gemmad__Engine__Cancel m = GEMMAD__ENGINE__CANCEL__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    m.has_id = true;
    m.id = id;
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_CANCEL;
    f.cancel = &m;
    /* A leader that is gone has no work to stop; its requests fail by themselves. */
    if (leader_send(s->leader, &f) != ST_OK) log_debug("engine %s: cancel: %s", e->id, status_text());
}

static void supervisor_pause(engine *e, uint64_t id, bool paused) {
    supervisor *s = from_engine(e);
    if (!requests_has(s->requests, id)) return;
    Gemmad__Engine__Pause m = GEMMAD__ENGINE__PAUSE__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    m.has_id = m.has_paused = true;
    m.id = id;
    m.paused = paused;
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_PAUSE;
    f.pause = &m;
    if (leader_send(s->leader, &f) != ST_OK) log_debug("engine %s: pause: %s", e->id, status_text());
}

static void supervisor_get_status(const engine *e, engine_status *out) {
    const supervisor *s = (const supervisor *)(const void *)e;
    *out = s->counts;
    out->state = s->state;
    bool ended = s->keeper_known && !s->keeper_running;
    out->exit_code = !ended ? -1 : s->exit_signal ? 128 + s->exit_signal : (int)s->exit_code;
    out->rank = s->rank;
    out->rank_count = s->rank_count;
    memcpy(out->layout, e->facts.layout, sizeof out->layout);
    memcpy(out->failure, s->failure, sizeof out->failure);
}

static void supervisor_stop(engine *e, bool drain) {
    supervisor *s = from_engine(e);
    if (s->state == ENGINE_STOPPED || s->hurried) return;
    bool can_drain = drain && s->state == ENGINE_READY && !s->failing;
    if (s->stopping && drain) return;
    s->stopping = true;
    uv_timer_stop(&s->tick);
    if (!s->keeper_running) {
        s->hurried = true;
        requests_fail_all(s->requests, ST_UNAVAILABLE, "the engine is being stopped");
        close_everything(s);
        return;
    }
    if (s->state != ENGINE_FAILED) set_state(s, ENGINE_DRAINING);
    if (can_drain) {
        Gemmad__Engine__Drain m = GEMMAD__ENGINE__DRAIN__INIT;
        engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
        f.kind_case = GEMMAD__ENGINE__FRAME__KIND_DRAIN;
        f.drain = &m;
        s->draining = leader_send(s->leader, &f) == ST_OK;
        drained_maybe(s);
    }
    if (s->draining && can_drain) return;
    s->hurried = true;
    s->draining = false;
    requests_fail_all(s->requests, ST_UNAVAILABLE, "the engine is being stopped");
    end_keeper(s);
}

static void supervisor_close(engine *e) {
    supervisor *s = from_engine(e);
    INVARIANT(s->state == ENGINE_STOPPED);
    free_supervisor(s);
}

static const engine_ops supervisor_ops = {supervisor_submit,     supervisor_cancel, supervisor_pause,
                                          supervisor_get_status, supervisor_stop,   supervisor_close};

/* ---- starting ---- */

static status start_keeper(supervisor *s) {
    const engine_directory *d = s->directory;
    command c = {0};
    command_add(&c, "gemmad");
    command_add(&c, "--keeper");
    const char *const options[][2] = {
        {"--record", d->record_file}, {"--id", s->base.id},      {"--log", d->log_file},
        {"--socket", d->socket_path}, {"--scratch", d->scratch}, {"--secret-file", d->secret_file},
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        command_add(&c, options[i][0]);
        command_add(&c, options[i][1]);
    }
    command_add(&c, "--gemmad");
    command_add_format(&c, "%d", (int)getpid());
    command_add(&c, "--");
    for (uint32_t i = 0; i < s->command.count; i++) command_add(&c, s->command.word[i]);
    uv_stdio_container_t stdio[3] = {
        {.flags = UV_IGNORE}, {.flags = UV_IGNORE}, {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO}};
    uv_process_options_t o = {.file = s->keeper_program ? s->keeper_program : "/proc/self/exe",
                              .args = c.word,
                              .flags = UV_PROCESS_DETACHED,
                              .exit_cb = on_keeper_exit,
                              .stdio = stdio,
                              .stdio_count = 3};
    int error = uv_spawn(s->loop, &s->keeper, &o);
    s->keeper_known = true; /* libuv has made the handle even when the process could not be */
    s->keeper.data = s;
    s->keeper_running = error == 0;
    status st = error ? fail(ST_IO, "cannot start the keeper %s: %s", o.file, uv_strerror(error)) : ST_OK;
    command_close(&c);
    return st;
}

static status start_run(supervisor *s) {
    const leader_options options = {
        .socket_path = s->directory->socket_path,
        .secret = s->directory->secret,
        .prove_ms = s->times.prove_ms,
        .events = {.frame = on_frame, .lost = on_lost, .closed = on_leader_closed, .context = s},
    };
    TRY(leader_listen(&s->leader, s->loop, &options));
    TRY(start_keeper(s));
    uint32_t tick_ms = s->times.silence_ms / TICKS_OF_SILENCE;
    uv_timer_start(&s->tick, on_tick, tick_ms ? tick_ms : 1, tick_ms ? tick_ms : 1);
    return ST_OK;
}

static status prepare(supervisor *s, const engine_options *o) {
    TRY(command_check_options(o));
    TRY(directory_open(s->directory, o->state_dir, o->id));
    const command_paths paths = {.link_address = s->directory->link_address,
                                 .secret_file = s->directory->secret_file,
                                 .scratch = s->directory->scratch};
    status st = command_serve(&s->command, o, &paths);
    if (st != ST_OK) directory_close(s->directory);
    return st;
}

/* libuv writes without MSG_NOSIGNAL: an engine that dies between two frames must not take gemmad with it. */
static void ignore_sigpipe(void) {
    struct sigaction now;
    if (sigaction(SIGPIPE, NULL, &now) == 0 && now.sa_handler == SIG_DFL) signal(SIGPIPE, SIG_IGN);
}

status engine_open(engine **out, uv_loop_t *loop, const engine_options *options, const model_facts *facts,
                   const engine_watch *watch) {
    ignore_sigpipe();
    supervisor *s = memory_alloc(sizeof *s);
    s->base.ops = &supervisor_ops;
    s->base.facts = *facts;
    memcpy(s->base.id, options->id, sizeof s->base.id);
    s->loop = loop;
    s->times = options->times ? *options->times : engine_times_default;
    s->grace_ms = options->grace_seconds > UINT32_MAX / 1000 ? UINT32_MAX : options->grace_seconds * 1000;
    s->state = ENGINE_STARTING;
    s->next_id = 1;
    s->directory = memory_alloc(sizeof *s->directory);
    s->keeper_program = options->keeper_program ? memory_copy_string(options->keeper_program) : NULL;
    s->requests = requests_open();
    status st = prepare(s, options);
    if (st != ST_OK) {
        free_supervisor(s);
        return st;
    }
    int inited = uv_timer_init(loop, &s->tick) | uv_timer_init(loop, &s->alarm);
    INVARIANT(inited == 0);
    s->tick.data = s->alarm.data = s;
    st = start_run(s);
    if (st != ST_OK) {
        close_everything(s); /* watch.closed is not set: it frees itself */
        return st;
    }
    s->watch = *watch;
    *out = &s->base;
    log_info("engine %s: starting, %u ranks, log %s", s->base.id, options->ranks ? options->ranks : 1,
             s->directory->log_file);
    return ST_OK;
}
