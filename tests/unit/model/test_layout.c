#include "base/memory.h"
#include "shard/model/layout.h"
#include "tests/test.h"

/* A config made by hand: layout reads sizes only. */
static model_config *made(uint32_t heads, uint32_t kv_heads, uint32_t vocab, uint32_t mlp, uint32_t experts,
                          uint32_t width) {
    model_config *c = memory_alloc(sizeof *c);
    c->layers = 2;
    c->heads = heads;
    c->vocab = vocab;
    c->experts = experts;
    c->expert_width = width;
    c->layer = memory_alloc_array(2, sizeof *c->layer);
    c->layer[0] = (layer_config){.kv_heads = kv_heads, .mlp_width = mlp};
    c->layer[1] = (layer_config){.kv_heads = 1, .mlp_width = 2 * mlp, .full = true};
    return c;
}

/* The n shares lie end to end, cover [0, total), differ by at most one group, and begin on whole groups. */
static void check_cover(uint32_t total, uint32_t group, uint32_t n) {
    uint32_t end = 0, most = 0, least = UINT32_MAX;
    for (uint32_t r = 0; r < n; r++) {
        range s = layout_share(total, group, n, r);
        CHECK_THAT(s.begin == end && s.end >= s.begin, "%u/%u of %u: [%u, %u)", r, n, total, s.begin, s.end);
        CHECK(s.begin % group == 0 || s.begin == total);
        uint32_t groups = (range_count(s) + group - 1) / group;
        if (groups > most) most = groups;
        if (groups < least) least = groups;
        end = s.end;
    }
    CHECK_THAT(end == total && most - least <= 1, "%u over %u by %u: end %u, %u to %u groups", total, n,
               group, end, least, most);
}

TEST(shares_cover_everything_once) {
    static const uint32_t totals[] = {1, 2, 7, 31, 32, 33, 64, 331, 704, 2112, 21504, 262144, 1u << 20};
    static const uint32_t ranks[] = {1, 2, 3, 4, 5, 7, 8, 16, 1024};
    for (size_t t = 0; t < sizeof totals / sizeof *totals; t++) {
        for (size_t n = 0; n < sizeof ranks / sizeof *ranks; n++) {
            check_cover(totals[t], 1, ranks[n]);
            check_cover(totals[t], 32, ranks[n]);
        }
    }
    /* Fewer groups than ranks: some shares are empty. */
    CHECK(range_count(layout_share(33, 32, 8, 0)) == 0);
    CHECK(range_count(layout_share(33, 32, 8, 3)) == 32);
    CHECK(range_count(layout_share(33, 32, 8, 7)) == 1);
}

TEST(each_token_has_one_owner) {
    static const uint32_t vocabs[] = {1, 5, 320, 331, 1280};
    for (size_t v = 0; v < sizeof vocabs / sizeof *vocabs; v++) {
        model_config *c = made(840, 1, vocabs[v], 8, 0, 0);
        for (uint32_t ranks = 1; ranks <= 8; ranks++) {
            for (uint32_t group = 1; group <= 32; group += 31) {
                layout *l;
                uint32_t end = 0; /* every token is one rank's */
                for (uint32_t rank = 0; rank < ranks; rank++) {
                    CHECK_STATUS(
                        layout_open(&l, c, &(layout_options){.ranks = ranks, .rank = rank, .group = group}),
                        ST_OK);
                    CHECK(l->vocab.begin == end);
                    end = l->vocab.end;
                    layout_close(l);
                }
                CHECK(end == c->vocab);
            }
        }
        model_config_close(c);
    }
}

TEST(every_rank_holds_the_kv_heads_its_queries_read) {
    static const uint32_t shapes[][2] = {{8, 1}, {8, 4}, {8, 8}, {32, 16}, {32, 4}, {6, 3}, {15, 5}, {7, 7}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        uint32_t heads = shapes[s][0], kv = shapes[s][1];
        model_config *c = made(heads, kv, 320, 96, 0, 0);
        for (uint32_t ranks = 1; ranks <= heads; ranks++) {
            if (heads % ranks) continue;
            uint32_t next = 0;
            for (uint32_t rank = 0; rank < ranks; rank++) {
                layout *l;
                CHECK_STATUS(layout_open(&l, c, &(layout_options){.ranks = ranks, .rank = rank, .group = 1}),
                             ST_OK);
                CHECK(l->heads.begin == next && range_count(l->heads) == heads / ranks);
                next = l->heads.end;
                /* Exactly those that some head reads: neither one too few nor one too many. */
                for (uint32_t k = 0; k < kv; k++) {
                    bool read = false;
                    for (uint32_t h = l->heads.begin; h < l->heads.end; h++) read |= h / (heads / kv) == k;
                    CHECK(read == (k >= l->layer[0].kv_heads.begin && k < l->layer[0].kv_heads.end));
                }
                CHECK(l->layer[1].kv_heads.begin == 0 && l->layer[1].kv_heads.end == 1);
                layout_close(l);
            }
            CHECK(next == heads);
        }
        model_config_close(c);
    }
}

