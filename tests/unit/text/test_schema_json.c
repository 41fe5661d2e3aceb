/* Schemas as grammars of JSON: what they match, read naively from the network, and what is refused by name. */
#include "tests/test.h"

#include "daemon/text/grammar_schema.h"
#include "tests/grammar_network.h"

static grammar *grammar_of(const char *text) {
    schema *s;
    value_notation n;
    uint32_t rule;
    if (schema_open(&s, text, strlen(text)) != ST_OK) {
        printf("%s: %s\n", text, status_text());
        CHECK(!"read");
        return NULL;
    }
    grammar *g = grammar_open();
    value_notation_open(&n, g);
    CHECK_STATUS(grammar_write_schema(&n, s, SCHEMA_KINDS, &rule), ST_OK);
    grammar_edge_call(g, grammar_rule_start(g, 0), rule, grammar_rule_end(g, 0));
    schema_close(s);
    return g;
}

/* yes and no: documents, each up to a line end. */
static void check(const char *schema_text, const char *yes, const char *no) {
    grammar *g = grammar_of(schema_text);
    for (int wanted = 1; g && wanted >= 0; wanted--)
        for (const char *p = wanted ? yes : no; *p; p += *p != 0) {
            size_t n = strcspn(p, "\x1F");
            CHECK_THAT(network_matches_bytes(g, p, n) == (wanted == 1), "%s %s %.*s", schema_text,
                       wanted ? "refuses" : "admits", (int)n, p);
            p += n;
        }
    grammar_close(g);
}
#define N "\x1F"

TEST(kinds) {
    check("{\"type\":\"null\"}", "null", "nul" N "0" N "\"null\"");
    check("{\"type\":\"boolean\"}", "true" N "false", "null" N "1");
    check("{\"type\":\"string\"}",
          "\"\"" N "\"a\"" N "\"\\n\\\"\\\\\\/\"" N "\"é😀\"" N "\"\\u00e9\\ud83d\\ude00\\u0000\"",
          "\"" N "\"a" N "a" N "\"\n\"" N "\"\\x\"" N "\"\\ud83d\"" N "\"\\ude00\"" N "\"\\ud83d\\u0041\"" N
          "\"\xFF\"" N "\"\xC0\x80\"" N "\"\xED\xA0\x80\"");
    check("{\"type\":[\"integer\",\"null\"]}", "null" N "5", "\"5\"" N "5.0" N "true");
    check("true", "1" N "[1, {\"a\": null}]" N "{}" N "{\n  \"a\": [\n    1\n  ]\n}" N "-0.5e+10",
          "" N "01" N "[1,]" N "{a:1}" N "1 ");
    check("{\"anyOf\":[{\"type\":\"null\"},{\"const\":7}]}", "null" N "7", "8");
}

