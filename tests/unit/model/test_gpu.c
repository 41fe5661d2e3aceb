/* Which ranks have a GPU of their own, by what the launcher shows each. */
#include <string.h>

#include "shard/model/gpu.h"
#include "tests/test.h"

enum { RANKS = 4 };

static __thread gpu_sight shown; /* ranks are threads */
static gpu_sight look(void) { return shown; }

typedef struct setting {
    gpu_sight sight[RANKS];
    bool blind[RANKS]; /* it computes on CPUs */
    bool own[RANKS];
} setting;

static status body(comm *ranks, void *context) {
    static const gpu_provider provider = {.look = look};
    const setting *s = context;
    uint32_t me = comm_rank(ranks);
    bool own;
    shown = s->sight[me];
    TRY(gpu_is_own(ranks, s->blind[me] ? NULL : &provider, &own));
    CHECK_THAT(own == s->own[me], "rank %u", me);
    return ST_OK;
}

static void check(const setting *s) {
    setting copy = *s;
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = RANKS, .threads = true}, body, &copy), ST_OK);
}

TEST(a_gpu_that_nobody_else_sees_is_ones_own) {
    check(&(setting){.sight = {{1, "a"}, {1, "b"}, {1, "c"}, {1, "d"}}, .own = {true, true, true, true}});
    check(&(setting){.sight = {{1, "a"}, {1, "b"}, {1, "b"}, {1, "d"}}, .own = {true, false, false, true}});
    /* All of a machine's are numbered among its ranks. */
    check(&(setting){.sight = {{4, "a"}, {4, "a"}, {4, "a"}, {4, "a"}}});
    check(&(setting){.sight = {{1, "a"}, {2, "a"}, {1, "b"}, {2, "c"}}, .own = {false, false, true, false}});
    /* One whose id is not known may be anybody's, and a rank on CPUs has none. */
    check(&(setting){.sight = {{1, ""}, {1, ""}, {1, "c"}, {0, ""}}, .own = {false, false, true, false}});
    check(&(setting){.sight = {{1, "a"}, {1, "a"}, {1, "c"}, {1, "d"}}, .blind = {false, true, false, false},
                     .own = {true, false, true, true}});
}

int main(void) {
    RUN(a_gpu_that_nobody_else_sees_is_ones_own);
    return test_result();
}
