/* gemmad --keeper --record FILE --id ID --gemmad PID --log FILE --socket FILE --secret-file FILE
 *        --scratch DIR -- COMMAND…
 *
 * The launcher's parent. It lives in a session of its own, so that the end of gemmad, or of its terminal, is
 * not the engine's; it is the reaper of everything below it, so that nothing of the engine outlives it,
 * however often a launcher forked; and it writes down how the launcher ended. One thread, asleep in
 * sigtimedwait. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/engine/directory.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/process.h"
#include "daemon/engine/record.h"

enum {
    EXIT_USAGE = 2,
    EXIT_NOT_RUN = 127,
    TERM_MS = 5000,      /* from SIGTERM to the launcher until SIGKILL to everything */
    STRAGGLER_MS = 2000, /* the same for what outlives the launcher */
    KILL_AGAIN_MS = 200, /* a process that forks while it is killed is found the next time */
};

typedef struct keeper {
    engine_record record;
    const char *record_file;
    char **command;
    sigset_t signals;
    bool launcher_ended;
    uint64_t kill_at_ns; /* 0: nobody is to be killed */
} keeper;

static bool copy_argument(char *out, size_t size, const char *value) {
    int n = snprintf(out, size, "%s", value);
    return n >= 0 && (size_t)n < size;
}

static bool parse(keeper *k, int argc, char **argv) {
    engine_record *r = &k->record;
    int i = 1;
    if (i < argc && !strcmp(argv[i], "--keeper")) i++;
    for (; i + 1 < argc && strcmp(argv[i], "--") != 0; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        bool good = true;
        if (!strcmp(name, "--record")) k->record_file = value;
        else if (!strcmp(name, "--id")) good = copy_argument(r->id, sizeof r->id, value);
        else if (!strcmp(name, "--gemmad")) r->gemmad.pid = (pid_t)atoi(value);
        else if (!strcmp(name, "--log")) good = copy_argument(r->log, sizeof r->log, value);
        else if (!strcmp(name, "--socket")) good = copy_argument(r->socket, sizeof r->socket, value);
        else if (!strcmp(name, "--secret-file"))
            good = copy_argument(r->secret_file, sizeof r->secret_file, value);
        else if (!strcmp(name, "--scratch")) good = copy_argument(r->scratch, sizeof r->scratch, value);
        else good = false;
        if (!good) return false;
    }
    if (i + 1 >= argc || strcmp(argv[i], "--") != 0) return false;
    k->command = argv + i + 1;
    return k->record_file && r->log[0] && r->gemmad.pid > 0;
}

/* Own session; log instead of a terminal; none of gemmad's files, or its listening sockets would outlive
 * it. */
static status detach(keeper *k) {
    (void)setsid(); /* fails when gemmad has started us as a session's leader already */
    int null = open("/dev/null", O_RDONLY), log = open(k->record.log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (null < 0 || log < 0) return fail_errno(ST_IO, "%s", k->record.log);
    if (dup2(null, STDIN_FILENO) < 0 || dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0)
        return fail_errno(ST_IO, "dup2");
    if (close_range(STDERR_FILENO + 1, ~0U, 0) != 0) return fail_errno(ST_IO, "close_range");
    if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) return fail_errno(ST_IO, "prctl(PR_SET_CHILD_SUBREAPER)");
    /* Core files belong beside the log. */
    char folder[sizeof k->record.log];
    strcpy(folder, k->record.log);
    char *slash = strrchr(folder, '/');
    if (slash && slash > folder) {
        *slash = 0;
        if (chdir(folder) != 0) return fail_errno(ST_IO, "%s", folder);
    }
    return ST_OK;
}

static void write_record(const keeper *k) {
    if (record_write(k->record_file, &k->record) != ST_OK) log_error("engine record: %s", status_text());
}

static _Noreturn void become_launcher(const keeper *k, pid_t parent, int recorded) {
    char byte;
    while (read(recorded, &byte, 1) < 0 && errno == EINTR) continue;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* SIGTERM and not SIGKILL: mpirun then ends its ranks and removes its files. */
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != parent) _exit(EXIT_NOT_RUN);
    execvp(k->command[0], k->command);
    log_error("cannot run %s: %s", k->command[0], strerror(errno));
    _exit(EXIT_NOT_RUN);
}

