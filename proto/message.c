#include "proto/message.h"

#include <stdbool.h>
#include <string.h>

#include "base/utf8.h"
#include "proto/limits.h"

typedef struct walk {
    const ProtobufCMessageDescriptor *root;
    const uint8_t *at, *end;
    uint32_t fields_left; /* of the whole message, sub-messages included */
} walk;

static status malformed(const walk *w) {
    return fail(ST_INVALID, "the bytes received are not a %s", w->root->name);
}

static bool read_varint(walk *w, uint64_t *out) {
    *out = 0;
    for (unsigned shift = 0; shift < 64 && w->at < w->end; shift += 7) {
        uint8_t byte = *w->at++;
        *out |= (uint64_t)(byte & 0x7F) << shift;
        if (!(byte & 0x80)) return true;
    }
    return false;
}

static status check_string(const ProtobufCMessageDescriptor *d, const ProtobufCFieldDescriptor *f,
                           const uint8_t *bytes, size_t n) {
    size_t valid = utf8_check(bytes, n);
    if (valid < n) return fail(ST_INVALID, "%s.%s is not UTF-8 at byte %zu", d->short_name, f->name, valid);
    const uint8_t *nul = n ? memchr(bytes, 0, n) : NULL;
    if (nul)
        return fail(ST_INVALID, "%s.%s has a NUL at byte %zu", d->short_name, f->name, (size_t)(nul - bytes));
    return ST_OK;
}

static status check_message(walk *w, const ProtobufCMessageDescriptor *d);

static status check_length_delimited(walk *w, const ProtobufCMessageDescriptor *d,
                                     const ProtobufCFieldDescriptor *f) {
    uint64_t n;
    if (!read_varint(w, &n) || n > (size_t)(w->end - w->at)) return malformed(w);
    const uint8_t *bytes = w->at;
    w->at += n;
    if (f && f->type == PROTOBUF_C_TYPE_STRING) return check_string(d, f, bytes, (size_t)n);
    if (f && f->type == PROTOBUF_C_TYPE_MESSAGE) {
        walk inner = *w;
        inner.at = bytes;
        inner.end = bytes + n;
        TRY(check_message(&inner, f->descriptor));
        w->fields_left = inner.fields_left;
    }
    return ST_OK;
}

static status check_message(walk *w, const ProtobufCMessageDescriptor *d) {
    while (w->at < w->end) {
        uint64_t tag, value;
        if (!read_varint(w, &tag)) return malformed(w);
        if (w->fields_left-- == 0)
            return fail(ST_INVALID, "a %s of more than %d fields", w->root->name, LIMIT_MESSAGE_FIELDS);
        const ProtobufCFieldDescriptor *f =
            tag >> 3 <= UINT32_MAX ? protobuf_c_message_descriptor_get_field(d, (unsigned)(tag >> 3)) : NULL;
        size_t fixed = 0;
        switch (tag & 7) {
        case 0:
            if (!read_varint(w, &value)) return malformed(w);
            break;
        case 1: fixed = 8; break;
        case 2: TRY(check_length_delimited(w, d, f)); break;
        case 5: fixed = 4; break;
        default: return malformed(w); /* groups: none in our contracts, and protobuf-c refuses them too */
        }
        if (fixed > (size_t)(w->end - w->at)) return malformed(w);
        w->at += fixed;
    }
    return ST_OK;
}

status message_unpack(const ProtobufCMessageDescriptor *descriptor, const uint8_t *bytes, size_t n,
                      ProtobufCMessage **out) {
    *out = NULL;
    walk w = {.root = descriptor, .at = bytes, .end = bytes + n, .fields_left = LIMIT_MESSAGE_FIELDS};
    if (n > LIMIT_MESSAGE_BYTES)
        return fail(ST_INVALID, "a %s of %zu bytes, at most %d", descriptor->name, n, LIMIT_MESSAGE_BYTES);
    TRY(check_message(&w, descriptor));
    /* protobuf-c may hand NULL to memcpy for no bytes at all. */
    *out = protobuf_c_message_unpack(descriptor, NULL, n, n ? bytes : (const uint8_t *)"");
    if (!*out) return malformed(&w);
    return ST_OK;
}
