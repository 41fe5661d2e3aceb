/* The published sizes of Gemma 4, for plans without a checkpoint at hand.
 * Memory:  the caller's buffer.
 * Errors:  ST_NOT_FOUND for a name that is none. */
#ifndef DAEMON_SHAPE_H
#define DAEMON_SHAPE_H

#include "base/status.h"
#include "base/strbuf.h"

/* Adds the config.json of a text model of this size, "31b", "26b-a4b", "e4b" or "e2b", stored in bf16. */
STATUS_CHECKED status shape_write_config(const char *name, strbuf *out);

#endif
