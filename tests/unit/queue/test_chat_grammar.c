/* From requests to automata over the bundled model's tokens: which answers they follow, what random answers look like to
 * the parser of answers, the cache, and what is refused. */
#include "tests/test.h"

#include <pthread.h>

#include "base/automaton.h"
#include "base/memory.h"
#include "daemon/queue/chat_grammar.h"
#include "daemon/text/chat_parser.h"
#include "daemon/text/json_tree.h"

typedef Gemmad__V1__ChatRequest chat_request_message;

static tokenizer *tok;
static chat_grammar_model model;
static uint32_t ends[3];
static chat_grammar_cache *cache;

static void open_model(void) {
    static const char *const names[] = {"<eos>", "<turn|>", "<|tool_response>"};
    if (tokenizer_open(&tok, TEST_DATA "/models/tiny-dense/tokenizer.json") != ST_OK)
        test_skip(status_text());
    for (size_t i = 0; i < 3; i++) CHECK(tokenizer_find(tok, names[i], &ends[i]));
    model = (chat_grammar_model){tok, ends, 3};
    cache = chat_grammar_cache_open(CHAT_GRAMMAR_CACHE_BYTES);
}

/* Whether the whole text, special tokens included, is an answer. */
static bool follows(const chat_grammar *form, const char *text) {
    const vocabulary *v;
    automaton *a;
    uint32_t *ids;
    size_t count;
    CHECK_STATUS(tokenizer_vocabulary(tok, &v), ST_OK);
    CHECK_STATUS(automaton_read(&a, form->bytes, form->size, v), ST_OK);
    CHECK_STATUS(tokenizer_encode(tok, text, strlen(text), true, 1 << 20, &ids, &count), ST_OK);
    automaton_cursor *c = automaton_cursor_open(a);
    size_t i = 0;
    while (i < count && automaton_take_token(c, ids[i]) == ST_OK) i++;
    bool all = i == count && automaton_complete(c);
    automaton_cursor_close(c);
    automaton_drop(a);
    free(ids);
    return all;
}

static const chat_grammar *make(const chat_request_message *r, bool in_thought) {
    const chat_grammar *form;
    CHECK_STATUS(chat_grammar_make(&form, cache, &model, r, in_thought), ST_OK);
    CHECK(form != NULL);
    return form;
}

static void check(const chat_request_message *r, bool in_thought, const char *const *yes,
                  const char *const *no) {
    const chat_grammar *form = make(r, in_thought);
    for (; form && *yes; yes++) CHECK_THAT(follows(form, *yes), "refused: %s", *yes);
    for (; form && *no; no++) CHECK_THAT(!follows(form, *no), "admitted: %s", *no);
    chat_grammar_release(form);
}
#define TEXTS(...)                                                                                           \
    (const char *const[]) { __VA_ARGS__, NULL }

#define CALL(text) "<|tool_call>call:" text "<tool_call|>"
#define Q "<|\"|>"

static Gemmad__V1__Tool weather = GEMMAD__V1__TOOL__INIT, search = GEMMAD__V1__TOOL__INIT;
static Gemmad__V1__Tool *tools[] = {&weather, &search};

static chat_request_message request_with_tools(void) {
    chat_request_message r = GEMMAD__V1__CHAT_REQUEST__INIT;
    weather.name = "get-weather";
    weather.parameters_json =
        "{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"},\"days\":{\"type\":\"integer\","
        "\"minimum\":1,\"maximum\":7},\"unit kind\":{\"enum\":[\"C\",\"F\"]},\"a:b\":{\"type\":\"boolean\"}},"
        "\"required\":[\"city\"],\"additionalProperties\":false}";
    weather.has_strict = weather.strict = 1;
    search.name = "search";
    r.tools = tools;
    r.n_tools = 2;
    return r;
}

