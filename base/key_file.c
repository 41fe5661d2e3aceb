#include "base/key_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/sha256.h"
#include "base/strbuf.h"
#include "base/utf8.h"

enum { WHERE_BYTES = 512, LOCK_TRIES = 40, LOCK_PAUSE_US = 50000, LATEST_TIME_YEAR = 9999 };

#define KEY_PREFIX "gemmad-"
_Static_assert(sizeof KEY_PREFIX - 1 + 2 * KEY_DIGEST_BYTES == KEY_TEXT_BYTES, "length of a key");

/* ---- keys, names, times ---- */

status key_check_name(const char *name) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-@";
    size_t n = strlen(name), plain = strspn(name, allowed);
    if (n == 0 || n > KEY_NAME_BYTES_MAX)
        return fail(ST_INVALID, "the name of a key has %zu bytes, allowed are 1 to %d", n,
                    KEY_NAME_BYTES_MAX);
    if (plain != n)
        return fail(ST_INVALID,
                    "the name of a key has the byte 0x%02x, allowed are letters, digits and . _ - @",
                    (unsigned char)name[plain]);
    return ST_OK;
}

static void write_hex(const uint8_t *bytes, size_t n, char *text) {
    for (size_t i = 0; i < n; i++) sprintf(text + 2 * i, "%02x", bytes[i]);
}

status key_make(char text[KEY_TEXT_BYTES + 1]) {
    uint8_t random[KEY_DIGEST_BYTES];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return fail_errno(ST_INTERNAL, "cannot draw a key");
    memcpy(text, KEY_PREFIX, sizeof KEY_PREFIX - 1);
    write_hex(random, sizeof random, text + sizeof KEY_PREFIX - 1);
    explicit_bzero(random, sizeof random);
    return ST_OK;
}

void key_digest(const char *text, size_t n, uint8_t digest[KEY_DIGEST_BYTES]) {
    sha256 s;
    sha256_begin(&s);
    sha256_add(&s, text, n);
    sha256_end(&s, digest);
    explicit_bzero(&s, sizeof s);
}

void key_time_write(int64_t seconds, char text[KEY_TIME_BYTES + 1]) {
    struct tm t = {0};
    time_t when = (time_t)seconds;
    (void)gmtime_r(&when, &t);
    if (strftime(text, KEY_TIME_BYTES + 1, "%Y-%m-%dT%H:%M:%SZ", &t) != KEY_TIME_BYTES) text[0] = 0;
}

status key_time_read(const char *text, int64_t *seconds) {
    static const char shape[] = "dddd-dd-ddTdd:dd:ddZ";
    struct tm t = {0};
    char again[KEY_TIME_BYTES + 1] = "";
    bool good = strlen(text) == sizeof shape - 1;
    for (size_t i = 0; good && shape[i]; i++)
        good = shape[i] == 'd' ? text[i] >= '0' && text[i] <= '9' : text[i] == shape[i];
    if (good) {
        sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d", &t.tm_year, &t.tm_mon, &t.tm_mday, &t.tm_hour, &t.tm_min,
               &t.tm_sec);
        t.tm_year -= 1900;
        t.tm_mon -= 1;
        time_t when = timegm(&t);
        /* timegm takes the 31st of February for the 2nd or 3rd of March. */
        key_time_write(when, again);
        good = when > 0 && !strcmp(text, again);
        if (good) *seconds = when;
    }
    return good ? ST_OK : fail(ST_FORMAT, "\"%.32s\" is no time as 2026-01-31T12:00:00Z", text);
}

/* ---- entries ---- */

key_entry *key_file_find(const key_file *f, const char *name) {
    for (uint32_t i = 0; i < f->count; i++)
        if (!strcmp(f->entry[i].name, name)) return &f->entry[i];
    return NULL;
}

static void close_entry(key_entry *e) {
    for (uint32_t i = 0; i < e->model_count; i++) free(e->model[i]);
    free(e->model);
}

status key_file_add(key_file *f, const char *name, key_entry **out) {
    TRY(key_check_name(name));
    if (key_file_find(f, name)) return fail(ST_EXISTS, "there is a key with the name %s", name);
    if (f->count == KEY_FILE_KEYS_MAX)
        return fail(ST_NO_MEMORY, "there are %d keys, the most a file holds", KEY_FILE_KEYS_MAX);
    f->entry = memory_grow(f->entry, (f->count + 1) * sizeof *f->entry);
    key_entry *e = &f->entry[f->count++];
    *e = (key_entry){0};
    memcpy(e->name, name, strlen(name) + 1);
    *out = e;
    return ST_OK;
}

