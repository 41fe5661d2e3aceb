#include <stdatomic.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "base/sha256.h"
#include "base/sha256_blocks.h"
#include "base/strbuf.h"
#include "tests/test.h"

TEST(sha256_vectors) {
    /* FIPS 180-4 examples; 1,000,000 × "a" crosses block borders at every offset when fed 7 bytes at a time. */
    static const struct { const char *text, *hex; } v[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    uint8_t digest[32];
    char hex[65];
    sha256 s;
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        sha256_begin(&s);
        sha256_add(&s, v[i].text, strlen(v[i].text));
        sha256_end(&s, digest);
        sha256_hex(digest, hex);
        CHECK_THAT(!strcmp(hex, v[i].hex), "%s", hex);
    }
    sha256_begin(&s);
    for (int left = 1000000; left > 0; left -= 7) sha256_add(&s, "aaaaaaa", left < 7 ? (size_t)left : 7);
    sha256_end(&s, digest);
    sha256_hex(digest, hex);
    CHECK(!strcmp(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"));
}

/* Whichever block function this processor takes, the other has the same answer. */
TEST(sha256_variants) {
#ifdef __x86_64__
    if (!sha256_has_shani()) return;
    static uint8_t bytes[64 * 37 + 1];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i * i * 31 + (i >> 3));
    for (size_t n = 0; n <= 37; n++) {
        uint32_t a[8], b[8];
        for (uint32_t i = 0; i < 8; i++) a[i] = b[i] = 0x9E3779B9u * (i + 1);
        sha256_blocks_ref(a, bytes + 1, n); /* not aligned */
        sha256_blocks_shani(b, bytes + 1, n);
        CHECK_THAT(!memcmp(a, b, sizeof a), "%zu blocks", n);
    }
#endif
}

TEST(sentences_are_cut_between_characters) {
    char long_text[3000];
    memset(long_text, 'x', sizeof long_text);
    memcpy(long_text + STATUS_TEXT_MAX - 6, "ü", 2); /* straddles the cut at one of the offsets below */
    long_text[2999] = 0;
    for (int pad = 0; pad < 4; pad++) {
        CHECK(fail(ST_INVALID, "%.*s%s", pad, "abcd", long_text) == ST_INVALID);
        const char *t = status_text();
        CHECK(strlen(t) < STATUS_TEXT_MAX);
        CHECK(!strcmp(t + strlen(t) - 3, "…"));
        CHECK(((unsigned char)t[strlen(t) - 4] & 0xC0) != 0xC0);
    }
    (void)fail(ST_IO, "inner");
    CHECK(fail_within(ST_IO, "outer %d", 7) == ST_IO);
    CHECK(!strcmp(status_text(), "outer 7: inner"));
}

TEST(strbuf_grows_to_its_bound) {
    strbuf b = {.max = 10};
    strbuf_add_string(&b, "12345");
    strbuf_add_format(&b, "%d", 67890);
    CHECK(!b.full && !strcmp(strbuf_text(&b), "1234567890"));
    strbuf_add_string(&b, "x");
    CHECK(b.full && b.size == 10);
    strbuf_drop_front(&b, 4);
    CHECK(!strcmp(strbuf_text(&b), "567890"));
    strbuf_close(&b);
    CHECK(!strcmp(strbuf_text(&b), ""));
}

TEST(files) {
    char path[] = "/tmp/gemmad-test-XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0 && write(fd, "hello", 5) == 5);
    char *data;
    size_t n;
    CHECK_STATUS(file_read_all(path, 5, &data, &n), ST_OK);
    CHECK(n == 5 && !strcmp(data, "hello"));
    free(data);
    CHECK_STATUS(file_read_all(path, 4, &data, &n), ST_FORMAT);
    CHECK_SENTENCE("5 bytes, at most 4");
    char part[4];
    CHECK_STATUS(file_read_at(fd, "part", 3, part, 3), ST_FORMAT);
    CHECK_SENTENCE("ends before byte 5");
    close(fd);
    unlink(path);
    CHECK_STATUS(file_read_all(path, 4, &data, &n), ST_NOT_FOUND);
    CHECK_STATUS(file_read_all("/tmp", 4, &data, &n), ST_FORMAT);
}

TEST(json_names_key_value_and_bound) {
    json_t *j;
    static const char text[] = "{\"a\": 5, \"b\": \"x\", \"c\": null, \"d\": 0.5}";
    CHECK_STATUS(json_read_bytes(text, sizeof text - 1, "t", &j), ST_OK);
    uint32_t n = 9;
    CHECK_STATUS(json_read_u32(j, "t", "a", 0, 4, &n), ST_FORMAT);
    CHECK_SENTENCE("t: a is 5, allowed are 0 to 4");
    CHECK_STATUS(json_read_u32(j, "t", "a", 0, 5, &n), ST_OK);
    CHECK(n == 5);
    CHECK_STATUS(json_read_u32(j, "t", "b", 0, 5, &n), ST_FORMAT);
    CHECK_STATUS(json_read_u32(j, "t", "c", 0, 5, &n), ST_FORMAT);
    CHECK_STATUS(json_read_u32_optional(j, "t", "c", 0, 5, &n), ST_OK);
    double x = 0;
    CHECK_STATUS(json_read_double_optional(j, "t", "d", 0, 1, &x), ST_OK);
    CHECK(x == 0.5);
    json_decref(j);
    CHECK_STATUS(json_read_bytes("[]", 2, "t", &j), ST_FORMAT);
    CHECK_STATUS(json_read_bytes("{\"a\":1,\"a\":2}", 13, "t", &j), ST_FORMAT);
}

TEST(memory_map_gives_zeroed_pages) {
    void *p;
    CHECK_STATUS(memory_map(&p, 3 << 20), ST_OK);
    CHECK(((char *)p)[(3 << 20) - 1] == 0);
    memory_unmap(p, 3 << 20);
    CHECK_STATUS(memory_map(&p, (size_t)1 << 60), ST_NO_MEMORY);
    CHECK_SENTENCE("1152921504606846976");
}

typedef struct numbered {
    atomic_uint items, inside[PARALLEL_THREADS_MAX]; /* inside: on the thread of this number */
} numbered;

static status take_item(void *context, uint32_t item, uint32_t thread) {
    numbered *n = context;
    (void)item;
    if (thread >= PARALLEL_THREADS_MAX || atomic_fetch_add(&n->inside[thread], 1) != 0)
        return fail(ST_INTERNAL, "thread %u is two", thread);
    atomic_fetch_add(&n->items, 1);
    atomic_fetch_sub(&n->inside[thread], 1);
    return ST_OK;
}

TEST(threads_have_numbers) {
    static const uint32_t threads[] = {0, 1, 3, 64, 200};
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
        numbered n = {0};
        CHECK_STATUS(parallel_run_numbered(threads[i], 5000, take_item, &n), ST_OK);
        CHECK(atomic_load(&n.items) == 5000);
    }
}

int main(void) {
    RUN(threads_have_numbers);
    RUN(sha256_vectors);
    RUN(sha256_variants);
    RUN(sentences_are_cut_between_characters);
    RUN(strbuf_grows_to_its_bound);
    RUN(files);
    RUN(json_names_key_value_and_bound);
    RUN(memory_map_gives_zeroed_pages);
    return test_result();
}
