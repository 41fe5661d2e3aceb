/* JSON trees: what RFC 8259 allows and what it does not, what must be kept, and the same values as jansson where it can
 * hold them. */
#include "daemon/text/json_tree.h"

#include <jansson.h>

#include "base/memory.h"
#include "tests/test.h"

static json_tree *read_text(const char *text) {
    json_tree *t;
    CHECK_STATUS(json_tree_read(&t, text, strlen(text)), ST_OK);
    return t;
}

static void check_written(const char *text, const char *want) {
    json_tree *t = read_text(text);
    strbuf out = {0};
    if (t) json_value_write(json_tree_root(t), &out);
    CHECK_THAT(!strcmp(strbuf_text(&out), want), "%s became %s, not %s", text, strbuf_text(&out), want);
    strbuf_close(&out);
    json_tree_close(t);
}

TEST(keeps_order_and_spelling) {
    check_written("{\"z\":1,\"a\":2,\"m\":{\"y\":[],\"b\":{}}}",
                  "{\"z\":1,\"a\":2,\"m\":{\"y\":[],\"b\":{}}}");
    check_written(" [ 1 , 1.0 , -0 , 1E+05 , 0.10 , 12345678901234567890123 ] \n",
                  "[1,1.0,-0,1E+05,0.10,12345678901234567890123]");
    check_written("\"\\u00e9\\ud83d\\ude80\\/\\b\\f\\n\\r\\t\\\"\\\\\\u0000\\u001f\\u007f\"",
                  "\"é🚀/\\b\\f\\n\\r\\t\\\"\\\\\\u0000\\u001f\x7F\"");
    check_written("[null,true,false]", "[null,true,false]");
    check_written("\"\"", "\"\"");
    check_written("0", "0");
}

TEST(last_of_equal_keys_counts_where_the_first_stood) {
    check_written("{\"a\":1,\"b\":2,\"a\":{\"x\":3}}", "{\"a\":{\"x\":3},\"b\":2}");
    check_written("{\"a\":1,\"a\":2,\"a\":3}", "{\"a\":3}");
    check_written("{\"\":1,\"\\u0000\":2,\"\":\"\"}", "{\"\":\"\",\"\\u0000\":2}");
    /* More than are compared on the stack. */
    strbuf text = {0}, want = {0};
    for (int i = 0; i < 300; i++) strbuf_add_format(&text, "%s\"k%d\":%d", i ? "," : "{", i % 100, i);
    strbuf_add_string(&text, "}");
    for (int i = 0; i < 100; i++) strbuf_add_format(&want, "%s\"k%d\":%d", i ? "," : "{", i, i + 200);
    strbuf_add_string(&want, "}");
    check_written(strbuf_text(&text), strbuf_text(&want));
    json_tree *t = read_text(strbuf_text(&text));
    CHECK(json_tree_root(t)->count == 100);
    json_tree_close(t);
    strbuf_close(&text);
    strbuf_close(&want);
}

