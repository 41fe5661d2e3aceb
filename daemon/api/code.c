#include "daemon/api/code.h"

#include <string.h>

#include "base/utf8.h"

grpc_status_code code_of_status(status st) {
    switch (st) {
    case ST_OK: return GRPC_STATUS_OK;
    case ST_INVALID:
    case ST_FORMAT: return GRPC_STATUS_INVALID_ARGUMENT;
    case ST_NOT_FOUND: return GRPC_STATUS_NOT_FOUND;
    case ST_EXISTS: return GRPC_STATUS_ALREADY_EXISTS;
    case ST_UNSUPPORTED: return GRPC_STATUS_UNIMPLEMENTED;
    case ST_BUSY: return GRPC_STATUS_RESOURCE_EXHAUSTED;
    case ST_UNAVAILABLE:
    case ST_PEER: return GRPC_STATUS_UNAVAILABLE;
    case ST_CANCELLED: return GRPC_STATUS_CANCELLED;
    case ST_TIMEOUT: return GRPC_STATUS_DEADLINE_EXCEEDED;
    case ST_AUTH: return GRPC_STATUS_UNAUTHENTICATED;
    case ST_DENIED: return GRPC_STATUS_PERMISSION_DENIED;
    default: return GRPC_STATUS_INTERNAL;
    }
}

void code_add_text(const char *text, strbuf *out) {
    static const char cut[] = "…", replacement[] = "\xEF\xBF\xBD";
    size_t n = strlen(text), begin = out->size;
    while (n > 0) {
        size_t valid = utf8_check(text, n), room = CODE_TEXT_MAX - (out->size - begin);
        if (valid + sizeof replacement + sizeof cut > room) {
            size_t most = room > sizeof cut ? room - sizeof cut : 0;
            strbuf_add(out, text, utf8_check(text, most < n ? most : n));
            strbuf_add_string(out, cut);
            return;
        }
        strbuf_add(out, text, valid);
        text += valid;
        n -= valid;
        if (n == 0) return;
        strbuf_add_string(out, replacement);
        text++;
        n--;
    }
}

/* ---- protobuf by hand: three messages of which protobuf-c code would need two more published files ---- */

static void add_varint(strbuf *out, uint64_t value) {
    for (; value >= 0x80; value >>= 7) strbuf_add(out, &(uint8_t){(uint8_t)(value | 0x80)}, 1);
    strbuf_add(out, &(uint8_t){(uint8_t)value}, 1);
}

static void add_number(strbuf *out, uint32_t field, uint64_t value) {
    add_varint(out, field << 3);
    add_varint(out, value);
}

static void add_bytes(strbuf *out, uint32_t field, const void *bytes, size_t n) {
    add_varint(out, field << 3 | 2);
    add_varint(out, n);
    strbuf_add(out, bytes, n);
}

void code_add_retry_details(grpc_status_code code, const char *text, uint32_t retry_after_ms, strbuf *out) {
    static const char type[] = "type.googleapis.com/google.rpc.RetryInfo";
    strbuf delay = {0}, info = {0}, any = {0};
    add_number(&delay, 1, retry_after_ms / 1000);            /* Duration.seconds */
    add_number(&delay, 2, retry_after_ms % 1000 * 1000000U); /* Duration.nanos */
    add_bytes(&info, 1, delay.data, delay.size);             /* RetryInfo.retry_delay */
    add_bytes(&any, 1, type, sizeof type - 1);               /* Any.type_url */
    add_bytes(&any, 2, info.data, info.size);                /* Any.value */
    add_number(out, 1, (uint64_t)code);                      /* Status.code */
    add_bytes(out, 2, text, strlen(text));                   /* Status.message */
    add_bytes(out, 3, any.data, any.size);                   /* Status.details */
    strbuf_close(&delay);
    strbuf_close(&info);
    strbuf_close(&any);
}
