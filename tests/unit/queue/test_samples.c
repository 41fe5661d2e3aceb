/* Several samples of one prompt, and readers that do not keep up. */
#include "tests/unit/queue/generate_fixture.h"

/* The client has taken all but `backlog` bytes. */
static void drain_to(fake_call *f, uint64_t backlog) {
    f->backlog = backlog;
    f->base.drained(&f->base, f->base.context);
}

TEST(a_slow_reader_pauses_its_request) {
    fake_call f;
    fake_stream got;
    generate_request r = ids_request(NULL);
    fake_request *q = begin_started(&f, &r);
    fake_token(q, HELLO);
    f.backlog = LIMIT_BACKLOG_BYTES;
    CHECK(!q->paused);
    for (int i = 0; i < 1000; i++) fake_token(q, A);
    CHECK(f.sent_count == 2 && q->paused);
    drain_to(&f, LIMIT_BACKLOG_BYTES - 1); /* all that waited in one event; the pause lasts until half is read */
    CHECK(f.sent_count == 3 && q->paused);
    fake_token(q, B);
    drain_to(&f, LIMIT_BACKLOG_BYTES / 2);
    CHECK(f.sent_count == 4 && !q->paused && dense.pauses == 2);
    drain_to(&f, 0);
    CHECK(dense.pauses == 2);
    fake_read(&f, &got);
    CHECK(got.id_count == 1002 && got.text.size == 5 + 1000 + 1);
    strbuf_close(&got.text);
    f.backlog = LIMIT_BACKLOG_BYTES;
    fake_token(q, C);
    CHECK(f.sent_count == 4 && q->paused);
    fake_finish(&dense, q, "length"); /* the end waits for nobody */
    CHECK(f.finished == 1 && f.sent_count == 6 && f.base.drained == NULL);
    fake_call_close(&f);
}

TEST(a_paused_client_may_leave) {
    fake_call f;
    generate_request r = ids_request(NULL);
    fake_request *q = begin_started(&f, &r);
    f.backlog = LIMIT_BACKLOG_BYTES;
    fake_token(q, A);
    CHECK(q->paused);
    f.base.cancelled(&f.base, f.base.context, ST_CANCELLED);
    CHECK(q->cancelled);
    drain_to(&f, 0); /* and is not resumed */
    CHECK(q->paused && f.sent_count == 1);
    fake_finish(&dense, q, "cancelled");
    CHECK(f.finished == 1 && f.st == ST_CANCELLED);
    fake_call_close(&f);
}

TEST(an_engine_that_does_not_pause_is_bounded) {
    fake_call f;
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    s.has_logprobs = 1;
    s.logprobs = FAKE_VOCAB;
    generate_request r = ids_request(&s);
    fake_request *q = begin_started(&f, &r);
    f.backlog = LIMIT_BACKLOG_BYTES;
    uint32_t n = 0;
    while (!q->cancelled && n < 100000) fake_token(q, A), n++;
    CHECK_THAT(q->paused && q->cancelled && n > 1000, "%u", n);
    CHECK(f.finished == 0);
    fake_finish(&dense, q, "cancelled");
    CHECK(f.finished == 1 && f.st == ST_INTERNAL && strstr(f.text, "does not pause"));
    CHECK(f.sent_count == 1); /* what waited is not sent after all: the stream has a hole nobody could see */
    fake_call_close(&f);
}

/* The request of sample i of the newest `n`. */
static fake_request *sample(uint32_t i, uint32_t n) { return fake_find(&dense, dense.submitted - n + 1 + i); }

static const Gemmad__V1__GenerateEvent *event(const fake_call *f, uint32_t i) {
    return (const Gemmad__V1__GenerateEvent *)f->sent[i];
}

static void begin_three(fake_call *f) {
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    s.has_n = s.has_seed = s.has_want_prompt_logprobs = s.want_prompt_logprobs = 1;
    s.n = 3;
    s.seed = 7;
    ProtobufCBinaryData stop = {2, (uint8_t *)"ab"};
    s.n_stop = 1;
    s.stop = &stop;
    generate_request r = ids_request(&s);
    CHECK(begin(f, &r) != NULL && dense.live == 3);
}

