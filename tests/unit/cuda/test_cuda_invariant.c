/* Prompts on a device. With --batch-invariant a row has the bits that it has alone however its prompt was cut into steps:
 * in chunks, found in the cache, pushed out and computed again, resumed. Without it prompts are computed by other
 * kernels, and come close. */
#include "base/log.h"
#include "tests/unit/cuda/device_company.h"

/* On both sides of a page, and of a pass of sixteen rows; the last shares a page with the one before it. */
static const uint32_t lengths[] = {18, 33, 66, 65};
enum { REQUESTS = sizeof lengths / sizeof *lengths };

static const company_setting exact[] = {
    {"chunks of 1", .requests = 1, .chunk = 1},
    {"chunks of 7, not recorded", .requests = 2, .chunk = 7, .rows = 16, .no_recording = true},
    {"chunks of 64", .chunk = 64, .rows = 96, .apart = 1},
    {"from the cache", .apart = 4, .cached = true},
    {"pushed out", .chunk = 64, .apart = 2, .preempted = true},
    {"resumed", .resumed = true},
};
/* A product takes a prompt's activations as one bf16 instead of two, and keys and values are rounded to bf16 once more or
 * less. That alone moves logits of these models by a few tenths (docs/numerics.md); a mistake moves them by several. */
static const company_setting close_by[] = {
    {"chunks of 7", .requests = 2, .chunk = 7, .close = 0.5},
    {"chunks of 64", .chunk = 64, .rows = 96, .apart = 1, .close = 0.5},
};

typedef struct study {
    company c;
    const company_setting *settings;
    uint32_t count;
} study;

static status body(comm *ranks, void *context) {
    static const company_setting alone = {.what = "alone"};
    study *s = context;
    instance in;
    TRY(company_open(&in, &s->c, &alone, ranks));
    status st = company_run_alone(&s->c, ranks, &in);
    instance_close(&in);
    for (uint32_t i = 0; i < s->count && st == ST_OK; i++) {
        TRY(company_open(&in, &s->c, &s->settings[i], ranks));
        st = company_run(&s->c, &s->settings[i], ranks, &in);
        instance_close(&in);
    }
    return st;
}

static void check(const char *model, weights_choice weights, kv_type kv, bool invariant, const company_setting *settings,
                  uint32_t count) {
    static study s;
    s = (study){.settings = settings, .count = count};
    s.c = (company){.model = model, .weights = weights, .kv = kv, .new_tokens = 3, .context = 128, .batch_invariant = invariant};
    company_prompts(&s.c, lengths, REQUESTS);
    memcpy(s.c.tokens[3], s.c.tokens[2], 64 * sizeof **s.c.tokens);
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 1, .threads = true}, body, &s), ST_OK);
    driver_free(s.c.alone, s.c.requests);
}

TEST(invariant) {
    check("golden/dense-realheads", WEIGHTS_BF16, KV_BF16, true, exact, TEST_SANITIZED ? 2 : sizeof exact / sizeof *exact);
    if (TEST_SANITIZED) return;
    check("golden/moe-128x8", WEIGHTS_Q8, KV_Q8, true, &exact[3], 1);
}
TEST(near) {
    check("golden/dense-realheads", WEIGHTS_BF16, KV_BF16, false, close_by, sizeof close_by / sizeof *close_by);
}

int main(void) {
    log_open("test", LOG_WARN);
    if (gpu_cuda()->count() == 0) test_skip("there is no GPU that CUDA can use");
    RUN(invariant);
    if (!TEST_SANITIZED) RUN(near);
    return test_result();
}
