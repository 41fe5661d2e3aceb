/* A quick hash of short texts for tables in memory. Not stable over versions, not for untrusted keys in
 * tables that a flood of equal hashes would slow down. */
#ifndef DAEMON_TEXT_TEXT_HASH_H
#define DAEMON_TEXT_TEXT_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t hash_mix(uint64_t x) {
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93u;
    return x ^ x >> 32;
}

static inline uint64_t text_hash(const char *text, size_t n) {
    uint64_t h = n * 0x9E3779B97F4A7C15u, word;
    for (; n >= 8; n -= 8, text += 8) {
        memcpy(&word, text, 8);
        h = hash_mix(h ^ word);
    }
    word = 0;
    /* Two overlapping halves or three single bytes read a tail without a loop over its bytes. */
    if (n >= 4) {
        uint32_t low, high;
        memcpy(&low, text, 4);
        memcpy(&high, text + n - 4, 4);
        word = (uint64_t)high << 32 | low;
    } else if (n > 0) {
        word = (uint64_t)(uint8_t)text[0] << 16 | (uint64_t)(uint8_t)text[n / 2] << 8 | (uint8_t)text[n - 1];
    }
    return hash_mix(h ^ word);
}

#endif
