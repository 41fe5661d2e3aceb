#include <math.h>

#include "ctl/bench_serve.h"
#include "tests/test.h"

static bool near(double a, double b) { return fabs(a - b) < 1e-9; }

TEST(figures_of_requests) {
    double a[] = {0.1, 0.3}, b[] = {0.2};
    const serve_request r[] = {{true, 10, 3, 0, 0.5, 0.9, a, 2},
                               {true, 20, 2, 0.4, 0.7, 0.9, b, 1},
                               {true, 5, 1, 0.9, 0.6, 0.6, NULL, 0},
                               {false, 9, 2, 0, 9, 9, NULL, 0}};
    serve_figures f = {.percent = {99, 0, 100}, .percent_count = 3};
    serve_summarise(&f, r, 4, 2.0);
    CHECK(f.completed == 3 && f.failed == 1 && f.input_tokens == 35 && f.output_tokens == 6);
    CHECK(near(f.ttft.mean, 600) && near(f.ttft.median, 600) && near(f.ttft.percentile[0], 698));
    CHECK(near(f.ttft.percentile[1], 500) && near(f.ttft.percentile[2], 700));
    /* a request of one token has no time per output token */
    CHECK(near(f.tpot.mean, 200) && f.tpot.std < 1e-9);
    CHECK(near(f.itl.mean, 200) && near(f.itl.std, 100 * sqrt(2.0 / 3)));
    CHECK(near(f.e2el.mean, 800) && near(f.e2el.median, 900) && near(f.e2el.std, sqrt(20000)));
    /* [0, 0.9), [0.4, 1.3), [0.9, 1.5): the third begins as the first ends. Tokens at 0.5 0.6 0.9 | 1.1 1.3 1.5. */
    CHECK_THAT(f.peak_requests == 2, "%u", f.peak_requests);
    CHECK_THAT(near(f.peak_tokens_per_s, 3), "%g", f.peak_tokens_per_s);
    serve_summarise(&f, r + 3, 1, 0);
    CHECK(f.completed == 0 && f.failed == 1 && f.ttft.percentile[0] == 0 && f.peak_requests == 0);
}

TEST(plans_follow_their_shape) {
    enum { N = 20000 };
    static serve_plan plan[N], again[N];
    const serve_shape shape = {.prompt = 100, .generate = 10, .range = 0.5, .rate = 4, .seed = 7};
    double prompts = 0, gap_mean = 0, gap_square = 0;
    uint32_t least = UINT32_MAX, most = 0;
    serve_make_plan(plan, N, &shape);
    serve_make_plan(again, N, &shape);
    CHECK(!memcmp(plan, again, sizeof plan) && plan[0].at_s == 0);
    for (uint32_t i = 0; i < N; i++) {
        prompts += plan[i].prompt;
        if (plan[i].prompt < least) least = plan[i].prompt;
        if (plan[i].prompt > most) most = plan[i].prompt;
        CHECK(plan[i].generate >= 5 && plan[i].generate <= 15);
        if (i == 0) continue;
        double gap = plan[i].at_s - plan[i - 1].at_s;
        CHECK(gap >= 0);
        gap_mean += gap / (N - 1);
        gap_square += gap * gap / (N - 1);
    }
    /* Even between 50 and 150; exponential with mean 1/4, whose second moment is 2/16. 20,000 draws: within 3 %. */
    CHECK_THAT(least == 50 && most == 150 && fabs(prompts / N - 100) < 1, "%u %u %g", least, most,
               prompts / N);
    CHECK_THAT(fabs(gap_mean - 0.25) < 0.0075 && fabs(gap_square - 0.125) < 0.006, "%g %g", gap_mean,
               gap_square);
    serve_make_plan(again, N,
                    &(serve_shape){.prompt = 100, .generate = 10, .range = 0.5, .rate = 4, .seed = 8});
    CHECK(memcmp(plan, again, sizeof plan) != 0);
    serve_make_plan(plan, 3, &(serve_shape){.prompt = 1, .generate = 3});
    CHECK(plan[2].at_s == 0 && plan[2].prompt == 1 && plan[2].generate == 3);
    serve_make_plan(plan, N, &(serve_shape){.prompt = 2, .generate = 1, .range = 1});
    for (uint32_t i = 0; i < N; i++)
        CHECK(plan[i].prompt >= 1 && plan[i].prompt <= 4 && plan[i].generate >= 1 && plan[i].generate <= 2);
    CHECK(serve_longest(100, 0.5) == 150 && serve_longest(7, 0) == 7);
}

