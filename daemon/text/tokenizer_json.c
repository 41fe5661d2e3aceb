/* tokenizer.json: what of it this tokenizer implements, and a refusal by name of all else. A file that is
 * read wrongly does not fail, it gives worse answers; so nothing unknown is passed over. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "daemon/text/json_cursor.h"
#include "daemon/text/tokenizer_internal.h"
#include "proto/limits.h"

enum {
    FILE_BYTES_MAX = 256 << 20, /* eight times Gemma 4's */
    FIELD_BYTES_MAX = 16 << 20, /* of what goes through jansson, which needs some ten times as much */
    FIELDS_MAX = 16,
};

/* Where a value lies in the text; begin 0: absent (byte 0 is the root's brace). */
typedef struct span {
    size_t begin, end;
} span;

typedef struct reader {
    json_cursor cursor;
    tokenizer *t;
    /* Indices follow the name tables below. */
    span root[FIELDS_MAX], model[FIELDS_MAX];
} reader;

enum { ROOT_VERSION, ROOT_ADDED, ROOT_NORMALIZER, ROOT_PRE, ROOT_POST, ROOT_DECODER, ROOT_MODEL };
static const char *const root_names[] = {
    "version", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
    "decoder", "model",        "truncation", "padding",       NULL};
enum {
    MODEL_TYPE,
    MODEL_DROPOUT,
    MODEL_PREFIX,
    MODEL_SUFFIX,
    MODEL_BYTES,
    MODEL_IGNORE,
    MODEL_VOCAB,
    MODEL_MERGES
};
static const char *const model_names[] = {"type",
                                          "dropout",
                                          "continuing_subword_prefix",
                                          "end_of_word_suffix",
                                          "byte_fallback",
                                          "ignore_merges",
                                          "vocab",
                                          "merges",
                                          "unk_token",
                                          "fuse_unk",
                                          NULL};

/* Notes where the values of the object at the cursor lie. nested, if not negative, is read as an object in
 * its turn, so that a large value is stepped over once and not once a level. */
static status find_fields(json_cursor *c, const char *what, const char *const *names, span *spans, int nested,
                          status (*read_nested)(reader *), reader *r) {
    bool more;
    TRY(json_cursor_expect(c, '{'));
    for (bool first = true;; first = false) {
        TRY(json_cursor_next(c, '}', first, &more));
        if (!more) return ST_OK;
        const char *key;
        size_t n;
        TRY(json_cursor_string(c, &key, &n));
        int i = 0;
        while (names[i] && (strlen(names[i]) != n || memcmp(names[i], key, n) != 0)) i++;
        if (!names[i])
            return fail(ST_UNSUPPORTED, "field \"%s%.*s\" is not known", what, n > 64 ? 64 : (int)n, key);
        if (spans[i].begin > 0) return fail(ST_FORMAT, "%s%s is there twice", what, names[i]);
        TRY(json_cursor_expect(c, ':'));
        (void)json_cursor_peek(c);
        spans[i].begin = c->at;
        if (i == nested) TRY(read_nested(r));
        else TRY(json_cursor_skip(c, &spans[i].begin, &spans[i].end));
        spans[i].end = c->at;
    }
}

static status find_model_fields(reader *r) {
    return find_fields(&r->cursor, "model.", model_names, r->model, -1, NULL, r);
}

static status find_root_fields(reader *r) {
    json_cursor *c = &r->cursor;
    TRY(find_fields(c, "", root_names, r->root, ROOT_MODEL, find_model_fields, r));
    if (json_cursor_peek(c) != 0 || c->at != c->size)
        return fail(ST_FORMAT, "byte %zu: text after the end", c->at);
    if (r->root[ROOT_MODEL].begin == 0) return fail(ST_FORMAT, "model is missing");
    return ST_OK;
}

