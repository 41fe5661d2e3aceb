#include "shard/model/budget.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/invariant.h"

uint32_t budget_window(const model_config *config) {
    for (uint32_t i = 0; i < config->layers; i++)
        if (!config->layer[i].full) return config->layer[i].window;
    return 0;
}

uint64_t budget_free_memory(void) {
    unsigned long long kib = 0;
    char line[256];
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) break;
    if (f) fclose(f);
    if (kib) return (uint64_t)kib << 10;
    return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Slabs that n requests of `context` tokens and one of `more` need, each kind in slabs of its own. */
static uint64_t slabs_for(const budget *b, uint32_t requests, uint32_t more) {
    uint64_t slabs = 0;
    for (int kind = 0; kind < KV_KINDS; kind++) {
        if (!b->geometry.page_bytes[kind]) continue;
        uint64_t pages = (uint64_t)b->pages_needed[kind] * requests;
        if (more) pages += kv_pages_needed(kind, more, b->window, b->chunk_max);
        slabs += (pages + b->geometry.pages_per_slab[kind] - 1) / b->geometry.pages_per_slab[kind];
    }
    return slabs;
}

static void set_context(budget *b, uint32_t context) {
    b->context = context;
    for (int kind = 0; kind < KV_KINDS; kind++) {
        bool uses = b->geometry.page_bytes[kind] > 0;
        b->pages_needed[kind] = uses ? kv_pages_needed(kind, context, b->window, b->chunk_max) : 0;
        b->kv_request_bytes[kind] = b->pages_needed[kind] * b->geometry.page_bytes[kind];
    }
}

/* Tokens that a request may have, in whole pages, beside n of `context` tokens. */
static uint32_t longest_beside(const budget *b, uint32_t requests, uint64_t slabs, uint32_t most) {
    if (slabs_for(b, requests, most) <= slabs) return most;
    uint32_t fits = 0, over = (most + KV_TOKENS_PER_PAGE - 1) / KV_TOKENS_PER_PAGE;
    while (over - fits > 1) {
        uint32_t middle = fits + (over - fits) / 2;
        if (slabs_for(b, requests, middle * KV_TOKENS_PER_PAGE) <= slabs) fits = middle;
        else over = middle;
    }
    return fits * KV_TOKENS_PER_PAGE;
}

/* A context that nobody asked for is cut to what the slabs hold. */
static status fit_context(budget *b, uint32_t rank, uint64_t slabs) {
    uint32_t wanted = b->context;
    if (!b->context_given) set_context(b, longest_beside(b, 0, slabs, b->context));
    if (b->context > 0 && slabs_for(b, 1, 0) <= slabs) return ST_OK;
    set_context(b, b->context_given ? wanted : KV_TOKENS_PER_PAGE);
    return fail(ST_NO_MEMORY, "rank %u: one request of %u tokens needs %llu KV slabs of %llu bytes%s, %llu fit",
                rank, b->context, (unsigned long long)slabs_for(b, 1, 0),
                (unsigned long long)b->geometry.slab_bytes, b->on_device ? " of the GPU's memory" : "",
                (unsigned long long)slabs);
}

static void set_slabs(budget *b, uint32_t slabs) {
    b->slabs = slabs;
    b->kv_bytes = slabs * b->geometry.slab_bytes;
    for (b->requests_held = 0; b->requests_held < b->slots; b->requests_held++)
        if (slabs_for(b, b->requests_held + 1, 0) > slabs) break;
    b->tokens_held = (uint64_t)b->requests_held * b->context;
    if (b->requests_held < b->slots) b->tokens_held += longest_beside(b, b->requests_held, slabs, b->context);
}

/* Pages have numbers of 32 bits, the last of which is none. */
static uint64_t slabs_most(const kv_geometry *g) {
    uint32_t pages = 1;
    for (int kind = 0; kind < KV_KINDS; kind++)
        if (g->pages_per_slab[kind] > pages) pages = g->pages_per_slab[kind];
    return (UINT32_MAX - 1) / pages;
}

/* Nobody else comes to a GPU in the meantime: less is left free there than on a host. */
static uint64_t limit_of(const budget_options *o) {
    if (o->memory_bytes) return o->memory_bytes;
    return o->device_bytes ? o->device_bytes / 10 * 9 : o->free_bytes / 10 * 8;
}