/* For every expert and every row of it: exactly one rank. */
static void check_experts(uint32_t experts, uint32_t width, uint32_t degree, uint32_t width_degree,
                          uint32_t group) {
    uint32_t ranks = degree * width_degree;
    model_config *c = made(840, 1, 320, 96, experts, width);
    uint8_t *held = memory_alloc((size_t)experts * width);
    for (uint32_t rank = 0; rank < ranks; rank++) {
        layout *l;
        layout_options o = {ranks, rank, group, degree, width_degree};
        CHECK_STATUS(layout_open(&l, c, &o), ST_OK);
        for (uint32_t e = l->experts.begin; e < l->experts.end; e++)
            for (uint32_t w = l->expert_width.begin; w < l->expert_width.end; w++) held[e * width + w]++;
        layout_close(l);
    }
    for (uint32_t i = 0; i < experts * width; i++)
        CHECK_THAT(held[i] == 1, "expert %u row %u of %ux%u: %u ranks", i / width, i % width, degree,
                   width_degree, held[i]);
    free(held);
    model_config_close(c);
}

TEST(every_row_of_every_expert_has_one_owner) {
    static const uint32_t degrees[][2] = {{1, 1}, {2, 1}, {1, 2}, {3, 1}, {4, 1}, {2, 2}, {1, 4},
                                          {5, 1}, {7, 1}, {8, 1}, {4, 2}, {2, 4}, {1, 8}, {3, 5}};
    for (size_t d = 0; d < sizeof degrees / sizeof *degrees; d++) {
        check_experts(16, 40, degrees[d][0], degrees[d][1], 1);
        check_experts(128, 24, degrees[d][0], degrees[d][1],
                      32); /* one group: all but one width share is empty */
        check_experts(5, 704, degrees[d][0], degrees[d][1], 32); /* fewer experts than ranks, too */
    }
}

TEST(refusals_name_the_counts_that_work) {
    model_config *c = made(12, 4, 320, 96, 16, 40);
    layout *l;
    CHECK_STATUS(layout_open(&l, c, &(layout_options){.ranks = 5, .group = 1}), ST_LAYOUT);
    CHECK_SENTENCE("5 ranks do not divide the model's 12 query heads; 1, 2, 3, 4, 6, 12 work");
    CHECK(l == NULL);
    CHECK_STATUS(layout_open(&l, c, &(layout_options){.ranks = 24, .group = 1}), ST_LAYOUT);
    CHECK_STATUS(layout_open(&l, c, &(layout_options){.ranks = 0, .group = 1}), ST_LAYOUT);
    CHECK_STATUS(layout_open(&l, c, &(layout_options){4, 0, 1, 3, 2}), ST_LAYOUT);
    CHECK_SENTENCE("expert layout 3x2 is for 6 ranks, this engine has 4");
    CHECK_STATUS(layout_open(&l, c, &(layout_options){4, 0, 1, 4, 0}), ST_LAYOUT);
    CHECK_STATUS(layout_open(&l, c, &(layout_options){4, 0, 1, 65536, 65536}), ST_LAYOUT);
    model_config_close(c);
}

TEST(equal_layouts_have_equal_names) {
    model_config *dense = made(8, 4, 320, 96, 0, 0), *moe = made(8, 4, 320, 96, 16, 40);
    layout *l;
    char text[64];
    CHECK_STATUS(layout_open(&l, dense, &(layout_options){2, 1, 1, 2, 1}), ST_OK);
    layout_describe(dense, l, text, sizeof text);
    CHECK_THAT(!strcmp(text, "tp 2"), "%s", text);
    layout_close(l);
    CHECK_STATUS(layout_open(&l, moe, &(layout_options){4, 3, 32, 2, 2}), ST_OK);
    layout_describe(moe, l, text, sizeof text);
    CHECK_THAT(!strcmp(text, "tp 4 ep 2x2 group 32"), "%s", text);
    layout_close(l);
    CHECK_STATUS(layout_open(&l, moe, &(layout_options){4, 3, 1, 0, 0}), ST_OK);
    layout_describe(moe, l, text, sizeof text);
    CHECK_THAT(!strcmp(text, "tp 4 ep 4x1"), "%s", text);
    layout_close(l);
    model_config_close(dense);
    model_config_close(moe);
}

static void check_choice(const model_config *c, uint32_t ranks, uint32_t of_host, uint32_t group, uint32_t e,
                         uint32_t w) {
    uint32_t expert_degree = 0, width_degree = 0;
    layout_choose_experts(c, ranks, of_host, group, &expert_degree, &width_degree);
    CHECK_THAT(expert_degree == e && width_degree == w, "%u ranks, %u a host, group %u: %ux%u, not %ux%u",
               ranks, of_host, group, expert_degree, width_degree, e, w);
}

TEST(experts_are_split_for_the_shortest_step) {
    model_config *c = made(16, 8, 262144, 2112, 128, 704), *dense = made(8, 4, 320, 96, 0, 0);
    c->experts_active = 8;
    check_choice(c, 1, 1, 32, 1, 1);
    check_choice(c, 2, 2, 32, 1, 2); /* 8 halves of experts against 5.1 whole ones */
    check_choice(c, 2, 1, 32, 2, 1); /* two hosts: whole experts */
    check_choice(c, 4, 2, 32, 2, 2);
    check_choice(c, 16, 16, 32, 2, 8);
    check_choice(c, 3, 3, 32, 1, 3); /* 128 experts do not divide by 3, and need not */
    check_choice(dense, 4, 4, 32, 4, 1);
    model_config_close(c);
    model_config_close(dense);
}

int main(void) {
    RUN(experts_are_split_for_the_shortest_step);
    RUN(shares_cover_everything_once);
    RUN(each_token_has_one_owner);
    RUN(every_rank_holds_the_kv_heads_its_queries_read);
    RUN(every_row_of_every_expert_has_one_owner);
    RUN(refusals_name_the_counts_that_work);
    RUN(equal_layouts_have_equal_names);
    return test_result();
}