TEST(percentiles_are_read) {
    double p[SERVE_PERCENTILES_MAX];
    uint32_t n;
    CHECK_STATUS(serve_read_percentiles("50, 90,99.9,0,100", p, &n), ST_OK);
    CHECK(n == 5 && p[0] == 50 && p[2] == 99.9 && p[4] == 100);
    static const char *const wrong[] = {
        "", ",", "50,", "101", "-1", "nan", "inf", "50;60", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK_STATUS(serve_read_percentiles(wrong[i], p, &n), ST_INVALID);
}

TEST(the_keys_of_vllm) {
    static const char *const keys[] = {"duration",
                                       "completed",
                                       "total_input_tokens",
                                       "total_output_tokens",
                                       "request_throughput",
                                       "mean_ttft_ms",
                                       "median_ttft_ms",
                                       "std_ttft_ms",
                                       "p99_ttft_ms",
                                       "output_throughput",
                                       "mean_tpot_ms",
                                       "median_tpot_ms",
                                       "std_tpot_ms",
                                       "p99_tpot_ms",
                                       "total_token_throughput",
                                       "mean_itl_ms",
                                       "median_itl_ms",
                                       "std_itl_ms",
                                       "p99_itl_ms",
                                       "p99.9_itl_ms",
                                       "failed",
                                       "max_output_tokens_per_s",
                                       "max_concurrent_requests",
                                       "mean_e2el_ms",
                                       "median_e2el_ms",
                                       "std_e2el_ms",
                                       "p99_e2el_ms"};
    serve_figures f = {.completed = 4,
                       .input_tokens = 8,
                       .output_tokens = 4,
                       .duration_s = 2,
                       .percent = {99, 99.9},
                       .percent_count = 2};
    json_writer w = {0};
    json_begin(&w, '{');
    serve_write_json(&w, &f);
    json_end(&w, '}');
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char quoted[40];
        snprintf(quoted, sizeof quoted, "\"%s\": ", keys[i]);
        CHECK_THAT(strstr(strbuf_text(&w.out), quoted), "%s is not in %s", quoted, strbuf_text(&w.out));
    }
    CHECK(strstr(strbuf_text(&w.out), "\"total_token_throughput\": 6") != NULL);
    CHECK(strstr(strbuf_text(&w.out), "\"request_throughput\": 2") != NULL);
    strbuf_close(&w.out);
}

TEST(the_text_of_vllm) {
    static const char *const lines[] = {"============ Serving Benchmark Result ============\n",
                                        "Successful requests:                     4         \n",
                                        "Failed requests:                         1         \n",
                                        "Maximum request concurrency:             3         \n",
                                        "Request rate configured (RPS):           1.50      \n",
                                        "Request throughput (req/s):              2.00      \n",
                                        "Peak concurrent requests:                2         \n",
                                        "---------------Time to First Token----------------\n",
                                        "-----Time per Output Token (excl. 1st token)------\n",
                                        "---------------Inter-token Latency----------------\n",
                                        "----------------End-to-end Latency----------------\n",
                                        "Mean E2EL (ms):                          7.00      \n",
                                        "P99.9 TTFT (ms):                         0.00      \n",
                                        "==================================================\n"};
    const serve_figures f = {.completed = 4,
                             .failed = 1,
                             .duration_s = 2,
                             .peak_requests = 2,
                             .max_concurrency = 3,
                             .rate = 1.5,
                             .e2el.mean = 7,
                             .percent = {99.9},
                             .percent_count = 1};
    strbuf out = {0};
    serve_write_text(&out, &f);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        CHECK_THAT(strstr(strbuf_text(&out), lines[i]), "%s is not in\n%s", lines[i], strbuf_text(&out));
    strbuf_close(&out);
}

int main(void) {
    RUN(plans_follow_their_shape);
    RUN(percentiles_are_read);
    RUN(the_text_of_vllm);
    RUN(figures_of_requests);
    RUN(the_keys_of_vllm);
    return test_result();
}
