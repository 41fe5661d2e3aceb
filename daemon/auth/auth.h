/* Who may call: the keys in force, what each may use, and what it has used. One for all transports, so that a limit
 * holds over all of them.
 *
 * A call carries an auth_key; NULL stands for the daemon's own user, or for everybody where no keys are asked for, and
 * may do everything without a limit. A key that a new file lacks lets no more calls in, and those that run go on.
 *
 * Memory:  auth_open allocates; auth_close after the last auth_key_release.
 * Threads: loop thread.
 * Errors:  ST_AUTH for a key that is none of these, ST_DENIED for what a key may not do, ST_BUSY over a limit, with a time to
 *          come again; the sentences go to clients and say nothing of other keys. */
#ifndef DAEMON_AUTH_AUTH_H
#define DAEMON_AUTH_AUTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/key_file.h"
#include "base/status.h"

typedef struct auth auth;
typedef struct auth_key auth_key;

typedef struct auth_clock {
    clock_source monotonic;                 /* for limits */
    int64_t (*unix_seconds)(void *context); /* for expiry */
    void *context;
} auth_clock;

/* No keys yet: nobody is let in. clock NULL: the system's. */
void auth_open(auth **out, const auth_clock *clock);
/* These keys from now on; a key that stays keeps what it has used, by its name. */
void auth_replace(auth *a, const key_file *keys);
void auth_close(auth *a); /* NULL is fine */
uint32_t auth_key_count(const auth *a);

/* The value of an `authorization` header or metadata: "Bearer KEY". Takes as long for a key that is nearly right as for
 * any other. *out is the caller's until auth_key_release. */
STATUS_CHECKED status auth_check(auth *a, const char *header, size_t n, auth_key **out);

/* Whoever refuses a caller for its key, or for having none, says so here. */
void auth_refused(auth *a);
uint64_t auth_refusals(const auth *a); /* how often; NULL: 0 */

/* ---- of one key; NULL may do everything ---- */

auth_key *auth_key_hold(auth_key *k);
void auth_key_release(auth_key *k);
const char *auth_key_name(const auth_key *k); /* NULL for NULL */
bool auth_key_is_admin(const auth_key *k);
bool auth_key_may_use(const auth_key *k, const char *model);

/* One request more: of the minute's requests, and there must be tokens left. */
STATUS_CHECKED status auth_key_request(auth_key *k, uint32_t *retry_after_ms);
/* One more at the same time, until auth_key_ends. */
STATUS_CHECKED status auth_key_begins(auth_key *k, uint32_t *retry_after_ms);
void auth_key_ends(auth_key *k);
/* Tokens of a prompt, or of an answer as they come. */
void auth_key_tokens(auth_key *k, uint32_t count);

#endif
