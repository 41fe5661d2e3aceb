/* Numbers between bounds: an automaton over digits that compares as it reads. Which side of a bound the number is on is
 * decided by the count of digits before the point first, then by the first digit that differs. */
#include "daemon/text/grammar_number.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"

typedef enum part { PART_SIGN, PART_MINUS, PART_ZERO, PART_INTEGER, PART_POINT, PART_FRACTION } part;
typedef enum side { SIDE_SAME, SIDE_BELOW, SIDE_ABOVE } side;

typedef struct place {
    uint8_t part, count; /* digits of this part so far */
    uint8_t low, high;   /* side: of the bounds' digits so far */
    uint8_t negative;
    uint16_t rest; /* of the digits so far, by the step */
} place;

/* Bounds of a number's absolute value, for one sign. */
typedef struct span {
    bool has_low, low_open, has_high, high_open;
    decimal low, high;
} span;

typedef struct explorer {
    const number_bounds *bounds;
    span span[2];         /* of positive and of negative numbers */
    uint32_t unit, scale; /* the step is unit · 10^-scale */
    uint32_t fraction_max;
    place *place;
    uint32_t (*next)[12]; /* by digit, then '.' and '-'; NONE: nowhere */
    bool *accepts, *lives;
    uint32_t count, capacity, *bucket, *chain;
} explorer;

enum { NONE = 0xFFFFFFFF, SYMBOL_POINT = 10, SYMBOL_MINUS = 11, BUCKETS = 1024 };

static const decimal zero = {0};

bool number_within(const number_bounds *b, const decimal *value) {
    int low = b->has_low ? decimal_compare(value, &b->low) : 1;
    int high = b->has_high ? decimal_compare(value, &b->high) : -1;
    if (b->integer && !decimal_is_integer(value)) return false;
    if (low < 0 || (low == 0 && b->low_open) || high > 0 || (high == 0 && b->high_open)) return false;
    return !b->has_step || decimal_divides(value, &b->step);
}

/* A span that holds no number: everything is above a 0 that is outside. */
static void make_empty(span *s) {
    s->has_high = s->high_open = true;
    s->high = zero;
}

/* The positive numbers of the bounds, and 0. */
static span positive_span(const number_bounds *b) {
    span s = {.has_low = b->has_low && !b->low.negative,
              .low_open = b->low_open,
              .low = b->low,
              .has_high = b->has_high,
              .high_open = b->high_open,
              .high = b->high};
    if (b->has_high && b->high.negative) make_empty(&s);
    return s;
}

/* The negative ones without their sign, without 0. */
static span negative_span(const number_bounds *b) {
    span s = {.has_low = true, .low_open = true, .low = zero};
    if (b->has_high && b->high.negative) {
        s.low = b->high;
        s.low.negative = false;
        s.low_open = b->high_open;
    }
    if (!b->has_low) return s;
    s.has_high = true;
    s.high_open = b->low_open;
    s.high = b->low;
    s.high.negative = false;
    if (!b->low.negative) make_empty(&s);
    return s;
}

static side compare_digit(side before, uint8_t digit, uint8_t other) {
    if (before != SIDE_SAME || digit == other) return before;
    return digit < other ? SIDE_BELOW : SIDE_ABOVE;
}

/* Of an integer part of n digits that compares as `digits` with the bound's first n. */
static side integer_side(side digits, uint32_t n, const decimal *bound) {
    uint32_t length = decimal_integer_digits(bound);
    return n == length ? digits : n < length ? SIDE_BELOW : SIDE_ABOVE;
}

/* The next digit of the integer part: the bound's digits are read from its first one. */
static side integer_step(side before, uint32_t n, uint8_t digit, const decimal *bound) {
    uint32_t length = decimal_integer_digits(bound);
    if (n >= length) return SIDE_ABOVE;
    return compare_digit(before, digit, decimal_digit(bound, (int32_t)(length - 1 - n)));
}

static bool fraction_is_over(const decimal *bound, uint32_t n) { return decimal_fraction_digits(bound) <= n; }

