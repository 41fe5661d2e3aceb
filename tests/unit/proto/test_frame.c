#include <math.h>

#include "base/memory.h"
#include "proto/engine_check.h"
#include "tests/test.h"

typedef Gemmad__Engine__Submit submit_message;
typedef Gemmad__Engine__Sampling sampling_message;

static engine_frame cancel_frame(Gemmad__Engine__Cancel *c, uint64_t id) {
    gemmad__engine__cancel__init(c);
    c->has_id = true;
    c->id = id;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_CANCEL;
    f.cancel = c;
    return f;
}

static void feed(frame_reader *r, const uint8_t *bytes, size_t n) {
    while (n > 0) {
        size_t room;
        uint8_t *at = frame_reader_room(r, &room);
        if (room > n) room = n;
        memcpy(at, bytes, room);
        frame_reader_add(r, room);
        bytes += room;
        n -= room;
    }
}

TEST(frames_come_back_whole_however_they_are_cut) {
    frame_writer w;
    frame_writer_open(&w, 1 << 20);
    Gemmad__Engine__Cancel c;
    for (uint64_t id = 1; id <= 300; id++) {
        engine_frame f = cancel_frame(&c, id * 1000003);
        CHECK_STATUS(frame_writer_add(&w, &f), ST_OK);
    }
    for (size_t step = 1; step <= 64; step = step * 2 + 1) {
        frame_reader r;
        frame_reader_open(&r, 1024);
        size_t total, done = 0;
        const uint8_t *bytes = frame_writer_front(&w, &total);
        uint64_t next = 1;
        while (done < total) {
            size_t n = total - done < step ? total - done : step;
            feed(&r, bytes + done, n);
            done += n;
            const uint8_t *payload;
            uint32_t length;
            for (;;) {
                CHECK_STATUS(frame_reader_next(&r, &payload, &length), ST_OK);
                if (!payload) break;
                engine_frame *f;
                CHECK_STATUS(frame_unpack(payload, length, &f), ST_OK);
                CHECK(f->kind_case == GEMMAD__ENGINE__FRAME__KIND_CANCEL && f->cancel->id == next * 1000003);
                next++;
                frame_free(f);
            }
        }
        CHECK_THAT(next == 301, "%u at step %zu", (unsigned)next, step);
        frame_reader_close(&r);
    }
    frame_writer_close(&w);
}

TEST(a_length_past_the_bound_is_refused_before_memory_is_taken) {
    static const struct {
        uint8_t head[4];
        status want;
    } v[] = {{{0, 0, 0, 0}, ST_FORMAT},
             {{1, 4, 0, 0}, ST_FORMAT},
             {{255, 255, 255, 255}, ST_FORMAT},
             {{0, 4, 0, 0}, ST_OK}};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        frame_reader r;
        frame_reader_open(&r, 1024);
        feed(&r, v[i].head, 4);
        const uint8_t *payload;
        uint32_t n;
        CHECK_STATUS(frame_reader_next(&r, &payload, &n), v[i].want);
        if (v[i].want != ST_OK) CHECK_SENTENCE("allowed are 1 to 1024");
        CHECK(!payload && r.capacity <= 1024 + 4);
        frame_reader_close(&r);
    }
}

TEST(the_largest_frame_passes_and_its_memory_is_given_back) {
    enum { SIZE = 3 << 20 };
    frame_reader r;
    frame_reader_open(&r, SIZE);
    uint8_t *bytes = memory_alloc(SIZE + 4);
    for (int i = 0; i < 4; i++) bytes[i] = (uint8_t)((uint32_t)SIZE >> (8 * i));
    bytes[SIZE + 3] = 77;
    const uint8_t *payload;
    uint32_t n;
    for (size_t done = 0; done < SIZE + 4; done += 4096) {
        feed(&r, bytes + done, SIZE + 4 - done < 4096 ? SIZE + 4 - done : 4096);
        CHECK_STATUS(frame_reader_next(&r, &payload, &n), ST_OK);
    }
    CHECK(payload && n == SIZE && payload[n - 1] == 77);
    size_t room;
    (void)frame_reader_room(&r, &room);
    CHECK_THAT(r.capacity <= 4096, "%zu", r.capacity);
    frame_reader_close(&r);
    free(bytes);
}

