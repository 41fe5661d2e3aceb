/* Generate through the core: a fake engine and a fake transport, driven by hand. */
#include "tests/unit/queue/generate_fixture.h"

#include <math.h>

TEST(plain_stream) {
    fake_call f;
    generate_request r = ids_request(NULL);
    r.request_id = (char *)"mine";
    r.has_priority = 1;
    r.priority = -7;
    fake_request *q = begin(&f, &r);
    CHECK(q && q->token_count == 3 && !memcmp(q->tokens, hello_ids, sizeof hello_ids) && q->priority == -7);
    const engine_sampling *s = &q->sampling;
    CHECK(s->max_tokens == 97 && s->temperature == 0.5f && s->top_p == 0.9f && s->top_k == 40 &&
          s->min_p == 0);
    CHECK(s->repetition_penalty == 1 && s->presence_penalty == 0 && s->frequency_penalty == 0);
    CHECK(s->logprobs == -1 && s->prompt_logprobs == -1 && s->bias_count == 0);
    CHECK(s->stop_token_count == 1 && q->stop_token[0] == EOS && q->deadline_ms == 0);
    uint64_t seed = s->seed;
    q->listener.started(q->context, 2);
    q->listener.progress(q->context, 3);
    fake_token(q, HELLO);
    fake_token(q, WORLD);
    CHECK(f.sent_count == 4);
    fake_token(q, EOS);
    CHECK(dense.cancels == 0);
    fake_finish(&dense, q, "stop");
    check_stream(&f, "hello world", 3, "stop");
    fake_stream got;
    fake_read(&f, &got);
    CHECK(!strcmp(got.start->request_id, "mine") && got.start->prompt_tokens == 3 &&
          got.start->cached_tokens == 2);
    CHECK(got.start->has_seed && got.start->seed == seed && got.progress == 3 && got.logprobs == 0);
    CHECK(got.ids[0] == HELLO && got.ids[1] == WORLD && got.ids[2] == EOS && got.deltas == 3);
    CHECK(got.finished->usage->prompt_tokens == 3 && got.finished->usage->cached_tokens == 2);
    CHECK(got.finished->timings->queue_ms == 1.5 && got.finished->timings->decode_ms == 3.5);
    CHECK(got.finished->timings->first_token_ms > 0 && got.finished->has_index && got.finished->index == 0);
    strbuf_close(&got.text);
    fake_call_close(&f);
}

TEST(seeds_and_ids_are_drawn) {
    fake_call f[2];
    generate_request r = ids_request(NULL);
    fake_request *q[2];
    for (int i = 0; i < 2; i++) q[i] = begin_started(&f[i], &r);
    const Gemmad__V1__Started *s[2];
    for (int i = 0; i < 2; i++) s[i] = ((Gemmad__V1__GenerateEvent *)f[i].sent[0])->started;
    CHECK(s[0]->seed != s[1]->seed && strcmp(s[0]->request_id, s[1]->request_id) &&
          strlen(s[0]->request_id) == 32);
    for (int i = 0; i < 2; i++) {
        fake_finish(&dense, q[i], "length");
        check_stream(&f[i], "", 0, "length");
        fake_call_close(&f[i]);
    }
    sampling_message m = GEMMAD__V1__SAMPLING__INIT;
    m.has_seed = 1;
    m.seed = UINT64_MAX;
    r = ids_request(&m);
    q[0] = begin_started(&f[0], &r);
    CHECK(q[0]->sampling.seed == UINT64_MAX);
    CHECK(((Gemmad__V1__GenerateEvent *)f[0].sent[0])->started->seed == UINT64_MAX);
    fake_finish(&dense, q[0], "length");
    fake_call_close(&f[0]);
}

