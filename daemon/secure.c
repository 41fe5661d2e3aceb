#include "daemon/secure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"

enum { DAY_S = 86400, EXPIRY_WARNING_DAYS = 14 };

/* What was read, or why not. */
typedef struct reading {
    key_file keys;
    tls_files tls;
    status keys_status, tls_status;
    char keys_text[STATUS_TEXT_MAX], tls_text[STATUS_TEXT_MAX];
} reading;

struct secure {
    uv_loop_t *loop;
    const gemmad_options *options;
    auth *auth;
    tls_files tls;
    void (*replaced)(void *context, const tls_files *tls);
    void *context;
    uv_work_t work;
    bool reading, again; /* again: asked for while it reads */
    struct reading found;
};

auth *secure_auth(const secure *s) { return s->auth; }
const tls_files *secure_tls(const secure *s) { return s->tls.cert ? &s->tls : NULL; }
bool secure_can_reload(const secure *s) { return s->options->keys || s->options->tls_cert; }

static void keep_sentence(char *to, status st) {
    snprintf(to, STATUS_TEXT_MAX, "%s", st == ST_OK ? "" : status_text());
}

/* Any thread. */
static void read_files(const gemmad_options *o, reading *r) {
    *r = (reading){0};
    if (o->keys) r->keys_status = key_file_read(&r->keys, o->keys);
    keep_sentence(r->keys_text, r->keys_status);
    if (o->tls_cert) r->tls_status = tls_files_read(&r->tls, o->tls_cert, o->tls_key, o->tls_client_ca);
    keep_sentence(r->tls_text, r->tls_status);
}

static void take_keys(secure *s, reading *r) {
    auth_replace(s->auth, &r->keys);
    uint32_t admins = 0;
    for (uint32_t i = 0; i < r->keys.count; i++) admins += r->keys.entry[i].admin;
    log_info("keys: %u of %s, %u of administrators", r->keys.count, s->options->keys, admins);
    if (r->keys.count == 0)
        log_warn("%s holds no keys: nobody but this user is let in; gemmactl key add NAME", s->options->keys);
}

static void take_tls(secure *s, reading *r) {
    char when[KEY_TIME_BYTES + 1];
    int64_t left_s = r->tls.expires - (int64_t)time(NULL);
    tls_files_close(&s->tls);
    s->tls = r->tls;
    r->tls = (tls_files){0};
    key_time_write(s->tls.expires, when);
    if (left_s <= 0)
        log_warn("the certificate %s has expired, on %s: clients will refuse it", s->options->tls_cert, when);
    else if (left_s < EXPIRY_WARNING_DAYS * DAY_S)
        log_warn("the certificate %s expires soon, on %s", s->options->tls_cert, when);
    else log_info("TLS: the certificate %s is good until %s", s->options->tls_cert, when);
    if (s->replaced) s->replaced(s->context, &s->tls);
}

status secure_open(secure **out, uv_loop_t *loop, const gemmad_options *o,
                   void (*replaced)(void *context, const tls_files *tls), void *context) {
    reading *r = memory_alloc(sizeof *r);
    status st = ST_OK;
    *out = NULL;
    read_files(o, r);
    if (r->keys_status != ST_OK) st = fail(ST_INVALID, "--keys: %s", r->keys_text);
    else if (r->tls_status != ST_OK) st = fail(ST_INVALID, "TLS: %s", r->tls_text);
    if (st == ST_OK) {
        secure *s = memory_alloc(sizeof *s);
        s->loop = loop;
        s->options = o;
        s->context = context;
        if (o->keys) {
            auth_open(&s->auth, NULL);
            take_keys(s, r);
        }
        if (o->tls_cert) take_tls(s, r);
        s->replaced = replaced;
        *out = s;
    }
    key_file_close(&r->keys);
    tls_files_close(&r->tls);
    free(r);
    return st;
}

static void on_worker(uv_work_t *work) {
    secure *s = work->data;
    read_files(s->options, &s->found);
}

static void on_read(uv_work_t *work, int error) {
    secure *s = work->data;
    reading *r = &s->found;
    INVARIANT(error == 0); /* nobody cancels it */
    s->reading = false;
    if (r->keys_status != ST_OK) log_error("the keys stay as they were: %s", r->keys_text);
    else if (s->options->keys) take_keys(s, r);
    if (r->tls_status != ST_OK) log_error("the certificate stays as it was: %s", r->tls_text);
    else if (s->options->tls_cert) take_tls(s, r);
    key_file_close(&r->keys);
    tls_files_close(&r->tls);
    if (!s->again) return;
    s->again = false;
    secure_reload(s);
}

void secure_reload(secure *s) {
    if (s->reading) {
        s->again = true;
        return;
    }
    s->reading = true;
    s->work.data = s;
    int error = uv_queue_work(s->loop, &s->work, on_worker, on_read);
    INVARIANT(error == 0);
}

void secure_close(secure *s) {
    if (!s) return;
    auth_close(s->auth);
    tls_files_close(&s->tls);
    free(s);
}