TEST(the_writer_is_bounded_and_takes_back) {
    frame_writer w;
    frame_writer_open(&w, 30);
    Gemmad__Engine__Cancel c;
    engine_frame f = cancel_frame(&c, 5);
    CHECK_STATUS(frame_writer_add(&w, &f), ST_OK);
    size_t one = frame_writer_size(&w);
    size_t fit = 30 / one;
    for (size_t i = 1; i < fit; i++) CHECK_STATUS(frame_writer_add(&w, &f), ST_OK);
    CHECK_STATUS(frame_writer_add(&w, &f), ST_BUSY);
    CHECK_SENTENCE("bound of 30");
    CHECK(frame_writer_size(&w) == fit * one);
    frame_writer_drop(&w, one);
    CHECK_STATUS(frame_writer_add(&w, &f), ST_OK);
    frame_writer_take_back(&w, one);
    CHECK(frame_writer_size(&w) == one);
    size_t n;
    const uint8_t *front = frame_writer_front(&w, &n);
    CHECK(n == one && front[0] == one - 4 && front[1] == 0);
    frame_writer_close(&w);
}

TEST(an_unfolding_frame_is_refused) {
    /* tokens { logprobs {} × 1,000,000 }: 2 bytes each on the wire, a struct and a pointer each in memory. */
    enum { N = 1000000 };
    uint8_t *bytes = memory_alloc(2 * N + 16);
    size_t at = 0;
    bytes[at++] = 6 << 3 | 2;
    for (uint32_t left = 2 * N; left; left >>= 7)
        bytes[at++] = (uint8_t)((left & 127) | (left > 127 ? 128 : 0));
    for (int i = 0; i < N; i++) {
        bytes[at++] = 3 << 3 | 2;
        bytes[at++] = 0;
    }
    engine_frame *f;
    CHECK_STATUS(frame_unpack(bytes, (uint32_t)at, &f), ST_FORMAT);
    CHECK(!f);
    CHECK_STATUS(frame_unpack((const uint8_t *)"\xff\xff", 2, &f), ST_FORMAT);
    free(bytes);
}

/* A submit as gemmad sends it, to be broken one field at a time. */
typedef struct whole_submit {
    submit_message m;
    sampling_message s;
    uint32_t tokens[8], stop[2];
    Gemmad__Engine__LogitBias bias, *biases[1];
} whole_submit;

static void fill_submit(whole_submit *w) {
    *w = (whole_submit){.tokens = {1, 2, 3, 4, 5, 6, 7, 8}, .stop = {1, 2}};
    gemmad__engine__submit__init(&w->m);
    gemmad__engine__sampling__init(&w->s);
    gemmad__engine__logit_bias__init(&w->bias);
    w->bias.has_token_id = w->bias.has_bias = true;
    w->bias.token_id = 9;
    w->bias.bias = -3;
    w->biases[0] = &w->bias;
    submit_message *m = &w->m;
    m->has_id = m->has_prompt_count = m->has_sample_index = m->has_priority = m->has_deadline_ms = true;
    m->id = 1;
    m->n_tokens = 8;
    m->tokens = w->tokens;
    m->prompt_count = 6;
    m->sampling = &w->s;
    sampling_message *s = &w->s;
    s->has_max_tokens = s->has_temperature = s->has_top_p = s->has_top_k = s->has_min_p = s->has_seed = true;
    s->has_repetition_penalty = s->has_presence_penalty = s->has_frequency_penalty = true;
    s->has_logprobs = s->has_prompt_logprobs = true;
    s->max_tokens = 14;
    s->temperature = 1;
    s->top_p = 1;
    s->repetition_penalty = 1;
    s->logprobs = s->prompt_logprobs = -1;
    s->n_stop_token_ids = 2;
    s->stop_token_ids = w->stop;
    s->n_logit_bias = 1;
    s->logit_bias = w->biases;
}

