#include "ctl/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "ctl/client.h"

enum { POLL_MS = 100 };

typedef struct child {
    pid_t pid;
    int in, out; /* our ends; -1: closed */
} child;

static void close_end(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

/* said: where the reason goes when the program cannot be run; closed by its start. */
static void become(const child_options *o, int in, int out, int said) {
    signal(SIGPIPE, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    setpgid(0, 0);
    if (dup2(in, 0) >= 0 && dup2(out, 1) >= 0 && (!o->both || dup2(out, 2) >= 0))
        execvp(o->argv[0], (char *const *)(uintptr_t)o->argv);
    int code = errno;
    (void)!write(said, &code, sizeof code);
    _exit(127);
}

static status open_pipes(int pipes[3][2], const char *program) {
    for (int i = 0; i < 3; i++)
        if (pipe2(pipes[i], O_CLOEXEC) != 0) {
            status st = fail_errno(ST_IO, "a pipe for %s", program);
            while (i-- > 0) close(pipes[i][0]), close(pipes[i][1]);
            return st;
        }
    return ST_OK;
}

static status start(child *c, const child_options *o) {
    int pipes[3][2], code = 0;
    TRY(open_pipes(pipes, o->argv[0]));
    c->pid = fork();
    if (c->pid == 0) become(o, pipes[0][0], pipes[1][1], pipes[2][1]);
    if (c->pid > 0) setpgid(c->pid, c->pid); /* whoever of the two comes first */
    status st = c->pid < 0 ? fail_errno(ST_NO_MEMORY, "%s is not started", o->argv[0]) : ST_OK;
    close(pipes[0][0]), close(pipes[1][1]), close(pipes[2][1]);
    if (st == ST_OK && read(pipes[2][0], &code, sizeof code) == sizeof code) {
        (void)waitpid(c->pid, NULL, 0);
        errno = code;
        st = fail_errno(ST_NOT_FOUND, "%s cannot be run", o->argv[0]);
    }
    close(pipes[2][0]);
    c->in = pipes[0][1], c->out = pipes[1][0];
    fcntl(c->in, F_SETFL, O_NONBLOCK);
    if (st != ST_OK) close_end(&c->in), close_end(&c->out);
    return st;
}

static void feed(child *c, const child_options *o, size_t *sent) {
    ssize_t n =
        *sent < o->input_bytes ? write(c->in, (const char *)o->input + *sent, o->input_bytes - *sent) : 0;
    if (n > 0) *sent += (size_t)n;
    /* A program that does not want its input may close it. */
    if (*sent == o->input_bytes || (n < 0 && errno != EAGAIN && errno != EINTR)) close_end(&c->in);
}

static status drain(child *c, const child_options *o, strbuf *out) {
    char block[16384];
    ssize_t n = read(c->out, block, sizeof block);
    if (n > 0) strbuf_add(out, block, (size_t)n);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) close_end(&c->out);
    return out->full ? fail(ST_FORMAT, "%s wrote more than %zu bytes", o->argv[0], out->max) : ST_OK;
}

static status talk(child *c, const child_options *o, strbuf *out, int *state) {
    uint64_t begin_ns = clock_now_ns();
    size_t sent = 0;
    for (bool ended = false; !ended || c->out >= 0;) {
        if (!ended) ended = waitpid(c->pid, state, WNOHANG) == c->pid;
        if (client_interrupt()) return fail(ST_CANCELLED, "interrupted");
        if (o->timeout_ms && clock_now_ns() - begin_ns > (uint64_t)o->timeout_ms * 1000000)
            return fail(ST_TIMEOUT, "%s was not done within %g s", o->argv[0], o->timeout_ms / 1e3);
        struct pollfd ends[] = {{c->out, POLLIN, 0}, {c->in, POLLOUT, 0}};
        (void)poll(ends, 2, ended ? 0 : POLL_MS / 10);
        if (ends[1].revents) feed(c, o, &sent);
        if (ends[0].revents) TRY(drain(c, o, out));
        else if (ended) break; /* something that it left behind holds the pipe */
    }
    return ST_OK;
}

static void stop(const child *c) {
    kill(-c->pid, SIGTERM);
    nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
    kill(-c->pid, SIGKILL);
    (void)waitpid(c->pid, NULL, 0);
}

status child_run(const child_options *o, strbuf *out, int *exit_code) {
    child c = {.in = -1, .out = -1};
    struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
    int state = 0;
    sigaction(SIGPIPE, &ignore, &before);
    status st = start(&c, o);
    if (st == ST_OK) {
        st = talk(&c, o, out, &state);
        if (st != ST_OK) stop(&c);
    }
    close_end(&c.in);
    close_end(&c.out);
    sigaction(SIGPIPE, &before, NULL);
    if (st != ST_OK) return st;
    *exit_code = WIFSIGNALED(state) ? 128 + WTERMSIG(state) : WEXITSTATUS(state);
    return ST_OK;
}
