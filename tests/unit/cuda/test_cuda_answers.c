/* Held-out conversations of the two small trained models, with weights as they are stored and their keys and values in bf16 or
 * 8 bits: a device gives the answers that the published implementation gives. */
#include <jansson.h>

#include "base/invariant.h"
#include "base/log.h"
#include "shard/gpu/cuda_provider.h"
#include "tests/engine_driver.h"
#include "tests/test.h"

enum { CASES_MAX = 3, TOKENS_MAX = 1024 };

typedef struct study {
    const char *model;
    kv_type kv;
    weights_choice weights;
    const char *ids[CASES_MAX];   /* of samples.json, up to the first NULL */
    uint32_t prompt[CASES_MAX][TOKENS_MAX], prompt_count[CASES_MAX], answer[CASES_MAX][TOKENS_MAX], answer_count[CASES_MAX];
} study;

static uint32_t read_ids(const json_t *conversation, const char *name, uint32_t *out) {
    json_t *list = json_object_get(conversation, name);
    uint32_t n = (uint32_t)json_array_size(list);
    INVARIANT(n > 0 && n <= TOKENS_MAX);
    for (uint32_t i = 0; i < n; i++) out[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return n;
}

static void read_samples(study *s) {
    char path[512];
    json_error_t error;
    snprintf(path, sizeof path, "%s/models/%s/samples.json", TEST_DATA, s->model);
    json_t *all = json_load_file(path, 0, &error);
    INVARIANT(all);
    for (uint32_t i = 0; i < CASES_MAX && s->ids[i]; i++)
        for (size_t k = 0; k < json_array_size(all); k++) {
            json_t *conversation = json_array_get(all, k);
            if (strcmp(json_string_value(json_object_get(conversation, "id")), s->ids[i]) != 0) continue;
            s->prompt_count[i] = read_ids(conversation, "prompt_token_ids", s->prompt[i]);
            s->answer_count[i] = read_ids(conversation, "completion_token_ids", s->answer[i]);
        }
    json_decref(all);
}

static status body(comm *ranks, void *context) {
    study *s = context;
    char path[512];
    instance in;
    snprintf(path, sizeof path, "%s/models/%s", TEST_DATA, s->model);
    TRY(instance_open(&in, &(instance_options){.model_path = path,
                                               .ranks = ranks,
                                               .gpu = gpu_cuda(),
                                               .device = DEVICE_CUDA,
                                               .weights = s->weights,
                                               .kv_given = true,
                                               .kv = s->kv,
                                               .threads = 1,
                                               .context = TOKENS_MAX,
                                               .slots = 4}));
    driver_request r[CASES_MAX];
    uint32_t n = 0;
    for (; n < CASES_MAX && s->ids[n]; n++) {
        INVARIANT(s->prompt_count[n] > 0);
        r[n] = driver_prompt(s->prompt[n], s->prompt_count[n], s->answer_count[n] + 4);
        r[n].params.stop_token[0] = s->answer[n][s->answer_count[n] - 1];
        r[n].params.stop_token_count = 1;
    }
    status st = driver_run(&in, ranks, r, n);
    for (uint32_t i = 0; i < n && st == ST_OK; i++) {
        bool same = r[i].out_count == s->answer_count[i] && !strcmp(r[i].reason, "stop") &&
                    !memcmp(r[i].out, s->answer[i], r[i].out_count * sizeof *r[i].out);
        CHECK_THAT(same, "%s, %s weights: another answer to %s (%u tokens, %s)", s->model, weights_choice_name(s->weights),
                   s->ids[i], r[i].out_count, r[i].reason);
    }
    driver_free(r, n);
    instance_close(&in);
    return st;
}

static void check(study s) {
    read_samples(&s);
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 1, .threads = true}, body, &s), ST_OK);
}

TEST(dense) {
    check((study){.model = "tiny-dense", .weights = WEIGHTS_BF16, .kv = KV_BF16, .ids = {"05-plain", "29-call"}});
}
TEST(mixture) { check((study){.model = "tiny-moe", .weights = WEIGHTS_BF16, .kv = KV_BF16, .ids = {"02-plain"}}); }
TEST(quantised) {
    check((study){.model = "tiny-dense", .weights = WEIGHTS_Q8, .kv = KV_Q8, .ids = {"05-plain"}});
    check((study){.model = "tiny-moe", .weights = WEIGHTS_Q8, .kv = KV_Q8, .ids = {"02-plain"}});
}
/* Prompts of several pages, with a window that they leave behind. */
TEST(long_prompts) {
#ifdef GEMMAD_CUDA_SIM
    check((study){.model = "tiny-dense", .weights = WEIGHTS_BF16, .kv = KV_BF16, .ids = {"30-result"}});
#else
    check((study){.model = "tiny-dense", .weights = WEIGHTS_BF16, .kv = KV_BF16, .ids = {"22-multi", "28-think", "35-json"}});
    check((study){.model = "tiny-moe", .weights = WEIGHTS_BF16, .kv = KV_BF16, .ids = {"22-multi", "28-think", "35-json"}});
#endif
}

int main(void) {
    log_open("test", LOG_ERROR);
    if (gpu_cuda()->count() == 0) test_skip("there is no GPU that CUDA can use");
    RUN(dense);
    if (!TEST_SANITIZED) RUN(mixture);
    if (!TEST_SANITIZED) RUN(quantised);
    if (!TEST_SANITIZED) RUN(long_prompts);
    return test_result();
}