static const engine_bounds bounds = {.vocab = 10, .context_tokens = 20};

#define REFUSED(change, part)                                                                                \
    do {                                                                                                     \
        whole_submit w;                                                                                      \
        fill_submit(&w);                                                                                     \
        change;                                                                                              \
        CHECK_STATUS(engine_check_submit(&w.m, &bounds), ST_FORMAT);                                         \
        CHECK_SENTENCE(part);                                                                                \
    } while (0)

TEST(every_field_of_a_submit_is_checked) {
    whole_submit good;
    fill_submit(&good);
    CHECK_STATUS(engine_check_submit(&good.m, &bounds), ST_OK);
    REFUSED(w.m.has_id = false, "id is missing");
    REFUSED(w.m.id = 0, "id is missing");
    REFUSED(w.m.n_tokens = 0, "0 tokens, allowed are 1 to 20");
    REFUSED(w.m.n_tokens = 21, "21 tokens");
    REFUSED(w.tokens[3] = 10, "tokens[3] is 10, the vocabulary has 10");
    REFUSED(w.m.prompt_count = 0, "prompt_count is 0");
    REFUSED(w.m.prompt_count = 9, "prompt_count is 9, allowed are 1 to 8");
    REFUSED(w.m.has_sample_index = false, "sample_index is missing");
    REFUSED(w.m.sample_index = LIMIT_SAMPLES, "sample_index is 64, a prompt has at most 64 samples");
    REFUSED(w.m.has_priority = false, "priority is missing");
    REFUSED(w.m.has_deadline_ms = false, "deadline_ms is missing");
    uint8_t byte = 0;
    good.m.has_grammar = true;
    good.m.grammar = (ProtobufCBinaryData){1, &byte};
    CHECK_STATUS(engine_check_submit(&good.m, &bounds), ST_OK);
    REFUSED(w.m.has_grammar = true, "a grammar of 0 bytes");
    REFUSED((w.m.has_grammar = true, w.m.grammar.len = LIMIT_GRAMMAR_BYTES + 1),
            "a grammar of 16777217 bytes, allowed are 1");
    REFUSED(w.m.sampling = NULL, "sampling is missing");
    REFUSED(w.s.max_tokens = 0, "max_tokens is 0");
    REFUSED(w.s.max_tokens = 2, "2 tokens were emitted already, max_tokens is 2");
    REFUSED(w.s.max_tokens = 15, "a prompt of 6 tokens and max_tokens 15 pass the context of 20");
    REFUSED(w.s.temperature = NAN, "temperature is nan");
    REFUSED(w.s.temperature = 2.5F, "temperature is 2.5");
    REFUSED(w.s.top_p = 0, "top_p is 0");
    REFUSED(w.s.top_p = NAN, "top_p is nan");
    REFUSED(w.s.has_top_k = false, "top_k is missing");
    REFUSED(w.s.min_p = -1, "min_p is -1");
    REFUSED(w.s.has_seed = false, "seed is missing");
    REFUSED(w.s.repetition_penalty = 0, "repetition_penalty is 0");
    REFUSED(w.s.repetition_penalty = INFINITY, "repetition_penalty is inf");
    REFUSED(w.s.presence_penalty = NAN, "presence_penalty is nan");
    REFUSED(w.s.frequency_penalty = INFINITY, "frequency_penalty is inf");
    REFUSED(w.s.logprobs = -2, "logprobs is -2");
    REFUSED(w.s.logprobs = 1025, "logprobs is 1025, allowed are -1 to 1024");
    REFUSED(w.s.prompt_logprobs = 1025, "prompt_logprobs is 1025");
    REFUSED(w.s.n_stop_token_ids = 129, "129 stop_token_ids");
    REFUSED(w.stop[1] = 11, "stop_token_ids[1] is 11");
    REFUSED(w.s.n_logit_bias = 1025, "1025 logit_bias");
    REFUSED(w.bias.token_id = 10, "submit: logit_bias: token_id is 10, allowed are 0 to 9");
    REFUSED(w.bias.bias = NAN, "bias is nan");
    REFUSED(w.bias.has_bias = false, "bias is missing");
}

