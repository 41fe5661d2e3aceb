/* Decimal numbers as JSON writes them, exactly: bounds of a schema are compared with what is written, never with a double.
 *
 * Memory:  none but the struct.
 * Threads: any. */
#ifndef DAEMON_TEXT_DECIMAL_H
#define DAEMON_TEXT_DECIMAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DECIMAL_DIGITS_MAX = 320 };

/* ± 0.d₁d₂…dₙ · 10^point, d₁ and dₙ not 0; zero has no digits and no sign. */
typedef struct decimal {
    bool negative;
    int32_t point;
    uint32_t count;
    uint8_t digit[DECIMAL_DIGITS_MAX];
} decimal;

/* text is a JSON number. false: more than DECIMAL_DIGITS_MAX digits that count, or an exponent beyond ± 10,000. */
bool decimal_read(decimal *out, const char *text, size_t bytes);
int decimal_compare(const decimal *a, const decimal *b); /* < 0, 0, > 0 */
bool decimal_is_integer(const decimal *a);
/* Digits before the point that are written (0 has one), and behind it. */
uint32_t decimal_integer_digits(const decimal *a);
uint32_t decimal_fraction_digits(const decimal *a);
/* The digit of 10^place; 0 outside. */
uint8_t decimal_digit(const decimal *a, int32_t place);
/* A non-negative integer below 2^32; false: it is not. */
bool decimal_u32(const decimal *a, uint32_t *out);
/* Whether a is a multiple of b, which is above 0 and has at most 9 digits that count. */
bool decimal_divides(const decimal *a, const decimal *b);

#endif
