#include "ctl/certificate.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* ---- base64 between the two lines ---- */

static int digit_of(char c) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

static const char *find(const char *text, size_t n, const char *what) {
    return memmem(text, n, what, strlen(what));
}

/* *out is the caller's to free(). */
static status decode(const char *text, size_t n, unsigned char **out, size_t *out_n) {
    unsigned bits = 0, count = 0;
    size_t size = 0;
    unsigned char *bytes = memory_alloc(n / 4 * 3 + 3);
    for (size_t i = 0; i < n && text[i] != '='; i++) {
        if (memchr(" \t\r\n", text[i], 4)) continue;
        int digit = digit_of(text[i]);
        if (digit < 0) {
            free(bytes);
            return fail(ST_FORMAT, "a certificate with \"%c\" in its base64", text[i]);
        }
        bits = bits << 6 | (unsigned)digit;
        count += 6;
        if (count < 8) continue;
        count -= 8;
        bytes[size++] = (unsigned char)(bits >> count);
    }
    *out = bytes;
    *out_n = size;
    return ST_OK;
}

/* ---- DER: a tag, a length, a value ---- */

typedef struct der {
    const unsigned char *at, *end;
} der;

enum { DER_SEQUENCE = 0x30, DER_VERSION = 0xA0, DER_UTC_TIME = 0x17, DER_TIME = 0x18 };

static bool take(der *from, int *tag, der *value) {
    if (from->end - from->at < 2) return false;
    *tag = *from->at++;
    size_t n = *from->at++;
    if (n & 0x80) {
        size_t more = n & 0x7F;
        if (more == 0 || more > 4 || (size_t)(from->end - from->at) < more) return false;
        for (n = 0; more; more--) n = n << 8 | *from->at++;
    }
    if ((size_t)(from->end - from->at) < n) return false;
    *value = (der){from->at, from->at + n};
    from->at += n;
    return true;
}

static bool take_tag(der *from, int wanted, der *value) {
    int tag;
    return take(from, &tag, value) && tag == wanted;
}

static int two(const unsigned char *at) { return (at[0] - '0') * 10 + at[1] - '0'; }

/* Days from 1970 to a day of the Gregorian calendar: years begin in March, so that the leap day is a year's last. */
static int64_t days_until(int year, int month, int day) {
    int64_t y = month > 2 ? year : year - 1;
    int64_t of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    return y * 365 + y / 4 - y / 100 + y / 400 + of_year - 719468;
}

/* YYMMDDHHMMSSZ until 2049, YYYYMMDDHHMMSSZ later. */
static bool take_time(der *from, int64_t *out) {
    int tag, year;
    der text;
    if (!take(from, &tag, &text)) return false;
    size_t n = (size_t)(text.end - text.at), date = tag == DER_TIME ? 14 : 12;
    if ((tag != DER_TIME && tag != DER_UTC_TIME) || n != date + 1 || text.at[date] != 'Z') return false;
    for (size_t i = 0; i < date; i++)
        if (text.at[i] < '0' || text.at[i] > '9') return false;
    if (tag == DER_TIME) year = two(text.at) * 100 + two(text.at + 2);
    else year = two(text.at) + (two(text.at) < 50 ? 2000 : 1900);
    const unsigned char *rest = text.at + date - 10;
    int month = two(rest), day = two(rest + 2), hour = two(rest + 4), minute = two(rest + 6),
        second = two(rest + 8);
    if (month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 || minute > 59 || second > 60)
        return false;
    *out = ((days_until(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    return true;
}

/* Certificate { TBSCertificate { [version], serial, algorithm, issuer, validity { from, until }, … } … } */
static bool read_validity(der all, int64_t *from_s, int64_t *until_s) {
    der certificate, body, skipped, validity;
    int tag;
    if (!take_tag(&all, DER_SEQUENCE, &certificate) || !take_tag(&certificate, DER_SEQUENCE, &body))
        return false;
    if (body.at < body.end && *body.at == DER_VERSION && !take(&body, &tag, &skipped)) return false;
    for (int i = 0; i < 3; i++)
        if (!take(&body, &tag, &skipped)) return false;
    int64_t from, until;
    if (!take_tag(&body, DER_SEQUENCE, &validity) || !take_time(&validity, &from) ||
        !take_time(&validity, &until))
        return false;
    *from_s = from;
    *until_s = until;
    return true;
}

status certificate_read(const char *pem, size_t n, int64_t *from_s, int64_t *until_s) {
    static const char begin[] = "-----BEGIN CERTIFICATE-----", end[] = "-----END CERTIFICATE-----";
    const char *first = find(pem, n, begin);
    if (!first) return fail(ST_FORMAT, "there is no \"%s\"", begin);
    first += sizeof begin - 1;
    const char *last = find(first, n - (size_t)(first - pem), end);
    if (!last) return fail(ST_FORMAT, "there is no \"%s\"", end);
    if (last - first > CERTIFICATE_BYTES_MAX)
        return fail(ST_FORMAT, "a certificate of %zu bytes, at most %d", (size_t)(last - first),
                    CERTIFICATE_BYTES_MAX);
    unsigned char *bytes = NULL;
    size_t size = 0;
    TRY(decode(first, (size_t)(last - first), &bytes, &size));
    bool good = read_validity((der){bytes, bytes + size}, from_s, until_s);
    free(bytes);
    return good ? ST_OK : fail(ST_FORMAT, "the certificate has no dates where X.509 has them");
}
