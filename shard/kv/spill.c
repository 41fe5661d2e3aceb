#include "shard/kv/spill.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/invariant.h"
#include "base/memory.h"
#include "base/sha256.h"

enum { NAME_BYTES = SPILL_KEY_BYTES * 2 + 32, STALE_SECONDS = 600 };

struct spill_store {
    int dir;
    uint32_t rank;
    uint64_t page_bytes[KV_KINDS];
    char path[PATH_MAX]; /* for sentences */
};

typedef struct file_header {
    char magic[8];
    uint32_t kind, rank;
    uint64_t bytes;
    uint8_t key[SPILL_KEY_BYTES], parent[SPILL_KEY_BYTES];
    uint32_t token[KV_TOKENS_PER_PAGE];
    uint64_t sum[4];
    uint8_t check[32]; /* SHA-256 of everything before it */
} file_header;

static const char magic[8] = "gspill01";

_Static_assert(sizeof(file_header) <= SPILL_HEADER_BYTES, "the header's place");

/* Four sums side by side, each a chain of steps that map different states to different states: one changed word always
 * changes its sum. SHA-256 would take longer than the disk. */
static void sum_bytes(const void *bytes, uint64_t n, uint64_t sum[4]) {
    const char *at = bytes;
    uint64_t s[4] = {1, 2, 3, 4};
    for (uint64_t i = 0; i < n; i += sizeof s) {
        uint64_t word[4] = {0};
        memcpy(word, at + i, n - i < sizeof word ? n - i : sizeof word);
        for (int k = 0; k < 4; k++) {
            s[k] = (s[k] ^ word[k]) * 0x9E3779B97F4A7C15u;
            s[k] ^= s[k] >> 32;
        }
    }
    memcpy(sum, s, sizeof s);
}

static void check_of(const file_header *h, uint8_t out[32]) {
    sha256 s;
    sha256_begin(&s);
    sha256_add(&s, h, offsetof(file_header, check));
    sha256_end(&s, out);
}

static void name_of(kv_kind kind, const uint8_t *key, char out[NAME_BYTES]) {
    char hex[65];
    sha256_hex(key, hex);
    snprintf(out, NAME_BYTES, "%s.%s", hex, kind == KV_FULL ? "full" : "sliding");
}

/* ---- open ---- */

/* Prompts can be guessed from their cache: nobody else reads it. */
static status make_folder(const char *path) {
    if (mkdir(path, 0700) == 0 || errno == EEXIST) return ST_OK;
    return fail_errno(ST_IO, "--spill: cannot make %s", path);
}

status spill_open(spill_store **out, const char *dir, const char *identity, uint32_t rank,
                  const uint64_t page_bytes[KV_KINDS]) {
    spill_store *s = memory_alloc(sizeof *s);
    char *of_identity = file_join(dir, identity);
    status st;
    *s = (spill_store){.dir = -1, .rank = rank};
    memcpy(s->page_bytes, page_bytes, sizeof s->page_bytes);
    int n = snprintf(s->path, sizeof s->path, "%s/%u", of_identity, rank);
    if (n < 0 || (size_t)n >= sizeof s->path) {
        st = fail(ST_INVALID, "--spill: a path of %d bytes, at most %d", n, PATH_MAX - 1);
        goto fail;
    }
    TRY_OR_FAIL(make_folder(dir));
    TRY_OR_FAIL(make_folder(of_identity));
    TRY_OR_FAIL(make_folder(s->path));
    s->dir = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->dir < 0) {
        st = fail_errno(ST_IO, "--spill: %s", s->path);
        goto fail;
    }
    free(of_identity);
    *out = s;
    return ST_OK;
fail:
    free(of_identity);
    spill_close(s);
    return st;
}

void spill_close(spill_store *s) {
    if (!s) return;
    if (s->dir >= 0) close(s->dir);
    free(s);
}

/* ---- one page ---- */

static status write_all(spill_store *s, int fd, const char *name, struct iovec *part, int parts) {
    while (parts) {
        ssize_t n = writev(fd, part, parts);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_errno(ST_IO, "%s/%s", s->path, name);
        for (; parts && (size_t)n >= part->iov_len; part++, parts--) n -= (ssize_t)part->iov_len;
        if (parts) {
            part->iov_base = (char *)part->iov_base + n;
            part->iov_len -= (size_t)n;
        }
    }
    return ST_OK;
}

