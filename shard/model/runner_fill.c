#include "base/invariant.h"
#include "shard/model/runner_internal.h"

static uint64_t next(uint64_t *state) { /* splitmix64 */
    uint64_t x = (*state += 0x9E3779B97F4A7C15);
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
}

/* Values of either sign up to 1, what normed keys and values are of the size of; of floats at least 1/2. */
static void fill_page(uint64_t *words, uint64_t count, kv_type type, uint64_t seed) {
    uint64_t mask = 0, bits = 0;
    switch (type) {
    case KV_F32: mask = 0x807FFFFF807FFFFF, bits = 0x3F0000003F000000; break;
    case KV_BF16: mask = 0x807F807F807F807F, bits = 0x3F003F003F003F00; break;
    case KV_Q8: mask = UINT64_MAX, bits = 0x0101010101010101; break;
    }
    INVARIANT(bits);
    for (uint64_t i = 0; i < count; i++) words[i] = (next(&seed) & mask) | bits;
}

/* The scales that stand behind the int8 of every layer's rows in a page, whose bytes are at `host`. */
static void fill_scales(const runner *r, kv_kind kind, void *host) {
    for (uint32_t i = 0; i < r->config->layers; i++) {
        const layer_config *lc = &r->config->layer[i];
        if (!lc->owns_kv || lc->full != (kind == KV_FULL)) continue;
        kv_view alone = r->attention[i].kv, *v = &alone;
        alone.base = host;
        for (uint32_t h = 0; h < v->kv_heads; h++) {
            char *rows = kv_head_page(v, 0, h);
            for (uint32_t part = 0; part < (v->half_size ? 1 : 2); part++) {
                uint64_t bytes = kv_rows_bytes(v->type, v->head_dim);
                float *scale =
                    (float *)(void *)(rows + part * bytes + (size_t)KV_TOKENS_PER_PAGE * v->head_dim);
                for (uint32_t t = 0; t < KV_TOKENS_PER_PAGE; t++) scale[t] = 1 / 127.0f;
            }
        }
    }
}

void runner_fill_kv(runner *r, uint32_t slot) {
    INVARIANT(slot < r->o.slots);
    for (int kind = 0; kind < KV_KINDS; kind++) {
        uint64_t bytes = r->geometry.page_bytes[kind];
        for (uint32_t i = 0; bytes && i < r->pages_per_slot; i++) {
            uint32_t page = r->table[kind][slot][i];
            if (page == PLAN_NO_TOKEN) continue;
            void *host = runner_host_page(r, (kv_kind)kind, page);
            fill_page(host, bytes / 8, r->o.kv, ((uint64_t)slot << 32) + i);
            if (r->o.kv == KV_Q8) fill_scales(r, (kv_kind)kind, host);
            runner_send_page(r, (kv_kind)kind, page);
        }
    }
}