TEST(numbers_are_bounded) {
    check("{\"type\":\"integer\"}", "0" N "-1" N "1234567890123456789" N "10",
          "-0" N "12345678901234567890" N "1e3" N "01" N "1.0");
    check("{\"type\":\"number\"}", "0" N "-0" N "1.5" N "1e9" N "2.5E-10" N "0.1234567890123456789",
          "0.12345678901234567890" N "1e100" N ".5" N "5." N "+1");
    check("{\"type\":\"integer\",\"minimum\":-5,\"maximum\":120}",
          "-5" N "-1" N "0" N "7" N "99" N "100" N "119" N "120",
          "-6" N "121" N "999" N "-10" N "1200" N "-0" N "-50");
    check("{\"type\":\"integer\",\"exclusiveMinimum\":0}", "1" N "9999999999999999999", "0" N "-1");
    check("{\"type\":\"integer\",\"maximum\":-10}", "-10" N "-11" N "-100", "-9" N "0" N "10" N "-1");
    check("{\"type\":\"integer\",\"minimum\":17,\"maximum\":17.5}", "17", "18" N "1" N "16" N "7");
    check("{\"type\":\"number\",\"minimum\":0.25,\"exclusiveMaximum\":1.5}",
          "0.25" N "0.250" N "1" N "1.49999" N "0.3" N "1.0",
          "0.2" N "0.2499" N "1.5" N "1.50" N "1.6" N "0" N "0.0" N "2" N "-1" N "1e0" N "10");
    check("{\"type\":\"number\",\"minimum\":-1.5,\"maximum\":-0.05}",
          "-1.5" N "-1" N "-0.05" N "-0.050" N "-1.4999" N "-0.5",
          "-1.51" N "-0.04" N "0" N "-0" N "1" N "-2" N "-0.0");
    check("{\"type\":\"number\",\"exclusiveMinimum\":0,\"maximum\":1e2}", "0.0001" N "100" N "99.9" N "100.0",
          "0" N "0.0" N "100.1" N "101");
    check("{\"type\":\"integer\",\"multipleOf\":7,\"minimum\":0,\"maximum\":100}", "0" N "7" N "14" N "98",
          "1" N "8" N "105" N "77.0");
    check("{\"type\":\"number\",\"multipleOf\":0.25}", "0" N "1.25" N "-3.5" N "2.50" N "7",
          "0.1" N "1.255" N "1.24");
    check("{\"type\":\"integer\",\"multipleOf\":2.5}", "5" N "0" N "-10", "2" N "25.0" N "3");
    check("{\"minimum\":3}", "3" N "4.5", "\"a\"" N "2");
    check("{\"type\":\"integer\",\"format\":\"int32\"}", "2147483647" N "-2147483648", "2147483648");
}

TEST(strings_have_lengths) {
    check("{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}",
          "\"ab\"" N "\"é😀\\n\"" N "\"\\ud83d\\ude00\\ud83d\\ude00\"", "\"a\"" N "\"abcd\"" N "\"\\u0041\"");
    check("{\"type\":\"string\",\"maxLength\":0}", "\"\"", "\"a\"");
    check("{\"type\":\"string\",\"pattern\":\"^a+$\",\"maxLength\":3}", "\"a\"" N "\"aaa\"",
          "\"aaaa\"" N "\"\"" N "\"b\"");
    check("{\"type\":\"string\",\"pattern\":\"b\"}", "\"b\"" N "\"abc\"" N "\"\\\"b\"", "\"a\"" N "\"\"");
    check("{\"type\":\"string\",\"pattern\":\"^\\\\d{4}-\\\\d\\\\d$\",\"minLength\":1,\"maxLength\":90}",
          "\"2024-12\"", "\"2024-1\"");
    check("{\"type\":\"string\",\"format\":\"date\"}", "\"2024-02-29\"" N "\"1999-12-31\"" N "\"2000-02-29\"",
          "\"2023-02-29\"" N "\"1900-02-29\"" N "\"2024-13-01\"" N "\"2024-04-31\"");
    check("{\"type\":\"string\",\"format\":\"ipv4\"}", "\"192.168.0.255\"", "\"256.1.1.1\"" N "\"01.1.1.1\"");
    check("{\"type\":\"string\",\"format\":\"uuid\",\"pattern\":\"^[0-8]\"}",
          "\"12345678-1234-1234-1234-123456789abc\"", "\"92345678-1234-1234-1234-123456789abc\"");
}

TEST(enumerations) {
    check("{\"enum\":[\"a\",\"b\\n\",1.50,null,{\"k\":[1,\"x\"]}]}",
          "\"a\"" N "\"b\\n\"" N "1.50" N "null" N "{\"k\": [1, \"x\"]}", "\"c\"" N "1.5" N "{}");
    check("{\"type\":\"string\",\"enum\":[\"a\",1,\"bbb\"],\"maxLength\":2}", "\"a\"", "1" N "\"bbb\"");
    check("{\"const\":\"x\\\"y\"}", "\"x\\\"y\"", "\"x\"");
    check("{\"enum\":[1,2,3],\"allOf\":[{\"enum\":[2.0,3,4]},{\"minimum\":3}]}", "3", "2" N "1" N "4");
    check("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}},\"enum\":[{\"a\":1},{\"a\":"
          "\"s\"},{\"b\":2}]}",
          "{\"a\":1}" N "{\"b\":2}", "{\"a\":\"s\"}");
}

