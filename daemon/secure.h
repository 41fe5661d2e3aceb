/* What keeps strangers out of this gemmad: keys and certificates, read at the start and again on SIGHUP. Files are read
 * on a worker thread; what cannot be read leaves what is in force as it is, with a line in the log.
 *
 * Memory:  secure_open allocates; secure_close when the loop has ended.
 * Threads: loop thread. */
#ifndef DAEMON_SECURE_H
#define DAEMON_SECURE_H

#include <uv.h>

#include "daemon/auth/auth.h"
#include "daemon/auth/tls_files.h"
#include "daemon/settings.h"

typedef struct secure secure;

/* Reads the files of --keys, --tls-cert, --tls-key and --tls-client-ca; ST_INVALID says what is wrong with one. replaced is
 * called when there are other certificates. */
STATUS_CHECKED status secure_open(secure **out, uv_loop_t *loop, const gemmad_options *o,
                                  void (*replaced)(void *context, const tls_files *tls), void *context);
auth *secure_auth(const secure *s);           /* NULL: no keys are asked for */
const tls_files *secure_tls(const secure *s); /* NULL: no TLS */
/* Whether there is anything to read. */
bool secure_can_reload(const secure *s);
void secure_reload(secure *s);
void secure_close(secure *s); /* NULL is fine */

#endif