TEST(vocabularies_have_a_size) {
    Gemmad__Engine__Vocabulary v = GEMMAD__ENGINE__VOCABULARY__INIT;
    engine_frame f = {.base = PROTOBUF_C_MESSAGE_INIT(&gemmad__engine__frame__descriptor)};
    uint8_t byte = 0;
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_VOCABULARY;
    f.vocabulary = &v;
    CHECK_STATUS(engine_check_from_gemmad(&f, &bounds), ST_FORMAT);
    CHECK_SENTENCE("vocabulary: data is missing");
    v.has_data = true;
    CHECK_STATUS(engine_check_from_gemmad(&f, &bounds), ST_FORMAT);
    CHECK_SENTENCE("vocabulary: 0 bytes");
    v.data = (ProtobufCBinaryData){1, &byte};
    CHECK_STATUS(engine_check_from_gemmad(&f, &bounds), ST_OK);
    CHECK_STATUS(engine_check_from_leader(&f, &bounds), ST_FORMAT);
    v.data.len = (size_t)LIMIT_VOCABULARY_BYTES + 1;
    CHECK_STATUS(engine_check_from_gemmad(&f, &bounds), ST_FORMAT);
}

TEST(frames_of_the_wrong_direction_are_refused) {
    Gemmad__Engine__Cancel c;
    engine_frame f = cancel_frame(&c, 3);
    CHECK_STATUS(engine_check_from_gemmad(&f, &bounds), ST_OK);
    CHECK_STATUS(engine_check_from_leader(&f, &bounds), ST_FORMAT);
    CHECK_SENTENCE("kind cancel");
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND__NOT_SET;
    CHECK_STATUS(engine_check_from_gemmad(&f, &bounds), ST_FORMAT);
    CHECK_SENTENCE("kind unknown");
}

TEST(a_pause_says_whether) {
    Gemmad__Engine__Pause p = GEMMAD__ENGINE__PAUSE__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_PAUSE;
    f.pause = &p;
    p.has_paused = true;
    CHECK_STATUS(engine_check_from_gemmad(&f, &bounds), ST_FORMAT);
    CHECK_SENTENCE("pause: id is missing");
    p.has_id = true;
    p.id = 7;
    CHECK_STATUS(engine_check_from_gemmad(&f, &bounds), ST_OK);
    CHECK_STATUS(engine_check_from_leader(&f, &bounds), ST_FORMAT);
    CHECK_SENTENCE("kind pause");
    p.has_paused = false;
    CHECK_STATUS(engine_check_from_gemmad(&f, &bounds), ST_FORMAT);
    CHECK_SENTENCE("pause: paused is missing");
}

TEST(a_heartbeat_is_checked) {
    Gemmad__Engine__Heartbeat h = GEMMAD__ENGINE__HEARTBEAT__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_HEARTBEAT;
    f.heartbeat = &h;
    h.has_steps = h.has_running = h.has_waiting = h.has_kv_pages_used = h.has_kv_pages_total = true;
    h.has_prompt_tokens = h.has_generated_tokens = h.has_in_step = true;
    CHECK_STATUS(engine_check_from_leader(&f, &bounds), ST_OK); /* counters may be absent */
    h.has_imbalance = true;
    h.imbalance = 1.5F;
    CHECK_STATUS(engine_check_from_leader(&f, &bounds), ST_OK);
    h.imbalance = NAN;
    CHECK_STATUS(engine_check_from_leader(&f, &bounds), ST_FORMAT);
    CHECK_SENTENCE("imbalance is nan");
    h.imbalance = 1;
    h.has_paused = true;
    h.paused = UINT32_MAX;
    CHECK_STATUS(engine_check_from_leader(&f, &bounds), ST_FORMAT);
    CHECK_SENTENCE("paused is 4294967295");
}

