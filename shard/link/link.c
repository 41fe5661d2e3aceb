#include "shard/link/link.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/invariant.h"
#include "base/memory.h"
#include "shard/link/internal.h"
#include "shard/link/socket.h"
#include "shard/link/wire.h"

enum { RECONNECT_MS = 500, CLOSE_MS = 1000 };

/* Whoever could have read or written it may be whoever shows it. */
static status check_private(const char *path) {
    struct stat s;
    if (stat(path, &s) != 0) return fail_errno(errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s", path);
    if ((s.st_mode & 077) == 0 && (s.st_uid == geteuid() || s.st_uid == 0)) return ST_OK;
    return fail(ST_DENIED, "%s has mode %04o and belongs to user %u: a secret is this user's alone", path,
                s.st_mode & 07777, s.st_uid);
}

status link_read_secret(const char *path, uint8_t secret[LIMIT_SECRET_BYTES]) {
    char *bytes;
    size_t n;
    TRY(check_private(path));
    TRY(file_read_all(path, LIMIT_SECRET_BYTES, &bytes, &n));
    if (n == LIMIT_SECRET_BYTES) memcpy(secret, bytes, n);
    explicit_bzero(bytes, n);
    free(bytes);
    if (n == LIMIT_SECRET_BYTES) return ST_OK;
    return fail(ST_FORMAT, "%s has %zu bytes, a secret has %d", path, n, LIMIT_SECRET_BYTES);
}

static void hang_up(link_connection *l) {
    pthread_mutex_lock(&l->lock);
    if (l->fd >= 0) close(l->fd);
    l->fd = -1;
    l->proven = false;
    frame_writer_close(&l->writer);
    pthread_mutex_unlock(&l->lock);
    frame_reader_close(&l->reader);
}

/* ---- reading ---- */

/* The next frame, checked, before deadline_ns; what is queued is written meanwhile. */
static status next_frame(link_connection *l, uint64_t deadline_ns, engine_frame **out) {
    for (;;) {
        const uint8_t *payload;
        uint32_t n;
        TRY(frame_reader_next(&l->reader, &payload, &n));
        if (payload) {
            engine_frame *f;
            TRY(frame_unpack(payload, n, &f));
            status st = engine_check_from_gemmad(f, &l->bounds);
            if (st != ST_OK) {
                frame_free(f);
                return st;
            }
            *out = f;
            return ST_OK;
        }
        size_t room;
        uint8_t *at = frame_reader_room(&l->reader, &room);
        ssize_t got = recv(l->fd, at, room, MSG_DONTWAIT);
        if (got > 0) {
            frame_reader_add(&l->reader, (size_t)got);
            continue;
        }
        if (got == 0) return fail(ST_UNAVAILABLE, "gemmad closed the link");
        if (errno == EINTR) continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            return fail_errno(ST_UNAVAILABLE, "the link to gemmad broke");
        short happened;
        size_t backlog = link_backlog_bytes(l);
        TRY(link_wait_io(l->fd, (short)(POLLIN | (backlog ? POLLOUT : 0)), deadline_ns, &happened));
        if (happened & POLLOUT) TRY(link_flush(l));
    }
}

static void pong(link_connection *l) {
    /* A ping asks for a sign of life now; a failure shows in the next read. */
    status st = l->beating ? link_beat(l) : ST_OK;
    (void)st;
}

static status check_known(const link_connection *l, const char *kind, uint64_t id) {
    if (id <= l->last_id) return ST_OK;
    return fail(ST_FORMAT, "%s: id %llu was never submitted", kind, (unsigned long long)id);
}

static status event_from(link_connection *l, engine_frame *f, link_event *out, bool *is_event) {
    *is_event = true;
    switch (f->kind_case) {
    case GEMMAD__ENGINE__FRAME__KIND_SUBMIT:
        if (f->submit->id <= l->last_id)
            return fail(ST_FORMAT, "submit: id %llu comes after %llu", (unsigned long long)f->submit->id,
                        (unsigned long long)l->last_id);
        l->last_id = f->submit->id;
        *out =
            (link_event){.kind = LINK_SUBMIT, .id = f->submit->id, .request = link_request_unpack(f->submit)};
        return ST_OK;
    case GEMMAD__ENGINE__FRAME__KIND_CANCEL:
        *out = (link_event){.kind = LINK_CANCEL, .id = f->cancel->id};
        return check_known(l, "cancel", f->cancel->id);
    case GEMMAD__ENGINE__FRAME__KIND_PAUSE:
        *out = (link_event){.kind = LINK_PAUSE, .id = f->pause->id, .paused = f->pause->paused};
        return check_known(l, "pause", f->pause->id);
    case GEMMAD__ENGINE__FRAME__KIND_VOCABULARY:
        *out = (link_event){.kind = LINK_VOCABULARY, .data_bytes = f->vocabulary->data.len};
        out->data = memory_alloc(out->data_bytes);
        memcpy(out->data, f->vocabulary->data.data, out->data_bytes);
        return ST_OK;
    case GEMMAD__ENGINE__FRAME__KIND_DRAIN: *out = (link_event){.kind = LINK_DRAIN}; return ST_OK;
    case GEMMAD__ENGINE__FRAME__KIND_PING:
        pong(l);
        *is_event = false;
        return ST_OK;
    default: return fail(ST_FORMAT, "a %s frame that was not waited for", frame_kind_name(f));
    }
}

status link_poll(link_connection *l, int timeout_ms, link_event *out) {
    if (l->fd < 0) return fail(ST_UNAVAILABLE, "the link to gemmad is closed");
    uint64_t deadline = timeout_ms < 0 ? UINT64_MAX : clock_now_ns() + (uint64_t)timeout_ms * 1000000;
    bool is_event = false;
    status st = ST_OK;
    while (st == ST_OK && !is_event) {
        engine_frame *f;
        st = next_frame(l, deadline, &f);
        if (st != ST_OK) break;
        st = event_from(l, f, out, &is_event);
        frame_free(f);
    }
    if (st == ST_OK || st == ST_TIMEOUT) return st;
    hang_up(l);
    return st;
}

/* ---- the handshake ---- */

static status await_welcome(link_connection *l, uint64_t deadline) {
    for (;;) {
        engine_frame *f;
        status st = next_frame(l, deadline, &f);
        if (st == ST_TIMEOUT) return fail(ST_TIMEOUT, "gemmad at %s does not answer the hello", l->address);
        TRY(st);
        int kind = (int)f->kind_case;
        if (kind == GEMMAD__ENGINE__FRAME__KIND_WELCOME) l->grace_ms = f->welcome->engine_grace_ms;
        else if (kind != GEMMAD__ENGINE__FRAME__KIND_PING)
            st = fail(ST_FORMAT, "a %s frame before the welcome", frame_kind_name(f));
        frame_free(f);
        TRY(st);
        if (kind == GEMMAD__ENGINE__FRAME__KIND_WELCOME) return ST_OK;
    }
}

static status say(link_connection *l, bool ready) {
    Gemmad__Engine__Hello m = GEMMAD__ENGINE__HELLO__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    Gemmad__Engine__RankInfo *rank = memory_alloc_array(l->rank_count + 1, sizeof *rank);
    Gemmad__Engine__RankInfo **list = memory_alloc_array(l->rank_count + 1, sizeof *list);
    m.has_version = m.has_start_unix_ms = true;
    m.version = ENGINE_LINK_VERSION;
    m.start_unix_ms = l->start_unix_ms;
    m.state = ready ? "ready" : "loading";
    if (ready) {
        m.build_id = l->build_id;
        m.layout = l->layout;
        m.checkpoint_hash = l->checkpoint_hash;
        m.has_context_tokens = m.has_vocab = m.has_requests_max = true;
        m.context_tokens = l->bounds.context_tokens;
        m.vocab = l->bounds.vocab;
        m.requests_max = l->requests_max;
        /* Only this thread changes the ranks: they can be read without the lock. */
        link_rank_pack(l->rank, l->rank_count, rank, list);
        m.n_ranks = l->rank_count;
        m.ranks = list;
    }
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_HELLO;
    f.hello = &m;
    status st = link_queue(l, &f);
    free(list);
    free(rank);
    return st == ST_OK ? await_welcome(l, clock_now_ns() + l->timeout_ns) : st;
}

static status dial_and_prove(link_connection *l) {
    int fd;
    TRY(link_dial(l->address, clock_now_ns() + l->timeout_ns, &fd));
    frame_reader_open(&l->reader, LIMIT_MESSAGE_BYTES);
    l->last_id = 0;
    pthread_mutex_lock(&l->lock);
    INVARIANT(l->fd < 0);
    l->fd = fd;
    pthread_mutex_unlock(&l->lock);
    /* Bare, before any frame; a new connection takes so few bytes at once. */
    status st = send(fd, l->secret, sizeof l->secret, MSG_NOSIGNAL) == (ssize_t)sizeof l->secret
                    ? say(l, false)
                    : fail_errno(ST_UNAVAILABLE, "the secret is not sent to %s", l->address);
    if (st == ST_UNAVAILABLE)
        st = fail(ST_AUTH, "gemmad at %s closed the link instead of answering: the secret is not its own",
                  l->address);
    if (st != ST_OK) {
        hang_up(l);
        return st;
    }
    pthread_mutex_lock(&l->lock);
    l->proven = true;
    pthread_mutex_unlock(&l->lock);
    return ST_OK;
}

status link_open(link_connection **out, const link_options *options) {
    link_connection *l = memory_alloc(sizeof *l);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    l->address = memory_copy_string(options->address);
    memcpy(l->secret, options->secret, sizeof l->secret);
    l->timeout_ns =
        (uint64_t)(options->connect_timeout_ms ? options->connect_timeout_ms : LINK_TIMEOUT_MS) * 1000000;
    l->start_unix_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    l->fd = -1;
    frame_writer_open(&l->writer, LINK_QUEUE_BYTES);
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&l->stopped, &attributes);
    pthread_condattr_destroy(&attributes);
    status st = dial_and_prove(l);
    if (st != ST_OK) {
        link_close(l);
        return st;
    }
    *out = l;
    return ST_OK;
}

