/* The prefix cache against its definition: pages hold what was computed for a prefix, a naive list of all points says
 * what must be found, and a book of references balances in the end. */
#include "base/memory.h"
#include "shard/kv/prefix.h"
#include "tests/test.h"

enum {
    PAGES = 400,
    LONGEST = 12,
    TOKENS = LONGEST * KV_TOKENS_PER_PAGE + KV_TOKENS_PER_PAGE,
    PREFIXES = 4000
};

typedef struct text {
    uint32_t token[TOKENS], n;
} text;

/* A pool whose pages hold the number of the prefix that they were computed for. */
typedef struct pool {
    uint32_t count[KV_KINDS][PAGES], holds[KV_KINDS][PAGES];
} pool;

static void retain(void *context, kv_kind kind, uint32_t page) { ((pool *)context)->count[kind][page]++; }
static void release(void *context, kv_kind kind, uint32_t page) {
    CHECK(((pool *)context)->count[kind][page] > 0);
    ((pool *)context)->count[kind][page]--;
}
static uint32_t count(void *context, kv_kind kind, uint32_t page) {
    return ((pool *)context)->count[kind][page];
}

typedef struct world {
    pool pool;
    prefix_cache *cache;
    uint32_t window, window_pages, pages; /* of each kind */
    bool sliding, full, weak, evicted;
    text point[PREFIXES]; /* every prefix that was ever added, once */
    uint32_t points;
    uint64_t random, queried, hits;
} world;

static uint32_t below(world *w, uint32_t n) {
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(w->random >> 33) % n;
}

static void world_open(world *w, uint32_t nodes) {
    *w = (world){.pages = w->pages,
                 .window = w->window,
                 .sliding = w->sliding,
                 .full = w->full,
                 .weak = w->weak,
                 .random = w->random};
    w->window_pages = w->sliding ? (w->window + 62) / 64 : 0;
    prefix_open(&w->cache, &(prefix_options){.nodes = nodes,
                                             .window = w->window,
                                             .uses = {w->sliding, w->full},
                                             .pages = {&w->pool, retain, release, count}});
    CHECK(prefix_window_pages(w->cache) == w->window_pages);
}

static void world_close(world *w) {
    prefix_close(w->cache);
    for (int kind = 0; kind < KV_KINDS; kind++)
        for (uint32_t i = 0; i < PAGES; i++) CHECK(w->pool.count[kind][i] == 0);
}

/* Two prefixes have the same number if and only if they have the same tokens: all of them, hashed without a key. */
static uint32_t number_of(const text *t, uint32_t pages) {
    uint64_t h = pages;
    for (uint32_t i = 0; i < pages * 64; i++) h = (h ^ t->token[i]) * 0x9E3779B97F4A7C15u, h ^= h >> 29;
    return (uint32_t)(h >> 32);
}

static uint32_t common_pages(const text *a, const text *b) {
    uint32_t i = 0;
    while (i < a->n / 64 && i < b->n / 64 && !memcmp(a->token + i * 64, b->token + i * 64, 256)) i++;
    return i;
}

/* By definition: each page of the window before the end was in the window before some point that shares it. */
static void naive(const world *w, const text *t, uint32_t *pages, uint32_t *known) {
    bool in_window[LONGEST + 2] = {false};
    uint32_t most = (t->n - 1) / 64, run = 0;
    *pages = *known = 0;
    for (uint32_t i = 0; i < w->points; i++) {
        const text *p = &w->point[i];
        uint32_t same = common_pages(t, p), end = p->n / 64;
        if (same > *known) *known = same;
        for (uint32_t k = 0; k < same; k++)
            if (k + w->window_pages >= end) in_window[k] = true;
    }
    if (*known > most) *known = most;
    for (uint32_t i = 0; i < *known; i++) {
        run = in_window[i] ? run + 1 : 0;
        if (run >= w->window_pages || run == i + 1) *pages = i + 1;
    }
}

static void remember(world *w, const text *t, uint32_t pages) {
    for (uint32_t i = 0; i < w->points; i++)
        if (w->point[i].n == pages * 64 && common_pages(t, &w->point[i]) == pages) return;
    if (w->points == PREFIXES) return;
    w->point[w->points] = *t;
    w->point[w->points++].n = pages * 64;
}

