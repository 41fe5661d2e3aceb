#include "base/utf8.h"

#include <string.h>

#include "base/invariant.h"

bool utf8_continues(const uint8_t *seen, unsigned count, uint8_t next) {
    if (count == 1) {
        /* The second byte rules out long forms, surrogates and what lies above U+10FFFF (Unicode, table 3-7).
         */
        switch (seen[0]) {
        case 0xE0: return next >= 0xA0 && next <= 0xBF;
        case 0xED: return next >= 0x80 && next <= 0x9F;
        case 0xF0: return next >= 0x90 && next <= 0xBF;
        case 0xF4: return next >= 0x80 && next <= 0x8F;
        default: break;
        }
    }
    return next >= 0x80 && next <= 0xBF;
}

size_t utf8_check(const void *text, size_t n) {
    const uint8_t *p = text;
    size_t i = 0;
    while (i < n) {
        if (p[i] < 0x80) {
            uint64_t eight;
            while (n - i >= 8 && (memcpy(&eight, p + i, 8), (eight & 0x8080808080808080u) == 0)) i += 8;
            while (i < n && p[i] < 0x80) i++;
            continue;
        }
        unsigned length = utf8_length(p[i]);
        if (length == 0 || length > n - i) return i;
        for (unsigned k = 1; k < length; k++)
            if (!utf8_continues(p + i, k, p[i + k])) return i;
        i += length;
    }
    return n;
}

unsigned utf8_encode(uint32_t c, char out[4]) {
    INVARIANT(c <= 0x10FFFF && !(c >= 0xD800 && c <= 0xDFFF));
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}