TEST(objects) {
    const char *strict =
        "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"boolean\"}},"
        "\"required\":[\"a\",\"b\"],\"additionalProperties\":false}";
    check(strict, "{\"a\":1,\"b\":true}" N "{\"a\": 1, \"b\": true}" N "{\n  \"a\": 1,\n  \"b\": true\n}",
          "{\"b\":true,\"a\":1}" N "{\"a\":1}" N "{}" N "{\"a\":1,\"b\":true,\"c\":1}" N
          "{\"a\":1,\"b\":true,}" N "{\"a\" :1,\"b\":true}" N "{\"a\":  1,\"b\":true}" N
          "{\n\n\"a\":1,\"b\":true}");
    check("{\"type\":\"object\",\"properties\":{\"a\":{\"const\":1},\"b\":{\"const\":2},\"c\":{\"const\":3}},"
          "\"required\":[\"b\"]}",
          "{\"b\":2}" N "{\"a\":1,\"b\":2}" N "{\"b\":2,\"c\":3}" N "{\"a\":1,\"b\":2,\"c\":3}",
          "{}" N "{\"a\":1}" N "{\"a\":1,\"c\":3}" N "{,\"b\":2}" N "{\"b\":2,}");
    check("{\"type\":\"object\",\"properties\":{\"a\":{\"const\":1},\"b\":{\"const\":2}}}",
          "{}" N "{\"a\":1}" N "{\"b\":2}" N "{\"a\":1,\"b\":2}", "{\"b\":2,\"a\":1}" N "{\"c\":1}" N "{ }");
    check("{\"type\":\"object\",\"properties\":{\"ab\":{\"const\":1}},\"additionalProperties\":{\"type\":"
          "\"integer\"}}",
          "{}" N "{\"ab\":1}" N "{\"ab\":1,\"x\":5}" N "{\"a\":5,\"abc\":6}" N "{\"\":0,\"\\n\":1}",
          "{\"ab\":2}" N "{\"ab\":1,\"ab\":2}" N "{\"x\":\"y\"}" N "{\"\\u0061b\":2}" N "{\"x\":1,\"ab\":1}");
    check("{\"type\":\"object\",\"additionalProperties\":{\"type\":\"null\"}}",
          "{}" N "{\"a\":null,\"b\":null}", "{\"a\":1}");
    check("{\"type\":\"object\"}", "{}" N "{\"a\":{\"b\":[1]}}", "[]");
    check("{\"type\":\"object\",\"required\":[\"z\"]}", "{\"z\":[]}" N "{\"z\":1,\"y\":2}",
          "{}" N "{\"y\":2,\"z\":1}");
    check("{\"properties\":{\"a\":false,\"b\":{}}}", "{}" N "{\"b\":1}", "{\"a\":1}" N "{\"c\":1}");
}

TEST(arrays) {
    check("{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}",
          "[]" N "[1]" N "[1, 2,3]" N "[\n\t1,\n\t2\n]", "[1,]" N "[,1]" N "[ ]" N "[\"a\"]");
    check("{\"type\":\"array\",\"items\":{\"enum\":[1]},\"minItems\":2,\"maxItems\":3}", "[1,1]" N "[1,1,1]",
          "[]" N "[1]" N "[1,1,1,1]");
    check("{\"type\":\"array\",\"items\":{\"enum\":[1]},\"minItems\":1}", "[1]" N "[1,1,1,1,1]", "[]");
    check("{\"type\":\"array\",\"maxItems\":0}", "[]", "[1]");
    check("{\"type\":\"array\",\"prefixItems\":[{\"const\":1},{\"const\":2}]}", "[]" N "[1]" N "[1,2]",
          "[2]" N "[1,2,3]");
    check("{\"type\":\"array\",\"prefixItems\":[{\"const\":1},{\"const\":2}],\"items\":{\"const\":3}}",
          "[1,2,3,3]" N "[1]", "[1,3]");
    check("{\"type\":\"array\",\"items\":[{\"const\":1}],\"additionalItems\":{\"const\":3},\"minItems\":2}",
          "[1,3]" N "[1,3,3]", "[1]" N "[1,1]");
    check("{\"type\":\"array\",\"items\":false}", "[]", "[1]");
    check(
        "{\"type\":\"object\",\"properties\":{\"box_2d\":{\"type\":\"array\",\"items\":{\"type\":\"integer\","
        "\"minimum\":0,"
        "\"maximum\":1000},\"minItems\":4,\"maxItems\":4},\"label\":{\"type\":\"string\",\"maxLength\":40}},"
        "\"required\":[\"box_2d\",\"label\"],\"additionalProperties\":false}",
        "{\"box_2d\": [10, 20, 1000, 0], \"label\": \"a cat\"}",
        "{\"box_2d\": [10, 20, 1001, 0], \"label\": \"a cat\"}" N
        "{\"box_2d\": [10, 20, 30], \"label\": \"a\"}");
}

