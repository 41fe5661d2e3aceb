/* Chat through the core: a fake engine and a fake transport, driven by hand. What outputs mean is text/test_chat_parser's. */
#include "tests/unit/queue/chat_fixture.h"

static fake_call f;
static chat_seen seen;

static void see(void) {
    chat_seen_close(&seen);
    chat_see(&f, 0, &seen);
}

static void check_seen(const char *reasoning, const char *content, uint32_t calls, const uint32_t *ids,
                       uint32_t id_count) {
    see();
    CHECK_THAT(!strcmp(strbuf_text(&seen.reasoning), reasoning), "\"%s\"", strbuf_text(&seen.reasoning));
    CHECK_THAT(!strcmp(strbuf_text(&seen.content), content), "\"%s\"", strbuf_text(&seen.content));
    CHECK_THAT(seen.call_count == calls, "%u calls", seen.call_count);
    CHECK_THAT(seen.id_count == id_count, "%u ids, not %u", seen.id_count, id_count);
    if (seen.id_count == id_count) CHECK(id_count == 0 || !memcmp(seen.ids, ids, id_count * sizeof *ids));
}

static void check_finished(const char *reason, uint32_t completion, uint32_t reasoning) {
    CHECK_THAT(f.finished == 1 && f.st == ST_OK, "%u %s", f.finished, f.text);
    CHECK(seen.finished != NULL && seen.started == 1);
    if (!seen.finished) return;
    CHECK_THAT(!strcmp(seen.finished->finish_reason, reason), "%s", seen.finished->finish_reason);
    const Gemmad__V1__Usage *u = seen.finished->usage;
    CHECK_THAT(u && u->completion_tokens == completion && u->reasoning_tokens == reasoning, "%u %u",
               u->completion_tokens, u->reasoning_tokens);
}

static void feed(fake_request *q, const uint32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++) fake_token(q, ids[i]);
}
#define FEED(q, ids) feed(q, ids, sizeof(ids) / sizeof *(ids))

static bool is_text(ProtobufCBinaryData got, const char *want) {
    return got.len == strlen(want) && !memcmp(got.data, want, got.len);
}

TEST(plain) {
    static const uint32_t ids[] = {HELLO, WORLD, TURN_END};
    chat_request_message r = chat_request_of(NULL);
    r.request_id = (char *)"mine";
    r.has_priority = 1;
    r.priority = 3;
    fake_request *q = begin_chat(&f, &r);
    CHECK(q && q->priority == 3);
    /* The template's text, with the user's in it. */
    strbuf prompt = {0};
    for (uint32_t i = 0; i < q->token_count; i++)
        if (q->tokens[i] >= BYTE && q->tokens[i] < WORD)
            strbuf_add(&prompt, &(char){(char)(q->tokens[i] - BYTE)}, 1);
    CHECK_THAT(strstr(strbuf_text(&prompt), "user\nhello"), "%s", strbuf_text(&prompt));
    strbuf_close(&prompt);
    q->listener.started(q->context, 2);
    q->listener.progress(q->context, 3);
    FEED(q, ids);
    fake_finish(&dense, q, "stop");
    check_seen("", "hello world", 0, ids, 3);
    check_finished("stop", 3, 0);
    CHECK(!strcmp(seen.start->request_id, "mine") && seen.start->prompt_tokens > 10 &&
          seen.start->cached_tokens == 2);
    CHECK(seen.finished->timings->queue_ms == 1.5 && seen.finished->n_malformed == 0 &&
          !seen.finished->has_truncated_call);
    CHECK(seen.deltas == 3);
    fake_call_close(&f);
}