TEST(calls_may_come) {
    chat_request_message r = request_with_tools();
    check(&r, false,
          TEXTS("", "Just text, with {braces}.", CALL("get-weather{city:" Q "Par\"is}\n" Q "}"),
                "Let me see." CALL("search{}")
                    CALL("search{query:" Q Q ",deep:{list:[1,-2.5,null,true," Q "x" Q "]}}") "Done.",
                CALL("get-weather{city:" Q "a" Q ",days:7,unit kind:" Q "F" Q "," Q "a:b" Q ":true}")),
          TEXTS(CALL("other{}"), CALL("get-weather{}"), CALL("get-weather{city:" Q "a" Q ",days:8}"),
                CALL("get-weather{city:a}"), CALL("get-weather{days:1,city:" Q "a" Q "}"),
                CALL("get-weather{city:" Q "a" Q ",more:1}"), CALL("search"), CALL("search{a:}"),
                CALL(" search{}"), "<|tool_call>", "<|tool_call>call:search{}",
                "<|channel>thought\n<channel|>x", "text<|turn>"));
    r.has_parallel_tool_calls = 1;
    r.parallel_tool_calls = 0;
    check(&r, false, TEXTS("text", "text" CALL("search{}")),
          TEXTS(CALL("search{}") CALL("search{}"), CALL("search{}") "text"));
}

TEST(calls_must_or_must_not_come) {
    chat_request_message r = request_with_tools();
    Gemmad__V1__ToolChoice choice = GEMMAD__V1__TOOL_CHOICE__INIT;
    r.tool_choice = &choice;
    choice.mode = "required";
    check(&r, false, TEXTS(CALL("search{}"), CALL("search{}") CALL("search{}")),
          TEXTS("", "text", "text" CALL("search{}"), CALL("search{}") "x"));
    choice.mode = "named";
    choice.name = "search";
    check(&r, false, TEXTS(CALL("search{}")),
          TEXTS("", CALL("get-weather{city:" Q Q "}"), CALL("search{}") CALL("search{}")));
    choice.mode = "none";
    check(&r, false, TEXTS("", "text"), TEXTS(CALL("search{}"), "text<|tool_call>"));
}

TEST(thoughts_come_first) {
    chat_request_message r = request_with_tools();
    r.has_enable_thinking = r.enable_thinking = 1;
    check(&r, false,
          TEXTS("<|channel>thought\nhm<channel|>text", "text",
                "<|channel>thought\n<channel|>" CALL("search{}"), CALL("search{}")),
          TEXTS("<|channel>thought\nhm", "x<|channel>thought\n<channel|>", "<channel|>"));
    check(&r, true, TEXTS("hm<channel|>text", "<channel|>"),
          TEXTS("hm", "<|channel>thought\n<channel|>", "hm" CALL("search{}")));
    Gemmad__V1__ResponseFormat f = GEMMAD__V1__RESPONSE_FORMAT__INIT;
    f.format_case = GEMMAD__V1__RESPONSE_FORMAT__FORMAT_JSON_OBJECT;
    f.json_object = 1;
    r.response_format = &f;
    check(&r, false, TEXTS("{}", "<|channel>thought\n{<channel|>{\"a\": [1, 2]}", CALL("search{}")),
          TEXTS("text", "[]", "<|channel>thought\nhm<channel|>text", "{}" CALL("search{}"),
                CALL("search{}") "{}"));
    r.n_tools = 0;
    check(&r, true, TEXTS("x<channel|>{}"), TEXTS("x<channel|>" CALL("search{}"), "{}"));
}

static bool follows_format(Gemmad__V1__ResponseFormat *f, const char *text) {
    const chat_grammar *form;
    CHECK_STATUS(chat_grammar_make_format(&form, cache, &model, f), ST_OK);
    bool yes = form && follows(form, text);
    chat_grammar_release(form);
    return yes;
}

TEST(forms_without_chat) {
    Gemmad__V1__ResponseFormat f = GEMMAD__V1__RESPONSE_FORMAT__INIT;
    Gemmad__V1__Choices choices = GEMMAD__V1__CHOICES__INIT;
    char *texts[] = {"yes", "no", "yes, please"};
    const chat_grammar *form;
    CHECK_STATUS(chat_grammar_make_format(&form, cache, &model, NULL), ST_OK);
    CHECK(form == NULL);
    CHECK_STATUS(chat_grammar_make_format(&form, cache, &model, &f), ST_OK);
    CHECK(form == NULL);
    f.format_case = GEMMAD__V1__RESPONSE_FORMAT__FORMAT_CHOICES;
    f.choices = &choices;
    choices.choices = texts;
    choices.n_choices = 3;
    CHECK(follows_format(&f, "yes") && follows_format(&f, "yes, please") && follows_format(&f, "no"));
    CHECK(!follows_format(&f, "yes,") && !follows_format(&f, "") && !follows_format(&f, "no "));
    f.format_case = GEMMAD__V1__RESPONSE_FORMAT__FORMAT_REGEX;
    f.regex = "(\\d{1,3}\\.){3}\\d{1,3}|é+";
    CHECK(follows_format(&f, "10.0.200.1") && follows_format(&f, "éé") && !follows_format(&f, "10.0.1"));
    f.format_case = GEMMAD__V1__RESPONSE_FORMAT__FORMAT_JSON_SCHEMA;
    f.json_schema = "{\"type\":\"array\",\"items\":{\"enum\":[\"a\",\"b\"]}}";
    CHECK(follows_format(&f, "[\"a\", \"b\"]") && !follows_format(&f, "[\"c\"]"));
}

