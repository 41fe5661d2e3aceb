/* An index of a serialised google.protobuf.FileDescriptorSet: which file holds a symbol, and which services there are.
 *
 * Memory:  descriptors_open allocates and points into the bytes, which must outlive it.
 * Threads: read-only after open.
 * Errors:  ST_FORMAT for bytes that are no such set. */
#ifndef DAEMON_API_DESCRIPTORS_H
#define DAEMON_API_DESCRIPTORS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct descriptors descriptors;
typedef struct descriptor_file {
    const uint8_t *bytes; /* [size], a FileDescriptorProto */
    size_t size;
    const char *name;
} descriptor_file;

STATUS_CHECKED status descriptors_open(descriptors **out, const uint8_t *bytes, size_t n);
void descriptors_close(descriptors *d); /* NULL is fine */

/* NULL: there is none. A symbol is the full name of a service, method, message, field, oneof, enum, or enum value. */
const descriptor_file *descriptors_find_file(const descriptors *d, const char *name);
const descriptor_file *descriptors_find_symbol(const descriptors *d, const char *symbol);
size_t descriptors_service_count(const descriptors *d);
const char *descriptors_service(const descriptors *d, size_t i); /* full names, in the files' order */

#endif