TEST(references_and_combinations) {
    check("{\"type\":\"object\",\"properties\":{\"next\":{\"$ref\":\"#\"}},\"additionalProperties\":false}",
          "{}" N "{\"next\":{}}" N "{\"next\":{\"next\":{\"next\":{}}}}", "{\"next\":1}");
    check("{\"$defs\":{\"a/"
          "b\":{\"const\":1},\"t\":{\"anyOf\":[{\"type\":\"null\"},{\"type\":\"array\",\"items\":{\"$ref\":"
          "\"#/$defs/t\"}}]}},"
          "\"type\":\"array\",\"prefixItems\":[{\"$ref\":\"#/$defs/a~1b\"},{\"$ref\":\"#/%24defs/t\"}]}",
          "[1,[[null],[]]]" N "[1,null]", "[2]" N "[1,1]");
    check("{\"allOf\":[{\"$ref\":\"#/$defs/a\"},{\"$ref\":\"#/$defs/"
          "b\"}],\"$defs\":{\"a\":{\"type\":\"object\",\"properties\":{\"x\":"
          "{\"type\":\"integer\",\"minimum\":3}},\"required\":[\"x\"]},\"b\":{\"properties\":{\"x\":{"
          "\"maximum\":4},\"y\":{\"const\":0}}}}}",
          "{\"x\":3}" N "{\"x\":4,\"y\":0}", "{\"x\":5}" N "{\"x\":2}" N "{\"y\":0}");
    check("{\"type\":\"object\",\"properties\":{\"k\":{}},\"anyOf\":[{\"required\":[\"k\"],\"properties\":{"
          "\"k\":{\"const\":1}}},"
          "{\"properties\":{\"j\":{\"const\":2}},\"required\":[\"j\"]}]}",
          "{\"k\":1}" N "{\"k\":[],\"j\":2}" N "{\"j\":2}", "{}" N "{\"k\":2}");
    check(
        "{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"object\",\"properties\":{\"kind\":{\"const\":\"a\"}}},"
        "{\"type\":\"object\",\"properties\":{\"kind\":{\"enum\":[\"b\",\"c\"]},\"n\":{\"const\":1}},"
        "\"required\":[\"kind\"]}]}",
        "\"s\"" N "{\"kind\":\"a\"}" N "{\"kind\":\"c\",\"n\":1}" N "{\"kind\":\"b\"}",
        "{}" N "{\"kind\":\"a\",\"n\":1}" N "{\"n\":1}");
}

static void refuse(const char *text, const char *part) {
    schema *s = (schema *)1;
    CHECK_STATUS(schema_open(&s, text, strlen(text)), ST_INVALID);
    CHECK_SENTENCE(part);
    CHECK(s == NULL);
    if (s) schema_close(s);
}

