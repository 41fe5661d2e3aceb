/* Sets of Unicode scalar values, as sorted ranges that do not touch.
 *
 * Memory:  a set owns its ranges; char_set_close releases. A zeroed set is empty and valid.
 * Threads: a set belongs to one. */
#ifndef DAEMON_TEXT_CHAR_SET_H
#define DAEMON_TEXT_CHAR_SET_H

#include <stdbool.h>
#include <stdint.h>

enum { CHAR_MAX_VALUE = 0x10FFFF, CHAR_SURROGATE_FIRST = 0xD800, CHAR_SURROGATE_LAST = 0xDFFF };

typedef struct char_range {
    uint32_t low, high; /* ends included */
} char_range;

typedef struct char_set {
    char_range *range;
    uint32_t count, capacity;
} char_set;

void char_set_close(char_set *s);
/* Surrogates among low … high are left out. */
void char_set_add(char_set *s, uint32_t low, uint32_t high);
void char_set_add_set(char_set *s, const char_set *other);
void char_set_remove(char_set *s, uint32_t low, uint32_t high);
void char_set_invert(char_set *s);
/* *out, empty before, becomes a ∩ b. */
void char_set_intersect(char_set *out, const char_set *a, const char_set *b);
bool char_set_has(const char_set *s, uint32_t c);
bool char_set_equal(const char_set *a, const char_set *b);

#endif
