#include "daemon/http/sampling_body.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/limits.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static status read_stop(body *b, Gemmad__V1__Sampling *s) {
    const json_value *v = body_get(b->root, "stop");
    if (!v) return ST_OK;
    const json_value *first = v->kind == JSON_KIND_STRING ? v : v->first;
    uint32_t count = v->kind == JSON_KIND_STRING ? 1 : v->count;
    if (v->kind != JSON_KIND_STRING && v->kind != JSON_KIND_ARRAY)
        return body_invalid(b, "stop", "it must be a string or an array of strings");
    if (count > LIMIT_STOP_STRINGS)
        return body_invalid(b, "stop", "it has %u strings, at most %d", count, LIMIT_STOP_STRINGS);
    s->stop = arena_alloc(&b->memory, count, sizeof *s->stop);
    for (const json_value *m = first; s->n_stop < count; m = m->next) {
        if (m->kind != JSON_KIND_STRING)
            return body_invalid(b, "stop", "it must be a string or an array of strings");
        if (m->bytes == 0 || m->bytes > LIMIT_STOP_BYTES)
            return body_invalid(b, "stop", "a string has %zu bytes, and must have 1 to %d", m->bytes,
                                LIMIT_STOP_BYTES);
        s->stop[s->n_stop++] = (ProtobufCBinaryData){m->bytes, (uint8_t *)(uintptr_t)m->text};
    }
    return ST_OK;
}

static status read_stop_ids(body *b, Gemmad__V1__Sampling *s) {
    const json_value *v = body_get(b->root, "stop_token_ids");
    if (!v) return ST_OK;
    if (v->kind != JSON_KIND_ARRAY)
        return body_invalid(b, "stop_token_ids", "it must be an array of token ids");
    if (v->count > LIMIT_STOP_TOKENS)
        return body_invalid(b, "stop_token_ids", "it has %u ids, at most %d", v->count, LIMIT_STOP_TOKENS);
    s->stop_token_ids = arena_alloc(&b->memory, v->count, sizeof *s->stop_token_ids);
    for (const json_value *m = v->first; m; m = m->next) {
        int64_t id;
        if (!json_value_integer(m, &id) || id < 0 || id >= LIMIT_VOCAB)
            return body_invalid(b, "stop_token_ids", "it must be an array of token ids");
        s->stop_token_ids[s->n_stop_token_ids++] = (uint32_t)id;
    }
    return ST_OK;
}

static status read_bias(body *b, Gemmad__V1__Sampling *s) {
    const json_value *v = body_get(b->root, "logit_bias");
    if (!v) return ST_OK;
    if (v->kind != JSON_KIND_OBJECT)
        return body_invalid(b, "logit_bias", "it must be an object of token ids and numbers");
    if (v->count > LIMIT_LOGIT_BIAS)
        return body_invalid(b, "logit_bias", "it has %u entries, at most %d", v->count, LIMIT_LOGIT_BIAS);
    s->logit_bias = arena_alloc(&b->memory, v->count, sizeof *s->logit_bias);
    for (const json_value *m = v->first; m; m = m->next) {
        Gemmad__V1__LogitBias *e = arena_alloc(&b->memory, 1, sizeof *e);
        double bias;
        size_t n = m->key_bytes;
        if (n == 0 || n > 7 || strspn(m->key, "0123456789") != n)
            return body_invalid(b, "logit_bias", "\"%.32s\" is no token id", m->key);
        if (!json_value_number(m, &bias) || bias < -100 || bias > 100)
            return body_invalid(b, "logit_bias", "the bias of token %s must be a number of -100 to 100",
                                m->key);
        gemmad__v1__logit_bias__init(e);
        e->has_token_id = e->has_bias = 1;
        e->token_id = (uint32_t)strtoul(m->key, NULL, 10);
        e->bias = (float)bias;
        s->logit_bias[s->n_logit_bias++] = e;
    }
    return ST_OK;
}

static status read_seed(body *b, Gemmad__V1__Sampling *s) {
    const json_value *v = body_get(b->root, "seed");
    int64_t seed;
    if (!v) return ST_OK;
    if (!json_value_integer(v, &seed)) return body_invalid(b, "seed", "it must be an integer of 64 bits");
    s->has_seed = 1;
    s->seed = (uint64_t)seed;
    return ST_OK;
}

/* -1 is how vLLM's clients say "off". */
static status read_top_k(body *b, Gemmad__V1__Sampling *s) {
    const json_value *v = body_get(b->root, "top_k");
    int64_t k;
    if (!v) return ST_OK;
    if (!json_value_integer(v, &k) || k < -1 || k > LIMIT_VOCAB)
        return body_invalid(b, "top_k", "it must be an integer of -1 to %d", LIMIT_VOCAB);
    s->has_top_k = 1;
    s->top_k = k < 0 ? 0 : (uint32_t)k;
    return ST_OK;
}

static status read_range(body *b, const char *key, float least, float most, float *out, int *has) {
    TRY(body_read_float(b, b->root, key, out, has));
    if (*has && !(*out >= least && *out <= most))
        return body_invalid(b, key, "it is %g, and must be %g to %g", (double)*out, (double)least,
                            (double)most);
    return ST_OK;
}

