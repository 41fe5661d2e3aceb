/* What requests leave behind: metrics, and one line of the log. */
#include <unistd.h>

#include "base/log.h"
#include "tests/log_capture.h"
#include "tests/unit/queue/generate_fixture.h"

static char said[64 << 10];

/* The value of the series; -1: there is none. */
static double value_of(const char *series) {
    strbuf text = {0};
    core_write_metrics(c, &text);
    char line[512];
    snprintf(line, sizeof line, "\n%s ", series);
    const char *at = strstr(strbuf_text(&text), line);
    double value = at ? strtod(at + strlen(line), NULL) : -1;
    strbuf_close(&text);
    return value;
}

#define DENSE "{engine=\"0\",model_name=\"dense\"}"
#define DENSE_AND "{engine=\"0\",model_name=\"dense\","

TEST(a_request_is_counted) {
    fake_call f;
    sampling_message m = GEMMAD__V1__SAMPLING__INIT;
    m.has_max_tokens = 1;
    m.max_tokens = 4;
    generate_request r = ids_request(&m);
    open_core();
    fake_request *q = begin(&f, &r);
    CHECK(value_of("gemmad:num_requests_waiting" DENSE) == 1 &&
          value_of("gemmad:num_requests_running" DENSE) == 0);
    q->listener.started(q->context, 2);
    CHECK(value_of("gemmad:num_requests_waiting" DENSE) == 0 &&
          value_of("gemmad:num_requests_running" DENSE) == 1);
    CHECK(value_of("gemmad:prompt_tokens_total" DENSE) == 0);
    fake_token(q, HELLO);
    CHECK(value_of("gemmad:prompt_tokens_total" DENSE) == 3 &&
          value_of("gemmad:generation_tokens_total" DENSE) == 1);
    CHECK(value_of("gemmad:inter_token_latency_seconds_count" DENSE) == 0);
    fake_token(q, WORLD);
    fake_token(q, EOS);
    fake_finish(&dense, q, "stop");
    CHECK(value_of("gemmad:generation_tokens_total" DENSE) == 3);
    CHECK(value_of("gemmad:time_to_first_token_seconds_count" DENSE) == 1);
    CHECK(value_of("gemmad:inter_token_latency_seconds_count" DENSE) == 2);
    CHECK(value_of("gemmad:e2e_request_latency_seconds_count" DENSE) == 1);
    CHECK(value_of("gemmad:request_queue_time_seconds_sum" DENSE) == 0.0015);
    CHECK(value_of("gemmad:request_prefill_time_seconds_sum" DENSE) == 0.0025);
    CHECK(value_of("gemmad:request_decode_time_seconds_sum" DENSE) == 0.0035);
    CHECK(value_of("gemmad:request_inference_time_seconds_sum" DENSE) == 0.006);
    CHECK(value_of("gemmad:request_generation_tokens_sum" DENSE) == 3);
    CHECK(value_of("gemmad:request_prompt_tokens_sum" DENSE) == 3);
    CHECK(value_of("gemmad:request_params_max_tokens_sum" DENSE) == 4);
    CHECK(value_of("gemmad:request_params_n_sum" DENSE) == 1);
    CHECK(value_of("gemmad:request_success_total" DENSE_AND "finished_reason=\"stop\"}") == 1);
    CHECK(value_of(
              "gemmad:request_success_total{engine=\"0\",model_name=\"ids\",finished_reason=\"stop\"}") == 0);
    CHECK(value_of("gemmad:prefix_cache_queries_total" DENSE) == 100 &&
          value_of("gemmad:prefix_cache_hits_total" DENSE) == 64);
    CHECK(value_of("gemmad:num_preemptions_total" DENSE) == 3 &&
          value_of("gemmad:engine_restarts_total" DENSE) == 2);
    fake_call_close(&f);
    close_core();
}

/* Samples are answers of their own to one prompt. */
TEST(samples_share_their_prompt) {
    fake_call f;
    sampling_message m = GEMMAD__V1__SAMPLING__INIT;
    m.has_n = 1;
    m.n = 2;
    generate_request r = ids_request(&m);
    open_core();
    CHECK(begin(&f, &r) != NULL);
    while (dense.first) {
        fake_request *q = dense.first;
        q->listener.started(q->context, 0);
        fake_token(q, HELLO);
        fake_finish(&dense, q, "length");
    }
    CHECK(value_of("gemmad:prompt_tokens_total" DENSE) == 3 &&
          value_of("gemmad:generation_tokens_total" DENSE) == 2);
    CHECK(value_of("gemmad:request_success_total" DENSE_AND "finished_reason=\"length\"}") == 2);
    CHECK(value_of("gemmad:request_prompt_tokens_count" DENSE) == 1);
    CHECK(value_of("gemmad:request_params_n_sum" DENSE) == 2);
    fake_call_close(&f);
    close_core();
}

