/* A request that decodes on a device has the tokens and log-probabilities that it has alone, whoever decodes beside it, in
 * whatever order they came, and whether steps are recorded or not. */
#include "base/log.h"
#include "tests/unit/cuda/device_company.h"

/* Prompts of a few tokens, one a step: with those who decode they are never more rows than one pass over the weights takes,
 * and every row has the bits that it has alone. */
static const uint32_t lengths[COMPANY_REQUESTS] = {5, 1, 7, 3, 6, 2, 4, 7, 1};
static const company_setting settings[] = {
    {"the last first", .apart = 1, .reversed = true},
    {"not recorded", .apart = 1, .no_recording = true},
};

static status body(comm *ranks, void *context) {
    company *c = context;
    status st = ST_OK;
    for (uint32_t i = 0; i < sizeof settings / sizeof *settings && st == ST_OK; i++) {
        instance in;
        TRY(company_open(&in, c, &settings[i], ranks));
        if (i == 0) st = company_run_alone(c, ranks, &in); /* in an engine where others then find what these left */
        if (st == ST_OK) st = company_run(c, &settings[i], ranks, &in);
        if (st == ST_OK) CHECK(in.device->ops->replay(in.device, 1) == !settings[i].no_recording);
        instance_close(&in);
    }
    return st;
}

static void check(const char *model, weights_choice weights, kv_type kv) {
    static company c;
    c = (company){.model = model, .weights = weights, .kv = kv, .new_tokens = 3};
    company_prompts(&c, lengths, COMPANY_REQUESTS);
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 1, .threads = true}, body, &c), ST_OK);
    driver_free(c.alone, c.requests);
}

TEST(dense) {
    check("golden/dense-realheads", WEIGHTS_BF16, KV_BF16);
    if (TEST_SANITIZED) return;
    check("golden/dense", WEIGHTS_Q8, KV_Q8);
    check("golden/dense-realheads", WEIGHTS_Q4, KV_BF16);
    check("golden/dense-realheads", WEIGHTS_FP8, KV_Q8);
}
TEST(mixture) {
    check("golden/moe-128x8", WEIGHTS_BF16, KV_Q8);
    if (TEST_SANITIZED) return;
    check("golden/moe-128x8", WEIGHTS_Q4, KV_Q8);
    check("golden/moe-128x8", WEIGHTS_FP8, KV_BF16);
}

int main(void) {
    log_open("test", LOG_WARN);
    if (gpu_cuda()->count() == 0) test_skip("there is no GPU that CUDA can use");
    RUN(dense);
    RUN(mixture);
    return test_result();
}
