#include "daemon/text/decimal.h"

#include <string.h>

enum { EXPONENT_MAX = 10000 };

bool decimal_read(decimal *out, const char *text, size_t bytes) {
    size_t i = 0, behind = 0;
    bool point = false, leading = true;
    int32_t exponent = 0, places = 0;
    memset(out, 0, sizeof *out);
    if (i < bytes && text[i] == '-') out->negative = true, i++;
    for (; i < bytes && text[i] != 'e' && text[i] != 'E'; i++) {
        if (text[i] == '.') {
            point = true;
            continue;
        }
        uint8_t d = (uint8_t)(text[i] - '0');
        if (leading && d == 0) {
            if (point) places--;
            if (places < -EXPONENT_MAX) return false;
            continue;
        }
        leading = false;
        if (!point) places++;
        if (places > EXPONENT_MAX) return false;
        behind++; /* zeros at the end are counted when a digit follows */
        if (d == 0) continue;
        if (behind > DECIMAL_DIGITS_MAX) return false;
        out->count = (uint32_t)behind;
        out->digit[behind - 1] = d;
    }
    if (i < bytes) {
        bool minus = ++i < bytes && text[i] == '-';
        if (i < bytes && (text[i] == '-' || text[i] == '+')) i++;
        for (; i < bytes; i++) {
            exponent = exponent * 10 + (text[i] - '0');
            if (exponent > EXPONENT_MAX) {
                if (out->count > 0) return false;
                exponent = 0;
            }
        }
        if (minus) exponent = -exponent;
    }
    if (out->count == 0) out->negative = false;
    else out->point = places + exponent;
    return true;
}

uint8_t decimal_digit(const decimal *a, int32_t place) {
    int32_t at = a->point - 1 - place;
    return at >= 0 && at < (int32_t)a->count ? a->digit[at] : 0;
}

int decimal_compare(const decimal *a, const decimal *b) {
    int sign = a->negative ? -1 : 1;
    if (a->negative != b->negative) return sign;
    if (a->count == 0 || b->count == 0) return sign * ((a->count > 0) - (b->count > 0));
    if (a->point != b->point) return a->point > b->point ? sign : -sign;
    uint32_t n = a->count < b->count ? a->count : b->count;
    int order = memcmp(a->digit, b->digit, n);
    if (order == 0) order = (a->count > b->count) - (a->count < b->count);
    return order > 0 ? sign : order < 0 ? -sign : 0;
}

bool decimal_is_integer(const decimal *a) { return decimal_fraction_digits(a) == 0; }

uint32_t decimal_integer_digits(const decimal *a) { return a->point > 0 ? (uint32_t)a->point : 1; }

uint32_t decimal_fraction_digits(const decimal *a) {
    int32_t n = (int32_t)a->count - a->point;
    return a->count > 0 && n > 0 ? (uint32_t)n : 0;
}

bool decimal_u32(const decimal *a, uint32_t *out) {
    uint64_t value = 0;
    if (a->negative || a->point > 10 || !decimal_is_integer(a)) return false;
    for (int32_t place = a->point - 1; place >= 0; place--) value = value * 10 + decimal_digit(a, place);
    *out = (uint32_t)value;
    return value <= UINT32_MAX;
}

bool decimal_divides(const decimal *a, const decimal *b) {
    uint64_t unit = 0, rest = 0;
    for (uint32_t i = 0; i < b->count; i++) unit = unit * 10 + b->digit[i];
    if (unit == 0) return false;
    /* Both as integers of 10^(last place of b). */
    int32_t last = b->point - (int32_t)b->count;
    if (a->count > 0 && a->point - (int32_t)a->count < last) return false;
    for (int32_t place = a->point - 1; a->count > 0 && place >= last; place--)
        rest = (rest * 10 + decimal_digit(a, place)) % unit;
    return rest == 0;
}