/* A page nobody holds, after eviction when there is none. */
static uint32_t take(world *w, kv_kind kind) {
    for (int pass = 0; pass < 2; pass++) {
        uint32_t start = below(w, w->pages);
        for (uint32_t i = 0; i < w->pages; i++) {
            uint32_t page = (start + i) % w->pages;
            if (w->pool.count[kind][page]) continue;
            w->pool.count[kind][page] = 1;
            return page;
        }
        uint32_t freed = 0, want = 1 + below(w, 3), given = prefix_reclaim(w->cache, kind, want);
        for (uint32_t i = 0; i < w->pages; i++) freed += w->pool.count[kind][i] == 0;
        CHECK_THAT(given == freed && given > 0, "%u said to be freed, %u are", given, freed);
        w->evicted = true;
    }
    return 0;
}

static void weaken(const world *w, prefix_chain *chain) {
    for (uint32_t i = 0; w->weak && i < chain->pages; i++) {
        memset(chain->key[i] + 1, 0, PREFIX_KEY_BYTES - 1);
        chain->key[i][0] &= 1;
    }
}

typedef struct run_of {
    uint32_t table[KV_KINDS][LONGEST + 2];
    prefix_chain chain;
} run_of;

static uint32_t begin(world *w, const text *t, run_of *r) {
    uint32_t pages, known, most = (t->n - 1) / 64;
    uint32_t *const table[KV_KINDS] = {r->table[KV_SLIDING], r->table[KV_FULL]};
    memset(r->table, 0xFF, sizeof r->table);
    prefix_chain_extend(&r->chain, t->token, t->n);
    weaken(w, &r->chain);
    prefix_hit hit = prefix_find(w->cache, &r->chain, t->token, t->n);
    naive(w, t, &pages, &known);
    CHECK_THAT(w->evicted ? hit.pages <= pages && hit.known <= known
                          : hit.pages == pages && hit.known == known,
               "%u of %u pages found, by definition %u of %u", hit.pages, hit.known, pages, known);
    CHECK(hit.pages <= most && hit.known >= hit.pages);
    prefix_hold(w->cache, &hit, table);
    prefix_count(w->cache, t->n, hit.pages * 64);
    w->queried += t->n;
    w->hits += hit.pages * 64;
    for (uint32_t i = 0; i < hit.pages; i++) {
        uint32_t want = number_of(t, i + 1);
        bool in_window = i + w->window_pages >= hit.pages;
        if (w->full) CHECK(w->pool.holds[KV_FULL][r->table[KV_FULL][i]] == want);
        if (in_window) CHECK(w->pool.holds[KV_SLIDING][r->table[KV_SLIDING][i]] == want);
        else CHECK(r->table[KV_SLIDING][i] == PREFIX_NO_PAGE);
    }
    return hit.pages;
}

/* Computes what is missing, makes points on the way, and lets go of sliding pages that the window has left. */
static void request(world *w, const text *t) {
    run_of r = {0};
    for (uint32_t i = begin(w, t, &r); i < t->n / 64; i++) {
        for (int kind = 0; kind < KV_KINDS; kind++) {
            if (kind == KV_SLIDING ? !w->sliding : !w->full) continue;
            r.table[kind][i] = take(w, kind);
            w->pool.holds[kind][r.table[kind][i]] = number_of(t, i + 1);
        }
        if (i + 1 == t->n / 64 || below(w, 4) == 0) {
            const uint32_t *const table[KV_KINDS] = {r.table[KV_SLIDING], r.table[KV_FULL]};
            CHECK(prefix_add(w->cache, &r.chain, t->token, i + 1, table));
            remember(w, t, i + 1);
        }
        if (w->sliding && i >= w->window_pages) {
            uint32_t *gone = &r.table[KV_SLIDING][i - w->window_pages];
            if (*gone != PREFIX_NO_PAGE) release(&w->pool, KV_SLIDING, *gone);
            *gone = PREFIX_NO_PAGE;
        }
    }
    for (int kind = 0; kind < KV_KINDS; kind++)
        for (uint32_t i = 0; i < LONGEST + 2; i++)
            if (r.table[kind][i] != PREFIX_NO_PAGE) release(&w->pool, kind, r.table[kind][i]);
    prefix_chain_free(&r.chain);
}

