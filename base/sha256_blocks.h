/* Between sha256.c and its faster block functions. Nothing else but tests includes this.
 *
 * Threads: any. */
#ifndef BASE_SHA256_BLOCKS_H
#define BASE_SHA256_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

extern const uint32_t sha256_constants[64];

/* Takes n blocks of 64 bytes into the state; plain C, which defines the answer. */
void sha256_blocks_ref(uint32_t state[8], const uint8_t *blocks, size_t n);
#ifdef __x86_64__
/* The same with the processor's SHA instructions: 1 to 2 GB/s instead of 0.3. */
bool sha256_has_shani(void);
void sha256_blocks_shani(uint32_t state[8], const uint8_t *blocks, size_t n);
#endif

#endif
