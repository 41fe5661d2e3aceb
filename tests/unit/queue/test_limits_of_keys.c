/* What a key may do, as the core holds it: every way out of a request gives its place back. */
#include "tests/unit/queue/generate_fixture.h"

static uint64_t now_ns = 1;
static uint64_t clock_of_test(void *context) {
    (void)context;
    return now_ns;
}
static int64_t no_date(void *context) {
    (void)context;
    return 1;
}

static auth *keys;
static auth_key *alice;

/* alice has these limits and may use the model "dense", or all. */
static void open_key(uint32_t requests, uint32_t tokens, uint32_t concurrent, bool all_models) {
    const auth_clock clock = {.monotonic = {clock_of_test, NULL}, .unix_seconds = no_date};
    key_file file = {0};
    key_entry *e;
    auth_open(&keys, &clock);
    CHECK_STATUS(key_file_add(&file, "alice", &e), ST_OK);
    key_digest("right", 5, e->digest);
    e->requests_per_minute = requests;
    e->tokens_per_minute = tokens;
    e->concurrent = concurrent;
    if (!all_models) key_entry_add_model(e, "ids");
    auth_replace(keys, &file);
    key_file_close(&file);
    CHECK_STATUS(auth_check(keys, "Bearer right", 12, &alice), ST_OK);
}

static void close_key(void) {
    auth_key_release(alice);
    auth_close(keys);
}

/* A Generate of three token ids. */
static void call_as(fake_call *f, const char *model) {
    generate_request r = ids_request(NULL);
    r.model = (char *)(uintptr_t)model;
    fake_call_open(f, "key alice");
    f->base.who = alice;
    fake_handle(c, f, "Generate", &r.base);
}

static void check_busy(const fake_call *f, const char *part, uint32_t retry_ms) {
    CHECK_THAT(f->finished == 1 && f->st == ST_BUSY && strstr(f->text, part), "%s: %s", status_name(f->st),
               f->text);
    CHECK_THAT(f->retry_after_ms == retry_ms, "%u ms", f->retry_after_ms);
}

TEST(requests_a_minute_of_every_kind) {
    fake_call f;
    open_key(2, 0, 0, true);
    Gemmad__V1__TokenizeRequest t = GEMMAD__V1__TOKENIZE_REQUEST__INIT;
    fake_call_open(&f, "key alice");
    f.base.who = alice;
    fake_handle(c, &f, "Tokenize", &t.base);
    uv_run(&loop, UV_RUN_DEFAULT);
    CHECK_THAT(f.finished == 1 && f.st == ST_OK, "%s", f.text);
    fake_call_close(&f);
    call_as(&f, "dense");
    fake_finish(&dense, fake_find(&dense, dense.submitted), "stop");
    CHECK(f.finished == 1 && f.st == ST_OK);
    fake_call_close(&f);
    call_as(&f, "dense");
    check_busy(&f, "2 requests a minute", 30000);
    fake_call_close(&f);
    Gemmad__V1__ListModelsRequest l = GEMMAD__V1__LIST_MODELS_REQUEST__INIT;
    fake_call_open(&f, "key alice");
    f.base.who = alice;
    fake_handle(c, &f, "ListModels", &l.base);
    CHECK(f.finished == 1 && f.st == ST_OK); /* costs nothing */
    fake_call_close(&f);
    now_ns += UINT64_C(30000000000);
    call_as(&f, "dense");
    CHECK(f.finished == 0);
    fake_finish(&dense, fake_find(&dense, dense.submitted), "stop");
    fake_call_close(&f);
    close_key();
}

TEST(tokens_of_prompt_and_answer) {
    fake_call f, second;
    open_key(0, 6, 0, true);
    call_as(&f, "dense"); /* 3 */
    fake_request *q = fake_find(&dense, dense.submitted);
    q->listener.started(q->context, 0);
    fake_token(q, HELLO);
    fake_token(q, WORLD); /* 5 */
    call_as(&second, "dense");
    CHECK(second.finished == 0); /* one is left: it begins, and its prompt makes 8 */
    fake_token(q, HELLO);        /* 9: told as they come, not at the end */
    fake_finish(&dense, q, "stop");
    fake_finish(&dense, fake_find(&dense, dense.submitted), "stop");
    fake_call_close(&second);
    fake_call_close(&f);
    call_as(&f, "dense");
    check_busy(&f, "6 tokens a minute", 40000); /* 9 - 6 + 1 at ten seconds each */
    fake_call_close(&f);
    close_key();
}

