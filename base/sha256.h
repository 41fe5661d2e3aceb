/* SHA-256 (FIPS 180-4). Our own because the shard's core links nothing but libc and jansson.
 * Threads: a context belongs to one thread. */
#ifndef BASE_SHA256_H
#define BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct sha256 {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t block[64];
} sha256;

void sha256_begin(sha256 *s);
void sha256_add(sha256 *s, const void *data, size_t n);
void sha256_end(sha256 *s, uint8_t digest[32]);
/* 64 lower-case digits and a NUL. */
void sha256_hex(const uint8_t digest[32], char text[65]);

#endif
