/* The file of keys: what is read, what is refused, who may see it, and how it is replaced. */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/key_file.h"
#include "tests/test.h"

#define DIGEST "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static char dir[] = "/tmp/gemmad-test-XXXXXX";

static status parse(const char *text) {
    key_file f;
    status st = key_file_parse(&f, text, strlen(text), "keys.json");
    CHECK(st == ST_OK || (f.count == 0 && !f.entry));
    key_file_close(&f);
    return st;
}

#define ONE(fields)                                                                                          \
    "{\"version\": 1, \"keys\": [{\"name\": \"alice\", \"sha256\": \"" DIGEST "\"" fields "}]}"

TEST(a_whole_entry_is_read) {
    static const char text[] =
        ONE(", \"admin\": true, \"created\": \"2026-01-31T12:00:00Z\", \"expires\": \"2028-02-29T00:00:00Z\","
            " \"requests_per_minute\": 60, \"tokens_per_minute\": 2000000000, \"concurrent\": 4,"
            " \"models\": [\"a\", \"b\"]");
    key_file f;
    CHECK_STATUS(key_file_parse(&f, text, strlen(text), "k"), ST_OK);
    CHECK(f.count == 1);
    const key_entry *e = key_file_find(&f, "alice");
    CHECK(e && e->admin && e->digest[0] == 0x01 && e->digest[31] == 0xef);
    CHECK(e->created == 1769860800 && e->expires == 1835395200);
    CHECK(e->requests_per_minute == 60 && e->tokens_per_minute == 2000000000 && e->concurrent == 4);
    CHECK(e->model_count == 2 && !strcmp(e->model[1], "b"));
    CHECK(!key_file_find(&f, "bob"));
    key_file_close(&f);
    CHECK_STATUS(parse(ONE("")), ST_OK);
    CHECK_STATUS(parse("{\"version\": 1, \"keys\": []}"), ST_OK);
}

/* Every one of these would let somebody in whom its author did not mean, or set no limit where one was meant. */
TEST(what_is_not_understood_is_refused) {
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "keys.json"},
        {"[]", "not an object"},
        {"{\"keys\": []}", "version is missing"},
        {"{\"version\": 2, \"keys\": []}", "version is 2"},
        {"{\"version\": 1}", "keys is not a list"},
        {"{\"version\": 1, \"keys\": [], \"more\": 1}", "unknown field \"more\""},
        {"{\"version\": 1, \"keys\": [7]}", "keys[0] is not an object"},
        {"{\"version\": 1, \"keys\": [{\"sha256\": \"" DIGEST "\"}]}", "name is missing"},
        {"{\"version\": 1, \"keys\": [{\"name\": \"alice\"}]}", "key alice: sha256 is missing"},
        {"{\"version\": 1, \"keys\": [{\"name\": \"alice\", \"sha256\": \"0123\"}]}",
         "64 hexadecimal digits"},
        {"{\"version\": 1, \"keys\": [{\"name\": \"alice\", \"sha256\": "
         "\"0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef\"}]}",
         "lower case"},
        {"{\"version\": 1, \"keys\": [{\"name\": \"a b\", \"sha256\": \"" DIGEST "\"}]}", "byte 0x20"},
        {"{\"version\": 1, \"keys\": [{\"name\": \"\", \"sha256\": \"" DIGEST "\"}]}", "0 bytes"},
        {ONE(", \"request_per_minute\": 1"), "unknown field \"request_per_minute\""},
        {ONE(", \"admin\": \"yes\""), "admin is neither true nor false"},
        {ONE(", \"concurrent\": -1"), "concurrent is -1"},
        {ONE(", \"concurrent\": 1.5"), "not an integer"},
        {ONE(", \"tokens_per_minute\": 2000000001"), "tokens_per_minute is 2000000001"},
        {ONE(", \"expires\": \"2026-02-31T00:00:00Z\""), "is no time"},
        {ONE(", \"expires\": \"tomorrow\""), "is no time"},
        {ONE(", \"expires\": 5"), "expires is not a string"},
        {ONE(", \"models\": []"), "models has 0 names"},
        {ONE(", \"models\": \"a\""), "models is not a list"},
        {ONE(", \"models\": [\"\"]"), "models[0]"},
        {ONE(", \"models\": [1]"), "models[0]"},
        {ONE("}, {\"name\": \"bob\", \"sha256\": \"" DIGEST "\""), "is that of key alice"},
        {ONE("}, {\"name\": \"alice\", \"sha256\": \"" DIGEST "\""), "there is a key with the name alice"},
        {ONE(", \"name\": \"mallory\""), "duplicate"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_STATUS(parse(bad[i].text), ST_FORMAT);
        CHECK_SENTENCE(bad[i].says);
    }
}

