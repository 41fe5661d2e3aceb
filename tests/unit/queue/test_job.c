/* Lanes of long jobs: so many at once, clients take turns, and what is cancelled while it waits ends from the loop. */
#include "daemon/queue/job.h"

#include <stdatomic.h>

#include "tests/test.h"

enum { JOBS = 8 };

typedef struct piece {
    job job;
    char name;
    status result;
} piece;

static uv_loop_t loop;
static char order[JOBS + 1];
static atomic_uint running, most_running, begun;

static status run(job *j) {
    unsigned now = atomic_fetch_add(&running, 1) + 1, most = atomic_load(&most_running);
    while (now > most && !atomic_compare_exchange_weak(&most_running, &most, now)) {
    }
    atomic_fetch_add(&begun, 1);
    uv_sleep(2);
    atomic_fetch_sub(&running, 1);
    (void)j;
    return ST_OK;
}

static void done(job *j) {
    piece *p = (piece *)j;
    p->result = j->st;
    size_t n = strlen(order);
    order[n] = p->name;
    order[n + 1] = 0;
}

static void begin(uint32_t most, job_lane *lane, piece *p, const char *clients) {
    *lane = (job_lane){.loop = &loop, .most = most};
    order[0] = 0;
    atomic_store(&begun, 0);
    atomic_store(&most_running, 0);
    for (size_t i = 0; clients[i]; i++) {
        p[i] = (piece){.job = {.run = run, .done = done}, .name = clients[i], .result = ST_INTERNAL};
        const char client[] = {clients[i], 0};
        job_start_in(lane, client, &p[i].job);
    }
}

TEST(clients_take_turns) {
    job_lane lane;
    piece p[JOBS];
    begin(1, &lane, p, "aaaaabbc");
    CHECK(order[0] == 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    /* The first began before others came; from then on each client's next job in turn. */
    CHECK_THAT(!strcmp(order, "aabcabaa"), "order %s", order);
    CHECK(lane.running == 0 && !lane.first);
    for (int i = 0; i < JOBS; i++) CHECK(p[i].result == ST_OK);
}

TEST(no_more_than_so_many_run_at_once) {
    job_lane lane;
    piece p[JOBS];
    begin(2, &lane, p, "abcdefgh");
    CHECK(lane.running == 2);
    uv_run(&loop, UV_RUN_DEFAULT);
    CHECK(strlen(order) == JOBS && atomic_load(&most_running) <= 2);
}

TEST(other_work_passes_a_full_lane) {
    job_lane lane;
    piece p[JOBS], other = {.job = {.run = run, .done = done}, .name = '!'};
    begin(1, &lane, p, "aaaaaaa");
    job_start(&loop, &other.job, false);
    uv_run(&loop, UV_RUN_DEFAULT);
    CHECK_THAT(strchr(order, '!') - order <= 2, "order %s", order);
}

TEST(what_waits_can_be_cancelled) {
    job_lane lane;
    piece p[JOBS];
    begin(1, &lane, p, "aaab");
    job_cancel(&p[1].job);
    job_cancel(&p[3].job);
    job_cancel(&p[3].job);
    CHECK(order[0] == 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    CHECK(strlen(order) == 4);
    CHECK(p[1].result == ST_CANCELLED && p[3].result == ST_CANCELLED && p[2].result == ST_OK);
    CHECK(atomic_load(&begun) <= 2 && lane.running == 0 && !lane.first);
}

int main(void) {
    CHECK(uv_loop_init(&loop) == 0);
    RUN(clients_take_turns);
    RUN(no_more_than_so_many_run_at_once);
    RUN(other_work_passes_a_full_lane);
    RUN(what_waits_can_be_cancelled);
    CHECK(uv_loop_close(&loop) == 0);
    return test_result();
}
