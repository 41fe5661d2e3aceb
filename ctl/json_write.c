#include "ctl/json_write.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

static void separate(json_writer *w) {
    if (w->comma) strbuf_add_string(&w->out, ", ");
    w->comma = true;
}

void json_begin(json_writer *w, char bracket) {
    separate(w);
    strbuf_add(&w->out, &bracket, 1);
    w->comma = false;
}

void json_end(json_writer *w, char bracket) {
    strbuf_add(&w->out, &bracket, 1);
    w->comma = true;
}

static void add_character(strbuf *out, unsigned char c) {
    switch (c) {
    case '"': strbuf_add_string(out, "\\\""); break;
    case '\\': strbuf_add_string(out, "\\\\"); break;
    case '\n': strbuf_add_string(out, "\\n"); break;
    case '\t': strbuf_add_string(out, "\\t"); break;
    case '\r': strbuf_add_string(out, "\\r"); break;
    default: strbuf_add_format(out, "\\u%04x", c);
    }
}

static void add_quoted(strbuf *out, const unsigned char *at, size_t n) {
    strbuf_add(out, "\"", 1);
    while (n > 0) {
        size_t plain = utf8_check(at, n), i = 0;
        while (i < plain) {
            size_t run = 0;
            while (i + run < plain && at[i + run] >= 0x20 && at[i + run] != '"' && at[i + run] != '\\' &&
                   at[i + run] != 0x7F)
                run++;
            strbuf_add(out, at + i, run);
            i += run;
            if (i < plain) add_character(out, at[i++]);
        }
        at += plain;
        n -= plain;
        if (n > 0) {
            strbuf_add_string(out, "\xEF\xBF\xBD");
            at++;
            n--;
        }
    }
    strbuf_add(out, "\"", 1);
}

void json_text(json_writer *w, const void *utf8, size_t n) {
    separate(w);
    add_quoted(&w->out, utf8, n);
}

void json_string(json_writer *w, const char *text) { json_text(w, text, strlen(text)); }

void json_key(json_writer *w, const char *key) {
    json_string(w, key);
    strbuf_add_string(&w->out, ": ");
    w->comma = false;
}

void json_u64(json_writer *w, uint64_t value) {
    separate(w);
    strbuf_add_format(&w->out, "%llu", (unsigned long long)value);
}

void json_i64(json_writer *w, int64_t value) {
    separate(w);
    strbuf_add_format(&w->out, "%lld", (long long)value);
}

void json_float(json_writer *w, float value) {
    char text[32];
    if (!isfinite(value)) {
        json_null(w);
        return;
    }
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) break;
    }
    separate(w);
    strbuf_add_string(&w->out, text);
}

void json_double(json_writer *w, double value) {
    char text[32];
    if (!isfinite(value)) {
        json_null(w);
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    separate(w);
    strbuf_add_string(&w->out, text);
}

void json_bool(json_writer *w, bool value) {
    separate(w);
    strbuf_add_string(&w->out, value ? "true" : "false");
}

void json_null(json_writer *w) {
    separate(w);
    strbuf_add_string(&w->out, "null");
}

void json_u32_array(json_writer *w, const uint32_t *values, size_t n) {
    json_begin(w, '[');
    for (size_t i = 0; i < n; i++) json_u64(w, values[i]);
    json_end(w, ']');
}

/* ---- Messages
 * ------------------------------------------------------------------------------------------------- */

static size_t value_size(ProtobufCType type) {
    switch (type) {
    case PROTOBUF_C_TYPE_BOOL: return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_STRING: return sizeof(char *);
    case PROTOBUF_C_TYPE_BYTES: return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_MESSAGE: return sizeof(ProtobufCMessage *);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE: return 8;
    default: return 4;
    }
}

static void write_value(json_writer *w, const ProtobufCFieldDescriptor *f, const void *value) {
    switch (f->type) {
    case PROTOBUF_C_TYPE_BOOL: json_bool(w, *(const protobuf_c_boolean *)value); break;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64: json_u64(w, *(const uint64_t *)value); break;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32: json_u64(w, *(const uint32_t *)value); break;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64: json_i64(w, *(const int64_t *)value); break;
    case PROTOBUF_C_TYPE_FLOAT: json_float(w, *(const float *)value); break;
    case PROTOBUF_C_TYPE_DOUBLE: json_double(w, *(const double *)value); break;
    case PROTOBUF_C_TYPE_STRING: json_string(w, *(char *const *)value); break;
    case PROTOBUF_C_TYPE_BYTES: {
        const ProtobufCBinaryData *data = value;
        json_text(w, data->data, data->len);
        break;
    }
    case PROTOBUF_C_TYPE_MESSAGE: json_message(w, *(ProtobufCMessage *const *)value); break;
    default: json_i64(w, *(const int32_t *)value); break; /* the signed 32-bit types and enums */
    }
}

static bool is_set(const ProtobufCFieldDescriptor *f, const void *message) {
    const void *value = (const char *)message + f->offset;
    if (f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_MESSAGE)
        return *(void *const *)value != NULL;
    return f->label == PROTOBUF_C_LABEL_REQUIRED ||
           *(const protobuf_c_boolean *)((const char *)message + f->quantifier_offset);
}

void json_message(json_writer *w, const ProtobufCMessage *message) {
    json_begin(w, '{');
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &message->descriptor->fields[i];
        const void *value = (const char *)message + f->offset;
        if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
            const uint32_t *which = (const void *)((const char *)message + f->quantifier_offset);
            if (*which != f->id) continue;
            json_key(w, f->name);
            write_value(w, f, value);
            continue;
        }
        json_key(w, f->name);
        if (f->label == PROTOBUF_C_LABEL_REPEATED) {
            size_t count = *(const size_t *)(const void *)((const char *)message + f->quantifier_offset);
            const char *items = *(char *const *)value;
            json_begin(w, '[');
            for (size_t k = 0; k < count; k++) write_value(w, f, items + k * value_size(f->type));
            json_end(w, ']');
        } else if (is_set(f, message)) {
            write_value(w, f, value);
        } else {
            json_null(w);
        }
    }
    json_end(w, '}');
}
