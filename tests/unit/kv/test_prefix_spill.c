/* The book of files against a pool and a disk whose pages hold the number of the text they belong to: whatever fails and
 * whatever is given up, no page of another text is ever handed out, and the books balance. */
#include "base/memory.h"
#include "shard/kv/prefix_spill.h"
#include "tests/test.h"

enum { PAGES = 300, LONGEST = 8, TOKENS = LONGEST * KV_TOKENS_PER_PAGE + 10, FILES = 4000 };

typedef struct text {
    uint32_t token[TOKENS], n;
} text;

typedef struct world {
    uint32_t count[KV_KINDS][PAGES], holds[KV_KINDS][PAGES], pages;
    prefix_cache *memory;
    prefix_spill *spill;
    prefix_options like;
    uint64_t limit;
    spill_page disk[FILES];
    uint32_t disk_holds[FILES], disk_count;
    uint32_t window, window_pages, fail_one_in;
    uint64_t random, read, steps;
} world;

static const uint64_t file_bytes[KV_KINDS] = {700, 300};

static uint32_t below(world *w, uint32_t n) {
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(w->random >> 33) % n;
}

static void retain(void *context, kv_kind kind, uint32_t page) { ((world *)context)->count[kind][page]++; }
static void release(void *context, kv_kind kind, uint32_t page) {
    world *w = context;
    CHECK(w->count[kind][page] > 0);
    w->count[kind][page]--;
}
static uint32_t count(void *context, kv_kind kind, uint32_t page) {
    return ((world *)context)->count[kind][page];
}

static bool take_free(world *w, kv_kind kind, uint32_t *page) {
    uint32_t start = below(w, w->pages);
    for (uint32_t i = 0; i < w->pages; i++) {
        *page = (start + i) % w->pages;
        if (w->count[kind][*page]) continue;
        w->count[kind][*page] = 1;
        return true;
    }
    return false;
}

static bool take(void *context, kv_kind kind, uint32_t *page) {
    world *w = context;
    while (!take_free(w, kind, page))
        if (!prefix_reclaim(w->memory, kind, 1) && !prefix_spill_flush(w->spill)) return false;
    return true;
}

static void open_spill(world *w) {
    spill_page found[FILES];
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->disk_count; i++)
        if (w->disk_holds[i]) found[n++] = w->disk[i];
    prefix_spill_open(&w->spill, &(prefix_spill_options){.memory = w->memory,
                                                         .like = w->like,
                                                         .take = take,
                                                         .file_bytes = {file_bytes[0], file_bytes[1]},
                                                         .limit_bytes = w->limit,
                                                         .step_bytes = 1500,
                                                         .found = found,
                                                         .found_count = n});
}

static void world_open(world *w, uint32_t window, uint32_t pages, uint64_t limit, uint64_t seed) {
    *w = (world){.pages = pages, .limit = limit, .random = seed, .window = window};
    w->like = (prefix_options){
        .nodes = PAGES, .window = window, .uses = {window > 0, true}, .pages = {w, retain, release, count}};
    prefix_open(&w->memory, &w->like);
    w->window_pages = prefix_window_pages(w->memory);
    open_spill(w);
}

static void world_close(world *w) {
    prefix_spill_close(w->spill);
    prefix_close(w->memory);
    for (int kind = 0; kind < KV_KINDS; kind++)
        for (uint32_t i = 0; i < PAGES; i++) CHECK(w->count[kind][i] == 0);
}

static uint32_t number_of(const text *t, uint32_t pages) {
    uint64_t h = pages;
    for (uint32_t i = 0; i < pages * 64; i++) h = (h ^ t->token[i]) * 0x9E3779B97F4A7C15u, h ^= h >> 29;
    return (uint32_t)(h >> 32) | 1;
}

/* ---- what a rank does ---- */

static uint32_t *on_disk(world *w, const spill_page *what) {
    for (uint32_t i = 0; i < w->disk_count; i++)
        if (w->disk[i].kind == what->kind && !memcmp(w->disk[i].key, what->key, sizeof what->key))
            return &w->disk_holds[i];
    return NULL;
}

static bool carry_out(world *w, const spill_op *op) {
    uint32_t *file = on_disk(w, &op->what), *page = &w->holds[op->what.kind][op->page];
    if (op->action == SPILL_REMOVE) {
        if (file) *file = 0;
        return true;
    }
    bool fails = w->fail_one_in && below(w, w->fail_one_in) == 0;
    if (op->action == SPILL_READ) {
        CHECK(w->fail_one_in || (file && *file));
        if (fails || !file || !*file) return false;
        CHECK(w->count[op->what.kind][op->page] > 0);
        *page = *file;
        return true;
    }
    if (fails) return false;
    if (!file) {
        w->disk[w->disk_count] = op->what;
        file = &w->disk_holds[w->disk_count++];
        CHECK(w->disk_count < FILES);
    }
    *file = *page;
    CHECK(*file != 0);
    return true;
}