/* The launcher begins only once the record names it: whatever runs can be found by the next gemmad. */
static status start_launcher(keeper *k) {
    pid_t self = getpid();
    int recorded[2];
    if (pipe2(recorded, O_CLOEXEC) != 0) return fail_errno(ST_IO, "pipe");
    pid_t child = fork();
    if (child == 0) {
        close(recorded[1]);
        become_launcher(k, self, recorded[0]);
    }
    status st = child < 0 ? fail_errno(ST_IO, "fork") : ST_OK;
    if (st == ST_OK) {
        k->record.launcher = (record_process){.pid = child, .start_time = process_start_time(child)};
        write_record(k);
    }
    close(recorded[0]);
    close(recorded[1]);
    return st;
}

/* Everyone who ended. False: nobody is left. */
static bool reap(keeper *k) {
    for (;;) {
        int how;
        pid_t pid = waitpid(-1, &how, WNOHANG);
        if (pid < 0 && errno == EINTR) continue;
        if (pid < 0) return false;
        if (pid == 0) return true;
        if (pid != k->record.launcher.pid || k->launcher_ended) continue;
        k->launcher_ended = true;
        k->record.exit_code = WIFSIGNALED(how) ? 128 + WTERMSIG(how) : WEXITSTATUS(how);
    }
}

static void end_within(keeper *k, uint64_t ms) {
    uint64_t at = clock_now_ns() + ms * 1000000;
    if (!k->kill_at_ns || at < k->kill_at_ns) k->kill_at_ns = at;
}

static int wait_for_signal(const keeper *k) {
    if (!k->kill_at_ns) return sigwaitinfo(&k->signals, NULL);
    uint64_t now = clock_now_ns();
    uint64_t left = k->kill_at_ns > now ? k->kill_at_ns - now : 0;
    struct timespec wait = {(time_t)(left / 1000000000), (long)(left % 1000000000)};
    return sigtimedwait(&k->signals, NULL, &wait);
}

static void keep(keeper *k) {
    bool stragglers_told = false;
    for (;;) {
        int number = wait_for_signal(k);
        if (!reap(k)) return;
        if (k->launcher_ended && !stragglers_told) {
            stragglers_told = true;
            process_signal_descendants(getpid(), SIGTERM);
            end_within(k, STRAGGLER_MS);
        }
        if (number > 0 && number != SIGCHLD) {
            log_info("keeper: told to end the engine (signal %d)", number);
            if (!k->launcher_ended) kill(k->record.launcher.pid, SIGTERM);
            end_within(k, TERM_MS);
        }
        if (k->kill_at_ns && clock_now_ns() >= k->kill_at_ns) {
            uint32_t n = process_signal_descendants(getpid(), SIGKILL);
            if (n) log_warn("keeper: %u processes of the engine had to be killed", n);
            k->kill_at_ns = clock_now_ns() + (uint64_t)KILL_AGAIN_MS * 1000000;
        }
    }
}

int keeper_main(int argc, char **argv) {
    static keeper k;
    log_open("keeper", LOG_INFO);
    if (!parse(&k, argc, argv)) {
        log_error("usage: gemmad --keeper --record FILE --gemmad PID --log FILE … -- COMMAND… (started by "
                  "gemmad only)");
        return EXIT_USAGE;
    }
    sigemptyset(&k.signals);
    static const int handled[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGQUIT};
    for (size_t i = 0; i < sizeof handled / sizeof *handled; i++) sigaddset(&k.signals, handled[i]);
    sigprocmask(SIG_BLOCK, &k.signals, NULL);
    k.record.gemmad.start_time = process_start_time(k.record.gemmad.pid);
    k.record.keeper = (record_process){.pid = getpid(), .start_time = process_start_time(getpid())};
    if (detach(&k) != ST_OK || start_launcher(&k) != ST_OK) {
        log_error("%s", status_text());
        return EXIT_NOT_RUN;
    }
    keep(&k);
    directory_remove_scratch(k.record.scratch);
    k.record.ended = true;
    write_record(&k);
    log_info("keeper: the launcher ended with status %d", k.record.exit_code);
    return k.record.exit_code;
}
