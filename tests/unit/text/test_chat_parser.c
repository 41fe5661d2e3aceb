/* What a model's output means: the vectors of tests/tokenizer/gemma4/parse.jsonl with Gemma 4's tokenizer, what they leave
 * open with the bundled model's, and sizes that must not matter. */
#include <jansson.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "daemon/text/chat_parser.h"
#include "daemon/text/json_tree.h"
#include "tests/gemma_tokenizer.h"
#include "tests/test.h"
#include "tests/unit/text/chat_reading.h"

static tokenizer *gemma, *tiny;

static void check_text(const char *id, const char *what, const strbuf *got, const char *want) {
    CHECK_THAT(!strcmp(strbuf_text(got), want), "%s: %s is \"%s\", not \"%s\"", id, what, strbuf_text(got),
               want);
}

static const char *string_of(const json_t *v, const char *key) {
    const char *s = json_string_value(json_object_get(v, key));
    return s ? s : "";
}

static void check_result(const json_t *v, const chat_reading *r, const chat_parser *p) {
    const char *id = string_of(v, "id");
    const json_t *calls = json_object_get(v, "tool_calls"), *malformed = json_object_get(v, "malformed");
    const chat_malformed *m = chat_parser_malformed(p);
    size_t n;
    check_text(id, "reasoning", &r->reasoning, string_of(v, "reasoning"));
    check_text(id, "content", &r->content, string_of(v, "content"));
    CHECK_THAT(json_array_size(calls) == r->call_count && r->call_count == chat_parser_calls(p),
               "%s: %u calls", id, r->call_count);
    for (uint32_t i = 0; i < r->call_count && i < json_array_size(calls); i++) {
        check_text(id, "name", &r->call[i].name, string_of(json_array_get(calls, i), "name"));
        check_text(id, "arguments", &r->call[i].arguments, string_of(json_array_get(calls, i), "arguments"));
    }
    CHECK_THAT(json_array_size(malformed) == m->count, "%s: %u malformed", id, m->count);
    for (uint32_t i = 0; i < m->count && i < json_array_size(malformed); i++)
        check_text(id, "malformed", &m->text[i], json_string_value(json_array_get(malformed, i)));
    const char *truncated = chat_parser_truncated(p, &n);
    CHECK_THAT(!strcmp(truncated ? truncated : "", string_of(v, "truncated_call")), "%s: truncated %s", id,
               truncated ? truncated : "-");
    CHECK((truncated != NULL) == (json_object_get(v, "truncated_call") != NULL));
}

/* What had come out after each token is the beginning of what came out in the end. */
static void check_prefixes(const char *id, const chat_reading *whole, const uint32_t *ids, size_t count,
                           const chat_parser_options *options) {
    for (size_t cut = 0; cut < count; cut++) {
        chat_reading r = {0};
        chat_parser *p = chat_reading_open(&r, options);
        for (size_t i = 0; i < cut; i++) chat_parser_add(p, ids[i]);
        size_t certain = r.content.size - chat_parser_loose(p);
        CHECK_THAT(r.reasoning.size <= whole->reasoning.size &&
                       !memcmp(strbuf_text(&r.reasoning), strbuf_text(&whole->reasoning), r.reasoning.size),
                   "%s at %zu", id, cut);
        CHECK_THAT(certain <= whole->content.size &&
                       !memcmp(strbuf_text(&r.content), strbuf_text(&whole->content), certain),
                   "%s at %zu", id, cut);
        CHECK_THAT(utf8_check(strbuf_text(&r.content), r.content.size) == r.content.size, "%s at %zu", id,
                   cut);
        CHECK_THAT(r.call_count <= whole->call_count, "%s at %zu", id, cut);
        chat_parser_end(p, true);
        chat_parser_close(p);
        chat_reading_close(&r);
    }
}

