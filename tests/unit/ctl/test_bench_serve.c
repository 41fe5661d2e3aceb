#include <math.h>

#include "ctl/bench_serve.h"
#include "tests/test.h"

TEST(figures_of_requests) {
    double a[] = {0.1, 0.3}, b[] = {0.2};
    const serve_request r[] = {{true, 10, 3, 0.5, 0.9, a, 2},
                               {true, 20, 2, 0.7, 0.9, b, 1},
                               {true, 5, 1, 0.6, 0.6, NULL, 0},
                               {false, 9, 2, 9, 9, NULL, 0}};
    serve_figures f;
    serve_summarise(&f, r, 4, 2.0);
    CHECK(f.completed == 3 && f.failed == 1 && f.input_tokens == 35 && f.output_tokens == 6);
    CHECK(fabs(f.ttft.mean - 600) < 1e-9 && fabs(f.ttft.median - 600) < 1e-9 &&
          fabs(f.ttft.p99 - 698) < 1e-9);
    /* a request of one token has no time per output token */
    CHECK(fabs(f.tpot.mean - 200) < 1e-9 && f.tpot.std < 1e-9);
    CHECK(fabs(f.itl.mean - 200) < 1e-9 && fabs(f.itl.std - 100 * sqrt(2.0 / 3)) < 1e-9);
    serve_summarise(&f, r + 3, 1, 0);
    CHECK(f.completed == 0 && f.ttft.p99 == 0);
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
                                       "p99_itl_ms"};
    serve_figures f = {.completed = 4, .input_tokens = 8, .output_tokens = 4, .duration_s = 2};
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

int main(void) {
    RUN(figures_of_requests);
    RUN(the_keys_of_vllm);
    return test_result();
}
