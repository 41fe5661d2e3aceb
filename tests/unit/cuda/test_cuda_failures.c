/* What an engine on a device refuses before weights are read, and how it ends when its device fails in the middle of a step:
 * with a sentence that says where and why, and nothing that stays behind. */
#include <cuda_runtime_api.h>

#include "base/log.h"
#include "shard/gpu/cuda_provider.h"
#include "tests/engine_driver.h"
#include "tests/log_capture.h"
#include "tests/test.h"
#ifdef GEMMAD_CUDA_SIM
#include "tests/cuda_sim/cuda_sim.h"
#endif

#define DENSE TEST_DATA "/golden/dense-realheads"

typedef struct attempt {
    device_choice device[2];      /* by rank */
    bool without;                 /* a build without CUDA */
    weights_choice weights;
    uint64_t memory_bytes;
    bool opened;                  /* weights were read by somebody */
} attempt;

static status open_body(comm *ranks, void *context) {
    attempt *a = context;
    instance in;
    TRY(instance_open(&in, &(instance_options){.model_path = DENSE,
                                               .ranks = ranks,
                                               .gpu = a->without ? NULL : gpu_cuda(),
                                               .device = a->device[comm_rank(ranks)],
                                               .weights = a->weights,
                                               .threads = 1,
                                               .context = 128,
                                               .slots = 2,
                                               .rows_max = 64,
                                               .memory_bytes = a->memory_bytes}));
    a->opened = true;
    instance_close(&in);
    return ST_OK;
}

static status attempt_open(attempt *a, uint32_t ranks) {
    return comm_fork_run(&(comm_fork_options){.ranks = ranks, .threads = true}, open_body, a);
}

TEST(refused_anywhere) {
    attempt a = {.device = {DEVICE_CUDA}, .without = true};
    CHECK_STATUS(attempt_open(&a, 1), ST_UNSUPPORTED);
    CHECK_SENTENCE("--device cuda: this gemmad-shard was built where no CUDA toolkit is; --device cpu works");
    a = (attempt){.device = {DEVICE_CPU}, .weights = WEIGHTS_FP8};
    CHECK_STATUS(attempt_open(&a, 1), ST_UNSUPPORTED);
    CHECK_SENTENCE("fp8");
    CHECK_SENTENCE("GPU");
    CHECK(!a.opened);
    a = (attempt){.device = {DEVICE_AUTO}, .without = true}; /* and where nobody asks for a GPU */
    CHECK_STATUS(attempt_open(&a, 1), ST_OK);
}

#ifdef GEMMAD_CUDA_SIM
static size_t bytes_taken(void) {
    CHECK(cudaSetDevice(0) == cudaSuccess);
    return cuda_sim_bytes_taken();
}

TEST(no_device) {
    setenv("CUDA_SIM_DEVICES", "0", 1);
    attempt a = {.device = {DEVICE_CUDA}};
    CHECK_STATUS(attempt_open(&a, 1), ST_NOT_FOUND);
    CHECK_SENTENCE("--device cuda: there is no GPU that this process can use");
    CHECK_SENTENCE("--device cpu works");
    a = (attempt){.device = {DEVICE_AUTO}};
    CHECK_STATUS(attempt_open(&a, 1), ST_OK);
    unsetenv("CUDA_SIM_DEVICES");
}

TEST(too_old) {
    setenv("CUDA_SIM_CAPABILITY", "75", 1);
    attempt a = {.device = {DEVICE_CUDA}};
    CHECK_STATUS(attempt_open(&a, 1), ST_NOT_FOUND);
    CHECK_SENTENCE("too old");
    unsetenv("CUDA_SIM_CAPABILITY");
}

TEST(more_ranks_than_devices) {
    attempt a = {.device = {DEVICE_CUDA, DEVICE_CUDA}};
    CHECK_STATUS(attempt_open(&a, 2), ST_LAYOUT);
    CHECK_SENTENCE("2 ranks on this machine and 1 GPU: each rank has one of its own");
    CHECK(!a.opened && bytes_taken() == 0);
}

TEST(ranks_that_disagree) {
    attempt a = {.device = {DEVICE_CPU, DEVICE_CUDA}};
    setenv("CUDA_SIM_DEVICES", "2", 1);
    CHECK_STATUS(attempt_open(&a, 2), ST_MISMATCH);
    CHECK_SENTENCE("an engine computes on GPUs or on CPUs alone (--device)");
    CHECK_SENTENCE("has cpu, rank 1");
    CHECK(!a.opened);
    unsetenv("CUDA_SIM_DEVICES");
}

TEST(out_of_memory) {
    attempt a = {.device = {DEVICE_CUDA}};
    setenv("CUDA_SIM_MEMORY", "1150000000", 1); /* what a context takes, and a little */
    CHECK_STATUS(attempt_open(&a, 1), ST_NO_MEMORY);
    CHECK_SENTENCE("of the GPU's memory for weights");
    CHECK_SENTENCE("90 % of what is free there are");
    setenv("CUDA_SIM_MEMORY", "4294967296", 1);
    a.memory_bytes = 1 << 20;
    CHECK_STATUS(attempt_open(&a, 1), ST_NO_MEMORY);
    CHECK_SENTENCE("--memory is 1048576");
    CHECK(!a.opened && bytes_taken() == 0);
}

/* ---- in the middle of a step ---- */

typedef struct failure {
    cudaError_t error;
    uint32_t ranks, victim;
    uint32_t at;                  /* layers, over all steps, before the device fails */
    uint32_t layers;              /* seen */
    status seen[2];
    char sentence[2][STATUS_TEXT_MAX];
    uint32_t tokens;
} failure;