status link_say_hello(link_connection *l, const link_hello *hello, uint64_t *engine_grace_ms) {
    INVARIANT(hello->rank_count >= 1 && hello->rank_count <= LIMIT_RANKS);
    if (l->fd < 0) return fail(ST_UNAVAILABLE, "the link to gemmad is closed");
    snprintf(l->build_id, sizeof l->build_id, "%s", hello->build_id);
    snprintf(l->layout, sizeof l->layout, "%s", hello->layout);
    snprintf(l->checkpoint_hash, sizeof l->checkpoint_hash, "%s", hello->checkpoint_hash);
    l->bounds = (engine_bounds){.vocab = hello->vocab, .context_tokens = hello->context_tokens};
    l->requests_max = hello->requests_max;
    link_set_ranks(l, hello->ranks, hello->rank_count);
    l->ready = true;
    status st = say(l, true);
    if (st != ST_OK) hang_up(l);
    else if (engine_grace_ms) *engine_grace_ms = l->grace_ms;
    return st;
}

status link_reconnect(link_connection *l, uint64_t timeout_ms) {
    uint64_t deadline = clock_now_ns() + timeout_ms * 1000000;
    hang_up(l);
    for (;;) {
        status st = dial_and_prove(l);
        if (st == ST_OK && l->ready) {
            st = say(l, true);
            if (st != ST_OK) hang_up(l);
        }
        if (st == ST_OK) return ST_OK;
        uint64_t now = clock_now_ns();
        if (now >= deadline)
            return fail_within(ST_TIMEOUT, "no gemmad came back within %llu ms",
                               (unsigned long long)timeout_ms);
        uint64_t left_ms = (deadline - now) / 1000000 + 1;
        poll(NULL, 0, left_ms < RECONNECT_MS ? (int)left_ms : RECONNECT_MS);
    }
}

