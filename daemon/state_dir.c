#include "daemon/state_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

static status make_folders(char *path) {
    for (char *p = path + 1;; p++) {
        if (*p && *p != '/') continue;
        char was = *p;
        *p = 0;
        if (mkdir(path, 0700) != 0 && errno != EEXIST)
            return fail_errno(ST_IO, "cannot make the state directory %s", path);
        *p = was;
        if (!was) return ST_OK;
    }
}

static status check_folder(const char *path) {
    struct stat info;
    if (stat(path, &info) != 0) return fail_errno(ST_IO, "state directory %s", path);
    if (!S_ISDIR(info.st_mode)) return fail(ST_IO, "state directory %s is not a directory", path);
    /* Engine secrets lie in it: whoever may rename what is there could put others in their place. */
    if (info.st_uid != geteuid() && geteuid() != 0)
        return fail(ST_IO, "state directory %s belongs to user %u, this is user %u", path,
                    (unsigned)info.st_uid, (unsigned)geteuid());
    if (info.st_mode & (S_IWGRP | S_IWOTH))
        return fail(ST_IO, "state directory %s may be written by others (mode %03o)", path,
                    (unsigned)info.st_mode & 0777);
    return ST_OK;
}

static status take_lock(state_dir *d) {
    char *path = file_join(d->path, "lock"), text[32] = "";
    status st = ST_OK;
    /* Close-on-exec: an engine that outlives gemmad must not hold its lock. */
    d->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (d->lock < 0) {
        st = fail_errno(ST_IO, "%s", path);
    } else if (flock(d->lock, LOCK_EX | LOCK_NB) != 0) {
        bool taken = errno == EWOULDBLOCK;
        ssize_t n = taken ? pread(d->lock, text, sizeof text - 1, 0) : -1;
        text[n > 0 ? strcspn(text, "\n") : 0] = 0;
        if (taken)
            st = fail(ST_IN_USE, "state directory %s is used by gemmad process %s; --state names another",
                      d->path, text[0] ? text : "(starting)");
        else st = fail_errno(ST_IO, "cannot lock %s", path);
    } else {
        int n = snprintf(text, sizeof text, "%d\n", (int)getpid());
        if (ftruncate(d->lock, 0) != 0 || pwrite(d->lock, text, (size_t)n, 0) != n)
            st = fail_errno(ST_IO, "%s", path);
    }
    free(path);
    return st;
}

status state_dir_open(state_dir *d, const char *path) {
    *d = (state_dir){.lock = -1};
    char *copy = memory_copy_string(path);
    status st;
    if (!*copy) {
        st = fail(ST_INVALID, "--state is empty");
        goto fail;
    }
    TRY_OR_FAIL(make_folders(copy));
    TRY_OR_FAIL(check_folder(copy));
    d->path = realpath(copy, NULL);
    if (!d->path) {
        st = fail_errno(ST_IO, "state directory %s", copy);
        goto fail;
    }
    TRY_OR_FAIL(take_lock(d));
    free(copy);
    return ST_OK;
fail:
    free(copy);
    state_dir_close(d);
    return st;
}

void state_dir_close(state_dir *d) {
    if (d->lock >= 0) close(d->lock); /* the file stays: removing it would let two processes lock two files */
    free(d->path);
    *d = (state_dir){.lock = -1};
}