status spill_write(spill_store *s, const spill_page *page, const void *bytes) {
    char name[NAME_BYTES], temporary[NAME_BYTES];
    INVARIANT(page->kind < KV_KINDS);
    union {
        file_header h;
        char bytes[SPILL_HEADER_BYTES];
    } front = {.bytes = {0}};
    uint64_t n = s->page_bytes[page->kind];
    front.h = (file_header){.kind = page->kind, .rank = s->rank, .bytes = n};
    memcpy(front.h.magic, magic, sizeof magic);
    memcpy(front.h.key, page->key, sizeof front.h.key);
    memcpy(front.h.parent, page->parent, sizeof front.h.parent);
    memcpy(front.h.token, page->token, sizeof front.h.token);
    sum_bytes(bytes, n, front.h.sum);
    check_of(&front.h, front.h.check);
    name_of(page->kind, page->key, name);
    snprintf(temporary, sizeof temporary, "new-%ld", (long)getpid());
    int fd = openat(s->dir, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return fail_errno(ST_IO, "%s/%s", s->path, temporary);
    struct iovec part[] = {{&front, sizeof front}, {(void *)(uintptr_t)bytes, n}};
    status st = write_all(s, fd, temporary, part, 2);
    close(fd);
    if (st == ST_OK && renameat(s->dir, temporary, s->dir, name) != 0)
        st = fail_errno(ST_IO, "%s/%s", s->path, name);
    if (st != ST_OK) unlinkat(s->dir, temporary, 0);
    return st;
}

/* The header of an open file, if it is this rank's page of that name and has all its bytes. */
static status read_header(const spill_store *s, int fd, const char *name, file_header *h) {
    struct stat info;
    uint8_t check[32];
    char want[NAME_BYTES];
    TRY(file_read_at(fd, name, 0, h, sizeof *h));
    check_of(h, check);
    if (memcmp(h->magic, magic, sizeof magic) || memcmp(check, h->check, sizeof check))
        return fail(ST_FORMAT, "%s/%s has no whole header", s->path, name);
    if (h->kind >= KV_KINDS || h->rank != s->rank || h->bytes != s->page_bytes[h->kind])
        return fail(ST_FORMAT, "%s/%s holds %llu bytes of kind %u of rank %u", s->path, name,
                    (unsigned long long)h->bytes, h->kind, h->rank);
    name_of(h->kind, h->key, want);
    if (strcmp(want, name)) return fail(ST_FORMAT, "%s/%s holds another page", s->path, name);
    if (fstat(fd, &info) || (uint64_t)info.st_size != SPILL_HEADER_BYTES + h->bytes)
        return fail(ST_FORMAT, "%s/%s is not as long as its page", s->path, name);
    return ST_OK;
}

status spill_read(spill_store *s, kv_kind kind, const uint8_t key[SPILL_KEY_BYTES], void *bytes) {
    char name[NAME_BYTES];
    file_header h;
    uint64_t sum[4];
    name_of(kind, key, name);
    int fd = openat(s->dir, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail_errno(errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s/%s", s->path, name);
    status st = read_header(s, fd, name, &h);
    if (st == ST_OK) st = file_read_at(fd, name, SPILL_HEADER_BYTES, bytes, h.bytes);
    if (st == ST_OK) {
        sum_bytes(bytes, h.bytes, sum);
        if (memcmp(sum, h.sum, sizeof sum)) st = fail(ST_FORMAT, "%s/%s: wrong checksum", s->path, name);
    }
    if (st == ST_OK) (void)futimens(fd, NULL); /* what was used last is kept longest */
    close(fd);
    if (st == ST_FORMAT) unlinkat(s->dir, name, 0);
    return st;
}

void spill_remove(spill_store *s, kv_kind kind, const uint8_t key[SPILL_KEY_BYTES]) {
    char name[NAME_BYTES];
    name_of(kind, key, name);
    unlinkat(s->dir, name, 0);
}

/* ---- all pages ---- */

static int older_first(const void *a, const void *b) {
    const spill_page *x = a, *y = b;
    if (x->used_ns != y->used_ns) return x->used_ns < y->used_ns ? -1 : 1;
    return memcmp(x->key, y->key, sizeof x->key);
}

/* True when the file is a page. */
static bool look_at(const spill_store *s, const char *name, spill_page *out) {
    struct stat info;
    file_header h;
    int fd = openat(s->dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return false;
    bool is_page = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && read_header(s, fd, name, &h) == ST_OK;
    close(fd);
    if (!is_page) return false;
    *out = (spill_page){.kind = h.kind};
    out->used_ns = (uint64_t)info.st_mtim.tv_sec * 1000000000u + (uint64_t)info.st_mtim.tv_nsec;
    memcpy(out->key, h.key, sizeof out->key);
    memcpy(out->parent, h.parent, sizeof out->parent);
    memcpy(out->token, h.token, sizeof out->token);
    return true;
}

static bool is_being_written(const spill_store *s, const char *name) {
    struct stat info;
    return !strncmp(name, "new-", 4) && fstatat(s->dir, name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
           time(NULL) - info.st_mtime < STALE_SECONDS;
}

status spill_list(spill_store *s, spill_page **out, uint32_t *count) {
    uint32_t n = 0, cap = 0;
    spill_page *list = NULL;
    int fd = openat(s->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0) close(fd);
        return fail_errno(ST_IO, "--spill: %s", s->path);
    }
    for (struct dirent *e; (e = readdir(dir)) && n < SPILL_FILES_MAX;) {
        if (e->d_name[0] == '.') continue;
        if (n == cap) {
            cap = cap ? cap * 2 : 64;
            list = memory_grow(list, cap * sizeof *list);
        }
        if (look_at(s, e->d_name, &list[n])) n++;
        else if (!is_being_written(s, e->d_name)) unlinkat(s->dir, e->d_name, 0);
    }
    closedir(dir);
    if (n) qsort(list, n, sizeof *list, older_first);
    *out = list;
    *count = n;
    return ST_OK;
}