void key_file_remove(key_file *f, key_entry *e) {
    close_entry(e);
    memmove(e, e + 1, (size_t)(f->entry + f->count - (e + 1)) * sizeof *e);
    f->count--;
}

void key_entry_add_model(key_entry *e, const char *model) {
    e->model = memory_grow(e->model, (e->model_count + 1) * sizeof *e->model);
    e->model[e->model_count++] = memory_copy_string(model);
}

void key_file_close(key_file *f) {
    for (uint32_t i = 0; i < f->count; i++) close_entry(&f->entry[i]);
    free(f->entry);
    *f = (key_file){0};
}

/* ---- reading ---- */

static status check_fields(json_t *object, const char *where, const char *const *known, size_t count) {
    const char *field;
    json_t *value;
    json_object_foreach(object, field, value) {
        bool found = false;
        for (size_t i = 0; i < count; i++) found = found || !strcmp(field, known[i]);
        if (!found) return fail(ST_FORMAT, "%s: unknown field \"%.64s\"", where, field);
    }
    return ST_OK;
}

static int digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static status read_digest(json_t *object, const char *where, uint8_t digest[KEY_DIGEST_BYTES]) {
    const char *text = NULL;
    TRY(json_read_string_optional(object, where, "sha256", &text));
    if (!text) return fail(ST_FORMAT, "%s: sha256 is missing", where);
    bool good = strlen(text) == 2 * KEY_DIGEST_BYTES;
    for (size_t i = 0; good && i < KEY_DIGEST_BYTES; i++) {
        int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
        good = high >= 0 && low >= 0;
        if (good) digest[i] = (uint8_t)(high << 4 | low);
    }
    return good ? ST_OK
                : fail(ST_FORMAT, "%s: sha256 is not %d hexadecimal digits in lower case", where,
                       2 * KEY_DIGEST_BYTES);
}

static status read_time(json_t *object, const char *where, const char *field, int64_t *out) {
    const char *text = NULL;
    TRY(json_read_string_optional(object, where, field, &text));
    if (!text) return ST_OK;
    return key_time_read(text, out) == ST_OK ? ST_OK : fail_within(ST_FORMAT, "%s: %s", where, field);
}

static status read_models(json_t *object, const char *where, key_entry *e) {
    json_t *list = json_object_get(object, "models");
    if (!list || json_is_null(list)) return ST_OK;
    if (!json_is_array(list)) return fail(ST_FORMAT, "%s: models is not a list", where);
    size_t n = json_array_size(list);
    /* An empty list could mean all or none: whoever writes it is asked. */
    if (n == 0 || n > KEY_FILE_MODELS_MAX)
        return fail(ST_FORMAT, "%s: models has %zu names, allowed are 1 to %d; without the field, all models",
                    where, n, KEY_FILE_MODELS_MAX);
    for (size_t i = 0; i < n; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        size_t bytes = name ? strlen(name) : 0;
        if (bytes == 0 || bytes > KEY_FILE_MODEL_BYTES_MAX)
            return fail(ST_FORMAT, "%s: models[%zu] is no name of 1 to %d bytes", where, i,
                        KEY_FILE_MODEL_BYTES_MAX);
        key_entry_add_model(e, name);
    }
    return ST_OK;
}

static status read_entry(json_t *object, const char *file, size_t index, key_file *f) {
    static const char *const known[] = {
        "name",       "sha256", "admin", "created", "expires", "requests_per_minute", "tokens_per_minute",
        "concurrent", "models"};
    char where[WHERE_BYTES];
    const char *name = NULL;
    key_entry *e;
    snprintf(where, sizeof where, "%.400s: keys[%zu]", file, index);
    if (!json_is_object(object)) return fail(ST_FORMAT, "%s is not an object", where);
    TRY(json_read_string_optional(object, where, "name", &name));
    if (!name) return fail(ST_FORMAT, "%s: name is missing", where);
    if (key_file_add(f, name, &e) != ST_OK) return fail_within(ST_FORMAT, "%s", where);
    snprintf(where, sizeof where, "%.400s: key %s", file, name);
    TRY(check_fields(object, where, known, sizeof known / sizeof *known));
    TRY(read_digest(object, where, e->digest));
    for (uint32_t i = 0; i + 1 < f->count; i++)
        if (!memcmp(f->entry[i].digest, e->digest, sizeof e->digest))
            return fail(ST_FORMAT, "%s: its sha256 is that of key %s", where, f->entry[i].name);
    TRY(json_read_bool_optional(object, where, "admin", &e->admin));
    TRY(read_time(object, where, "created", &e->created));
    TRY(read_time(object, where, "expires", &e->expires));
    TRY(json_read_u32_optional(object, where, "requests_per_minute", 0, KEY_LIMIT_MAX,
                               &e->requests_per_minute));
    TRY(json_read_u32_optional(object, where, "tokens_per_minute", 0, KEY_LIMIT_MAX, &e->tokens_per_minute));
    TRY(json_read_u32_optional(object, where, "concurrent", 0, KEY_LIMIT_MAX, &e->concurrent));
    return read_models(object, where, e);
}

