/* Keys and limits against a clock that the test turns. */
#include "daemon/auth/auth.h"

#include "daemon/auth/bucket.h"
#include "tests/test.h"

static uint64_t now_ns;
static int64_t now_s = 1769860800;
static uint64_t monotonic(void *context) {
    (void)context;
    return now_ns;
}
static int64_t wall(void *context) {
    (void)context;
    return now_s;
}
static const auth_clock test_clock = {.monotonic = {monotonic, NULL}, .unix_seconds = wall};

static auth *a;
static key_file file;

static key_entry *add(const char *name, const char *key) {
    key_entry *e = NULL;
    CHECK_STATUS(key_file_add(&file, name, &e), ST_OK);
    key_digest(key, strlen(key), e->digest);
    return e;
}

static auth_key *shown;
static status show(const char *header) {
    shown = NULL;
    return auth_check(a, header, strlen(header), &shown);
}

static void open_auth(void) { auth_open(&a, &test_clock); }
static void close_auth(void) {
    auth_close(a);
    key_file_close(&file);
}

TEST(only_a_key_that_is_there_lets_in) {
    open_auth();
    CHECK_STATUS(show("Bearer right"), ST_AUTH);
    add("alice", "right");
    add("bob", "other");
    auth_replace(a, &file);
    CHECK(auth_key_count(a) == 2);
    static const char *const wrong[] = {"",
                                        "Bearer",
                                        "Bearer ",
                                        "Bearer  ",
                                        "Basic right",
                                        "right",
                                        "Bearer righ",
                                        "Bearer rightt",
                                        "Bearer right x",
                                        "Bearerright",
                                        "Bearer Right",
                                        "Bearer right\tx"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) CHECK_STATUS(show(wrong[i]), ST_AUTH);
    char lengthy[400] = "Bearer ";
    memset(lengthy + 7, 'x', sizeof lengthy - 8);
    CHECK_STATUS(show(lengthy), ST_AUTH);
    CHECK_SENTENCE("1 to 256 bytes");
    static const char *const right[] = {"Bearer right", "bearer right", "BEARER   right "};
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        CHECK_STATUS(show(right[i]), ST_OK);
        CHECK(shown && !strcmp(auth_key_name(shown), "alice"));
        auth_key_release(shown);
    }
    close_auth();
}

TEST(a_key_expires) {
    open_auth();
    add("alice", "right")->expires = now_s + 10;
    auth_replace(a, &file);
    CHECK_STATUS(show("Bearer right"), ST_OK);
    auth_key_release(shown);
    now_s += 10;
    CHECK_STATUS(show("Bearer right"), ST_AUTH);
    CHECK_SENTENCE("alice has expired, on 2026-01-31T12:00:10Z");
    close_auth();
}

TEST(models_and_the_admin_bit) {
    open_auth();
    key_entry_add_model(add("alice", "right"), "a");
    add("root", "strong")->admin = true;
    auth_replace(a, &file);
    CHECK_STATUS(show("Bearer right"), ST_OK);
    CHECK(auth_key_may_use(shown, "a") && !auth_key_may_use(shown, "b") && !auth_key_is_admin(shown));
    auth_key_release(shown);
    CHECK_STATUS(show("Bearer strong"), ST_OK);
    CHECK(auth_key_may_use(shown, "b") && auth_key_is_admin(shown));
    auth_key_release(shown);
    CHECK(auth_key_may_use(NULL, "b") && auth_key_is_admin(NULL) && !auth_key_name(NULL));
    uint32_t ms;
    CHECK_STATUS(auth_key_request(NULL, &ms), ST_OK);
    CHECK_STATUS(auth_key_begins(NULL, &ms), ST_OK);
    auth_key_ends(NULL);
    auth_key_tokens(NULL, 7);
    close_auth();
}

TEST(requests_a_minute) {
    uint32_t ms = 0;
    open_auth();
    add("alice", "right")->requests_per_minute = 6;
    auth_replace(a, &file);
    CHECK_STATUS(show("Bearer right"), ST_OK);
    for (int i = 0; i < 6; i++) CHECK_STATUS(auth_key_request(shown, &ms), ST_OK);
    CHECK_STATUS(auth_key_request(shown, &ms), ST_BUSY);
    CHECK_SENTENCE("key alice may make 6 requests a minute");
    CHECK(ms == 10000); /* one comes free every ten seconds */
    now_ns += 9999 * 1000000ull;
    CHECK_STATUS(auth_key_request(shown, &ms), ST_BUSY);
    CHECK(ms == 1);
    now_ns += 1000000;
    CHECK_STATUS(auth_key_request(shown, &ms), ST_OK);
    CHECK_STATUS(auth_key_request(shown, &ms), ST_BUSY);
    now_ns += 3600 * 1000000000ull; /* an idle hour saves up one minute, no more */
    for (int i = 0; i < 6; i++) CHECK_STATUS(auth_key_request(shown, &ms), ST_OK);
    CHECK_STATUS(auth_key_request(shown, &ms), ST_BUSY);
    auth_key_release(shown);
    close_auth();
}

