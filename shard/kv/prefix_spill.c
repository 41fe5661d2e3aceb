#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/kv/prefix_spill_internal.h"

enum { NONE = 0xFFFFFFFF, REMOVAL_BYTES = 1 << 16 /* what removing a file is taken to cost */ };

/* ---- files, as the tree's pages ---- */

uint32_t spill_file_take(prefix_spill *s, kv_kind kind, const uint8_t *key) {
    INVARIANT(s->free_files > 0);
    uint32_t id = s->free_file == NONE ? s->fresh_file++ : s->free_file;
    spill_file *f = &s->file[id];
    if (id == s->free_file) s->free_file = f->next_free;
    s->free_files--;
    *f = (spill_file){.kind = kind, .next_free = NONE};
    memcpy(f->key, key, sizeof f->key);
    return id;
}

static due_op *due_add(prefix_spill *s) {
    if (s->due_first && s->due_first * 2 >= s->due_count) {
        s->due_count -= s->due_first;
        memmove(s->due, s->due + s->due_first, s->due_count * sizeof *s->due);
        s->due_before += s->due_first;
        s->due_first = 0;
    }
    if (s->due_count == s->due_cap) {
        s->due_cap = s->due_cap ? s->due_cap * 2 : 64;
        s->due = memory_grow(s->due, s->due_cap * sizeof *s->due);
    }
    due_op *d = &s->due[s->due_count++];
    memset(d, 0, sizeof *d);
    d->file = NONE;
    return d;
}

void spill_file_give_back(prefix_spill *s, uint32_t id, bool on_disk) {
    spill_file *f = &s->file[id];
    INVARIANT(f->references == 0 && f->write == 0);
    if (on_disk) {
        due_op *d = due_add(s);
        d->op.action = SPILL_REMOVE;
        d->op.what.kind = f->kind;
        memcpy(d->op.what.key, f->key, sizeof f->key);
    }
    f->next_free = s->free_file;
    s->free_file = id;
    s->free_files++;
}

static void file_retain(void *context, kv_kind kind, uint32_t id) {
    prefix_spill *s = context;
    (void)kind;
    if (s->file[id].references++ == 0) s->state.bytes += s->o.file_bytes[s->file[id].kind];
}

static uint32_t file_count(void *context, kv_kind kind, uint32_t id) {
    (void)kind;
    return ((prefix_spill *)context)->file[id].references;
}

static void memory_release(prefix_spill *s, kv_kind kind, uint32_t page) {
    s->o.like.pages.release(s->o.like.pages.context, kind, page);
}

static void file_release(void *context, kv_kind kind, uint32_t id) {
    prefix_spill *s = context;
    spill_file *f = &s->file[id];
    INVARIANT(f->references > 0);
    if (--f->references) return;
    s->state.bytes -= s->o.file_bytes[kind];
    bool written = f->write == 0;
    if (!written) {
        due_op *d = &s->due[f->write - 1 - s->due_before];
        d->cancelled = true;
        memory_release(s, kind, d->op.page);
        f->write = 0;
    }
    spill_file_give_back(s, id, written);
}

/* ---- open ---- */

void prefix_spill_open(prefix_spill **out, const prefix_spill_options *o) {
    prefix_spill *s = memory_alloc(sizeof *s);
    uint64_t smallest = UINT64_MAX;
    s->o = *o;
    for (int kind = 0; kind < KV_KINDS; kind++)
        if (o->like.uses[kind] && o->file_bytes[kind] < smallest) smallest = o->file_bytes[kind];
    INVARIANT(smallest > 0 && smallest < UINT64_MAX);
    uint64_t files = o->limit_bytes / smallest;
    if (files > SPILL_FILES_MAX) files = SPILL_FILES_MAX;
    if (files < o->found_count) files = o->found_count;
    s->files = (uint32_t)files;
    s->file = memory_alloc_array(s->files, sizeof *s->file);
    s->free_file = NONE;
    s->free_files = s->files;
    prefix_open(&s->disk, &(prefix_options){.nodes = s->files,
                                            .window = o->like.window,
                                            .uses = {o->like.uses[0], o->like.uses[1]},
                                            .pages = {s, file_retain, file_release, file_count}});
    prefix_spill_restore(s);
    s->o.found = NULL;
    *out = s;
}

static void load_end(prefix_spill *s) {
    spill_load *l = &s->load;
    for (uint32_t i = 0; i < l->pages; i++)
        for (int kind = 0; kind < KV_KINDS; kind++) {
            if (l->page[kind][i] != PREFIX_NO_PAGE) memory_release(s, kind, l->page[kind][i]);
            if (l->file[kind][i] != PREFIX_NO_PAGE) file_release(s, kind, l->file[kind][i]);
        }
    for (int kind = 0; kind < KV_KINDS; kind++) {
        free(l->page[kind]);
        free(l->file[kind]);
    }
    free(l->tokens);
    prefix_chain_free(&l->chain);
    *l = (spill_load){0};
}

void prefix_spill_close(prefix_spill *s) {
    if (!s) return;
    load_end(s);
    prefix_close(s->disk); /* files stay: what it lets go of is no longer asked of any rank */
    free(s->file);
    free(s->due);
    free(s->op);
    free(s->op_file);
    free(s);
}

