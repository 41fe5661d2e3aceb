/* Whole files, exact reads and writes.
 * Errors: ST_NOT_FOUND or ST_IO with the path; ST_FORMAT when a file is longer than the caller's bound. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

/* *out (NUL-terminated, *size without the NUL) is the caller's to free(). */
STATUS_CHECKED status file_read_all(const char *path, size_t max_bytes, char **out, size_t *size);
/* Exactly n bytes at offset, or ST_FORMAT "ends at …" for a short file. name is for the message. */
STATUS_CHECKED status file_read_at(int fd, const char *name, uint64_t offset, void *out, size_t n);
/* Exactly n bytes at offset. */
STATUS_CHECKED status file_write_at(int fd, const char *name, uint64_t offset, const void *bytes, size_t n);
/* A new file, or one written over, and on the disk. */
STATUS_CHECKED status file_write_all(const char *path, const void *bytes, size_t n);
/* A path joined as "dir/name"; the caller's to free(). */
char *file_join(const char *dir, const char *name);

#endif
