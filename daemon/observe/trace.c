#include "daemon/observe/trace.h"

#include <stdint.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"

static int digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; /* upper case is none of the format's */
}

static bool is_id(const char *text, size_t n) {
    bool zero = true;
    for (size_t i = 0; i < n; i++) {
        if (digit(text[i]) < 0) return false;
        zero &= text[i] == '0';
    }
    return !zero;
}

bool trace_read(trace_context *out, const char *p, size_t n) {
    enum { TRACE = 3, PARENT = TRACE + TRACE_ID_CHARACTERS + 1, FLAGS = PARENT + TRACE_SPAN_CHARACTERS + 1 };
    if (n < TRACE_PARENT_CHARACTERS) return false;
    int high = digit(p[0]), low = digit(p[1]), flags_high = digit(p[FLAGS]), flags = digit(p[FLAGS + 1]);
    if (high < 0 || low < 0 || flags_high < 0 || flags < 0 || (high == 15 && low == 15)) return false;
    if (p[TRACE - 1] != '-' || p[PARENT - 1] != '-' || p[FLAGS - 1] != '-') return false;
    /* Version 00 ends here; later ones may go on behind a dash, and what they add is not ours to judge. */
    if (n > TRACE_PARENT_CHARACTERS && ((high == 0 && low == 0) || p[TRACE_PARENT_CHARACTERS] != '-'))
        return false;
    if (!is_id(p + TRACE, TRACE_ID_CHARACTERS) || !is_id(p + PARENT, TRACE_SPAN_CHARACTERS)) return false;
    memcpy(out->trace_id, p + TRACE, TRACE_ID_CHARACTERS);
    memcpy(out->parent_id, p + PARENT, TRACE_SPAN_CHARACTERS);
    out->trace_id[TRACE_ID_CHARACTERS] = out->parent_id[TRACE_SPAN_CHARACTERS] = 0;
    out->sampled = flags & 1;
    return true;
}

static void draw(char *hex, size_t characters) {
    static const char digits[] = "0123456789abcdef";
    uint8_t random[TRACE_ID_CHARACTERS / 2];
    uint64_t now = clock_now_ns();
    memset(random, 0, sizeof random);
    /* Ids need to differ, not to be secret: without entropy the clock will do. */
    if (getrandom(random, characters / 2, GRND_NONBLOCK) != (ssize_t)(characters / 2))
        memcpy(random, &now, sizeof now);
    random[0] |= 1; /* all zeros would be no id */
    for (size_t i = 0; i < characters / 2; i++) {
        hex[2 * i] = digits[random[i] >> 4];
        hex[2 * i + 1] = digits[random[i] & 15];
    }
    hex[characters] = 0;
}

void trace_begin(trace_context *out, const char *traceparent, size_t n) {
    *out = (trace_context){0};
    if (!traceparent || !trace_read(out, traceparent, n)) draw(out->trace_id, TRACE_ID_CHARACTERS);
    draw(out->span_id, TRACE_SPAN_CHARACTERS);
}
