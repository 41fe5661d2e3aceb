/* What is expected of a model, and of a router that spreads. */
#include <math.h>

#include "base/shape.h"
#include "shard/bench/bench.h"
#include "shard/bench/doctor.h"
#include "tests/test.h"

static model_config *published(const char *shape, uint32_t layers) {
    strbuf text = {0};
    model_config *c = NULL;
    CHECK_STATUS(shape_write_config(shape, layers, &text), ST_OK);
    CHECK_STATUS(model_config_parse(&c, strbuf_text(&text), text.size, NULL, 0), ST_OK);
    strbuf_close(&text);
    return c;
}

TEST(evenly_spread_choices) {
    CHECK(fabs(bench_experts_expected(128, 8, 1) - 8) < 1e-9);
    CHECK(fabs(bench_experts_expected(128, 8, 2) - 15.5) < 1e-9);
    CHECK(fabs(bench_experts_expected(128, 8, 8) - 128 * (1 - pow(120.0 / 128, 8))) < 1e-9);
    CHECK(bench_experts_expected(128, 8, 512) > 127.9);
}

/* Counted here by equations, there by the table that loading uses: both must come to the same but for norms. */
TEST(bytes_agree_with_the_plan_of_memory) {
    static const char *const shapes[] = {"31b", "26b-a4b", "e4b", "e2b"};
    const doctor_findings f = {.step_count = 1, .read = {{1, 10}}, .gmac_per_s = {1, 2, 3, 4, 0}};
    for (int i = 0; i < 4; i++) {
        model_config *c = published(shapes[i], 0);
        layout *l = NULL;
        doctor_outlook o;
        CHECK_STATUS(layout_open(&l, c, &(layout_options){.ranks = 1, .group = 32}), ST_OK);
        doctor_expect(&o, c, WEIGHT_Q4, &f);
        double planned = (double)model_weights_plan_bytes(c, l, NULL, WEIGHT_BF16, WEIGHTS_Q4, false);
        CHECK_THAT(fabs((double)o.weight_bytes / planned - 1) < 0.002, "%s: %.0f, planned %.0f", shapes[i],
                   (double)o.weight_bytes, planned);
        CHECK(o.token_bytes <= o.weight_bytes && (o.token_bytes < o.weight_bytes) == (c->experts > 0));
        layout_close(l);
        model_config_close(c);
    }
}

TEST(speeds) {
    model_config *c = published("26b-a4b", 6);
    doctor_findings f = {.step_count = 2, .read = {{1, 10}, {2, 20}}, .gmac_per_s = {1, 2, 300, 400, 500}};
    doctor_outlook o;
    doctor_expect(&o, c, WEIGHT_Q8, &f);
    CHECK(fabs(o.decode_tokens_per_s - 20e9 / (double)o.token_bytes) < 1e-6 * o.decode_tokens_per_s);
    CHECK(fabs(o.prefill_tokens_per_s - 300 / o.token_gmac) < 1e-6 * o.prefill_tokens_per_s);
    doctor_expect(&o, c, WEIGHT_FP8, &f);
    CHECK(fabs(o.prefill_tokens_per_s - 500 / o.token_gmac) < 1e-6 * o.prefill_tokens_per_s);
    doctor_expect(&o, c, WEIGHT_Q8, &f);
    double without = o.decode_tokens_per_s;
    f.sum_us[0] = f.sum_us[1] = 100;
    doctor_expect(&o, c, WEIGHT_Q8, &f);
    CHECK(fabs(1 / o.decode_tokens_per_s - 1 / without - 6 * 2 * 100e-6) < 1e-9);
    model_config_close(c);
}

TEST(cut_shapes_keep_a_layer_of_each_kind_with_a_cache) {
    static const char *const shapes[] = {"31b", "26b-a4b", "e4b", "e2b"};
    for (int i = 0; i < 4; i++)
        for (uint32_t layers = 1; layers <= 30; layers++) {
            model_config *c = published(shapes[i], layers);
            CHECK_THAT(c && c->layers == layers, "%s of %u layers", shapes[i], layers);
            model_config_close(c);
        }
    strbuf none = {0};
    CHECK_STATUS(shape_write_config("e2b", 36, &none), ST_INVALID);
    CHECK_SENTENCE("--layers is 36, shape e2b has 35");
}

int main(void) {
    RUN(evenly_spread_choices);
    RUN(bytes_agree_with_the_plan_of_memory);
    RUN(speeds);
    RUN(cut_shapes_keep_a_layer_of_each_kind_with_a_cache);
    return test_result();
}