TEST(ends_that_are_no_success) {
    fake_call gone, lost, refused;
    generate_request r = ids_request(NULL);
    open_core();
    fake_request *q = begin_started(&gone, &r);
    gone.base.cancelled(&gone.base, gone.base.context, ST_CANCELLED);
    fake_finish(&dense, q, "cancelled");
    q = begin_started(&lost, &r);
    fake_fail(&dense, q, ST_UNAVAILABLE, "rank 1 was killed");
    r.model = (char *)"nobody";
    begin(&refused, &r);
    r.model = NULL;
    check_refused((some_ids.n_ids = 0, &r), ST_INVALID, "token_ids is empty");
    CHECK(value_of("gemmad:request_success_total" DENSE_AND "finished_reason=\"abort\"}") == 1);
    CHECK(value_of("gemmad:request_success_total" DENSE_AND "finished_reason=\"error\"}") == 1);
    CHECK(value_of("gemmad:e2e_request_latency_seconds_count" DENSE) == 0);
    CHECK(value_of("gemmad:requests_refused_total{model_name=\"\",status=\"NOT_FOUND\"}") == 1);
    CHECK(value_of("gemmad:requests_refused_total{model_name=\"dense\",status=\"INVALID\"}") == 1);
    CHECK(value_of("gemmad:requests_refused_total{model_name=\"dense\",status=\"UNAVAILABLE\"}") == -1);
    fake_call_close(&gone);
    fake_call_close(&lost);
    fake_call_close(&refused);
    close_core();
}

/* One text request of a call with ids and a trace, to its end; the log's line stands in `said`. */
static void run_logged(bool log_prompts, const char *live_id) {
    fake_call f;
    generate_request r = text_request("hello world", 11);
    open_core();
    core_set_log_prompts(c, log_prompts);
    fake_call_open(&f, "uid:7");
    f.base.path = "/gemmad.v1.Inference/Generate";
    f.base.request_id = live_id;
    trace_begin(&f.base.trace, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", 55);
    log_open("test", LOG_INFO);
    log_capture_begin();
    fake_handle(c, &f, "Generate", &r.base);
    uv_run(&loop, UV_RUN_DEFAULT);
    fake_request *q = dense.first;
    q->listener.started(q->context, 2);
    fake_token(q, WORLD);
    fake_token(q, EOS);
    fake_finish(&dense, q, "stop");
    log_capture_end(said, sizeof said);
    fake_call_close(&f);
    close_core();
}

#define SAYS(part) CHECK_THAT(strstr(said, part), "%s in %s", part, said)

TEST(a_request_leaves_one_line) {
    run_logged(false, "proxy-1");
    CHECK(strchr(said, '\n') == said + strlen(said) - 1);
    SAYS(" request finished request_id=proxy-1 x_request_id=proxy-1 rpc=/gemmad.v1.Inference/Generate "
         "model=dense "
         "client=uid:7 status=OK finish_reason=stop prompt_tokens=");
    SAYS(" cached_tokens=2 completion_tokens=2 samples=1 queue_ms=1.500 prefill_ms=2.500 decode_ms=3.500 "
         "first_token_ms=");
    SAYS(" trace_id=4bf92f3577b34da6a3ce929d0e0e4736 span_id=");
    SAYS(" parent_id=00f067aa0ba902b7\n");
    CHECK(!strstr(said, "hello"));
    run_logged(true, NULL);
    SAYS(" prompt_bytes=11 prompt=\"hello world\"\n");
}

/* The client is told what is wrong with its request; the log, which may not hold its text, only that something was. */
TEST(sentences_may_hold_text) {
    fake_call f;
    open_core();
    for (int on = 0; on < 2; on++) {
        generate_request r = ids_request(NULL);
        r.model = (char *)"my secret";
        core_set_log_prompts(c, on);
        log_open("test", LOG_INFO);
        log_capture_begin();
        begin(&f, &r);
        log_capture_end(said, sizeof said);
        SAYS(" request failed ");
        SAYS(" status=NOT_FOUND ");
        CHECK(!!strstr(said, "my secret") == on);
        fake_call_close(&f);
        dense.refuse = ST_UNAVAILABLE;
        r.model = NULL;
        log_open("test", LOG_INFO);
        log_capture_begin();
        begin(&f, &r);
        log_capture_end(said, sizeof said);
        SAYS(" error=\"the fake engine refuses\"");
        dense.refuse = ST_OK;
        fake_call_close(&f);
    }
    close_core();
}

/* A proxy that tries again while the first is still live gets an id of its own; a client's own id is refused. */
TEST(a_header_id_gives_way) {
    fake_call f[2];
    fake_request *q[2];
    generate_request r = ids_request(NULL);
    open_core();
    for (int i = 0; i < 2; i++) {
        fake_call_open(&f[i], "p");
        f[i].base.request_id = "proxy";
        fake_handle(c, &f[i], "Generate", &r.base);
        q[i] = dense.first;
        q[i]->listener.started(q[i]->context, 0);
    }
    CHECK(!strcmp(((Gemmad__V1__GenerateEvent *)f[0].sent[0])->started->request_id, "proxy"));
    CHECK(strlen(((Gemmad__V1__GenerateEvent *)f[1].sent[0])->started->request_id) == 32);
    r.request_id = (char *)"proxy";
    check_refused(&r, ST_EXISTS, "\"proxy\"");
    for (int i = 0; i < 2; i++) {
        fake_finish(&dense, q[i], "length");
        fake_call_close(&f[i]);
    }
    close_core();
}

int main(void) {
    RUN(a_request_is_counted);
    RUN(samples_share_their_prompt);
    RUN(ends_that_are_no_success);
    RUN(a_request_leaves_one_line);
    RUN(sentences_may_hold_text);
    RUN(a_header_id_gives_way);
    return test_result();
}