TEST(text_prompts) {
    fake_call f;
    generate_request r = text_request("a<eos>\0z", 8);
    fake_request *q = begin_started(&f, &r);
    static const uint32_t want[] = {BOS, BYTE + 'a', EOS, BYTE, BYTE + 'z'};
    CHECK(q->token_count == 5 && !memcmp(q->tokens, want, sizeof want));
    fake_finish(&dense, q, "length");
    fake_call_close(&f);
    r.has_add_bos = r.has_parse_special = 1;
    r.add_bos = r.parse_special = 0;
    q = begin_started(&f, &r);
    CHECK(q->token_count == 8 && q->tokens[0] == BYTE + 'a' && q->tokens[1] == BYTE + '<');
    fake_finish(&dense, q, "length");
    fake_call_close(&f);
    /* Long enough for a worker thread. */
    size_t n = 50000;
    char *text = memory_alloc(n);
    memset(text, 'x', n);
    dense.base.facts.context_tokens = 50002;
    r = text_request(text, n);
    q = begin_started(&f, &r);
    CHECK(q->token_count == 50001 && q->sampling.max_tokens == 1);
    fake_finish(&dense, q, "length");
    fake_call_close(&f);
    dense.base.facts.context_tokens = 50001;
    check_refused(&r, ST_INVALID, "the prompt has 50001 tokens, and the context 50001");
    text[40000] = (char)0xFF;
    check_refused(&r, ST_INVALID, "text: not UTF-8 at byte 40000");
    dense.base.facts.context_tokens = 100;
    free(text);
}

TEST(ends) {
    fake_call f;
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    uint32_t stops[] = {WORLD, EOS, WORLD};
    s.n_stop_token_ids = 3;
    s.stop_token_ids = stops;
    generate_request r = ids_request(&s);
    fake_request *q = begin_started(&f, &r);
    CHECK(q->sampling.stop_token_count == 2 && q->stop_token[0] == EOS && q->stop_token[1] == WORLD);
    fake_token(q, BOS);
    fake_token(q, WORLD);
    fake_finish(&dense, q, "stop");
    check_stream(&f, "<bos>", 2, "stop"); /* special tokens other than the ending one appear as their text */
    fake_call_close(&f);
    s.has_ignore_eos = s.ignore_eos = 1;
    q = begin_started(&f, &r);
    CHECK(q->sampling.stop_token_count == 2 && q->stop_token[0] == WORLD);
    s.n_stop_token_ids = 0;
    fake_token(q, HELLO);
    fake_finish(&dense, q, "length");
    check_stream(&f, "hello", 1, "length");
    fake_call_close(&f);
    q = begin_started(&f, &r);
    CHECK(q->sampling.stop_token_count == 0);
    fake_token(q, EOS);
    fake_token(q, HELLO);
    fake_finish(&dense, q, "length");
    check_stream(&f, "<eos>hello", 2, "length");
    fake_call_close(&f);
}

static void with_stops(sampling_message *s, ProtobufCBinaryData *stops, const char *const *text, size_t n) {
    for (size_t i = 0; i < n; i++) stops[i] = (ProtobufCBinaryData){strlen(text[i]), (uint8_t *)text[i]};
    s->n_stop = n;
    s->stop = stops;
}

