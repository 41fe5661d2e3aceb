/* Step plans there and back; a plan that is cut, or says something out of bounds, is refused with the part
 * named. */
#include "shard/model/plan.h"
#include "tests/test.h"

static const plan_bounds bounds = {.slots = 4,
                                   .rows_max = 64,
                                   .context = 1000,
                                   .vocab = 500,
                                   .pages_per_slot = 16,
                                   .pages = {100, 200},
                                   .spills = true,
                                   .allowed_places = 8};
static const plan_bounds no_folder = {.slots = 4,
                                      .rows_max = 64,
                                      .context = 1000,
                                      .vocab = 500,
                                      .pages_per_slot = 16,
                                      .pages = {100, 200},
                                      .allowed_places = 8};

static void fill(plan *p) {
    plan_clear(p);
    p->step = 7;
    plan_open *o = plan_add_open(p);
    o->slot = 2;
    o->params = (sampling){.temperature = 0.5f,
                           .top_p = 1,
                           .repetition_penalty = 1.1f,
                           .seed = 99,
                           .stop_token_count = 2,
                           .stop_token = {1, 106},
                           .bias_count = 1,
                           .bias = {{5, -2}},
                           .max_tokens = 9};
    o->prompt_count = 2;
    o->history_count = 3;
    o->first_history = plan_add_tokens(p, (uint32_t[]){10, 11, 12}, 3);
    plan_add_page(p, 2, KV_FULL, 0, 150);
    plan_add_page(p, 2, KV_SLIDING, 0, PLAN_NO_TOKEN);
    uint32_t first = plan_add_tokens(p, (uint32_t[]){20, 21, 22, 23}, 4);
    plan_add_spills(
        p, &(spill_op){.action = SPILL_WRITE, .page = 7, .what = {.kind = KV_FULL, .token = {1, 2}}}, 1);
    plan_span *s = plan_add_span(p);
    s->slot = 2;
    s->position = 5;
    s->count = 4;
    s->first_input = first;
    s->logits = PLAN_LOGITS_LAST;
    s->draw = 1;
    s->allowed = 4;
    plan_add_allowed_bits(p, 3, (uint32_t[16]){1, 2, 3}, 16);
    uint32_t *ids = plan_add_allowed_list(p, 7, 2);
    ids[0] = 40;
    ids[1] = 41;
}

TEST(there_and_back) {
    plan a = {0}, b = {0};
    strbuf bytes = {0};
    fill(&a);
    plan_encode(&a, &bytes);
    CHECK_STATUS(plan_decode(&b, bytes.data, bytes.size, &bounds), ST_OK);
    CHECK(b.step == 7 && b.open_count == 1 && b.span_count == 1 && b.page_count == 2 && b.token_count == 9);
    CHECK(b.allowed_count == 2 && !memcmp(a.allowed, b.allowed, 2 * sizeof *a.allowed));
    CHECK(b.word_count == 16 && b.words[2] == 3 && b.tokens[b.allowed[1].first + 1] == 41);
    CHECK(b.open[0].params.seed == 99 && b.open[0].params.bias[0].bias == -2 &&
          b.open[0].params.stop_token[1] == 106);
    CHECK(!memcmp(a.span, b.span, sizeof *a.span) && !memcmp(a.page, b.page, 2 * sizeof *a.page));
    CHECK(b.spill_count == 1 && !memcmp(a.spill, b.spill, sizeof *a.spill));
    CHECK(!memcmp(a.tokens, b.tokens, 9 * sizeof *a.tokens));
    /* Every cut is noticed. */
    for (size_t n = 0; n < bytes.size; n++) CHECK_STATUS(plan_decode(&b, bytes.data, n, &bounds), ST_FORMAT);
    strbuf_add(&bytes, "x", 1);
    CHECK_STATUS(plan_decode(&b, bytes.data, bytes.size, &bounds), ST_FORMAT);
    CHECK_SENTENCE("1 bytes behind");
    strbuf_close(&bytes);
    plan_close(&a);
    plan_close(&b);
}

