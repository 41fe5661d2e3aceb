/* A real supervisor, keeper and link against tests/unit/engine/fake_shard.c, which speaks through the real
 * other end. */
#include "tests/unit/engine/engine_world.h"

TEST(answers_come_token_by_token) {
    seen s;
    engine *e = start(&s, "", 1, NULL);
    answer early = {0};
    CHECK_STATUS(ask(e, &early, 3, -1), ST_UNAVAILABLE);
    CHECK_SENTENCE("starting");
    CHECK(until(&s.ready));
    static answer a[8];
    memset(a, 0, sizeof a);
    for (int i = 0; i < 8; i++) CHECK_STATUS(ask(e, &a[i], 20 + (uint32_t)i, i % 2 ? 2 : -1), ST_OK);
    for (int i = 0; i < 8; i++) {
        CHECK(until(&a[i].ended));
        CHECK_THAT(a[i].ended == 1 && !strcmp(a[i].reason, "length") && a[i].count == 20 + (uint32_t)i,
                   "%s %u %s", a[i].reason, a[i].count, a[i].text);
        CHECK(a[i].token[0] == 122 && a[i].token[19] == 141 && a[i].started == 1 && a[i].prefilled == 4);
        CHECK(a[i].tops == (i % 2 ? 2 * a[i].count : 0) && a[i].prompt_logprobs == (i % 2 ? 3 : 0));
    }
    answer wrong = {0};
    CHECK_STATUS(ask(e, &wrong, 5000, -1), ST_INVALID);
    CHECK_SENTENCE("max_tokens is 5000, allowed are 1 to 4096");
    run_for(1200);
    engine_status now;
    engine_get_status(e, &now);
    CHECK(now.state == ENGINE_READY && now.rank_count == 1 && (pid_t)now.rank[0].pid == noted_pid("rank0"));
    CHECK(now.generated_tokens == 188 && now.steps > 0 && now.rank[0].weight_bytes_read == 11 &&
          now.running == 0);
    finish(e, &s, true);
    CHECK(s.failed == 0);
}

TEST(a_grammar_travels_once_for_requests_in_a_row) {
    static const struct {
        uint64_t id;
        size_t bytes;
        uint32_t first; /* 122 are the tokens of the prompt */
    } list[] = {{7, 10, 132}, {7, 10, 622}, {0, 0, 122},  {7, 10, 622},
                {8, 20, 142}, {7, 10, 132}, {0, 30, 152}, {0, 30, 152}};
    enum { COUNT = sizeof list / sizeof *list };
    seen s;
    vocabulary *v;
    vocabulary_token token = {(const uint8_t *)"a", 1};
    CHECK_STATUS(vocabulary_make(&v, &token, 1), ST_OK);
    words = v;
    for (int round = 0; round < 2; round++) { /* another engine knows nothing of the first one's */
        engine *e = start(&s, "", 1, NULL);
        CHECK(until(&s.ready));
        answer a[COUNT] = {0};
        for (int i = 0; i < COUNT; i++) {
            grammar_id = list[i].id;
            grammar_bytes = list[i].bytes;
            a[i].cancel_at = i == 0; /* what it brought stays for the next one */
            CHECK_STATUS(ask(e, &a[i], 20, -1), ST_OK);
        }
        grammar_id = grammar_bytes = 0;
        for (int i = 0; i < COUNT; i++) {
            CHECK(until(&a[i].ended));
            CHECK_THAT(a[i].count > 0 && a[i].token[0] == list[i].first, "request %d: token %u", i,
                       a[i].token[0]);
        }
        finish(e, &s, true);
    }
    words = NULL;
    vocabulary_close(v);
}

TEST(a_cancelled_request_ends_so) {
    seen s;
    engine *e = start(&s, "", 1, NULL);
    CHECK(until(&s.ready));
    answer a = {.cancel_at = 5}, b = {0};
    CHECK_STATUS(ask(e, &a, 4000, -1), ST_OK);
    CHECK_STATUS(ask(e, &b, 30, -1), ST_OK);
    CHECK(until(&a.ended) && until(&b.ended));
    CHECK(!strcmp(a.reason, "cancelled") && a.count >= 5 && a.count < 64);
    CHECK(!strcmp(b.reason, "length") && b.count == 30);
    engine_cancel(e, a.id);
    engine_cancel(e, 12345);
    finish(e, &s, true);
}