/* Each delta is of one kind; ids of markup come with what they begin, those of a call with the call. */
TEST(thought_content_and_calls) {
    static const uint32_t ids[] = {CHANNEL,    BYTE + 't', BYTE + 'h',  BYTE + 'o', BYTE + 'u', BYTE + 'g',
                                   BYTE + 'h', BYTE + 't', NEWLINE,     HELLO,      NEWLINE,    CHANNEL_END,
                                   B,          CALL_OF(A), CALL_OF(AB), RESPONSE};
    chat_request_message r = tool_request_of(NULL);
    fake_request *q = begin_chat_started(&f, &r);
    feed(q, ids, 9);
    CHECK(f.sent_count == 1);
    fake_token(q, HELLO);
    CHECK(f.sent_count == 2); /* with the ten ids so far */
    check_seen("hello", "", 0, ids, 10);
    feed(q, ids + 10, 2);
    CHECK(f.sent_count == 2);
    feed(q, ids + 12, 1);
    check_seen("hello", "b", 0, ids, 13);
    feed(q, ids + 13, 9);
    check_seen("hello", "b", 0, ids, 13);
    feed(q, ids + 22, 1);
    check_seen("hello", "b", 1, ids, 23);
    feed(q, ids + 23, 11);
    fake_finish(&dense, q, "stop");
    check_seen("hello", "b", 2, ids, 34);
    check_finished("tool_calls", 34, 12);
    CHECK(!strcmp(seen.call[0].name, "a") && !strcmp(seen.call[1].name, "ab"));
    CHECK(!strcmp(strbuf_text(&seen.call[1].arguments), "{\"a\":\"hello\"}") && seen.call[1].fragments == 1);
    CHECK(!strncmp(seen.call[0].id, "call_", 5) && strlen(seen.call[0].id) == 29);
    CHECK(strcmp(seen.call[0].id, seen.call[1].id));
    fake_call_close(&f);
}

TEST(malformed_and_truncated) {
    static const uint32_t ids[] = {CALL, CALL_END, CALL, A, CALL_END, A, CALL, B, BRACE};
    chat_request_message r = tool_request_of(NULL);
    fake_request *q = begin_chat_started(&f, &r);
    FEED(q, ids);
    fake_finish(&dense, q, "length");
    check_seen("", "a", 0, ids, 9);
    check_finished("length", 9, 0);
    CHECK(seen.finished->n_malformed == 2 &&
          is_text(seen.finished->malformed[1], "<|tool_call>a<tool_call|>"));
    CHECK(seen.finished->has_truncated_call && is_text(seen.finished->truncated_call, "<|tool_call>b{"));
    strbuf text = {0};
    core_write_metrics(c, &text);
    CHECK(strstr(strbuf_text(&text), "gemmad:malformed_tool_calls_total{engine=\"0\",model_name=\"dense\"} 3\n"));
    strbuf_close(&text);
    fake_call_close(&f);
}

/* White space before a call was never said. */
TEST(seam) {
    static const uint32_t ids[] = {HELLO, SPACE, NEWLINE, CALL_OF(A), NEWLINE, B, TURN_END};
    chat_request_message r = tool_request_of(NULL);
    fake_request *q = begin_chat_started(&f, &r);
    feed(q, ids, 3);
    check_seen("", "hello", 0, ids, 1);
    feed(q, ids + 3, sizeof ids / sizeof *ids - 3);
    fake_finish(&dense, q, "stop");
    check_seen("", "hello\nb", 1, ids, sizeof ids / sizeof *ids);
    check_finished("tool_calls", sizeof ids / sizeof *ids, 0);
    fake_call_close(&f);
    /* Where none comes, it was. */
    q = begin_chat_started(&f, &r);
    feed(q, ids, 3);
    fake_token(q, B);
    fake_token(q, SPACE);
    fake_finish(&dense, q, "length");
    static const uint32_t others[] = {HELLO, SPACE, NEWLINE, B, SPACE};
    check_seen("", "hello \nb ", 0, others, 5);
    fake_call_close(&f);
}

static void set_stop(sampling_message *s, const char *text) {
    static ProtobufCBinaryData stop;
    stop = (ProtobufCBinaryData){strlen(text), (uint8_t *)text};
    s->n_stop = 1;
    s->stop = &stop;
}

