/* Which engine takes a prompt, what is remembered of prompts, and when clients that were turned away come again. */
#include "daemon/queue/prefix_index.h"
#include "daemon/queue/retry.h"
#include "tests/unit/queue/fake.h"

enum { PAGE = PREFIX_PAGE_TOKENS, LONG = 10 * PAGE + 5, ENGINES = 3 };

static uv_loop_t loop;
static core *c;
static fake_engine engines[ENGINES];
static tokenizer words;
static fake_call calls[64];
static uint32_t call_count;

/* ---- the index ---- */

/* Pages of a prompt that is `own` from page `from` on, and the same as all others before. */
static prefix_chain chain_of(uint32_t pages, uint32_t from, uint32_t own) {
    uint32_t *tokens = memory_alloc_array(pages * PAGE + 1, sizeof *tokens);
    for (uint32_t i = 0; i < pages * PAGE; i++) tokens[i] = i / PAGE < from ? 1 : own;
    prefix_chain p;
    prefix_chain_make(&p, tokens, pages * PAGE);
    free(tokens);
    return p;
}

TEST(the_longest_beginning_is_found) {
    prefix_index *x = prefix_index_open();
    prefix_chain a = chain_of(6, 6, 1), b = chain_of(9, 4, 2), other = chain_of(5, 0, 3), none = chain_of(0, 0, 1);
    CHECK(a.count == 6 && none.count == 0 && prefix_index_match(x, &a) == 0);
    prefix_index_add(x, &a);
    CHECK(prefix_index_match(x, &a) == 6 && prefix_index_match(x, &b) == 4);
    CHECK(prefix_index_match(x, &other) == 0 && prefix_index_match(x, &none) == 0);
    prefix_index_add(x, &b);
    CHECK(prefix_index_match(x, &b) == 9);
    prefix_index_clear(x);
    CHECK(prefix_index_match(x, &a) == 0);
    prefix_chain_close(&a);
    prefix_chain_close(&b);
    prefix_chain_close(&other);
    prefix_chain_close(&none);
    prefix_index_close(x);
}

TEST(a_page_depends_on_all_before_it) {
    prefix_index *x = prefix_index_open();
    uint32_t tokens[2][3 * PAGE];
    prefix_chain p[2];
    for (uint32_t i = 0; i < 3 * PAGE; i++) tokens[0][i] = tokens[1][i] = i;
    tokens[1][3]++;
    for (int i = 0; i < 2; i++) prefix_chain_make(&p[i], tokens[i], 3 * PAGE);
    prefix_index_add(x, &p[0]);
    CHECK(prefix_index_match(x, &p[1]) == 0);
    for (int i = 0; i < 3; i++) CHECK(p[0].hash[i] != p[1].hash[i]);
    for (int i = 0; i < 2; i++) prefix_chain_close(&p[i]);
    prefix_index_close(x);
}

TEST(old_pages_go_first) {
    prefix_index *x = prefix_index_open();
    prefix_chain kept = chain_of(100, 0, 7);
    uint32_t found = 0;
    for (uint32_t i = 0; i < 3 * PREFIX_INDEX_PAGES / 100; i++) {
        prefix_chain p = chain_of(100, 0, 1000 + i);
        prefix_index_add(x, &kept); /* asked for all the time */
        prefix_index_add(x, &p);
        prefix_chain_close(&p);
    }
    for (uint32_t i = 0; i < 3 * PREFIX_INDEX_PAGES / 100; i++) {
        prefix_chain p = chain_of(100, 0, 1000 + i);
        found += prefix_index_match(x, &p);
        prefix_chain_close(&p);
    }
    CHECK(prefix_index_match(x, &kept) == 100);
    CHECK_THAT(found > PREFIX_INDEX_PAGES / 4 && found <= PREFIX_INDEX_PAGES, "%u", found);
    prefix_chain_close(&kept);
    prefix_index_close(x);
}