TEST(a_paused_request_waits_and_others_do_not) {
    seen s;
    engine *e = start(&s, "", 1, NULL);
    CHECK(until(&s.ready));
    answer a = {.pause_at = 5}, b = {0};
    CHECK_STATUS(ask(e, &a, 60, -1), ST_OK);
    CHECK_STATUS(ask(e, &b, 61, -1), ST_OK);
    CHECK(until(&b.ended));
    CHECK(b.count == 61 && a.count >= 5 && a.count < 60 && a.ended == 0);
    uint32_t before = a.count;
    run_for(1300);
    engine_status now;
    engine_get_status(e, &now);
    CHECK(a.count == before && now.paused == 1 && now.running == 1 && now.counted_ms > 0);
    engine_pause(e, a.id, false);
    CHECK(until(&a.ended));
    CHECK(!strcmp(a.reason, "length") && a.count == 60);
    engine_pause(e, a.id, true); /* it has just ended */
    finish(e, &s, true);
    CHECK(s.failed == 0);
}

TEST(draining_lets_requests_finish) {
    seen s;
    engine *e = start(&s, "", 1, NULL);
    CHECK(until(&s.ready));
    answer a = {0}, b = {0};
    CHECK_STATUS(ask(e, &a, 60, -1), ST_OK);
    engine_stop(e, true);
    CHECK(s.state == ENGINE_DRAINING);
    CHECK_STATUS(ask(e, &b, 3, -1), ST_UNAVAILABLE);
    CHECK_SENTENCE("draining");
    CHECK(until(&s.closed));
    CHECK(a.ended == 1 && !strcmp(a.reason, "length") && a.count == 60);
    engine_close(e);
    CHECK(is_gone("rank0") && s.failed == 0);
}

TEST(stopping_at_once_fails_requests) {
    seen s;
    engine *e = start(&s, "", 1, NULL);
    CHECK(until(&s.ready));
    answer a = {0};
    CHECK_STATUS(ask(e, &a, 4000, -1), ST_OK);
    run_for(50);
    engine_stop(e, true);
    engine_stop(e, false);
    CHECK(a.ended == 1 && a.st == ST_UNAVAILABLE);
    CHECK(until(&s.closed));
    engine_close(e);
    CHECK(is_gone("rank0"));
    /* Also at any moment of its start, from before the keeper is one to when the leader dials. */
    for (uint64_t ms = 0; ms <= 40; ms += 8) {
        e = start(&s, "", 1, NULL);
        run_for(ms);
        engine_stop(e, true);
        CHECK(until(&s.closed));
        engine_close(e);
        CHECK(noted_pid("rank0") == 0 || is_gone("rank0"));
    }
}

/* Starts an engine that ends badly when it is asked something, and gives its failure. */
static void expect_failure(const char *mode, uint32_t ranks, const char *part) {
    seen s;
    engine *e = start(&s, mode, ranks, &quick);
    CHECK(until(&s.ready));
    answer a = {0};
    CHECK_STATUS(ask(e, &a, 40, -1), ST_OK);
    uint64_t begin = clock_now_ns();
    CHECK(until(&a.ended));
    CHECK(clock_now_ns() - begin < UINT64_C(6000000000));
    CHECK_THAT(a.ended == 1 && a.st == ST_UNAVAILABLE && strstr(a.text, part), "%s: %s", mode, a.text);
    CHECK(until(&s.failed) && s.failed == 1);
    answer late = {0};
    CHECK_STATUS(ask(e, &late, 3, -1), ST_UNAVAILABLE);
    CHECK_SENTENCE(part);
    engine_status now;
    engine_get_status(e, &now);
    CHECK(now.state == ENGINE_FAILED && strstr(now.failure, part));
    finish(e, &s, true);
    CHECK(late.ended == 0 && a.ended == 1);
}