TEST(samples_of_one_prompt) {
    fake_call f;
    begin_three(&f);
    for (uint32_t i = 0; i < 3; i++) {
        const fake_request *q = sample(i, 3);
        CHECK(q->sample_index == i && q->group != 0 && q->group == sample(0, 3)->group && q->sampling.seed == 7);
        CHECK(q->sampling.prompt_logprobs == (i == 0 ? 0 : -1));
    }
    for (uint32_t i = 3; i-- > 0;) { /* one `started`, whoever is first */
        fake_request *q = sample(i, 3);
        q->listener.started(q->context, i);
        q->listener.progress(q->context, 3);
    }
    CHECK(f.sent_count == 2 && event(&f, 0)->started->cached_tokens == 2 && event(&f, 1)->progress);
    /* Each has stop strings of its own: "a" of one and "b" of another are none. */
    fake_token(sample(1, 3), A);
    fake_token(sample(2, 3), B);
    CHECK(f.sent_count == 3 && event(&f, 2)->delta->index == 2);
    fake_token(sample(1, 3), B);
    CHECK(sample(1, 3)->cancelled && !sample(0, 3)->cancelled);
    fake_finish(&dense, sample(1, 3), "cancelled");
    const Gemmad__V1__Finished *end = event(&f, f.sent_count - 1)->finished;
    CHECK(end && end->index == 1 && !strcmp(end->finish_reason, "stop") && !end->usage && end->timings);
    fake_token(sample(0, 3), C);
    fake_finish(&dense, sample(0, 3), "length");
    CHECK(f.finished == 0);
    fake_finish(&dense, sample(2, 3), "length");
    end = event(&f, f.sent_count - 1)->finished;
    CHECK(f.finished == 1 && f.st == ST_OK && end->index == 2 && end->usage);
    CHECK(end->usage->prompt_tokens == 3 && end->usage->cached_tokens == 2 && end->usage->completion_tokens == 4);
    fake_call_close(&f);
}

TEST(the_failure_of_one_sample_is_that_of_all) {
    for (int at_once = 0; at_once < 2; at_once++) {
        fake_call f;
        begin_three(&f);
        dense.cancels_at_once = at_once;
        fake_fail(&dense, sample(1, 3), ST_UNAVAILABLE, "rank 1 was killed");
        CHECK(dense.live == (at_once ? 0 : 2) && f.finished == (uint32_t)at_once);
        while (dense.first) fake_finish(&dense, dense.first, "cancelled");
        CHECK(f.finished == 1 && f.st == ST_UNAVAILABLE && !strcmp(f.text, "rank 1 was killed"));
        fake_call_close(&f);

        begin_three(&f);
        fake_finish(&dense, sample(2, 3), "length");
        f.base.cancelled(&f.base, f.base.context, ST_TIMEOUT);
        CHECK(dense.live == (at_once ? 0 : 2));
        while (dense.first) fake_finish(&dense, dense.first, "cancelled");
        CHECK(f.finished == 1 && f.st == ST_TIMEOUT);
        fake_call_close(&f);

        dense.refuse_after = 1; /* the engine takes one and no more */
        sampling_message s = GEMMAD__V1__SAMPLING__INIT;
        s.has_n = 1;
        s.n = 3;
        generate_request r = ids_request(&s);
        begin(&f, &r);
        CHECK(dense.live == (at_once ? 0 : 1));
        while (dense.first) fake_finish(&dense, dense.first, "cancelled");
        CHECK(f.finished == 1 && f.st == ST_BUSY && f.sent_count == 0);
        fake_call_close(&f);
    }
    dense.cancels_at_once = false;
}

TEST(a_drain_waits_for_no_reader) { /* the last: a core does not come back from it */
    fake_call f[3];
    fake_request *q[3];
    sampling_message s = GEMMAD__V1__SAMPLING__INIT;
    s.has_logprobs = 1;
    s.logprobs = FAKE_VOCAB;
    generate_request r = ids_request(&s);
    for (int i = 0; i < 3; i++) {
        q[i] = begin_started(&f[i], &r);
        f[i].backlog = LIMIT_BACKLOG_BYTES;
        if (i < 2) fake_token(q[i], A);
        CHECK(q[i]->paused == (i < 2));
    }
    core_drain(c, NULL, NULL);
    CHECK(!q[0]->paused && !q[1]->paused);
    for (int i = 0; i < 3; i++) fake_token(q[i], B);
    CHECK(!q[0]->paused && !q[2]->paused);
    while (!q[1]->cancelled) fake_token(q[1], A); /* more than may be held */
    for (int i = 0; i < 3; i++) {
        fake_finish(&dense, q[i], i == 1 ? "cancelled" : "length");
        CHECK(f[i].finished == 1 && f[i].st == (i == 1 ? ST_UNAVAILABLE : ST_OK));
        fake_call_close(&f[i]);
    }
}

int main(void) {
    open_core();
    RUN(a_slow_reader_pauses_its_request);
    RUN(a_paused_client_may_leave);
    RUN(an_engine_that_does_not_pause_is_bounded);
    RUN(samples_of_one_prompt);
    RUN(the_failure_of_one_sample_is_that_of_all);
    RUN(a_drain_waits_for_no_reader);
    close_core();
    return test_result();
}
