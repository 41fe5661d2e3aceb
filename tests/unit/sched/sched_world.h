/* The scheduler without a model: a pretended runner that holds, for every position of every page, the hash of the tokens up
 * to there. A row reads what it would look at, by the page tables of the plan alone, and what it draws is made of what it
 * read: a page lost, shared wrongly or written too early gives another token, or breaks the chain of hashes. */
#ifndef TESTS_UNIT_SCHED_SCHED_WORLD_H
#define TESTS_UNIT_SCHED_SCHED_WORLD_H

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/sample/allowed_sets.h"
#include "shard/sched/sched.h"
#include "tests/parity_automaton.h"
#include "tests/test.h"

enum {
    SLOTS = 8,
    ROWS = 32,
    CHUNK = 16,
    CONTEXT = 600,
    VOCAB = 1000,
    WINDOW = 40,
    TABLE = CONTEXT / 64 + 1,
    FULL_PER_SLAB = 3,
    SLABS_MAX = 128,
    POINTS = 40
};

typedef struct cell {
    uint64_t hash;
    uint32_t token;
} cell;

typedef struct state {
    uint32_t prompt, max_tokens, tokens, drawn, prefilled, prompt_logprobs, cached;
    uint64_t hash, seed; /* of all tokens so far */
    bool submitted, started, ended, paused;
    bool grammar; /* that of tests/parity_automaton.h */
    char reason[12];
    status error;
} state;

typedef struct point { /* of the pretended prefix cache */
    uint32_t pages, tokens[CONTEXT], page[KV_KINDS][TABLE];
} point;

typedef struct world {
    sched *s;
    sched_options o;
    state *r;
    uint64_t now_ns, decode_ns, row_ns, row_depth_ns, step_ns;
    uint64_t stall_decode_ns, stall_mixed_ns; /* that the next step of this kind takes longer */
    uint32_t random, live, hits;
    bool calm;
    uint64_t slot_seed[SLOTS];
    uint32_t table[KV_KINDS][SLOTS][TABLE];
    cell page[KV_KINDS][SLABS_MAX * FULL_PER_SLAB][64];
    uint32_t decode_rows, prompt_rows; /* of the last step */
    plan p;
    point *point[POINTS];
    uint32_t points;
    const point *found;
    uint32_t set[ALLOWED_PLACES][(VOCAB + 31) / 32]; /* what the ranks hold */
} world;

static inline uint32_t rnd(world *w, uint32_t n) {
    w->random ^= w->random << 13;
    w->random ^= w->random >> 17;
    w->random ^= w->random << 5;
    return w->random % n;
}