TEST(stop_strings) {
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    static const struct {
        const char *stop, *reasoning, *content, *reason;
        uint32_t calls, taken, ids[16];
    } v[] = {
        /* In the content, not in thoughts and arguments. */
        {"lo w", "hello world", "hel", "stop", 0, 6, {CHANNEL, HELLO, WORLD, CHANNEL_END, HELLO, WORLD, B}},
        {"hello", "", "ab", "length", 1, 11, {CALL_OF(A), AB}},
        /* White space counts as soon as it is there. */
        {"\n\n", "", "a", "stop", 0, 3, {A, NEWLINE, NEWLINE, NEWLINE, B}},
        {"\n", "", "a", "stop", 0, 2, {A, NEWLINE, CALL_OF(A)}},
        /* Each stretch of content by itself. */
        {"ab", "b", "aba", "length", 0, 6, {A, CHANNEL, B, CHANNEL_END, B, A}},
        {"a\nb", "", "a\nb", "length", 1, 12, {A, CALL_OF(A), B}},
        {"\nb", "", "a", "tool_calls", 1, 12, {A, CALL_OF(A), B, C}},
        {"bx", "", "ab", "length", 0, 1, {AB}},
    };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        set_stop(&s, v[i].stop);
        chat_request_message r = tool_request_of(&s);
        fake_request *q = begin_chat_started(&f, &r);
        uint32_t fed = 0;
        while (fed < 16 && v[i].ids[fed] && !q->cancelled) fake_token(q, v[i].ids[fed++]);
        CHECK_THAT(fed == v[i].taken, "%zu: %u", i, fed);
        fake_finish(&dense, q, q->cancelled ? "cancelled" : "length");
        check_seen(v[i].reasoning, v[i].content, v[i].calls, v[i].ids, fed);
        CHECK_THAT(seen.finished && !strcmp(seen.finished->finish_reason, v[i].reason), "%zu: %s", i,
                   seen.finished ? seen.finished->finish_reason : f.text);
        fake_call_close(&f);
    }
}

static bool ends_with(const fake_request *q, uint32_t id) {
    for (uint32_t i = 0; i < q->sampling.stop_token_count; i++)
        if (q->stop_token[i] == id) return true;
    return false;
}

TEST(end_tokens) {
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    chat_request_message r = chat_request_of(&s);
    fake_request *q = begin_chat_started(&f, &r);
    CHECK(ends_with(q, EOS) && ends_with(q, TURN_END) && ends_with(q, RESPONSE) &&
          q->sampling.stop_token_count == 3);
    fake_finish(&dense, q, "length");
    fake_call_close(&f);
    s.has_ignore_eos = s.ignore_eos = 1;
    q = begin_chat_started(&f, &r);
    CHECK(!ends_with(q, EOS) && !ends_with(q, TURN_END) && ends_with(q, RESPONSE));
    static const uint32_t ids[] = {A, TURN_END, EOS, B, RESPONSE};
    FEED(q, ids);
    fake_finish(&dense, q, "stop");
    check_seen("", "ab", 0, ids, 5);
    check_finished("stop", 5, 0);
    fake_call_close(&f);
    /* As many as an engine takes, and no more. */
    static uint32_t stops[LIMIT_STOP_TOKENS];
    for (uint32_t i = 0; i < LIMIT_STOP_TOKENS; i++) stops[i] = BYTE + i;
    model_facts kept = dense.base.facts;
    s = (sampling_message)GEMMAD__V1__SAMPLING__INIT;
    s.n_stop_token_ids = LIMIT_STOP_TOKENS;
    s.stop_token_ids = stops;
    dense.base.facts.end_token_count = 64;
    for (uint32_t i = 0; i < 64; i++) dense.base.facts.end_token[i] = BYTE + 100 + i;
    CHECK(begin_chat(&f, &r) == NULL && f.st == ST_INVALID && strstr(f.text, "stop_token_ids"));
    fake_call_close(&f);
    dense.base.facts = kept;
}