TEST(places_come_back_whatever_ends_a_request) {
    fake_call f, second;
    open_key(0, 0, 1, true);
    for (int how = 0; how < 5; how++) {
        if (how == 4) dense.refuse = ST_UNAVAILABLE;
        call_as(&f, "dense");
        fake_request *q = how < 4 ? fake_find(&dense, dense.submitted) : NULL;
        if (how < 4) {
            call_as(&second, "dense");
            check_busy(&second, "1 requests under way, at most 1", 1000);
            fake_call_close(&second);
        }
        if (how == 0) fake_finish(&dense, q, "stop");
        if (how == 1) fake_fail(&dense, q, ST_UNAVAILABLE, "the engine is gone");
        if (how >= 2 && how < 4) {
            f.base.cancelled(&f.base, f.base.context, how == 2 ? ST_CANCELLED : ST_TIMEOUT);
            fake_finish(&dense, q, "cancelled");
        }
        CHECK_THAT(f.finished == 1, "way %d", how);
        fake_call_close(&f);
        dense.refuse = ST_OK;
    }
    call_as(&f, "dense");
    CHECK(f.finished == 0);
    fake_finish(&dense, fake_find(&dense, dense.submitted), "stop");
    fake_call_close(&f);
    close_key();
}

TEST(other_models_are_not_there) {
    fake_call f;
    open_key(0, 0, 0, false);
    call_as(&f, "dense");
    CHECK_THAT(f.st == ST_NOT_FOUND && !strcmp(f.text, "there are the models ids; none is \"dense\""), "%s",
               f.text);
    fake_call_close(&f);
    CHECK(!strcmp(core_first_model(c, alice), "ids") && !strcmp(core_first_model(c, NULL), "dense"));
    call_as(&f, ""); /* the first that it may use */
    CHECK(f.finished == 0 && ids_only.live == 1);
    fake_finish(&ids_only, fake_find(&ids_only, ids_only.submitted), "stop");
    fake_call_close(&f);
    Gemmad__V1__ListModelsRequest l = GEMMAD__V1__LIST_MODELS_REQUEST__INIT;
    Gemmad__V1__GetStatusRequest g = GEMMAD__V1__GET_STATUS_REQUEST__INIT;
    fake_call_open(&f, "key alice");
    f.base.who = alice;
    fake_handle(c, &f, "ListModels", &l.base);
    const Gemmad__V1__ListModelsResponse *list = (const void *)f.sent[0];
    CHECK(list->n_models == 1 && !strcmp(list->models[0]->name, "ids"));
    fake_call_close(&f);
    fake_call_open(&f, "key alice");
    f.base.who = alice;
    fake_handle(c, &f, "GetStatus", &g.base);
    const Gemmad__V1__GetStatusResponse *s = (const void *)f.sent[0];
    CHECK(s->n_models == 1 && !strcmp(s->models[0]->name, "ids"));
    fake_call_close(&f);
    close_key();
}

TEST(draining_is_for_administrators) {
    fake_call f;
    open_key(0, 0, 0, true);
    Gemmad__V1__DrainRequest d = GEMMAD__V1__DRAIN_REQUEST__INIT;
    fake_call_open(&f, "key alice");
    f.base.who = alice;
    fake_handle(c, &f, "Drain", &d.base);
    CHECK_THAT(f.finished == 1 && f.st == ST_DENIED && strstr(f.text, "alice"), "%s", f.text);
    CHECK(strcmp(core_state(c), "draining") != 0);
    fake_call_close(&f);
    close_key();
}

int main(void) {
    open_core();
    RUN(requests_a_minute_of_every_kind);
    RUN(tokens_of_prompt_and_answer);
    RUN(places_come_back_whatever_ends_a_request);
    RUN(other_models_are_not_there);
    RUN(draining_is_for_administrators);
    close_core();
    return test_result() || test_checks_failed;
}
