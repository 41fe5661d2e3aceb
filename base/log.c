#include "base/log.h"

#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/utf8.h"

enum { MESSAGE_BYTES = 4096, TAIL_BYTES = 64 /* kept for what ends a line */ };

static char component[64];
static log_level least_shown = LOG_INFO;
static log_format shown_format = LOG_FORMAT_TEXT;

/* On the stack, so that a process that has just forked, or has no memory left, can still say something. */
typedef struct line {
    char text[LOG_LINE_BYTES];
    size_t n, room;
    bool full; /* something did not fit and was left out */
} line;

void log_open(const char *name, log_level least) {
    snprintf(component, sizeof component, "%s", name);
    least_shown = least;
}

void log_set_format(log_format format) { shown_format = format; }

static void put(line *l, const char *bytes, size_t n) {
    if (n > l->room - l->n) {
        l->full = true;
        return;
    }
    memcpy(l->text + l->n, bytes, n);
    l->n += n;
}

static void put_string(line *l, const char *text) { put(l, text, strlen(text)); }

/* A control character, of ASCII or of the 32 behind it that terminals obey as well (U+0080 … U+009F): its bytes; 0: none. */
static size_t control_bytes(const char *text, size_t n) {
    uint8_t c = (uint8_t)text[0], next = n > 1 ? (uint8_t)text[1] : 0;
    if (c < 0x20 || c == 0x7F) return 1;
    return c == 0xC2 && next >= 0x80 && next <= 0x9F ? 2 : 0;
}

/* A JSON string without its quotes. What is no UTF-8 becomes U+FFFD, byte by byte. */
static void put_escaped(line *l, const char *text, size_t n) {
    for (size_t i = 0; i < n && !l->full;) {
        size_t valid = utf8_check(text + i, n - i);
        for (size_t end = i + valid; i < end && !l->full; i++) {
            size_t control = control_bytes(text + i, end - i);
            uint8_t c = (uint8_t)text[i + (control == 2)];
            char escape[8];
            if (c == '"' || c == '\\') put(l, (char[]){'\\', (char)c}, 2);
            else if (control > 0) put(l, escape, (size_t)snprintf(escape, sizeof escape, "\\u%04x", c));
            else put(l, text + i, 1);
            i += control == 2;
        }
        if (i < n && !l->full) {
            put_string(l, "\xEF\xBF\xBD");
            i++;
        }
    }
}

static void put_quoted(line *l, const char *text, size_t n) {
    put_string(l, "\"");
    put_escaped(l, text, n);
    put_string(l, "\"");
}

static bool is_plain(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (text[i] == ' ' || text[i] == '"' || text[i] == '=' || text[i] == '\\' ||
            control_bytes(text + i, n - i) > 0)
            return false;
    return n > 0 && utf8_check(text, n) == n;
}

static void put_value(line *l, const log_field *f) {
    char number[48];
    switch (f->kind) {
    case LOG_FIELD_COUNT: snprintf(number, sizeof number, "%llu", (unsigned long long)f->count); break;
    case LOG_FIELD_MS: snprintf(number, sizeof number, "%.3f", isfinite(f->ms) ? f->ms : 0); break;
    case LOG_FIELD_TEXT:
        if (shown_format == LOG_FORMAT_TEXT && is_plain(f->text, f->text_bytes))
            put(l, f->text, f->text_bytes);
        else put_quoted(l, f->text, f->text_bytes);
        return;
    }
    put_string(l, number);
}

static void begin_line(line *l, log_level level, const char *message, size_t n) {
    static const char *const names[] = {"debug", "info", "warn", "error"};
    struct timespec now;
    struct tm utc;
    char head[128];
    l->n = 0;
    l->room = sizeof l->text - TAIL_BYTES;
    l->full = false;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    char at[32];
    size_t m = strftime(at, sizeof at, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(at + m, sizeof at - m, ".%03dZ", (int)(now.tv_nsec / 1000000));
    if (shown_format == LOG_FORMAT_TEXT) {
        snprintf(head, sizeof head, "%s %-5s %s ", at, names[level], component);
        put_string(l, head);
        /* A client's text may reach a log line: it forges no line of ours, and tells the terminal that shows it nothing. */
        for (size_t i = 0; i < n; i++) {
            size_t control = control_bytes(message + i, n - i);
            put(l, control > 0 ? " " : message + i, 1);
            i += control == 2;
        }
        return;
    }
    snprintf(head, sizeof head, "{\"time\":\"%s\",\"level\":\"%s\",\"component\":", at, names[level]);
    put_string(l, head);
    put_quoted(l, component, strlen(component));
    put_string(l, ",\"message\":");
    put_quoted(l, message, n);
}

static void end_line(line *l, unsigned dropped) {
    char tail[TAIL_BYTES];
    bool json = shown_format == LOG_FORMAT_JSON;
    l->room = sizeof l->text;
    l->full = false;
    if (dropped > 0) {
        snprintf(tail, sizeof tail, json ? ",\"fields_dropped\":%u" : " fields_dropped=%u", dropped);
        put_string(l, tail);
    }
    put_string(l, json ? "}\n" : "\n");
    ssize_t written = write(STDERR_FILENO, l->text, l->n);
    (void)written; /* nowhere left to say it */
}

/* How many lines about strangers this second has seen; false: too many for another. */
static bool stranger_allowed(uint64_t *left_out) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static time_t second;      /* guarded by lock */
    static uint32_t written;   /* guarded by lock: in this second */
    static uint64_t unwritten; /* guarded by lock: since the last line that was */
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    pthread_mutex_lock(&lock);
    if (now.tv_sec != second) written = 0;
    second = now.tv_sec;
    bool allowed = written < LOG_STRANGER_LINES;
    *left_out = unwritten;
    if (allowed) written++, unwritten = 0;
    else unwritten++;
    pthread_mutex_unlock(&lock);
    return allowed;
}

void log_stranger(log_level level, const char *format, ...) {
    uint64_t left_out;
    if (level < least_shown || !stranger_allowed(&left_out)) return;
    char message[MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (left_out > 0)
        log_line(level, "%s (and %llu lines of this kind before it that are not shown)", message,
                 (unsigned long long)left_out);
    else log_line(level, "%s", message);
}

void log_line(log_level level, const char *format, ...) {
    if (level < least_shown) return;
    char message[MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (n < 0) n = 0;
    line l;
    begin_line(&l, level, message, (size_t)n < sizeof message ? (size_t)n : sizeof message - 1);
    end_line(&l, 0);
}

log_field log_field_text(const char *name, const char *text) {
    return log_field_bytes(name, text, text ? strlen(text) : 0);
}

void log_event(log_level level, const char *message, const log_field *fields, size_t count) {
    if (level < least_shown) return;
    line l;
    unsigned dropped = 0;
    begin_line(&l, level, message, strlen(message));
    for (size_t i = 0; i < count; i++) {
        const log_field *f = &fields[i];
        if (f->kind == LOG_FIELD_TEXT && !f->text) continue;
        size_t before = l.n;
        bool json = shown_format == LOG_FORMAT_JSON;
        put_string(&l, json ? ",\"" : " ");
        put_string(&l, f->name);
        put_string(&l, json ? "\":" : "=");
        put_value(&l, f);
        if (!l.full) continue;
        l.n = before;
        l.full = false;
        dropped++;
    }
    end_line(&l, dropped);
}
