#include "daemon/observe/metrics.h"

#include "tests/test.h"

static strbuf text;

static const char *written(const metrics *m) {
    strbuf_clear(&text);
    metrics_write(m, &text);
    return strbuf_text(&text);
}

/* The line is there, whole. */
#define HAS(line) CHECK_THAT(strstr(strbuf_text(&text), "\n" line "\n"), "%s", line)
#define HAS_NOT(part) CHECK_THAT(!strstr(strbuf_text(&text), part), "%s", part)

TEST(counters_and_labels) {
    metrics *m = metrics_open();
    metrics_engine *a = metrics_add_engine(m, "plain", 0, 4096),
                   *b = metrics_add_engine(m, "a\"b\\c\nd", 3, 4096);
    metrics_count(a, METRICS_PROMPT_TOKENS, 7);
    metrics_count(a, METRICS_PROMPT_TOKENS, UINT64_C(1) << 40);
    metrics_count(b, METRICS_ABORT, 2);
    metrics_count_refused(m, "plain", ST_BUSY);
    metrics_count_refused(m, "plain", ST_BUSY);
    metrics_count_refused(m, "", ST_NOT_FOUND);
    metrics_count_http(m, 200);
    metrics_count_http(m, 99);
    metrics_count_http(m, 600);
    metrics_set_auth_failures(m, 1);
    written(m);
    HAS("# TYPE gemmad:prompt_tokens_total counter");
    HAS("gemmad:prompt_tokens_total{engine=\"0\",model_name=\"plain\"} 1099511627783");
    HAS("gemmad:request_success_total{engine=\"3\",model_name=\"a\\\"b\\\\c\\nd\",finished_reason=\"abort\"} "
        "2");
    HAS("gemmad:request_success_total{engine=\"0\",model_name=\"plain\",finished_reason=\"stop\"} 0");
    HAS("gemmad:requests_refused_total{model_name=\"plain\",status=\"BUSY\"} 2");
    HAS("gemmad:requests_refused_total{model_name=\"\",status=\"NOT_FOUND\"} 1");
    HAS("gemmad:http_responses_total{code=\"200\"} 1");
    HAS("gemmad:auth_failures_total 1");
    HAS_NOT("code=\"99\"");
    HAS_NOT("code=\"600\"");
    CHECK(text.data[text.size - 1] == '\n');
    metrics_close(m);
}

/* A value on a bound belongs below it, and buckets hold those before them. */
TEST(histograms_add_up) {
    metrics *m = metrics_open();
    metrics_engine *e = metrics_add_engine(m, "x", 0, 300);
    metrics_observe(e, METRICS_INTER_TOKEN_SECONDS, 0.01);
    metrics_observe(e, METRICS_INTER_TOKEN_SECONDS, 0.011);
    metrics_observe(e, METRICS_INTER_TOKEN_SECONDS, 81);
    metrics_observe(e, METRICS_REQUEST_PROMPT_TOKENS, 250);
    written(m);
    HAS("gemmad:inter_token_latency_seconds_bucket{engine=\"0\",model_name=\"x\",le=\"0.01\"} 1");
    HAS("gemmad:inter_token_latency_seconds_bucket{engine=\"0\",model_name=\"x\",le=\"0.025\"} 2");
    HAS("gemmad:inter_token_latency_seconds_bucket{engine=\"0\",model_name=\"x\",le=\"80.0\"} 2");
    HAS("gemmad:inter_token_latency_seconds_bucket{engine=\"0\",model_name=\"x\",le=\"+Inf\"} 3");
    HAS("gemmad:inter_token_latency_seconds_count{engine=\"0\",model_name=\"x\"} 3");
    HAS("gemmad:inter_token_latency_seconds_sum{engine=\"0\",model_name=\"x\"} 81.021");
    /* Token buckets end with the context, and what they leave out is counted all the same. */
    HAS("gemmad:request_prompt_tokens_bucket{engine=\"0\",model_name=\"x\",le=\"200.0\"} 0");
    HAS_NOT("request_prompt_tokens_bucket{engine=\"0\",model_name=\"x\",le=\"500.0\"}");
    HAS("gemmad:request_prompt_tokens_bucket{engine=\"0\",model_name=\"x\",le=\"+Inf\"} 1");
    HAS("gemmad:request_generation_tokens_count{engine=\"0\",model_name=\"x\"} 0");
    metrics_close(m);
}

/* An engine counts from 0 in each run; counters never fall. */
TEST(totals_go_on_over_restarts) {
    metrics *m = metrics_open();
    metrics_engine *e = metrics_add_engine(m, "x", 0, 300);
    metrics_engine_now now = {
        .ready = true, .steps = 10, .prefix_query_tokens = 100, .collective_ns = 2000000000};
    now.collective_steps[2] = 10;
    metrics_set_engine(e, &now);
    metrics_set_engine(e, &now);
    written(m);
    HAS("gemmad:prefix_cache_queries_total{engine=\"0\",model_name=\"x\"} 100");
    HAS("gemmad:collective_seconds_bucket{engine=\"0\",model_name=\"x\",le=\"4e-05\"} 0");
    HAS("gemmad:collective_seconds_bucket{engine=\"0\",model_name=\"x\",le=\"0.00016\"} 10");
    HAS("gemmad:collective_seconds_sum{engine=\"0\",model_name=\"x\"} 2");
    HAS("gemmad:engine_ready{engine=\"0\",model_name=\"x\"} 1");
    now = (metrics_engine_now){.restarts = 1, .steps = 20, .prefix_query_tokens = 150, .kv_usage = 0.125};
    metrics_set_engine(e, &now);
    written(m);
    HAS("gemmad:prefix_cache_queries_total{engine=\"0\",model_name=\"x\"} 250");
    HAS("gemmad:engine_steps_total{engine=\"0\",model_name=\"x\"} 30");
    HAS("gemmad:engine_restarts_total{engine=\"0\",model_name=\"x\"} 1");
    HAS("gemmad:collective_seconds_count{engine=\"0\",model_name=\"x\"} 10");
    HAS("gemmad:kv_cache_usage_perc{engine=\"0\",model_name=\"x\"} 0.125");
    HAS("gemmad:engine_ready{engine=\"0\",model_name=\"x\"} 0");
    metrics_close(m);
}

TEST(nothing_is_fine) {
    metrics_count(NULL, METRICS_STOP, 1);
    metrics_observe(NULL, METRICS_E2E_SECONDS, 1);
    metrics_set_engine(NULL, NULL);
    metrics_count_refused(NULL, "", ST_BUSY);
    metrics_close(NULL);
    metrics *m = metrics_open();
    CHECK(strstr(written(m), "# TYPE gemmad:num_requests_running gauge\n"));
    HAS("# TYPE gemmad:build_info gauge");
    metrics_close(m);
}

int main(void) {
    RUN(counters_and_labels);
    RUN(histograms_add_up);
    RUN(totals_go_on_over_restarts);
    RUN(nothing_is_fine);
    strbuf_close(&text);
    return test_result();
}
