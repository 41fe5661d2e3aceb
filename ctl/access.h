/* How gemmactl shows who it is: its key, and TLS to a daemon on the network. Keys come from files or the environment,
 * never from the command line, which every user of a machine can read.
 *
 * Memory:  access_close wipes and releases; a zeroed one is empty.
 * Errors:  ST_INVALID, ST_IO, ST_NOT_FOUND, ST_DENIED (a file that others may read) with the file. */
#ifndef CTL_ACCESS_H
#define CTL_ACCESS_H

#include <stdbool.h>

#include "base/status.h"

typedef struct access_options {
    const char *key_file, *tls_ca, *tls_cert, *tls_key; /* NULL: not given */
    bool tls, insecure;
} access_options;

typedef struct client_access {
    char *authorization;   /* "Bearer KEY"; NULL: none */
    bool tls;              /* for HOST:PORT; never on a Unix socket */
    char *ca, *cert, *key; /* PEM; ca NULL: the system's */
    bool insecure;         /* the key may travel without TLS */
} client_access;

/* GEMMACTL_KEY holds a key where no file is given. */
STATUS_CHECKED status access_read(client_access *out, const access_options *o);
/* Whether the key may be sent there: ST_INVALID, where others could read it on the way. */
STATUS_CHECKED status access_check(const client_access *a, const char *address);
void access_close(client_access *a);

#endif
