#include "base/invariant.h"
#include "shard/kv/pages.h"
#include "tests/test.h"

TEST(geometry_of_the_31b_shape) {
    /* 60 layers, every sixth full: 16 KV heads of 256 sliding (k and v), 4 of 512 full (u alone), bf16. */
    kv_layer_shape layer[60];
    uint64_t offset[60];
    kv_geometry g;
    for (uint32_t i = 0; i < 60; i++)
        layer[i] = i % 6 == 5 ? (kv_layer_shape){KV_FULL, true, true, 4, 512}
                              : (kv_layer_shape){KV_SLIDING, true, false, 16, 256};
    kv_geometry_make(&g, layer, 60, 2, 0, offset);
    CHECK(g.page_bytes[KV_FULL] == 64 * 40960ull); /* 40 KiB a token */
    CHECK(g.page_bytes[KV_SLIDING] == 64 * 50ull * 16 * 256 * 2 * 2);
    CHECK(g.pages_per_slab[KV_SLIDING] == 1 && g.pages_per_slab[KV_FULL] == 20);
    CHECK(g.slab_bytes == g.page_bytes[KV_SLIDING]);
    CHECK(offset[0] == 0 && offset[1] == 64ull * 16 * 256 * 2 * 2 && offset[5] == 0 &&
          offset[11] == 64ull * 4 * 512 * 2);
    /* 262,144 tokens: 10.0 GiB full; window 1024 and a chunk of 512: 25 pages. */
    CHECK(kv_pages_needed(KV_FULL, 262144, 1024, 512) * g.page_bytes[KV_FULL] == 10ull << 30);
    CHECK(kv_pages_needed(KV_SLIDING, 262144, 1024, 512) == 25);
    CHECK(kv_pages_needed(KV_SLIDING, 100, 1024, 512) == 2 && kv_pages_needed(KV_SLIDING, 128, 8, 1) == 2);
    CHECK(kv_pages_needed(KV_FULL, 1, 0, 1) == 1);
    /* In 8 bits a row has a scale of 4 bytes: full layers hold one row a token and head, sliding ones two. */
    kv_geometry_make(&g, layer, 60, 1, 4, offset);
    CHECK(g.page_bytes[KV_FULL] == 64 * 10ull * 4 * (512 + 4));
    CHECK(g.page_bytes[KV_SLIDING] == 64 * 50ull * 16 * 2 * (256 + 4) && offset[1] == 64ull * 16 * 2 * 260);
    uint32_t follow[KV_KINDS] = {2, 8};
    kv_geometry_follow(&g, follow);
    CHECK(g.slab_bytes == 2 * g.page_bytes[KV_SLIDING]);
}

TEST(a_ring_of_pages_covers_window_and_chunk_at_every_alignment) {
    for (uint32_t window = 1; window <= 200; window += 7)
        for (uint32_t chunk = 1; chunk <= 150; chunk += 11) {
            uint32_t ring = kv_pages_needed(KV_SLIDING, 1 << 20, window, chunk);
            for (uint32_t first = 1000; first < 1064; first++) {
                uint32_t oldest = first + 1 - window, newest = first + chunk - 1;
                CHECK_THAT(newest / 64 - oldest / 64 < ring, "window %u chunk %u first %u", window, chunk,
                           first);
            }
        }
}

TEST(slabs_serve_one_kind_at_a_time) {
    kv_pages *p;
    const uint32_t per_slab[KV_KINDS] = {1, 3};
    uint32_t sliding[8], full[16];
    uint32_t *out[KV_KINDS] = {sliding, full};
    CHECK_STATUS(kv_pages_open(&p, 4, per_slab), ST_OK);
    CHECK_STATUS(kv_pages_take(p, (uint32_t[]){1, 4}, out), ST_OK);
    CHECK(kv_pages_slabs_used(p) == 3);
    CHECK_STATUS(kv_pages_take(p, (uint32_t[]){0, 6}, out), ST_KV_FULL); /* 2 places and one empty slab: 5 */
    CHECK_SENTENCE("1 of 4 free");
    CHECK(kv_pages_slabs_used(p) == 3);
    uint32_t more[8], *second[KV_KINDS] = {more, more};
    CHECK_STATUS(kv_pages_take(p, (uint32_t[]){0, 5}, second), ST_OK);
    CHECK(kv_pages_slabs_used(p) == 4);
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < 4; k++) CHECK(more[i] != full[k]);
    CHECK_STATUS(kv_pages_take(p, (uint32_t[]){1, 0}, second), ST_KV_FULL);
    kv_pages_release(p, KV_FULL, more, 5);
    kv_pages_release(p, KV_FULL, full, 4);
    CHECK(kv_pages_slabs_used(p) == 1);
    CHECK_STATUS(kv_pages_take(p, (uint32_t[]){3, 0}, second), ST_OK); /* the same slabs, another kind */
    CHECK(kv_pages_could_hold(p, (uint32_t[]){4, 0}) && kv_pages_could_hold(p, (uint32_t[]){1, 9}));
    CHECK(!kv_pages_could_hold(p, (uint32_t[]){5, 0}) && !kv_pages_could_hold(p, (uint32_t[]){1, 10}));
    kv_pages_close(p);
}