TEST(refused_by_name) {
    refuse("{\"properties\":{\"a/b\":{\"items\":{\"not\":{}}}}}",
           "/properties/a~1b/items/not: is not supported");
    refuse("{\"if\":{}}", "/if: ");
    refuse("{\"type\":\"object\",\"minProperties\":1}", "/minProperties: ");
    refuse("{\"patternProperties\":{\"a\":{}}}", "/patternProperties: ");
    refuse("{\"uniqueItems\":true}", "/uniqueItems: ");
    refuse("{\"requried\":[]}", "/requried: is not a supported keyword");
    refuse("{\"anyOf\":[{},{\"contains\":{}}]}", "/anyOf/1/contains: ");
    refuse("{\"$ref\":\"http://x/y\"}", "/$ref: \"http://x/y\" is no JSON pointer");
    refuse("{\"$ref\":\"#/$defs/a\"}", "leads nowhere");
    refuse("{\"$ref\":\"#\"}", "refers to itself");
    refuse("{\"$defs\":{\"a\":{\"anyOf\":[{\"$ref\":\"#/$defs/b\"},{}]},\"b\":{\"$ref\":\"#/$defs/"
           "a\"}},\"$ref\":\"#/$defs/a\"}",
           "refers to itself");
    refuse("{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}",
           "/oneOf: options 0 and 1 may both hold");
    refuse("{\"type\":\"text\"}", "/type: \"text\" is no type");
    refuse("{\"type\":\"string\",\"pattern\":\"(?=a)\"}", "/pattern: byte 0: look-ahead");
    refuse("{\"type\":\"string\",\"format\":\"iri\"}",
           "/format: \"iri\" is not supported; there are date, time");
    refuse("{\"type\":\"string\",\"pattern\":\"a\",\"minLength\":20000}", "at most 16384");
    refuse("{\"type\":\"string\",\"minLength\":-1}", "/minLength: is no count");
    refuse("{\"type\":\"number\",\"multipleOf\":0}", "/multipleOf: is not above 0");
    refuse("{\"type\":\"number\",\"multipleOf\":123457}", "at most 9999");
    refuse("{\"type\":\"integer\",\"minimum\":1e30}", "31 digits before the point");
    refuse("{\"type\":\"array\",\"maxItems\":100000}", "at most 4096");
    refuse("{\"type\":\"object\",\"nullable\":true}", "/nullable: ");
    refuse("{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}", "no document that ends");
    refuse("{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}",
           "no document that ends");
    refuse("{\"type\":\"string\",\"const\":1}", "no document that ends");
    refuse("false", "no document that ends");
    refuse("[]", "a schema is an object");
    refuse("{\"items\":5}", "/items: a schema is an object");
    refuse("{", "no JSON: byte 1");
}

/* Schemas that would take for ever, or all memory, are refused with the bound. */
TEST(bounded) {
    strbuf b = {0};
    for (int i = 0; i < 20; i++)
        strbuf_add_string(&b, i ? ",{\"anyOf\":[{\"minLength\":1},{\"maxLength\":9}]}" : "{\"allOf\":[{}");
    strbuf_add_string(&b, "]}");
    refuse(b.data, "over 16384 combinations");
    strbuf_clear(&b);
    strbuf_add_string(&b, "{\"allOf\":[true");
    for (int i = 0; i < 100000; i++) strbuf_add_string(&b, ",{}");
    strbuf_add_string(&b, "]}");
    refuse(b.data, "/allOf: has 100001 schemas, at most 4096");
    refuse("{\"type\":\"string\",\"pattern\":\"^[A-Z].*$\",\"maxLength\":3000}",
           "2999 states that take many characters, at most 1024");
    /* Equal patterns count once. */
    strbuf_clear(&b);
    for (int i = 0; i < 30; i++)
        strbuf_add_format(&b, "%s\"p%d\":{\"type\":\"string\",\"format\":\"email\"}",
                          i ? "," : "{\"properties\":{", i);
    strbuf_add_string(&b, "}}");
    schema *s;
    CHECK_STATUS(schema_open(&s, b.data, b.size), ST_OK);
    schema_close(s);
    strbuf_close(&b);
}

int main(void) {
    RUN(kinds);
    RUN(numbers_are_bounded);
    RUN(strings_have_lengths);
    RUN(enumerations);
    RUN(objects);
    RUN(arrays);
    RUN(references_and_combinations);
    RUN(refused_by_name);
    RUN(bounded);
    return test_result();
}