TEST(stop_strings) {
    fake_call f;
    fake_stream got;
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    ProtobufCBinaryData stops[2];
    static const char *const texts[] = {"abc", "lo w"};
    with_stops(&s, stops, texts, 2);
    generate_request r = ids_request(&s);

    /* In one run over three tokens; what the engine overshot is not seen; the stop string's tokens are counted. */
    fake_request *q = begin_started(&f, &r);
    uint32_t cancels = dense.cancels;
    static const uint32_t run[] = {C, A, B, C, HELLO, WORLD};
    q->listener.tokens(q->context, run, 6, NULL);
    CHECK(dense.cancels == cancels + 1 && q->cancelled && f.finished == 0);
    fake_token(q, HELLO);
    fake_finish(&dense, q, "cancelled");
    check_stream(&f, "c", 4, "stop");
    fake_call_close(&f);

    /* Across tokens, one event each: text that may begin a stop string waits, and so do the ids it belongs to. */
    q = begin_started(&f, &r);
    fake_token(q, HELLO); /* "hel" goes, "lo" waits */
    fake_read(&f, &got);
    CHECK(!strcmp(strbuf_text(&got.text), "hel") && got.id_count == 0);
    strbuf_close(&got.text);
    fake_token(q, AB); /* "lo" was no stop; "ab" waits */
    fake_read(&f, &got);
    CHECK(!strcmp(strbuf_text(&got.text), "hello") && got.id_count == 1);
    strbuf_close(&got.text);
    fake_token(q, HELLO);
    fake_token(q, WORLD);
    fake_finish(&dense, q, "cancelled");
    check_stream(&f, "helloabhel", 4, "stop");
    fake_call_close(&f);

    /* Not decided when the answer ends: it was text. */
    q = begin_started(&f, &r);
    fake_token(q, AB);
    CHECK(f.sent_count == 1);
    fake_finish(&dense, q, "length");
    check_stream(&f, "ab", 1, "length");
    fake_call_close(&f);

    /* An engine that is lost after the answer was complete takes nothing away. */
    q = begin_started(&f, &r);
    fake_token(q, AB);
    fake_token(q, C);
    fake_fail(&dense, q, ST_UNAVAILABLE, "rank 1 was killed");
    check_stream(&f, "", 2, "stop");
    fake_call_close(&f);

    /* The engine answers from inside engine_cancel. */
    dense.cancels_at_once = true;
    q = begin_started(&f, &r);
    static const uint32_t abc[] = {HELLO, A, B, C};
    q->listener.tokens(q->context, abc, 4, NULL);
    check_stream(&f, "hello", 4, "stop");
    fake_call_close(&f);
    dense.cancels_at_once = false;
}

TEST(characters_in_pieces) {
    fake_call f;
    fake_stream got;
    generate_request r = ids_request(NULL);
    fake_request *q = begin_started(&f, &r);
    fake_token(q, BYTE + 0xE2);
    fake_token(q, BYTE + 0x82);
    CHECK(f.sent_count == 1);
    fake_token(q, BYTE + 0xAC);
    fake_read(&f, &got);
    CHECK(!strcmp(strbuf_text(&got.text), "\xE2\x82\xAC") && got.id_count == 3 && got.deltas == 1);
    strbuf_close(&got.text);
    /* The second lead byte shows that the first was wrong: its id may go, the second waits. */
    fake_token(q, BYTE + 0xC3);
    fake_token(q, BYTE + 0xC3);
    fake_read(&f, &got);
    CHECK(!strcmp(strbuf_text(&got.text), "\xE2\x82\xAC\xEF\xBF\xBD") && got.id_count == 4);
    strbuf_close(&got.text);
    fake_token(q, EOS); /* goes after the id that waits */
    fake_read(&f, &got);
    CHECK(got.id_count == 4);
    strbuf_close(&got.text);
    fake_finish(&dense, q, "stop");
    check_stream(&f, "\xE2\x82\xAC\xEF\xBF\xBD\xEF\xBF\xBD", 6, "stop");
    fake_call_close(&f);

    /* A NUL byte is a byte of the text; a row that the tokenizer does not know is U+FFFD. */
    dense.base.facts.vocab = FAKE_VOCAB + 5;
    q = begin_started(&f, &r);
    fake_token(q, A);
    fake_token(q, BYTE);
    fake_token(q, FAKE_VOCAB + 1);
    fake_token(q, B);
    fake_finish(&dense, q, "length");
    fake_read(&f, &got);
    CHECK(got.text.size == 6 &&
          !memcmp(got.text.data,
                  "a\0\xEF\xBF\xBD"
                  "b",
                  6) &&
          got.id_count == 4);
    strbuf_close(&got.text);
    fake_call_close(&f);
    dense.base.facts.vocab = FAKE_VOCAB;

    /* Bytes left at the end become U+FFFD before stop strings are looked for the last time. */
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    ProtobufCBinaryData stops[1];
    static const char *const texts[] = {"\xEF\xBF\xBD"};
    with_stops(&s, stops, texts, 1);
    r = ids_request(&s);
    q = begin_started(&f, &r);
    fake_token(q, A);
    fake_token(q, BYTE + 0xF0);
    fake_finish(&dense, q, "length");
    check_stream(&f, "a", 2, "stop");
    fake_call_close(&f);
}