TEST(tokens_a_minute_may_be_overdrawn_and_are_owed) {
    uint32_t ms = 0;
    open_auth();
    add("alice", "right")->tokens_per_minute = 600;
    auth_replace(a, &file);
    CHECK_STATUS(show("Bearer right"), ST_OK);
    CHECK_STATUS(auth_key_request(shown, &ms), ST_OK);
    auth_key_tokens(shown, 1000); /* a prompt longer than a minute's worth */
    for (int i = 0; i < 199; i++) auth_key_tokens(shown, 1);
    CHECK_STATUS(auth_key_request(shown, &ms), ST_BUSY);
    CHECK_SENTENCE("600 tokens a minute");
    CHECK(ms == 60000); /* 1199 used of 600: 600 must flow back until one is free */
    now_ns += 59 * 1000000000ull;
    CHECK_STATUS(auth_key_request(shown, &ms), ST_BUSY);
    now_ns += 1000000000ull;
    CHECK_STATUS(auth_key_request(shown, &ms), ST_OK);
    auth_key_release(shown);
    close_auth();
}

TEST(concurrent_requests) {
    uint32_t ms = 0;
    open_auth();
    add("alice", "right")->concurrent = 2;
    auth_replace(a, &file);
    CHECK_STATUS(show("Bearer right"), ST_OK);
    CHECK_STATUS(auth_key_begins(shown, &ms), ST_OK);
    CHECK_STATUS(auth_key_begins(shown, &ms), ST_OK);
    CHECK_STATUS(auth_key_begins(shown, &ms), ST_BUSY);
    CHECK(ms > 0);
    CHECK_SENTENCE("2 requests under way, at most 2");
    auth_key_ends(shown);
    CHECK_STATUS(auth_key_begins(shown, &ms), ST_OK);
    auth_key_ends(shown);
    auth_key_ends(shown);
    auth_key_release(shown);
    close_auth();
}

TEST(a_new_file_keeps_what_was_used_and_drops_who_is_gone) {
    uint32_t ms = 0;
    open_auth();
    add("alice", "right")->requests_per_minute = 2;
    add("bob", "other");
    auth_replace(a, &file);
    CHECK_STATUS(show("Bearer other"), ST_OK);
    auth_key *bob = shown;
    CHECK_STATUS(auth_key_begins(bob, &ms), ST_OK);
    CHECK_STATUS(show("Bearer right"), ST_OK);
    auth_key *alice = shown;
    CHECK_STATUS(auth_key_request(alice, &ms), ST_OK);
    CHECK_STATUS(auth_key_request(alice, &ms), ST_OK);

    key_file_close(&file);
    add("carol", "third");
    key_entry *e = add("alice", "rotated");
    e->requests_per_minute = 2;
    key_entry_add_model(e, "a");
    auth_replace(a, &file);
    CHECK_STATUS(show("Bearer right"), ST_AUTH);
    CHECK_STATUS(show("Bearer other"), ST_AUTH);
    CHECK_STATUS(show("Bearer rotated"), ST_OK);
    CHECK(shown == alice && !auth_key_may_use(alice, "b")); /* for calls under way as well */
    CHECK_STATUS(auth_key_request(alice, &ms), ST_BUSY);    /* a new key is no new allowance */
    auth_key_release(shown);
    auth_key_release(alice);
    CHECK(!strcmp(auth_key_name(bob), "bob")); /* its call goes on */
    auth_key_ends(bob);
    auth_key_release(bob);
    close_auth();
}

/* Whatever place a name has in the next file. */
TEST(keys_stay_when_the_file_is_put_in_another_order) {
    static const char *const orders[] = {"abcde", "edcba", "cde", "xcabe", "b"};
    char name[2] = {0}, text[16];
    uint32_t ms = 0;
    open_auth();
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
        key_file_close(&file);
        for (const char *p = orders[i]; *p; p++) {
            name[0] = *p;
            add(name, name)->requests_per_minute = 1;
        }
        auth_replace(a, &file);
        CHECK(auth_key_count(a) == strlen(orders[i]));
        for (const char *p = orders[i]; *p; p++) {
            snprintf(text, sizeof text, "Bearer %c", *p);
            CHECK_STATUS(show(text), ST_OK);
            /* Used up when it came first, unless it was away. */
            bool fresh = i == 0 || !strchr(orders[i - 1], *p);
            CHECK_STATUS(auth_key_request(shown, &ms), fresh ? ST_OK : ST_BUSY);
            auth_key_release(shown);
        }
    }
    close_auth();
}

TEST(a_bucket_without_a_limit_is_never_empty) {
    bucket b = {0};
    bucket_take(&b, 0, 1e9, 1);
    CHECK(bucket_wait_ms(&b, 0, 1) == 0);
    CHECK(bucket_wait_ms(&b, 1, 0) ==
          0); /* a clock that stands still or goes back gives nothing and takes nothing */
    bucket_take(&b, 1, 1, 5);
    CHECK(bucket_wait_ms(&b, 1, 5) == 60000);
    bucket_take(&b, 1, 1e30, 5);
    CHECK(bucket_wait_ms(&b, 1, 5) == UINT32_MAX);
}

int main(void) {
    RUN(only_a_key_that_is_there_lets_in);
    RUN(a_key_expires);
    RUN(models_and_the_admin_bit);
    RUN(requests_a_minute);
    RUN(tokens_a_minute_may_be_overdrawn_and_are_owed);
    RUN(concurrent_requests);
    RUN(a_new_file_keeps_what_was_used_and_drops_who_is_gone);
    RUN(keys_stay_when_the_file_is_put_in_another_order);
    RUN(a_bucket_without_a_limit_is_never_empty);
    return test_result();
}