uint32_t budget_step_rows(uint32_t rows_max, uint32_t chunk_max, bool on_device) {
    uint32_t rows = rows_max ? rows_max : on_device ? BUDGET_ROWS_GPU : BUDGET_ROWS;
    return rows > chunk_max ? rows : chunk_max;
}

status budget_make(budget *out, const model_config *config, const layout *split, const budget_options *o) {
    budget b = {.slots = o->slots ? o->slots : BUDGET_SLOTS,
                .rows_max = budget_step_rows(o->rows_max, o->chunk_max, o->device_bytes > 0)};
    b.chunk_max = o->chunk_max ? o->chunk_max : b.rows_max;
    if (b.slots > b.rows_max) b.slots = b.rows_max;
    INVARIANT(b.chunk_max <= b.rows_max);
    if (o->context > config->context)
        return fail(ST_LAYOUT, "--context %u is over the model's own limit of %u", o->context,
                    config->context);
    b.on_device = o->device_bytes > 0;
    b.weight_bytes = o->weight_bytes;
    if (!b.weight_bytes)
        b.weight_bytes =
            model_weights_plan_bytes(config, split, o->files, o->stored, o->choice, b.on_device);
    b.activation_bytes = runner_activation_bytes(config, split, b.rows_max, b.on_device);
    if (b.on_device) b.activation_bytes += o->device_scratch_bytes;
    runner_kv_geometry(config, split, o->kv, &b.geometry);
    uint64_t fixed = b.weight_bytes + b.activation_bytes, limit = limit_of(o);
    if (fixed >= limit)
        return fail(ST_NO_MEMORY, "rank %u needs %llu bytes%s for weights and %llu for activations; %s %llu",
                    split->rank, (unsigned long long)b.weight_bytes,
                    b.on_device ? " of the GPU's memory" : "", (unsigned long long)b.activation_bytes,
                    o->memory_bytes ? "--memory is"
                    : b.on_device   ? "90 % of what is free there are"
                                    : "80 % of free memory per rank are",
                    (unsigned long long)limit);
    b.kv_limit = limit - fixed;
    b.window = budget_window(config);
    b.context_given = o->context > 0;
    set_context(&b, o->context ? o->context : config->context);
    uint64_t have = b.geometry.slab_bytes ? b.kv_limit / b.geometry.slab_bytes : 0;
    TRY(fit_context(&b, split->rank, have));
    uint64_t want = o->memory_bytes || o->whole_memory ? have : slabs_for(&b, BUDGET_REQUESTS, 0);
    if (want > have) want = have;
    if (want > slabs_most(&b.geometry)) want = slabs_most(&b.geometry);
    set_slabs(&b, (uint32_t)want);
    *out = b;
    return ST_OK;
}

uint64_t budget_request_slabs(const budget *b) { return slabs_for(b, 1, 0); }

budget_share budget_share_of(const budget *b) {
    budget_share s = {.kv_limit = b->kv_limit, .context = b->context, .slabs = b->slabs};
    memcpy(s.page_bytes, b->geometry.page_bytes, sizeof s.page_bytes);
    memcpy(s.pages_per_slab, b->geometry.pages_per_slab, sizeof s.pages_per_slab);
    return s;
}

status budget_agree(budget *b, const budget_share *shares, uint32_t ranks) {
    uint32_t context = shares[0].context, poorest = 0;
    uint64_t slabs = shares[0].slabs;
    for (uint32_t r = 0; r < ranks; r++) {
        kv_geometry g = {0};
        memcpy(g.page_bytes, shares[r].page_bytes, sizeof g.page_bytes);
        kv_geometry_follow(&g, shares[0].pages_per_slab);
        uint64_t have = g.slab_bytes ? shares[r].kv_limit / g.slab_bytes : 0;
        if (have > shares[r].slabs) have = shares[r].slabs;
        if (have < slabs) slabs = have, poorest = r;
        if (shares[r].context < context) context = shares[r].context;
    }
    kv_geometry_follow(&b->geometry, shares[0].pages_per_slab);
    set_context(b, context);
    TRY(fit_context(b, poorest, slabs));
    set_slabs(b, (uint32_t)slabs);
    return ST_OK;
}
