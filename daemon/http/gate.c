#include "daemon/http/gate.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/log.h"
#include "base/memory.h"
#include "daemon/http/http_internal.h"

struct gate {
    auth *keys;
};

/* Without a key: pages that hold nothing, and ask for a key themselves, and what a load balancer looks at. */
static const char *const open_paths[] = {"/", "/chat", "/health"};

/* ---- what browsers send ---- */

/* host[0 … n) without a port and without brackets. */
static bool split_host(const char *host, char name[256]) {
    const char *end = host + strlen(host);
    if (host[0] == '[') {
        end = strchr(++host, ']');
        if (!end || (end[1] && end[1] != ':')) return false;
    } else if (strchr(host, ':')) {
        end = strchr(host, ':');
    }
    size_t n = (size_t)(end - host);
    if (n == 0 || n >= 256) return false;
    memcpy(name, host, n);
    name[n] = 0;
    return true;
}

bool gate_is_loopback_host(const char *host) {
    char name[256];
    struct in_addr four;
    struct in6_addr six;
    if (!split_host(host, name)) return false;
    if (!strcasecmp(name, "localhost") || !strcasecmp(name, "localhost.")) return true;
    if (inet_pton(AF_INET, name, &four) == 1) return ntohl(four.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, name, &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
}

bool gate_is_same_origin(const char *origin, const char *host) {
    const char *rest = !strncasecmp(origin, "http://", 7)    ? origin + 7
                       : !strncasecmp(origin, "https://", 8) ? origin + 8
                                                             : NULL;
    return rest && !strcasecmp(rest, host);
}

static bool is_on_loopback(const http_exchange *x) {
    struct sockaddr_storage a = {0};
    socklen_t n = sizeof a;
    if (getsockname(x->connection->fd, (struct sockaddr *)&a, &n) != 0) return true;
    const struct in6_addr *six = &((const struct sockaddr_in6 *)(const void *)&a)->sin6_addr;
    if (a.ss_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)&a)->sin_addr.s_addr) >> 24 == 127;
    return a.ss_family == AF_INET6 &&
           (IN6_IS_ADDR_LOOPBACK(six) || (IN6_IS_ADDR_V4MAPPED(six) && six->s6_addr[12] == 127));
}

static status check_browser(const gate *g, const http_exchange *x) {
    const char *host = http_header(x, "host"), *origin = http_header(x, "origin");
    if (!g->keys && host && is_on_loopback(x) && !gate_is_loopback_host(host))
        return fail(
            ST_DENIED,
            "Host is \"%.100s\": without --keys, this address answers to localhost and loopback addresses",
            host);
    bool reads = !strcmp(http_method(x), "GET") || !strcmp(http_method(x), "HEAD");
    if (!reads && origin && (!host || !gate_is_same_origin(origin, host)))
        return fail(ST_DENIED, "a page of another origin (\"%.100s\") may not do this", origin);
    return ST_OK;
}

/* ---- keys ---- */

typedef struct authorization {
    const char *value;
    size_t bytes, count;
} authorization;

static enum MHD_Result see_header(void *context, enum MHD_ValueKind kind, const char *name, size_t name_bytes,
                                  const char *value, size_t bytes) {
    authorization *a = context;
    (void)kind;
    if (name_bytes != strlen("authorization") || strncasecmp(name, "authorization", name_bytes) != 0)
        return MHD_YES;
    a->value = value;
    a->bytes = bytes;
    a->count++;
    return MHD_YES;
}

static bool is_open(const char *path) {
    for (size_t i = 0; i < sizeof open_paths / sizeof *open_paths; i++)
        if (!strcmp(path, open_paths[i])) return true;
    return false;
}

static status check_key(const gate *g, http_exchange *x, auth_key **who) {
    authorization a = {0};
    if (!g->keys || is_open(http_path(x))) return ST_OK;
    MHD_get_connection_values_n(x->connection->handle, MHD_HEADER_KIND, see_header, &a);
    if (a.count > 1) return fail(ST_AUTH, "the request has several authorizations");
    if (a.count == 1 && a.value) return auth_check(g->keys, a.value, a.bytes, who);
    if (x->connection->owner) return ST_OK;
    return fail(ST_AUTH, "a key is needed, in the header \"Authorization: Bearer KEY\"");
}

/* libmicrohttpd asks for a certificate and leaves it to others to look at it. */
static status check_certificate(const http_exchange *x) {
    if (!x->server->tls) return ST_OK;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(x->connection->handle, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    return http_tls_check_client(x->server->tls, info->tls_session);
}

static status admit(void *context, http_exchange *x) {
    gate *g = context;
    auth_key *who = NULL;
    char caller[KEY_NAME_BYTES_MAX + 8];
    TRY(check_browser(g, x));
    status st = check_certificate(x);
    if (st == ST_OK) st = check_key(g, x, &who);
    if (st != ST_OK) {
        log_stranger(LOG_WARN, "a request of %s is refused: %s", http_peer(x), status_text());
        if (g->keys) auth_refused(g->keys);
        return st;
    }
    http_set_gate_data(x, who);
    if (!who) return ST_OK;
    snprintf(caller, sizeof caller, "key %s", auth_key_name(who));
    http_set_caller(x, caller);
    return ST_OK;
}

static void ended(void *context, http_exchange *x) {
    (void)context;
    auth_key_release(http_gate_data(x));
    http_set_gate_data(x, NULL);
}

auth_key *gate_key(const http_exchange *x) { return http_gate_data(x); }

void gate_open(gate **out, http_server *s, auth *keys) {
    *out = memory_alloc(sizeof **out);
    (*out)->keys = keys;
    http_set_gate(s, &(http_gate){.admit = admit, .ended = ended, .context = *out});
}

void gate_close(gate *g) { free(g); }