/* ---- writing ---- */

static bool drop_oldest(prefix_spill *s) {
    return prefix_reclaim(s->disk, KV_FULL, 1) || prefix_reclaim(s->disk, KV_SLIDING, 1);
}

void spill_keep_limit(prefix_spill *s) {
    while (s->state.bytes > s->o.limit_bytes && drop_oldest(s)) {
    }
}

/* The first pages that disk knows, after making room for the files that the others need. NONE: there is none. */
static uint32_t make_room(prefix_spill *s, const prefix_chain *chain, const uint32_t *tokens,
                          uint32_t pages) {
    for (;;) {
        uint32_t known = prefix_find(s->disk, chain, tokens, pages * KV_TOKENS_PER_PAGE + 1).known;
        if (pages - known + prefix_window_pages(s->disk) <= s->free_files) return known;
        if (!drop_oldest(s)) return NONE;
    }
}

static void write_later(prefix_spill *s, uint32_t id, const prefix_chain *chain, const uint32_t *tokens,
                        uint32_t i, uint32_t page) {
    spill_file *f = &s->file[id];
    due_op *d = due_add(s);
    d->file = id;
    d->op.action = SPILL_WRITE;
    d->op.page = page;
    d->op.what.kind = f->kind;
    memcpy(d->op.what.key, f->key, sizeof f->key);
    if (i) memcpy(d->op.what.parent, chain->key[i - 1], sizeof d->op.what.parent);
    memcpy(d->op.what.token, tokens + (size_t)i * KV_TOKENS_PER_PAGE, sizeof d->op.what.token);
    f->write = s->due_before + s->due_count;
    s->o.like.pages.retain(s->o.like.pages.context, f->kind, page);
}

void prefix_spill_add(prefix_spill *s, const prefix_chain *chain, const uint32_t *tokens, uint32_t pages,
                      const uint32_t *const page[KV_KINDS]) {
    uint32_t known = pages ? make_room(s, chain, tokens, pages) : NONE, window = prefix_window_pages(s->disk);
    if (known == NONE) return;
    uint32_t *id[KV_KINDS];
    for (int kind = 0; kind < KV_KINDS; kind++) {
        uint32_t from = kind == KV_FULL ? known : pages < window ? 0 : pages - window;
        id[kind] = memory_alloc_array(pages, sizeof **id);
        for (uint32_t i = 0; i < pages; i++)
            id[kind][i] =
                s->o.like.uses[kind] && i >= from ? spill_file_take(s, kind, chain->key[i]) : PREFIX_NO_PAGE;
    }
    (void)prefix_add(s->disk, chain, tokens, pages, (const uint32_t *const[KV_KINDS]){id[0], id[1]});
    for (uint32_t i = 0; i < pages; i++)
        for (int kind = 0; kind < KV_KINDS; kind++) {
            if (id[kind][i] == PREFIX_NO_PAGE) continue;
            if (s->file[id[kind][i]].references) write_later(s, id[kind][i], chain, tokens, i, page[kind][i]);
            else spill_file_give_back(s, id[kind][i], false);
        }
    for (int kind = 0; kind < KV_KINDS; kind++) free(id[kind]);
    spill_keep_limit(s);
}

static uint64_t cost(const prefix_spill *s, const spill_op *op) {
    return op->action == SPILL_REMOVE ? REMOVAL_BYTES : s->o.file_bytes[op->what.kind];
}

static void emit(prefix_spill *s, const spill_op *op, uint32_t file) {
    if (s->op_count == s->op_cap) {
        s->op_cap = s->op_cap ? s->op_cap * 2 : 16;
        s->op = memory_grow(s->op, s->op_cap * sizeof *s->op);
        s->op_file = memory_grow(s->op_file, s->op_cap * sizeof *s->op_file);
    }
    s->op[s->op_count] = *op;
    s->op_file[s->op_count++] = file;
    s->step_bytes += cost(s, op);
}

/* The first that is due goes into the step. The page it reads may be used again at once: rows come after it. */
static void emit_due(prefix_spill *s) {
    due_op *d = &s->due[s->due_first++];
    if (d->cancelled) return;
    emit(s, &d->op, d->file);
    if (d->op.action != SPILL_WRITE) return;
    s->file[d->file].write = 0;
    memory_release(s, d->op.what.kind, d->op.page);
}

bool prefix_spill_flush(prefix_spill *s) {
    while (s->due_first < s->due_count) {
        const due_op *d = &s->due[s->due_first];
        bool write = !d->cancelled && d->op.action == SPILL_WRITE;
        emit_due(s);
        if (write) return true;
    }
    return false;
}

/* ---- reading ---- */