/* The sides of a number that ends here, with the bound's remaining digits. */
static bool ends_here(const explorer *x, const place *p) {
    const span *s = &x->span[p->negative];
    uint32_t n = p->part == PART_FRACTION ? p->count : 0;
    side low = p->low, high = p->high;
    if (p->part != PART_FRACTION) {
        low = integer_side(low, p->count, &s->low);
        high = integer_side(high, p->count, &s->high);
    }
    if (s->has_low && low == SIDE_SAME && !fraction_is_over(&s->low, n)) low = SIDE_BELOW;
    if (s->has_high && high == SIDE_SAME && !fraction_is_over(&s->high, n)) high = SIDE_BELOW;
    if (s->has_low && (low == SIDE_BELOW || (low == SIDE_SAME && s->low_open))) return false;
    if (s->has_high && (high == SIDE_ABOVE || (high == SIDE_SAME && s->high_open))) return false;
    if (!x->unit) return true;
    uint64_t rest = p->rest;
    for (uint32_t i = n; i < x->scale; i++) rest = rest * 10 % x->unit;
    return rest == 0;
}

static bool accepts(const explorer *x, const place *p) {
    bool whole = p->part == PART_ZERO || p->part == PART_INTEGER;
    return (whole || (p->part == PART_FRACTION && p->count > 0)) && ends_here(x, p);
}

static bool step_point(const explorer *x, const place *p, place *out) {
    const span *s = &x->span[p->negative];
    if ((p->part != PART_ZERO && p->part != PART_INTEGER) || x->fraction_max == 0) return false;
    *out = (place){.part = PART_FRACTION, .negative = p->negative, .rest = p->rest};
    out->low = s->has_low ? (uint8_t)integer_side(p->low, p->count, &s->low) : SIDE_ABOVE;
    out->high = s->has_high ? (uint8_t)integer_side(p->high, p->count, &s->high) : SIDE_BELOW;
    return out->low != SIDE_BELOW && out->high != SIDE_ABOVE;
}

static bool step_digit(const explorer *x, const place *p, uint8_t digit, place *out) {
    const span *s = &x->span[p->negative];
    *out = *p;
    if (x->unit) out->rest = (uint16_t)(((uint32_t)p->rest * 10 + digit) % x->unit);
    if (p->part == PART_FRACTION) {
        if (p->count == x->fraction_max) return false;
        int32_t at = -1 - (int32_t)p->count;
        if (s->has_low) out->low = (uint8_t)compare_digit(p->low, digit, decimal_digit(&s->low, at));
        if (s->has_high) out->high = (uint8_t)compare_digit(p->high, digit, decimal_digit(&s->high, at));
        out->count++;
        return out->low != SIDE_BELOW && out->high != SIDE_ABOVE;
    }
    if (p->part == PART_ZERO || p->count == NUMBER_DIGITS_MAX) return false;
    if (s->has_high && p->count >= decimal_integer_digits(&s->high)) return false;
    out->part = p->part != PART_INTEGER && digit == 0 ? PART_ZERO : PART_INTEGER;
    if (s->has_low) out->low = (uint8_t)integer_step(p->low, p->count, digit, &s->low);
    if (s->has_high) out->high = (uint8_t)integer_step(p->high, p->count, digit, &s->high);
    out->count++;
    return true;
}

static bool step(const explorer *x, const place *p, uint32_t symbol, place *out) {
    if (symbol == SYMBOL_POINT) return step_point(x, p, out);
    if (symbol < 10) return step_digit(x, p, (uint8_t)symbol, out);
    *out = (place){.part = PART_MINUS, .negative = 1};
    return p->part == PART_SIGN;
}