/* Tokens at random, of those that the mask allows, with a liking for what closes. Returns how many; 0: it did not end. */
static uint32_t random_answer(automaton *a, uint64_t *seed, uint32_t *ids, uint32_t most) {
    static const char *const closers[] = {"\"", "}", "]", "<|\"|>", "<tool_call|>", "<channel|>"};
    uint32_t words = (tokenizer_vocab_size(tok) + 31) / 32, *mask = memory_alloc_array(words, sizeof *mask),
             n = 0;
    automaton_cursor *c = automaton_cursor_open(a);
    while (n < most && !automaton_ended(c)) {
        uint32_t id = 0, seen = 0;
        CHECK_STATUS(automaton_mask(c, mask), ST_OK);
        for (uint32_t t = 0; t < 32 * words; t++) {
            if (!(mask[t / 32] >> t % 32 & 1)) continue;
            *seed = *seed * 6364136223846793005u + 1442695040888963407u;
            if ((*seed >> 33) % ++seen == 0) id = t;
        }
        *seed = *seed * 6364136223846793005u + 1442695040888963407u;
        for (size_t k = 0; k < sizeof closers / sizeof *closers && (*seed >> 40) % 3 == 0; k++) {
            uint32_t closer;
            if (tokenizer_find(tok, closers[k], &closer) && mask[closer / 32] >> closer % 32 & 1) id = closer;
        }
        if (automaton_complete(c) && (*seed >> 50) % 2 == 0) id = ends[0];
        if (automaton_take_token(c, id) != ST_OK) {
            printf("token %u of the mask was not taken: %s\n", id, status_text());
            CHECK(!"taken");
            break;
        }
        ids[n++] = id;
    }
    bool ended = automaton_ended(c);
    automaton_cursor_close(c);
    free(mask);
    return ended ? n : 0;
}

typedef struct reading {
    uint32_t calls, bad;
    strbuf content;
} reading;

static void on_text(void *context, chat_kind kind, const char *text, size_t n) {
    if (kind == CHAT_CONTENT) strbuf_add(&((reading *)context)->content, text, n);
}
static void on_withdrawn(void *context, size_t n) { ((reading *)context)->content.size -= n; }

static void on_call(void *context, const parsed_call *call) {
    reading *r = context;
    json_tree *t = NULL;
    r->calls++;
    if (strcmp(strbuf_text(&call->name), "get-weather") != 0) return;
    CHECK_STATUS(json_tree_read(&t, call->arguments.data, call->arguments.size), ST_OK);
    const json_value *city = json_value_get(json_tree_root(t), "city"),
                     *days = json_value_get(json_tree_root(t), "days");
    int64_t n = 1;
    CHECK_THAT(city && city->kind == JSON_KIND_STRING, "%s", strbuf_text(&call->arguments));
    CHECK_THAT(!days || (json_value_integer(days, &n) && n >= 1 && n <= 7), "%s",
               strbuf_text(&call->arguments));
    json_tree_close(t);
}