TEST(whoever_is_turned_away_is_told_a_later_time) {
    retry_estimate r = {0};
    CHECK(retry_after_ms(&r, 5) == RETRY_UNKNOWN_MS);
    r = (retry_estimate){0};
    for (uint64_t at = 1000; at <= 21000; at += 400) retry_started(&r, at, true);
    CHECK(retry_after_ms(&r, 21000) == 400 && retry_after_ms(&r, 21000) == 800);
    retry_started(&r, 21400, true); /* a place for one of the two */
    CHECK(retry_after_ms(&r, 21400) == 800);
    CHECK(retry_after_ms(&r, 31400) == 30000); /* nothing began for 10 s: three wait for as long */
    for (int i = 0; i < 1000; i++) CHECK(retry_after_ms(&r, 31400) <= RETRY_MOST_MS);
    retry_started(&r, 31500, false);
    CHECK(retry_after_ms(&r, 40000) < 3000); /* an empty queue forgets them, not the pace */
    r = (retry_estimate){0};
    for (uint64_t at = 1; at < 100; at++) retry_started(&r, at, true);
    CHECK(retry_after_ms(&r, 100) == RETRY_LEAST_MS);
}

/* ---- routing ---- */

static void open_engines(void) {
    uv_loop_init(&loop);
    CHECK_STATUS(core_open(&c, &loop), ST_OK);
    for (int i = 0; i < ENGINES; i++) {
        char id[16];
        snprintf(id, sizeof id, "m/%d", i);
        fake_engine_open(&engines[i], id);
        engines[i].base.facts.context_tokens = 5000 - (uint32_t)i;
        if (i == 0) CHECK_STATUS(core_add_model(c, "m", &words, &engines[i].base), ST_OK);
        else CHECK_STATUS(core_add_replica(c, "m", &engines[i].base), ST_OK);
    }
}

static void finish_all(void) {
    for (int i = 0; i < ENGINES; i++)
        while (engines[i].first) fake_finish(&engines[i], engines[i].first, "length");
    for (uint32_t i = 0; i < call_count; i++) {
        CHECK(calls[i].finished == 1);
        fake_call_close(&calls[i]);
    }
    call_count = 0;
}

static void close_engines(void) {
    finish_all();
    uv_run(&loop, UV_RUN_DEFAULT);
    core_close(c);
    CHECK(uv_loop_close(&loop) == 0);
}

/* The engine that a prompt of tokens `own` was sent to, −1: none. */
static int go(uint32_t own, size_t n) {
    Gemmad__V1__GenerateRequest r = GEMMAD__V1__GENERATE_REQUEST__INIT;
    Gemmad__V1__TokenIds ids = GEMMAD__V1__TOKEN_IDS__INIT;
    Gemmad__V1__Sampling s = GEMMAD__V1__SAMPLING__INIT;
    uint32_t tokens[LONG], before[ENGINES];
    for (int i = 0; i < LONG; i++) tokens[i] = own;
    s.has_max_tokens = 1;
    s.max_tokens = 5;
    ids.n_ids = n;
    ids.ids = tokens;
    r.prompt_case = GEMMAD__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
    r.token_ids = &ids;
    r.sampling = &s;
    for (int i = 0; i < ENGINES; i++) before[i] = engines[i].submitted;
    fake_call *f = &calls[call_count++];
    fake_call_open(f, "p");
    fake_handle(c, f, "Generate", &r.base);
    for (int i = 0; i < ENGINES; i++)
        if (engines[i].submitted > before[i]) return i;
    return -1;
}

TEST(prompts_go_where_their_beginning_is) {
    open_engines();
    int first[3];
    for (uint32_t own = 0; own < 3; own++) first[own] = go(own, LONG); /* spread: they are as free */
    CHECK(first[0] != first[1] && first[1] != first[2] && first[0] != first[2]);
    finish_all();
    for (int round = 0; round < 5; round++) {
        for (uint32_t own = 0; own < 3; own++) CHECK(go(own, LONG - (size_t)round * PAGE) == first[own]);
        if (round % 2) finish_all();
    }
    close_engines();
}

