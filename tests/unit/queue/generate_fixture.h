/* A core with two models behind fake engines, and Generate calls to it. */
#ifndef TESTS_UNIT_QUEUE_GENERATE_FIXTURE_H
#define TESTS_UNIT_QUEUE_GENERATE_FIXTURE_H

#include "base/log.h"
#include "tests/unit/queue/fake.h"

static uv_loop_t loop;
static core *c;
static fake_engine dense, ids_only;
static tokenizer words;

static inline void open_core(void) {
    log_open("test", LOG_WARN); /* a line for each request is too many */
    uv_loop_init(&loop);
    CHECK_STATUS(core_open(&c, &loop), ST_OK);
    fake_engine_open(&dense, "dense/0");
    fake_engine_open(&ids_only, "ids/0");
    CHECK_STATUS(core_add_model(c, "dense", &words, &dense.base), ST_OK);
    CHECK_STATUS(core_add_model(c, "ids", NULL, &ids_only.base), ST_OK);
}

static inline void close_core(void) {
    uv_run(&loop, UV_RUN_DEFAULT);
    CHECK(dense.live == 0 && ids_only.live == 0);
    core_close(c);
    CHECK(uv_loop_close(&loop) == 0);
}

typedef Gemmad__V1__GenerateRequest generate_request;
typedef Gemmad__V1__Sampling sampling_message;

static Gemmad__V1__TokenIds some_ids = GEMMAD__V1__TOKEN_IDS__INIT;
static uint32_t hello_ids[] = {BOS, HELLO, WORLD};

static inline generate_request ids_request(sampling_message *s) {
    generate_request r = GEMMAD__V1__GENERATE_REQUEST__INIT;
    some_ids.n_ids = 3;
    some_ids.ids = hello_ids;
    r.prompt_case = GEMMAD__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
    r.token_ids = &some_ids;
    r.sampling = s;
    return r;
}

static inline generate_request text_request(const char *text, size_t n) {
    generate_request r = GEMMAD__V1__GENERATE_REQUEST__INIT;
    r.prompt_case = GEMMAD__V1__GENERATE_REQUEST__PROMPT_TEXT;
    r.text = (ProtobufCBinaryData){n, (uint8_t *)text};
    return r;
}

/* Sends r as a call of peer "p" and gives the engine's request, NULL when there is none. */
static inline fake_request *begin(fake_call *f, const generate_request *r) {
    uint32_t before = dense.submitted;
    fake_call_open(f, "p");
    fake_handle(c, f, "Generate", &r->base);
    uv_run(&loop, UV_RUN_DEFAULT);
    return dense.submitted > before ? fake_find(&dense, dense.submitted) : NULL;
}

static inline fake_request *begin_started(fake_call *f, const generate_request *r) {
    fake_request *q = begin(f, r);
    CHECK(q != NULL);
    q->listener.started(q->context, 1);
    return q;
}

/* The call was refused with st and a sentence that holds part; nothing reached an engine. */
static inline void check_refused(const generate_request *r, status st, const char *part) {
    fake_call f;
    CHECK(begin(&f, r) == NULL);
    CHECK_THAT(f.finished == 1 && f.sent_count == 0 && f.st == st && strstr(f.text, part), "%s: %s, want %s",
               status_name(f.st), f.text, part);
    fake_call_close(&f);
}

static inline void check_stream(const fake_call *f, const char *text, uint32_t id_count, const char *reason) {
    fake_stream s;
    fake_read(f, &s);
    CHECK_THAT(f->finished == 1 && f->st == ST_OK, "%u %s", f->finished, f->text);
    CHECK(s.started == 1 && s.finished != NULL);
    CHECK_THAT(!strcmp(strbuf_text(&s.text), text), "\"%s\", not \"%s\"", strbuf_text(&s.text), text);
    CHECK_THAT(s.id_count == id_count, "%u ids, not %u", s.id_count, id_count);
    if (s.finished) {
        CHECK_THAT(!strcmp(s.finished->finish_reason, reason), "%s", s.finished->finish_reason);
        CHECK(s.finished->usage->completion_tokens == id_count);
    }
    strbuf_close(&s.text);
}

#endif