/* Whatever is drawn, the parser of answers reads every call, and nothing is left over. */
TEST(random_calls_are_read) {
    static const chat_parser_events events = {on_text, on_withdrawn, on_call};
    chat_request_message r = request_with_tools();
    Gemmad__V1__ToolChoice choice = GEMMAD__V1__TOOL_CHOICE__INIT;
    choice.mode = "required";
    r.tool_choice = &choice;
    const chat_grammar *form = make(&r, false);
    const vocabulary *v;
    automaton *a;
    uint32_t ids[400], calls = 0;
    uint64_t seed = 7;
    CHECK_STATUS(tokenizer_vocabulary(tok, &v), ST_OK);
    CHECK_STATUS(automaton_read(&a, form->bytes, form->size, v), ST_OK);
    for (int i = 0; i < (TEST_SANITIZED ? 10 : 60); i++) {
        uint32_t n = random_answer(a, &seed, ids, 400);
        if (n == 0) continue;
        reading read = {0};
        chat_parser_options o = {.tokenizer = tok, .events = &events, .context = &read};
        chat_parser *p = chat_parser_open(&o);
        for (uint32_t k = 0; k < n; k++) chat_parser_add(p, ids[k]);
        chat_parser_end(p, true);
        CHECK_THAT(read.calls >= 1 && read.content.size == 0, "%u calls, %zu bytes", read.calls,
                   read.content.size);
        calls += read.calls;
        chat_parser_close(p);
        strbuf_close(&read.content);
    }
    CHECK_THAT(calls >= 10, "%u", calls);
    automaton_drop(a);
    chat_grammar_release(form);
}

/* The schema of tests that ask a real server: it must end, and keep to its bounds. */
TEST(random_documents_are_json) {
    Gemmad__V1__ResponseFormat f = GEMMAD__V1__RESPONSE_FORMAT__INIT;
    f.format_case = GEMMAD__V1__RESPONSE_FORMAT__FORMAT_JSON_SCHEMA;
    f.json_schema = "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":20},"
                    "\"n\":{\"type\":\"integer\"},"
                    "\"tags\":{\"type\":\"array\",\"items\":{\"enum\":[\"a\",\"b\"]},\"maxItems\":3}},"
                    "\"required\":[\"name\",\"n\","
                    "\"tags\"],\"additionalProperties\":false}";
    const chat_grammar *form;
    const vocabulary *v;
    automaton *a;
    uint32_t ids[400], ended = 0;
    uint64_t seed = 3;
    CHECK_STATUS(chat_grammar_make_format(&form, cache, &model, &f), ST_OK);
    CHECK_STATUS(tokenizer_vocabulary(tok, &v), ST_OK);
    CHECK_STATUS(automaton_read(&a, form->bytes, form->size, v), ST_OK);
    for (int i = 0; i < (TEST_SANITIZED ? 10 : 60); i++) {
        uint32_t n = random_answer(a, &seed, ids, 400);
        strbuf text = {0};
        json_tree *t = NULL;
        CHECK_STATUS(tokenizer_decode(tok, ids, n ? n - 1 : 0, false, &text), ST_OK);
        CHECK_THAT(n > 0, "not ended: %s", strbuf_text(&text));
        if (n > 0) CHECK_STATUS(json_tree_read(&t, text.data, text.size), ST_OK);
        CHECK_THAT(n == 0 || json_value_get(json_tree_root(t), "tags"), "%s", strbuf_text(&text));
        ended += n > 0;
        json_tree_close(t);
        strbuf_close(&text);
    }
    CHECK(ended > 0);
    automaton_drop(a);
    chat_grammar_release(form);
}

TEST(forms_are_shared) {
    chat_request_message r = request_with_tools();
    const chat_grammar *one = make(&r, false), *two = make(&r, false), *other = make(&r, true);
    CHECK(one == two && one != other);
    search.parameters_json = "{\"of a tool that is\": \"not strict\"}";
    const chat_grammar *three = make(&r, false);
    CHECK(one == three);
    search.has_strict = search.strict = 1;
    search.parameters_json = "{\"type\":\"object\"}";
    const chat_grammar *four = make(&r, false);
    CHECK(one != four);
    search = (Gemmad__V1__Tool)GEMMAD__V1__TOOL__INIT;
    chat_grammar_release(one);
    chat_grammar_release(two);
    chat_grammar_release(three);
    chat_grammar_release(four);
    chat_grammar_release(other);
    /* A cache that holds nothing still gives, and what it gave outlives it. */
    chat_grammar_cache *small = chat_grammar_cache_open(0);
    const chat_grammar *form;
    r = request_with_tools();
    CHECK_STATUS(chat_grammar_make(&form, small, &model, &r, false), ST_OK);
    chat_grammar_cache_close(small);
    CHECK(follows(form, "text"));
    chat_grammar_release(form);
}