static void refused_within(plan *p, const plan_bounds *within, status want, const char *sentence) {
    plan b = {0};
    strbuf bytes = {0};
    plan_encode(p, &bytes);
    CHECK_STATUS(plan_decode(&b, bytes.data, bytes.size, within), want);
    CHECK_SENTENCE(sentence);
    strbuf_close(&bytes);
    plan_close(&b);
    fill(p);
}

static void refused(plan *p, status want, const char *sentence) {
    refused_within(p, &bounds, want, sentence);
}

TEST(refusals_name_the_part) {
    plan p = {0};
    fill(&p);
    p.span[0].slot = 4;
    refused(&p, ST_FORMAT, "slot 4 of 4");
    p.span[0].count = 0;
    refused(&p, ST_FORMAT, "0 rows");
    p.span[0].position = 997;
    refused(&p, ST_FORMAT, "4 rows at position 997");
    p.span[0].first_input = 6;
    refused(&p, ST_FORMAT, "span tokens 6+4 of 9");
    p.span[0].allowed = 9;
    refused(&p, ST_FORMAT, "allowed tokens of place 9 of 8");
    p.span[0].draw = 0;
    refused(&p, ST_FORMAT, "allowed tokens of place 4 of 8, draw 0");
    p.allowed[0].place = 8;
    refused(&p, ST_FORMAT, "allowed by place 8 of 8");
    p.allowed[0].count = 15;
    refused(&p, ST_FORMAT, "15 words or tokens");
    p.allowed[1].first = 8;
    refused(&p, ST_FORMAT, "2 words or tokens allowed by place 7 of 8, 9 are there");
    p.span[0].input = PLAN_SOFT_ROWS;
    refused(&p, ST_UNSUPPORTED, "span input 1");
    p.span[0].mask = PLAN_BLOCK;
    refused(&p, ST_UNSUPPORTED, "span mask 1");
    p.span[0].rollback = 3;
    refused(&p, ST_UNSUPPORTED, "rollback of 3");
    p.span[0].adapter = 1;
    refused(&p, ST_UNSUPPORTED, "adapter 1");
    p.span[0].logits = 9;
    refused(&p, ST_UNSUPPORTED, "logits 9");
    p.span[0].logits = PLAN_LOGITS_NONE;
    refused(&p, ST_FORMAT, "a draw without logits");
    p.span[0].logits = PLAN_LOGITS_LISTED;
    p.span[0].listed_count = 1;
    refused(&p, ST_FORMAT, "listed rows 0+1 of 0");
    p.span[0].next_token = 500;
    refused(&p, ST_FORMAT, "next token 500");
    p.tokens[6] = 500;
    refused(&p, ST_FORMAT, "token 500 of 500");
    p.page[0].page = 200;
    refused(&p, ST_FORMAT, "page 200 of kind 1");
    p.page[0].index = 16;
    refused(&p, ST_FORMAT, "index 16 of slot 2");
    p.open[0].prompt_count = 4;
    refused(&p, ST_FORMAT, "opening slot 2");
    plan_add_spills(&p, &(spill_op){.action = SPILL_READ, .page = 3, .what.kind = KV_SLIDING}, 1);
    refused_within(&p, &no_folder, ST_FORMAT, "files, and this rank has no folder");
    plan_add_spills(&p, &(spill_op){.action = SPILL_REMOVE + 1, .page = 3}, 1);
    refused(&p, ST_FORMAT, "operation 3 on the file");
    plan_add_spills(&p, &(spill_op){.action = SPILL_WRITE, .page = 200, .what.kind = KV_FULL}, 1);
    refused(&p, ST_FORMAT, "of page 200 of kind 1");
    plan_add_spills(&p, &(spill_op){.action = SPILL_WRITE, .what.kind = KV_KINDS}, 1);
    refused(&p, ST_FORMAT, "of kind 2");
    plan_span again = p.span[0];
    for (int i = 0; i < 20; i++) *plan_add_span(&p) = again;
    refused(&p, ST_FORMAT, "84 rows, at most 64");
    plan_close(&p);
}

int main(void) {
    RUN(there_and_back);
    RUN(refusals_name_the_part);
    return test_result();
}