static void check_vector(const json_t *v) {
    const json_t *list = json_object_get(v, "ids");
    size_t count = json_array_size(list);
    uint32_t *ids = memory_alloc_array(count, sizeof *ids);
    for (size_t i = 0; i < count; i++) ids[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    chat_parser_options options = {.tokenizer = gemma,
                                   .starts_in_thought =
                                       json_is_true(json_object_get(v, "prompt_open_thought")),
                                   .thinking = json_is_true(json_object_get(v, "thinking"))};
    bool cut = !strcmp(string_of(v, "finish_reason"), "length");
    chat_reading r = {0};
    chat_parser *p = chat_reading_open(&r, &options);
    for (size_t i = 0; i < count; i++) chat_parser_add(p, ids[i]);
    CHECK_THAT(chat_parser_at_end(p) == !cut, "%s", string_of(v, "id"));
    chat_parser_end(p, !cut);
    check_result(v, &r, p);
    check_prefixes(string_of(v, "id"), &r, ids, count, &options);
    chat_parser_close(p);
    chat_reading_close(&r);
    free(ids);
}

TEST(vectors) {
    FILE *file = fopen(TEST_DATA "/tokenizer/gemma4/parse.jsonl", "r");
    CHECK(file);
    char *line = NULL;
    size_t capacity = 0;
    int vectors = 0;
    for (; file && getline(&line, &capacity, file) > 0; vectors++) {
        json_t *v = json_loads(line, JSON_ALLOW_NUL, NULL);
        CHECK(v);
        check_vector(v);
        json_decref(v);
    }
    free(line);
    if (file) fclose(file);
    CHECK_THAT(vectors == 95, "%d", vectors);
}

/* ---- what the vectors leave open; special tokens by their text ---- */

static chat_reading reading;
static chat_parser *parser;

static void read_as(const char *text, size_t bytes, chat_parser_options options, bool whole) {
    uint32_t *ids;
    size_t count;
    options.tokenizer = tiny;
    chat_parser_close(parser);
    chat_reading_close(&reading);
    CHECK_STATUS(tokenizer_encode(tiny, text, bytes, true, SIZE_MAX, &ids, &count), ST_OK);
    parser = chat_reading_open(&reading, &options);
    for (size_t i = 0; i < count; i++) chat_parser_add(parser, ids[i]);
    chat_parser_end(parser, whole);
    free(ids);
}

static void read_text(const char *text) { read_as(text, strlen(text), (chat_parser_options){0}, true); }

/* The arguments of the one call, NULL: there is none. */
static const char *arguments_of(const char *inside) {
    strbuf text = {0};
    strbuf_add_format(&text, "<|tool_call>%s<tool_call|>", inside);
    read_text(text.data);
    CHECK_THAT(reading.content.size == 0 && reading.reasoning.size == 0, "%s", inside);
    CHECK_THAT(reading.call_count + chat_parser_malformed(parser)->count == 1, "%s", inside);
    strbuf_close(&text);
    return reading.call_count == 1 ? strbuf_text(&reading.call[0].arguments) : NULL;
}

#define D "<|\"|>"

TEST(arguments) {
    static const char *const cases[][2] = {
        /* Kept where it stood first, with the last value, at every depth. */
        {"call:f{a:1,b:2,a:3}", "{\"a\":3,\"b\":2}"},
        {"call:f{o:{x:1,x:2},o:{y:[{k:1,k:" D "v" D "}]}}", "{\"o\":{\"y\":[{\"k\":\"v\"}]}}"},
        {"call:f{a:1,\"a\":2," D "a" D ":3,'a':4}", "{\"a\":4}"},
        /* Inner delimiters. */
        {"call:f{a:" D "say " D "hi" D " now" D "}", "{\"a\":\"say \\\"hi\\\" now\"}"},
        {"call:f{a:say " D "hi" D " now" D ",b:1}", "{\"a\":\"say \\\"hi\\\" now\",\"b\":1}"},
        {"call:f{a:" D "[" D "x" D ", " D "y" D "]" D "}", "{\"a\":\"[\\\"x\\\", \\\"y\\\"]\"}"},
        {"call:f{o:{j:" D "{" D "a" D ":" D "b" D "}" D "}}", "{\"o\":{\"j\":\"{\\\"a\\\":\\\"b\\\"}\"}}"},
        {"call:f{a:" D "x" D "," D "b" D ":1,c:" D "z" D "}", "{\"a\":\"x\",\"b\":1,\"c\":\"z\"}"},
        {"call:f{a:[" D "x" D "y" D "]}", NULL},
        /* The end closes what is open, and closers that are due are no text. */
        {"call:f{a:{b:[" D "x y", "{\"a\":{\"b\":[\"x y\"]}}"},
        {"call:f{a:{b:[" D "x} ] } }", "{\"a\":{\"b\":[\"x} \"]}}"},
        {"call:f{a:{b:" D "x}", "{\"a\":{\"b\":\"x\"}}"},
        {"call:f{a:1,b:[1,2", "{\"a\":1,\"b\":[1,2]}"},
        {"call:f{a:\"x y}", "{\"a\":\"x y\"}"},
        {"call:f{a:'x y}", "{\"a\":\"x y\"}"},
        {"call:f{a:", NULL},
        {"call:f{a", NULL},
        {"call:f{", "{}"},
        {"call:f", NULL},
        /* Quotation marks. */
        {"call:f{a:'it's fine',b:2}", "{\"a\":\"it's fine\",\"b\":2}"},
        {"call:f{a:don't,b:say \"x\"}", "{\"a\":\"don't\",\"b\":\"say \\\"x\\\"\"}"},
        {"call:f{a:\"x\ty\"}", "{\"a\":\"x\\ty\"}"},
        {"call:f{a:\"\\ud83d\\ude00\\n\"}", "{\"a\":\"\xF0\x9F\x98\x80\\n\"}"},
        {"call:f{a:\"\\ud83d\"}", NULL},
        {"call:f{a:\"x\\\n\"}", NULL},
        {"call:f{a:\"x" D "}", NULL},
        {"call:f{\"a\\\"b\":1}", "{\"a\\\"b\":1}"},
        /* Bare words. */
        {"call:f{a: x , b : y z }", "{\"a\":\"x\",\"b\":\"y z\"}"},
        {"call:f{u:http://h:80/a?b=c,n:1}", "{\"u\":\"http://h:80/a?b=c\",\"n\":1}"},
        {"call:f{a:x{y}", NULL},
        {"call:f{a:,b:1}", NULL},
        {"call:f{a:[1,,2]}", NULL},
        {"call:f{a:1,,b:2}", "{\"a\":\"1,\",\"b\":2}"},
        {"call:f{a:\"x\",,b:2}", NULL},
        {"call:f{,a:1}", NULL},
        {"call:f{:1}", NULL},
        {"call:f{a:1}}", NULL},
        {"call:f{a:1} b", NULL},
        /* Heads. */
        {" call : f {a:1} ", "{\"a\":1}"},
        {"call{a:1}", "{\"a\":1}"},
        {"f(a=1,b='x', c = [1,{d:2}])", "{\"a\":1,\"b\":\"x\",\"c\":[1,{\"d\":2}]}"},
        {"call:f(cmd:ls (x) -l)", "{\"cmd\":\"ls (x) -l\"}"},
        {"call:f(a:1", "{\"a\":1}"},
        {"call:f()", "{}"},
        {"call:f[]", NULL},
        {"call:f(a:1}", NULL},
        {"call:\"f\"{}", NULL},
        {"", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *got = arguments_of(cases[i][0]), *want = cases[i][1];
        CHECK_THAT(want ? got && !strcmp(got, want) : !got, "%s gives %s, not %s", cases[i][0],
                   got ? got : "nothing", want ? want : "nothing");
    }
    arguments_of("call{a:1}");
    CHECK(!strcmp(strbuf_text(&reading.call[0].name), "call"));
    arguments_of("call:call:f{a:1}");
    CHECK(!strcmp(strbuf_text(&reading.call[0].name), "call:f"));
}

/* As deep as JSON_TREE_DEPTH_MAX and no deeper. */
TEST(depth) {
    for (int over = 0; over < 2; over++) {
        strbuf text = {0};
        strbuf_add_string(&text, "f{a:");
        for (int i = 1; i < JSON_TREE_DEPTH_MAX + over; i++) strbuf_add_string(&text, "[");
        strbuf_add_string(&text, "1");
        for (int i = 1; i < JSON_TREE_DEPTH_MAX + over; i++) strbuf_add_string(&text, "]");
        strbuf_add_string(&text, "}");
        CHECK((arguments_of(text.data) != NULL) == !over);
        strbuf_close(&text);
    }
}

static void check_said(const char *text, const char *reasoning, const char *content) {
    check_text(text, "reasoning", &reading.reasoning, reasoning);
    check_text(text, "content", &reading.content, content);
}

TEST(seams) {
    static const char *const cases[][3] = {
        {"a\n <|channel>thought\nx\n<channel|>\nb", "x", "a\n \nb"},
        {"\xE2\x80\x83 \xC2\xA0<|tool_call>f{}<tool_call|>\xE3\x80\x80x", "", "x"},
        {"a <|tool_call>oops<tool_call|> b <|tool_call>f{}<tool_call|>\n<turn|>", "", "a\nb"},
        {"a<|tool_call>f{}<tool_call|> <|channel>thought\nr<channel|> b", "r", "a\nb"},
        {"<|channel>thought\nr\n\n<channel|>\n\nb", "r\n", "\n\nb"},
        {"<|channel>thought<|channel>thought\nr<channel|>b", "r", "b"},
        {"<|channel>tho<channel|>b", "tho", "b"},
        {"<|turn>model<turn|>", "", ""},
        {"<|turn>modest<turn|>", "", "modest"},
        {"thought<|channel>x<channel|>y", "x", "thoughty"},
        {"thought\nx<turn|>", "", "thought\nx"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        read_text(cases[i][0]);
        check_said(cases[i][0], cases[i][1], cases[i][2]);
    }
    chat_parser_options thinking = {.thinking = true};
    const char *lost = "<|turn>model\nthought\nx\n<channel|>y";
    read_as(lost, strlen(lost), thinking, true);
    check_said(lost, "x", "y");
    lost = "thought";
    read_as(lost, strlen(lost), thinking, false);
    check_said(lost, "", "thought");
    /* Where the limit cuts, nothing is markup but the name. */
    read_as("<|channel>thought\nx\n", 20, thinking, false);
    check_said("cut", "x\n", "");
}

TEST(ends) {
    /* Behind an end token the answer goes on when the client wants that; never behind a response. */
    read_text("a<turn|>b<eos>c<|tool_response>response:f{}<tool_response|>d");
    check_said("ends", "", "abc");
    CHECK(chat_parser_at_end(parser));
    read_text("<|tool_call>f{a:1<turn|>x");
    CHECK(reading.call_count == 0 && chat_parser_malformed(parser)->count == 1);
    check_said("open at the end", "", "x");
    read_text("<|channel>a<|tool_call>f{a:1<|tool_call>g{b:2<|channel>c<channel|>d");
    CHECK(reading.call_count == 2 && !strcmp(strbuf_text(&reading.call[1].arguments), "{\"b\":2}"));
    check_said("ended by others", "ac", "d");
}

TEST(characters) {
    uint32_t byte[2];
    CHECK(tokenizer_find(tiny, "<0xC3>", &byte[0]) && tokenizer_find(tiny, "<0xA9>", &byte[1]));
    uint32_t ids[] = {byte[0], byte[1], byte[0], 0, byte[1], byte[0], 0, 0, byte[1], UINT32_MAX, byte[0]};
    uint32_t open, close;
    CHECK(tokenizer_find(tiny, "<|channel>", &open) && tokenizer_find(tiny, "<channel|>", &close));
    ids[6] = open; /* structure ends the wait, a hidden token (0) does not */
    ids[7] = close;
    chat_reading r = {0};
    chat_parser *p = chat_reading_open(&r, &(chat_parser_options){.tokenizer = tiny});
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        chat_parser_add(p, ids[i]);
        CHECK(chat_parser_waits(p) == (ids[i] == byte[0] || i == 3));
        CHECK(utf8_check(strbuf_text(&r.content), r.content.size) == r.content.size);
    }
    chat_parser_end(p, true);
    CHECK_THAT(
        !strcmp(strbuf_text(&r.content), "\xC3\xA9\xC3\xA9\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"),
        "%s", strbuf_text(&r.content));
    CHECK(r.reasoning.size == 0 && chat_parser_reasoning_tokens(p) == 2);
    chat_parser_close(p);
    chat_reading_close(&r);
}

TEST(reasoning_tokens) {
    uint32_t *ids;
    size_t count, thought;
    const char *text = "<|channel>thought\nlet me see\n<channel|>";
    CHECK_STATUS(tokenizer_encode(tiny, text, strlen(text), true, SIZE_MAX, &ids, &thought), ST_OK);
    free(ids);
    strbuf more = {0};
    strbuf_add_format(&more, "%sthe answer<turn|>", text);
    read_text(more.data);
    CHECK(chat_parser_reasoning_tokens(parser) == thought);
    /* The opening token was lost. */
    read_as(more.data + 10, more.size - 10, (chat_parser_options){.thinking = true}, true);
    CHECK(chat_parser_reasoning_tokens(parser) == thought - 1);
    CHECK_STATUS(tokenizer_encode(tiny, "hm <|tool_call>", 15, true, SIZE_MAX, &ids, &count), ST_OK);
    free(ids);
    read_as("hm <|tool_call>f{}", 18, (chat_parser_options){.starts_in_thought = true}, true);
    CHECK(chat_parser_reasoning_tokens(parser) == count - 1 && reading.call_count == 1);
    strbuf_close(&more);
}

TEST(refused_calls) {
    const char *text = "a <|tool_call>call:f{a:" D "x" D "}<tool_call|> b<turn|>";
    read_as(text, strlen(text), (chat_parser_options){.refuses_calls = true}, true);
    check_said(text, "", "a\nb");
    const chat_malformed *m = chat_parser_malformed(parser);
    CHECK(reading.call_count == 0 && m->count == 1);
    CHECK_THAT(!strcmp(strbuf_text(&m->text[0]), "<|tool_call>call:f{a:" D "x" D "}<tool_call|>"), "%s",
               strbuf_text(&m->text[0]));
}

/* ---- sizes: what grew with the square of them would not end ---- */

static void repeat(strbuf *text, const char *unit, size_t times) {
    for (size_t i = 0; i < times; i++) strbuf_add_string(text, unit);
}

TEST(long_calls) {
    static const char *const units[] = {D,
                                        D "x",
                                        D "x,",
                                        D ",a",
                                        D ",a:" D,
                                        D "," D "k" D ":",
                                        "'",
                                        "',",
                                        "',a",
                                        "',\"",
                                        "',\"\\",
                                        "\"",
                                        "\",\"",
                                        "\\\"",
                                        ",",
                                        ",a",
                                        ", \"",
                                        ",'",
                                        ", " D,
                                        "a:1,",
                                        "a:x,",
                                        "a:{",
                                        "a:[",
                                        "[",
                                        "]",
                                        "}",
                                        "}]",
                                        ")",
                                        "b ",
                                        " ",
                                        "a",
                                        "k:'v',",
                                        "k:" D "v" D ",",
                                        "k:" D "v" D " k2:",
                                        "x:\"\\u0041\",",
                                        "<pad>",
                                        "<channel|>"};
    size_t times = TEST_SANITIZED ? 5000 : 40000;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        static const char *const heads[] = {"f{", "f{a:", "f{a:" D, "f(a='", "f{a:\"", "f{a:["};
        for (size_t h = 0; h < sizeof heads / sizeof *heads; h++) {
            parsed_call call;
            strbuf text = {0}, marked = {0};
            strbuf_add_string(&text, heads[h]);
            repeat(&text, units[i], times);
            for (const char *c = text.data; *c; c++) {
                bool delimiter = !strncmp(c, D, strlen(D));
                strbuf_add(&marked, delimiter ? (char[]){(char)CALL_DELIMITER} : c, 1);
                if (delimiter) c += strlen(D) - 1;
            }
            if (parsed_call_read(&call, marked.data, marked.size, true)) {
                json_tree *tree;
                CHECK_STATUS(json_tree_read(&tree, call.arguments.data, call.arguments.size), ST_OK);
                json_tree_close(tree);
                parsed_call_close(&call);
            }
            strbuf_close(&text);
            strbuf_close(&marked);
        }
    }
}

TEST(many_malformed) {
    strbuf text = {0};
    repeat(&text, "<|tool_call>", 100000);
    read_text(text.data);
    const chat_malformed *m = chat_parser_malformed(parser);
    CHECK(m->count == CHAT_MALFORMED_MAX + 1 && reading.content.size == 0);
    CHECK_THAT(!strcmp(strbuf_text(&m->text[CHAT_MALFORMED_MAX]), "\xE2\x80\xA6 (99744 more)"), "%s",
               strbuf_text(&m->text[CHAT_MALFORMED_MAX]));
    strbuf_clear(&text);
    strbuf_add_string(&text, "<|tool_call>\xC3\xA9");
    repeat(&text, "\xC3\xA9", 100000);
    read_text(text.data);
    m = chat_parser_malformed(parser);
    CHECK(m->count == 1 && m->text[0].size < CHAT_MALFORMED_BYTES_MAX + 100);
    CHECK(utf8_check(m->text[0].data, m->text[0].size) == m->text[0].size);
    CHECK(strstr(m->text[0].data, "(200014 bytes in all)"));
    strbuf_close(&text);
}

static void add_text(chat_parser *p, const char *text, size_t times) {
    uint32_t *ids;
    size_t count;
    CHECK_STATUS(tokenizer_encode(tiny, text, strlen(text), true, SIZE_MAX, &ids, &count), ST_OK);
    while (times-- > 0)
        for (size_t i = 0; i < count; i++) chat_parser_add(p, ids[i]);
    free(ids);
}

/* Longer than is kept: its end is not looked for any more. */
TEST(endless_call) {
    chat_reading r = {0};
    chat_parser *p = chat_reading_open(&r, &(chat_parser_options){.tokenizer = tiny});
    add_text(p, "<|tool_call>f{a:" D, 1);
    add_text(p, "x", CHAT_CALL_BYTES_MAX + 10);
    add_text(p, D "}<tool_call|>ok", 1);
    chat_parser_end(p, true);
    CHECK(r.call_count == 0 && chat_parser_malformed(p)->count == 1 &&
          !strcmp(strbuf_text(&r.content), "ok"));
    CHECK(chat_parser_malformed(p)->bytes < CHAT_MALFORMED_BYTES_MAX + 100);
    chat_parser_close(p);
    chat_reading_close(&r);
}

int main(void) {
    strbuf json = {0};
    if (!gemma_tokenizer_unpack(GEMMA_TOKENIZER_XZ, &json))
        test_skip("xz cannot unpack Gemma's tokenizer.json here");
    CHECK_STATUS(tokenizer_parse(&gemma, json.data, json.size), ST_OK);
    CHECK_STATUS(tokenizer_open(&tiny, TEST_DATA "/models/tiny-dense/tokenizer.json"), ST_OK);
    strbuf_close(&json);
    if (!gemma || !tiny) return 1;
    RUN(vectors);
    RUN(arguments);
    RUN(depth);
    RUN(seams);
    RUN(ends);
    RUN(characters);
    RUN(reasoning_tokens);
    RUN(refused_calls);
    RUN(long_calls);
    RUN(many_malformed);
    RUN(endless_call);
    chat_parser_close(parser);
    chat_reading_close(&reading);
    tokenizer_close(gemma);
    tokenizer_close(tiny);
    return test_result();
}
