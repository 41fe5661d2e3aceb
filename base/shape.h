/* The published sizes of Gemma 4, for plans and measurements without a checkpoint at hand.
 * Memory:  the caller's buffer.
 * Errors:  ST_NOT_FOUND for a name that is none, ST_INVALID for more layers than the size has. */
#ifndef BASE_SHAPE_H
#define BASE_SHAPE_H

#include <stdint.h>

#include "base/status.h"
#include "base/strbuf.h"

/* Adds the config.json of a text model of this size, "31b", "26b-a4b", "e4b" or "e2b", stored in bf16. layers cuts it to its
 * first so many, with KV shared by the same part of them; 0: as published. */
STATUS_CHECKED status shape_write_config(const char *name, uint32_t layers, strbuf *out);

#endif
