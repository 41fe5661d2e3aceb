#include <math.h>

#include "ctl/eval_math.h"
#include "tests/test.h"

static eval_entry of(uint32_t token, double probability) {
    return (eval_entry){token, (float)log(probability)};
}

TEST(divergence_of_what_both_name) {
    const eval_entry p_top[] = {of(1, 0.5), of(2, 0.25)}, q_top[] = {of(2, 0.5), of(1, 0.25)};
    eval_position p = {of(3, 0.125), p_top, 2}, q = {of(3, 0.0625), q_top, 2};
    /* tokens 3, 1, 2 and all others: 1/8 and 3/16 */
    double want = 0.125 * log(2) + 0.5 * log(2) + 0.25 * log(0.5) + 0.125 * log(0.125 / 0.1875);
    CHECK_THAT(fabs(eval_divergence(&p, &q) - want) < 1e-6, "%.9f, not %.9f", eval_divergence(&p, &q), want);
    CHECK(fabs(eval_divergence(&p, &p)) < 1e-7);
    CHECK(!eval_agrees(&p, &q) && eval_agrees(&p, &p));
}

TEST(what_one_alone_names_is_among_the_rest) {
    const eval_entry p_top[] = {of(1, 0.5), of(2, 0.25)}, q_top[] = {of(1, 0.5), of(7, 0.125)};
    eval_position p = {of(1, 0.5), p_top, 2}, q = {of(1, 0.5), q_top, 2};
    CHECK_THAT(fabs(eval_divergence(&p, &q)) < 1e-7, "%g", eval_divergence(&p, &q)); /* 1/2 and 1/2 in both */
    CHECK(eval_agrees(&p, &q));
    eval_position none = {of(1, 0.5), NULL, 0};
    CHECK(!eval_agrees(&none, &none));
}

TEST(a_certain_model) {
    const eval_entry sure[] = {{1, 0.0f}, {2, -INFINITY}}, other[] = {of(1, 0.5), of(2, 0.5)};
    eval_position p = {sure[0], sure, 2}, q = {other[0], other, 2};
    CHECK(fabs(eval_divergence(&p, &q) - log(2)) < 1e-6);
    CHECK(isfinite(eval_divergence(&q, &(eval_position){of(1, 1), sure, 1})));
}

/* Whatever the sizes, each token but the first counts exactly once, and has as much before it as the stride leaves. */
TEST(windows_count_each_token_once) {
    for (size_t tokens = 0; tokens < 40; tokens++)
        for (size_t size = 2; size < 12; size++)
            for (size_t stride = 1; stride <= size; stride++) {
                eval_window w = {0};
                size_t next = 1, windows = 0;
                while (eval_next_window(&w, tokens, size, stride)) {
                    CHECK(w.score == next && w.end > w.score && w.begin <= w.score &&
                          w.end - w.begin <= size);
                    next = w.end;
                    if (++windows > tokens) break;
                }
                CHECK_THAT(next == tokens || (tokens < 2 && windows == 0), "%zu tokens, size %zu, stride %zu",
                           tokens, size, stride);
            }
}

int main(void) {
    RUN(divergence_of_what_both_name);
    RUN(what_one_alone_names_is_among_the_rest);
    RUN(a_certain_model);
    RUN(windows_count_each_token_once);
    return test_result();
}
