#include "shard/sample/allowed_sets.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"

typedef struct place {
    uint64_t hash, used; /* used: the last step; 0: never */
    uint32_t *words;
} place;

struct allowed_sets {
    uint32_t words;
    place place[ALLOWED_PLACES];
};

allowed_sets *allowed_sets_open(uint32_t vocab) {
    allowed_sets *a = memory_alloc(sizeof *a);
    a->words = (vocab + 31) / 32;
    return a;
}

void allowed_sets_close(allowed_sets *a) {
    if (!a) return;
    for (uint32_t i = 0; i < ALLOWED_PLACES; i++) free(a->place[i].words);
    free(a);
}

/* Four sums side by side: one alone waits for its multiplication. */
static uint64_t hash_of(const uint32_t *words, uint32_t n) {
    uint64_t h[4] = {1, 2, 3, 4};
    for (uint32_t i = 0; i < n; i++) h[i % 4] = (h[i % 4] ^ words[i]) * UINT64_C(0x9E3779B97F4A7C15);
    return h[0] ^ h[1] >> 17 ^ h[2] << 13 ^ h[3] >> 29;
}

uint32_t allowed_sets_place(allowed_sets *a, const uint32_t *words, uint64_t step, bool *is_new) {
    uint64_t hash = hash_of(words, a->words);
    uint32_t oldest = 0;
    *is_new = false;
    for (uint32_t i = 0; i < ALLOWED_PLACES; i++) {
        place *p = &a->place[i];
        if (p->used && p->hash == hash && !memcmp(p->words, words, a->words * sizeof *words)) {
            p->used = step;
            return i;
        }
        if (p->used < a->place[oldest].used) oldest = i;
    }
    place *p = &a->place[oldest];
    INVARIANT(p->used < step);
    if (!p->words) p->words = memory_alloc_array(a->words, sizeof *p->words);
    memcpy(p->words, words, a->words * sizeof *words);
    p->hash = hash;
    p->used = step;
    *is_new = true;
    return oldest;
}