TEST(a_page_is_free_when_nobody_holds_it) {
    kv_pages *p;
    const uint32_t per_slab[KV_KINDS] = {2, 3};
    uint32_t a, b, c;
    CHECK_STATUS(kv_pages_open(&p, 2, per_slab), ST_OK);
    CHECK(kv_pages_free(p, KV_SLIDING) == 4 && kv_pages_free(p, KV_FULL) == 6);
    CHECK(kv_pages_take_one(p, KV_SLIDING, &a) && kv_pages_take_one(p, KV_SLIDING, &b) && a != b);
    CHECK(kv_pages_slabs_used(p) == 1 && kv_pages_used(p, KV_SLIDING) == 2);
    CHECK(kv_pages_free(p, KV_SLIDING) == 2 && kv_pages_free(p, KV_FULL) == 3);
    kv_pages_retain(p, KV_SLIDING, a);
    kv_pages_release(p, KV_SLIDING, &a, 1);
    CHECK(kv_pages_references(p, KV_SLIDING, a) == 1 && kv_pages_used(p, KV_SLIDING) == 2);
    CHECK(kv_pages_take_one(p, KV_SLIDING, &c) && c != a && c != b);
    CHECK(!kv_pages_take_one(p, KV_FULL, &c));
    CHECK(kv_pages_fit(p, (uint64_t[]){1, 0}) && !kv_pages_fit(p, (uint64_t[]){0, 1}));
    kv_pages_release(p, KV_SLIDING, &a, 1);
    CHECK(kv_pages_references(p, KV_SLIDING, a) == 0 && kv_pages_used(p, KV_SLIDING) == 2);
    CHECK(!kv_pages_fit(p, (uint64_t[]){0, 1})); /* both slabs still hold one page */
    kv_pages_release(p, KV_SLIDING, &b, 1);
    CHECK(kv_pages_fit(p, (uint64_t[]){1, 3}) && !kv_pages_fit(p, (uint64_t[]){2, 3}));
    kv_pages_close(p);
}

/* Against a plain array of counts: ids are never given twice, and a slab never serves two kinds. */
TEST(random_takes_and_releases) {
    enum { SLABS_HERE = 9, MOST = 4 };
    kv_pages *p;
    const uint32_t per_slab[KV_KINDS] = {2, MOST};
    uint32_t held[KV_KINDS][SLABS_HERE * MOST] = {0}, random = 12345, refused = 0;
    CHECK_STATUS(kv_pages_open(&p, SLABS_HERE, per_slab), ST_OK);
    for (int i = 0; i < 20000; i++) {
        random = random * 1664525u + 1013904223u;
        kv_kind kind = random >> 31;
        uint32_t page = (random >> 8) % (SLABS_HERE * per_slab[kind]), free_before = kv_pages_free(p, kind);
        switch ((random >> 4) % 5) {
        case 0:
        case 1:
            CHECK(kv_pages_take_one(p, kind, &page) == (free_before > 0));
            if (free_before == 0) {
                refused++;
                break;
            }
            CHECK(held[kind][page]++ == 0);
            for (uint32_t k = 0; k < per_slab[!kind]; k++)
                CHECK(held[!kind][page / per_slab[kind] * per_slab[!kind] + k] == 0);
            break;
        case 2:
            if (held[kind][page]) kv_pages_retain(p, kind, page), held[kind][page]++;
            break;
        default:
            if (held[kind][page]) kv_pages_release(p, kind, &page, 1), held[kind][page]--;
        }
        CHECK(kv_pages_references(p, kind, page) == held[kind][page]);
    }
    CHECK(refused > 10);
    for (int kind = 0; kind < KV_KINDS; kind++)
        for (uint32_t page = 0; page < SLABS_HERE * per_slab[kind]; page++)
            for (; held[kind][page] > 0; held[kind][page]--) kv_pages_release(p, kind, &page, 1);
    CHECK(kv_pages_slabs_used(p) == 0 && kv_pages_fit(p, (uint64_t[]){0, SLABS_HERE * MOST}));
    kv_pages_close(p);
}

int main(void) {
    RUN(geometry_of_the_31b_shape);
    RUN(a_ring_of_pages_covers_window_and_chunk_at_every_alignment);
    RUN(slabs_serve_one_kind_at_a_time);
    RUN(a_page_is_free_when_nobody_holds_it);
    RUN(random_takes_and_releases);
    return test_result();
}