TEST(what_a_leader_says_is_checked) {
    Gemmad__Engine__Tokens t = GEMMAD__ENGINE__TOKENS__INIT;
    Gemmad__Engine__TokenLogprob p = GEMMAD__ENGINE__TOKEN_LOGPROB__INIT, *list[2] = {&p, &p};
    uint32_t ids[2] = {3, 9};
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_TOKENS;
    f.tokens = &t;
    t.has_id = true;
    t.id = 4;
    CHECK_STATUS(engine_check_from_leader(&f, &bounds), ST_FORMAT);
    CHECK_SENTENCE("0 token_ids");
    t.n_token_ids = 2;
    t.token_ids = ids;
    CHECK_STATUS(engine_check_from_leader(&f, &bounds), ST_OK);
    t.n_logprobs = 1;
    t.logprobs = list;
    CHECK_STATUS(engine_check_from_leader(&f, &bounds), ST_FORMAT);
    CHECK_SENTENCE("1 logprobs for 2 token_ids");
    t.n_logprobs = 2;
    CHECK_STATUS(engine_check_from_leader(&f, &bounds), ST_FORMAT);
    CHECK_SENTENCE("token_id is missing");
    p.has_token_id = p.has_logprob = true;
    p.logprob = NAN;
    CHECK_STATUS(engine_check_from_leader(&f, &bounds), ST_FORMAT);
    CHECK_SENTENCE("logprob is nan");
    p.logprob = 0;
    CHECK_STATUS(engine_check_from_leader(&f, &bounds), ST_OK);
    ids[1] = 10;
    CHECK_STATUS(engine_check_from_leader(&f, &bounds), ST_FORMAT);
    CHECK_SENTENCE("token_ids[1] is 10");

    Gemmad__Engine__Finished end = GEMMAD__ENGINE__FINISHED__INIT;
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_FINISHED;
    f.finished = &end;
    end.has_id = end.has_queue_us = end.has_prefill_us = end.has_decode_us = true;
    end.id = 4;
    end.finish_reason = "tired";
    CHECK_STATUS(engine_check_from_leader(&f, &bounds), ST_FORMAT);
    CHECK_SENTENCE("finish_reason is none of");
    end.finish_reason = "error";
    CHECK_STATUS(engine_check_from_leader(&f, &bounds), ST_FORMAT);
    CHECK_SENTENCE("error_status is missing");
    end.finish_reason = "stop";
    CHECK_STATUS(engine_check_from_leader(&f, &bounds), ST_OK);
}

TEST(secrets) {
    uint8_t a[32] = {1, 2, 3}, b[32] = {1, 2, 3};
    CHECK(engine_secret_equal(a, b, 32));
    b[31] = 1;
    CHECK(!engine_secret_equal(a, b, 32));
}

int main(void) {
    RUN(frames_come_back_whole_however_they_are_cut);
    RUN(a_length_past_the_bound_is_refused_before_memory_is_taken);
    RUN(the_largest_frame_passes_and_its_memory_is_given_back);
    RUN(the_writer_is_bounded_and_takes_back);
    RUN(an_unfolding_frame_is_refused);
    RUN(every_field_of_a_submit_is_checked);
    RUN(vocabularies_have_a_size);
    RUN(frames_of_the_wrong_direction_are_refused);
    RUN(a_pause_says_whether);
    RUN(a_heartbeat_is_checked);
    RUN(what_a_leader_says_is_checked);
    RUN(secrets);
    return test_result();
}
