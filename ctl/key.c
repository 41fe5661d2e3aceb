/* gemmactl key add|list|remove|rotate: the file of keys that gemmad --keys reads. It needs no daemon. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/key_file.h"
#include "base/memory.h"
#include "base/paths.h"
#include "ctl/ctl.h"
#include "ctl/json_write.h"
#include "ctl/terminal.h"

typedef struct key_options {
    const char *keys, *expires;
    bool admin;
    arg_u32 requests_per_minute, tokens_per_minute, concurrent;
    arg_texts model;
} key_options;

static const arg_option key_option[] = {
    {"keys", ARG_TEXT, "FILE", offsetof(key_options, keys), 0, 0,
     "the file; default keys.json in gemmad's default state directory"},
    {"admin", ARG_FLAG, NULL, offsetof(key_options, admin), 0, 0, "add: may drain the daemon"},
    {"expires", ARG_TEXT, "WHEN", offsetof(key_options, expires), 0, 0,
     "add, rotate: 30d, 12h, 2027-01-31 or 2027-01-31T12:00:00Z (UTC); default never, or as it was"},
    {"requests-per-minute", ARG_U32, "N", offsetof(key_options, requests_per_minute), 1, KEY_LIMIT_MAX,
     "add: of all kinds; default no limit"},
    {"tokens-per-minute", ARG_U32, "N", offsetof(key_options, tokens_per_minute), 1, KEY_LIMIT_MAX,
     "add: of prompts and answers together; default no limit"},
    {"concurrent", ARG_U32, "N", offsetof(key_options, concurrent), 1, KEY_LIMIT_MAX,
     "add: requests waiting or running; default no limit"},
    {"model", ARG_TEXTS, "NAME", offsetof(key_options, model), 0, 0,
     "add: served model that it may use; may repeat; default all"},
};

enum { HOUR_S = 3600, DAY_S = 24 * HOUR_S, EXPIRES_NUMBER_MAX = 100000 };

/* ---- the file ---- */

static status find_file(ctl *c, const key_options *o, char **out) {
    char *state;
    if (o->keys) {
        *out = memory_copy_string(o->keys);
        return ST_OK;
    }
    if (path_default_state(&state) != ST_OK) return ctl_usage(c, "%s; say --keys FILE", status_text());
    *out = file_join(state, "keys.json");
    free(state);
    return ST_OK;
}

/* The folder of a file that is still to be made, as gemmad would make it. */
static void make_folder(const char *path) {
    strbuf part = {0};
    for (const char *at = path + 1; (at = strchr(at, '/')) != NULL; at++) {
        strbuf_clear(&part);
        strbuf_add(&part, path, (size_t)(at - path));
        (void)mkdir(strbuf_text(&part), 0700); /* what is wrong is said when the file is written */
    }
    strbuf_close(&part);
}

static status change_file(const char *path, bool may_make, status (*change)(key_file *f, void *context),
                          void *context) {
    key_file f = {0};
    int lock;
    if (may_make) make_folder(path);
    TRY(key_file_lock(path, &lock));
    status st = key_file_read(&f, path);
    if (st == ST_NOT_FOUND && may_make) st = ST_OK;
    if (st == ST_OK) st = change(&f, context);
    if (st == ST_OK) st = key_file_write(&f, path);
    key_file_close(&f);
    close(lock);
    return st;
}

/* ---- add, rotate, remove ---- */

static status read_expiry(const char *text, int64_t now, int64_t *out) {
    char *end, whole[KEY_TIME_BYTES + 1];
    errno = 0;
    unsigned long n = text[0] >= '0' && text[0] <= '9' ? strtoul(text, &end, 10) : 0;
    if (n > 0 && n <= EXPIRES_NUMBER_MAX && (!strcmp(end, "d") || !strcmp(end, "h"))) {
        *out = now + (int64_t)n * (*end == 'd' ? DAY_S : HOUR_S);
        return ST_OK;
    }
    snprintf(whole, sizeof whole, "%.20s", text);
    if (strlen(text) == strlen("2027-01-31")) snprintf(whole, sizeof whole, "%.10sT00:00:00Z", text);
    if (strlen(text) > KEY_TIME_BYTES || key_time_read(whole, out) != ST_OK)
        return fail(ST_INVALID,
                    "--expires \"%.40s\" is none of 30d, 12h, 2027-01-31 and 2027-01-31T12:00:00Z", text);
    return *out > now ? ST_OK : fail(ST_INVALID, "--expires %s is past", text);
}

