/* Ranks whose parts differ in size agree on a pool that each of them can hold. */
#include "shard/model/budget.h"
#include "tests/test.h"

static model_config *config;
static layout *whole;

static budget planned(uint32_t context, uint64_t kv_bytes) {
    budget b;
    budget_options o = {.choice = WEIGHTS_F32, .stored = WEIGHT_F32, .weight_bytes = 1000, .kv = KV_F32};
    o.context = context;
    o.memory_bytes = 1000 + runner_activation_bytes(config, whole, BUDGET_ROWS, false) + kv_bytes;
    CHECK_STATUS(budget_make(&b, config, whole, &o), ST_OK);
    return b;
}

TEST(a_rank_with_larger_pages_bounds_the_others) {
    budget b = planned(0, 64 << 20);
    budget_share s[2] = {budget_share_of(&b), budget_share_of(&b)};
    uint32_t alone = b.slabs, context = b.context;
    CHECK_STATUS(budget_agree(&b, s, 2), ST_OK);
    CHECK(b.slabs == alone && b.context == context && b.kv_bytes <= b.kv_limit);
    /* Its own choice of pages per slab would have fitted; with rank 0's its slabs are three times as large. */
    for (int kind = 0; kind < KV_KINDS; kind++) s[1].page_bytes[kind] *= 3, s[1].pages_per_slab[kind] = 1;
    CHECK_STATUS(budget_agree(&b, s, 2), ST_OK);
    CHECK_THAT(b.slabs == b.kv_limit / (3 * b.geometry.slab_bytes), "%u slabs, alone %u", b.slabs, alone);
    CHECK(b.slabs < alone && b.context < context && budget_request_slabs(&b) <= b.slabs);
    CHECK(b.requests_held == 1 && b.tokens_held >= b.context);
    /* The larger rank, where it is this one, comes to the same pool. */
    budget large = b;
    memcpy(large.geometry.page_bytes, s[1].page_bytes, sizeof s[1].page_bytes);
    CHECK_STATUS(budget_agree(&large, s, 2), ST_OK);
    CHECK(large.slabs == b.slabs && large.context == b.context && large.kv_bytes <= s[1].kv_limit);
}

TEST(a_context_that_was_asked_for_is_not_cut) {
    budget b = planned(4096, 64 << 20);
    budget_share s[2] = {budget_share_of(&b), budget_share_of(&b)};
    CHECK_STATUS(budget_agree(&b, s, 2), ST_OK);
    CHECK(b.context == 4096 && b.requests_held > 1);
    CHECK(b.tokens_held >= b.requests_held * 4096ull && b.tokens_held < (b.requests_held + 1) * 4096ull);
    s[1].kv_limit = b.geometry.slab_bytes;
    CHECK_STATUS(budget_agree(&b, s, 2), ST_NO_MEMORY);
    CHECK_SENTENCE("rank 1: one request of 4096 tokens needs");
    CHECK_SENTENCE("1 fit");
}

/* What a rank on a GPU plans is about the GPU's memory: nine tenths of it, its tables and the back end's scratch counted. */
TEST(a_plan_for_a_gpu) {
    budget b, host;
    budget_options o = {.choice = WEIGHTS_FP8, .stored = WEIGHT_BF16, .kv = KV_BF16, .context = 256};
    o.free_bytes = 1; /* of the host: not asked */
    o.device_bytes = 1 << 30;
    o.device_scratch_bytes = 12345678;
    CHECK_STATUS(budget_make(&b, config, whole, &o), ST_OK);
    CHECK(b.weight_bytes == model_weights_plan_bytes(config, whole, NULL, WEIGHT_BF16, WEIGHTS_FP8, true));
    uint64_t own = runner_activation_bytes(config, whole, b.rows_max, true);
    CHECK(b.activation_bytes == own + 12345678);
    CHECK(b.kv_limit == (UINT64_C(1) << 30) / 10 * 9 - b.weight_bytes - b.activation_bytes);
    o.device_bytes = b.weight_bytes + b.activation_bytes;
    CHECK_STATUS(budget_make(&b, config, whole, &o), ST_NO_MEMORY);
    CHECK_SENTENCE("bytes of the GPU's memory for weights");
    CHECK_SENTENCE("90 % of what is free there are");
    o.device_bytes += o.device_bytes / 9 + 4096;
    CHECK_STATUS(budget_make(&b, config, whole, &o), ST_NO_MEMORY);
    CHECK_SENTENCE("bytes of the GPU's memory, 0 fit");
    o.memory_bytes = 1 << 20;
    CHECK_STATUS(budget_make(&b, config, whole, &o), ST_NO_MEMORY);
    CHECK_SENTENCE("--memory is 1048576");
    o = (budget_options){.choice = WEIGHTS_Q8, .stored = WEIGHT_BF16, .kv = KV_BF16, .context = 256, .free_bytes = 1 << 30};
    CHECK_STATUS(budget_make(&host, config, whole, &o), ST_OK);
    CHECK(!host.on_device && host.rows_max == BUDGET_ROWS && b.rows_max > BUDGET_ROWS);
    CHECK(host.activation_bytes == runner_activation_bytes(config, whole, BUDGET_ROWS, false));
}

int main(void) {
    CHECK_STATUS(model_config_open(&config, TEST_DATA "/golden/dense", NULL), ST_OK);
    CHECK_STATUS(layout_open(&whole, config, &(layout_options){.ranks = 1, .group = 1}), ST_OK);
    RUN(a_rank_with_larger_pages_bounds_the_others);
    RUN(a_context_that_was_asked_for_is_not_cut);
    RUN(a_plan_for_a_gpu);
    layout_close(whole);
    model_config_close(config);
    return test_result();
}