TEST(a_killed_leader_fails_its_requests) { expect_failure("die", 1, "killed by signal 9"); }
TEST(the_watchdogs_sentence_reaches_the_client) {
    expect_failure("bite", 1, "an exchange with rank 1 did not end within 20 ms");
}
TEST(a_leader_says_why_it_gives_up) { expect_failure("give-up", 1, "rank 1 holds another checkpoint"); }
TEST(a_leader_that_says_too_much_is_ended) {
    expect_failure("overrun", 1, "tokens: 1 for request 1, 0 are left");
}

TEST(a_stopped_leader_is_noticed) {
    seen s;
    engine *e = start(&s, "stop", 1, &quick);
    CHECK(until(&s.failed));
    engine_status now;
    engine_get_status(e, &now);
    CHECK_THAT(strstr(now.failure, "silent for 2500 ms"), "%s", now.failure);
    finish(e, &s, false);
}

TEST(a_refusal_is_told_in_the_shards_words) {
    seen s;
    engine *e = start(&s, "refuse", 1, &quick);
    CHECK(until(&s.failed));
    engine_status now;
    engine_get_status(e, &now);
    CHECK_THAT(strstr(now.failure, "5 ranks do not divide 8 query heads") &&
                   strstr(now.failure, "exit status 3"),
               "%s", now.failure);
    finish(e, &s, true);
}

TEST(another_model_than_planned_is_refused) {
    seen s;
    engine *e = start(&s, "wrong-model", 1, &quick);
    CHECK(until(&s.failed));
    engine_status now;
    engine_get_status(e, &now);
    CHECK_THAT(strstr(now.failure, "checkpoint decaf, the plan read c0ffee"), "%s", now.failure);
    CHECK(s.ready == 0);
    finish(e, &s, true);
}

TEST(a_leader_that_never_comes_is_given_up) {
    seen s;
    engine *e = start(&s, "mute", 1, &quick);
    CHECK(until(&s.failed));
    engine_status now;
    engine_get_status(e, &now);
    CHECK_THAT(strstr(now.failure, "no leader said hello within 1500 ms"), "%s", now.failure);
    finish(e, &s, true);
}

TEST(nothing_outlives_a_stubborn_engine) {
    seen s;
    engine *e = start(&s, "stubborn", 1, &quick);
    CHECK(until(&s.ready));
    for (int i = 0; i < 250 && noted_pid("orphan") == 0; i++) run_for(20);
    CHECK(noted_pid("orphan") > 0 && !is_gone("orphan"));
    engine_stop(e, false);
    CHECK(until(&s.closed));
    engine_close(e);
    CHECK(is_gone("rank0") && is_gone("orphan"));
}

TEST(a_launcher_that_cannot_be_run_is_named) {
    char saved[4096];
    snprintf(saved, sizeof saved, "%s", shard);
    snprintf(shard, sizeof shard, "%s", "/etc/passwd");
    seen s;
    engine *e = start(&s, "", 1, &quick);
    CHECK(until(&s.failed));
    engine_status now;
    engine_get_status(e, &now);
    CHECK_THAT(strstr(now.failure, "cannot run /etc/passwd: Permission denied"), "%s", now.failure);
    engine_stop(e, true);
    CHECK(until(&s.closed));
    engine_close(e);
    snprintf(shard, sizeof shard, "%s", saved);
}

/* ---- strangers at the socket ---- */

static int dial(void) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof at.sun_path, "%s/engines/tiny@0/link.sock", state_dir);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct stat info;
    CHECK(connect(fd, (struct sockaddr *)&at, sizeof at) == 0);
    CHECK(stat(at.sun_path, &info) == 0 && (info.st_mode & 0777) == 0600);
    return fd;
}

/* gemmad hangs up on the bytes, and says nothing. */
static void expect_hang_up(const void *bytes, size_t n) {
    int fd = dial();
    char byte;
    CHECK(n == 0 || send(fd, bytes, n, MSG_NOSIGNAL) == (ssize_t)n);
    ssize_t got = -1;
    for (int i = 0; i < 100 && got < 0; i++) {
        run_for(20);
        got = recv(fd, &byte, 1, MSG_DONTWAIT);
        if (got < 0 && errno != EAGAIN) got = 0; /* reset: it had bytes of ours unread */
    }
    CHECK(got == 0);
    close(fd);
}

