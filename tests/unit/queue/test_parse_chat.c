/* ParseChat through the core. What outputs mean is text/test_chat_parser's; here is what the rpc makes of it. */
#include "tests/unit/queue/generate_fixture.h"

typedef Gemmad__V1__ParseChatRequest parse_request;
typedef Gemmad__V1__ParseChatResponse parse_response;

static fake_call f;

/* NULL: refused. */
static const parse_response *parse(parse_request *r, const uint32_t *ids, size_t n) {
    r->n_token_ids = n;
    r->token_ids = (uint32_t *)ids;
    fake_call_open(&f, "p");
    fake_handle(c, &f, "ParseChat", &r->base);
    uv_run(&loop, UV_RUN_DEFAULT);
    CHECK(f.finished == 1 && f.sent_count == (f.st == ST_OK) && f.base.cancelled == NULL);
    return f.sent_count == 1 ? (const parse_response *)f.sent[0] : NULL;
}

static bool is_text(ProtobufCBinaryData got, const char *want) {
    return got.len == strlen(want) && !memcmp(got.data, want, got.len);
}

enum { BRACE = BYTE + '{', BRACE_END = BYTE + '}', COLON = BYTE + ':' };
#define CALL_OF(name) CALL, name, BRACE, A, COLON, QUOTE, HELLO, QUOTE, BRACE_END, CALL_END

TEST(message) {
    static const uint32_t ids[] = {CHANNEL, HELLO,    CHANNEL_END, B,       CALL_OF(A),
                                   CALL,    CALL_END, CALL_OF(AB), RESPONSE};
    parse_request r = GEMMAD__V1__PARSE_CHAT_REQUEST__INIT;
    const parse_response *got = parse(&r, ids, sizeof ids / sizeof *ids);
    CHECK(got && got->message && !strcmp(got->message->role, "assistant") &&
          !strcmp(got->finish_reason, "tool_calls"));
    const Gemmad__V1__Message *m = got->message;
    CHECK(m->n_content == 1 && is_text(m->content[0]->text, "b") && is_text(m->reasoning, "hello"));
    CHECK(m->n_tool_calls == 2 && got->n_malformed == 1 && !got->has_truncated_call);
    CHECK(is_text(got->malformed[0], "<|tool_call><tool_call|>"));
    for (int i = 0; i < 2; i++) {
        CHECK(!strcmp(m->tool_calls[i]->name, i ? "ab" : "a"));
        CHECK(!strcmp(m->tool_calls[i]->arguments_json, "{\"a\":\"hello\"}"));
        CHECK(strlen(m->tool_calls[i]->id) == 29 && !strncmp(m->tool_calls[i]->id, "call_", 5));
    }
    CHECK(strcmp(m->tool_calls[0]->id, m->tool_calls[1]->id));
    fake_call_close(&f);
}

TEST(how_it_ended) {
    static const struct {
        const char *reason, *want;
        uint32_t ids[2];
    } v[] = {{NULL, "stop", {A, TURN_END}}, {"", "length", {A, B}},         {"stop", "stop", {A, B}},
             {"length", "length", {A, B}},  {"length", "length", {A, EOS}}, {NULL, "length", {TURN_END, A}}};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        parse_request r = GEMMAD__V1__PARSE_CHAT_REQUEST__INIT;
        r.finish_reason = (char *)v[i].reason;
        const parse_response *got = parse(&r, v[i].ids, 2);
        CHECK_THAT(got && !strcmp(got->finish_reason, v[i].want), "%zu", i);
        fake_call_close(&f);
    }
    static const uint32_t cut[] = {CALL_OF(A), CALL, A, BRACE};
    parse_request r = GEMMAD__V1__PARSE_CHAT_REQUEST__INIT;
    r.finish_reason = (char *)"length";
    const parse_response *got = parse(&r, cut, sizeof cut / sizeof *cut);
    CHECK(got && got->has_truncated_call && is_text(got->truncated_call, "<|tool_call>a{"));
    CHECK(!strcmp(got->finish_reason, "length") && got->message->n_tool_calls == 1 && got->n_malformed == 0);
    CHECK(got->message->n_content == 0 && !got->message->has_reasoning);
    fake_call_close(&f);
}

