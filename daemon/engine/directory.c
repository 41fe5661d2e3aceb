#include "daemon/engine/directory.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/strbuf.h"
#include "daemon/engine/process.h"
#include "daemon/engine/record.h"

enum { PREVIOUS_END_MS = 10000, PREVIOUS_KILL_MS = 2000 };

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *where) {
    (void)info;
    (void)kind;
    (void)where;
    (void)remove(path); /* what stays is named by the rmdir above it failing; nobody can do more */
    return 0;
}

void directory_remove_scratch(const char *path) {
    const char *slash = strrchr(path, '/');
    struct stat info;
    if (!slash || strncmp(slash + 1, "gemmad-", 7) != 0) return;
    if (lstat(path, &info) != 0 || !S_ISDIR(info.st_mode) || info.st_uid != geteuid()) return;
    if (nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) != 0)
        log_warn("cannot remove %s", path);
}

/* ---- what a dead gemmad left ---- */

static bool wait_for_end(const record_process *p, uint32_t most_ms) {
    for (uint32_t waited = 0; process_is_alive(p->pid, p->start_time); waited += 20) {
        if (waited >= most_ms) return false;
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    return true;
}

static status end_previous(const engine_directory *d) {
    engine_record *r = memory_alloc(sizeof *r);
    status st = record_read(d->record_file, r);
    if (st == ST_NOT_FOUND) {
        st = ST_OK;
        goto fail;
    }
    if (st != ST_OK) {
        log_warn("engine record is of no use: %s", status_text());
        st = ST_OK;
        goto fail;
    }
    record_process *top = process_is_alive(r->keeper.pid, r->keeper.start_time) ? &r->keeper : &r->launcher;
    bool running = process_is_alive(top->pid, top->start_time);
    if (running && process_is_alive(r->gemmad.pid, r->gemmad.start_time)) {
        st = fail(ST_IN_USE, "engine %s is run by gemmad process %d", r->id, (int)r->gemmad.pid);
        goto fail;
    }
    if (running) {
        log_info("engine %s of a gemmad that ended is still there (process %d): ending it", r->id,
                 (int)top->pid);
        kill(top->pid, SIGTERM);
        if (!wait_for_end(top, PREVIOUS_END_MS)) {
            process_signal_descendants(top->pid, SIGKILL);
            kill(top->pid, SIGKILL);
            if (!wait_for_end(top, PREVIOUS_KILL_MS))
                st = fail(ST_IN_USE, "engine %s of a gemmad that ended will not end (process %d)", r->id,
                          (int)top->pid);
        }
    }
    if (st == ST_OK) directory_remove_scratch(r->scratch);
fail:
    free(r);
    return st;
}

/* ---- making it ---- */

static status make_folders(const char *path) {
    char part[PATH_MAX];
    if (strlen(path) >= sizeof part) return fail(ST_INVALID, "%s is too long a path", path);
    strcpy(part, path);
    for (char *p = part + 1;; p++) {
        if (*p && *p != '/') continue;
        char was = *p;
        *p = 0;
        if (mkdir(part, 0700) != 0 && errno != EEXIST) return fail_errno(ST_IO, "%s", part);
        *p = was;
        if (!was) return ST_OK;
    }
}

/* The id as a file name, different for different ids: '/' as '@', what is not plain as %XX. */
static void add_id(strbuf *b, const char *id) {
    for (const char *p = id; *p; p++) {
        bool plain = isalnum((unsigned char)*p) || *p == '-' || *p == '_' || (*p == '.' && p > id);
        if (plain) strbuf_add(b, p, 1);
        else if (*p == '/') strbuf_add_string(b, "@");
        else strbuf_add_format(b, "%%%02X", (unsigned char)*p);
    }
}

static status name_file(char out[PATH_MAX], const char *folder, const char *name) {
    int n = snprintf(out, PATH_MAX, "%s/%s", folder, name);
    return n >= 0 && n < PATH_MAX ? ST_OK : fail(ST_INVALID, "%s is too long a path", folder);
}

static status name_files(engine_directory *d, const char *state_dir, const char *id) {
    strbuf name = {0};
    strbuf_add_format(&name, "%s/engines/", state_dir);
    add_id(&name, id);
    status st = make_folders(strbuf_text(&name));
    if (st == ST_OK && !realpath(strbuf_text(&name), d->path))
        st = fail_errno(ST_IO, "%s", strbuf_text(&name));
    strbuf_close(&name);
    TRY(st);
    TRY(name_file(d->record_file, d->path, "engine.json"));
    TRY(name_file(d->log_file, d->path, "engine.log"));
    return name_file(d->secret_file, d->path, "secret");
}

static status make_secret(engine_directory *d) {
    if (getrandom(d->secret, sizeof d->secret, 0) != (ssize_t)sizeof d->secret)
        return fail_errno(ST_IO, "getrandom");
    /* A new file, so that whoever holds the old one open learns nothing. */
    if (unlink(d->secret_file) != 0 && errno != ENOENT) return fail_errno(ST_IO, "%s", d->secret_file);
    int fd = open(d->secret_file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return fail_errno(ST_IO, "%s", d->secret_file);
    d->has_secret = true;
    ssize_t n = write(fd, d->secret, sizeof d->secret);
    if (close(fd) != 0 || n != (ssize_t)sizeof d->secret) return fail_errno(ST_IO, "%s", d->secret_file);
    return ST_OK;
}

static status make_scratch(engine_directory *d) {
    static const char *const places[] = {"/dev/shm", "/tmp"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(d->scratch, sizeof d->scratch, "%s/gemmad-XXXXXX", places[i]);
        if (mkdtemp(d->scratch)) return ST_OK;
    }
    status st = fail_errno(ST_IO, "%s", d->scratch);
    d->scratch[0] = 0;
    return st;
}

/* A socket's path has at most 107 bytes; a deep state directory leaves no room for ours. */
static status name_socket(engine_directory *d) {
    int n = snprintf(d->socket_path, sizeof d->socket_path, "%s/link.sock", d->path);
    if (n < 0 || (size_t)n >= sizeof d->socket_path)
        snprintf(d->socket_path, sizeof d->socket_path, "%s/link.sock", d->scratch);
    snprintf(d->link_address, sizeof d->link_address, "unix:%s", d->socket_path);
    if (unlink(d->socket_path) != 0 && errno != ENOENT) return fail_errno(ST_IO, "%s", d->socket_path);
    return ST_OK;
}

static void keep_last_log(const engine_directory *d) {
    strbuf old = {0};
    strbuf_add_format(&old, "%s.1", d->log_file);
    if (rename(d->log_file, strbuf_text(&old)) != 0 && errno != ENOENT)
        log_warn("cannot keep %s", d->log_file);
    strbuf_close(&old);
}

status directory_open(engine_directory *d, const char *state_dir, const char *id) {
    *d = (engine_directory){0};
    status st;
    TRY_OR_FAIL(name_files(d, state_dir, id));
    TRY_OR_FAIL(end_previous(d));
    if (unlink(d->record_file) != 0 &&
        errno != ENOENT) { /* nobody shall take it for that of the engine to come */
        st = fail_errno(ST_IO, "%s", d->record_file);
        goto fail;
    }
    keep_last_log(d);
    TRY_OR_FAIL(make_secret(d));
    TRY_OR_FAIL(make_scratch(d));
    TRY_OR_FAIL(name_socket(d));
    return ST_OK;
fail:
    directory_close(d);
    return st;
}

void directory_close(engine_directory *d) {
    if (d->socket_path[0]) unlink(d->socket_path);
    if (d->has_secret) unlink(d->secret_file);
    d->has_secret = false;
    if (d->scratch[0]) directory_remove_scratch(d->scratch);
    explicit_bzero(d->secret, sizeof d->secret);
    d->socket_path[0] = d->scratch[0] = 0;
}
