#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "shard/link/watchdog.h"
#include "tests/test.h"

static void pause_ms(long ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* Runs body in a child, where a bite ends the process; 0 when it ended by itself. */
static int status_of(void (*body)(watchdog *)) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        watchdog *w;
        if (watchdog_open(&w) != ST_OK) _exit(1);
        body(w);
        watchdog_close(w);
        _exit(0);
    }
    int how = 0;
    CHECK(waitpid(child, &how, 0) == child);
    return WIFEXITED(how) ? WEXITSTATUS(how) : -WTERMSIG(how);
}

static void hang(watchdog *w) {
    watchdog_arm(w, "the test's wait", 50);
    pause_ms(5000);
}
static void disarm_in_time(watchdog *w) {
    watchdog_arm(w, "the test's wait", 100);
    watchdog_disarm(w);
    pause_ms(250);
}
static void move_on(watchdog *w) {
    for (int i = 0; i < 12; i++) {
        watchdog_arm(w, "the test's step", 200);
        pause_ms(25);
    }
    watchdog_disarm(w);
}
static void hang_late(watchdog *w) {
    for (int i = 0; i < 1000; i++) {
        watchdog_arm(w, "a step", 60000);
        watchdog_disarm(w);
    }
    watchdog_arm(w, "the last step", 50); /* earlier than the minute for which the watcher sleeps */
    pause_ms(5000);
}
static void rest(watchdog *w) { (void)w; }

TEST(a_deadline_that_passes_ends_the_process) {
    uint64_t begin = clock_now_ns();
    CHECK(status_of(hang) == EXIT_WATCHDOG);
    CHECK(status_of(hang_late) == EXIT_WATCHDOG);
    CHECK(clock_now_ns() - begin < UINT64_C(4000000000));
}

TEST(a_deadline_that_is_met_does_not) {
    CHECK(status_of(disarm_in_time) == 0);
    CHECK(status_of(move_on) == 0);
    CHECK(status_of(rest) == 0);
}

TEST(a_rank_ends_with_its_launcher) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t launcher = fork();
    if (launcher == 0) {
        if (fork() == 0) {
            close(ends[0]);
            if (watchdog_follow_parent() != ST_OK || write(ends[1], "x", 1) != 1) _exit(1);
            for (;;) pause();
        }
        for (;;) pause();
    }
    close(ends[1]);
    char byte;
    CHECK(read(ends[0], &byte, 1) == 1);
    kill(launcher, SIGKILL);
    CHECK(waitpid(launcher, NULL, 0) == launcher);
    CHECK(read(ends[0], &byte, 1) == 0); /* the last writer, the rank, is gone */
    close(ends[0]);
}

int main(void) {
    RUN(a_deadline_that_passes_ends_the_process);
    RUN(a_deadline_that_is_met_does_not);
    RUN(a_rank_ends_with_its_launcher);
    return test_result();
}
