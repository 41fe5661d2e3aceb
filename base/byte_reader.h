/* Little-endian numbers out of bytes from outside. A read past the end gives 0 and marks the reader, which is looked at once
 * behind a group of reads; nothing is ever read out of bounds.
 * Threads: a reader belongs to one. */
#ifndef BASE_BYTE_READER_H
#define BASE_BYTE_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/strbuf.h"

typedef struct byte_reader {
    const uint8_t *at;
    size_t left;
    bool over;
} byte_reader;

/* NULL: fewer are left. */
static inline const uint8_t *byte_reader_take(byte_reader *r, size_t n) {
    if (n > r->left) {
        r->over = true;
        r->left = 0;
        return NULL;
    }
    const uint8_t *p = r->at;
    r->at += n;
    r->left -= n;
    return p;
}

static inline uint32_t byte_reader_u32(byte_reader *r) {
    const uint8_t *p = byte_reader_take(r, 4);
    return p ? p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24 : 0;
}

/* Seven bits a byte, low ones first, at most five bytes. */
static inline uint32_t byte_reader_varint(byte_reader *r) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 35; shift += 7) {
        const uint8_t *p = byte_reader_take(r, 1);
        if (!p) return 0;
        value |= (uint64_t)(*p & 0x7F) << shift;
        if (*p < 0x80) {
            if (value > UINT32_MAX) break;
            return (uint32_t)value;
        }
    }
    r->over = true;
    r->left = 0;
    return 0;
}

static inline void byte_add_u32(strbuf *out, uint32_t x) {
    const uint8_t b[4] = {(uint8_t)x, (uint8_t)(x >> 8), (uint8_t)(x >> 16), (uint8_t)(x >> 24)};
    strbuf_add(out, b, sizeof b);
}

static inline void byte_add_varint(strbuf *out, uint32_t x) {
    uint8_t b[5];
    unsigned n = 0;
    for (; x >= 0x80; x >>= 7) b[n++] = (uint8_t)(x | 0x80);
    b[n++] = (uint8_t)x;
    strbuf_add(out, b, n);
}

#endif