/* What the answer must follow goes to the engine; a token that ends it then ends it, whatever ignore_eos says. */
TEST(forms) {
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    Gemmad__V1__ResponseFormat format = GEMMAD__V1__RESPONSE_FORMAT__INIT;
    Gemmad__V1__ToolChoice choice = GEMMAD__V1__TOOL_CHOICE__INIT;
    s.has_ignore_eos = s.ignore_eos = 1;
    format.format_case = GEMMAD__V1__RESPONSE_FORMAT__FORMAT_REGEX;
    format.regex = (char *)"a+";
    choice.mode = (char *)"required";
    for (int i = 0; i < 3; i++) {
        chat_request_message r = i == 0 ? chat_request_of(&s) : tool_request_of(&s);
        if (i == 0) r.response_format = &format;
        if (i == 1) r.tool_choice = &choice;
        fake_request *q = begin_chat_started(&f, &r);
        CHECK(q->grammar_bytes > 0 && ends_with(q, EOS) && ends_with(q, TURN_END) && ends_with(q, RESPONSE));
        fake_finish(&dense, q, "length");
        fake_call_close(&f);
    }
    format.regex = (char *)"a(";
    chat_request_message r = chat_request_of(&s);
    r.response_format = &format;
    CHECK(begin_chat(&f, &r) == NULL && f.st == ST_INVALID && strstr(f.text, "response_format.regex"));
    fake_call_close(&f);
    choice.mode = (char *)"named";
    choice.name = (char *)"b";
    r = tool_request_of(&s);
    r.tool_choice = &choice;
    CHECK(begin_chat(&f, &r) == NULL && f.st == ST_INVALID && strstr(f.text, "tool_choice"));
    fake_call_close(&f);
}

TEST(forms_of_generate) {
    Gemmad__V1__ResponseFormat format = GEMMAD__V1__RESPONSE_FORMAT__INIT;
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    s.has_ignore_eos = s.ignore_eos = 1;
    format.format_case = GEMMAD__V1__RESPONSE_FORMAT__FORMAT_JSON_SCHEMA;
    format.json_schema = (char *)"{\"type\":\"integer\"}";
    for (int text = 0; text < 2; text++) {
        generate_request r = text ? text_request("hello", 5) : ids_request(&s);
        r.sampling = &s;
        r.response_format = &format;
        fake_request *q = begin_started(&f, &r);
        CHECK(q && q->grammar_bytes > 0 && ends_with(q, EOS));
        fake_finish(&dense, q, "length");
        fake_call_close(&f);
    }
    format.json_schema = (char *)"{";
    generate_request r = ids_request(&s);
    r.response_format = &format;
    check_refused(&r, ST_INVALID, "response_format.json_schema");
    r.model = (char *)"ids";
    check_refused(&r, ST_INVALID, "response_format");
    format.format_case = GEMMAD__V1__RESPONSE_FORMAT__FORMAT_JSON_OBJECT;
    format.json_object = 0; /* none is asked for */
    r.model = NULL;
    fake_request *q = begin_started(&f, &r);
    CHECK(q->grammar_bytes == 0 && q->sampling.stop_token_count == 0);
    fake_finish(&dense, q, "length");
    fake_call_close(&f);
}

TEST(prompts_that_end_in_a_thought) {
    /* After a tool's result with thinking on. */
    Gemmad__V1__Message user = GEMMAD__V1__MESSAGE__INIT, assistant = GEMMAD__V1__MESSAGE__INIT,
                        tool = GEMMAD__V1__MESSAGE__INIT, *messages[] = {&user, &assistant, &tool};
    Gemmad__V1__ToolCall called = GEMMAD__V1__TOOL_CALL__INIT, *calls[] = {&called};
    Gemmad__V1__Part part = GEMMAD__V1__PART__INIT, *parts[] = {&part};
    part.part_case = GEMMAD__V1__PART__PART_TEXT;
    part.text = (ProtobufCBinaryData){2, (uint8_t *)"42"};
    user.role = (char *)"user", assistant.role = (char *)"assistant", tool.role = (char *)"tool";
    user.n_content = tool.n_content = 1;
    user.content = tool.content = parts;
    called.id = tool.tool_call_id = (char *)"x";
    called.name = (char *)"a";
    called.arguments_json = (char *)"{}";
    assistant.n_tool_calls = 1;
    assistant.tool_calls = calls;
    for (int thinking = 0; thinking < 2; thinking++) {
        chat_request_message r = tool_request_of(NULL);
        r.n_messages = 3;
        r.messages = messages;
        r.has_enable_thinking = 1;
        r.enable_thinking = thinking;
        fake_request *q = begin_chat_started(&f, &r);
        static const uint32_t ids[] = {HELLO, CHANNEL_END, WORLD, TURN_END};
        FEED(q, ids);
        fake_finish(&dense, q, "stop");
        check_seen(thinking ? "hello" : "", thinking ? " world" : "hello world", 0, ids, 4);
        check_finished("stop", 4, thinking ? 2 : 0);
        fake_call_close(&f);
    }
}

