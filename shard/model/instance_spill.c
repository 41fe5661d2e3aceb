/* The ranks' folders of pages: opened by each, and agreed on by all, since a page that one of them lacks is of no use. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/sha256.h"
#include "shard/model/instance.h"

/* Everything a page's bytes depend on beside its tokens. Counted up when their arithmetic or order changes. */
enum { PAGES_VERSION = 1 };

static void identity_of(const instance *i, char out[65]) {
    char text[512];
    uint8_t digest[32];
    sha256 s;
    char config[65];
    sha256_hex(i->config->hash, config);
    int n =
        snprintf(text, sizeof text, "pages %d checkpoint %s config %s weights %s layout %s ranks %u kv %d",
                 PAGES_VERSION, i->checkpoint_hash, config, weights_choice_name(i->choice), i->layout_text,
                 i->split->ranks, (int)i->kv);
    sha256_begin(&s);
    sha256_add(&s, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
    sha256_end(&s, digest);
    sha256_hex(digest, out);
}

status instance_open_spill(instance *i, const instance_options *o) {
    char identity[65];
    if (!o->spill_dir) return ST_OK;
    identity_of(i, identity);
    identity[32] = 0;
    TRY(spill_open(&i->spill, o->spill_dir, identity, i->split->rank, i->plan.geometry.page_bytes));
    i->spill_bytes = o->spill_bytes ? o->spill_bytes : INSTANCE_SPILL_BYTES;
    return spill_list(i->spill, &i->spilled, &i->spilled_count);
}

/* ---- agreeing ---- */

typedef struct page_name {
    uint32_t kind;
    uint8_t key[SPILL_KEY_BYTES];
} page_name;

static int by_name(const void *a, const void *b) {
    const spill_page *x = a, *y = b;
    int c = memcmp(x->key, y->key, sizeof x->key);
    return c ? c : (int)x->kind - (int)y->kind;
}

/* has[count]: which of rank 0's pages lie here; what lies here beside them is removed. */
static void compare(instance *i, const page_name *name, uint32_t count, uint8_t *has) {
    spill_page want = {0}, *own = i->spilled;
    bool *named = memory_alloc_array(i->spilled_count, sizeof *named);
    if (i->spilled_count) qsort(own, i->spilled_count, sizeof *own, by_name);
    for (uint32_t k = 0; k < count; k++) {
        want.kind = name[k].kind;
        memcpy(want.key, name[k].key, sizeof want.key);
        const spill_page *found =
            i->spilled_count ? bsearch(&want, own, i->spilled_count, sizeof *own, by_name) : NULL;
        has[k] = found != NULL;
        if (found) named[found - own] = true;
    }
    for (uint32_t k = 0; k < i->spilled_count; k++)
        if (!named[k]) spill_remove(i->spill, own[k].kind, own[k].key);
    free(named);
}

/* Rank 0 keeps the pages that all have, in its order. */
static void keep_common(instance *i, const uint8_t *has, uint32_t count, uint32_t ranks) {
    uint32_t kept = 0;
    for (uint32_t k = 0; k < count; k++) {
        bool all = true;
        for (uint32_t r = 1; r < ranks; r++) all = all && has[(size_t)r * count + k];
        if (all) i->spilled[kept++] = i->spilled[k];
        else spill_remove(i->spill, i->spilled[k].kind, i->spilled[k].key);
    }
    i->spilled_count = kept;
}

static status sum_file_bytes(instance *i, comm *ranks) {
    uint64_t mine[KV_KINDS] = {0}, *all = memory_alloc_array(comm_size(ranks), sizeof mine);
    for (int kind = 0; kind < KV_KINDS; kind++)
        if (i->plan.geometry.page_bytes[kind])
            mine[kind] = SPILL_HEADER_BYTES + i->plan.geometry.page_bytes[kind];
    status st = comm_all_gather(ranks, mine, sizeof mine, all);
    for (uint32_t r = 0; st == ST_OK && r < comm_size(ranks); r++)
        for (int kind = 0; kind < KV_KINDS; kind++) i->spill_file_bytes[kind] += all[r * KV_KINDS + kind];
    free(all);
    return st;
}

status instance_agree_spill(instance *i, comm *ranks) {
    uint32_t count = i->spilled_count, n = comm_size(ranks);
    if (!i->spill) return ST_OK;
    TRY(sum_file_bytes(i, ranks));
    TRY(comm_broadcast(ranks, &count, sizeof count, 0));
    page_name *name = memory_alloc_array(count, sizeof *name);
    uint8_t *has = memory_alloc_array(count, 1), *all = memory_alloc_array((size_t)count * n, 1);
    bool leads = comm_rank(ranks) == 0;
    for (uint32_t k = 0; leads && k < count; k++) {
        name[k].kind = i->spilled[k].kind;
        memcpy(name[k].key, i->spilled[k].key, sizeof name[k].key);
    }
    status st = count ? comm_broadcast(ranks, name, count * sizeof *name, 0) : ST_OK;
    if (st == ST_OK && !leads) compare(i, name, count, has);
    if (st == ST_OK && count) st = comm_all_gather(ranks, has, count, all);
    if (st == ST_OK && leads) {
        keep_common(i, all, count, n);
        log_info("--spill: %u files of earlier pages, of at most %.1f GiB", i->spilled_count,
                 (double)i->spill_bytes / 0x1p30);
    }
    free(name);
    free(has);
    free(all);
    return st;
}