TEST(a_much_busier_engine_is_left) {
    open_engines();
    int home = go(7, LONG);
    uint32_t there = 1;
    while (go(7, LONG) == home && there < 40) there++;
    CHECK_THAT(there == 9, "%u", there); /* 8 more than the others have */
    int second = -1;
    for (int i = 0; i < ENGINES; i++)
        if (i != home && engines[i].live) second = i;
    CHECK(go(7, LONG) == second); /* which has it now too, and is freer */
    /* Running ones count as waiting ones do. */
    for (fake_request *q = engines[home].first; q; q = q->next) q->listener.started(q->context, 0);
    CHECK(go(7, LONG) == second);
    close_engines();
}

TEST(engines_that_are_not_ready_get_none) {
    open_engines();
    int home = go(7, LONG);
    finish_all();
    engines[home].state = ENGINE_FAILED;
    core_engine_changed(c, &engines[home].base, ENGINE_FAILED);
    CHECK(!strcmp(core_state(c), "ready")); /* one is enough */
    for (int i = 0; i < 4; i++) CHECK(go(7, LONG) != home);
    finish_all();
    for (int i = 0; i < ENGINES; i++) engines[i].state = ENGINE_FAILED;
    engines[1].state = ENGINE_STARTING;
    CHECK(!strcmp(core_state(c), "starting") && go(7, LONG) == -1 && calls[0].st == ST_UNAVAILABLE);
    CHECK(strstr(calls[0].text, "model m is starting") != NULL);
    engines[1].state = ENGINE_FAILED;
    CHECK(!strcmp(core_state(c), "failed") && go(7, LONG) == -1 && strstr(calls[1].text, "rank 1 was killed"));
    close_engines();
}

TEST(an_engine_that_refuses_is_passed_over) {
    open_engines();
    int home = go(7, LONG);
    finish_all();
    engines[home].refuse = ST_BUSY;
    int other = go(7, LONG);
    CHECK(other >= 0 && other != home);
    for (int i = 0; i < ENGINES; i++) engines[i].refuse = ST_BUSY;
    CHECK(go(7, LONG) == -1 && calls[1].st == ST_BUSY && calls[1].retry_after_ms > 0);
    for (int i = 0; i < ENGINES; i++) engines[i].refuse = ST_INVALID;
    CHECK(go(7, LONG) == -1 && calls[2].st == ST_INVALID);
    close_engines();
}

TEST(the_status_lists_engines_and_the_least_context_counts) {
    open_engines();
    go(1, 3);
    fake_call f;
    fake_call_open(&f, "p");
    Gemmad__V1__GetStatusRequest q = GEMMAD__V1__GET_STATUS_REQUEST__INIT;
    fake_handle(c, &f, "GetStatus", &q.base);
    const Gemmad__V1__GetStatusResponse *s = (Gemmad__V1__GetStatusResponse *)f.sent[0];
    CHECK(s->n_models == 1 && s->models[0]->n_engines == ENGINES && s->requests_waiting == 1);
    for (int i = 0; i < ENGINES; i++) CHECK(!strcmp(s->models[0]->engines[i]->id, engines[i].base.id));
    const Gemmad__V1__EngineStatus *e = s->models[0]->engines[1];
    CHECK(e->has_counted_ms && e->counted_ms == 77 && e->step_us == 1500 && e->imbalance == 1.25F);
    CHECK(e->prefix_query_tokens == 100 && e->prefix_hit_tokens == 64 && e->preemptions == 3 && e->requests_paused == 2);
    fake_call_close(&f);
    fake_call_open(&f, "p");
    Gemmad__V1__ListModelsRequest l = GEMMAD__V1__LIST_MODELS_REQUEST__INIT;
    fake_handle(c, &f, "ListModels", &l.base);
    CHECK(((Gemmad__V1__ListModelsResponse *)f.sent[0])->models[0]->context_tokens == 5000 - ENGINES + 1);
    fake_call_close(&f);
    close_engines();
}

int main(void) {
    RUN(the_longest_beginning_is_found);
    RUN(a_page_depends_on_all_before_it);
    RUN(old_pages_go_first);
    RUN(whoever_is_turned_away_is_told_a_later_time);
    RUN(prompts_go_where_their_beginning_is);
    RUN(a_much_busier_engine_is_left);
    RUN(engines_that_are_not_ready_get_none);
    RUN(an_engine_that_refuses_is_passed_over);
    RUN(the_status_lists_engines_and_the_least_context_counts);
    return test_result();
}
