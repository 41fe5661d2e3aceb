/* Well-formed UTF-8 (Unicode 15, table 3-7): no overlong forms, no surrogates, nothing above U+10FFFF.
 * Threads: any. */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stddef.h>

/* How many bytes at the front are whole, well-formed characters: n when all are, else the offset of the first
 * byte that does not begin one. */
size_t utf8_valid_prefix(const void *bytes, size_t n);

#endif