TEST(tool_choice) {
    static const uint32_t ids[] = {A, CALL_OF(A), B, TURN_END};
    Gemmad__V1__ToolChoice choice = GEMMAD__V1__TOOL_CHOICE__INIT;
    for (int i = 0; i < 4; i++) {
        chat_request_message with = tool_request_of(NULL), without = chat_request_of(NULL),
                             *r = i < 2 ? &with : &without;
        choice.mode = (char *)(i == 0 ? "none" : i == 1 ? "auto" : i == 2 ? "auto" : "");
        r->tool_choice = &choice;
        fake_request *q = begin_chat_started(&f, r);
        FEED(q, ids);
        fake_finish(&dense, q, "stop");
        bool calls = i == 1 || i == 2;
        check_seen("", "a\nb", calls, ids, 13);
        check_finished(calls ? "tool_calls" : "stop", 13, 0);
        CHECK(seen.finished->n_malformed == !calls);
        fake_call_close(&f);
    }
    chat_request_message r = tool_request_of(NULL);
    r.has_parallel_tool_calls = 1;
    r.parallel_tool_calls = 0;
    fake_request *q = begin_chat_started(&f, &r);
    static const uint32_t two[] = {A, CALL_OF(A), CALL_OF(AB)};
    q->listener.tokens(q->context, two, 21, NULL);
    CHECK(q->cancelled);
    fake_finish(&dense, q, "cancelled");
    check_seen("", "a", 1, two, 11);
    check_finished("tool_calls", 11, 0);
    fake_call_close(&f);
}

TEST(samples) {
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    s.has_n = s.has_logprobs = 1;
    s.n = 3;
    s.logprobs = 2;
    chat_request_message r = tool_request_of(&s);
    fake_request *last = begin_chat(&f, &r);
    CHECK(last && last->sample_index == 2 && last->group != 0);
    fake_request *q[3] = {last->next->next, last->next, last};
    static const uint32_t ids[3][11] = {
        {CHANNEL, HELLO, CHANNEL_END, A, TURN_END}, {CALL_OF(A), RESPONSE}, {B, EOS}};
    static const uint32_t n[3] = {5, 11, 2};
    for (int i = 0; i < 3; i++) q[i]->listener.started(q[i]->context, 0);
    for (uint32_t t = 0; t < 11; t++)
        for (int i = 0; i < 3; i++)
            if (t < n[i]) fake_token(q[i], ids[i][t]);
    for (int i = 2; i >= 0; i--) fake_finish(&dense, q[i], "stop");
    static const char *const content[] = {"a", "", "b"}, *const reason[] = {"stop", "tool_calls", "stop"};
    for (uint32_t i = 0; i < 3; i++) {
        chat_seen one;
        chat_see(&f, i, &one);
        CHECK(!strcmp(strbuf_text(&one.content), content[i]) && one.call_count == (i == 1) &&
              one.id_count == n[i]);
        CHECK(one.logprobs == n[i] && !memcmp(one.ids, ids[i], n[i] * sizeof **ids));
        CHECK(one.finished && !strcmp(one.finished->finish_reason, reason[i]) &&
              (one.finished->usage != NULL) == (i == 0));
        if (i == 0)
            CHECK(one.finished->usage->completion_tokens == 18 && one.finished->usage->reasoning_tokens == 3);
        chat_seen_close(&one);
    }
    CHECK(f.finished == 1 && f.st == ST_OK);
    fake_call_close(&f);
}