static void count_layer(void *context) {
    failure *f = context;
    if (f->layers++ == f->at) cuda_sim_fail_next(f->error);
}

static const uint32_t prompt[] = {2, 30, 40, 50, 60, 70, 80};

/* Whatever is called after the failure says the same again. */
static void check_later_calls(instance *in, const char *sentence) {
    backend *b = in->device;
    float x = 0;
    void *p = NULL;
    plan again = {0};
    plan_add_open(&again)->params = driver_greedy(1);
    for (int kind = 0; kind < KV_KINDS; kind++) plan_add_page(&again, 0, (kv_kind)kind, 0, kind == KV_FULL ? 0 : 1);
    plan_span *s = plan_add_span(&again);
    *s = (plan_span){.count = 7, .next_token = PLAN_NO_TOKEN, .draw = true, .logits = PLAN_LOGITS_LAST};
    s->first_input = plan_add_tokens(&again, prompt, 7);
    for (int i = 0; i < 2; i++) {
        CHECK_STATUS(runner_step(in->run, &again, NULL, NULL), ST_INTERNAL);
        CHECK_SENTENCE(sentence);
    }
    plan_close(&again);
    CHECK_STATUS(b->ops->finish(b), ST_INTERNAL);
    CHECK_SENTENCE(sentence);
    CHECK_STATUS(b->ops->get(b, &x, &x, sizeof x), ST_INTERNAL);
    CHECK_SENTENCE(sentence);
    CHECK(b->ops->alloc(b, 256, "a test", &p) != ST_OK && !p);
}

static status fail_body(comm *ranks, void *context) {
    failure *f = context;
    instance in;
    uint32_t me = comm_rank(ranks);
    bool victim = me == f->victim;
    TRY(instance_open(&in, &(instance_options){.model_path = DENSE,
                                               .ranks = ranks,
                                               .gpu = gpu_cuda(),
                                               .device = DEVICE_CUDA,
                                               .threads = 1,
                                               .context = 128,
                                               .slots = 2,
                                               .rows_max = 64,
                                               .alive = victim ? count_layer : NULL,
                                               .alive_context = f}));
    driver_request r = driver_prompt(prompt, 7, 20);
    f->seen[me] = driver_run(&in, ranks, &r, me == 0);
    snprintf(f->sentence[me], sizeof f->sentence[me], "%s", status_text());
    if (me == 0) f->tokens = r.out_count;
    if (f->ranks == 1 && f->seen[me] != ST_OK) check_later_calls(&in, f->sentence[me]);
    if (f->seen[me] != ST_OK) comm_abort(ranks);
    instance_close(&in);
    if (me == 0) driver_free(&r, 1);
    return f->seen[me] == ST_OK ? ST_OK : fail(f->seen[me], "%s", f->sentence[me]);
}

static void check_failure(cudaError_t error, const char *name, const char *cause, uint32_t at, uint32_t ranks, uint32_t victim) {
    failure f = {.error = error, .ranks = ranks, .victim = victim, .at = at};
    char said[4096];
    log_capture_begin(); /* exchanges that end warn about it */
    status st = comm_fork_run(&(comm_fork_options){.ranks = ranks, .threads = true}, fail_body, &f);
    log_capture_end(said, sizeof said);
    CHECK_THAT(f.seen[victim] == ST_INTERNAL && st != ST_OK, "%s at layer %u: %s: %s", name, at, status_name(f.seen[victim]),
               f.sentence[victim]);
    char gpu[64];
    snprintf(gpu, sizeof gpu, "GPU %u (Simulated GPU, 0000:1%u:00.0): ", victim, victim);
    const char *parts[] = {gpu, cause, name};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        CHECK_THAT(strstr(f.sentence[victim], parts[i]), "\"%s\" is not in \"%s\"", parts[i], f.sentence[victim]);
    if (ranks > 1) {
        uint32_t other = 1 - victim;
        CHECK_THAT(f.seen[other] == ST_PEER, "%s: the other rank's end is %s: %s", name, status_name(f.seen[other]),
                   f.sentence[other]);
    }
    for (uint32_t i = 0; i < ranks; i++) {
        CHECK(cudaSetDevice((int)i) == cudaSuccess || i == victim);
        /* What another rank may still read, after exchanges that broke, stays until the process ends. */
        CHECK_THAT(cuda_sim_bytes_taken() == 0 || ranks > 1, "%s: %zu bytes stayed", name, cuda_sim_bytes_taken());
        cudaDeviceReset();
    }
}

/* Of four layers a step: while the prompt is read, while a step is recorded, and in one that is run again. */
TEST(fails_in_a_step) {
    check_failure(cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "ECC could not correct", 2, 1, 0);
    check_failure(cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "reached memory that is not its own", 9, 1, 0);
    check_failure(cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "dmesg", 12, 1, 0);
    /* The device works again. */
    attempt a = {.device = {DEVICE_CUDA}};
    CHECK_STATUS(attempt_open(&a, 1), ST_OK);
}

TEST(fails_among_ranks) {
    setenv("CUDA_SIM_DEVICES", "2", 1);
    for (uint32_t victim = 0; victim < 2; victim++)
        check_failure(cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "ECC could not correct", 9, 2, victim);
    unsetenv("CUDA_SIM_DEVICES");
}
#endif

int main(void) {
    log_open("test", LOG_WARN);
    RUN(refused_anywhere);
#ifdef GEMMAD_CUDA_SIM
    RUN(no_device);
    RUN(too_old);
    RUN(more_ranks_than_devices);
    RUN(ranks_that_disagree);
    RUN(out_of_memory);
    RUN(fails_in_a_step);
    RUN(fails_among_ranks);
#endif
    return test_result();
}
