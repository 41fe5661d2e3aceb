#include "ctl/own_daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/shape.h"
#include "ctl/beside.h"
#include "ctl/client.h"
#include "ctl/terminal.h"
#include "proto/gemmad.pb-c.h"

enum { ARGUMENTS_MAX = 32, STOP_SECONDS = 30, LOG_TAIL_BYTES = 600, CALL_MS = 5000, STEP_MS = 100 };

struct own_daemon {
    char *folder, *address, *log, *model;
    pid_t pid; /* 0: not running */
    uint64_t start_ns, ready_ns;
};

typedef struct words {
    char *at[ARGUMENTS_MAX];
    int count;
} words;

static void add_word(words *w, const char *text) { w->at[w->count++] = memory_copy_string(text); }

static void add_option(words *w, const char *name, const char *value) {
    if (!value) return;
    add_word(w, name);
    add_word(w, value);
}

static void add_number(words *w, const char *name, uint32_t value) {
    char text[16];
    snprintf(text, sizeof text, "%u", value);
    if (value) add_option(w, name, text);
}

static status write_file(const char *path, const void *bytes, size_t n) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return fail_errno(ST_IO, "%s", path);
    status st = write(fd, bytes, n) == (ssize_t)n ? ST_OK : fail_errno(ST_IO, "%s", path);
    close(fd);
    return st;
}

/* A model directory whose weights the shards fill in themselves. */
static status write_shape(own_daemon *d, const own_daemon_options *o) {
    strbuf config = {0};
    TRY(shape_write_config(o->shape, o->layers, &config));
    d->model = file_join(d->folder, o->shape);
    char *file = file_join(d->model, "config.json"), *mark = file_join(d->model, "random-weights");
    status st = mkdir(d->model, 0700) == 0 ? ST_OK : fail_errno(ST_IO, "%s", d->model);
    if (st == ST_OK) st = write_file(file, config.data, config.size);
    if (st == ST_OK) st = write_file(mark, "", 0);
    strbuf_close(&config);
    free(file);
    free(mark);
    return st;
}

static status start(own_daemon *d, const own_daemon_options *o) {
    char *program = NULL, *state = file_join(d->folder, "state");
    words w = {0};
    status st = beside_path(&program, "gemmad");
    if (st != ST_OK) goto fail;
    add_word(&w, program);
    add_option(&w, "--model", d->model ? d->model : o->model);
    add_option(&w, "--listen", d->address);
    add_option(&w, "--state", state);
    add_number(&w, "--ranks", o->ranks);
    add_number(&w, "--threads", o->threads);
    add_option(&w, "--weights", o->weights);
    add_option(&w, "--kv", o->kv);
    add_option(&w, "--expert-layout", o->expert_layout);
    add_number(&w, "--context", o->context);
    d->start_ns = clock_now_ns();
    pid_t parent = getpid();
    d->pid = fork();
    if (d->pid < 0) {
        d->pid = 0;
        st = fail_errno(ST_NO_MEMORY, "gemmad is not started");
        goto fail;
    }
    if (d->pid == 0) {
        int log = open(d->log, O_WRONLY | O_CREAT | O_APPEND, 0600), none = open("/dev/null", O_RDONLY);
        /* It must not outlive a gemmactl that was killed; nor take its terminal's interrupt before gemmactl says so. */
        if (log < 0 || none < 0 || prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != parent) _exit(1);
        setsid();
        dup2(none, 0), dup2(log, 1), dup2(log, 2);
        execv(program, w.at);
        _exit(127);
    }
fail:
    for (int i = 0; i < w.count; i++) free(w.at[i]);
    free(state);
    free(program);
    return st;
}

static status last_words(const own_daemon *d, const char *what) {
    char *text = NULL;
    size_t n = 0;
    if (file_read_all(d->log, 64 << 20, &text, &n) != ST_OK) return fail(ST_UNAVAILABLE, "gemmad %s", what);
    while (n && text[n - 1] == '\n') text[--n] = 0;
    status st = fail(ST_UNAVAILABLE, "gemmad %s; its last words:\n%s", what,
                     n > LOG_TAIL_BYTES ? text + n - LOG_TAIL_BYTES : text);
    free(text);
    return st;
}