/* A small value as a tree; *out is NULL when it is absent or null. */
static status small_value(const reader *r, span s, const char *name, json_t **out) {
    *out = NULL;
    if (s.begin == 0) return ST_OK;
    if (s.end - s.begin > FIELD_BYTES_MAX)
        return fail(ST_FORMAT, "%s has %zu bytes, at most %d are allowed", name, s.end - s.begin,
                    FIELD_BYTES_MAX);
    json_error_t error;
    json_t *value = json_loadb(r->cursor.text + s.begin, s.end - s.begin,
                               JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!value) return fail(ST_FORMAT, "%s: line %d: %s", name, error.line, error.text);
    if (!json_is_null(value)) *out = value;
    else json_decref(value);
    return ST_OK;
}

/* --- what must be as this tokenizer does it --- */

static bool is_string(const json_t *value, const char *want) {
    return json_is_string(value) && strcmp(json_string_value(value), want) == 0;
}

/* {"type": "Replace", "pattern": {"String": from}, "content": to} */
static bool is_replace(const json_t *v, const char *from, const char *to) {
    const json_t *pattern = json_object_get(v, "pattern");
    return is_string(json_object_get(v, "type"), "Replace") && json_object_size(pattern) == 1 &&
           is_string(json_object_get(pattern, "String"), from) &&
           is_string(json_object_get(v, "content"), to);
}

static bool normalizer_fits(const json_t *v) { return is_replace(v, " ", SPACE_MARK); }

/* A Split on spaces never fires: none are left. Inverted, it would split everywhere else. */
static bool pre_tokenizer_fits(const json_t *v) {
    if (!v) return true;
    const json_t *pattern = json_object_get(v, "pattern");
    return is_string(json_object_get(v, "type"), "Split") && json_object_size(pattern) == 1 &&
           is_string(json_object_get(pattern, "String"), " ") && !json_is_true(json_object_get(v, "invert"));
}

/* The text alone, or one special token and the text: whether <bos> goes in front is the caller's choice
 * anyway. */
static bool post_processor_fits(const json_t *v) {
    if (!v) return true;
    const json_t *single = json_object_get(v, "single");
    size_t n = json_array_size(single);
    return is_string(json_object_get(v, "type"), "TemplateProcessing") && (n == 1 || n == 2) &&
           is_string(json_object_get(json_object_get(json_array_get(single, n - 1), "Sequence"), "id"),
                     "A") &&
           (n == 1 || json_is_object(json_object_get(json_array_get(single, 0), "SpecialToken")));
}

static bool decoder_fits(const json_t *v) {
    const json_t *list = json_object_get(v, "decoders");
    return is_string(json_object_get(v, "type"), "Sequence") && json_array_size(list) == 3 &&
           is_replace(json_array_get(list, 0), SPACE_MARK, " ") &&
           is_string(json_object_get(json_array_get(list, 1), "type"), "ByteFallback") &&
           is_string(json_object_get(json_array_get(list, 2), "type"), "Fuse");
}

static bool version_fits(const json_t *v) { return !v || is_string(v, "1.0"); }
static bool type_fits(const json_t *v) { return is_string(v, "BPE"); }
static bool dropout_fits(const json_t *v) { return !v || (json_is_number(v) && json_number_value(v) == 0); }
static bool affix_fits(const json_t *v) { return !v || is_string(v, ""); }
static bool true_fits(const json_t *v) { return json_is_true(v); }
static bool false_fits(const json_t *v) { return !v || json_is_false(v); }

static status check_field(const reader *r, span s, const char *name, bool (*fits)(const json_t *),
                          const char *want) {
    json_t *value;
    TRY(small_value(r, s, name, &value));
    bool good = fits(value);
    json_decref(value);
    if (good) return ST_OK;
    size_t n = s.end - s.begin;
    return fail(ST_UNSUPPORTED, "%s is %.*s%s, only %s is implemented", name, n > 200 ? 200 : (int)n,
                s.begin ? r->cursor.text + s.begin : "",
                s.begin == 0 ? "absent"
                : n > 200    ? "…"
                             : "",
                want);
}