TEST(prompt_logprobs) {
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    s.has_want_prompt_logprobs = s.want_prompt_logprobs = 1;
    chat_request_message r = chat_request_of(&s);
    fake_request *q = begin_chat_started(&f, &r);
    CHECK(q->sampling.prompt_logprobs == 0);
    engine_logprob p[2] = {{.token = 5, .logprob = -1}, {.token = 6, .logprob = -2}};
    q->listener.prompt_logprobs(q->context, 1, p, 2);
    fake_finish(&dense, q, "length");
    see();
    CHECK(seen.prompt_logprobs == 2);
    fake_call_close(&f);
}

/* A call longer than an event comes in fragments, its tokens before it where they are many. */
TEST(large_calls) {
    enum { WORDS = 600000 };
    uint32_t *ids = memory_alloc_array(WORDS + 16, sizeof *ids), n = 0;
    static const uint32_t head[] = {CALL, A, BRACE, A, COLON, QUOTE},
                          tail[] = {QUOTE, BRACE_END, CALL_END, RESPONSE};
    for (size_t i = 0; i < 6; i++) ids[n++] = head[i];
    for (int i = 0; i < WORDS; i++) ids[n++] = i % 2 ? E_ACUTE : HELLO;
    for (size_t i = 0; i < 4; i++) ids[n++] = tail[i];
    chat_request_message r = tool_request_of(NULL);
    fake_request *q = begin_chat_started(&f, &r);
    uint32_t before = 0;
    for (uint32_t at = 0; at < n; at += 1000) {
        q->listener.tokens(q->context, ids + at, n - at < 1000 ? n - at : 1000, NULL);
        if (at < n - 1000) before = f.sent_count;
    }
    CHECK_THAT(before > 10 && before < 50, "%u", before);
    fake_finish(&dense, q, "stop");
    see();
    CHECK(seen.id_count == n && !memcmp(seen.ids, ids, n * sizeof *ids));
    CHECK(seen.call_count == 1 && seen.call[0].fragments == 3 &&
          seen.call[0].arguments.size == WORDS / 2 * 7 + 8);
    CHECK(f.largest < LIMIT_EVENT_BYTES + 1000);
    check_finished("tool_calls", n, 0);
    fake_call_close(&f);
    free(ids);
}

TEST(slow_readers) {
    chat_request_message r = chat_request_of(NULL);
    fake_request *q = begin_chat_started(&f, &r);
    f.backlog = LIMIT_BACKLOG_BYTES;
    static const uint32_t ids[] = {CHANNEL, HELLO, CHANNEL_END, A, SPACE, B, TURN_END};
    feed(q, ids, 4);
    CHECK(q->paused && f.sent_count == 1);
    feed(q, ids + 4, 3);
    f.backlog = 0;
    f.base.drained(&f.base, f.base.context);
    CHECK(!q->paused);
    fake_finish(&dense, q, "stop");
    check_seen("hello", "a b", 0, ids, 7);
    check_finished("stop", 7, 3);
    fake_call_close(&f);
}

TEST(ends_before_its_end) {
    chat_request_message r = tool_request_of(NULL);
    /* The client leaves. */
    fake_request *q = begin_chat_started(&f, &r);
    fake_token(q, CALL);
    f.base.cancelled(&f.base, f.base.context, ST_CANCELLED);
    CHECK(q->cancelled && f.finished == 0);
    fake_finish(&dense, q, "cancelled");
    CHECK(f.finished == 1 && f.st == ST_CANCELLED);
    fake_call_close(&f);
    /* The engine is lost in the middle, and behind the end of the answer. */
    q = begin_chat_started(&f, &r);
    fake_token(q, A);
    fake_fail(&dense, q, ST_UNAVAILABLE, "rank 1 was killed");
    CHECK(f.finished == 1 && f.st == ST_UNAVAILABLE && strstr(f.text, "rank 1"));
    fake_call_close(&f);
    q = begin_chat_started(&f, &r);
    static const uint32_t ids[] = {CALL_OF(A), TURN_END};
    FEED(q, ids);
    fake_fail(&dense, q, ST_UNAVAILABLE, "rank 1 was killed");
    check_seen("", "", 1, ids, 11);
    check_finished("tool_calls", 11, 0);
    fake_call_close(&f);
    /* The deadline reaches the engine. */
    fake_call_open(&f, "p");
    f.base.deadline_ms = 5000;
    fake_handle(c, &f, "Chat", &r.base);
    uv_run(&loop, UV_RUN_DEFAULT);
    CHECK(dense.first && dense.first->deadline_ms > 0 && dense.first->deadline_ms <= 5000);
    f.base.cancelled(&f.base, f.base.context, ST_TIMEOUT);
    fake_finish(&dense, dense.first, "cancelled");
    CHECK(f.finished == 1 && f.st == ST_TIMEOUT);
    fake_call_close(&f);
}