static status read_numbers(body *b, Gemmad__V1__Sampling *s) {
    bool ignore_eos = false;
    TRY(read_range(b, "temperature", 0, 2, &s->temperature, &s->has_temperature));
    TRY(read_range(b, "top_p", 0, 1, &s->top_p, &s->has_top_p));
    TRY(read_range(b, "min_p", 0, 1, &s->min_p, &s->has_min_p));
    TRY(read_range(b, "repetition_penalty", 0, 10, &s->repetition_penalty, &s->has_repetition_penalty));
    TRY(read_range(b, "presence_penalty", -2, 2, &s->presence_penalty, &s->has_presence_penalty));
    TRY(read_range(b, "frequency_penalty", -2, 2, &s->frequency_penalty, &s->has_frequency_penalty));
    TRY(body_read_u32(b, b->root, "n", 1, LIMIT_SAMPLES, &s->n, &s->has_n));
    TRY(body_read_bool(b, b->root, "ignore_eos", &ignore_eos));
    s->has_ignore_eos = s->ignore_eos = ignore_eos;
    return ST_OK;
}

static status read_priority(body *b, int32_t *out) {
    const json_value *v = body_get(b->root, "priority");
    int64_t priority;
    if (!v) return ST_OK;
    if (!json_value_integer(v, &priority) || priority < INT32_MIN || priority > INT32_MAX)
        return body_invalid(b, "priority", "it must be an integer of 32 bits");
    *out = (int32_t)priority;
    return ST_OK;
}

static status read_stream(body *b, sampling_body *out) {
    static const body_field fields[] = {{"include_usage", NULL, NULL},
                                        {"include_obfuscation", "false true", NULL},
                                        {"continuous_usage_stats", "false", NULL}};
    const json_value *v = body_get(b->root, "stream_options");
    TRY(body_read_bool(b, b->root, "stream", &out->stream));
    if (!v) return ST_OK;
    if (v->kind != JSON_KIND_OBJECT) return body_invalid(b, "stream_options", "it must be an object");
    if (!out->stream) return body_invalid(b, "stream_options", "it goes with \"stream\": true only");
    TRY(body_check_fields(b, v, "stream_options.", fields, COUNT(fields)));
    return body_read_bool(b, v, "include_usage", &out->include_usage);
}

status sampling_body_read(body *b, sampling_body *out) {
    Gemmad__V1__Sampling *s = &out->sampling;
    gemmad__v1__sampling__init(s);
    TRY(body_read_string(b, b->root, "model", &out->model));
    TRY(read_numbers(b, s));
    TRY(read_top_k(b, s));
    TRY(read_seed(b, s));
    TRY(read_stop(b, s));
    TRY(read_stop_ids(b, s));
    TRY(read_bias(b, s));
    TRY(read_priority(b, &out->priority));
    TRY(read_stream(b, out));
    return format_body_read(b, &out->format);
}

/* ---- formats ---- */

static Gemmad__V1__ResponseFormat *new_format(body *b, Gemmad__V1__ResponseFormat__FormatCase which) {
    Gemmad__V1__ResponseFormat *f = arena_alloc(&b->memory, 1, sizeof *f);
    gemmad__v1__response_format__init(f);
    f->format_case = which;
    return f;
}

static status take_json_object(body *b, Gemmad__V1__ResponseFormat **out) {
    *out = new_format(b, GEMMAD__V1__RESPONSE_FORMAT__FORMAT_JSON_OBJECT);
    (*out)->json_object = 1;
    return ST_OK;
}

/* A schema as an object or as the text of one. */
static status take_schema(body *b, const json_value *v, const char *param, Gemmad__V1__ResponseFormat **out) {
    size_t n;
    if (!v) return body_invalid(b, param, "the schema is missing");
    if (v->kind == JSON_KIND_STRING && strlen(v->text) != v->bytes)
        return body_invalid(b, param, "it has U+0000 in it");
    if (v->kind == JSON_KIND_NUMBER || v->kind == JSON_KIND_ARRAY)
        return body_invalid(b, param, "it must be a JSON schema");
    *out = new_format(b, GEMMAD__V1__RESPONSE_FORMAT__FORMAT_JSON_SCHEMA);
    (*out)->json_schema = v->kind == JSON_KIND_STRING ? (char *)(uintptr_t)v->text : body_write(b, v, &n);
    return ST_OK;
}

static status take_regex(body *b, const json_value *v, const char *param, Gemmad__V1__ResponseFormat **out) {
    if (!v || v->kind != JSON_KIND_STRING)
        return body_invalid(b, param, "it must be a regular expression, a string");
    if (strlen(v->text) != v->bytes)
        return body_invalid(b, param, "it has U+0000 in it, which is not allowed here");
    *out = new_format(b, GEMMAD__V1__RESPONSE_FORMAT__FORMAT_REGEX);
    (*out)->regex = (char *)(uintptr_t)v->text;
    return ST_OK;
}

