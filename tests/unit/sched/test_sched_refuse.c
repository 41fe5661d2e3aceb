/* What the scheduler refuses. */
#include "tests/unit/sched/sched_world.h"

TEST(what_cannot_run_is_refused_with_both_numbers) {
    static world w;
    open_world(&w, 3, 60, false);
    submit_plain(&w, 0, 500, 200);
    CHECK(w.r[0].ended && w.r[0].error == ST_INVALID);
    CHECK_SENTENCE("prompt of 500 tokens and max_tokens 200 exceed the context of 600");
    submit(&w, (sched_request){.id = 1, .prompt_count = 5, .token_count = 10, .sampling = plain(5)});
    CHECK(w.r[1].ended && w.r[1].error == ST_INVALID);
    w.o.slabs = 3;
    reopen(&w);
    submit_plain(&w, 2, 500, 20);
    CHECK(w.r[2].ended && w.r[2].error == ST_KV_FULL);
    CHECK_SENTENCE("more than all 3 slabs hold");
    close_world(&w);
}

int main(void) {
    RUN(what_cannot_run_is_refused_with_both_numbers);
    return test_result();
}