TEST(logprobs_go_with_their_ids) {
    fake_call f;
    fake_stream got;
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    s.has_logprobs = s.has_want_prompt_logprobs = s.want_prompt_logprobs = s.has_prompt_logprobs = 1;
    s.logprobs = FAKE_VOCAB + 9; /* more than there are is all of them */
    s.prompt_logprobs = 1024;
    ProtobufCBinaryData stops[1];
    static const char *const texts[] = {"abc"};
    with_stops(&s, stops, texts, 1);
    generate_request r = ids_request(&s);
    fake_request *q = begin_started(&f, &r);
    CHECK(q->sampling.logprobs == FAKE_VOCAB && q->sampling.prompt_logprobs == FAKE_VOCAB);
    engine_top top[FAKE_VOCAB] = {{0}};
    engine_logprob p[2] = {{HELLO, -1, top, FAKE_VOCAB}, {WORLD, -2, top, 0}};
    q->listener.prompt_logprobs(q->context, 1, p, 1);
    q->listener.prompt_logprobs(q->context, 2, p + 1, 1);
    fake_token(q, AB);
    fake_token(q, HELLO);
    fake_finish(&dense, q, "length");
    fake_read(&f, &got);
    CHECK(got.prompt_logprobs == 2 && got.logprobs == 2 && got.id_count == 2);
    const Gemmad__V1__TokenLogprob *l = ((Gemmad__V1__GenerateEvent *)f.sent[3])->delta->logprobs[0];
    CHECK(l->logprob == -(float)AB && l->n_top == FAKE_VOCAB && l->top[3]->token_id == 3 &&
          l->top[3]->logprob == -3);
    l = ((Gemmad__V1__GenerateEvent *)f.sent[1])->prompt_logprobs->logprobs[0];
    CHECK(l->token_id == HELLO && l->logprob == -1 && l->n_top == FAKE_VOCAB);
    strbuf_close(&got.text);
    fake_call_close(&f);
    /* 0: the chosen one only. want without a number: the same. */
    s.logprobs = 0;
    s.has_prompt_logprobs = 0;
    q = begin_started(&f, &r);
    CHECK(q->sampling.logprobs == 0 && q->sampling.prompt_logprobs == 0);
    fake_token(q, HELLO);
    fake_finish(&dense, q, "length");
    fake_read(&f, &got);
    CHECK(got.logprobs == 1);
    strbuf_close(&got.text);
    fake_call_close(&f);
}

TEST(large_prompt_logprobs_come_in_pieces) {
    fake_call f;
    fake_stream got;
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    s.has_want_prompt_logprobs = s.want_prompt_logprobs = s.has_prompt_logprobs = 1;
    s.prompt_logprobs = 1024;
    generate_request r = ids_request(&s);
    fake_request *q = begin_started(&f, &r);
    static engine_top top[1024];
    static engine_logprob p[1000];
    for (uint32_t i = 0; i < 1024; i++) top[i] = (engine_top){1u << 19, -1.5f};
    for (uint32_t i = 0; i < 1000; i++) p[i] = (engine_logprob){1u << 19, -1, top, 1024};
    q->listener.prompt_logprobs(q->context, 1, p, 1000);
    q->listener.prompt_logprobs(q->context, 1001, p, 7);
    CHECK_THAT(f.largest > LIMIT_EVENT_BYTES / 2 && f.largest <= LIMIT_EVENT_BYTES, "%llu",
               (unsigned long long)f.largest);
    /* An engine that jumps is not believed. */
    q->listener.prompt_logprobs(q->context, 1009, p, 1);
    CHECK(q->cancelled);
    fake_finish(&dense, q, "cancelled");
    CHECK(f.finished == 1 && f.st == ST_INTERNAL && strstr(f.text, "go on at 1009, not 1008"));
    fake_read(&f, &got);
    CHECK(got.prompt_logprobs == 1007 && got.prompt_events > 10);
    strbuf_close(&got.text);
    fake_call_close(&f);
}