static status take_choices(body *b, const json_value *v, const char *param,
                           Gemmad__V1__ResponseFormat **out) {
    if (!v || v->kind != JSON_KIND_ARRAY || v->count == 0)
        return body_invalid(b, param, "it must be an array of one string or more");
    *out = new_format(b, GEMMAD__V1__RESPONSE_FORMAT__FORMAT_CHOICES);
    Gemmad__V1__Choices *c = arena_alloc(&b->memory, 1, sizeof *c);
    gemmad__v1__choices__init(c);
    c->choices = arena_alloc(&b->memory, v->count, sizeof *c->choices);
    for (const json_value *m = v->first; m; m = m->next) {
        if (m->kind != JSON_KIND_STRING || m->bytes == 0 || strlen(m->text) != m->bytes)
            return body_invalid(b, param,
                                "it must be an array of strings that are not empty and without U+0000");
        c->choices[c->n_choices++] = (char *)(uintptr_t)m->text;
    }
    (*out)->choices = c;
    return ST_OK;
}

static status take_json_schema(body *b, const json_value *v, const char *param,
                               Gemmad__V1__ResponseFormat **out) {
    static const body_field nested[] = {{"type", NULL, NULL}, {"json_schema", NULL, NULL}};
    static const body_field inner[] = {{"type", NULL, NULL},
                                       {"name", "*", NULL},
                                       {"description", "*", NULL},
                                       {"strict", "true false", NULL},
                                       {"schema", NULL, NULL}};
    const json_value *holder = body_get(v, "json_schema");
    char within[64];
    snprintf(within, sizeof within, "%s.%s", param, holder ? "json_schema." : "");
    if (holder) {
        if (holder->kind != JSON_KIND_OBJECT)
            return body_invalid(b, param, "json_schema must be an object with a schema in it");
        snprintf(within, sizeof within, "%s.", param);
        TRY(body_check_fields(b, v, within, nested, COUNT(nested)));
        snprintf(within, sizeof within, "%s.json_schema.", param);
    }
    TRY(body_check_fields(b, holder ? holder : v, within, inner, COUNT(inner)));
    return take_schema(b, body_get(holder ? holder : v, "schema"), param, out);
}

status format_body_read_typed(body *b, const json_value *v, const char *param,
                              Gemmad__V1__ResponseFormat **out) {
    if (v->kind != JSON_KIND_OBJECT) return body_invalid(b, param, "it must be an object with a type");
    const json_value *type = body_get(v, "type");
    if (json_value_is_string(type, "text")) return ST_OK;
    if (json_value_is_string(type, "json_object")) return take_json_object(b, out);
    if (json_value_is_string(type, "json_schema")) return take_json_schema(b, v, param, out);
    if (json_value_is_string(type, "regex")) return take_regex(b, body_get(v, "regex"), param, out);
    if (json_value_is_string(type, "choice")) {
        const json_value *list = body_get(v, "choices");
        return take_choices(b, list ? list : body_get(v, "choice"), param, out);
    }
    return body_invalid(b, param, "the type must be text, json_object, json_schema, regex or choice");
}

static status take_structured(body *b, const json_value *v, Gemmad__V1__ResponseFormat **out) {
    static const body_field fields[] = {{"json", NULL, NULL},
                                        {"regex", NULL, NULL},
                                        {"choice", NULL, NULL},
                                        {"json_object", NULL, NULL},
                                        {"grammar", "", NULL},
                                        {"structural_tag", "", NULL},
                                        {"disable_any_whitespace", "false true", NULL}};
    bool any = false;
    if (v->kind != JSON_KIND_OBJECT) return body_invalid(b, "structured_outputs", "it must be an object");
    TRY(body_check_fields(b, v, "structured_outputs.", fields, COUNT(fields)));
    if (body_get(v, "json")) return take_schema(b, body_get(v, "json"), "structured_outputs", out);
    if (body_get(v, "regex")) return take_regex(b, body_get(v, "regex"), "structured_outputs", out);
    if (body_get(v, "choice")) return take_choices(b, body_get(v, "choice"), "structured_outputs", out);
    TRY(body_read_bool(b, v, "json_object", &any));
    return any ? take_json_object(b, out) : ST_OK;
}

status format_body_read(body *b, Gemmad__V1__ResponseFormat **out) {
    static const char *const names[] = {"response_format", "guided_json", "guided_regex", "guided_choice",
                                        "structured_outputs"};
    const char *found = NULL;
    for (size_t i = 0; i < COUNT(names); i++) {
        if (!body_get(b->root, names[i])) continue;
        if (found) return body_invalid(b, names[i], "it and %s are both given; one of them", found);
        found = names[i];
    }
    if (!found) return ST_OK;
    const json_value *v = body_get(b->root, found);
    if (!strcmp(found, "response_format")) return format_body_read_typed(b, v, found, out);
    if (!strcmp(found, "guided_json")) return take_schema(b, v, found, out);
    if (!strcmp(found, "guided_regex")) return take_regex(b, v, found, out);
    if (!strcmp(found, "guided_choice")) return take_choices(b, v, found, out);
    return take_structured(b, v, out);
}