static void step(world *w) {
    uint32_t n;
    uint64_t bytes = 0;
    uint8_t ok[512];
    const spill_op *op = prefix_spill_plan(w->spill, &n);
    CHECK(n <= sizeof ok);
    for (uint32_t i = 0; i < n; i++) {
        if (op[i].action != SPILL_REMOVE) bytes += file_bytes[op[i].what.kind];
        w->read += op[i].action == SPILL_READ;
        ok[i] = carry_out(w, &op[i]);
    }
    w->steps++;
    CHECK(bytes <= 1500);
    prefix_spill_done(w->spill, ok);
    CHECK(prefix_spill_state(w->spill).bytes <= w->limit);
}

static void settle(world *w) {
    for (uint32_t i = 0; prefix_spill_busy(w->spill); i++) {
        step(w);
        if (i > 1000) {
            CHECK(!"spilling ends");
            return;
        }
    }
}

/* Returns how many pages needed no computing. Pages of a running step are written at its end only, so a page that is
 * taken is not filled before what was to be written of it was. */
static uint32_t request(world *w, const text *t, uint64_t id) {
    uint32_t table[KV_KINDS][LONGEST + 1], *const pages[KV_KINDS] = {table[0], table[1]}, most = t->n / 64;
    const uint32_t *const have[KV_KINDS] = {table[0], table[1]};
    prefix_chain chain = {0};
    memset(table, 0xFF, sizeof table);
    prefix_chain_extend(&chain, t->token, t->n);
    prefix_hit hit = prefix_find(w->memory, &chain, t->token, t->n);
    for (uint32_t i = 0; prefix_spill_find(w->spill, id, &chain, t->token, t->n, hit.pages); i++) {
        step(w);
        hit = prefix_find(w->memory, &chain, t->token, t->n);
        CHECK(i < 1000);
    }
    prefix_hold(w->memory, &hit, pages);
    for (uint32_t i = 0; i < hit.pages; i++) {
        CHECK(w->holds[KV_FULL][table[KV_FULL][i]] == number_of(t, i + 1));
        if (i + w->window_pages >= hit.pages)
            CHECK(w->holds[KV_SLIDING][table[KV_SLIDING][i]] == number_of(t, i + 1));
    }
    for (uint32_t i = hit.pages; i < most; i++) {
        for (int kind = 0; kind < KV_KINDS; kind++)
            if (w->like.uses[kind]) CHECK(take(w, kind, &table[kind][i]));
        step(w);
        for (int kind = 0; kind < KV_KINDS; kind++)
            if (w->like.uses[kind]) w->holds[kind][table[kind][i]] = number_of(t, i + 1);
    }
    (void)prefix_add(w->memory, &chain, t->token, most, have);
    prefix_spill_add(w->spill, &chain, t->token, most, have);
    for (int kind = 0; kind < KV_KINDS; kind++)
        for (uint32_t i = 0; i < most; i++)
            if (table[kind][i] != PREFIX_NO_PAGE) release(w, kind, table[kind][i]);
    prefix_chain_free(&chain);
    return hit.pages;
}

static text document(uint32_t number, uint32_t n) {
    text t = {.n = n};
    for (uint32_t i = 0; i < n; i++) t.token[i] = i < 64 ? i : number * 1000 + i;
    return t;
}

static uint32_t in_memory(world *w, const text *t) {
    prefix_chain chain = {0};
    prefix_chain_extend(&chain, t->token, t->n);
    uint32_t pages = prefix_find(w->memory, &chain, t->token, t->n).pages;
    prefix_chain_free(&chain);
    return pages;
}

TEST(what_memory_gave_up_comes_back) {
    static world w;
    for (uint32_t window = 0; window < 200; window += 100) {
        /* Memory for five documents of eight, disk for all. */
        world_open(&w, window, 40, 1 << 20, window);
        uint32_t computed = 0, found = 0;
        for (uint32_t i = 0; i < 32; i++) {
            text t = document(i % 8, 520);
            uint32_t pages = request(&w, &t, i);
            if (i < 8) computed += 8 - pages;
            else found += pages;
        }
        CHECK_THAT(computed >= 50 && found == 24 * 8, "%u computed, %u found of %u", computed, found, 24 * 8);
        CHECK(w.read > 24 && prefix_spill_state(w.spill).read_pages == w.read);
        world_close(&w);
    }
}