TEST(prompts_refused) {
    generate_request none = GEMMAD__V1__GENERATE_REQUEST__INIT;
    check_refused(&none, ST_INVALID, "there is no prompt");
    generate_request r = text_request("", 0);
    check_refused(&r, ST_INVALID, "text is empty");
    r = ids_request(NULL);
    some_ids.n_ids = 0;
    check_refused(&r, ST_INVALID, "token_ids is empty");
    uint32_t ids[200] = {BOS, HELLO, FAKE_VOCAB, A};
    some_ids.n_ids = 4;
    some_ids.ids = ids;
    check_refused(&r, ST_INVALID, "token_ids[2] is 274, and the vocabulary has 274");
    some_ids.n_ids = 100;
    check_refused(&r, ST_INVALID, "the prompt has 100 tokens, and the context 100");
    size_t n = 10 << 20;
    char *text = memory_alloc(n);
    memset(text, 'x', n);
    r = text_request(text, n);
    check_refused(&r, ST_INVALID, "text has 10485760 bytes, at most 8388608");
    free(text);
    r = text_request("ab\xE2\x82", 4);
    check_refused(&r, ST_INVALID, "text: not UTF-8 at byte 2");
    r = ids_request(NULL);
    r.model = (char *)"none";
    check_refused(&r, ST_NOT_FOUND, "dense, ids");
    r.model = (char *)"d\xFF";
    check_refused(&r, ST_INVALID, "GenerateRequest.model is not UTF-8 at byte 1");
    r.model = (char *)"ids";
    r.prompt_case = GEMMAD__V1__GENERATE_REQUEST__PROMPT_TEXT;
    r.text = (ProtobufCBinaryData){1, (uint8_t *)"x"};
    check_refused(&r, ST_INVALID, "model ids has no tokenizer");
    r = ids_request(NULL);
    r.has_resume_from = 1;
    check_refused(&r, ST_UNSUPPORTED, "resume_from");
    char id[LIMIT_REQUEST_ID_BYTES + 2];
    memset(id, 'i', sizeof id);
    id[LIMIT_REQUEST_ID_BYTES + 1] = 0;
    r = ids_request(NULL);
    r.request_id = id;
    check_refused(&r, ST_INVALID, "request_id has 257 bytes, at most 256");
}

TEST(formats_have_a_bound) {
    generate_request r = ids_request(NULL);
    Gemmad__V1__ResponseFormat f = GEMMAD__V1__RESPONSE_FORMAT__INIT;
    char *regex = memory_alloc(LIMIT_PROMPT_BYTES + 1);
    memset(regex, 'a', LIMIT_PROMPT_BYTES);
    f.format_case = GEMMAD__V1__RESPONSE_FORMAT__FORMAT_REGEX;
    f.regex = regex;
    r.response_format = &f;
    check_refused(&r, ST_INVALID, "response_format has 8388613 bytes, at most 8388608");
    f.regex = "(";
    check_refused(&r, ST_INVALID, "response_format.regex");
    free(regex);
}

TEST(model_without_tokenizer) {
    fake_call f;
    generate_request r = ids_request(NULL);
    r.model = (char *)"ids";
    fake_call_open(&f, "p");
    fake_handle(c, &f, "Generate", &r.base);
    CHECK(ids_only.submitted == 1);
    fake_request *q = ids_only.first;
    q->listener.started(q->context, 0);
    fake_token(q, BYTE + 0xE2);
    fake_token(q, EOS);
    fake_finish(&ids_only, q, "stop");
    check_stream(&f, "", 2, "stop");
    fake_call_close(&f);
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    ProtobufCBinaryData stops[1];
    static const char *const texts[] = {"x"};
    with_stops(&s, stops, texts, 1);
    r = ids_request(&s);
    r.model = (char *)"ids";
    check_refused(&r, ST_INVALID, "sampling.stop: the model has no tokenizer");
}