/* While the prompt is made. */
TEST(leaves_early) {
    size_t n = 1 << 20;
    char *text = memory_alloc(n);
    memset(text, 'x', n);
    chat_request_message r = chat_request_of(NULL);
    r.messages[0]->content[0]->text = (ProtobufCBinaryData){n, (uint8_t *)text};
    uint32_t submitted = dense.submitted;
    fake_call_open(&f, "p");
    fake_handle(c, &f, "Chat", &r.base);
    CHECK(f.finished == 0 && dense.submitted == submitted);
    f.base.cancelled(&f.base, f.base.context, ST_CANCELLED);
    uv_run(&loop, UV_RUN_DEFAULT);
    CHECK(f.finished == 1 && f.st == ST_CANCELLED && dense.submitted == submitted);
    fake_call_close(&f);
    fake_request *q = begin_chat_started(&f, &r);
    CHECK(q->token_count > n);
    fake_finish(&dense, q, "length");
    fake_call_close(&f);
    free(text);
}

static void check_chat_refused(const chat_request_message *r, status st, const char *part) {
    CHECK(begin_chat(&f, r) == NULL && f.finished == 1 && f.sent_count == 0);
    CHECK_THAT(f.st == st && strstr(f.text, part), "%s: %s, not %s", status_name(f.st), f.text, part);
    fake_call_close(&f);
}

TEST(refused) {
    chat_request_message r = chat_request_of(NULL);
    r.model = (char *)"none";
    check_chat_refused(&r, ST_NOT_FOUND, "none");
    r.model = (char *)"ids";
    check_chat_refused(&r, ST_INVALID, "model ids has no tokenizer");
    r = chat_request_of(NULL);
    r.n_messages = 0;
    check_chat_refused(&r, ST_INVALID, "messages");
    r = chat_request_of(NULL);
    r.has_resume_from = 1;
    check_chat_refused(&r, ST_UNSUPPORTED, "resume_from");
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    s.has_max_tokens = 1;
    s.max_tokens = 5000000;
    r = chat_request_of(&s);
    check_chat_refused(&r, ST_INVALID, "sampling.max_tokens is 5000000");
    dense.state = ENGINE_STARTING;
    r = chat_request_of(NULL);
    check_chat_refused(&r, ST_UNAVAILABLE, "starting");
    dense.state = ENGINE_READY;
    fake_request *q = begin_chat_started(&f, &r);
    fake_finish(&dense, q, "length");
    fake_call_close(&f);
}

/* Any tokens, told in any portions, to readers of any pace: the same answer as in one go. */
typedef struct portion {
    uint32_t ids[300], n;
} portion;

static uint32_t state = 1;
static uint32_t draw(uint32_t n) {
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    return state % n;
}

static void answer_with(const portion *p, const char *stop, bool in_one, chat_seen *out) {
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    Gemmad__V1__ToolChoice choice = GEMMAD__V1__TOOL_CHOICE__INIT;
    if (stop) set_stop(&s, stop);
    s.has_ignore_eos = s.ignore_eos = 1;
    chat_request_message r = chat_request_of(&s);
    choice.mode = (char *)"auto"; /* without tools: no grammar */
    r.tool_choice = &choice;
    fake_request *q = begin_chat_started(&f, &r);
    for (uint32_t at = 0; at < p->n && !q->cancelled;) {
        uint32_t n = in_one ? p->n : 1 + draw(4);
        if (n > p->n - at) n = p->n - at;
        if (!in_one) f.backlog = draw(3) ? 0 : LIMIT_BACKLOG_BYTES;
        q->listener.tokens(q->context, p->ids + at, n, NULL);
        at += n;
        f.backlog = 0;
        if (!in_one) f.base.drained(&f.base, f.base.context);
    }
    fake_finish(&dense, q, q->cancelled ? "cancelled" : "length");
    CHECK(f.finished == 1 && f.st == ST_OK);
    chat_see(&f, 0, out);
}