TEST(a_new_start_knows_what_the_last_one_wrote) {
    static world w;
    for (uint32_t window = 0; window < 200; window += 100) {
        world_open(&w, window, PAGES, 1 << 20, window);
        for (uint32_t i = 0; i < 4; i++) {
            text t = document(i, 325 + 64 * i);
            (void)request(&w, &t, i);
        }
        settle(&w);
        world_close(&w);
        prefix_open(&w.memory, &w.like);
        memset(w.holds, 0, sizeof w.holds);
        open_spill(&w);
        CHECK(prefix_spill_state(w.spill).bytes > 0);
        for (uint32_t i = 0; i < 4; i++) {
            text t = document(i, 325 + 64 * i + 1);
            CHECK(in_memory(&w, &t) == (i && !window));
            CHECK(request(&w, &t, i) == 5 + i);
        }
        world_close(&w);
    }
}

/* Files without those before them, and windows without their pages, lead nowhere and are removed. */
TEST(a_torn_tree_loses_what_hangs_in_the_air) {
    static world w;
    world_open(&w, 100, PAGES, 1 << 20, 3);
    text t = document(0, 520), u = document(1, 520);
    (void)request(&w, &t, 1);
    (void)request(&w, &u, 2);
    settle(&w);
    prefix_chain chain = {0};
    prefix_chain_extend(&chain, t.token, t.n);
    world_close(&w);
    spill_page lost = {.kind = KV_FULL};
    memcpy(lost.key, chain.key[3], sizeof lost.key);
    *on_disk(&w, &lost) = 0;
    prefix_open(&w.memory, &w.like);
    open_spill(&w);
    settle(&w);
    CHECK(request(&w, &t, 1) == 0 && request(&w, &u, 2) == 8);
    lost.kind = KV_SLIDING;
    memcpy(lost.key, chain.key[7], sizeof lost.key);
    settle(&w);
    CHECK(on_disk(&w, &lost) && *on_disk(&w, &lost));
    prefix_chain_free(&chain);
    world_close(&w);
}

TEST(the_limit_holds_and_the_oldest_goes) {
    static world w;
    world_open(&w, 0, 24, 20 * 300, 1);
    for (uint32_t i = 0; i < 6; i++) {
        text t = document(i, 520);
        (void)request(&w, &t, i);
        settle(&w);
    }
    uint32_t files = 0;
    for (uint32_t i = 0; i < w.disk_count; i++) files += w.disk_holds[i] != 0;
    CHECK(files == prefix_spill_state(w.spill).bytes / 300 && files <= 20 && files >= 15);
    world_close(&w);
}

/* A disk for less than one text: nothing of it is kept, and nothing breaks. */
TEST(a_text_longer_than_the_disk) {
    static world w;
    world_open(&w, 100, PAGES, 5 * 300, 1);
    for (uint32_t i = 0; i < 3; i++) {
        text t = document(i, 520);
        (void)request(&w, &t, i);
        settle(&w);
    }
    CHECK(prefix_spill_state(w.spill).bytes <= 1500);
    world_close(&w);
}

TEST(random_texts_and_failures) {
    static world w;
    for (uint32_t i = 0; i < 12; i++) {
        world_open(&w, i % 3 * 65, 22 + i, i % 2 ? 1 << 20 : 40 * 700, i);
        w.fail_one_in = i % 4 == 3 ? 0 : 2 + 10 * (i % 4);
        for (uint32_t k = 0; k < 150; k++) {
            text t = document(below(&w, 6), 1 + below(&w, TOKENS));
            uint32_t change = below(&w, t.n);
            if (below(&w, 2)) t.token[change] = 7;
            (void)request(&w, &t, k);
            if (below(&w, 3) == 0) settle(&w);
        }
        CHECK(prefix_spill_state(w.spill).written_pages > 0);
        CHECK((prefix_spill_state(w.spill).failed > 0) == (w.fail_one_in > 0));
        world_close(&w);
    }
}

int main(void) {
    RUN(what_memory_gave_up_comes_back);
    RUN(a_new_start_knows_what_the_last_one_wrote);
    RUN(a_torn_tree_loses_what_hangs_in_the_air);
    RUN(the_limit_holds_and_the_oldest_goes);
    RUN(a_text_longer_than_the_disk);
    RUN(random_texts_and_failures);
    return test_result();
}
