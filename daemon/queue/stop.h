/* Stop strings over streamed text, byte by byte, so that the result does not depend on how the text was cut
 * into tokens: the answer ends at the first byte with which any stop string is complete, and is cut where the
 * longest of those that end there begins.
 *
 * Memory:  stop_add allocates, stop_close releases. A zeroed matcher is empty and valid.
 * Cost:    a byte costs one step a stop string (Knuth, Morris, Pratt), however the strings repeat themselves.
 */
#ifndef DAEMON_QUEUE_STOP_H
#define DAEMON_QUEUE_STOP_H

#include <stddef.h>
#include <stdint.h>

typedef struct stop_string stop_string;
typedef struct stop_matcher {
    stop_string *string; /* [count] */
    uint32_t count;
} stop_matcher;

/* n is 1 … LIMIT_STOP_BYTES, at most LIMIT_STOP_STRINGS strings. */
void stop_add(stop_matcher *m, const void *bytes, size_t n);
/* A matcher of the same strings that has seen nothing yet. */
void stop_copy(stop_matcher *out, const stop_matcher *from);
void stop_close(stop_matcher *m);
/* Forgets what was fed. */
void stop_restart(stop_matcher *m);
/* The length of the longest stop string that ends with this byte; 0: none does. */
size_t stop_feed(stop_matcher *m, uint8_t byte);
/* How many of the last bytes may be the beginning of a stop string. Whole characters, when whole characters
 * were fed: a stop string begins with the first byte of one. */
size_t stop_held(const stop_matcher *m);

#endif