static status read_root(json_t *root, const char *where, key_file *out) {
    static const char *const known[] = {"version", "keys"};
    uint32_t version;
    TRY(check_fields(root, where, known, 2));
    TRY(json_read_u32(root, where, "version", 1, 1, &version));
    json_t *list = json_object_get(root, "keys");
    if (!json_is_array(list)) return fail(ST_FORMAT, "%s: keys is not a list", where);
    for (size_t i = 0; i < json_array_size(list); i++)
        TRY(read_entry(json_array_get(list, i), where, i, out));
    return ST_OK;
}

status key_file_parse(key_file *out, const char *bytes, size_t n, const char *where) {
    json_t *root;
    *out = (key_file){0};
    TRY(json_read_bytes(bytes, n, where, &root));
    status st = read_root(root, where, out);
    json_decref(root);
    if (st != ST_OK) key_file_close(out);
    return st;
}

static status check_owner(const char *path, const struct stat *s) {
    if (!S_ISREG(s->st_mode)) return fail(ST_FORMAT, "%s is not a file", path);
    if (s->st_uid != geteuid() && s->st_uid != 0)
        return fail(ST_DENIED, "%s belongs to user %u; keys must be root's or this user's (%u)", path,
                    s->st_uid, geteuid());
    if (s->st_mode & 037)
        return fail(ST_DENIED, "%s has mode %04o: others could %s the keys; chmod 600 %s", path,
                    s->st_mode & 07777, s->st_mode & 022 ? "change" : "read", path);
    return ST_OK;
}