static uint32_t find_place(explorer *x, place p) {
    uint32_t h = p.part | (uint32_t)p.count << 3 | (uint32_t)p.low << 8 | (uint32_t)p.high << 10 |
                 (uint32_t)p.negative << 12;
    h = ((h ^ (uint32_t)p.rest << 13) * 0x9E3779B1u) >> 22;
    for (uint32_t i = x->bucket[h]; i != NONE; i = x->chain[i]) {
        const place *q = &x->place[i];
        if (q->part == p.part && q->count == p.count && q->low == p.low && q->high == p.high &&
            q->negative == p.negative && q->rest == p.rest)
            return i;
    }
    if (x->count == NUMBER_STATES_MAX) return NONE;
    if (x->count == x->capacity) {
        x->capacity = x->capacity ? 2 * x->capacity : 128;
        x->place = memory_grow(x->place, x->capacity * sizeof *x->place);
        x->next = memory_grow(x->next, x->capacity * sizeof *x->next);
        x->accepts = memory_grow(x->accepts, x->capacity * sizeof *x->accepts);
        x->lives = memory_grow(x->lives, x->capacity * sizeof *x->lives);
        x->chain = memory_grow(x->chain, x->capacity * sizeof *x->chain);
    }
    x->lives[x->count] = false;
    x->place[x->count] = p;
    x->chain[x->count] = x->bucket[h];
    x->bucket[h] = x->count;
    return x->count++;
}

/* false: too many places. */
static bool explore(explorer *x) {
    find_place(x, (place){.part = PART_SIGN});
    for (uint32_t i = 0; i < x->count; i++) {
        x->accepts[i] = accepts(x, &x->place[i]);
        for (uint32_t symbol = 0; symbol < 12; symbol++) {
            place to;
            x->next[i][symbol] = NONE;
            if (!step(x, &x->place[i], symbol, &to)) continue;
            uint32_t found = find_place(x, to); /* may move what x points to */
            if (found == NONE) return false;
            x->next[i][symbol] = found;
        }
    }
    return true;
}

/* Places are found in an order that edges follow, within 2 · NUMBER_DIGITS_MAX + 4 steps: so many rounds settle it. */
static void find_living(explorer *x) {
    bool more = true;
    while (more) {
        more = false;
        for (uint32_t i = x->count; i-- > 0;) {
            bool lives = x->accepts[i];
            for (uint32_t symbol = 0; symbol < 12 && !lives; symbol++)
                lives = x->next[i][symbol] != NONE && x->lives[x->next[i][symbol]];
            more |= lives != x->lives[i];
            x->lives[i] = lives;
        }
    }
}

static void explorer_close(explorer *x) {
    free(x->place);
    free(x->next);
    free(x->accepts);
    free(x->lives);
    free(x->bucket);
    free(x->chain);
}

static status explorer_open(explorer *x, const number_bounds *b) {
    *x = (explorer){.bounds = b, .fraction_max = b->integer ? 0 : NUMBER_DIGITS_MAX};
    x->span[0] = positive_span(b);
    x->span[1] = negative_span(b);
    if (b->has_step) {
        x->scale = decimal_fraction_digits(&b->step);
        for (int32_t at = b->step.point - 1; at >= -(int32_t)x->scale; at--)
            x->unit = x->unit * 10 + decimal_digit(&b->step, at);
        if (x->fraction_max > x->scale) x->fraction_max = x->scale;
    }
    x->bucket = memory_alloc_array(BUCKETS, sizeof *x->bucket);
    memset(x->bucket, 0xFF, BUCKETS * sizeof *x->bucket);
    if (explore(x)) {
        find_living(x);
        return ST_OK;
    }
    explorer_close(x);
    return fail(ST_INVALID, "over %d states for the digits of a number", NUMBER_STATES_MAX);
}

static status check_bound(const char *what, const decimal *d) {
    if (decimal_integer_digits(d) > NUMBER_DIGITS_MAX || decimal_fraction_digits(d) > NUMBER_DIGITS_MAX)
        return fail(ST_INVALID, "%s has %u digits before the point and %u behind it, at most %d", what,
                    decimal_integer_digits(d), decimal_fraction_digits(d), NUMBER_DIGITS_MAX);
    return ST_OK;
}

static bool is_free(const number_bounds *b) { return !b->has_low && !b->has_high && !b->has_step; }

