/* Case and printability of characters as Python's str has them. The data is written by tests/unicode_tables.py.
 * Threads: constant. */
#ifndef DAEMON_TEXT_UNICODE_TABLES_H
#define DAEMON_TEXT_UNICODE_TABLES_H

#include <stddef.h>
#include <stdint.h>

/* Code points first, first + step, … last become themselves + delta. Ascending. */
typedef struct unicode_range {
    uint32_t first, last;
    int32_t step, delta;
} unicode_range;

/* One that becomes two or three; the third is 0 then. Ascending. */
typedef struct unicode_special {
    uint32_t code_point, to[3];
} unicode_special;

extern const unicode_range unicode_lower[], unicode_upper[];
extern const unicode_special unicode_lower_special[], unicode_upper_special[];
/* Edges: printable from the first to below the second, and so on. */
extern const uint32_t unicode_printable[];
extern const size_t unicode_lower_count, unicode_upper_count, unicode_lower_special_count,
    unicode_upper_special_count, unicode_printable_count;

#endif
