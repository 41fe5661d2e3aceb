/* Sizes as people write them: "40GiB", a whole number with KiB, MiB, GiB, TiB or nothing behind it.
 * Threads: any. */
#ifndef BASE_BYTE_SIZE_H
#define BASE_BYTE_SIZE_H

#include <stdint.h>

typedef enum byte_size { BYTE_SIZE_READ, BYTE_SIZE_NOT_ONE, BYTE_SIZE_TOO_LARGE } byte_size;

/* *bytes is written with BYTE_SIZE_READ only. What else may be allowed, and the sentence, are the caller's. */
byte_size byte_size_read(const char *text, uint64_t *bytes);

#endif
