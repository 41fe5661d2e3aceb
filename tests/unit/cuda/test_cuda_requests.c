/* What requests may ask for, on a device and on the CPU in float32: filters, penalties, biases, several samples, stop tokens,
 * log-probabilities of prompts, grammars. The tokens are the same and the log-probabilities close. Then pages that a disk
 * keeps over a restart, which give a device the bits back that it computed. */
#include <ftw.h>
#include <math.h>
#include <unistd.h>

#include "base/log.h"
#include "shard/gpu/cuda_provider.h"
#include "tests/engine_driver.h"
#include "tests/parity_automaton.h"
#include "tests/test.h"

#define DENSE TEST_DATA "/golden/dense-realheads"
#define MOE TEST_DATA "/golden/moe-128x8"
enum { REQUESTS = 10, PROMPT = 13, NEW = 4, LONG = 70, CONTEXT = 256, GRAMMARS = 2 };

static uint32_t prompt[LONG + NEW];

static status open_engine(instance *in, comm *ranks, const char *model, bool on_gpu, const char *spill) {
    return instance_open(in, &(instance_options){.model_path = model,
                                                 .ranks = ranks,
                                                 .gpu = gpu_cuda(),
                                                 .device = on_gpu ? DEVICE_CUDA : DEVICE_CPU,
                                                 .weights = spill ? WEIGHTS_Q8 : WEIGHTS_F32,
                                                 .threads = 1,
                                                 .context = CONTEXT,
                                                 .slots = REQUESTS,
                                                 .rows_max = 256,
                                                 .spill_dir = spill});
}

/* ---- beside the CPU ---- */

typedef struct study {
    const char *model;
    bool on_gpu;
    driver_request r[REQUESTS];
    vocabulary *words;
    strbuf automaton;
} study;

static void ask(study *c, uint32_t vocab) {
    for (uint32_t i = 0; i < REQUESTS; i++) {
        driver_request *r = &c->r[i];
        *r = driver_prompt(prompt, PROMPT - i, NEW);
        sampling *p = &r->params;
        p->logprobs = 3;
        p->seed = 77 + i;
        p->temperature = i % 2 ? 0 : 0.9f;
    }
    sampling *p[REQUESTS];
    for (uint32_t i = 0; i < REQUESTS; i++) p[i] = &c->r[i].params;
    p[0]->top_k = 7;
    p[1]->prompt_logprobs = (int32_t)vocab;
    p[2]->top_p = 0.7f, p[2]->repetition_penalty = 1.3f;
    p[3]->presence_penalty = 1, p[3]->frequency_penalty = 0.5f;
    p[4]->min_p = 0.1f;
    p[4]->bias[0] = (logit_bias){17, 4}, p[4]->bias[1] = (logit_bias){18, -100}, p[4]->bias_count = 2;
    for (uint32_t i = 5; i < 8; i++) { /* three samples of one prompt */
        c->r[i].token_count = c->r[i].prompt_count = PROMPT;
        p[i]->sample_index = i - 5;
        p[i]->seed = 5;
        p[i]->temperature = 1;
    }
    p[8]->temperature = 1;
    for (uint32_t i = REQUESTS - GRAMMARS; i < REQUESTS; i++) {
        c->r[i].grammar = (const uint8_t *)c->automaton.data;
        c->r[i].grammar_bytes = c->automaton.size;
    }
}

static status study_body(comm *ranks, void *context) {
    study *c = context;
    instance in;
    driver_options tune = {0};
    TRY(open_engine(&in, ranks, c->model, c->on_gpu, NULL));
    CHECK(in.on_gpu == c->on_gpu);
    if (!c->words) {
        c->words = parity_vocabulary(in.config->vocab);
        parity_automaton(c->words, &c->automaton);
    }
    tune.vocabulary = vocabulary_bytes(c->words, &tune.vocabulary_bytes);
    ask(c, in.config->vocab);
    status st = driver_run_with(&in, ranks, c->r, REQUESTS, &tune);
    instance_close(&in);
    return st;
}

