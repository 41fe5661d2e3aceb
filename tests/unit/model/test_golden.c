/* The golden models on the CPU (tests/golden_check.h), at 1, 2, 4 and 8 ranks where the query heads divide. */
#include "tests/golden_check.h"

static void check_model(const char *model, const char *config_name, uint32_t heads) {
    for (uint32_t ranks = 1; ranks <= (TEST_SANITIZED ? 2 : heads); ranks *= 2) {
        golden_case g = {.model = model, .config_name = config_name, .ranks = ranks};
        CHECK_STATUS(
            comm_fork_run(&(comm_fork_options){.ranks = ranks, .threads = TEST_RANKS_AS_THREADS}, golden_body, &g),
            ST_OK);
    }
}

TEST(dense) { check_model("dense", NULL, 8); }
TEST(dense_old_dialect) { check_model("dense", "config.old-dialect.json", 8); }
TEST(dense_realheads) { check_model("dense-realheads", NULL, 4); }
TEST(moe) { check_model("moe", NULL, 8); }
TEST(moe_128x8) { check_model("moe-128x8", NULL, 4); }
TEST(e2b) { check_model("e2b", NULL, 8); }
TEST(e4b) { check_model("e4b", NULL, 4); }

int main(void) {
    RUN(dense);
    RUN(moe);
    RUN(e2b);
    if (TEST_SANITIZED) return test_result();
    RUN(dense_old_dialect);
    RUN(dense_realheads);
    RUN(moe_128x8);
    RUN(e4b);
    return test_result();
}
