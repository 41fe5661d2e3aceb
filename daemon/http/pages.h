/* What people and their tools look at: the status page at "/", the chat page at "/chat", /status.json and /metrics. The
 * pages are files of daemon/http/pages, whole in one answer each; they fetch nothing but this server's own routes.
 *
 * Memory:  pages_open allocates and puts its routes into the server; pages_close after the server has stopped.
 * Threads: loop thread. */
#ifndef DAEMON_HTTP_PAGES_H
#define DAEMON_HTTP_PAGES_H

#include "daemon/http/http.h"
#include "daemon/http/openai.h"
#include "daemon/queue/core.h"

typedef struct pages pages;

void pages_open(pages **out, http_server *server, const openai *calls, core *c);
void pages_close(pages *p); /* NULL is fine */

/* The Content-Security-Policy of a page: the hashes of its one script and its one style sheet, and nothing else. */
void pages_policy(const unsigned char *html, size_t bytes, strbuf *out);

#endif