static void compare(const char *model, uint32_t i, const driver_request *got, const driver_request *want, uint32_t vocab) {
    double most = 0;
    CHECK_THAT(got->error == ST_OK && want->error == ST_OK && !strcmp(got->reason, want->reason), "%s: request %u: %s, not %s",
               model, i, got->reason, want->reason);
    bool same = got->out_count == want->out_count && !memcmp(got->out, want->out, got->out_count * sizeof *got->out);
    for (uint32_t k = 0; same && k < got->out_count; k++) most = fmax(most, fabs((double)got->logprob[k] - want->logprob[k]));
    CHECK(got->prompt_logprob_count == want->prompt_logprob_count && !got->prompt_top == !want->prompt_top);
    for (uint32_t k = 0; got->prompt_top && want->prompt_top && k < (got->prompt_count - 1) * vocab; k++)
        most = fmax(most, fabs((double)got->prompt_top[k] - want->prompt_top[k]));
    for (uint32_t k = 1; k < got->prompt_logprob_count; k++)
        most = fmax(most, fabs((double)got->prompt_logprob[k] - want->prompt_logprob[k]));
    CHECK_THAT(same && most < 1e-3, "%s: request %u differs, by %g", model, i, most);
}

static void check_beside_cpu(const char *model) {
    static study cpu, gpu;
    cpu = (study){.model = model};
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 1, .threads = true}, study_body, &cpu), ST_OK);
    gpu = cpu;
    gpu.on_gpu = true;
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 1, .threads = true}, study_body, &gpu), ST_OK);
    uint32_t vocab = vocabulary_count(cpu.words);
    for (uint32_t i = 0; i < REQUESTS; i++) compare(model, i, &gpu.r[i], &cpu.r[i], vocab);
    CHECK(gpu.r[1].prompt_top);
    for (uint32_t i = REQUESTS - GRAMMARS; i < REQUESTS; i++)
        for (uint32_t k = 0; k < gpu.r[i].out_count; k++) CHECK(parity_allows(k, gpu.r[i].out[k], vocab));
    bool differ = false;
    for (uint32_t i = 6; i < 8; i++) differ = differ || memcmp(gpu.r[5].out, gpu.r[i].out, NEW * sizeof(uint32_t)) != 0;
    CHECK(differ); /* samples are drawn, not copied */
    driver_free(cpu.r, REQUESTS);
    driver_free(gpu.r, REQUESTS);
    vocabulary_close(cpu.words);
    strbuf_close(&cpu.automaton);
}

TEST(as_on_the_cpu) {
    check_beside_cpu(DENSE);
    if (!TEST_SANITIZED) check_beside_cpu(MOE);
}

/* ---- over a restart ---- */

typedef struct kept {
    const char *folder;
    driver_request r;
    driver_options tune;
} kept;

static status kept_body(comm *ranks, void *context) {
    kept *k = context;
    instance in;
    TRY(open_engine(&in, ranks, MOE, true, k->folder));
    k->r = driver_prompt(prompt, LONG, NEW);
    k->r.params.logprobs = 0;
    k->tune = (driver_options){.cached = true};
    status st = driver_run_with(&in, ranks, &k->r, 1, &k->tune);
    instance_close(&in);
    return st;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *at) {
    (void)info, (void)kind, (void)at;
    return remove(path);
}

TEST(pages_that_a_disk_keeps) {
    char folder[] = "/tmp/test_cuda_requests-XXXXXX";
    kept first = {.folder = folder}, second = first;
    if (!mkdtemp(folder)) test_skip("no folder for temporary files");
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 1, .threads = true}, kept_body, &first), ST_OK);
    CHECK(first.tune.counts.spilled_bytes > 0 && first.r.cached_tokens == 0);
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 1, .threads = true}, kept_body, &second), ST_OK);
    CHECK_THAT(second.r.cached_tokens == 64, "%u tokens came from the disk", second.r.cached_tokens);
    CHECK(first.r.out_count == NEW && second.r.out_count == NEW);
    CHECK(!memcmp(first.r.out, second.r.out, NEW * sizeof *first.r.out));
    /* What the disk gave back is what was there; the six rows behind it were one chunk with the others, and now are not. */
    for (uint32_t i = 0; i < NEW; i++) CHECK(fabs((double)first.r.logprob[i] - second.r.logprob[i]) < 0.1);
    /* A third time it is as the second, to the last bit. */
    kept third = {.folder = folder};
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 1, .threads = true}, kept_body, &third), ST_OK);
    CHECK(third.r.cached_tokens == 64 && !memcmp(third.r.logprob, second.r.logprob, NEW * sizeof(float)));
    driver_free(&first.r, 1);
    driver_free(&second.r, 1);
    driver_free(&third.r, 1);
    nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

int main(void) {
    log_open("test", LOG_ERROR);
    if (gpu_cuda()->count() == 0) test_skip("there is no GPU that CUDA can use");
    for (uint32_t i = 0; i < LONG; i++) prompt[i] = 5 + (i * 37 + i * i) % 300;
    RUN(as_on_the_cpu);
    RUN(pages_that_a_disk_keeps);
    return test_result();
}
