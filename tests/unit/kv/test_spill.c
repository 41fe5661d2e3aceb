/* Pages on disk: what was written is read, and whatever a disk or a person does to a file makes it a miss. */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "shard/kv/spill.h"
#include "tests/test.h"

static const uint64_t page_bytes[KV_KINDS] = {1000, 4096};
static char folder[] = "/tmp/test_spill-XXXXXX";

static spill_page page_of(uint32_t n, kv_kind kind) {
    spill_page p = {.kind = kind};
    memset(p.key, (int)n + 1, sizeof p.key);
    memset(p.parent, (int)n, sizeof p.parent);
    for (uint32_t i = 0; i < KV_TOKENS_PER_PAGE; i++) p.token[i] = n * 100 + i;
    return p;
}

static void bytes_of(uint32_t n, kv_kind kind, uint8_t *out) {
    for (uint64_t i = 0; i < page_bytes[kind]; i++)
        out[i] = (uint8_t)(n * 31 + i * 7 + i / 256 + (uint32_t)kind);
}

static spill_store *open_store(const char *identity, uint32_t rank) {
    spill_store *s = NULL;
    CHECK_STATUS(spill_open(&s, folder, identity, rank, page_bytes), ST_OK);
    return s;
}

static void put(spill_store *s, uint32_t n, kv_kind kind) {
    uint8_t bytes[4096];
    spill_page p = page_of(n, kind);
    bytes_of(n, kind, bytes);
    CHECK_STATUS(spill_write(s, &p, bytes), ST_OK);
}

static status get(spill_store *s, uint32_t n, kv_kind kind) {
    uint8_t got[4096], want[4096];
    spill_page p = page_of(n, kind);
    status st = spill_read(s, kind, p.key, got);
    bytes_of(n, kind, want);
    if (st == ST_OK) CHECK(!memcmp(got, want, page_bytes[kind]));
    return st;
}

static uint32_t list(spill_store *s, spill_page **out) {
    uint32_t n = 0;
    spill_page *all = NULL;
    CHECK_STATUS(spill_list(s, &all, &n), ST_OK);
    if (out) *out = all;
    else free(all);
    return n;
}

static void path_of(uint32_t n, kv_kind kind, char out[512]) {
    int at = snprintf(out, 512, "%s/one/0/", folder);
    for (int i = 0; i < SPILL_KEY_BYTES; i++) at += snprintf(out + at, 512 - (size_t)at, "%02x", n + 1);
    snprintf(out + at, 512 - (size_t)at, ".%s", kind == KV_FULL ? "full" : "sliding");
}

static void empty(const char *path) {
    char child[1024];
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        snprintf(child, sizeof child, "%s/%s", path, e->d_name);
        if (unlink(child)) empty(child), rmdir(child);
    }
    if (dir) closedir(dir);
}

TEST(pages_survive_their_store) {
    spill_store *s = open_store("one", 0);
    for (uint32_t n = 0; n < 3; n++) put(s, n, KV_FULL);
    put(s, 1, KV_SLIDING);
    spill_close(s);
    s = open_store("one", 0);
    for (uint32_t n = 0; n < 3; n++) CHECK_STATUS(get(s, n, KV_FULL), ST_OK);
    CHECK_STATUS(get(s, 1, KV_SLIDING), ST_OK);
    CHECK_STATUS(get(s, 2, KV_SLIDING), ST_NOT_FOUND);
    put(s, 1, KV_FULL); /* again: the same file */
    spill_page *all, want = page_of(2, KV_FULL);
    CHECK(list(s, &all) == 4);
    bool seen = false;
    for (uint32_t i = 0; i < 4; i++) {
        if (memcmp(all[i].key, want.key, sizeof want.key)) continue;
        seen = all[i].kind == KV_FULL && !memcmp(all[i].parent, want.parent, sizeof want.parent) &&
               !memcmp(all[i].token, want.token, sizeof want.token);
    }
    CHECK(seen);
    free(all);
    spill_remove(s, KV_FULL, want.key);
    CHECK_STATUS(get(s, 2, KV_FULL), ST_NOT_FOUND);
    CHECK(list(s, NULL) == 3);
    spill_close(s);
    empty(folder);
}

TEST(engines_and_ranks_have_pages_of_their_own) {
    spill_store *a = open_store("one", 0), *b = open_store("two", 0), *c = open_store("one", 1);
    put(a, 5, KV_FULL);
    CHECK_STATUS(get(b, 5, KV_FULL), ST_NOT_FOUND);
    CHECK_STATUS(get(c, 5, KV_FULL), ST_NOT_FOUND);
    /* One rank's file in another's folder is no page. */
    char from[512], to[600];
    path_of(5, KV_FULL, from);
    snprintf(to, sizeof to, "%s/one/1/%s", folder, strrchr(from, '/') + 1);
    CHECK(link(from, to) == 0);
    CHECK_STATUS(get(c, 5, KV_FULL), ST_FORMAT);
    CHECK_STATUS(get(a, 5, KV_FULL), ST_OK);
    spill_close(a);
    spill_close(b);
    spill_close(c);
    empty(folder);
}

