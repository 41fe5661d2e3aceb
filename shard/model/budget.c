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

/* Slabs that n requests of `context` tokens need, each kind in slabs of its own. */
static uint64_t slabs_for(const budget *b, uint32_t requests) {
    uint64_t slabs = 0;
    for (int kind = 0; kind < KV_KINDS; kind++)
        slabs += ((uint64_t)b->pages_needed[kind] * requests + b->geometry.pages_per_slab[kind] - 1) /
                 b->geometry.pages_per_slab[kind];
    return slabs;
}

static void pages_for_context(budget *b, uint32_t window) {
    for (int kind = 0; kind < KV_KINDS; kind++) {
        bool uses = b->geometry.page_bytes[kind] > 0;
        b->pages_needed[kind] = uses ? kv_pages_needed(kind, b->context, window, b->chunk_max) : 0;
        b->kv_request_bytes[kind] = b->pages_needed[kind] * b->geometry.page_bytes[kind];
    }
}

status budget_make(budget *out, const model_config *config, const layout *split, const budget_options *o) {
    budget b = {.slots = o->slots ? o->slots : BUDGET_SLOTS,
                .rows_max = o->rows_max ? o->rows_max : BUDGET_ROWS};
    b.chunk_max = o->chunk_max ? o->chunk_max : b.rows_max;
    if (b.slots > b.rows_max) b.slots = b.rows_max;
    INVARIANT(b.chunk_max <= b.rows_max);
    if (o->context > config->context)
        return fail(ST_LAYOUT, "--context %u is over the model's own limit of %u", o->context,
                    config->context);
    b.weight_bytes = o->weight_bytes
                         ? o->weight_bytes
                         : model_weights_plan_bytes(config, split, o->files, o->stored, o->choice);
    b.activation_bytes = runner_activation_bytes(config, split, b.rows_max);
    runner_kv_geometry(config, split, o->kv, &b.geometry);
    uint64_t fixed = b.weight_bytes + b.activation_bytes, limit = o->memory_bytes;
    if (!limit) limit = o->free_bytes / 10 * 8;
    if (fixed >= limit)
        return fail(ST_NO_MEMORY, "rank %u needs %llu bytes for weights and %llu for activations; %s %llu",
                    split->rank, (unsigned long long)b.weight_bytes, (unsigned long long)b.activation_bytes,
                    o->memory_bytes ? "--memory is" : "80 % of free memory per rank are",
                    (unsigned long long)limit);
    uint32_t window = budget_window(config);
    b.context = o->context ? o->context : config->context;
    pages_for_context(&b, window);
    uint64_t have = b.geometry.slab_bytes ? (limit - fixed) / b.geometry.slab_bytes : 0;
    if (slabs_for(&b, 1) > have &&
        !o->context) { /* the longest context that fits, by halves of the interval */
        uint32_t fits = 0, over = b.context;
        while (over - fits > KV_TOKENS_PER_PAGE) {
            b.context = fits + (over - fits) / 2;
            pages_for_context(&b, window);
            if (slabs_for(&b, 1) <= have) fits = b.context;
            else over = b.context;
        }
        b.context = fits;
        pages_for_context(&b, window);
    }
    if (b.context == 0 || slabs_for(&b, 1) > have)
        return fail(
            ST_NO_MEMORY, "rank %u: one request of %u tokens needs %llu KV slabs of %llu bytes, %llu fit",
            split->rank, o->context ? o->context : KV_TOKENS_PER_PAGE, (unsigned long long)slabs_for(&b, 1),
            (unsigned long long)b.geometry.slab_bytes, (unsigned long long)have);
    uint64_t want = o->memory_bytes ? have : slabs_for(&b, BUDGET_REQUESTS);
    if (want > have) want = have;
    if (want > UINT32_MAX / 64) want = UINT32_MAX / 64;
    b.slabs = (uint32_t)want;
    b.kv_bytes = b.slabs * b.geometry.slab_bytes;
    *out = b;
    return ST_OK;
}

void budget_agree(budget *b, const uint32_t pages_per_slab[KV_KINDS], uint32_t context, uint32_t slabs,
                  uint32_t window) {
    kv_geometry_follow(&b->geometry, pages_per_slab);
    b->context = context;
    b->slabs = slabs;
    b->kv_bytes = slabs * b->geometry.slab_bytes;
    pages_for_context(b, window);
}
