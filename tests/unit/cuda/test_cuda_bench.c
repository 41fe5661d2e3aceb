/* `bench prefill` and `bench decode` on a device: figures that can be checked are right, those that cannot are there. */
#include <jansson.h>
#include <math.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "shard/bench/bench.h"
#include "shard/gpu/cuda_provider.h"
#include "tests/test.h"

#define DENSE TEST_DATA "/golden/dense-realheads"
#define MOE TEST_DATA "/golden/moe-128x8"

/* Runs it with standard output in a file, and returns what is there. */
static json_t *figures(const bench_options *o) {
    char path[] = "/tmp/test_cuda_bench-XXXXXX";
    int file = mkstemp(path), before = dup(STDOUT_FILENO);
    unlink(path);
    fflush(stdout);
    dup2(file, STDOUT_FILENO);
    status st = comm_fork_run(&(comm_fork_options){.ranks = o->ranks, .threads = true}, bench_rank, (void *)o);
    fflush(stdout);
    dup2(before, STDOUT_FILENO);
    close(before);
    CHECK_STATUS(st, ST_OK);
    json_error_t error;
    lseek(file, 0, SEEK_SET);
    json_t *root = json_loadfd(file, 0, &error);
    CHECK_THAT(root, "%s", error.text);
    close(file);
    return root;
}

static bench_options options(const char *model, bool decode, bool on_gpu) {
    return (bench_options){.decode = decode, .model = model, .ranks = 1, .threads = 1, .comm = "fork", .weights = "q8", .kv = "auto",
                           .device = on_gpu ? "cuda" : "cpu", .read_bytes = 1 << 20, .prompt = 40, .batch = 2, .generate = 4,
                           .repeat = 1, .json = true, .gpu = gpu_cuda(), .began_ns = clock_now_ns()};
}

static double number(const json_t *root, const char *name) { return json_number_value(json_object_get(root, name)); }

static void check_there(const json_t *root) {
    static const char *const positive[] = {"step_ms", "steps", "weight_bytes", "weight_bytes_per_token", "weight_gb_per_s",
                                           "read_bandwidth_gb_per_s", "read_bandwidth_bytes", "bandwidth_share", "load_s",
                                           "first_token_s"};
    for (size_t i = 0; i < sizeof positive / sizeof *positive; i++)
        CHECK_THAT(isfinite(number(root, positive[i])) && number(root, positive[i]) > 0, "%s is %g", positive[i],
                   number(root, positive[i]));
    double share = number(root, "weight_gb_per_s") / number(root, "read_bandwidth_gb_per_s");
    CHECK_THAT(fabs(number(root, "bandwidth_share") / share - 1) < 1e-5, "%g, not %g", number(root, "bandwidth_share"), share);
    const char *device = json_string_value(json_object_get(root, "device"));
    CHECK_THAT(device && !strncmp(device, "cuda ", 5), "%s", device);
    CHECK(json_is_true(json_object_get(root, "operators_waited_for")));
    json_t *operators = json_object_get(root, "operators");
    static const char *const named[] = {"qkv", "attention_out", "head"};
    for (size_t i = 0; i < sizeof named / sizeof *named; i++)
        CHECK_THAT(number(operators, named[i]) > 0, "no time in %s", named[i]);
}

/* What the CPU's back end counts call by call, the runner's count has to come to. */
static void check_bytes(const char *model, bool decode, double bound) {
    bench_options o = options(model, decode, true);
    json_t *gpu = figures(&o);
    o = options(model, decode, false);
    json_t *cpu = figures(&o);
    if (gpu && cpu) {
        check_there(gpu);
        double a = number(gpu, "weight_bytes_per_token"), b = number(cpu, "weight_bytes_per_token");
        CHECK_THAT(fabs(a / b - 1) <= bound, "%s %s: %.0f bytes a token, on the CPU %.0f", model, decode ? "decode" : "prefill", a,
                   b);
        CHECK(number(gpu, "steps") == number(cpu, "steps"));
        CHECK_THAT(fabs(number(gpu, "weight_bytes") / number(cpu, "weight_bytes") - 1) < 0.02, "%g and %g bytes of weights",
                   number(gpu, "weight_bytes"), number(cpu, "weight_bytes"));
    }
    json_decref(gpu);
    json_decref(cpu);
}

TEST(dense) {
    check_bytes(DENSE, true, 0);
    check_bytes(DENSE, false, 0);
}
/* The router's choices are another rounding's: an expert more or less. */
TEST(mixture) { check_bytes(MOE, true, 0.05); }

TEST(two_ranks) {
    bench_options o = options(DENSE, true, true);
    o.ranks = 2;
    json_t *two = figures(&o);
    o.ranks = 1;
    o.no_graphs = true;
    json_t *one = figures(&o);
    if (two && one) {
        CHECK(number(two, "ranks") == 2);
        CHECK_THAT(fabs(number(two, "weight_bytes_per_token") / number(one, "weight_bytes_per_token") - 1) < 0.1,
                   "%g bytes a token, of one rank %g", number(two, "weight_bytes_per_token"), number(one, "weight_bytes_per_token"));
        CHECK(number(two, "collective_ms") > 0);
    }
    json_decref(two);
    json_decref(one);
}

int main(void) {
    log_open("test", LOG_ERROR);
    setenv("CUDA_SIM_DEVICES", "2", 1);
    setenv("CUDA_SIM_MEMORY", "1500000000", 1); /* keys and values are given what there is, and it is cleared */
    if (gpu_cuda()->count() == 0) test_skip("there is no GPU that CUDA can use");
    RUN(dense);
    RUN(mixture);
    if (gpu_cuda()->count() >= 2 && !TEST_SANITIZED) RUN(two_ranks);
    return test_result();
}
