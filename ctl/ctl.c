#include "ctl/ctl.h"

#include <stdarg.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/strbuf.h"
#include "proto/limits.h"

status ctl_usage(ctl *c, const char *format, ...) {
    char text[STATUS_TEXT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    c->usage = true;
    return fail(ST_INVALID, "%s", text);
}

status ctl_connect(const ctl *c, client **out) {
    status st = client_open(out, c->server, CTL_CONNECT_MS);
    if (st != ST_UNAVAILABLE) return st;
    char why[STATUS_TEXT_MAX];
    snprintf(why, sizeof why, "%s", status_text());
    if (c->default_server) return fail(st, "%s; start one with: gemmad --model PATH", why);
    return fail(st, "%s; start one with: gemmad --model PATH --listen %s", why, c->server);
}

status ctl_read_file(const char *path, char **out, size_t *n) {
    if (strcmp(path, "-")) return file_read_all(path, LIMIT_PROMPT_BYTES, out, n);
    strbuf all = {.max = LIMIT_PROMPT_BYTES};
    char block[65536];
    size_t got;
    while ((got = fread(block, 1, sizeof block, stdin)) > 0 && !all.full) strbuf_add(&all, block, got);
    status st = ST_OK;
    if (ferror(stdin)) st = fail_errno(ST_IO, "standard input");
    else if (all.full) st = fail(ST_FORMAT, "standard input has more than %d bytes", LIMIT_PROMPT_BYTES);
    if (st != ST_OK) {
        strbuf_close(&all);
        return st;
    }
    *n = all.size;
    *out = all.data ? all.data : memory_copy_string("");
    return ST_OK;
}