TEST(values) {
    json_tree *t = read_text(
        "{\"i\":-9223372036854775808,\"j\":9223372036854775807,\"k\":9223372036854775808,\"f\":1.0,\"e\":1e2,"
        "\"big\":1e999,\"s\":\"a\\u0000b\",\"z\":-0,\"n\":null,\"o\":{\"i\":7}}");
    const json_value *root = json_tree_root(t), *s = json_value_get(root, "s");
    int64_t i = 5;
    double d = 5;
    CHECK(json_value_integer(json_value_get(root, "i"), &i) && i == INT64_MIN);
    CHECK(json_value_integer(json_value_get(root, "j"), &i) && i == INT64_MAX);
    CHECK(json_value_integer(json_value_get(root, "z"), &i) && i == 0);
    i = 5;
    CHECK(!json_value_integer(json_value_get(root, "k"), &i) &&
          !json_value_integer(json_value_get(root, "f"), &i));
    CHECK(!json_value_integer(json_value_get(root, "e"), &i) && !json_value_integer(s, &i) &&
          !json_value_integer(NULL, &i) && i == 5);
    CHECK(json_value_number(json_value_get(root, "e"), &d) && d == 100);
    CHECK(json_value_number(json_value_get(root, "k"), &d) && d == 9223372036854775808.0);
    d = 5;
    CHECK(!json_value_number(json_value_get(root, "big"), &d) && !json_value_number(s, &d) &&
          !json_value_number(NULL, &d) && d == 5);
    CHECK(s->bytes == 3 && !memcmp(s->text, "a\0b", 4));
    CHECK(!json_value_is_string(s, "a") && !json_value_is_string(root, "a") &&
          !json_value_is_string(NULL, "a"));
    CHECK(!json_value_get(root, "x") && !json_value_get(s, "x") && !json_value_get(NULL, "x"));
    CHECK(json_value_get(json_value_get(root, "o"), "i")->key_bytes == 1 && root->count == 10 && !root->key);
    CHECK(json_value_get(root, "n")->kind == JSON_KIND_NULL);
    json_tree_close(t);
    t = read_text("\"name\"");
    CHECK(json_value_is_string(json_tree_root(t), "name") && !json_value_is_string(json_tree_root(t), "nam"));
    json_tree_close(t);
    json_tree_close(NULL);
}