typedef struct key_change {
    const key_options *options;
    const char *name;
    int64_t now, expires; /* expires 0: not said */
    char key[KEY_TEXT_BYTES + 1];
} key_change;

static void give_key(key_entry *e, const key_change *k) {
    key_digest(k->key, strlen(k->key), e->digest);
    e->created = k->now;
    if (k->expires) e->expires = k->expires;
}

static status add(key_file *f, void *context) {
    const key_change *k = context;
    const key_options *o = k->options;
    key_entry *e;
    TRY(key_file_add(f, k->name, &e));
    give_key(e, k);
    e->admin = o->admin;
    e->requests_per_minute = o->requests_per_minute.value;
    e->tokens_per_minute = o->tokens_per_minute.value;
    e->concurrent = o->concurrent.value;
    for (size_t i = 0; i < o->model.count; i++) key_entry_add_model(e, o->model.at[i]);
    return ST_OK;
}

static status find_entry(const key_file *f, const char *name, key_entry **out) {
    *out = key_file_find(f, name);
    return *out ? ST_OK : fail(ST_NOT_FOUND, "there is no key with the name %.64s", name);
}

static status rotate(key_file *f, void *context) {
    const key_change *k = context;
    key_entry *e;
    TRY(find_entry(f, k->name, &e));
    give_key(e, k);
    if (e->expires && e->expires <= k->now)
        return fail(ST_INVALID, "key %s has expired; --expires says until when the new one is good", e->name);
    return ST_OK;
}

static status take_away(key_file *f, void *context) {
    const key_change *k = context;
    key_entry *e;
    TRY(find_entry(f, k->name, &e));
    key_file_remove(f, e);
    return ST_OK;
}

/* The key alone on standard output, so that a script can take it; what else there is to say goes beside it. */
static status print_key(const ctl *c, const char *path, const key_change *k, const char *what) {
    json_writer w = {0};
    strbuf line = {0};
    if (c->json) {
        json_begin(&w, '{');
        json_key(&w, "name"), json_string(&w, k->name);
        json_key(&w, "key"), json_string(&w, k->key);
        json_key(&w, "file"), json_string(&w, path);
        json_end(&w, '}');
    } else {
        strbuf_add_string(&line, k->key);
        fprintf(stderr,
                "key %s is %s %s. It is shown this once. A running gemmad reads the file on SIGHUP.\n",
                k->name, what, path);
    }
    status st = terminal_write_line(c->json ? &w.out : &line);
    strbuf_close(&w.out);
    strbuf_close(&line);
    return st;
}

static status make_key(ctl *c, const char *path, key_change *k, bool is_new) {
    if (k->options->expires && read_expiry(k->options->expires, k->now, &k->expires) != ST_OK)
        return ctl_usage(c, "%s", status_text());
    if (is_new && key_check_name(k->name) != ST_OK) return ctl_usage(c, "%s", status_text());
    TRY(key_make(k->key));
    status st = change_file(path, is_new, is_new ? add : rotate, k);
    if (st == ST_OK) st = print_key(c, path, k, is_new ? "added to" : "new in");
    explicit_bzero(k->key, sizeof k->key);
    return st;
}

static status remove_key(const ctl *c, const char *path, key_change *k) {
    json_writer w = {0};
    TRY(change_file(path, false, take_away, k));
    if (!c->json) {
        fprintf(stderr, "key %s is removed from %s. A running gemmad reads the file on SIGHUP.\n", k->name,
                path);
        return ST_OK;
    }
    json_begin(&w, '{');
    json_key(&w, "name"), json_string(&w, k->name);
    json_key(&w, "removed"), json_bool(&w, true);
    json_key(&w, "file"), json_string(&w, path);
    json_end(&w, '}');
    status st = terminal_write_line(&w.out);
    strbuf_close(&w.out);
    return st;
}

/* ---- list ---- */

static void write_time(json_writer *w, const char *key, int64_t when) {
    char text[KEY_TIME_BYTES + 1];
    json_key(w, key);
    if (!when) {
        json_null(w);
        return;
    }
    key_time_write(when, text);
    json_string(w, text);
}

static void write_limit(json_writer *w, const char *key, uint32_t limit) {
    json_key(w, key);
    if (limit) json_u64(w, limit);
    else json_null(w);
}

