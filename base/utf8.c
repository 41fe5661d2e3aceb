#include "base/utf8.h"

#include <stdint.h>
#include <string.h>

/* Length of the character that begins at s, 0 when none does. The second byte's range depends on the first:
 * that is what excludes overlong forms, surrogates and what lies above U+10FFFF. */
static size_t character_length(const uint8_t *s, size_t n) {
    uint8_t low = 0x80, high = 0xBF;
    size_t length;
    if (s[0] < 0x80) return 1;
    if (s[0] < 0xC2 || s[0] > 0xF4) return 0;
    if (s[0] < 0xE0) {
        length = 2;
    } else if (s[0] < 0xF0) {
        length = 3;
        if (s[0] == 0xE0) low = 0xA0;
        if (s[0] == 0xED) high = 0x9F;
    } else {
        length = 4;
        if (s[0] == 0xF0) low = 0x90;
        if (s[0] == 0xF4) high = 0x8F;
    }
    if (n < length || s[1] < low || s[1] > high) return 0;
    for (size_t i = 2; i < length; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    return length;
}

size_t utf8_valid_prefix(const void *bytes, size_t n) {
    const uint8_t *s = bytes;
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        if (n - i >= sizeof eight) {
            memcpy(&eight, s + i, sizeof eight);
            if ((eight & 0x8080808080808080u) == 0) {
                i += sizeof eight;
                continue;
            }
        }
        size_t length = character_length(s + i, n - i);
        if (length == 0) return i;
        i += length;
    }
    return n;
}
