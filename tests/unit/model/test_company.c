/* Same answer whatever the company (company.h): weights as stored and in float32, and 8-bit keys and values. */
#include "tests/unit/model/company.h"

TEST(dense_q8_kv) { check_kv("golden/dense", GOLDEN("dense"), WEIGHTS_AUTO, true, 8); }
TEST(dense_as_stored) { check("golden/dense", GOLDEN("dense"), WEIGHTS_AUTO, 8); }
TEST(moe_as_stored) { check("golden/moe", GOLDEN("moe"), WEIGHTS_AUTO, 8); }
TEST(e2b_as_stored) { check("golden/e2b", GOLDEN("e2b"), WEIGHTS_AUTO, 8); }
TEST(dense_f32) { check("golden/dense", GOLDEN("dense"), WEIGHTS_F32, 8); }
TEST(realheads_as_stored) { check("golden/dense-realheads", GOLDEN("dense-realheads"), WEIGHTS_AUTO, 4); }
TEST(moe_f32) { check("golden/moe", GOLDEN("moe"), WEIGHTS_F32, 8); }
TEST(e4b_f32) { check("golden/e4b", GOLDEN("e4b"), WEIGHTS_F32, 4); }

int main(void) {
    RUN(dense_q8_kv);
    RUN(dense_as_stored);
    RUN(moe_as_stored);
    RUN(e2b_as_stored);
    if (TEST_SANITIZED) return test_result();
    RUN(dense_f32);
    RUN(realheads_as_stored);
    RUN(moe_f32);
    RUN(e4b_f32);
    return test_result();
}