static void write_entry(json_writer *w, const key_entry *e) {
    json_begin(w, '{');
    json_key(w, "name"), json_string(w, e->name);
    json_key(w, "admin"), json_bool(w, e->admin);
    write_time(w, "created", e->created);
    write_time(w, "expires", e->expires);
    write_limit(w, "requests_per_minute", e->requests_per_minute);
    write_limit(w, "tokens_per_minute", e->tokens_per_minute);
    write_limit(w, "concurrent", e->concurrent);
    json_key(w, "models");
    if (e->model_count == 0) json_null(w);
    else json_begin(w, '[');
    for (uint32_t i = 0; i < e->model_count; i++) json_string(w, e->model[i]);
    if (e->model_count > 0) json_end(w, ']');
    json_end(w, '}');
}

static void add_limit(strbuf *out, uint32_t limit) {
    if (limit) strbuf_add_format(out, " %11u", limit);
    else strbuf_add_format(out, " %11s", "-");
}

static void describe_entry(strbuf *out, const key_entry *e, int64_t now) {
    char when[KEY_TIME_BYTES + 1] = "never";
    if (e->expires) key_time_write(e->expires, when);
    strbuf_add_format(out, "\n%-20s %-5s %-20s", e->name, e->admin ? "admin" : "",
                      e->expires && e->expires <= now ? "expired" : when);
    add_limit(out, e->requests_per_minute);
    add_limit(out, e->tokens_per_minute);
    add_limit(out, e->concurrent);
    strbuf_add_string(out, "  ");
    if (e->model_count == 0) strbuf_add_string(out, "all");
    for (uint32_t i = 0; i < e->model_count; i++) strbuf_add_format(out, "%s%s", i ? ", " : "", e->model[i]);
}

static status list_keys(const ctl *c, const char *path, int64_t now) {
    key_file f;
    json_writer w = {0};
    strbuf plain = {0};
    TRY(key_file_read(&f, path));
    json_begin(&w, '{');
    json_key(&w, "file"), json_string(&w, path);
    json_key(&w, "keys");
    json_begin(&w, '[');
    strbuf_add_format(&plain, "%-20s %-5s %-20s %11s %11s %11s  %s", "NAME", "", "EXPIRES", "REQUESTS/MIN",
                      "TOKENS/MIN", "CONCURRENT", "MODELS");
    for (uint32_t i = 0; i < f.count; i++) {
        write_entry(&w, &f.entry[i]);
        describe_entry(&plain, &f.entry[i], now);
    }
    json_end(&w, ']');
    json_end(&w, '}');
    strbuf safe = {0};
    if (!c->json) { /* the first line end is ours, the names of models are anybody's */
        terminal_make_safe(&safe, plain.data, plain.size);
    }
    status st = terminal_write_line(c->json ? &w.out : &safe);
    strbuf_close(&safe);
    strbuf_close(&w.out);
    strbuf_close(&plain);
    key_file_close(&f);
    return st;
}

static status run_key(ctl *c, const void *values, const arg_words *words) {
    static const char usage[] = "key needs one of: add NAME, list, remove NAME, rotate NAME";
    const key_options *o = values;
    const char *what = words->count > 0 ? words->at[0] : "";
    bool lists = !strcmp(what, "list"), adds = !strcmp(what, "add"), rotates = !strcmp(what, "rotate");
    if (!lists && !adds && !rotates && strcmp(what, "remove") != 0) return ctl_usage(c, "%s", usage);
    if (words->count != (lists ? 1 : 2)) return ctl_usage(c, "%s", usage);
    if (!adds && (o->admin || o->requests_per_minute.set || o->tokens_per_minute.set || o->concurrent.set ||
                  o->model.count))
        return ctl_usage(c, "limits, --model and --admin go with key add");
    if (!adds && !rotates && o->expires) return ctl_usage(c, "--expires goes with key add and key rotate");
    char *path = NULL;
    TRY(find_file(c, o, &path));
    key_change k = {.options = o, .name = lists ? NULL : words->at[1], .now = (int64_t)time(NULL)};
    status st;
    if (lists) st = list_keys(c, path, k.now);
    else if (adds || rotates) st = make_key(c, path, &k, adds);
    else st = remove_key(c, path, &k);
    free(path);
    return st;
}

const command command_key = {
    "key",
    "add|list|remove|rotate [NAME]",
    "make and remove the keys that gemmad --keys asks for",
    key_option,
    sizeof key_option / sizeof *key_option,
    sizeof(key_options),
    false,
    run_key,
};
