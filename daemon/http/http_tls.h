/* HTTPS: what libmicrohttpd asks for at each handshake, so that certificates can be replaced while connections are open.
 *
 * Memory:  http_tls_open reads the files' texts, which may then go. What was replaced is kept until http_tls_close, since
 *          handshakes may still use it. One at a time in a process: libmicrohttpd's callback has no context.
 * Threads: loop thread.
 * Errors:  ST_FORMAT; the certificates are then as before. */
#ifndef DAEMON_HTTP_HTTP_TLS_H
#define DAEMON_HTTP_HTTP_TLS_H

#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <stdbool.h>

#include "base/status.h"
#include "daemon/auth/tls_files.h"

/* TLS 1.2 or later, at the server's preference. */
#define HTTP_TLS_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:%SERVER_PRECEDENCE"

typedef struct http_tls http_tls;

STATUS_CHECKED status http_tls_open(http_tls **out, const tls_files *files);
STATUS_CHECKED status http_tls_replace(http_tls *t, const tls_files *files);
void http_tls_close(http_tls *t); /* NULL is fine */

/* For MHD_OPTION_HTTPS_CERT_CALLBACK. */
int http_tls_give(gnutls_session_t session, const gnutls_datum_t *authorities, int authority_count,
                  const gnutls_pk_algorithm_t *algorithms, int algorithm_count, gnutls_pcert_st **chain,
                  unsigned *count, gnutls_privkey_t *key);
/* PEM for MHD_OPTION_HTTPS_MEM_TRUST; NULL: clients show no certificate. The http_tls' own. */
const char *http_tls_client_ca(const http_tls *t);
/* ST_DENIED unless the client has shown a certificate that is trusted now, where one is asked for. */
STATUS_CHECKED status http_tls_check_client(const http_tls *t, gnutls_session_t session);

#endif