/* Pages to read into; what memory has of the text already is held and not read. False: the pool is too full. */
static bool load_take_pages(prefix_spill *s) {
    spill_load *l = &s->load;
    for (int kind = 0; kind < KV_KINDS; kind++)
        for (uint32_t i = 0; i < l->pages; i++) {
            uint32_t *file = &l->file[kind][i], *page = &l->page[kind][i];
            if (*file == PREFIX_NO_PAGE) continue;
            if (*page == PREFIX_NO_PAGE) {
                if (!s->o.take(s->o.like.pages.context, kind, page)) {
                    *page = PREFIX_NO_PAGE;
                    return false;
                }
            } else {
                file_release(s, kind, *file);
                *file = PREFIX_NO_PAGE;
            }
        }
    return true;
}

uint32_t prefix_spill_known(const prefix_spill *s, const prefix_chain *chain, const uint32_t *tokens,
                            uint32_t n) {
    return prefix_find(s->disk, chain, tokens, n).known;
}

static bool load_begin(prefix_spill *s, const prefix_hit *hit, const prefix_chain *chain,
                       const uint32_t *tokens) {
    spill_load *l = &s->load;
    uint32_t n = hit->pages;
    *l = (spill_load){.active = true, .pages = n};
    l->tokens = memory_alloc_array((size_t)n * KV_TOKENS_PER_PAGE, sizeof *l->tokens);
    memcpy(l->tokens, tokens, (size_t)n * KV_TOKENS_PER_PAGE * sizeof *l->tokens);
    prefix_chain_extend(&l->chain, l->tokens, n * KV_TOKENS_PER_PAGE);
    memcpy(l->chain.key, chain->key, n * sizeof *chain->key);
    for (int kind = 0; kind < KV_KINDS; kind++) {
        l->page[kind] = memory_alloc_array(n, sizeof **l->page);
        l->file[kind] = memory_alloc_array(n, sizeof **l->file);
    }
    prefix_hold(s->disk, hit, l->file);
    prefix_peek(s->o.memory, chain, tokens, n, l->page);
    if (load_take_pages(s)) return true;
    load_end(s);
    return false;
}

bool prefix_spill_find(prefix_spill *s, uint64_t request, const prefix_chain *chain, const uint32_t *tokens,
                       uint32_t n, uint32_t pages_in_memory) {
    if (s->load.active) return true;
    if (s->has_loaded && s->loaded_for == request) return false;
    prefix_hit hit = prefix_find(s->disk, chain, tokens, n);
    if (hit.pages <= pages_in_memory) return false;
    s->has_loaded = true;
    s->loaded_for = request;
    return load_begin(s, &hit, chain, tokens);
}

bool prefix_spill_abandon(prefix_spill *s) {
    bool active = s->load.active;
    load_end(s);
    return active;
}

static void plan_reads(prefix_spill *s) {
    spill_load *l = &s->load;
    for (; l->next < KV_KINDS * l->pages; l->next++) {
        uint32_t kind = l->next / l->pages, i = l->next % l->pages;
        if (l->file[kind][i] == PREFIX_NO_PAGE) continue;
        if (s->step_bytes && s->step_bytes + s->o.file_bytes[kind] > s->o.step_bytes) return;
        spill_op op = {.action = SPILL_READ, .page = l->page[kind][i], .what.kind = kind};
        memcpy(op.what.key, l->chain.key[i], sizeof op.what.key);
        emit(s, &op, l->file[kind][i]);
    }
}

/* ---- the step ---- */

const spill_op *prefix_spill_plan(prefix_spill *s, uint32_t *count) {
    while (s->due_first < s->due_count) {
        const due_op *d = &s->due[s->due_first];
        if (!d->cancelled && s->step_bytes && s->step_bytes + cost(s, &d->op) > s->o.step_bytes) break;
        emit_due(s);
    }
    /* What is to be read may still have to be written. */
    if (s->load.active && s->due_first == s->due_count) plan_reads(s);
    *count = s->op_count;
    return s->op;
}

static void op_done(prefix_spill *s, uint32_t i, bool ok) {
    const spill_op *op = &s->op[i];
    uint32_t id = s->op_file[i];
    if (op->action == SPILL_REMOVE) return;
    if (ok) {
        if (op->action == SPILL_WRITE) s->state.written_pages++;
        else s->state.read_pages++;
        return;
    }
    s->state.failed++;
    if (op->action == SPILL_READ) s->load.failed = true;
    /* A file that was given up meanwhile may be another's by now. */
    const spill_file *f = &s->file[id];
    if (f->references && !memcmp(f->key, op->what.key, sizeof f->key))
        prefix_drop(s->disk, op->what.kind, id);
}

void prefix_spill_done(prefix_spill *s, const uint8_t *ok) {
    for (uint32_t i = 0; i < s->op_count; i++) op_done(s, i, ok[i]);
    s->op_count = 0;
    s->step_bytes = 0;
    spill_load *l = &s->load;
    if (!l->active || (!l->failed && l->next < KV_KINDS * l->pages)) return;
    if (!l->failed)
        (void)prefix_add(s->o.memory, &l->chain, l->tokens, l->pages,
                         (const uint32_t *const[KV_KINDS]){l->page[0], l->page[1]});
    load_end(s);
}

bool prefix_spill_busy(const prefix_spill *s) {
    return s->due_first < s->due_count || s->op_count || s->load.active;
}

prefix_spill_statistics prefix_spill_state(const prefix_spill *s) { return s->state; }