static void make_file(const char *path, const char *text, mode_t mode) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    CHECK(fchmod(fd, mode) == 0);
    close(fd);
}

TEST(a_file_that_others_can_touch_is_refused) {
    char path[128];
    key_file f;
    snprintf(path, sizeof path, "%s/keys", dir);
    static const mode_t good[] = {0600, 0400, 0640, 0440}, bad[] = {0644, 0604, 0660, 0620, 0602, 0610, 0777};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        make_file(path, ONE(""), good[i]);
        CHECK_STATUS(key_file_read(&f, path), ST_OK);
        key_file_close(&f);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        make_file(path, ONE(""), bad[i]);
        CHECK_STATUS(key_file_read(&f, path), ST_DENIED);
        CHECK_SENTENCE("chmod 600");
    }
    if (geteuid() == 0) {
        make_file(path, ONE(""), 0600);
        CHECK(chown(path, 12345, 0) == 0);
        CHECK_STATUS(key_file_read(&f, path), ST_DENIED);
        CHECK_SENTENCE("belongs to user 12345");
    }
    CHECK(unlink(path) == 0);
    CHECK_STATUS(key_file_read(&f, path), ST_NOT_FOUND);
    CHECK(mkfifo(path, 0600) == 0);
    CHECK_STATUS(key_file_read(&f, path), ST_FORMAT); /* and does not wait for a writer */
    CHECK(unlink(path) == 0);
}

TEST(what_is_written_is_read_back_and_replaces_the_file) {
    char path[128], text[KEY_TEXT_BYTES + 1], again[KEY_TEXT_BYTES + 1];
    key_file f = {0}, back;
    key_entry *e;
    struct stat s;
    snprintf(path, sizeof path, "%s/keys", dir);
    CHECK_STATUS(key_make(text), ST_OK);
    CHECK_STATUS(key_make(again), ST_OK);
    CHECK(strlen(text) == KEY_TEXT_BYTES && !strncmp(text, "gemmad-", 7) && strcmp(text, again));
    CHECK_STATUS(key_file_add(&f, "alice@example.org", &e), ST_OK);
    key_digest(text, strlen(text), e->digest);
    e->admin = true;
    e->created = 1769860800;
    e->concurrent = 3;
    key_entry_add_model(e, "a \"quoted\" \\ model \x01 ü");
    CHECK_STATUS(key_file_add(&f, "bob", &e), ST_OK);
    CHECK_STATUS(key_file_add(&f, "bob", &e), ST_EXISTS);
    CHECK_STATUS(key_file_write(&f, path), ST_OK);
    CHECK(stat(path, &s) == 0 && (s.st_mode & 07777) == 0600);
    CHECK_STATUS(key_file_read(&back, path), ST_OK);
    CHECK(back.count == 2 && !memcmp(back.entry[0].digest, f.entry[0].digest, KEY_DIGEST_BYTES));
    CHECK(back.entry[0].admin && back.entry[0].created == 1769860800 && back.entry[0].concurrent == 3);
    CHECK(back.entry[0].model_count == 1 && !strcmp(back.entry[0].model[0], "a \"quoted\" \\ model \x01 ü"));
    key_file_remove(&back, &back.entry[0]);
    CHECK(back.count == 1 && !strcmp(back.entry[0].name, "bob"));
    CHECK(chmod(path, 0640) == 0);
    CHECK_STATUS(key_file_write(&back, path), ST_OK);
    CHECK(stat(path, &s) == 0 && (s.st_mode & 07777) == 0640);
    key_file_close(&back);
    CHECK_STATUS(key_file_read(&back, path), ST_OK);
    CHECK(back.count == 1);
    key_file_close(&back);
    key_file_close(&f);
    CHECK(unlink(path) == 0);
}

TEST(one_writer_at_a_time) {
    char path[128];
    int first, second;
    snprintf(path, sizeof path, "%s/keys", dir);
    CHECK_STATUS(key_file_lock(path, &first), ST_OK);
    CHECK_STATUS(key_file_lock(path, &second), ST_IN_USE);
    close(first);
    CHECK_STATUS(key_file_lock(path, &second), ST_OK);
    close(second);
}

int main(void) {
    CHECK(mkdtemp(dir));
    RUN(a_whole_entry_is_read);
    RUN(what_is_not_understood_is_refused);
    RUN(a_file_that_others_can_touch_is_refused);
    RUN(what_is_written_is_read_back_and_replaces_the_file);
    RUN(one_writer_at_a_time);
    CHECK(rmdir(dir) == 0);
    return test_result();
}
