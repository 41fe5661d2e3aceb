#include "daemon/engine/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/strbuf.h"

enum { RECORD_BYTES_MAX = 64 << 10 };

static json_t *pack_process(record_process p) {
    return json_pack("{s:i, s:I}", "pid", (int)p.pid, "start_time", (json_int_t)p.start_time);
}

static status write_whole(const char *path, const char *text) {
    strbuf temporary = {0};
    strbuf_add_format(&temporary, "%s.new", path);
    const char *name = strbuf_text(&temporary);
    status st = ST_OK;
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    size_t n = strlen(text);
    if (fd < 0) st = fail_errno(ST_IO, "%s", name);
    while (st == ST_OK && n > 0) {
        ssize_t wrote = write(fd, text, n);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) {
            st = fail_errno(ST_IO, "%s", name);
        } else {
            text += wrote;
            n -= (size_t)wrote;
        }
    }
    /* Not synced to disk: of an engine that ran when the machine went down there is nothing to find. */
    if (fd >= 0 && close(fd) != 0 && st == ST_OK) st = fail_errno(ST_IO, "%s", name);
    if (st == ST_OK && rename(name, path) != 0) st = fail_errno(ST_IO, "%s", path);
    if (st != ST_OK) unlink(name);
    strbuf_close(&temporary);
    return st;
}

status record_write(const char *path, const engine_record *r) {
    json_t *j =
        json_pack("{s:i, s:s, s:o, s:o, s:o, s:s, s:s, s:s, s:s, s:b, s:i}", "version", 1, "id", r->id,
                  "gemmad", pack_process(r->gemmad), "keeper", pack_process(r->keeper), "launcher",
                  pack_process(r->launcher), "socket", r->socket, "secret_file", r->secret_file, "log",
                  r->log, "scratch", r->scratch, "ended", (int)r->ended, "exit_code", r->exit_code);
    char *text = j ? json_dumps(j, JSON_INDENT(2)) : NULL;
    json_decref(j);
    if (!text) return fail(ST_INVALID, "%s: a path that is not UTF-8", path);
    status st = write_whole(path, text);
    free(text);
    return st;
}

static status read_process(json_t *root, const char *where, const char *key, record_process *out) {
    json_t *p = json_object_get(root, key), *start = json_object_get(p, "start_time");
    uint32_t pid = 0;
    if (!json_is_object(p) || !json_is_integer(start) || json_integer_value(start) < 0)
        return fail(ST_FORMAT, "%s: %s is no process", where, key);
    TRY(json_read_u32(p, where, "pid", 0, INT32_MAX, &pid));
    *out = (record_process){.pid = (pid_t)pid, .start_time = (uint64_t)json_integer_value(start)};
    return ST_OK;
}

static status read_text(json_t *root, const char *where, const char *key, char *out, size_t size) {
    const char *text = NULL;
    TRY(json_read_string_optional(root, where, key, &text));
    if (!text || strlen(text) >= size) return fail(ST_FORMAT, "%s: %s is missing or too long", where, key);
    memcpy(out, text, strlen(text) + 1);
    return ST_OK;
}

status record_read(const char *path, engine_record *out) {
    json_t *j;
    *out = (engine_record){0};
    TRY(json_read_file(path, RECORD_BYTES_MAX, &j));
    status st;
    uint32_t version, code;
    TRY_OR_FAIL(json_read_u32(j, path, "version", 1, 1, &version));
    TRY_OR_FAIL(read_text(j, path, "id", out->id, sizeof out->id));
    TRY_OR_FAIL(read_process(j, path, "gemmad", &out->gemmad));
    TRY_OR_FAIL(read_process(j, path, "keeper", &out->keeper));
    TRY_OR_FAIL(read_process(j, path, "launcher", &out->launcher));
    TRY_OR_FAIL(read_text(j, path, "socket", out->socket, sizeof out->socket));
    TRY_OR_FAIL(read_text(j, path, "secret_file", out->secret_file, sizeof out->secret_file));
    TRY_OR_FAIL(read_text(j, path, "log", out->log, sizeof out->log));
    TRY_OR_FAIL(read_text(j, path, "scratch", out->scratch, sizeof out->scratch));
    TRY_OR_FAIL(json_read_bool_optional(j, path, "ended", &out->ended));
    TRY_OR_FAIL(json_read_u32(j, path, "exit_code", 0, 255, &code));
    out->exit_code = (int)code;
fail:
    json_decref(j);
    return st;
}
