/* UTF-8 as RFC 3629 has it: shortest forms only, no surrogates, nothing above U+10FFFF.
 * Threads: any. */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The offset of the first byte that is not the beginning of a whole, valid character; n: all are valid. */
size_t utf8_check(const void *text, size_t n);

/* Bytes of the character that starts with this byte; 0: no character does. */
static inline unsigned utf8_length(uint8_t lead) {
    if (lead < 0x80) return 1;
    if (lead < 0xC2) return 0;
    if (lead < 0xE0) return 2;
    if (lead < 0xF0) return 3;
    return lead < 0xF5 ? 4 : 0;
}

/* Whether `next` may follow seen[count], the beginning of one character (count ≥ 1). */
bool utf8_continues(const uint8_t *seen, unsigned count, uint8_t next);

/* One character of text that is known to be valid; returns its bytes. */
static inline unsigned utf8_decode(const char *text, uint32_t *code_point) {
    const uint8_t *p = (const uint8_t *)text;
    if (p[0] < 0x80) {
        *code_point = p[0];
        return 1;
    }
    if (p[0] < 0xE0) {
        *code_point = (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu);
        return 2;
    }
    if (p[0] < 0xF0) {
        *code_point = (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
        return 3;
    }
    *code_point = (p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
    return 4;
}

/* Writes at most 4 bytes, no NUL; returns how many. code_point is a scalar value. */
unsigned utf8_encode(uint32_t code_point, char out[4]);

#endif
