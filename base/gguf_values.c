/* Metadata by key: what json.h is to JSON. */
#include <string.h>

#include "base/gguf.h"

static const char *const type_names[GGUF_TYPES] = {"u8",   "i8",   "u16",   "i16", "u32", "i32", "f32",
                                                   "bool", "text", "array", "u64", "i64", "f64"};

static uint64_t load(const uint8_t *p, uint32_t n) {
    uint64_t x = 0;
    for (uint32_t i = 0; i < n; i++) x |= (uint64_t)p[i] << (8 * i);
    return x;
}

bool gguf_integer(const gguf_value *v, uint64_t i, int64_t *out) {
    switch (v->type) {
    case GGUF_U8:
    case GGUF_BOOL: *out = v->at[i]; return true;
    case GGUF_I8: *out = (int8_t)v->at[i]; return true;
    case GGUF_U16: *out = (uint16_t)load(v->at + 2 * i, 2); return true;
    case GGUF_I16: *out = (int16_t)load(v->at + 2 * i, 2); return true;
    case GGUF_U32: *out = (uint32_t)load(v->at + 4 * i, 4); return true;
    case GGUF_I32: *out = (int32_t)load(v->at + 4 * i, 4); return true;
    case GGUF_U64:
    case GGUF_I64: *out = (int64_t)load(v->at + 8 * i, 8); return v->type == GGUF_I64 || *out >= 0;
    default: return false;
    }
}

static status missing(const gguf *g, const char *key) {
    return fail(ST_FORMAT, "%s: %s is missing", g->name, key);
}

static status other_type(const gguf *g, const gguf_value *v, const char *want) {
    return fail(ST_FORMAT, "%s: %s is %s%s, expected is %s", g->name, v->key, v->array ? "an array of " : "",
                type_names[v->type], want);
}

static status item_u32(const gguf *g, const gguf_value *v, uint64_t i, uint32_t least, uint32_t most,
                       uint32_t *out) {
    int64_t n;
    if (!gguf_integer(v, i, &n)) return other_type(g, v, "an integer");
    if (n < (int64_t)least || n > (int64_t)most)
        return fail(ST_FORMAT, "%s: %s is %lld, allowed are %u to %u", g->name, v->key, (long long)n, least,
                    most);
    *out = (uint32_t)n;
    return ST_OK;
}

status gguf_read_u32_optional(const gguf *g, const char *key, uint32_t least, uint32_t most, uint32_t *out) {
    const gguf_value *v = gguf_find(g, key);
    if (!v) return ST_OK;
    if (v->array || v->type == GGUF_BOOL) return other_type(g, v, "an integer");
    return item_u32(g, v, 0, least, most, out);
}

status gguf_read_u32(const gguf *g, const char *key, uint32_t least, uint32_t most, uint32_t *out) {
    return gguf_find(g, key) ? gguf_read_u32_optional(g, key, least, most, out) : missing(g, key);
}

status gguf_read_u32s(const gguf *g, const char *key, uint32_t least, uint32_t most, uint32_t count,
                      uint32_t *out) {
    const gguf_value *v = gguf_find(g, key);
    if (!v) return missing(g, key);
    if (v->array && v->count != count)
        return fail(ST_FORMAT, "%s: %s has %llu entries, expected are %u", g->name, key,
                    (unsigned long long)v->count, count);
    for (uint32_t i = 0; i < count; i++) TRY(item_u32(g, v, v->array ? i : 0, least, most, &out[i]));
    return ST_OK;
}

status gguf_read_double_optional(const gguf *g, const char *key, double least, double most, double *out) {
    const gguf_value *v = gguf_find(g, key);
    if (!v) return ST_OK;
    double x;
    int64_t whole;
    if (v->array || v->type == GGUF_BOOL || v->type == GGUF_TEXT) return other_type(g, v, "a number");
    if (v->type == GGUF_F32) {
        uint32_t bits = (uint32_t)load(v->at, 4);
        float single;
        memcpy(&single, &bits, sizeof single);
        x = (double)single;
    } else if (v->type == GGUF_F64) {
        uint64_t bits = load(v->at, 8);
        memcpy(&x, &bits, sizeof x);
    } else if (gguf_integer(v, 0, &whole)) {
        x = (double)whole;
    } else {
        return other_type(g, v, "a number");
    }
    if (!(x >= least && x <= most)) /* not a number is outside too */
        return fail(ST_FORMAT, "%s: %s is %g, allowed are %g to %g", g->name, key, x, least, most);
    *out = x;
    return ST_OK;
}

status gguf_read_bool_optional(const gguf *g, const char *key, bool *out) {
    const gguf_value *v = gguf_find(g, key);
    if (!v) return ST_OK;
    if (v->array || v->type != GGUF_BOOL) return other_type(g, v, "bool");
    *out = v->at[0] != 0;
    return ST_OK;
}

gguf_text gguf_next_text(const uint8_t **at) {
    gguf_text text = {(const char *)*at + 8, (size_t)load(*at, 8)};
    *at += 8 + text.size;
    return text;
}

status gguf_read_text_optional(const gguf *g, const char *key, gguf_text *out) {
    const gguf_value *v = gguf_find(g, key);
    if (!v) return ST_OK;
    if (v->array || v->type != GGUF_TEXT) return other_type(g, v, "text");
    const uint8_t *at = v->at;
    *out = gguf_next_text(&at);
    return ST_OK;
}

status gguf_read_array(const gguf *g, const char *key, gguf_type type, const gguf_value **out) {
    const gguf_value *v = gguf_find(g, key);
    if (!v) return missing(g, key);
    if (!v->array || v->type != type) {
        char want[32] = "an array of ";
        strcat(want, type_names[type]);
        return other_type(g, v, want);
    }
    *out = v;
    return ST_OK;
}

bool gguf_text_is(gguf_text text, const char *want) {
    return text.size == strlen(want) && memcmp(text.at, want, text.size) == 0;
}