/* Pages of few kinds, so that texts share beginnings and part at any of them. */
static void random_text(world *w, text *t) {
    t->n = 1 + below(w, TOKENS);
    for (uint32_t page = 0; page * 64 < TOKENS; page++) {
        uint32_t kind = below(w, 3) ? 0 : below(w, 3);
        for (uint32_t i = 0; i < 64; i++) t->token[page * 64 + i] = i == 63 ? kind : i;
    }
}

static void check_world(world *w, uint32_t nodes, uint32_t requests, bool evicts) {
    world_open(w, nodes);
    for (uint32_t i = 0; i < requests; i++) {
        text t;
        random_text(w, &t);
        request(w, &t);
    }
    prefix_statistics s = prefix_state(w->cache);
    CHECK(s.queried_tokens == w->queried && s.hit_tokens == w->hits && w->hits > 0);
    CHECK(evicts ? s.evicted_points > 0 : s.evicted_points == 0 && !w->evicted);
    for (int kind = 0; kind < KV_KINDS; kind++) {
        uint32_t held = 0;
        for (uint32_t i = 0; i < PAGES; i++) held += w->pool.count[kind][i];
        CHECK(held == s.pages[kind]);
    }
    if (!w->sliding) CHECK(s.pages[KV_FULL] == s.nodes && s.points == s.nodes);
    world_close(w);
}

TEST(random_requests_without_eviction) {
    static world w;
    const uint32_t windows[] = {1, 2, 64, 65, 66, 129, 300, 2000};
    for (uint32_t i = 0; i < sizeof windows / sizeof *windows; i++) {
        w = (world){.window = windows[i], .sliding = true, .full = i != 2, .pages = PAGES, .random = i};
        check_world(&w, PAGES, 25, false);
    }
    w = (world){.full = true, .pages = PAGES, .random = 99};
    check_world(&w, PAGES, 25, false);
}

TEST(random_requests_with_eviction) {
    static world w;
    const uint32_t windows[] = {0, 2, 65, 130, 400};
    for (uint32_t i = 0; i < 10; i++) {
        w = (world){.window = windows[i % 5],
                    .sliding = windows[i % 5] > 0,
                    .full = true,
                    .pages = 14 + 9 * (i / 5),
                    .random = i};
        check_world(&w, PAGES, 400, true);
    }
}

TEST(nodes_run_out_before_pages) {
    static world w;
    for (uint32_t window = 0; window < 140; window += 68) {
        w = (world){.window = window, .sliding = window > 0, .full = true, .pages = PAGES, .random = window};
        world_open(&w, 16);
        w.evicted = true; /* without our asking */
        for (uint32_t i = 0; i < 300; i++) {
            text t;
            random_text(&w, &t);
            request(&w, &t);
            CHECK(prefix_state(w.cache).nodes <= 16);
        }
        CHECK(w.hits > 0 && prefix_state(w.cache).evicted_points > 0);
        world_close(&w);
    }
}

/* Keys of one bit: every lookup meets other texts' nodes, and none of their pages is given out. */
TEST(collisions_give_no_wrong_pages) {
    static world w;
    for (uint32_t i = 0; i < 4; i++) {
        w = (world){.window = 65,
                    .sliding = i % 2,
                    .full = true,
                    .pages = i < 2 ? PAGES : 16,
                    .weak = true,
                    .random = i};
        check_world(&w, PAGES, i < 2 ? 25 : 300, i >= 2);
    }
}

static text counting(uint32_t first, uint32_t n) {
    text t = {.n = n};
    for (uint32_t i = 0; i < n; i++) t.token[i] = first + i;
    return t;
}

static prefix_hit look(world *w, const text *t) {
    prefix_chain chain = {0};
    prefix_chain_extend(&chain, t->token, t->n);
    prefix_hit hit = prefix_find(w->cache, &chain, t->token, t->n);
    prefix_chain_free(&chain);
    return hit;
}

