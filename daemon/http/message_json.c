#include "daemon/http/message_json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "daemon/http/json_out.h"

typedef ProtobufCFieldDescriptor field;

static void add_real(strbuf *out, const char *key, double value, int digits) {
    char text[40];
    if (!isfinite(value)) {
        out_null(out, key);
        return;
    }
    int n = snprintf(text, sizeof text, "%.*g", digits, value);
    out_raw(out, key, text, (size_t)n);
}

static void add_signed(strbuf *out, const char *key, long long value) {
    char text[32];
    int n = snprintf(text, sizeof text, "%lld", value);
    out_raw(out, key, text, (size_t)n);
}

static void add_bytes(strbuf *out, const char *key, const ProtobufCBinaryData *d) {
    out_text(out, key, d->data, d->len);
}

static void add_element(strbuf *out, const char *key, const field *f, const void *at) {
    switch (f->type) {
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32: out_number(out, key, *(const uint32_t *)at); break;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64: out_number(out, key, *(const uint64_t *)at); break;
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_ENUM: add_signed(out, key, *(const int32_t *)at); break;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64: add_signed(out, key, *(const int64_t *)at); break;
    case PROTOBUF_C_TYPE_FLOAT: add_real(out, key, (double)*(const float *)at, 9); break;
    case PROTOBUF_C_TYPE_DOUBLE: add_real(out, key, *(const double *)at, 17); break;
    case PROTOBUF_C_TYPE_BOOL: out_bool(out, key, *(const protobuf_c_boolean *)at); break;
    case PROTOBUF_C_TYPE_STRING: out_string(out, key, *(char *const *)at); break;
    case PROTOBUF_C_TYPE_BYTES: add_bytes(out, key, at); break;
    case PROTOBUF_C_TYPE_MESSAGE: {
        const ProtobufCMessage *m = *(const ProtobufCMessage *const *)at;
        if (m) message_json(out, key, m);
        else out_null(out, key);
        break;
    }
    }
}

static size_t element_bytes(const field *f) {
    switch (f->type) {
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_DOUBLE: return 8;
    case PROTOBUF_C_TYPE_BOOL: return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE: return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES: return sizeof(ProtobufCBinaryData);
    default: return 4;
    }
}

static void add_field(strbuf *out, const field *f, const ProtobufCMessage *m) {
    const char *at = (const char *)m + f->offset, *count = (const char *)m + f->quantifier_offset;
    if (f->label == PROTOBUF_C_LABEL_REPEATED) {
        const char *elements = *(const char *const *)(const void *)at;
        size_t n = *(const size_t *)(const void *)count;
        out_array(out, f->name);
        for (size_t i = 0; i < n; i++) add_element(out, NULL, f, elements + i * element_bytes(f));
        out_end_array(out);
        return;
    }
    if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
        if (*(const uint32_t *)(const void *)count == f->id) add_element(out, f->name, f, at);
        return;
    }
    bool pointer = f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_MESSAGE;
    bool absent = f->label == PROTOBUF_C_LABEL_OPTIONAL && !pointer &&
                  !*(const protobuf_c_boolean *)(const void *)count;
    if (absent) out_null(out, f->name);
    else add_element(out, f->name, f, at);
}

void message_json(strbuf *out, const char *key, const ProtobufCMessage *message) {
    out_object(out, key);
    for (unsigned i = 0; i < message->descriptor->n_fields; i++)
        add_field(out, &message->descriptor->fields[i], message);
    out_end_object(out);
}
