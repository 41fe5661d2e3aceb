/* The golden models through the CUDA back end in float32: the whole engine on a device, with its memory, its recorded
 * steps and, with several ranks on one device, its staged exchanges. */
#include <stdlib.h>

#include "shard/gpu/cuda_provider.h"
#include "tests/golden_check.h"

#ifdef GEMMAD_CUDA_SIM
enum { CASES = 1 }; /* a thread of a kernel is a fiber: a case takes seconds */
#else
enum { CASES = 0 };
#endif

static void check_model(const char *model, uint32_t ranks, bool untapped) {
    golden_case g = {.model = model, .ranks = ranks, .gpu = gpu_cuda(), .untapped = untapped, .cases = CASES};
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = ranks, .threads = true}, golden_body, &g), ST_OK);
}

TEST(one_rank) {
    check_model("dense", 1, false);
    if (TEST_SANITIZED) return;
    check_model("moe", 1, false);
    check_model("e2b", 1, false);
}
TEST(recorded) {
    if (!TEST_SANITIZED) check_model("dense", 1, true);
    check_model("moe", 1, true);
    if (!TEST_SANITIZED) check_model("e2b", 1, true);
}
TEST(several_ranks) {
    check_model("dense", 2, false);
    check_model("moe", 2, false);
    check_model("moe", 4, true);
    check_model("e2b", 2, true);
}
TEST(other_sizes) {
    check_model("dense-realheads", 1, false);
    check_model("moe-128x8", 1, false);
    check_model("e4b", 1, false);
}

int main(void) {
    setenv("CUDA_SIM_MEMORY", "17179869184", 1); /* a context's share is taken off each rank's part */
    setenv("GEMMAD_GPU_SHARE", "1", 1);
    if (gpu_cuda()->count() == 0) test_skip("there is no GPU that CUDA can use");
    RUN(one_rank);
    RUN(recorded);
    if (TEST_SANITIZED) return test_result(); /* of several ranks: test_cuda_ranks */
    RUN(several_ranks);
    RUN(other_sizes);
    return test_result();
}