TEST(where_it_began) {
    static const uint32_t ids[] = {HELLO, CHANNEL_END, A};
    parse_request r = GEMMAD__V1__PARSE_CHAT_REQUEST__INIT;
    r.has_starts_in_thought = r.starts_in_thought = 1;
    const parse_response *got = parse(&r, ids, 3);
    CHECK(got && is_text(got->message->reasoning, "hello") && is_text(got->message->content[0]->text, "a"));
    fake_call_close(&f);
    uint32_t lost[9];
    for (int i = 0; i < 8; i++) lost[i] = BYTE + (uint8_t) "thought\n"[i];
    lost[8] = HELLO;
    for (int thinking = 0; thinking < 2; thinking++) {
        r = (parse_request)GEMMAD__V1__PARSE_CHAT_REQUEST__INIT;
        r.has_enable_thinking = 1;
        r.enable_thinking = thinking;
        got = parse(&r, lost, 9);
        CHECK(got && got->message->has_reasoning == thinking && (got->message->n_content == 0) == thinking);
        fake_call_close(&f);
    }
}

TEST(nothing) {
    parse_request r = GEMMAD__V1__PARSE_CHAT_REQUEST__INIT;
    const parse_response *got = parse(&r, NULL, 0);
    CHECK(got && got->message->n_content == 0 && !strcmp(got->finish_reason, "length"));
    fake_call_close(&f);
}

static void check_parse_refused(parse_request *r, const uint32_t *ids, size_t n, status st,
                                const char *part) {
    CHECK(parse(r, ids, n) == NULL);
    CHECK_THAT(f.st == st && strstr(f.text, part), "%s: %s", status_name(f.st), f.text);
    fake_call_close(&f);
}

TEST(refused) {
    static const uint32_t ids[] = {A, FAKE_VOCAB};
    parse_request r = GEMMAD__V1__PARSE_CHAT_REQUEST__INIT;
    check_parse_refused(&r, ids, 2, ST_INVALID, "token_ids[1] is 274, and the vocabulary has 274");
    r.finish_reason = (char *)"tool_calls";
    check_parse_refused(&r, ids, 1, ST_INVALID, "finish_reason is \"tool_calls\"");
    r.finish_reason = NULL;
    r.model = (char *)"ids";
    check_parse_refused(&r, ids, 1, ST_INVALID, "has no tokenizer");
    r.model = (char *)"none";
    check_parse_refused(&r, ids, 1, ST_NOT_FOUND, "none");
    r.model = NULL;
    uint32_t *many = memory_alloc_array(LIMIT_CONTEXT_TOKENS + 1, sizeof *many);
    for (int i = 0; i <= LIMIT_CONTEXT_TOKENS; i++) many[i] = A;
    check_parse_refused(&r, many, LIMIT_CONTEXT_TOKENS + 1, ST_INVALID,
                        "token_ids has 1048577 ids, at most 1048576");
    free(many);
}

/* On a worker, and one that its client does not wait for. */
TEST(large) {
    uint32_t *many = memory_alloc_array(100000, sizeof *many);
    for (int i = 0; i < 100000; i++) many[i] = HELLO;
    parse_request r = GEMMAD__V1__PARSE_CHAT_REQUEST__INIT;
    const parse_response *got = parse(&r, many, 100000);
    CHECK(got && got->message->n_content == 1 && got->message->content[0]->text.len == 500000);
    fake_call_close(&f);
    r.n_token_ids = 100000;
    r.token_ids = many;
    fake_call_open(&f, "p");
    fake_handle(c, &f, "ParseChat", &r.base);
    CHECK(f.finished == 0);
    f.base.cancelled(&f.base, f.base.context, ST_CANCELLED);
    uv_run(&loop, UV_RUN_DEFAULT);
    CHECK(f.finished == 1 && f.st == ST_CANCELLED && f.sent_count == 0);
    fake_call_close(&f);
    free(many);
}

int main(void) {
    open_core();
    RUN(message);
    RUN(how_it_ended);
    RUN(where_it_began);
    RUN(nothing);
    RUN(refused);
    RUN(large);
    close_core();
    return test_result();
}
