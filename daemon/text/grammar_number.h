/* JSON numbers as rules: all of them, or those between bounds, exactly as they are written.
 *
 * No part has more than NUMBER_DIGITS_MAX digits, so that a number ends; a number without bounds may have an exponent of two
 * digits, one with bounds has none. -0 is not written where there are bounds, nor as an integer.
 *
 * Errors: ST_INVALID with both numbers for a bound or a divisor that is too long, or an automaton that is too large. */
#ifndef DAEMON_TEXT_GRAMMAR_NUMBER_H
#define DAEMON_TEXT_GRAMMAR_NUMBER_H

#include "base/status.h"
#include "daemon/text/decimal.h"
#include "daemon/text/grammar.h"

enum { NUMBER_DIGITS_MAX = 19, NUMBER_STATES_MAX = 1 << 15, NUMBER_DIVISOR_MAX = 9999 };

typedef struct number_bounds {
    bool integer;
    bool has_low, low_open, has_high, high_open, has_step; /* open: the bound itself is outside */
    decimal low, high, step;                               /* step: the number is a multiple of it */
} number_bounds;

bool number_within(const number_bounds *b, const decimal *value);
/* What grammar_write_number would refuse; *any: whether there is such a number at all; *states: what looking took. */
STATUS_CHECKED status number_check(const number_bounds *b, bool *any, uint32_t *states);
/* Edges from `from` to `to`. digit: a rule of one digit 0-9. b has passed number_check. */
void grammar_write_number(grammar *g, uint32_t rule, uint32_t from, uint32_t to, const number_bounds *b,
                          uint32_t digit);

#endif