TEST(refuses) {
    static const struct {
        const char *text, *why;
    } bad[] = {
        {"", "byte 0: the text ends, a value is expected"},
        {"  ", "byte 2"},
        {"[", "byte 1: the text ends"},
        {"[1", "',' or ']'"},
        {"[1,]", "byte 3: a value"},
        {"[,1]", "byte 1"},
        {"[1 2]", "byte 3"},
        {"{", "a key in quotes"},
        {"{\"a\"", "':' is expected"},
        {"{\"a\":}", "a value"},
        {"{\"a\":1,}", "byte 7: a key"},
        {"{a:1}", "a key"},
        {"{\"a\" 1}", "':'"},
        {"{\"a\":1]", "',' or '}'"},
        {"[1}", "',' or ']'"},
        {"1 2", "byte 2: more text"},
        {"]", "a value"},
        {"nul", "a value"},
        {"nullx", "byte 4: more text"},
        {"NaN", "a value"},
        {"Infinity", "a value"},
        {"-", "byte 1: the text ends, a digit"},
        {"01", "leading zero"},
        {"-01", "leading zero"},
        {"1.", "after the point"},
        {".5", "a value"},
        {"1e", "exponent"},
        {"1e+", "exponent"},
        {"+1", "a value"},
        {"0x1", "more text"},
        {"\"", "closing quote"},
        {"\"\\", "closing quote"},
        {"\"\\x\"", "unknown escape"},
        {"\"\\u12\"", "four hexadecimal"},
        {"\"\\u12g4\"", "four hexadecimal"},
        {"\"\n\"", "byte 1: a control character"},
        {"\"\\ud800\"", "surrogate"},
        {"\"\\udc00\"", "surrogate"},
        {"\"\\ud800\\u0041\"", "surrogate"},
        {"\"\\ud800\\", "surrogate"},
        {"\"\xC3\"", "byte 1: not UTF-8"},
        {"\"\xED\xA0\x80\"", "byte 1: not UTF-8"},
        {"\xEF\xBB\xBF{}", "byte 0"},
        {"[1]//", "more text"},
        {"'a'", "a value"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_tree *t = (json_tree *)1;
        CHECK_STATUS(json_tree_read(&t, bad[i].text, strlen(bad[i].text)), ST_FORMAT);
        CHECK_SENTENCE(bad[i].why);
        CHECK(t == NULL);
    }
    json_tree *t;
    CHECK_STATUS(json_tree_read(&t, "1\0", 2), ST_FORMAT);
    CHECK_STATUS(json_tree_read(&t, "\"a\0b\"", 5), ST_FORMAT);
    CHECK_STATUS(json_tree_read(&t, NULL, 0), ST_FORMAT);
}

static void check_depth(uint32_t depth, status want) {
    strbuf text = {0};
    for (uint32_t i = 0; i < depth; i++) strbuf_add_string(&text, i % 2 ? "{\"a\":" : "[");
    strbuf_add_string(&text, "1");
    for (uint32_t i = depth; i-- > 0;) strbuf_add_string(&text, i % 2 ? "}" : "]");
    json_tree *t;
    CHECK_STATUS(json_tree_read(&t, text.data, text.size), want);
    if (want == ST_OK) {
        strbuf out = {0};
        json_value_write(json_tree_root(t), &out);
        CHECK(out.size == text.size && !memcmp(out.data, text.data, out.size));
        strbuf_close(&out);
    } else {
        CHECK_SENTENCE("byte 384: nested deeper than 128");
    }
    json_tree_close(t);
    strbuf_close(&text);
}

TEST(bounds) {
    check_depth(JSON_TREE_DEPTH_MAX - 1, ST_OK);
    check_depth(JSON_TREE_DEPTH_MAX, ST_OK);
    check_depth(JSON_TREE_DEPTH_MAX + 1, ST_FORMAT);
    check_depth(100001, ST_FORMAT);
    /* An array of values_max - 1 and one of as many. */
    char *text = memory_alloc(2 * JSON_TREE_VALUES_MAX + 2);
    size_t n = 0;
    text[n++] = '[';
    for (uint32_t i = 1; i < JSON_TREE_VALUES_MAX; i++) text[n++] = '1', text[n++] = ',';
    text[n - 1] = ']';
    json_tree *t;
    CHECK_STATUS(json_tree_read(&t, text, n), ST_OK);
    CHECK(t && json_tree_root(t)->count == JSON_TREE_VALUES_MAX - 1 && json_tree_count(t) == JSON_TREE_VALUES_MAX);
    json_tree_close(t);
    memcpy(text + n - 1, ",1]", 3);
    CHECK_STATUS(json_tree_read(&t, text, n + 2), ST_FORMAT);
    CHECK_SENTENCE("more than 1048576 values");
    free(text);
}

TEST(writes_bytes_that_are_no_text) {
    strbuf out = {0};
    json_write_string(&out, "a\xFF\xC3(\xE2\x82\"\x01", 8);
    CHECK_THAT(
        !strcmp(strbuf_text(&out), "\"a\xEF\xBF\xBD\xEF\xBF\xBD(\xEF\xBF\xBD\xEF\xBF\xBD\\\"\\u0001\""), "%s",
        strbuf_text(&out));
    strbuf_clear(&out);
    json_write_string(&out, NULL, 0);
    CHECK(!strcmp(strbuf_text(&out), "\"\""));
    strbuf_close(&out);
}

/* ---- against jansson, on random values ---- */

static uint32_t random_below(uint32_t n) {
    static uint32_t s = 2463534242u;
    s ^= s << 13, s ^= s >> 17, s ^= s << 5;
    return s % n;
}

static void random_string(strbuf *out) {
    static const char *pieces[] = {"a",    "\\n", "\\u00e9", "é",   "\\ud83d\\ude80", "🚀", " ", "\\\\",
                                   "\\\"", "/",   "\\/",     "key", "\\u0041"};
    strbuf_add_string(out, "\"");
    for (uint32_t n = random_below(5); n > 0; n--)
        strbuf_add_string(out, pieces[random_below(sizeof pieces / sizeof *pieces)]);
    strbuf_add_string(out, "\"");
}

static void random_space(strbuf *out) {
    if (random_below(4) == 0)
        strbuf_add_string(out, (const char *[]){" ", "\n", "\t\r", "  "}[random_below(4)]);
}

static void random_value(strbuf *out, uint32_t depth) {
    static const char *scalars[] = {
        "null", "true",  "false", "0",   "-0",          "17", "-9223372036854775808", "9223372036854775807",
        "1.5",  "-1e-7", "2E+10", "0.1", "123456.789e3"};
    uint32_t kind = random_below(depth < 6 ? 8 : 4);
    random_space(out);
    if (kind < 3) {
        strbuf_add_string(out, scalars[random_below(sizeof scalars / sizeof *scalars)]);
    } else if (kind == 3) {
        random_string(out);
    } else {
        strbuf_add_string(out, kind < 6 ? "{" : "[");
        for (uint32_t n = random_below(6), i = 0; i < n; i++) {
            if (i > 0) strbuf_add_string(out, ",");
            random_space(out);
            if (kind < 6) {
                random_string(out);
                random_space(out);
                strbuf_add_string(out, ":");
            }
            random_value(out, depth + 1);
        }
        random_space(out);
        strbuf_add_string(out, kind < 6 ? "}" : "]");
    }
    random_space(out);
}

static bool same(const json_value *v, json_t *j);

static bool same_children(const json_value *v, json_t *j) {
    uint32_t n = 0;
    for (const json_value *c = v->first; c; c = c->next, n++) {
        json_t *other = v->kind == JSON_KIND_ARRAY ? json_array_get(j, n) : json_object_get(j, c->key);
        if (!other || !same(c, other)) return false;
    }
    return n == v->count && n == (v->kind == JSON_KIND_ARRAY ? json_array_size(j) : json_object_size(j));
}

static bool same(const json_value *v, json_t *j) {
    int64_t i;
    double d;
    switch (v->kind) {
    case JSON_KIND_NULL: return json_is_null(j);
    case JSON_KIND_TRUE: return json_is_true(j);
    case JSON_KIND_FALSE: return json_is_false(j);
    case JSON_KIND_STRING:
        return json_is_string(j) && v->bytes == json_string_length(j) &&
               !memcmp(v->text, json_string_value(j), v->bytes);
    case JSON_KIND_NUMBER:
        if (json_is_integer(j)) return json_value_integer(v, &i) && i == json_integer_value(j);
        return !json_value_integer(v, &i) && json_value_number(v, &d) && d == json_real_value(j);
    case JSON_KIND_ARRAY: return json_is_array(j) && same_children(v, j);
    case JSON_KIND_OBJECT: return json_is_object(j) && same_children(v, j);
    }
    return false;
}

TEST(same_as_jansson) {
    strbuf text = {0};
    uint32_t both = 0, neither = 0;
    json_error_t error;
    for (int round = 0; round < 20000; round++) {
        strbuf_clear(&text);
        random_value(&text, 0);
        /* Half of them with one byte changed, so that both refuse most of those. */
        if (round % 2) text.data[random_below((uint32_t)text.size)] = "[]{}:,\"\\09.e-tn x"[random_below(17)];
        json_t *j = json_loadb(text.data, text.size, JSON_DECODE_ANY, &error);
        bool beyond =
            !j && json_error_code(&error) == json_error_numeric_overflow; /* jansson's limit, not JSON's */
        json_tree *t;
        status st = json_tree_read(&t, text.data, text.size);
        if (!beyond)
            CHECK_THAT((st == ST_OK) == (j != NULL), "%s: %s", strbuf_text(&text),
                       st == ST_OK ? "read" : status_text());
        if (st == ST_OK && j) CHECK_THAT(same(json_tree_root(t), j), "%s", strbuf_text(&text));
        both += st == ST_OK && j, neither += st != ST_OK && !j;
        json_tree_close(t);
        json_decref(j);
    }
    CHECK_THAT(both > 8000 && neither > 2000, "%u read, %u refused", both, neither);
    strbuf_close(&text);
}

int main(void) {
    RUN(keeps_order_and_spelling);
    RUN(last_of_equal_keys_counts_where_the_first_stood);
    RUN(values);
    RUN(refuses);
    RUN(bounds);
    RUN(writes_bytes_that_are_no_text);
    RUN(same_as_jansson);
    return test_result();
}