static status check_fields(const reader *r) {
    const span *root = r->root, *model = r->model;
    TRY(check_field(r, root[ROOT_VERSION], "version", version_fits, "\"1.0\""));
    TRY(check_field(r, model[MODEL_TYPE], "model.type", type_fits, "\"BPE\""));
    TRY(check_field(r, model[MODEL_DROPOUT], "model.dropout", dropout_fits, "null"));
    TRY(check_field(r, model[MODEL_PREFIX], "model.continuing_subword_prefix", affix_fits, "null"));
    TRY(check_field(r, model[MODEL_SUFFIX], "model.end_of_word_suffix", affix_fits, "null"));
    TRY(check_field(r, model[MODEL_BYTES], "model.byte_fallback", true_fits, "true"));
    TRY(check_field(r, model[MODEL_IGNORE], "model.ignore_merges", false_fits, "false"));
    TRY(check_field(r, root[ROOT_NORMALIZER], "normalizer", normalizer_fits,
                    "Replace of \" \" by \"" SPACE_MARK "\""));
    TRY(check_field(r, root[ROOT_PRE], "pre_tokenizer", pre_tokenizer_fits, "null or a Split on \" \""));
    TRY(check_field(r, root[ROOT_POST], "post_processor", post_processor_fits,
                    "null or TemplateProcessing of [special token,] A"));
    return check_field(r, root[ROOT_DECODER], "decoder", decoder_fits,
                       "a Sequence of Replace \"" SPACE_MARK "\" by \" \", ByteFallback, Fuse");
}

/* --- vocabulary, merges, added tokens --- */

static int shown(size_t n) { return n > 64 ? 64 : (int)n; }

static status go_to(reader *r, span s, const char *name) {
    if (s.begin == 0) return fail(ST_FORMAT, "%s is missing", name);
    r->cursor.at = s.begin;
    return ST_OK;
}

static status read_vocab(reader *r) {
    json_cursor *c = &r->cursor;
    bool more;
    TRY(go_to(r, r->model[MODEL_VOCAB], "model.vocab"));
    TRY(json_cursor_expect(c, '{'));
    for (bool first = true;; first = false) {
        TRY(json_cursor_next(c, '}', first, &more));
        if (!more) return ST_OK;
        const char *text;
        size_t n;
        uint32_t id;
        TRY(json_cursor_string(c, &text, &n));
        TRY(json_cursor_expect(c, ':'));
        TRY(json_cursor_u32(c, LIMIT_VOCAB - 1, &id));
        status st = vocab_add(&r->t->vocab, text, n, id);
        if (st != ST_OK) return fail_within(st, "model.vocab");
    }
}

/* ["a", "b"], or "a b" in older files */
static status read_merge(reader *r, strbuf *pair) {
    static const char where[] = "model.merges";
    json_cursor *c = &r->cursor;
    const char *text;
    size_t n;
    bpe_merge merge;
    if (!json_cursor_take(c, '[')) {
        TRY(json_cursor_string(c, &text, &n));
        return tokenizer_merge_text(r->t, where, text, n, pair);
    }
    strbuf_clear(pair);
    TRY(json_cursor_string(c, &text, &n));
    TRY(tokenizer_merge_half(r->t, where, text, n, pair, &merge.left));
    TRY(json_cursor_expect(c, ','));
    TRY(json_cursor_string(c, &text, &n));
    TRY(tokenizer_merge_half(r->t, where, text, n, pair, &merge.right));
    TRY(json_cursor_expect(c, ']'));
    return tokenizer_merge_end(r->t, where, pair, merge);
}

static status read_merges(reader *r) {
    json_cursor *c = &r->cursor;
    bool more = true;
    strbuf pair = {0};
    status st;
    TRY_OR_FAIL(go_to(r, r->model[MODEL_MERGES], "model.merges"));
    TRY_OR_FAIL(json_cursor_expect(c, '['));
    for (bool first = true;; first = false) {
        TRY_OR_FAIL(json_cursor_next(c, ']', first, &more));
        if (!more) break;
        TRY_OR_FAIL(read_merge(r, &pair));
    }
fail:
    strbuf_close(&pair);
    return st;
}