/* ---- the end ---- */

/* A socket closed with unread input may take queued output with it, so gemmad is told first that no more
 * comes, and its hanging up is waited for. */
static void part(link_connection *l) {
    uint64_t deadline = clock_now_ns() + (uint64_t)CLOSE_MS * 1000000;
    short happened;
    while (link_backlog_bytes(l) > 0)
        if (link_wait_io(l->fd, POLLOUT, deadline, &happened) != ST_OK || link_flush(l) != ST_OK) return;
    shutdown(l->fd, SHUT_WR);
    char scrap[4096];
    while (link_wait_io(l->fd, POLLIN, deadline, &happened) == ST_OK)
        if (recv(l->fd, scrap, sizeof scrap, MSG_DONTWAIT) <= 0) return;
}

void link_close(link_connection *l) {
    if (!l) return;
    if (l->beating) {
        pthread_mutex_lock(&l->lock);
        l->stop = true;
        pthread_cond_signal(&l->stopped);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->thread, NULL);
    }
    if (l->fd >= 0) part(l);
    hang_up(l);
    pthread_cond_destroy(&l->stopped);
    pthread_mutex_destroy(&l->lock);
    free(l->rank);
    free(l->address);
    explicit_bzero(l->secret, sizeof l->secret);
    free(l);
}