TEST(strangers_do_not_get_in) {
    seen s;
    engine *e = start(
        &s, "mute", 1,
        &(engine_times){
            .first_hello_ms = 60000, .prove_ms = 300, .silence_ms = 2500, .end_ms = 1000, .kill_ms = 9000});
    expect_hang_up("", 0); /* says nothing for 300 ms */
    expect_hang_up("\xff\xff\xff\xff", 4);
    expect_hang_up("\1\0\1\0xxxx", 8); /* 64 KiB + 1: more than a stranger may send */
    static const char http[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    expect_hang_up(http, sizeof http - 1);
    expect_hang_up("\4\0\0\0\xff\xff\xff\xff", 8);
    uint8_t shown[256] = {1}, *bytes;
    size_t n;
    Gemmad__Engine__Hello h = GEMMAD__ENGINE__HELLO__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_HELLO;
    f.hello = &h;
    h.has_version = h.has_start_unix_ms = true;
    h.version = 1;
    h.state = "loading";
    CHECK_STATUS(frame_pack(&f, &bytes, &n), ST_OK);
    expect_hang_up(bytes, n); /* a good hello, and no secret before it */
    CHECK(n <= sizeof shown - 32);
    memcpy(shown + 32, bytes, n);
    free(bytes);
    expect_hang_up(shown, 32 + n);
    char secret[4200];
    snprintf(secret, sizeof secret, "%s/engines/tiny@0/secret", state_dir);
    FILE *file = fopen(secret, "r");
    CHECK(file && fread(shown, 32, 1, file) == 1 && fclose(file) == 0);
    for (int bit = 0; bit < 256; bit += 37) { /* right but for one bit */
        shown[bit / 8] ^= (uint8_t)(1 << bit % 8);
        expect_hang_up(shown, 32 + n);
        shown[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    expect_hang_up(shown, 31);
    shown[35] = 0xff; /* who has the secret must still speak as a leader does */
    expect_hang_up(shown, 32 + n);
    int fds[12];
    for (int i = 0; i < 12; i++) fds[i] = dial(), run_for(5);
    run_for(700);
    char byte;
    for (int i = 0; i < 12; i++) {
        CHECK(recv(fds[i], &byte, 1, MSG_DONTWAIT) == 0);
        close(fds[i]);
    }
    CHECK(s.failed == 0 && s.ready == 0); /* the engine goes on waiting for its own leader */
    finish(e, &s, true);
}

/* ---- the launcher, and a gemmad that dies ---- */

TEST(two_ranks_under_mpirun) {
    if (system("command -v mpirun > /dev/null") != 0) {
        printf("mpirun is not installed: not tested\n");
        return;
    }
    seen s;
    engine *e = start(&s, "", 2, NULL);
    CHECK(until(&s.ready));
    answer a = {0};
    CHECK_STATUS(ask(e, &a, 10, -1), ST_OK);
    CHECK(until(&a.ended) && a.count == 10);
    for (int i = 0; i < 250 && noted_pid("rank1") == 0; i++) run_for(20); /* nobody waits for it but we */
    pid_t other = noted_pid("rank1");
    CHECK(other > 0 && process_start_time(other) != 0);
    finish(e, &s, false);
    CHECK(is_gone("rank1"));
    expect_failure("die", 2, "signal 9");
    CHECK(noted_pid("rank1") == 0 || is_gone("rank1"));
}

/* In another process, which is then killed: an engine, ready. */
static int run_engine(char **argv) {
    snprintf(state_dir, sizeof state_dir, "%s", argv[2]);
    snprintf(shard, sizeof shard, "%s", argv[3]);
    seen s;
    uv_loop_init(&loop);
    uv_timer_init(&loop, &waker);
    (void)start(&s, "", 1, NULL);
    if (!until(&s.ready) || write(STDOUT_FILENO, "r", 1) != 1) return 1;
    for (;;) run_for(1000);
}

static pid_t start_other_gemmad(void) {
    int ends[2];
    char byte = 0;
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        execl("/proc/self/exe", "test_engine", "--run-engine", state_dir, shard, (char *)NULL);
        _exit(1);
    }
    close(ends[1]);
    CHECK(read(ends[0], &byte, 1) == 1 && byte == 'r');
    close(ends[0]);
    return child;
}

TEST(an_engine_outlives_its_gemmad_for_the_grace_time) {
    pid_t other = start_other_gemmad();
    kill(other, SIGKILL);
    CHECK(waitpid(other, NULL, 0) == other);
    CHECK(!is_gone("rank0"));
    uint64_t begin = clock_now_ns();
    for (int i = 0; i < 200 && !is_gone("rank0"); i++) run_for(20);
    CHECK(is_gone("rank0") && clock_now_ns() - begin > UINT64_C(700000000));
    for (int i = 0; i < 100 && scratch_is_left(); i++) run_for(20);
    CHECK(!scratch_is_left());
}

TEST(a_new_gemmad_ends_what_a_dead_one_left_and_respects_a_living_one) {
    pid_t other = start_other_gemmad(), old = noted_pid("rank0");
    engine_options o = {
        .id = "tiny/0", .model_path = TEST_DATA, .state_dir = state_dir, .shard_program = shard};
    model_facts f = facts_for(1);
    seen s = {0};
    engine_watch w = {on_state, on_closed, &s};
    engine *e = NULL;
    CHECK_STATUS(engine_open(&e, &loop, &o, &f, &w), ST_IN_USE);
    CHECK_SENTENCE("is run by gemmad process");
    CHECK(process_start_time(old) != 0);
    kill(other, SIGKILL);
    CHECK(waitpid(other, NULL, 0) == other);
    e = start(&s, "", 1, NULL);
    CHECK(process_start_time(old) == 0);
    CHECK(until(&s.ready) && noted_pid("rank0") != old);
    finish(e, &s, true);
}

TEST(the_end_of_a_keeper_ends_the_engine) {
    seen s;
    engine *e = start(&s, "", 1, NULL);
    CHECK(until(&s.ready));
    engine_record r;
    char path[128];
    snprintf(path, sizeof path, "%s/engines/tiny@0/engine.json", state_dir);
    CHECK_STATUS(record_read(path, &r), ST_OK);
    CHECK(!r.ended && process_is_alive(r.keeper.pid, r.keeper.start_time) &&
          r.launcher.pid == noted_pid("rank0"));
    CHECK(r.gemmad.pid == getpid() && !strcmp(r.id, "tiny/0"));
    kill(r.keeper.pid, SIGKILL);
    CHECK(until(&s.failed));
    for (int i = 0; i < 100 && !is_gone("rank0"); i++) run_for(20);
    finish(e, &s, true);
}

TEST(a_deep_state_directory_gets_a_short_socket) {
    char saved[64], deep[4096];
    snprintf(saved, sizeof saved, "%s", state_dir);
    snprintf(deep, sizeof deep, "%s/%0100d", state_dir, 7);
    seen s = {0};
    engine_options o = {.id = "a b/../0", .model_path = TEST_DATA, .state_dir = deep, .shard_program = shard};
    setenv("FAKE_SHARD", "", 1);
    model_facts f = facts_for(1);
    engine_watch w = {on_state, on_closed, &s};
    engine *e = NULL;
    forget_pids();
    CHECK_STATUS(engine_open(&e, &loop, &o, &f, &w), ST_OK);
    CHECK(until(&s.ready));
    strcat(deep, "/engines/a%20b@..@0/secret");
    struct stat info;
    CHECK(stat(deep, &info) == 0 && info.st_size == 32 && (info.st_mode & 0777) == 0600);
    engine_stop(e, true);
    CHECK(until(&s.closed));
    engine_close(e);
    CHECK(access(deep, F_OK) != 0 && is_gone("rank0"));
}

TEST(engines_that_cannot_be_opened) {
    engine_options o = {
        .id = "tiny/0", .model_path = TEST_DATA, .state_dir = "/dev/null/x", .shard_program = shard};
    model_facts f = facts_for(1);
    engine_watch w = {0};
    engine *e = NULL;
    CHECK_STATUS(engine_open(&e, &loop, &o, &f, &w), ST_IO);
    o.state_dir = state_dir;
    o.launcher = "external";
    CHECK_STATUS(engine_open(&e, &loop, &o, &f, &w), ST_UNSUPPORTED);
    o.launcher = NULL;
    o.keeper_program = "/nonexistent/gemmad";
    CHECK_STATUS(engine_open(&e, &loop, &o, &f, &w), ST_IO);
    CHECK_SENTENCE("/nonexistent/gemmad");
    run_for(50);
    CHECK(!e);
}

static uint64_t own_cpu_us(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

TEST(idle_costs_nothing) {
    enum { IDLE_MS = 4000 };
    seen s;
    engine *e = start(&s, "", 1, NULL);
    CHECK(until(&s.ready));
    run_for(1100);
    engine_status now;
    engine_get_status(e, &now);
    uint64_t before = own_cpu_us(), shard_before = now.rank_count ? now.rank[0].cpu_ms : 0;
    uv_timer_start(&waker, on_wake, IDLE_MS, 0);
    while (uv_is_active((uv_handle_t *)&waker)) uv_run(&loop, UV_RUN_ONCE);
    uint64_t used = own_cpu_us() - before;
    engine_get_status(e, &now);
    uint64_t shard_used = now.rank[0].cpu_ms - shard_before;
    CHECK_THAT(used < IDLE_MS * 10, "%llu us", (unsigned long long)used);
    CHECK_THAT(shard_used <= IDLE_MS / 100, "%llu ms", (unsigned long long)shard_used);
    finish(e, &s, true);
}

static int remove_tree(const char *path) {
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    return system(command);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "--keeper")) return keeper_main(argc, argv);
    log_open("test", LOG_ERROR + 1);
    if (argc > 3 && !strcmp(argv[1], "--run-engine")) return run_engine(argv);
    ssize_t n = readlink("/proc/self/exe", shard, sizeof shard - 16);
    if (n <= 0) return 1;
    shard[n] = 0;
    strcpy(strrchr(shard, '/') + 1, "fake_shard");
    if (access(shard, X_OK) != 0) test_skip("fake_shard is not built");
    strcpy(state_dir, "/tmp/gemmad-test-XXXXXX");
    if (!mkdtemp(state_dir)) return 1;
    setenv("FAKE_DIR", state_dir, 1);
    uv_loop_init(&loop);
    uv_timer_init(&loop, &waker);
    RUN(answers_come_token_by_token);
    RUN(a_grammar_travels_once_for_requests_in_a_row);
    RUN(a_cancelled_request_ends_so);
    RUN(a_paused_request_waits_and_others_do_not);
    RUN(draining_lets_requests_finish);
    RUN(stopping_at_once_fails_requests);
    RUN(a_killed_leader_fails_its_requests);
    RUN(the_watchdogs_sentence_reaches_the_client);
    RUN(a_leader_says_why_it_gives_up);
    RUN(a_leader_that_says_too_much_is_ended);
    RUN(a_stopped_leader_is_noticed);
    RUN(a_refusal_is_told_in_the_shards_words);
    RUN(another_model_than_planned_is_refused);
    RUN(a_leader_that_never_comes_is_given_up);
    RUN(nothing_outlives_a_stubborn_engine);
    RUN(a_launcher_that_cannot_be_run_is_named);
    RUN(strangers_do_not_get_in);
    RUN(two_ranks_under_mpirun);
    RUN(an_engine_outlives_its_gemmad_for_the_grace_time);
    RUN(a_new_gemmad_ends_what_a_dead_one_left_and_respects_a_living_one);
    RUN(the_end_of_a_keeper_ends_the_engine);
    RUN(a_deep_state_directory_gets_a_short_socket);
    RUN(engines_that_cannot_be_opened);
    RUN(idle_costs_nothing);
    run_for(50);
    uv_close((uv_handle_t *)&waker, NULL);
    uv_run(&loop,
           UV_RUN_NOWAIT); /* and not DEFAULT: an engine that a failed test left would keep it for ever */
    if (uv_loop_close(&loop) != 0) printf("handles are left in the loop\n"), test_failed++;
    if (remove_tree(state_dir) != 0) printf("cannot remove %s\n", state_dir);
    return test_result();
}