static void flip(const char *path, off_t at) {
    uint8_t byte;
    int fd = open(path, O_RDWR);
    CHECK(pread(fd, &byte, 1, at) == 1);
    byte ^= 1;
    CHECK(pwrite(fd, &byte, 1, at) == 1);
    close(fd);
}

/* Every byte of the header and every seventh of the page. */
TEST(a_flipped_bit_is_a_miss) {
    spill_store *s = open_store("one", 0);
    char path[512];
    path_of(3, KV_SLIDING, path);
    for (off_t at = 0; at < SPILL_HEADER_BYTES + 1000; at += at < 440 || at >= SPILL_HEADER_BYTES ? 1 : 97) {
        if (at >= 440 && at < SPILL_HEADER_BYTES) continue; /* nothing is kept there */
        put(s, 3, KV_SLIDING);
        flip(path, at);
        status st = get(s, 3, KV_SLIDING);
        CHECK_THAT(st == ST_FORMAT || at >= 408, "byte %ld: %s", (long)at, status_name(st));
        if (at >= SPILL_HEADER_BYTES) CHECK(st == ST_FORMAT);
        if (st == ST_FORMAT) CHECK(access(path, F_OK) != 0);
    }
    spill_close(s);
    empty(folder);
}

TEST(torn_and_foreign_files_are_swept_out) {
    spill_store *s = open_store("one", 0);
    char path[512], other[512];
    put(s, 1, KV_FULL);
    put(s, 2, KV_FULL);
    put(s, 3, KV_FULL);
    path_of(1, KV_FULL, path);
    CHECK(truncate(path, SPILL_HEADER_BYTES + 4000) == 0);
    CHECK_STATUS(get(s, 1, KV_FULL), ST_FORMAT);
    put(s, 1, KV_FULL);
    CHECK(truncate(path, 100) == 0);
    path_of(2, KV_FULL, path);
    path_of(9, KV_FULL, other); /* a page under another's name */
    CHECK(rename(path, other) == 0);
    CHECK_STATUS(get(s, 9, KV_FULL), ST_FORMAT);
    snprintf(path, sizeof path, "%s/one/0/notes.txt", folder);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    snprintf(path, sizeof path, "%s/one/0/new-1", folder); /* somebody is writing it */
    close(open(path, O_CREAT | O_WRONLY, 0600));
    CHECK(list(s, NULL) == 1);
    CHECK(access(path, F_OK) == 0);
    const struct timespec old[2] = {{1000, 0}, {1000, 0}};
    CHECK(utimensat(AT_FDCWD, path, old, 0) == 0);
    CHECK(list(s, NULL) == 1 && access(path, F_OK) != 0);
    CHECK_STATUS(get(s, 3, KV_FULL), ST_OK);
    spill_close(s);
    empty(folder);
}

TEST(the_folder_may_go_away) {
    spill_store *s = open_store("one", 0);
    put(s, 1, KV_FULL);
    empty(folder);
    CHECK_STATUS(get(s, 1, KV_FULL), ST_NOT_FOUND);
    spill_page p = page_of(1, KV_FULL);
    uint8_t bytes[4096] = {0};
    CHECK_STATUS(spill_write(s, &p, bytes), ST_IO);
    spill_close(s);
    CHECK_STATUS(spill_open(&s, "/proc/nowhere", "one", 0, page_bytes), ST_IO);
    CHECK_SENTENCE("/proc/nowhere");
}

TEST(the_list_begins_with_what_was_used_longest_ago) {
    spill_store *s = open_store("one", 0);
    char path[512];
    spill_page *all;
    for (uint32_t n = 0; n < 4; n++) {
        put(s, n, KV_FULL);
        path_of(n, KV_FULL, path);
        const struct timespec used[2] = {{1000 - n, 0}, {1000 - n, 0}};
        CHECK(utimensat(AT_FDCWD, path, used, 0) == 0);
    }
    CHECK_STATUS(get(s, 2, KV_FULL), ST_OK); /* used now */
    const uint8_t want[] = {4, 2, 1, 3};
    CHECK(list(s, &all) == 4);
    for (uint32_t i = 0; i < 4; i++) CHECK(all[i].key[0] == want[i]);
    free(all);
    spill_close(s);
    empty(folder);
}

int main(void) {
    if (!mkdtemp(folder)) test_skip("no folder for temporary files");
    RUN(pages_survive_their_store);
    RUN(engines_and_ranks_have_pages_of_their_own);
    RUN(a_flipped_bit_is_a_miss);
    RUN(torn_and_foreign_files_are_swept_out);
    RUN(the_folder_may_go_away);
    RUN(the_list_begins_with_what_was_used_longest_ago);
    empty(folder);
    rmdir(folder);
    return test_result();
}
