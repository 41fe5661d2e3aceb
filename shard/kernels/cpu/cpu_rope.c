#include <stdlib.h>

#include "base/memory.h"
#include "shard/kernels/cpu/cpu_backend.h"

status cpu_rope_open(backend *b, double base, uint32_t head_dim, uint32_t pairs, uint32_t context,
                     uint32_t rows_max, rope **out) {
    (void)b;
    rope *r = memory_alloc(sizeof *r);
    uint32_t pages = context / KV_PAGE_TOKENS + 1;
    *r = (rope){.base = base, .head_dim = head_dim, .pairs = pairs, .context = context, .rows_max = rows_max};
    r->cosine = memory_alloc_array((size_t)rows_max * pairs, sizeof *r->cosine);
    r->sine = memory_alloc_array((size_t)rows_max * pairs, sizeof *r->sine);
    r->offset_cosine = memory_alloc_array((size_t)KV_PAGE_TOKENS * pairs, sizeof *r->offset_cosine);
    r->offset_sine = memory_alloc_array((size_t)KV_PAGE_TOKENS * pairs, sizeof *r->offset_sine);
    r->step_cosine = memory_alloc_array((size_t)KV_PAGE_TOKENS * pairs, sizeof *r->step_cosine);
    r->step_sine = memory_alloc_array((size_t)KV_PAGE_TOKENS * pairs, sizeof *r->step_sine);
    r->page_cosine = memory_alloc_array((size_t)pages * pairs, sizeof *r->page_cosine);
    r->page_sine = memory_alloc_array((size_t)pages * pairs, sizeof *r->page_sine);
    for (uint32_t i = 0; i < KV_PAGE_TOKENS; i++) {
        size_t at = (size_t)i * pairs;
        rope_angles(r->offset_cosine + at, r->offset_sine + at, i, base, head_dim, pairs);
        rope_angles_double(r->step_cosine + at, r->step_sine + at, i, base, head_dim, pairs);
    }
    for (uint32_t i = 0; i < pages; i++)
        rope_angles_double(r->page_cosine + (size_t)i * pairs, r->page_sine + (size_t)i * pairs,
                           i * KV_PAGE_TOKENS, base, head_dim, pairs);
    *out = r;
    return ST_OK;
}

void cpu_rope_close(backend *b, rope *r) {
    (void)b;
    if (!r) return;
    free(r->cosine);
    free(r->sine);
    free(r->offset_cosine);
    free(r->offset_sine);
    free(r->page_cosine);
    free(r->page_sine);
    free(r->step_cosine);
    free(r->step_sine);
    free(r);
}

typedef struct angles_work {
    rope *r;
    const uint32_t *position;
} angles_work;

static void angles_row(void *context, uint32_t i, uint32_t thread) {
    (void)thread;
    const angles_work *w = context;
    rope *r = w->r;
    size_t at = (size_t)i * r->pairs;
    rope_angles(r->cosine + at, r->sine + at, w->position[i], r->base, r->head_dim, r->pairs);
}

void cpu_rope_begin(backend *b, rope *r) {
    const step_rows *rows = &cpu_of(b)->rows;
    angles_work w = {r, rows->position};
    pool_run(cpu_of(b)->threads, rows->n, angles_row, &w);
}