status key_file_read(key_file *out, const char *path) {
    struct stat s;
    strbuf all = {.max = KEY_FILE_BYTES_MAX};
    char block[65536];
    ssize_t n = 0;
    *out = (key_file){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not hold us up */
    if (fd < 0) return fail_errno(errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s", path);
    status st = fstat(fd, &s) == 0 ? check_owner(path, &s) : fail_errno(ST_IO, "%s", path);
    while (st == ST_OK && !all.full && (n = read(fd, block, sizeof block)) > 0)
        strbuf_add(&all, block, (size_t)n);
    if (st == ST_OK && n < 0) st = fail_errno(ST_IO, "%s", path);
    if (st == ST_OK && all.full) st = fail(ST_FORMAT, "%s has more than %d bytes", path, KEY_FILE_BYTES_MAX);
    close(fd);
    if (st == ST_OK) st = key_file_parse(out, strbuf_text(&all), all.size, path);
    strbuf_close(&all);
    return st;
}

/* ---- writing ---- */

static void add_text(strbuf *out, const char *text) {
    strbuf_add_string(out, "\"");
    for (const char *p = text; *p; p++) {
        if (*p == '"' || *p == '\\') strbuf_add_format(out, "\\%c", *p);
        else if ((unsigned char)*p < 0x20) strbuf_add_format(out, "\\u%04x", *p);
        else strbuf_add(out, p, 1);
    }
    strbuf_add_string(out, "\"");
}

static void add_time(strbuf *out, const char *field, int64_t when) {
    char text[KEY_TIME_BYTES + 1];
    if (!when) return;
    key_time_write(when, text);
    strbuf_add_format(out, ", \"%s\": \"%s\"", field, text);
}

static void add_limit(strbuf *out, const char *field, uint32_t limit) {
    if (limit) strbuf_add_format(out, ", \"%s\": %u", field, limit);
}

static status add_entry(strbuf *out, const key_entry *e) {
    char hex[2 * KEY_DIGEST_BYTES + 1];
    write_hex(e->digest, sizeof e->digest, hex);
    strbuf_add_format(out, "{\"name\": \"%s\", \"sha256\": \"%s\", \"admin\": %s", e->name, hex,
                      e->admin ? "true" : "false");
    add_time(out, "created", e->created);
    add_time(out, "expires", e->expires);
    add_limit(out, "requests_per_minute", e->requests_per_minute);
    add_limit(out, "tokens_per_minute", e->tokens_per_minute);
    add_limit(out, "concurrent", e->concurrent);
    for (uint32_t i = 0; i < e->model_count; i++) {
        size_t n = strlen(e->model[i]);
        if (n == 0 || n > KEY_FILE_MODEL_BYTES_MAX || utf8_check(e->model[i], n) != n)
            return fail(ST_INVALID, "key %s: model %u has no name of 1 to %d bytes of text", e->name, i + 1,
                        KEY_FILE_MODEL_BYTES_MAX);
        strbuf_add_string(out, i ? ", " : ", \"models\": [");
        add_text(out, e->model[i]);
    }
    strbuf_add_string(out, e->model_count ? "]}" : "}");
    return e->model_count <= KEY_FILE_MODELS_MAX ? ST_OK
                                                 : fail(ST_INVALID, "key %s has %u models, at most %d",
                                                        e->name, e->model_count, KEY_FILE_MODELS_MAX);
}

/* One line a key, so that people can read and compare the file. */
static status pack_file(const key_file *f, strbuf *out) {
    strbuf_add_string(out, "{\"version\": 1, \"keys\": [");
    for (uint32_t i = 0; i < f->count; i++) {
        strbuf_add_string(out, i ? ",\n  " : "\n  ");
        TRY(add_entry(out, &f->entry[i]));
    }
    strbuf_add_string(out, "\n]}\n");
    return ST_OK;
}

static status write_all(int fd, const strbuf *b, const char *path) {
    for (size_t at = 0; at < b->size;) {
        ssize_t n = write(fd, b->data + at, b->size - at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return fail_errno(ST_IO, "%s", path);
        at += (size_t)n;
    }
    return fsync(fd) == 0 ? ST_OK : fail_errno(ST_IO, "%s", path);
}

/* gemmad may run as another user than whoever makes its keys: the new file is theirs as the old was. */
static status keep_owner(int fd, const char *path) {
    struct stat old;
    if (stat(path, &old) != 0) return errno == ENOENT ? ST_OK : fail_errno(ST_IO, "%s", path);
    if ((old.st_uid != geteuid() || old.st_gid != getegid()) && fchown(fd, old.st_uid, old.st_gid) != 0)
        return fail_errno(ST_IO, "%s belongs to user %u and group %u, and the new file cannot", path,
                          old.st_uid, old.st_gid);
    return fchmod(fd, old.st_mode & 0740) == 0 ? ST_OK : fail_errno(ST_IO, "%s", path);
}

static status write_new(const strbuf *text, const char *path, const char *made) {
    int fd = open(made, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return fail_errno(ST_IO, "%s", made);
    status st = keep_owner(fd, path);
    if (st == ST_OK) st = write_all(fd, text, made);
    if (close(fd) != 0 && st == ST_OK) st = fail_errno(ST_IO, "%s", made);
    if (st == ST_OK && rename(made, path) != 0) st = fail_errno(ST_IO, "cannot replace %s", path);
    if (st != ST_OK) unlink(made);
    return st;
}

static int open_folder(const char *path) {
    const char *slash = strrchr(path, '/');
    strbuf folder = {0};
    if (slash) strbuf_add(&folder, path, slash == path ? 1 : (size_t)(slash - path));
    int fd = open(slash ? strbuf_text(&folder) : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    strbuf_close(&folder);
    return fd;
}

status key_file_write(const key_file *f, const char *path) {
    strbuf text = {.max = KEY_FILE_BYTES_MAX}, made = {0};
    char *real = realpath(path, NULL); /* a link stays one */
    const char *target = real ? real : path;
    status st = pack_file(f, &text);
    if (st == ST_OK && text.full)
        st = fail(ST_INVALID, "%s would have more than %d bytes", path, KEY_FILE_BYTES_MAX);
    strbuf_add_format(&made, "%s.new-%d", target, (int)getpid());
    if (st == ST_OK) st = write_new(&text, target, strbuf_text(&made));
    if (st == ST_OK) {
        int folder = open_folder(target);
        if (folder >= 0) {
            (void)fsync(folder); /* a file system that cannot is no reason to refuse */
            close(folder);
        }
    }
    strbuf_close(&made);
    strbuf_close(&text);
    free(real);
    return st;
}

status key_file_lock(const char *path, int *lock) {
    *lock = open_folder(path);
    if (*lock < 0) return fail_errno(ST_IO, "the folder of %s", path);
    for (int i = 0; i < LOCK_TRIES; i++) {
        if (flock(*lock, LOCK_EX | LOCK_NB) == 0) return ST_OK;
        if (errno != EWOULDBLOCK && errno != EINTR) return ST_OK; /* a file system without locks */
        usleep(LOCK_PAUSE_US);
    }
    close(*lock);
    return fail(ST_IN_USE, "another process holds the lock of the folder of %s", path);
}
