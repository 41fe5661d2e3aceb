#include "daemon/http/pages.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "base/sha256.h"
#include "daemon/http/message_json.h"
#include "daemon/http/openai_internal.h"
#include "daemon/http/pages_embedded.h"

struct pages {
    const openai *calls;
    core *core;
    strbuf status_policy, chat_policy;
};

/* ---- pages ---- */

static void add_base64(strbuf *out, const uint8_t *bytes, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        size_t left = n - i;
        uint32_t v = (uint32_t)bytes[i] << 16 | (left > 1 ? (uint32_t)bytes[i + 1] << 8 : 0) |
                     (left > 2 ? bytes[i + 2] : 0);
        char quad[4] = {digits[v >> 18], digits[v >> 12 & 63], left > 1 ? digits[v >> 6 & 63] : '=',
                        left > 2 ? digits[v & 63] : '='};
        strbuf_add(out, quad, sizeof quad);
    }
}

static const char *find(const char *in, size_t n, const char *what) {
    return memmem(in, n, what, strlen(what));
}

/* 'sha256-…' of what stands between the two tags, of which a page has one pair. */
static void add_hash(strbuf *out, const char *html, size_t n, const char *open, const char *close) {
    const char *from = find(html, n, open), *to = from ? find(from, n - (size_t)(from - html), close) : NULL;
    INVARIANT(from && to);
    uint8_t digest[32];
    sha256 hash;
    from += strlen(open);
    sha256_begin(&hash);
    sha256_add(&hash, from, (size_t)(to - from));
    sha256_end(&hash, digest);
    strbuf_add_string(out, "'sha256-");
    add_base64(out, digest, sizeof digest);
    strbuf_add_string(out, "'");
}

void pages_policy(const unsigned char *html, size_t bytes, strbuf *out) {
    strbuf_add_string(out, "default-src 'none'; script-src ");
    add_hash(out, (const char *)html, bytes, "<script>", "</script>");
    strbuf_add_string(out, "; style-src ");
    add_hash(out, (const char *)html, bytes, "<style>", "</style>");
    strbuf_add_string(
        out,
        "; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
}

static void answer_page(http_exchange *x, const unsigned char *html, size_t bytes, const strbuf *policy) {
    http_add_header(x, "Content-Security-Policy", strbuf_text(policy));
    http_add_header(x, "Referrer-Policy", "no-referrer");
    http_add_header(x, "Cache-Control", "no-cache");
    http_answer(x, 200, "text/html; charset=utf-8", html, bytes);
}

static void get_status_page(void *context, http_exchange *x) {
    answer_page(x, page_status, page_status_bytes, &((pages *)context)->status_policy);
}

static void get_chat_page(void *context, http_exchange *x) {
    answer_page(x, page_chat, page_chat_bytes, &((pages *)context)->chat_policy);
}

/* ---- figures ---- */

typedef struct status_call {
    remote remote; /* first */
    strbuf json;
} status_call;

static void on_status(remote *r, const ProtobufCMessage *message) {
    message_json(&((status_call *)(void *)r)->json, NULL, message);
}

static void on_status_finished(remote *r, status st, const char *text, uint32_t retry_after_ms) {
    status_call *s = (status_call *)(void *)r;
    (void)retry_after_ms;
    if (st == ST_OK) {
        http_add_header(r->exchange, "Cache-Control", "no-store");
        http_answer_json(r->exchange, 200, &s->json);
    } else {
        http_refuse_status(r->exchange, st, text);
    }
    strbuf_close(&s->json);
    free(s);
}

static void get_status(void *context, http_exchange *x) {
    static const Gemmad__V1__GetStatusRequest request = GEMMAD__V1__GET_STATUS_REQUEST__INIT;
    const pages *p = context;
    status_call *s = memory_alloc(sizeof *s);
    s->remote.exchange = x;
    s->remote.event = on_status;
    s->remote.finished = on_status_finished;
    remote_start(&s->remote, p->calls, "/gemmad.v1.Control/GetStatus", &request.base);
}

static void get_metrics(void *context, http_exchange *x) {
    strbuf text = {0};
    core_write_metrics(((pages *)context)->core, &text);
    http_add_header(x, "Cache-Control", "no-store");
    http_answer(x, 200, "text/plain; version=0.0.4; charset=utf-8", strbuf_text(&text), text.size);
    strbuf_close(&text);
}

void pages_open(pages **out, http_server *server, const openai *calls, core *c) {
    static const http_route routes[] = {
        {"GET", "/", get_status_page},
        {"GET", "/chat", get_chat_page},
        {"GET", "/status.json", get_status},
        {"GET", "/metrics", get_metrics},
    };
    pages *p = memory_alloc(sizeof *p);
    p->calls = calls;
    p->core = c;
    pages_policy(page_status, page_status_bytes, &p->status_policy);
    pages_policy(page_chat, page_chat_bytes, &p->chat_policy);
    http_add_routes(server, routes, sizeof routes / sizeof *routes, p);
    http_set_metrics(server, core_metrics(c));
    *out = p;
}

void pages_close(pages *p) {
    if (!p) return;
    strbuf_close(&p->status_policy);
    strbuf_close(&p->chat_policy);
    free(p);
}