/* Flags that would change where a token is found, each with the value that changes nothing. */
static status check_flags(json_t *token, const char *where, bool *special) {
    static const char *const flags[] = {"single_word", "lstrip", "rstrip", "normalized"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bool set = false;
        TRY(json_read_bool_optional(token, where, flags[i], &set));
        if (set) return fail(ST_UNSUPPORTED, "%s: %s is true, only false is implemented", where, flags[i]);
    }
    *special = false;
    return json_read_bool_optional(token, where, "special", special);
}

static status read_added_token(tokenizer *t, json_t *token, size_t index) {
    char where[64];
    uint32_t id = 0;
    bool special;
    snprintf(where, sizeof where, "added_tokens[%zu]", index);
    const json_t *content = json_object_get(token, "content");
    if (!json_is_string(content) || json_string_length(content) == 0)
        return fail(ST_FORMAT, "%s: content is not a string with a character", where);
    const char *text = json_string_value(content);
    size_t n = json_string_length(content);
    TRY(json_read_u32(token, where, "id", 0, LIMIT_VOCAB - 1, &id));
    TRY(check_flags(token, where, &special));
    uint32_t known = vocab_find(&t->vocab, text, n);
    if (known == NO_TOKEN) {
        status st = vocab_add(&t->vocab, text, n, id);
        if (st != ST_OK) return fail_within(st, "%s", where);
    } else if (known != id) {
        return fail(ST_FORMAT, "%s: \"%.*s\" has id %u, and %u in model.vocab", where, shown(n), text, id,
                    known);
    }
    tokenizer_add_added(t, text, n, id, special);
    return ST_OK;
}

static status read_added_tokens(reader *r) {
    json_t *list, *token;
    size_t i;
    status st = ST_OK;
    TRY(small_value(r, r->root[ROOT_ADDED], "added_tokens", &list));
    if (list && !json_is_array(list)) st = fail(ST_FORMAT, "added_tokens is not a list");
    else if (list) {
        json_array_foreach(list, i, token) TRY_OR_FAIL(read_added_token(r->t, token, i));
        added_tokens_build(&r->t->added);
        for (size_t k = 1; k < r->t->added.count; k++)
            if (r->t->added.list[k].id == r->t->added.list[k - 1].id)
                TRY_OR_FAIL(fail(ST_FORMAT, "added_tokens has id %u twice", r->t->added.list[k].id));
    }
fail:
    json_decref(list);
    return st;
}

static status read_all(tokenizer *t, const char *json, size_t n) {
    reader r = {.cursor = {.text = json, .size = n}, .t = t};
    status st;
    TRY_OR_FAIL(find_root_fields(&r));
    TRY_OR_FAIL(check_fields(&r));
    TRY_OR_FAIL(read_vocab(&r));
    TRY_OR_FAIL(read_merges(&r));
    TRY_OR_FAIL(read_added_tokens(&r));
    TRY_OR_FAIL(tokenizer_finish(t));
fail:
    json_cursor_close(&r.cursor);
    return st;
}

static status parse(tokenizer **out, const char *name, const char *json, size_t n) {
    *out = NULL;
    if (n > FILE_BYTES_MAX)
        return fail(ST_FORMAT, "%s has %zu bytes, at most %d are allowed", name, n, FILE_BYTES_MAX);
    size_t valid = utf8_check(json, n);
    if (valid != n) return fail(ST_FORMAT, "%s: byte %zu is not UTF-8", name, valid);
    tokenizer *t = tokenizer_new();
    status st = read_all(t, json, n);
    if (st != ST_OK) {
        tokenizer_close(t);
        return fail_within(st, "%s", name);
    }
    *out = t;
    return ST_OK;
}

status tokenizer_parse(tokenizer **out, const char *json, size_t n) {
    return parse(out, "tokenizer.json", json, n);
}

status tokenizer_open(tokenizer **out, const char *path) {
    char *json;
    size_t n;
    *out = NULL;
    TRY(file_read_all(path, FILE_BYTES_MAX, &json, &n));
    status st = parse(out, path, json, n);
    free(json);
    return st;
}