status number_check(const number_bounds *b, bool *any, uint32_t *states) {
    explorer x;
    *any = true;
    *states = 0;
    if (is_free(b)) return ST_OK;
    if (b->has_low) TRY(check_bound("the minimum", &b->low));
    if (b->has_high) TRY(check_bound("the maximum", &b->high));
    if (b->has_step) {
        uint64_t unit = 0;
        uint32_t scale = decimal_fraction_digits(&b->step);
        TRY(check_bound("the divisor", &b->step));
        for (int32_t at = b->step.point - 1; at >= -(int32_t)scale && unit <= NUMBER_DIVISOR_MAX; at--)
            unit = unit * 10 + decimal_digit(&b->step, at);
        if (unit > NUMBER_DIVISOR_MAX)
            return fail(ST_INVALID, "the digits of the divisor are %llu or more, at most %d",
                        (unsigned long long)unit, NUMBER_DIVISOR_MAX);
    }
    TRY(explorer_open(&x, b));
    *any = x.lives[0];
    *states = x.count;
    explorer_close(&x);
    return ST_OK;
}

static void write_digits(grammar *g, uint32_t from, uint32_t to, uint32_t digit, uint32_t least,
                         uint32_t most) {
    grammar_edge_repeat(g, from, digit, least, most, to);
}

static void write_free(grammar *g, uint32_t rule, uint32_t from, uint32_t to, bool integer, uint32_t digit) {
    uint32_t minus = grammar_add_state(g, rule), first = grammar_add_state(g, rule),
             whole = grammar_add_state(g, rule);
    grammar_edge_bytes(g, from, '-', '-', minus);
    grammar_edge_bytes(g, from, '0', '0', whole);
    if (!integer) grammar_edge_bytes(g, minus, '0', '0', whole);
    grammar_edge_bytes(g, from, '1', '9', first);
    grammar_edge_bytes(g, minus, '1', '9', first);
    write_digits(g, first, whole, digit, 0, NUMBER_DIGITS_MAX - 1);
    grammar_edge_empty(g, whole, to);
    if (integer) return;
    uint32_t point = grammar_add_state(g, rule), fraction = grammar_add_state(g, rule);
    uint32_t letter = grammar_add_state(g, rule), power = grammar_add_state(g, rule);
    grammar_edge_bytes(g, whole, '.', '.', point);
    write_digits(g, point, fraction, digit, 1, NUMBER_DIGITS_MAX);
    grammar_edge_empty(g, fraction, to);
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t behind = i ? whole : fraction;
        grammar_edge_bytes(g, behind, 'e', 'e', letter);
        grammar_edge_bytes(g, behind, 'E', 'E', letter);
    }
    grammar_edge_bytes(g, letter, '+', '+', power);
    grammar_edge_bytes(g, letter, '-', '-', power);
    grammar_edge_empty(g, letter, power);
    write_digits(g, power, to, digit, 1, 2);
}

/* Neighbouring digits that lead to one place are one edge. */
static void write_place(const explorer *x, grammar *g, uint32_t i, const uint32_t *state) {
    for (uint8_t low = 0, high; low < 10; low = (uint8_t)(high + 1)) {
        uint32_t to = x->next[i][low];
        for (high = low; high + 1 < 10 && x->next[i][high + 1] == to; high++) {
        }
        if (to != NONE && x->lives[to])
            grammar_edge_bytes(g, state[i], (uint8_t)('0' + low), (uint8_t)('0' + high), state[to]);
    }
    uint32_t point = x->next[i][SYMBOL_POINT], minus = x->next[i][SYMBOL_MINUS];
    if (point != NONE && x->lives[point]) grammar_edge_bytes(g, state[i], '.', '.', state[point]);
    if (minus != NONE && x->lives[minus]) grammar_edge_bytes(g, state[i], '-', '-', state[minus]);
}

void grammar_write_number(grammar *g, uint32_t rule, uint32_t from, uint32_t to, const number_bounds *b,
                          uint32_t digit) {
    explorer x;
    if (is_free(b)) {
        write_free(g, rule, from, to, b->integer, digit);
        return;
    }
    INVARIANT(explorer_open(&x, b) == ST_OK);
    uint32_t *state = memory_alloc_array(x.count, sizeof *state);
    for (uint32_t i = 0; i < x.count; i++)
        if (x.lives[i]) state[i] = grammar_add_state(g, rule);
    for (uint32_t i = 0; i < x.count; i++) {
        if (!x.lives[i]) continue;
        write_place(&x, g, i, state);
        if (x.accepts[i]) grammar_edge_empty(g, state[i], to);
    }
    if (x.lives[0]) grammar_edge_empty(g, from, state[0]);
    free(state);
    explorer_close(&x);
}