static void *make_many(void *context) {
    chat_grammar_cache *c = context;
    for (int i = 0; i < 40; i++) {
        char regex[64];
        const chat_grammar *form;
        Gemmad__V1__ResponseFormat f = GEMMAD__V1__RESPONSE_FORMAT__INIT;
        f.format_case = GEMMAD__V1__RESPONSE_FORMAT__FORMAT_REGEX;
        f.regex = regex;
        snprintf(regex, sizeof regex, i % 5 == 4 ? "(?=x%d)" : "a{%d}", i / 4 % 6);
        status st = chat_grammar_make_format(&form, c, &model, &f);
        CHECK((st == ST_OK) == (i % 5 != 4) && (form != NULL) == (st == ST_OK));
        if (st != ST_OK) CHECK_SENTENCE("look-ahead");
        else CHECK(form->size > 0 && form->bytes[form->size - 1] < 256);
        chat_grammar_release(form);
    }
    return NULL;
}

TEST(threads_share) {
    pthread_t thread[4];
    chat_grammar_cache *c = chat_grammar_cache_open(4000);
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&thread[i], NULL, make_many, c) == 0);
    for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
    chat_grammar_cache_close(c);
}

static void refuse(const chat_request_message *r, const char *part) {
    const chat_grammar *form = (const chat_grammar *)1;
    CHECK_STATUS(chat_grammar_make(&form, cache, &model, r, false), ST_INVALID);
    CHECK_SENTENCE(part);
    CHECK(form == NULL);
}

TEST(refused_with_the_field) {
    chat_request_message r = request_with_tools();
    Gemmad__V1__ToolChoice choice = GEMMAD__V1__TOOL_CHOICE__INIT;
    Gemmad__V1__ResponseFormat f = GEMMAD__V1__RESPONSE_FORMAT__INIT;
    Gemmad__V1__Choices choices = GEMMAD__V1__CHOICES__INIT;
    search.has_strict = search.strict = 1;
    search.parameters_json = "{\"type\":\"object\",\"properties\":{\"x\":{\"not\":{}}}}";
    refuse(&r, "tools[1].parameters_json: /properties/x/not: is not supported");
    search.parameters_json = "{\"type\":\"string\"}";
    refuse(&r, "tools[1].parameters_json: /: no object fits");
    search.strict = 0;
    search.name = "a b";
    refuse(&r, "tools[1].name \"a b\"");
    search.name = "get-weather";
    refuse(&r, "tools[1].name is that of tools[0]");
    search.name = "search";
    r.tool_choice = &choice;
    choice.mode = "sometimes";
    refuse(&r, "tool_choice.mode is \"sometimes\"");
    choice.mode = "named";
    choice.name = "nobody";
    refuse(&r, "tool_choice.name \"nobody\" is none of the tools");
    choice.mode = "required";
    r.n_tools = 0;
    refuse(&r, "there are no tools");
    r.tool_choice = NULL;
    r.response_format = &f;
    f.format_case = GEMMAD__V1__RESPONSE_FORMAT__FORMAT_REGEX;
    f.regex = "a\\1";
    refuse(&r, "response_format.regex: byte 1: back-reference");
    f.regex = "[]";
    refuse(&r, "response_format.regex: no text matches");
    f.regex = "ab[]";
    refuse(&r, "response_format.regex: no text matches");
    f.format_case = GEMMAD__V1__RESPONSE_FORMAT__FORMAT_CHOICES;
    f.choices = &choices;
    refuse(&r, "response_format.choices has 0 choices");
    f.format_case = GEMMAD__V1__RESPONSE_FORMAT__FORMAT_JSON_SCHEMA;
    f.json_schema = "{\"type\":";
    refuse(&r, "response_format.json_schema: no JSON");
}

int main(void) {
    open_model();
    RUN(calls_may_come);
    RUN(calls_must_or_must_not_come);
    RUN(thoughts_come_first);
    RUN(forms_without_chat);
    RUN(random_calls_are_read);
    RUN(random_documents_are_json);
    RUN(forms_are_shared);
    RUN(threads_share);
    RUN(refused_with_the_field);
    chat_grammar_cache_close(cache);
    tokenizer_close(tok);
    return test_result();
}
