/* Which handler serves a path. */
#include <string.h>

#include "base/invariant.h"
#include "daemon/http/http_internal.h"

void http_add_routes(http_server *s, const http_route *routes, size_t count, void *context) {
    INVARIANT(s->tables < HTTP_ROUTE_TABLES);
    s->table[s->tables++] = (http_table){routes, count, context};
}

static bool path_fits(const char *pattern, const char *path) {
    const char *star = strchr(pattern, '*');
    if (!star) return !strcmp(pattern, path);
    size_t n = (size_t)(star - pattern);
    return !strncmp(pattern, path, n) && path[n];
}

static bool method_fits(const char *method, const char *asked) {
    return !*method || !strcmp(method, asked) || (!strcmp(method, "GET") && !strcmp(asked, "HEAD"));
}

static void refuse(http_exchange *x, const strbuf *allowed) {
    if (allowed->size == 0) {
        (void)fail(ST_NOT_FOUND, "there is nothing at %.300s", x->path);
        http_refuse(x, 404, NULL, "unknown_url", status_text());
        return;
    }
    (void)fail(ST_INVALID, "%.300s takes %s, not %.32s", x->path, strbuf_text(allowed), x->method);
    http_add_header(x, "Allow", strbuf_text(allowed));
    http_refuse(x, 405, NULL, "method_not_allowed", status_text());
}

void http_route_find(http_exchange *x) {
    strbuf allowed = {0};
    for (size_t i = 0; i < x->server->tables; i++) {
        const http_table *t = &x->server->table[i];
        for (size_t k = 0; k < t->count; k++) {
            const http_route *r = &t->route[k];
            if (!path_fits(r->path, x->path)) continue;
            if (method_fits(r->method, x->method)) {
                x->route = r;
                x->route_context = t->context;
                strbuf_close(&allowed);
                return;
            }
            strbuf_add_format(&allowed, "%s%s%s", allowed.size ? ", " : "", r->method,
                              strcmp(r->method, "GET") ? "" : ", HEAD");
        }
    }
    refuse(x, &allowed);
    strbuf_close(&allowed);
}