TEST(any_portions) {
    static const uint32_t alphabet[] = {
        A,       AB,       B,           HELLO,       WORLD,      SPACE, NEWLINE,   CHANNEL, CHANNEL_END,
        CALL,    CALL_END, CALL,        QUOTE,       BRACE,      COLON, BRACE_END, TURN,    TURN_END,
        E_ACUTE, PAD,      BYTE + 0xC3, BYTE + 0xA9, BYTE + ',', SPACE, NEWLINE};
    static const char *const stops[] = {NULL, "ab", "\n ", " world\na", "b"};
    for (int round = 0; round < (TEST_SANITIZED ? 300 : 3000); round++) {
        portion p = {.n = 1 + draw(60)};
        chat_seen one, many;
        for (uint32_t i = 0; i < p.n; i++) {
            static const uint32_t good[] = {CALL_OF(A)};
            if (draw(12) || i + 10 > p.n) p.ids[i] = alphabet[draw(sizeof alphabet / sizeof *alphabet)];
            else memcpy(p.ids + i, good, sizeof good), i += 9;
        }
        const char *stop = stops[draw(5)];
        answer_with(&p, stop, true, &one);
        fake_call kept = f;
        answer_with(&p, stop, false, &many);
        CHECK(!strcmp(strbuf_text(&one.reasoning), strbuf_text(&many.reasoning)));
        CHECK_THAT(!strcmp(strbuf_text(&one.content), strbuf_text(&many.content)), "%d", round);
        CHECK(one.call_count == many.call_count && one.finished->n_malformed == many.finished->n_malformed);
        CHECK(one.id_count == many.id_count && !memcmp(one.ids, many.ids, one.id_count * sizeof *one.ids));
        CHECK(one.finished->usage->completion_tokens == one.id_count && one.id_count <= p.n);
        CHECK(!strcmp(one.finished->finish_reason, many.finished->finish_reason));
        CHECK(stop || (one.id_count == p.n && !memcmp(one.ids, p.ids, p.n * sizeof *p.ids)));
        chat_seen_close(&one);
        chat_seen_close(&many);
        fake_call_close(&f);
        fake_call_close(&kept);
    }
}

static bool idle;
static void on_idle(void *context) {
    (void)context;
    idle = true;
}

TEST(drained) {
    chat_request_message r = chat_request_of(NULL);
    fake_request *q = begin_chat_started(&f, &r);
    core_drain(c, on_idle, NULL);
    CHECK(!idle);
    fake_call refused;
    fake_call_open(&refused, "p");
    fake_handle(c, &refused, "Chat", &r.base);
    CHECK(refused.finished == 1 && refused.st == ST_UNAVAILABLE && strstr(refused.text, "draining"));
    fake_call_close(&refused);
    fake_token(q, A);
    fake_finish(&dense, q, "length");
    CHECK(f.finished == 1 && f.st == ST_OK);
    uv_run(&loop, UV_RUN_DEFAULT);
    CHECK(idle);
    fake_call_close(&f);
}

int main(void) {
    open_chat_core();
    RUN(plain);
    RUN(thought_content_and_calls);
    RUN(malformed_and_truncated);
    RUN(seam);
    RUN(stop_strings);
    RUN(end_tokens);
    RUN(forms);
    RUN(forms_of_generate);
    RUN(prompts_that_end_in_a_thought);
    RUN(tool_choice);
    RUN(samples);
    RUN(prompt_logprobs);
    RUN(large_calls);
    RUN(slow_readers);
    RUN(ends_before_its_end);
    RUN(leaves_early);
    RUN(refused);
    RUN(any_portions);
    RUN(drained);
    chat_seen_close(&seen);
    close_core();
    return test_result();
}
