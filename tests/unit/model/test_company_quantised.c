/* Same answer whatever the company (company.h): quantised weights. */
#include "tests/unit/model/company.h"

TEST(dense_q8) { check("golden/dense", GOLDEN("dense"), WEIGHTS_Q8, 8); }
TEST(moe_q4) { check("golden/moe", GOLDEN("moe"), WEIGHTS_Q4, 8); }
TEST(dense_q4) { check("golden/dense", GOLDEN("dense"), WEIGHTS_Q4, 8); }
TEST(moe_q8) { check("golden/moe", GOLDEN("moe"), WEIGHTS_Q8, 8); }
TEST(e2b_q4) { check("golden/e2b", GOLDEN("e2b"), WEIGHTS_Q4, 8); }
TEST(e4b_q8) { check("golden/e4b", GOLDEN("e4b"), WEIGHTS_Q8, 4); }

int main(void) {
    RUN(dense_q8);
    RUN(moe_q4);
    if (TEST_SANITIZED) return test_result();
    RUN(dense_q4);
    RUN(moe_q8);
    RUN(e2b_q4);
    RUN(e4b_q8);
    return test_result();
}