/* Each float with each value that must be refused; the sentence names field and bound. */
TEST(floats_refused) {
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    generate_request r = ids_request(&s);
    struct {
        const char *name;
        protobuf_c_boolean *has;
        float *value;
        float bad[2];
        const char *bounds;
    } v[] = {
        {"temperature", &s.has_temperature, &s.temperature, {-0.01f, 2.01f}, "[0, 2]"},
        {"top_p", &s.has_top_p, &s.top_p, {0, 1.01f}, "(0, 1]"},
        {"min_p", &s.has_min_p, &s.min_p, {-0.1f, 1.1f}, "[0, 1]"},
        {"repetition_penalty", &s.has_repetition_penalty, &s.repetition_penalty, {0, 10.1f}, "(0, 10]"},
        {"presence_penalty", &s.has_presence_penalty, &s.presence_penalty, {-2.1f, 2.1f}, "[-2, 2]"},
        {"frequency_penalty", &s.has_frequency_penalty, &s.frequency_penalty, {-2.1f, 2.1f}, "[-2, 2]"},
    };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        float bad[] = {v[i].bad[0], v[i].bad[1], NAN, INFINITY, -INFINITY};
        *v[i].has = 1;
        for (size_t k = 0; k < 5; k++) {
            *v[i].value = bad[k];
            check_refused(&r, ST_INVALID, v[i].name);
            check_refused(&r, ST_INVALID, v[i].bounds);
        }
        *v[i].has = 0;
    }
    s.has_temperature = 1;
    s.temperature = NAN;
    check_refused(&r, ST_INVALID, "sampling.temperature is nan, and must be in [0, 2]");
}

TEST(floats_passed_on) {
    fake_call f;
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    s.has_temperature = s.has_top_p = s.has_min_p = s.has_top_k = s.has_repetition_penalty = 1;
    s.has_presence_penalty = s.has_frequency_penalty = s.has_n = s.n = 1;
    s.temperature = 0;
    s.top_p = 1;
    s.min_p = 1;
    s.top_k = FAKE_VOCAB;
    s.repetition_penalty = 10;
    s.presence_penalty = -2;
    s.frequency_penalty = 2;
    Gemmad__V1__LogitBias b[2] = {GEMMAD__V1__LOGIT_BIAS__INIT, GEMMAD__V1__LOGIT_BIAS__INIT},
                          *list[] = {b, b + 1};
    b[0].has_token_id = b[0].has_bias = b[1].has_token_id = b[1].has_bias = 1;
    b[0].token_id = 9;
    b[0].bias = -100;
    b[1].token_id = 4;
    b[1].bias = 100;
    s.n_logit_bias = 2;
    s.logit_bias = list;
    s.has_max_tokens = 1;
    s.max_tokens = 97;
    generate_request r = ids_request(&s);
    fake_request *q = begin_started(&f, &r);
    const engine_sampling *e = &q->sampling;
    CHECK(e->temperature == 0 && e->top_p == 1 && e->min_p == 1 && e->top_k == FAKE_VOCAB &&
          e->max_tokens == 97);
    CHECK(e->repetition_penalty == 10 && e->presence_penalty == -2 && e->frequency_penalty == 2);
    CHECK(e->bias_count == 2 && q->bias[0].token == 4 && q->bias[0].bias == 100 && q->bias[1].token == 9);
    fake_finish(&dense, q, "length");
    fake_call_close(&f);
}