TEST(the_oldest_goes_first_and_held_pages_stay) {
    static world w = {.full = true, .pages = PAGES};
    world_open(&w, 64);
    text a = counting(0, 257), b = counting(1000, 257), c = counting(2000, 257);
    const text *all[] = {&a, &b, &c};
    run_of r = {0};
    for (uint32_t i = 0; i < 3; i++) request(&w, all[i]);
    CHECK(begin(&w, &a, &r) == 4); /* used again, and held */
    CHECK(prefix_reclaim(w.cache, KV_FULL, 1) == 1 && look(&w, &b).pages == 3);
    CHECK(prefix_reclaim(w.cache, KV_FULL, 4) == 4 && look(&w, &b).pages == 0 && look(&w, &c).pages == 3);
    CHECK(prefix_reclaim(w.cache, KV_FULL, 9) == 3 && look(&w, &c).pages == 0);
    CHECK(look(&w, &a).pages == 4 && prefix_reclaim(w.cache, KV_SLIDING, 1) == 0);
    for (uint32_t i = 0; i < 4; i++) release(&w.pool, KV_FULL, r.table[KV_FULL][i]);
    CHECK(prefix_reclaim(w.cache, KV_FULL, 9) == 4 && prefix_state(w.cache).nodes == 0);
    prefix_chain_free(&r.chain);
    world_close(&w);
}

/* Of a long text's points the older lose their windows; its full pages stay while a later point needs them. */
TEST(a_point_without_its_window_is_none) {
    static world w = {.window = 130, .sliding = true, .full = true, .pages = PAGES};
    world_open(&w, 64);
    text t = counting(0, 641), early = counting(0, 300);
    early.token[299] = 7;
    run_of r = {0};
    const uint32_t *const table[KV_KINDS] = {r.table[KV_SLIDING], r.table[KV_FULL]};
    CHECK(begin(&w, &t, &r) == 0);
    for (uint32_t i = 0; i < 10; i++)
        for (int kind = 0; kind < KV_KINDS; kind++) r.table[kind][i] = take(&w, kind);
    CHECK(prefix_add(w.cache, &r.chain, t.token, 4, table) &&
          prefix_add(w.cache, &r.chain, t.token, 10, table));
    for (int kind = 0; kind < KV_KINDS; kind++)
        for (uint32_t i = 0; i < 10; i++) release(&w.pool, kind, r.table[kind][i]);
    CHECK(look(&w, &early).pages == 4 && look(&w, &t).pages == 10);
    CHECK(prefix_state(w.cache).pages[KV_SLIDING] == 6 && prefix_state(w.cache).pages[KV_FULL] == 10);
    CHECK(prefix_reclaim(w.cache, KV_SLIDING, 1) == 3);
    prefix_hit hit = look(&w, &early);
    CHECK(hit.pages == 0 && hit.known == 4 && look(&w, &t).pages == 10);
    CHECK(prefix_state(w.cache).pages[KV_FULL] == 10 && prefix_state(w.cache).points == 1);
    prefix_chain_free(&r.chain);
    world_close(&w);
}

/* Two points share the pages that nobody else has, and each has one that somebody runs with. */
TEST(points_do_not_keep_each_other) {
    static world w = {.window = 130, .sliding = true, .full = true, .pages = PAGES};
    world_open(&w, 64);
    text t = counting(0, 321);
    run_of r = {0};
    const uint32_t *const table[KV_KINDS] = {r.table[KV_SLIDING], r.table[KV_FULL]};
    CHECK(begin(&w, &t, &r) == 0);
    for (uint32_t i = 0; i < 5; i++)
        for (int kind = 0; kind < KV_KINDS; kind++) r.table[kind][i] = take(&w, kind);
    CHECK(prefix_add(w.cache, &r.chain, t.token, 2, table) &&
          prefix_add(w.cache, &r.chain, t.token, 3, table));
    for (uint32_t i = 0; i < 2; i++) release(&w.pool, KV_SLIDING, r.table[KV_SLIDING][i]);
    CHECK(prefix_reclaim(w.cache, KV_SLIDING, 1) == 2);
    CHECK(prefix_reclaim(w.cache, KV_SLIDING, 1) == 0 && prefix_reclaim(w.cache, KV_FULL, 1) == 0);
    for (uint32_t i = 0; i < 5; i++)
        for (int kind = 0; kind < KV_KINDS; kind++)
            if (kind == KV_FULL || i >= 2) release(&w.pool, kind, r.table[kind][i]);
    prefix_chain_free(&r.chain);
    world_close(&w);
}

int main(void) {
    RUN(random_requests_without_eviction);
    RUN(random_requests_with_eviction);
    RUN(nodes_run_out_before_pages);
    RUN(collisions_give_no_wrong_pages);
    RUN(the_oldest_goes_first_and_held_pages_stay);
    RUN(a_point_without_its_window_is_none);
    RUN(points_do_not_keep_each_other);
    return test_result();
}
