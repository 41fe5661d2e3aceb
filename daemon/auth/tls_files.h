/* The certificates of a server, read from PEM files and checked: that the key is the certificate's, that nobody else may
 * read it, and for how long it is good.
 *
 * Memory:  tls_files_close releases, and wipes the key. A zeroed one is empty: no TLS.
 * Threads: any, each with its own struct; reading blocks.
 * Errors:  ST_NOT_FOUND, ST_IO, ST_DENIED (a private key that others may read), ST_FORMAT with the file; *out is then
 *          empty. */
#ifndef DAEMON_AUTH_TLS_FILES_H
#define DAEMON_AUTH_TLS_FILES_H

#include <stdint.h>

#include "base/status.h"

typedef struct tls_files {
    char *cert, *key; /* PEM */
    char *client_ca;  /* PEM; NULL: clients show no certificate */
    int64_t expires;  /* seconds since 1970 */
} tls_files;

STATUS_CHECKED status tls_files_read(tls_files *out, const char *cert, const char *key,
                                     const char *client_ca);
void tls_files_copy(tls_files *out, const tls_files *from);
void tls_files_close(tls_files *f);

#endif