static inline uint64_t mix(uint64_t hash, uint32_t token) {
    uint64_t x = (hash + token + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9u;
    return x ^ (x >> 32);
}
static inline uint32_t draw(uint64_t hash, uint64_t seed) { return (uint32_t)(mix(hash ^ seed, 0) % VOCAB); }

/* Among a set, or among those that the grammar allows at a position of the answer. */
static inline uint32_t draw_among(uint64_t hash, uint64_t seed, const uint32_t *set, uint32_t position) {
    uint32_t list[VOCAB], n = 0;
    for (uint32_t i = 0; i < VOCAB; i++)
        if (set ? set[i / 32] >> i % 32 & 1 : parity_allows(position, i, VOCAB)) list[n++] = i;
    INVARIANT(n > 0);
    return list[mix(hash ^ seed, 0) % n];
}

static inline uint64_t seed_of(const sampling *p) { return mix(p->seed, p->sample_index); }

/* ---- what the scheduler tells ---- */

static inline uint64_t clock_of(void *context) { return ((world *)context)->now_ns; }

static inline status on_started(void *c, uint64_t id, uint32_t cached, uint64_t us) {
    (void)us;
    state *r = &((world *)c)->r[id];
    CHECK(!r->started && !r->ended && cached <= r->prompt);
    r->started = true;
    r->cached = cached;
    return ST_OK;
}
static inline status on_progress(void *c, uint64_t id, uint32_t n) {
    state *r = &((world *)c)->r[id];
    CHECK(n > r->prefilled && n < r->prompt && !r->ended && !r->paused);
    r->prefilled = n;
    return ST_OK;
}
static inline status on_prompt(void *c, uint64_t id, uint32_t first, const token_logprob *p, uint32_t n) {
    (void)p;
    state *r = &((world *)c)->r[id];
    CHECK(n == 1 && first == r->prompt_logprobs + 1 && first < r->prompt);
    r->prompt_logprobs++;
    return ST_OK;
}
static inline status on_token(void *c, uint64_t id, uint32_t token, const token_logprob *p) {
    (void)p;
    state *r = &((world *)c)->r[id];
    CHECK(r->started && !r->ended && !r->paused);
    CHECK(token == (r->grammar ? draw_among(r->hash, r->seed, NULL, r->tokens) : draw(r->hash, r->seed)));
    r->hash = mix(r->hash, token);
    r->tokens++;
    r->drawn++;
    return ST_OK;
}
static inline status on_finished(void *c, uint64_t id, const sched_finish *f) {
    world *w = c;
    state *r = &w->r[id];
    CHECK(r->submitted && !r->ended);
    r->ended = true;
    r->error = f->error;
    snprintf(r->reason, sizeof r->reason, "%s", f->reason);
    if (!strcmp(f->reason, "length")) CHECK(r->tokens == r->max_tokens);
    w->live--;
    return ST_OK;
}

/* ---- a prefix cache as simple as can be ---- */

static inline uint32_t window_begin(uint32_t pages) {
    return pages * 64 + 1 > WINDOW ? (pages * 64 + 1 - WINDOW) / 64 : 0;
}

static inline uint32_t cache_find(void *c, uint64_t id, const uint32_t *tokens, uint32_t n) {
    world *w = c;
    (void)id;
    w->found = NULL;
    for (uint32_t i = 0; i < w->points; i++) {
        const point *p = w->point[i];
        if (p->pages * 64 < n && (!w->found || p->pages > w->found->pages) &&
            !memcmp(p->tokens, tokens, p->pages * 64 * sizeof *tokens))
            w->found = p;
    }
    return w->found ? w->found->pages : 0;
}

static inline void cache_hold(void *c, uint64_t id, uint32_t pages, uint32_t *const page[KV_KINDS]) {
    world *w = c;
    (void)id;
    INVARIANT(w->found && w->found->pages == pages);
    w->hits++;
    for (int kind = 0; kind < KV_KINDS; kind++)
        for (uint32_t i = kind == KV_SLIDING ? window_begin(pages) : 0; i < pages; i++) {
            page[kind][i] = w->found->page[kind][i];
            kv_pages_retain(sched_pages(w->s), (kv_kind)kind, page[kind][i]);
        }
}

static inline void cache_drop_oldest(world *w) {
    point *p = w->point[0];
    memmove(w->point, w->point + 1, --w->points * sizeof *w->point);
    for (int kind = 0; kind < KV_KINDS; kind++)
        for (uint32_t i = kind == KV_SLIDING ? window_begin(p->pages) : 0; i < p->pages; i++)
            kv_pages_release(sched_pages(w->s), (kv_kind)kind, &p->page[kind][i], 1);
    free(p);
}

static inline void cache_add(void *c, uint64_t id, const uint32_t *tokens, uint32_t pages,
                             const uint32_t *const page[KV_KINDS]) {
    world *w = c;
    (void)id;
    for (uint32_t i = 0; i < w->points; i++)
        if (w->point[i]->pages == pages && !memcmp(w->point[i]->tokens, tokens, pages * 64 * sizeof *tokens)) return;
    if (w->points == POINTS) cache_drop_oldest(w);
    point *p = memory_alloc(sizeof *p);
    p->pages = pages;
    memcpy(p->tokens, tokens, pages * 64 * sizeof *tokens);
    for (int kind = 0; kind < KV_KINDS; kind++)
        for (uint32_t i = kind == KV_SLIDING ? window_begin(pages) : 0; i < pages; i++) {
            INVARIANT(page[kind][i] != KV_NO_PAGE);
            p->page[kind][i] = page[kind][i];
            kv_pages_retain(sched_pages(w->s), (kv_kind)kind, page[kind][i]);
        }
    w->point[w->points++] = p;
}

static inline bool cache_reclaim(void *c, kv_kind kind, uint32_t n) {
    world *w = c;
    (void)kind, (void)n;
    if (w->points == 0) return false;
    cache_drop_oldest(w);
    return true;
}

/* ---- a world ---- */

static inline void open_world(world *w, uint32_t requests, uint32_t slabs, bool cached) {
    *w = (world){.random = 2463534242u, .now_ns = 1, .decode_ns = 1000000, .row_ns = 50000};
    INVARIANT(slabs <= SLABS_MAX);
    w->r = memory_alloc_array(requests, sizeof *w->r);
    w->o = (sched_options){.slots = SLOTS,
                           .rows_max = ROWS,
                           .chunk_max = CHUNK,
                           .context = CONTEXT,
                           .vocab = VOCAB,
                           .window = WINDOW,
                           .uses = {true, true},
                           .slabs = slabs,
                           .pages_per_slab = {1, FULL_PER_SLAB},
                           .clock = {clock_of, w},
                           .sink = {w, on_started, on_progress, on_prompt, on_token, on_finished}};
    if (cached)
        w->o.prefix = (sched_prefix){
            .context = w, .find = cache_find, .hold = cache_hold, .add = cache_add, .reclaim = cache_reclaim};
    CHECK_STATUS(sched_open(&w->s, &w->o), ST_OK);
}

/* With other options. */
static inline void reopen(world *w) {
    sched_close(w->s);
    CHECK_STATUS(sched_open(&w->s, &w->o), ST_OK);
}

static inline void close_world(world *w) {
    while (w->points) cache_drop_oldest(w);
    if (w->live == 0) CHECK(sched_slabs_used(w->s) == 0 && sched_running(w->s) == 0 && sched_waiting(w->s) == 0);
    sched_close(w->s);
    plan_close(&w->p);
    free(w->r);
}

static inline sampling plain(uint32_t max_tokens) {
    return (sampling){
        .top_p = 1, .repetition_penalty = 1, .logprobs = -1, .prompt_logprobs = -1, .max_tokens = max_tokens};
}

/* q->token_count are taken as they are; without tokens the prompt is made of the id. */
static inline void submit(world *w, sched_request q) {
    state *r = &w->r[q.id];
    INVARIANT(!r->submitted);
    if (!q.token_count) q.token_count = q.prompt_count;
    if (!q.tokens) {
        q.tokens = memory_alloc_array(q.token_count, sizeof *q.tokens);
        for (uint32_t i = 0; i < q.token_count; i++) q.tokens[i] = (uint32_t)(q.id * 31 + i * (q.id + 7)) % VOCAB;
    }
    q.sampling.seed = q.id * 2654435761u;
    r->seed = seed_of(&q.sampling);
    r->grammar = q.grammar || q.same_grammar;
    r->prompt = q.prompt_count;
    r->tokens = q.token_count - q.prompt_count;
    r->max_tokens = q.sampling.max_tokens;
    for (uint32_t i = 0; i < q.token_count; i++) r->hash = mix(r->hash, q.tokens[i]);
    r->submitted = true;
    w->live++;
    CHECK_STATUS(sched_submit(w->s, &q), ST_OK);
    CHECK(!q.tokens && !q.grammar);
}

static inline void submit_plain(world *w, uint64_t id, uint32_t prompt, uint32_t max_tokens) {
    submit(w, (sched_request){.id = id, .prompt_count = prompt, .sampling = plain(max_tokens)});
}

static inline void pause_request(world *w, uint64_t id, bool paused) {
    if (w->r[id].ended) return;
    w->r[id].paused = paused;
    CHECK_STATUS(sched_pause(w->s, id, paused), ST_OK);
}

/* ---- a step ---- */

static inline void take_tables(world *w, const plan *p) {
    for (uint32_t i = 0; i < p->open_count; i++) {
        uint32_t slot = p->open[i].slot;
        for (int kind = 0; kind < KV_KINDS; kind++)
            memset(w->table[kind][slot], 0xFF, sizeof w->table[kind][slot]);
        w->slot_seed[slot] = seed_of(&p->open[i].params);
        if (p->open[i].params.repetition_penalty != 1) CHECK(p->open[i].history_count >= p->open[i].prompt_count);
    }
    for (uint32_t i = 0; i < p->allowed_count; i++) {
        const plan_allowed *a = &p->allowed[i];
        uint32_t *set = w->set[a->place];
        memset(set, 0, sizeof w->set[0]);
        if (a->kind == PLAN_SET_BITS) memcpy(set, p->words + a->first, sizeof w->set[0]);
        else
            for (uint32_t k = 0; k < a->count; k++) set[p->tokens[a->first + k] / 32] |= 1u << p->tokens[a->first + k] % 32;
    }
    for (uint32_t i = 0; i < p->page_count; i++)
        w->table[p->page[i].kind][p->page[i].slot][p->page[i].index] = p->page[i].page;
}

static inline cell *cell_at(world *w, kv_kind kind, uint32_t slot, uint32_t position) {
    uint32_t page = w->table[kind][slot][position / 64];
    CHECK_THAT(page != KV_NO_PAGE, "kind %d slot %u position %u", kind, slot, position);
    return page == KV_NO_PAGE ? &w->page[kind][0][0] : &w->page[kind][page][position % 64];
}

/* Everything before a span: the chain of hashes is whole, and the window's pages hold the same. */
static inline uint64_t check_past(world *w, uint32_t slot, uint32_t position) {
    uint64_t hash = 0;
    uint32_t window = position + 1 > WINDOW ? position + 1 - WINDOW : 0;
    for (uint32_t i = 0; i < position; i++) {
        const cell *full = cell_at(w, KV_FULL, slot, i);
        hash = mix(hash, full->token);
        CHECK(full->hash == hash);
        if (i >= window) CHECK(cell_at(w, KV_SLIDING, slot, i)->hash == hash);
    }
    return hash;
}

static inline uint64_t write_row(world *w, uint32_t slot, uint32_t position, uint32_t token, uint64_t hash) {
    hash = mix(hash, token);
    for (int kind = 0; kind < KV_KINDS; kind++) {
        /* Nobody else looks at a page that is written. */
        uint32_t page = w->table[kind][slot][position / 64];
        CHECK(page == KV_NO_PAGE || kv_pages_references(sched_pages(w->s), (kv_kind)kind, page) == 1);
        *cell_at(w, (kv_kind)kind, slot, position) = (cell){hash, token};
    }
    return hash;
}

static inline void run_span(world *w, const plan *p, uint32_t index) {
    const plan_span *s = &p->span[index];
    uint64_t hash = check_past(w, s->slot, s->position);
    for (uint32_t row = 0; row < s->count; row++) {
        hash = write_row(w, s->slot, s->position + row, p->tokens[s->first_input + row], hash);
        runner_result result = {.span = index, .row = row, .drawn = s->draw && row + 1 == s->count};
        if (!result.drawn && s->logits != PLAN_LOGITS_ALL) continue;
        const uint32_t *set = result.drawn && s->allowed ? w->set[s->allowed - 1] : NULL;
        uint64_t seed = w->slot_seed[s->slot];
        result.sample.token = set ? draw_among(hash, seed, set, 0) : draw(hash, seed);
        CHECK_STATUS(sched_take_result(w->s, &result), ST_OK);
    }
}

static inline void count_step(world *w, const plan *p) {
    uint64_t ns = 0;
    w->decode_rows = w->prompt_rows = 0;
    for (uint32_t i = 0; i < p->span_count; i++) {
        const plan_span *s = &p->span[i];
        if (s->count == 1 && s->draw) {
            w->decode_rows++;
            continue;
        }
        w->prompt_rows += s->count;
        ns += s->count * w->row_ns + w->row_depth_ns * s->count * (s->position + s->count / 2);
    }
    w->step_ns = ns + (p->span_count ? w->decode_ns : 0);
    uint64_t *stall = w->prompt_rows ? &w->stall_mixed_ns : &w->stall_decode_ns;
    w->step_ns += *stall;
    *stall = 0;
}

static inline void step(world *w) {
    const plan_bounds bounds = {.slots = SLOTS,
                                .rows_max = ROWS,
                                .context = CONTEXT,
                                .vocab = VOCAB,
                                .pages_per_slot = TABLE,
                                .pages = {w->o.slabs, w->o.slabs * FULL_PER_SLAB},
                                .allowed_places = ALLOWED_PLACES};
    plan decoded = {0};
    strbuf bytes = {0};
    CHECK_STATUS(sched_plan(w->s, &w->p), ST_OK);
    plan_encode(&w->p, &bytes);
    CHECK_STATUS(plan_decode(&decoded, bytes.data, bytes.size, &bounds), ST_OK);
    strbuf_close(&bytes);
    take_tables(w, &decoded);
    count_step(w, &decoded);
    w->now_ns += w->step_ns;
    for (uint32_t i = 0; i < decoded.span_count; i++) run_span(w, &decoded, i);
    CHECK_STATUS(sched_step_done(w->s), ST_OK);
    plan_close(&decoded);
    w->now_ns += 1000;
}

#endif