/* "" while nobody answers. */
static void ask_state(const own_daemon *d, char *state, size_t bytes) {
    Gemmad__V1__GetStatusRequest request = GEMMAD__V1__GET_STATUS_REQUEST__INIT;
    ProtobufCMessage *m = NULL;
    client *c = NULL;
    *state = 0;
    if (client_open(&c, d->address, CALL_MS) != ST_OK) return;
    if (client_call(c, "/gemmad.v1.Control/GetStatus", &request.base,
                    &gemmad__v1__get_status_response__descriptor, CALL_MS, &m) == ST_OK) {
        const Gemmad__V1__GetStatusResponse *s = (void *)m;
        snprintf(state, bytes, "%s", s->state ? s->state : "");
        protobuf_c_message_free_unpacked(m, NULL);
    }
    client_close(c);
}

static status wait_ready(own_daemon *d, uint32_t seconds) {
    for (;;) {
        char state[32], line[64];
        if (waitpid(d->pid, NULL, WNOHANG) == d->pid) {
            d->pid = 0;
            return last_words(d, "ended");
        }
        ask_state(d, state, sizeof state);
        d->ready_ns = clock_now_ns();
        uint64_t waited_s = (d->ready_ns - d->start_ns) / 1000000000u;
        if (!strcmp(state, "ready")) break;
        if (!strcmp(state, "failed")) return last_words(d, "failed");
        if (client_interrupt()) return fail(ST_CANCELLED, "interrupted");
        if (waited_s >= seconds) return last_words(d, "was not ready in time");
        snprintf(line, sizeof line, "starting gemmad, %llu s", (unsigned long long)waited_s);
        terminal_progress(line);
        nanosleep(&(struct timespec){.tv_nsec = STEP_MS * 1000000L}, NULL);
    }
    terminal_progress(NULL);
    return ST_OK;
}

status own_daemon_open(own_daemon **out, const own_daemon_options *o) {
    const char *base = getenv("TMPDIR");
    strbuf folder = {0}, address = {0};
    status st;
    own_daemon *d = memory_alloc(sizeof *d);
    strbuf_add_format(&folder, "%s/gemmactl-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(folder.data)) {
        st = fail_errno(ST_IO, "%s", folder.data);
        strbuf_close(&folder);
        free(d);
        return st;
    }
    d->folder = folder.data;
    d->log = file_join(d->folder, "log");
    strbuf_add_format(&address, "unix:%s/s", d->folder);
    d->address = address.data;
    if (o->shape) TRY_OR_FAIL(write_shape(d, o));
    TRY_OR_FAIL(start(d, o));
    TRY_OR_FAIL(wait_ready(d, o->wait_s));
    *out = d;
    return ST_OK;
fail:
    own_daemon_close(d);
    return st;
}

const char *own_daemon_address(const own_daemon *d) { return d->address; }

double own_daemon_start_seconds(const own_daemon *d) { return (double)(d->ready_ns - d->start_ns) / 1e9; }

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *place) {
    (void)info, (void)kind, (void)place;
    (void)remove(path);
    return 0;
}

void own_daemon_close(own_daemon *d) {
    if (!d) return;
    uint64_t end_ns = clock_now_ns() + STOP_SECONDS * UINT64_C(1000000000);
    if (d->pid) kill(d->pid, SIGTERM);
    while (d->pid && waitpid(d->pid, NULL, WNOHANG) == 0) {
        if (clock_now_ns() > end_ns) kill(d->pid, SIGKILL);
        nanosleep(&(struct timespec){.tv_nsec = STEP_MS * 1000000L}, NULL);
    }
    nftw(d->folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(d->model);
    free(d->address);
    free(d->log);
    free(d->folder);
    free(d);
}