TEST(other_fields_refused) {
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    generate_request r = ids_request(&s);
    s.has_max_tokens = 1;
    check_refused(&r, ST_INVALID, "sampling.max_tokens is 0");
    s.max_tokens = 98;
    check_refused(
        &r, ST_INVALID,
        "the prompt has 3 tokens and sampling.max_tokens is 98: together 101, and the context is 100");
    s.max_tokens = UINT32_MAX;
    check_refused(&r, ST_INVALID, "together 4294967298");
    s.has_max_tokens = 0;
    s.has_n = 1;
    check_refused(&r, ST_INVALID, "sampling.n is 0");
    s.n = 65;
    check_refused(&r, ST_INVALID, "sampling.n is 65, and must be 1 to 64");
    s.has_n = 0;
    s.has_top_k = 1;
    s.top_k = FAKE_VOCAB + 1;
    check_refused(&r, ST_INVALID, "sampling.top_k is 275, and the vocabulary has 274");
    s.has_top_k = 0;
    s.has_logprobs = 1;
    s.logprobs = 1025;
    check_refused(&r, ST_INVALID, "sampling.logprobs is 1025, at most 1024");
    s.has_logprobs = 0;
    s.has_prompt_logprobs = s.has_want_prompt_logprobs = 1;
    s.prompt_logprobs = 3;
    check_refused(&r, ST_INVALID, "want_prompt_logprobs is false");
    s.has_want_prompt_logprobs = 0;
    s.prompt_logprobs = 1025;
    check_refused(&r, ST_INVALID, "sampling.prompt_logprobs is 1025");
    s.has_prompt_logprobs = 0;
    uint32_t ids[65] = {1, FAKE_VOCAB};
    s.stop_token_ids = ids;
    s.n_stop_token_ids = 2;
    check_refused(&r, ST_INVALID, "sampling.stop_token_ids[1] is 274");
    s.n_stop_token_ids = 65;
    check_refused(&r, ST_INVALID, "sampling.stop_token_ids has 65 ids, at most 64");
    s.n_stop_token_ids = 0;
    ProtobufCBinaryData stops[17] = {{1, (uint8_t *)"x"}, {0, NULL}};
    s.stop = stops;
    s.n_stop = 2;
    check_refused(&r, ST_INVALID, "sampling.stop[1] has 0 bytes");
    stops[1] = (ProtobufCBinaryData){3, (uint8_t *)"ab\xC3"};
    check_refused(&r, ST_INVALID, "sampling.stop[1] is not UTF-8 at byte 2");
    char long_stop[257];
    memset(long_stop, 's', sizeof long_stop);
    stops[1] = (ProtobufCBinaryData){257, (uint8_t *)long_stop};
    check_refused(&r, ST_INVALID, "sampling.stop[1] has 257 bytes");
    for (int i = 0; i < 17; i++) stops[i] = (ProtobufCBinaryData){1, (uint8_t *)"x"};
    s.n_stop = 17;
    check_refused(&r, ST_INVALID, "sampling.stop has 17 strings, at most 16");
    s.n_stop = 0;
}

TEST(logit_bias_refused) {
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    generate_request r = ids_request(&s);
    Gemmad__V1__LogitBias b = GEMMAD__V1__LOGIT_BIAS__INIT, *list[1025];
    for (int i = 0; i < 1025; i++) list[i] = &b;
    s.logit_bias = list;
    s.n_logit_bias = 1;
    check_refused(&r, ST_INVALID, "sampling.logit_bias[0] has no token_id");
    b.has_token_id = 1;
    check_refused(&r, ST_INVALID, "sampling.logit_bias[0] has no bias");
    b.has_bias = 1;
    static const float bad[] = {100.5f, -100.5f, NAN, INFINITY};
    for (int i = 0; i < 4; i++) {
        b.bias = bad[i];
        check_refused(&r, ST_INVALID, "must be in [-100, 100]");
    }
    b.bias = 1;
    s.n_logit_bias = 2;
    check_refused(&r, ST_INVALID, "two entries for token 0");
    b.token_id = FAKE_VOCAB;
    check_refused(&r, ST_INVALID, "sampling.logit_bias[0].token_id is 274");
    s.n_logit_bias = 1025;
    check_refused(&r, ST_INVALID, "sampling.logit_bias has 1025 entries, at most 1024");
}

int main(void) {
    open_core();
    RUN(plain_stream);
    RUN(seeds_and_ids_are_drawn);
    RUN(text_prompts);
    RUN(ends);
    RUN(stop_strings);
    RUN(characters_in_pieces);
    RUN(logprobs_go_with_their_ids);
    RUN(large_prompt_logprobs_come_in_pieces);
    RUN(prompts_refused);
    RUN(formats_have_a_bound);
    RUN(model_without_tokenizer);
    RUN(floats_refused);
    RUN(floats_passed_on);
    RUN(other_fields_refused);
    RUN(logit_bias_refused);
    close_core();
    return test_result();
}
