#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

status file_read_all(const char *path, size_t max_bytes, char **out, size_t *size) {
    *out = NULL;
    *size = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail_errno(errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s", path);
    status st = ST_OK;
    char *data = NULL;
    struct stat info;
    if (fstat(fd, &info) != 0) {
        st = fail_errno(ST_IO, "%s", path);
        goto fail;
    }
    if (!S_ISREG(info.st_mode)) {
        st = fail(ST_FORMAT, "%s is not a regular file", path);
        goto fail;
    }
    if ((uint64_t)info.st_size > max_bytes) {
        st = fail(ST_FORMAT, "%s has %lld bytes, at most %zu are allowed", path, (long long)info.st_size, max_bytes);
        goto fail;
    }
    data = memory_alloc((size_t)info.st_size + 1);
    TRY_OR_FAIL(file_read_at(fd, path, 0, data, (size_t)info.st_size));
    *out = data;
    *size = (size_t)info.st_size;
    data = NULL;
fail:
    free(data);
    close(fd);
    return st;
}

status file_read_at(int fd, const char *name, uint64_t offset, void *out, size_t n) {
    char *p = out;
    while (n > 0) {
        ssize_t got = pread(fd, p, n, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail_errno(ST_IO, "%s: reading %zu bytes at %llu", name, n, (unsigned long long)offset);
        if (got == 0)
            return fail(ST_FORMAT, "%s ends before byte %llu, where %zu more are needed", name, (unsigned long long)offset, n);
        p += got;
        offset += (uint64_t)got;
        n -= (size_t)got;
    }
    return ST_OK;
}

status file_write_at(int fd, const char *name, uint64_t offset, const void *bytes, size_t n) {
    enum { AT_ONCE = 8 << 20 };
    const char *p = bytes;
    while (n > 0) {
        ssize_t done = pwrite(fd, p, n < AT_ONCE ? n : AT_ONCE, (off_t)offset);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0)
            return fail_errno(ST_IO, "%s: writing %zu bytes at %llu", name, n, (unsigned long long)offset);
        p += done;
        offset += (uint64_t)done;
        n -= (size_t)done;
    }
    return ST_OK;
}

status file_write_all(const char *path, const void *bytes, size_t n) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return fail_errno(ST_IO, "%s", path);
    status st = file_write_at(fd, path, 0, bytes, n);
    if (st == ST_OK && fsync(fd) != 0) st = fail_errno(ST_IO, "%s", path);
    close(fd);
    return st;
}

char *file_join(const char *dir, const char *name) {
    size_t n = strlen(dir), m = strlen(name);
    char *path = memory_alloc(n + m + 2);
    snprintf(path, n + m + 2, "%s%s%s", dir, n > 0 && dir[n - 1] == '/' ? "" : "/", name);
    return path;
}
