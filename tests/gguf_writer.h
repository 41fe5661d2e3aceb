/* Builds GGUF files byte by byte, wrong ones too. The counts are those of the calls unless set otherwise.
 *
 *     gguf_writer w = {0};
 *     gguf_put_text(&w, "general.architecture", "gemma4");
 *     gguf_put_tensor(&w, "x", 0, 1, (uint64_t[]){8}, 0);
 *     strbuf file = gguf_finish(&w, 32);    (data_bytes of zeros behind the header)
 */
#ifndef TESTS_GGUF_WRITER_H
#define TESTS_GGUF_WRITER_H

#include <stdint.h>
#include <string.h>

#include "base/gguf.h"
#include "base/strbuf.h"

typedef struct gguf_writer {
    strbuf values, tensors;
    uint64_t value_count, tensor_count;
    uint64_t alignment; /* 0: 32 */
    uint32_t version;   /* 0: 3 */
} gguf_writer;

static inline void gguf_put_number(strbuf *b, uint64_t n, uint32_t bytes) {
    for (uint32_t i = 0; i < bytes; i++) {
        char byte = (char)(n >> (8 * i));
        strbuf_add(b, &byte, 1);
    }
}

static inline void gguf_put_string(strbuf *b, const char *text) {
    gguf_put_number(b, strlen(text), 8);
    strbuf_add(b, text, strlen(text));
}

static inline void gguf_put_key(gguf_writer *w, const char *key, gguf_type type) {
    gguf_put_string(&w->values, key);
    gguf_put_number(&w->values, type, 4);
    w->value_count++;
}

static inline void gguf_put_text(gguf_writer *w, const char *key, const char *text) {
    gguf_put_key(w, key, GGUF_TEXT);
    gguf_put_string(&w->values, text);
}

static inline void gguf_put_u32(gguf_writer *w, const char *key, uint32_t n) {
    gguf_put_key(w, key, GGUF_U32);
    gguf_put_number(&w->values, n, 4);
}

static inline void gguf_put_bool(gguf_writer *w, const char *key, bool yes) {
    gguf_put_key(w, key, GGUF_BOOL);
    gguf_put_number(&w->values, yes, 1);
}

static inline void gguf_put_f32(gguf_writer *w, const char *key, float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    gguf_put_key(w, key, GGUF_F32);
    gguf_put_number(&w->values, bits, 4);
}

/* The items follow, by the caller. */
static inline void gguf_put_array(gguf_writer *w, const char *key, gguf_type type, uint64_t count) {
    gguf_put_key(w, key, GGUF_ARRAY);
    gguf_put_number(&w->values, type, 4);
    gguf_put_number(&w->values, count, 8);
}

static inline void gguf_put_i32s(gguf_writer *w, const char *key, uint32_t count, const int32_t *items) {
    gguf_put_array(w, key, GGUF_I32, count);
    for (uint32_t i = 0; i < count; i++) gguf_put_number(&w->values, (uint32_t)items[i], 4);
}

static inline void gguf_put_texts(gguf_writer *w, const char *key, uint32_t count, const char *const *items) {
    gguf_put_array(w, key, GGUF_TEXT, count);
    for (uint32_t i = 0; i < count; i++) gguf_put_string(&w->values, items[i]);
}

static inline void gguf_put_tensor(gguf_writer *w, const char *name, uint32_t type, uint32_t dims,
                                   const uint64_t *shape, uint64_t offset) {
    gguf_put_string(&w->tensors, name);
    gguf_put_number(&w->tensors, dims, 4);
    for (uint32_t i = 0; i < dims; i++) gguf_put_number(&w->tensors, shape[i], 8);
    gguf_put_number(&w->tensors, type, 4);
    gguf_put_number(&w->tensors, offset, 8);
    w->tensor_count++;
}

/* The caller closes the result; the writer is empty afterwards. */
static inline strbuf gguf_finish(gguf_writer *w, uint64_t data_bytes) {
    strbuf out = {0};
    uint64_t alignment = w->alignment ? w->alignment : 32;
    strbuf_add_string(&out, "GGUF");
    gguf_put_number(&out, w->version ? w->version : 3, 4);
    gguf_put_number(&out, w->tensor_count, 8);
    gguf_put_number(&out, w->value_count, 8);
    strbuf_add(&out, w->values.data, w->values.size);
    strbuf_add(&out, w->tensors.data, w->tensors.size);
    while (w->tensor_count > 0 && out.size % alignment != 0) strbuf_add(&out, "", 1);
    for (uint64_t i = 0; i < data_bytes; i++) strbuf_add(&out, "", 1);
    strbuf_close(&w->values);
    strbuf_close(&w->tensors);
    *w = (gguf_writer){0};
    return out;
}

#endif
